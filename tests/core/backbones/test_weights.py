"""Weights: where they are looked for, what is never opened, and what does not fit."""

from __future__ import annotations

import dataclasses
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file

from pathotune.backbones import BackboneCard, backbone_card, load_backbone, locate
from pathotune.backbones import weights as weights_module
from pathotune.backbones.card import card_from_dict
from pathotune.backbones.loading import load
from pathotune.backbones.surface import Backbone
from pathotune.errors import (
    BackboneUnavailable,
    FileMissing,
    PathotuneError,
    TableUnreadable,
    UsageError,
    WeightsRefused,
)

FACTS: dict[str, Any] = {
    "name": "my-vit",
    "title": "My ViT",
    "kind": "tile",
    "loader": "timm",
    "architecture": "vit_tiny_patch16_224",
    "arguments": {"img_size": 64, "embed_dim": 48, "depth": 3, "num_heads": 3},
    "embed_dim": 48,
    "output_dim": 48,
    "depth": 3,
    "num_heads": 3,
    "prefix_tokens": 1,
    "patch_size": 16,
    "image_size": 64,
    "tile_px": 64,
    "mpp": 0.5,
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
    "pooling": "cls",
    "takes_prompts": True,
}
CARD = card_from_dict(FACTS, Path("my.yaml"))


@pytest.fixture
def model() -> Backbone:
    return load_backbone(CARD, random_seed=11)


def tensors_of(model: Backbone) -> dict[str, torch.Tensor]:
    return dict(model.network.state_dict())


def test_a_file_gives_the_numbers_it_was_saved_with(model: Backbone, tmp_path: Path) -> None:
    save_file(tensors_of(model), tmp_path / "model.safetensors")
    torch.save({"state_dict": tensors_of(model)}, tmp_path / "wrapped.pth")
    loaded = load_backbone(CARD, weights=tmp_path / "model.safetensors")
    wrapped = load_backbone(CARD, weights=tmp_path / "wrapped.pth")
    folder = load_backbone(CARD, weights=tmp_path)  # the usual name wins over the other file
    assert loaded.weights_sha256 == wrapped.weights_sha256 == folder.weights_sha256 == model.weights_sha256
    assert loaded.weights_source == "file"
    pixels = torch.rand(2, 3, 64, 64)
    assert torch.equal(loaded(pixels).pooled, model(pixels).pooled)


def test_features_read_otherwise_have_another_identity(model: Backbone, tmp_path: Path) -> None:
    save_file(tensors_of(model), tmp_path / "model.safetensors")
    facts = FACTS | {"pooling": "mean+std_patch", "output_dim": 96}
    spread = load_backbone(card_from_dict(facts, Path("my.yaml")), weights=tmp_path)
    assert spread.weights_sha256 != model.weights_sha256, "a tuning of the one must not fit the other"


def test_one_changed_number_changes_the_identity(model: Backbone, tmp_path: Path) -> None:
    tensors = {name: value.clone() for name, value in tensors_of(model).items()}
    tensors["norm.bias"][0] += 1e-3
    save_file(tensors, tmp_path / "model.safetensors")
    assert load_backbone(CARD, weights=tmp_path).weights_sha256 != model.weights_sha256


