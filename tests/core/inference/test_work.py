"""A store of other work: refused, kept beside, or replaced without anything being lost on the way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pathotune.errors import NotFinite, StoreMismatch, UsageError
from pathotune.events import Note
from pathotune.inference.predictions import PredictionStore

Run = Callable[..., tuple[dict[str, Any], list[Any]]]


def contents(store: Path) -> dict[str, bytes]:
    return {str(path.relative_to(store)): path.read_bytes() for path in store.rglob("*") if path.is_file()}


def names(folder: Path) -> list[str]:
    return sorted(path.name.removesuffix(".pathotune.zarr") for path in folder.glob("*.zarr"))


@pytest.fixture
def small(make_slide: Any, tmp_path: Path) -> Path:
    path: Path = make_slide(tmp_path / "a.tiff", size=(700, 500), boundary_px0=300)
    return path


@pytest.fixture
def first(run: Run, model: Any, tuning: Any, small: Path, tmp_path: Path) -> dict[str, Any]:
    """The result of a finished run with tiles side by side."""
    return run(small, tuning, tmp_path / "out", attention=False)[0]


def test_another_stride_beside(run: Run, tuning: Any, small: Path, tmp_path: Path, first: dict[str, Any]) -> None:
    before = contents(Path(first["store"]))
    wanted = {"stride_px": 16, "attention": False, "on_mismatch": "beside"}
    second, _ = run(small, tuning, tmp_path / "out", **wanted)
    assert second["status"] == "done" and second["tiles"] > 3 * first["tiles"]
    assert names(tmp_path / "out") == ["a.tiff.brightness", "a.tiff.brightness~2"]
    assert run(small, tuning, tmp_path / "out", **wanted)[0]["status"] == "resumed"
    third, _ = run(small, tuning, tmp_path / "out", **{**wanted, "stride_px": 24})
    assert Path(third["store"]).name == "a.tiff.brightness~3.pathotune.zarr"
    again, _ = run(small, tuning, tmp_path / "out", attention=False, on_mismatch="beside")
    assert again["status"] == "resumed" and again["store"] == first["store"]
    after = contents(Path(first["store"]))
    assert {name for name in after if after[name] != before.get(name)} == {"zarr.json"}, "its own run again, no other"


def test_another_stride_in_its_place(run: Run, tuning: Any, small: Path, tmp_path: Path, first: dict[str, Any]) -> None:
    out, before = tmp_path / "out", contents(Path(first["store"]))
    wanted = {"stride_px": 16, "attention": False, "batch_size": 4}
    asked: list[int] = []

    def soon() -> bool:
        asked.append(1)
        return len(asked) > 9

    broken, events = run(small, tuning, out, on_mismatch="restart", cancel=soon, **wanted)
    assert broken["status"] == "cancelled" and broken["store"] == first["store"]
    assert any(isinstance(event, Note) and "a.tiff.brightness~2" in event.text for event in events)
    assert contents(out / "a.tiff.brightness~2.pathotune.zarr") == before, "whole until the new one is"
    ended, _ = run(small, tuning, out, **wanted)
    assert ended["status"] == "resumed" and names(out) == ["a.tiff.brightness"]
    assert PredictionStore.open(ended["store"]).is_complete


def test_a_part_does_not_cost_the_whole(
    run: Run, tuning: Any, small: Path, tmp_path: Path, first: dict[str, Any]
) -> None:
    """Started again for what is in view, the whole slide's predictions stay until the new ones cover as much."""
    wanted = {"stride_px": 16, "attention": False}
    part, events = run(small, tuning, tmp_path / "out", on_mismatch="restart", box_px0=(0, 0, 200, 200), **wanted)
    assert part["status"] == "done" and names(tmp_path / "out") == ["a.tiff.brightness", "a.tiff.brightness~2"]
    assert any(isinstance(event, Note) and "covers more" in event.text for event in events)
    run(small, tuning, tmp_path / "out", **wanted)
    assert names(tmp_path / "out") == ["a.tiff.brightness"]


def test_another_slides_store_is_never_deleted(
    run: Run, tuning: Any, small: Path, make_slide: Any, tmp_path: Path, first: dict[str, Any]
) -> None:
    before = contents(Path(first["store"]))
    small.unlink()
    make_slide(small, size=(700, 500), boundary_px0=100)
    _, events = run(small, tuning, tmp_path / "out", attention=False, resume=False)
    assert contents(tmp_path / "out" / "a.tiff.brightness~2.pathotune.zarr") == before
    assert any(isinstance(event, Note) and "another slide" in event.text for event in events)


def test_a_run_that_never_begins_leaves_all_as_it_was(
    run: Run, tuning: Any, small: Path, tmp_path: Path, first: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(Path(first["store"]))

    def full(path: Path, *_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathotune.inference.predictions.write_skeleton", full)
    with pytest.raises(OSError, match="No space left"):
        run(small, tuning, tmp_path / "out", stride_px=16, attention=False, on_mismatch="restart")
    assert contents(Path(first["store"])) == before and names(tmp_path / "out") == ["a.tiff.brightness"]


def test_a_run_that_fails_keeps_the_old(
    run: Run, model: Any, tuning: Any, small: Path, tmp_path: Path, first: dict[str, Any]
) -> None:
    forward = model.forward

    def spoiled(pixels: Any, attention: bool = False) -> Any:
        answer = forward(pixels, attention)
        answer.logits[:] = float("nan")
        return answer

    model.forward = spoiled
    with pytest.raises(NotFinite):
        run(small, tuning, tmp_path / "out", stride_px=16, attention=False, on_mismatch="restart")
    assert PredictionStore.open(tmp_path / "out" / "a.tiff.brightness~2.pathotune.zarr").is_complete


def test_it_is_refused_unless_asked_for(run: Run, tuning: Any, small: Path, tmp_path: Path, first: Any) -> None:
    before = contents(Path(first["store"]))
    with pytest.raises(StoreMismatch, match=r"stride_px0.*--on-mismatch beside"):
        run(small, tuning, tmp_path / "out", stride_px=16, attention=False)
    assert contents(Path(first["store"])) == before
    with pytest.raises(UsageError, match="refuse, restart, beside"):
        run(small, tuning, tmp_path / "out", attention=False, on_mismatch="delete")


def test_auto_precision_goes_on_with_the_store_beside(
    run: Run, tuning: Any, small: Path, tmp_path: Path, first: dict[str, Any]
) -> None:
    wanted = {"attention": False, "on_mismatch": "beside"}
    other, _ = run(small, tuning, tmp_path / "out", precision="bfloat16", **wanted)
    assert other["store"] != first["store"]
    assert run(small, tuning, tmp_path / "out", precision="auto", **wanted)[0]["store"] == first["store"]
    np.testing.assert_array_equal(
        PredictionStore.open(other["store"]).labels[:], PredictionStore.open(first["store"]).labels[:]
    )
