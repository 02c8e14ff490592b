"""A backbone travels as one file: whole, checked, licensed, and never outside its folder."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file
from tiny import tiny_card
from typer.testing import CliRunner

from pathotune.backbones import backbone_card, load_backbone
from pathotune.backbones.bundle import create_bundle, install_bundle, licence_warning
from pathotune.backbones.card import BackboneCard
from pathotune.cli import app
from pathotune.errors import FileMissing, OutputRefused, UsageError, WeightsRefused
from pathotune.settings import settings


@pytest.fixture
def own(tmp_path: Path, tiny_backbone: Any) -> tuple[Path, torch.nn.Module]:
    """A person's own card with its weights beside it."""
    folder = tmp_path / "own"
    folder.mkdir()
    backbone = tiny_backbone("plain", 3)
    save_file(
        {name: value.contiguous() for name, value in backbone.network.state_dict().items()}, folder / "w.safetensors"
    )
    card = tiny_card("plain")
    facts = {
        name: getattr(card, name)
        for name in ("name", "title", "kind", "loader", "architecture", "arguments", "embed_dim", "output_dim", "depth")
    }
    facts |= {
        name: getattr(card, name) for name in ("num_heads", "patch_size", "image_size", "tile_px", "mpp", "pooling")
    }
    facts |= {"prefix_tokens": 1, "mean": [0.5] * 3, "std": [0.5] * 3, "licence": "CC-BY-NC-ND-4.0"}
    facts |= {"weights": "w.safetensors", "takes_prompts": True}
    (folder / "card.yaml").write_text(yaml.safe_dump(facts))
    return folder / "card.yaml", backbone


def test_there_and_back(own: Any, tmp_path: Path) -> None:
    made = CliRunner().invoke(app, ["bundle", "create", str(own[0]), "--out", str(tmp_path), "--json"])
    assert made.exit_code == 0, made.output
    document = json.loads(made.stdout)
    assert "no commercial use" in document["warning"] and "no commercial use" in made.stderr
    with zipfile.ZipFile(document["out"]) as archive:
        assert "CC-BY-NC-ND-4.0" in archive.read("LICENCE.txt").decode()
    own[0].with_name("w.safetensors").unlink()
    answer = CliRunner().invoke(app, ["bundle", "install", document["out"], "--json"])
    assert answer.exit_code == 0, answer.output
    result = json.loads(answer.stdout)
    assert "no commercial use" in result["warning"]
    loaded = load_backbone(result["use"])
    images = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(loaded(images).pooled, own[1](images).pooled)
    assert install_bundle(Path(document["out"])) == result, "again is no fault"


def test_a_name_of_the_catalogue_is_found_by_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = tmp_path / "model.safetensors"
    save_file({"a": torch.ones(2)}, weights)
    name = "clip-vit-b-16"
    made = create_bundle(name, tmp_path / "x.zip", weights)
    assert install_bundle(Path(made["out"]))["use"] == name
    assert (settings().models_dir / name / "model.safetensors").read_bytes() == weights.read_bytes()


def test_built_in_and_missing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="comes with pathotune"):
        create_bundle("pathotune-tiny", tmp_path)
    with pytest.raises(FileMissing):
        install_bundle(tmp_path / "none.zip")
    with pytest.raises(OutputRefused):
        create_bundle("clip-vit-b-16", Path("/proc/x/y.zip"), _weights(tmp_path))


def _weights(folder: Path) -> Path:
    save_file({"a": torch.ones(2)}, folder / "model.safetensors")
    return folder / "model.safetensors"


def rewritten(bundle: Path, change: Any) -> Path:
    """The bundle with its files changed."""
    with zipfile.ZipFile(bundle) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    change(files)
    other = bundle.with_name("changed.zip")
    with zipfile.ZipFile(other, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return other


def escape(files: dict[str, bytes]) -> None:
    manifest = json.loads(files["manifest.json"])
    manifest["files"]["../../evil"] = manifest["files"].pop("model.safetensors")
    files["manifest.json"], files["../../evil"] = json.dumps(manifest).encode(), files.pop("model.safetensors")


def rename(files: dict[str, bytes]) -> None:
    manifest = json.loads(files["manifest.json"])
    files["manifest.json"] = json.dumps({**manifest, "name": ".."}).encode()


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (escape, "would leave its folder"),
        (rename, "would leave its folder"),
        (lambda files: files.update({"run.py": b"print()"}), "not on its list"),
        (lambda files: files.update({"model.safetensors": b"other"}), "not what it was"),
        (lambda files: files.pop("manifest.json"), "damaged"),
        (lambda files: files.update({"manifest.json": b"[]"}), "damaged"),
        (lambda files: files.pop("card.yaml"), "damaged"),
    ],
)
def test_what_is_no_bundle_is_refused(tmp_path: Path, change: Any, word: str) -> None:
    made = create_bundle("clip-vit-b-16", tmp_path / "x.zip", _weights(tmp_path))
    with pytest.raises(WeightsRefused, match=word):
        install_bundle(rewritten(Path(made["out"]), change))
    assert not settings().models_dir.exists() or not list(settings().models_dir.iterdir())


def test_cut_short_or_no_zip_at_all(tmp_path: Path) -> None:
    made = Path(create_bundle("clip-vit-b-16", tmp_path / "x.zip", _weights(tmp_path))["out"])
    made.write_bytes(made.read_bytes()[:-40])
    with pytest.raises(WeightsRefused, match="damaged"):
        install_bundle(made)


def test_free_licences_need_no_warning() -> None:
    free = backbone_card("clip-vit-b-16")
    assert isinstance(free, BackboneCard) and licence_warning(free) == ""