def test_a_file_in_several_parts_is_read_whole(model: Backbone, tmp_path: Path) -> None:
    names = sorted(tensors_of(model))
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in parts.items():
        save_file({name: tensors_of(model)[name].contiguous() for name in part}, tmp_path / file)
    index = {"weight_map": {name: file for file, part in parts.items() for name in part}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert load_backbone(CARD, weights=tmp_path).weights_sha256 == model.weights_sha256
    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(WeightsRefused, match=r"lists b\.safetensors"):
        load_backbone(CARD, weights=tmp_path)
    index["weight_map"][names[0]] = "../a.safetensors"
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(WeightsRefused, match="no safetensors file beside it"):
        load_backbone(CARD, weights=tmp_path)


def test_a_pickle_that_would_run_code_is_not_opened(tmp_path: Path) -> None:
    mark = tmp_path / "ran"

    class Trap:
        def __reduce__(self) -> Any:
            return (Path.mkdir, (mark,))

    for name, data in (("a.pth", {"state_dict": Trap()}), ("b.bin", Trap())):
        (tmp_path / name).write_bytes(pickle.dumps(data))
        with pytest.raises(WeightsRefused, match="can run any code"):
            load_backbone(CARD, weights=tmp_path / name)
    torch.save({"pos_embed": Trap()}, tmp_path / "c.pt")
    with pytest.raises(WeightsRefused, match="can run any code"):
        load_backbone(CARD, weights=tmp_path / "c.pt")
    assert not mark.exists()


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("model.safetensors", b"not weights at all", "cannot be read as safetensors"),
        ("model.onnx", b"onnx", "is no weights file"),
        ("model.pth", b"", "damaged"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, name: str, content: bytes, complaint: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsRefused, match=complaint):
        load_backbone(CARD, weights=tmp_path / name)


def test_a_tensor_that_is_missing_is_called_what_the_file_calls_it(model: Backbone, tmp_path: Path) -> None:
    tensors = tensors_of(model)
    del tensors["norm.bias"]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(WeightsRefused, match=r"1 missing \(norm\.bias\)"):
        load_backbone(CARD, weights=tmp_path)


def test_numbers_that_are_not_finite_are_refused(model: Backbone, tmp_path: Path) -> None:
    tensors = {name: value.clone() for name, value in tensors_of(model).items()}
    tensors["blocks.1.mlp.fc1.weight"][3, 3] = float("nan")
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(WeightsRefused, match=r"NaN or infinity .*blocks\.1\.mlp\.fc1"):
        load_backbone(CARD, weights=tmp_path)


def test_a_card_translates_names_and_drops_heads(model: Backbone, tmp_path: Path) -> None:
    card = dataclasses.replace(CARD, rename={"backbone.": ""}, ignore=("head.*",))
    tensors = {f"backbone.{name}": value for name, value in tensors_of(model).items()}
    save_file({**tensors, "head.weight": torch.zeros(5, 48)}, tmp_path / "model.safetensors")
    assert load_backbone(card, weights=tmp_path).weights_sha256 == model.weights_sha256
    with pytest.raises(WeightsRefused, match=r"unexpected \(.*backbone\.blocks"):
        load_backbone(CARD, weights=tmp_path)
    clash = dataclasses.replace(card, rename={"backbone.": "", "head.weight": "norm.weight"}, ignore=())
    with pytest.raises(WeightsRefused, match="two tensors"):
        load_backbone(clash, weights=tmp_path)


def own_card(folder: Path, **changes: Any) -> Path:
    facts = {**FACTS, "weights": "mine.safetensors", **changes}
    path = folder / "my.yaml"
    path.write_text(yaml.safe_dump(facts))
    return path


def test_a_card_of_ones_own_finds_the_file_beside_it(model: Backbone, tmp_path: Path) -> None:
    path = own_card(tmp_path)
    assert not locate.is_available(backbone_card(path))
    with pytest.raises(BackboneUnavailable, match=r"mine\.safetensors"):
        load_backbone(path)
    save_file(tensors_of(model), tmp_path / "mine.safetensors")
    assert locate.is_available(backbone_card(path))
    assert load_backbone(path).weights_sha256 == model.weights_sha256
    assert load_backbone(str(path)).card.title == "My ViT"


@pytest.mark.parametrize(("fact", "wrong"), [("embed_dim", 96), ("output_dim", 96), ("num_heads", 6), ("depth", 2)])
def test_a_card_of_ones_own_that_does_not_fit_its_network_is_refused(
    model: Backbone, tmp_path: Path, fact: str, wrong: int
) -> None:
    save_file(tensors_of(model), tmp_path / "mine.safetensors")
    with pytest.raises((TableUnreadable, WeightsRefused), match=fact if fact != "depth" else "blocks|depth"):
        load_backbone(own_card(tmp_path, **{fact: wrong}))


def test_a_card_never_leads_out_of_its_folder(model: Backbone, tmp_path: Path) -> None:
    inside = tmp_path / "cards"
    inside.mkdir()
    save_file(tensors_of(model), tmp_path / "secret.safetensors")
    for name in ("../secret.safetensors", str(tmp_path / "secret.safetensors")):
        with pytest.raises(WeightsRefused, match="outside its own folder"):
            load_backbone(own_card(inside, weights=name))
    try:
        (inside / "link.safetensors").symlink_to(tmp_path / "secret.safetensors")
    except OSError:
        return
    with pytest.raises(WeightsRefused, match="outside its own folder"):
        load_backbone(own_card(inside, weights="link.safetensors"))


def test_the_models_folder_makes_a_backbone_available(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATHOTUNE_MODELS", str(tmp_path))
    card = backbone_card("vit-tiny-in21k-ft-in1k")
    assert not card.facts()["available"]
    model = load_backbone(card, random_seed=1)
    (tmp_path / card.name).mkdir()
    head = {"head.weight": torch.zeros(1000, 192), "head.bias": torch.zeros(1000)}
    save_file({**tensors_of(model), **head}, tmp_path / card.name / "anything.safetensors")
    assert card.facts()["available"]
    assert load_backbone(card).weights_sha256 == model.weights_sha256
    save_file(head, tmp_path / card.name / "another.safetensors")
    with pytest.raises(WeightsRefused, match="several files"):
        load_backbone(card)
    assert not card.facts()["available"]


def test_a_backbone_that_is_not_here_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_never_show_this")
    with pytest.raises(BackboneUnavailable) as caught:
        load_backbone("uni")
    text = str(caught.value)
    for word in (
        "UNI",
        "CC-BY-NC-ND-4.0",
        "agreement",
        "https://huggingface.co/MahmoodLab/UNI",
        "HF_TOKEN",
        "--weights",
    ):
        assert word in text
    assert "switched off" in text
    assert "hf_never_show_this" not in text
    with pytest.raises(BackboneUnavailable) as caught:
        load_backbone("vit-small-in21k-ft-in1k")  # free for all: nobody has to be asked, no token is needed
    assert "It can be had at https://huggingface.co/timm/" in str(caught.value)
    assert "Ask for it" not in str(caught.value) and "HF_TOKEN" not in str(caught.value)
    with pytest.raises(BackboneUnavailable, match=r"github\.com/openmedlab/PathoDuet"):
        load_backbone("pathoduet-he")


def test_the_hub_is_tried_file_by_file_and_its_refusals_are_explained(
    model: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub
    from huggingface_hub import errors

    monkeypatch.delenv("PATHOTUNE_OFFLINE")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(locate, "_hub_answers", lambda: True)
    asked: list[str] = []
    save_file(tensors_of(model), tmp_path / "pytorch_model.safetensors")

    def answer(repository: str, name: str) -> str:
        asked.append(f"{repository}/{name}")
        if name == "first.safetensors":
            raise errors.EntryNotFoundError("no such file")
        return str(tmp_path / "pytorch_model.safetensors")

    card = dataclasses.replace(CARD, hub_id="someone/model", files=("first.safetensors", "second.safetensors"))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", answer)
    loaded = load_backbone(card)
    assert asked == ["someone/model/first.safetensors", "someone/model/second.safetensors"]
    assert (loaded.weights_source, loaded.weights_sha256) == ("hub", model.weights_sha256)

    def unreachable(repository: str, name: str) -> str:
        raise errors.LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unreachable)
    with pytest.raises(BackboneUnavailable, match="cannot be reached"):
        load_backbone(card)
    monkeypatch.setattr(locate, "_hub_answers", lambda: False)
    with pytest.raises(BackboneUnavailable, match="cannot be reached from here"):
        load_backbone(card)


def test_wrong_use_is_said() -> None:
    with pytest.raises(UsageError, match="random seed"):
        load_backbone(CARD, depth=1)
    with pytest.raises(UsageError, match="has 3 blocks; 9"):
        load_backbone(CARD, depth=9, random_seed=0)
    with pytest.raises(FileMissing, match="weights file"):
        load_backbone(CARD, weights="nowhere.safetensors")


def test_random_numbers_depend_on_the_seed_alone() -> None:
    first, again, other = (load_backbone(CARD, random_seed=seed).weights_sha256 for seed in (1, 1, 2))
    assert first == again != other
    # A shallower network has the same first blocks.
    short = load_backbone(CARD, random_seed=1, depth=2)
    long = load_backbone(CARD, random_seed=1)
    assert torch.equal(short.network.blocks[1].mlp.fc1.weight, long.network.blocks[1].mlp.fc1.weight)  # type: ignore[union-attr, index]


def test_the_built_in_backbone_needs_nothing() -> None:
    backbone = load_backbone("pathotune-tiny")
    assert backbone.card.facts()["available"] is True
    assert backbone.weights_sha256 == load_backbone("pathotune-tiny").weights_sha256
    assert backbone.grid == (14, 14)
    with torch.no_grad():
        assert backbone(torch.zeros(1, 3, 224, 224)).pooled.shape == (1, 384)


def test_a_built_in_file_that_was_changed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pathotune.backbones import loading

    card = dataclasses.replace(backbone_card("pathotune-tiny"), file_sha256="0" * 64)
    path = tmp_path / "pathotune-tiny.safetensors"
    monkeypatch.setattr(loading, "built_in_file", lambda: path)
    with pytest.raises(BackboneUnavailable, match="install pathotune again"):
        load(card, None, None, None)
    model = load_backbone(card, random_seed=3)
    save_file(tensors_of(model), path)
    with pytest.raises(WeightsRefused, match="SHA-256 differs"):
        load(card, None, None, None)
    good = dataclasses.replace(card, file_sha256=weights_module.file_sha256(path))
    loaded = load(good, None, None, None)
    assert (loaded.weights_source, loaded.weights_sha256) == ("built in", model.weights_sha256)


def test_every_refusal_is_an_error_for_people() -> None:
    for kind in (BackboneUnavailable, WeightsRefused):
        assert issubclass(kind, PathotuneError)
    assert isinstance(CARD, BackboneCard)
