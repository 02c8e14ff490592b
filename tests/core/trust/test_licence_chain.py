"""A backbone's licence is said before tuning, stands on what is made, and is said again when that is passed on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from halves import drawn_halves
from tiny import tiny_card

from pathotune.backbones import all_cards
from pathotune.backbones.licences import limits, passing_on_warning, tuning_warning
from pathotune.inference.locations import read_attributes
from pathotune.methods.checkpoint import Tuning

WORDS = ("no commercial use", "no changed versions")


def test_the_whole_chain(make_card: Callable[[Path], Path], pathotune: Callable[..., Any], tmp_path: Path) -> None:
    card, slide, regions = make_card(tmp_path / "own"), tmp_path / "s.tiff", tmp_path / "s.geojson"
    drawn_halves(slide, regions)
    tuning = tmp_path / "t.pathotune.safetensors"
    words = ("--slide", slide, "--regions", regions, "--method", "linear_probe", "--backbone", card, "--epochs", 1)
    before, _, _ = pathotune("tune", *words, "--out", tuning).stderr.partition("epoch 1/")
    assert all(word in before for word in WORDS), "said before anything is trained"
    loaded = Tuning.load(tuning)
    assert loaded.backbone["non_commercial"] and loaded.backbone["no_derivatives"]
    on_card = next(tmp_path.glob("t*.md")).read_text(encoding="utf-8")
    assert "CC-BY-NC-ND-4.0" in on_card and "forbids commercial use" in on_card and "restricts passing on" in on_card

    pathotune("predict", slide, "--tuning", tuning, "--backbone", card, "--out", tmp_path / "r")
    store = next((tmp_path / "r").glob("*.zarr"))
    assert read_attributes(store)["backbone"]["licence"] == "CC-BY-NC-ND-4.0"
    for name in ("geojson", "csv", "png"):
        said = pathotune("export", store, "--format", name, "--out", tmp_path / f"x.{name}")
        assert all(word in said.stderr for word in WORDS)
    assert all(word in pathotune("bundle", "create", card, "--out", tmp_path).stderr for word in WORDS)


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
