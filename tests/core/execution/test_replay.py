"""A store says enough of itself to be made again, also after everything was moved."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import brightness as scene
import pytest
from typer.testing import CliRunner

from pathotune.cli import app
from pathotune.errors import FileMissing, UsageError
from pathotune.inference.predict import predict_slide
from pathotune.inference.predictions import PredictionStore

model, tuning, make_slide = scene.model, scene.tuning, scene.make_slide
OPTIONS: dict[str, Any] = {"device": "cpu", "precision": "float32", "batch_size": 8, "deterministic": True}


@pytest.fixture
def made(tuning: Any, model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path, Path]:
    """A slide, the tuning's file, and a store of two runs over it: a box, then the whole at the same stride."""
    monkeypatch.setattr("pathotune.methods.checkpoint.Tuning.load", lambda path: tuning)
    tuning.path.write_bytes(b"the tuning")
    folder = tmp_path / "there"
    folder.mkdir()
    slide = scene.two_halves(folder / "a.tiff", size=(600, 500), boundary_px0=250)
    result: dict[str, Any] = {}
    for box in ((0.0, 0.0, 300.0, 300.0), None):
        *_, last = predict_slide(slide, tuning, folder, reliability=True, box_px0=box, **OPTIONS)
        result = last.result  # type: ignore[attr-defined]
    return slide, tuning.path, Path(result["store"])


@pytest.fixture
def command() -> Callable[..., Any]:
    def invoke(*words: Any) -> Any:
        return CliRunner().invoke(app, ["replay", *map(str, words), "--device", "cpu", "--json"])

    return invoke


def test_made_again_to_the_byte(made: Any, command: Any, tmp_path: Path) -> None:
    answer = command(made[2], "--out", tmp_path / "again")
    document = json.loads(answer.stdout)
    assert answer.exit_code == 0 and document["agrees"] and document["byte_equal"]
    assert document["same"] == {"slide": True, "tuning": True, "backbone": True}
    assert "same to the byte" in document["sentence"]
    assert PredictionStore.open(document["replayed"]).reliability_names == ["uncertainty"]


def test_everything_was_moved(made: Any, command: Any, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    shutil.move(made[0].parent, elsewhere)  # slide and store together: found beside the store
    store = elsewhere / made[2].name
    assert command(store, "--out", tmp_path / "again").exit_code == 0
    shutil.move(elsewhere / "a.tiff", tmp_path / "b.tiff")
    lost = command(store, "--out", tmp_path / "third")
    assert isinstance(lost.exception, FileMissing) and "--slide" in str(lost.exception)
    assert command(store, "--out", tmp_path / "third", "--slide", tmp_path / "b.tiff").exit_code == 0


def test_another_slide_and_another_model_are_told(made: Any, command: Any, model: Any, tmp_path: Path) -> None:
    scene.two_halves(made[0], size=(600, 500), boundary_px0=400)
    answer = command(made[2], "--out", tmp_path / "again")
    document = json.loads(answer.stdout)
    assert answer.exit_code == 1 and not document["agrees"] and document["same"]["slide"] is False
    assert "slide" in document["sentence"] and document["classes_changed"] > 0.1


def test_never_into_its_own_place(made: Any, command: Any) -> None:
    answer = command(made[2], "--out", made[2].parent)
    assert isinstance(answer.exception, UsageError)
