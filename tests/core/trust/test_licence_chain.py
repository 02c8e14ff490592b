"""A backbone's licence is said before tuning, stands on what is made, and is said again when that is passed on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from halves import drawn_halves
from safetensors.torch import save_file
from tiny import tiny_card
from typer.testing import CliRunner

from pathotune.backbones import all_cards
from pathotune.backbones.licences import limits, passing_on_warning, tuning_warning
from pathotune.cli import app
from pathotune.inference.locations import read_attributes
from pathotune.methods.checkpoint import Tuning

WORDS = ("no commercial use", "no changed versions")


@pytest.fixture
def card_file(tmp_path: Path, tiny_backbone: Any) -> Path:
    """A person's own card under CC-BY-NC-ND with its weights beside it."""
    network = tiny_backbone("plain", 3).network
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, tmp_path / "w.safetensors")
    card = tiny_card("plain")
    names = ("title", "kind", "loader", "architecture", "arguments", "embed_dim", "output_dim", "depth", "num_heads")
    names += ("patch_size", "image_size", "tile_px", "mpp", "pooling", "prefix_tokens", "takes_prompts")
    facts = {name: getattr(card, name) for name in names} | {"mean": [0.5] * 3, "std": [0.5] * 3}
    facts |= {"name": "bound", "licence": "CC-BY-NC-ND-4.0", "non_commercial": True, "no_derivatives": True}
    path = tmp_path / "card.yaml"
    path.write_text(yaml.safe_dump(facts | {"weights": "w.safetensors"}))
    return path


def test_the_whole_chain(card_file: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    slide, regions = tmp_path / "s.tiff", tmp_path / "s.geojson"
    drawn_halves(slide, regions)
    tuning = tmp_path / "t.pathotune.safetensors"
    words = ["--slide", slide, "--regions", regions, "--method", "linear_probe", "--backbone", card_file, "--epochs", 1]
    tuned = CliRunner().invoke(app, [str(word) for word in ("tune", *words, "--out", tuning)])
    assert tuned.exit_code == 0, tuned.output
    before, _, _ = tuned.stderr.partition("epoch 1/")
    assert all(word in before for word in WORDS), "said before anything is trained"
    loaded = Tuning.load(tuning)
    assert loaded.backbone["non_commercial"] and loaded.backbone["no_derivatives"]
    on_card = next(tmp_path.glob("t*.md")).read_text(encoding="utf-8")
    assert "CC-BY-NC-ND-4.0" in on_card and "forbids commercial use" in on_card and "restricts passing on" in on_card

    words = ["predict", slide, "--tuning", tuning, "--backbone", card_file, "--out", tmp_path / "r"]
    predicted = CliRunner().invoke(app, [str(word) for word in words])
    assert predicted.exit_code == 0, predicted.output
    store = next((tmp_path / "r").glob("*.zarr"))
    assert read_attributes(store)["backbone"]["licence"] == "CC-BY-NC-ND-4.0"
    for name in ("geojson", "csv", "png"):
        out = tmp_path / f"x.{name}"
        said = CliRunner().invoke(app, ["export", str(store), "--format", name, "--out", str(out)])
        assert said.exit_code == 0 and all(word in said.stderr for word in WORDS)
    bundled = CliRunner().invoke(app, ["bundle", "create", str(card_file), "--out", str(tmp_path)])
    assert bundled.exit_code == 0 and all(word in bundled.stderr for word in WORDS)


def test_free_ones_say_nothing() -> None:
    free = tiny_card("plain")
    assert tuning_warning(free) == "" and passing_on_warning({"name": "x", "licence": free.licence}) == ""
    assert passing_on_warning({"name": "a card that is not here"}) == ""


def test_each_limit_is_said_for_itself() -> None:
    card = tiny_card("plain")
    assert limits({"non_commercial": True}) == [WORDS[0]]
    assert "changed versions" in tuning_warning(replace(card, no_derivatives=True, licence="own"))
    assert "commercial" in tuning_warning(replace(card, licence="CC-BY-NC-4.0")), "from the name of the licence, too"


def test_a_store_from_before_is_looked_up_by_its_backbone() -> None:
    assert "no commercial use" in passing_on_warning({"name": "uni"})


def test_every_card_says_in_both_ways_the_same() -> None:
    """A card whose licence is called NC or ND states it as a fact, too."""
    for card in all_cards():
        for mark, fact in (("-NC", card.non_commercial), ("-ND", card.no_derivatives)):
            assert fact or mark not in (card.licence or "").upper(), card.name
