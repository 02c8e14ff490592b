"""Cards: what they say, what is refused, and that listing them costs nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pathotune.backbones import all_cards, backbone_card, backbone_names
from pathotune.backbones.card import MPP_WHERE_NONE_IS_STATED, card_folder
from pathotune.errors import FileMissing, TableUnreadable, UnknownName

CONTRACT = {
    "name", "title", "kind", "embed_dim", "patch_size", "image_size", "mpp", "params_m", "licence", "gated",
    "available", "takes_prompts", "verified",
}  # fmt: skip
OWN: dict[str, Any] = {
    "name": "my-vit",
    "title": "My ViT",
    "kind": "tile",
    "loader": "timm",
    "architecture": "vit_tiny_patch16_224",
    "embed_dim": 192,
    "output_dim": 192,
    "depth": 12,
    "num_heads": 3,
    "prefix_tokens": 1,
    "patch_size": 16,
    "image_size": 224,
    "tile_px": 256,
    "mpp": 0.25,
    "mean": [0.5, 0.5, 0.5],
    "std": [0.2, 0.2, 0.2],
    "pooling": "cls",
    "takes_prompts": True,
}


def write(path: Path, **changes: Any) -> Path:
    facts = {key: value for key, value in {**OWN, **changes}.items() if value is not ...}
    path.write_text(yaml.safe_dump(facts), encoding="utf-8")
    return path


def test_every_shipped_card_is_sound() -> None:
    cards = all_cards()
    assert len(cards) >= 80
    assert cards[0].name == "pathotune-tiny"
    assert [card.name for card in cards] == list(backbone_names())
    for card in cards:
        facts = card.facts()
        assert set(facts) >= CONTRACT
        assert facts["kind"] in {"tile", "slide"}
        assert (card.loadable and not card.reason) or (not card.loadable and card.reason)
        assert card.domain in {"pathology", "general", "retina", "built-in"}
        if card.loadable and card.name not in {"pathotune-tiny", "small-slide"}:
            assert card.hub_id or card.where, f"{card.name}: nobody could get it"


def test_conflicts_between_sources_are_settled_on_the_card() -> None:
    for name, word in (
        ("virchow", "licence"),
        ("midnight-12k", "3072"),
        ("conch", "OpenAI"),
        ("gpfm", "40x"),
        ("kaiko-vitl14", "hub ids"),
        ("prov-gigapath", "timm"),
        ("pathoduet-he", "without normalisation"),
    ):
        assert word in backbone_card(name).notes
    assert "0.5" in backbone_card("musk").reason
    assert backbone_card("pathoduet-he").mean == (0, 0, 0)
    assert backbone_card("pathoduet-he").std == (1, 1, 1)
    assert backbone_card("vit-base-in21k-ft-in1k").mean == (0.5, 0.5, 0.5)
    assert [backbone_card(name).prefix_tokens for name in ("uni", "pathoduet-he", "virchow2", "uni2-h")] == [1, 2, 5, 9]


def test_reading_follows_the_card(tmp_path: Path) -> None:
    uni = backbone_card("uni").reading()
    assert (uni.mpp, uni.tile_px, uni.image_px) == (0.5, 256, 224)
    own = backbone_card(write(tmp_path / "my.yaml")).reading()
    assert (own.mpp, own.tile_px, own.image_px) == (0.25, 256, 224)
    assert backbone_card("dinov2-small").reading().mpp == MPP_WHERE_NONE_IS_STATED


def test_unknown_names_list_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="Did you mean 'uni2-h'"):
        backbone_card("uni2h")
    with pytest.raises(FileMissing, match="backbone card"):
        backbone_card(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"patchsize": 16}, "'patchsize', which a card does not know"),
        ({"title": ...}, "needs the key 'title'"),
        ({"loader": "tensorflow"}, "choose one of timm"),
        ({"pooling": "max"}, "'pooling' is 'max'"),
        ({"mean": [0.5, 0.5]}, "'mean' must be three numbers"),
        ({"std": [0.5, 0.0, 0.5]}, "each number must be above 0"),
        ({"mpp": 250}, "micrometres per pixel"),
        ({"depth": "twelve"}, "whole number"),
        ({"depth": ...}, "'depth' is None; a card that can be loaded must state it"),
        ({"image_size": 230}, "multiple of the patch size 16, for example 224"),
        ({"name": "My ViT"}, "small letters"),
        ({"loadable": False}, "must say why"),
        ({"kind": "slide"}, "only a tile model"),
    ],
)
def test_a_faulty_card_names_its_key(tmp_path: Path, changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(TableUnreadable, match=r"my\.yaml") as caught:
        backbone_card(write(tmp_path / "my.yaml", **changes))
    assert complaint in str(caught.value)


@pytest.mark.parametrize("text", ["- a\n- list\n", "name: [unclosed\n", "just words"])
def test_what_is_no_card_is_said(tmp_path: Path, text: str) -> None:
    path = tmp_path / "my.yml"
    path.write_text(text)
    with pytest.raises(TableUnreadable, match=r"my\.yml is not"):
        backbone_card(path)


def test_yaml_runs_nothing(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    path = tmp_path / "my.yaml"
    path.write_text(f'name: !!python/object/apply:os.mkdir ["{mark.as_posix()}"]\n')
    with pytest.raises(TableUnreadable):
        backbone_card(path)
    assert not mark.exists()


def test_listing_imports_no_heavy_library() -> None:
    program = (
        "import sys\n"
        "from pathotune.backbones import all_cards\n"
        "[card.facts() for card in all_cards()]\n"
        "from pathotune.backbones import text; text.default_text_encoder(); list(text.TEXT)\n"
        "heavy = {'torch', 'torchvision', 'timm', 'transformers', 'open_clip', 'zarr', 'tiffslide'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_card_files_are_named_after_their_cards() -> None:
    for path in card_folder().glob("*.yaml"):
        assert backbone_card(path).name == path.stem
