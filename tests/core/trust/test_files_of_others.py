"""Files from others run no code and lead nowhere; weights, bundles and TITAN have tests of this beside their own."""

from __future__ import annotations

import ast
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from halves import drawn_halves
from safetensors.numpy import load_file, save_file

import pathotune
from pathotune.backbones.card import read_card
from pathotune.errors import FileMissing, TableUnreadable, TuningUnreadable
from pathotune.inference.export import _slide_beside
from pathotune.inference.predictions import PredictionStore
from pathotune.methods.checkpoint import METADATA_KEY, Tuning

ROOM = Path(pathotune.__file__).parent
# What runs or unpickles something, and the one place that may: it takes nothing but plain tensors.
DANGEROUS = {"load": {"torch", "pickle", "joblib", "dill"}, "loads": {"pickle", "dill", "marshal"}}
ALLOWED = {"backbones/weights.py": "torch.load"}


def calls() -> list[tuple[str, str, ast.Call]]:
    """(file, what is called, the call) of everything in the core that could run what a file holds."""
    found = []
    for path in sorted(ROOM.rglob("*.py")):
        name = path.relative_to(ROOM).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            if isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
                if node.func.value.id in DANGEROUS.get(node.func.attr, ()):
                    found.append((name, f"{node.func.value.id}.{node.func.attr}", node))
            elif isinstance(node.func, ast.Name) and node.func.id in ("eval", "exec", "compile"):
                found.append((name, node.func.id, node))
    return found


@pytest.mark.slow
def test_nothing_unpickles_or_runs_a_file() -> None:
    for name, what, call in calls():
        assert ALLOWED.get(name) == what, f"{name} calls {what}"
        options = {one.arg: ast.literal_eval(one.value) for one in call.keywords if isinstance(one.value, ast.Constant)}
        assert options.get("weights_only") is True, "tensors and nothing else"


def test_no_library_is_told_to_trust_code() -> None:
    for path in ROOM.rglob("*.py"):
        text = path.read_text(encoding="utf-8").replace(" ", "")
        assert "trust_remote_code=True" not in text and "allow_pickle=True" not in text, path
        assert "yaml.unsafe_load" not in text and "yaml.full_load" not in text, path


@pytest.fixture
def tuning(make_card: Callable[[Path], Path], pathotune: Callable[..., Any], tmp_path: Path) -> Path:
    drawn_halves(tmp_path / "s.tiff", tmp_path / "s.geojson")
    out = tmp_path / "t.pathotune.safetensors"
    words = ("--slide", tmp_path / "s.tiff", "--regions", tmp_path / "s.geojson", "--epochs", 1)
    pathotune("tune", *words, "--method", "linear_probe", "--backbone", make_card(tmp_path / "own"), "--out", out)
    return out


def rewritten(path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """The tuning with its metadata changed."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    about = json.loads(json.loads(content[8 : 8 + length])["__metadata__"][METADATA_KEY])
    change(about)
    other = path.with_name("other.pathotune.safetensors")
    save_file(load_file(path), other, {METADATA_KEY: json.dumps(about)})
    return other


@pytest.mark.parametrize("name", ["/etc/card.yaml", "../own/card.yaml", "card.yml", "..\\x", "x.pathotune.safetensors"])
def test_a_tuning_names_no_file_as_its_backbone(tuning: Path, name: str) -> None:
    assert Tuning.load(rewritten(tuning, lambda about: None)).method == "linear_probe"
    with pytest.raises(TuningUnreadable, match="names a file"):
        Tuning.load(rewritten(tuning, lambda about: about["backbone"].update(name=name)))


def test_a_card_with_an_object_in_it_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("name: x\nloader: !!python/object/apply:os.system ['touch ran']\n")
    with pytest.raises(TableUnreadable):
        read_card(tmp_path / "c.yaml")
    assert not Path("ran").exists()


def test_a_store_leads_to_no_slide_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "secret.tiff").write_bytes(b"x")
    (tmp_path / "stores").mkdir()

    class Stated:
        path = tmp_path / "stores" / "s.zarr"
        attrs = {"slide": {"name": "../secret.tiff"}}  # noqa: RUF012

    assert _slide_beside(Stated()) is None  # type: ignore[arg-type]


def test_replay_after_everything_was_moved(
    tuning: Path, pathotune: Callable[..., Any], tmp_path: Path, make_card: Callable[[Path], Path]
) -> None:
    """Slide, tuning and store each into a folder of its own: by their names alone the run is made again."""
    card = tmp_path / "own" / "card.yaml"
    pathotune("predict", tmp_path / "s.tiff", "--tuning", tuning, "--backbone", card, "--out", tmp_path / "r")
    store = next((tmp_path / "r").glob("*.zarr"))
    moved = [tmp_path / name for name in ("elsewhere", "archive", "results ä")]
    for folder in moved:
        folder.mkdir()
    slide, kept, result = (
        Path(shutil.move(path, folder / path.name))
        for path, folder in zip((tmp_path / "s.tiff", tuning, store), moved, strict=True)
    )
    words = ("replay", result, "--out", tmp_path / "again", "--backbone", card, "--json")
    lost = pathotune(*words, code=1)
    assert isinstance(lost.exception, FileMissing)
    document = json.loads(pathotune(*words, "--slide", slide, "--tuning", kept).stdout)
    assert document["agrees"] and document["same"] == {"slide": True, "tuning": True, "backbone": True}
    first, second = (PredictionStore.open(path) for path in (result, document["replayed"]))
    assert np.array_equal(np.asarray(first.labels[:]), np.asarray(second.labels[:]))
