"""What a prediction leaves: values where the tissue is, the same however often it was broken off."""

from __future__ import annotations

import itertools
import os
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pathotune.errors import NotFinite, StoreMismatch, TooLittleMemory
from pathotune.events import Finished, Note, ShardDone, Step
from pathotune.inference.predict import predict_slide
from pathotune.inference.predictions import PredictionStore


@pytest.fixture(autouse=True)
def every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pathotune.inference.predict._STEP_S", 0.0)


Run = Callable[..., tuple[dict[str, Any], list[Any]]]
PATCH_UM = 4.0
CPU = {"device": "cpu", "precision": "float32"}


def arrays(store: Path) -> list[np.ndarray]:
    opened = PredictionStore.open(store)
    return [array[:] for kind in opened.kinds for array in opened.pyramid(kind)]


def test_classes_follow_the_tissue_and_probabilities_sum_to_one(
    run: Run, model: Any, tuning: Any, slide_path: Path, tmp_path: Path
) -> None:
    result, events = run(slide_path, tuning, tmp_path / "out")
    store = PredictionStore.open(result["store"])
    probabilities, labels = store.probabilities[:], store.labels[:]
    assert result["status"] == "done" and result["tiles"] == (labels > 0).sum() > 300
    np.testing.assert_allclose(probabilities.sum(axis=0)[labels > 0], 1, atol=1e-5)
    assert not probabilities[:, labels == 0].any()
    np.testing.assert_array_equal(probabilities.argmax(axis=0)[labels > 0] + 1, labels[labels > 0])
    whole_mm2 = 1700 * 0.25 * 1300 * 0.25 / 1e6
    assert sum(result["classes"].values()) == pytest.approx(whole_mm2, rel=0.1)
    assert result["classes"]["dark"] / whole_mm2 == pytest.approx(700 / 1700, abs=0.03)
    assert result["peak_memory_mb"] > 0 and result["score"] is None and result["error"] is None
    assert store.is_complete and any(isinstance(event, ShardDone) for event in events)
    steps = [event for event in events if isinstance(event, Step)]
    assert steps[-1].done == steps[-1].total == result["tiles"] and steps[-1].rate


@pytest.mark.parametrize("mpp", [0.25, 0.31, 0.5])
@pytest.mark.parametrize("downsamples", [(4.0,), (1.37, 3.17)])
def test_boundary_lies_within_half_a_tile(
    run: Run, model: Any, tuning: Any, make_slide: Any, tmp_path: Path, mpp: float, downsamples: tuple[float, ...]
) -> None:
    boundary = 733.0
    path = make_slide(tmp_path / "s.tiff", mpp=mpp, boundary_px0=boundary, downsamples=downsamples)
    result, _ = run(path, tuning, tmp_path)
    store = PredictionStore.open(result["store"])
    (_, scale), (_, translate) = store.placement_um("classes")
    labels = store.labels[:]
    true_um = (boundary - 0.5) * mpp
    for row in labels:
        if (row == 1).any() and (row == 2).any():
            last_dark = np.flatnonzero(row == 1).max()
            edge_um = translate + (last_dark + 0.5) * scale
            assert abs(edge_um - true_um) < 16 / 2


@pytest.mark.parametrize("stride_px", [None, 16, 8])
def test_layers_begin_where_the_slide_begins(
    run: Run, model: Any, tuning: Any, make_slide: Any, tmp_path: Path, stride_px: int | None
) -> None:
    mpp = 0.31
    path = make_slide(tmp_path / "s.tiff", size=(1100, 900), mpp=mpp, boundary_px0=400)
    result, _ = run(path, tuning, tmp_path, stride_px=stride_px)
    store = PredictionStore.open(result["store"])
    shift_px0 = (16 / mpp - (stride_px or 32) * 0.5 / mpp) / 2
    for kind in store.kinds:
        for level in range(len(store.pyramid(kind))):
            for scale, translate in zip(*store.placement_um(kind, level), strict=True):
                # The first value's outer edge, in level-0 pixels from the outer edge of pixel 0.
                corner = (translate - scale / 2) / mpp + 0.5
                # Of an even number of patches none lies in a tile's middle: attention begins with a whole one.
                most = 1 + (PATCH_UM / mpp / 2 if kind == "attention" else 0)
                assert abs(corner - shift_px0) < most


@pytest.mark.parametrize("stride_px", [None, 16])
def test_attention_lies_on_the_patches(
    run: Run, model: Any, tuning: Any, make_slide: Any, tmp_path: Path, stride_px: int | None
) -> None:
    """Attention goes to the dark, so inside a mixed tile its edge is known to a patch."""
    mpp, boundary = 0.31, 432.0
    path = make_slide(tmp_path / "s.tiff", size=(1100, 900), mpp=mpp, boundary_px0=boundary)
    result, _ = run(path, tuning, tmp_path, stride_px=stride_px)
    store = PredictionStore.open(result["store"])
    (_, scale), (_, translate) = store.placement_um("attention")
    assert scale == pytest.approx(4.0)
    values = store.attention[0].astype(float)
    centres = (translate + np.arange(values.shape[1]) * scale) / mpp + 0.5
    column = np.searchsorted(centres, boundary)
    before, after = values[:, column - 2], values[:, column + 1]
    mixed = (before > 0) & (after > 0)
    if stride_px is None:
        assert (before[mixed] > 1.05 * after[mixed]).all() and mixed.sum() > 50
    assert np.isfinite(values).all()
    uniform = values[:, :8][values[:, :8] > 0]
    np.testing.assert_allclose(uniform, 1, atol=0.1)


def test_lower_levels_are_means_of_what_is_predicted(
    run: Run, model: Any, tuning: Any, slide_path: Path, tmp_path: Path
) -> None:
    result, _ = run(slide_path, tuning, tmp_path, box_px0=(0, 0, 1000, 700))
    store = PredictionStore.open(result["store"])
    for level in range(1, len(store.pyramid("probabilities"))):
        probabilities, labels = store.array("probabilities", level)[:], store.array("classes", level)[:]
        total = probabilities.sum(axis=0)
        np.testing.assert_allclose(total[total > 0], 1, atol=1e-5)
        np.testing.assert_array_equal(labels > 0, total > 0)
        assert 0 < (labels > 0).mean() < 1


def test_start_point_comes_first(run: Run, model: Any, tuning: Any, slide_path: Path, tmp_path: Path) -> None:
    stream = predict_slide(slide_path, tuning, tmp_path, start_point_px0=(1500, 1100), batch_size=8, **CPU)
    for event in stream:
        if isinstance(event, Step) and event.done >= 8:
            break
    stream.close()
    rows, columns = np.nonzero(PredictionStore.open(next(tmp_path.glob("*.zarr"))).labels[:])
    assert (columns * 64 + 32 > 850).all() and (rows * 64 + 32 > 500).all()


@pytest.mark.parametrize("deterministic", [False, True])
def test_closed_and_resumed_equals_uninterrupted(
    run: Run, model: Any, tuning: Any, slide_path: Path, tmp_path: Path, deterministic: bool
) -> None:
    whole, _ = run(slide_path, tuning, tmp_path / "whole", batch_size=16, deterministic=deterministic)
    stream = predict_slide(slide_path, tuning, tmp_path / "parts", batch_size=16, deterministic=deterministic, **CPU)
    for event in stream:
        if isinstance(event, Step) and event.done > 300:
            break
    stream.close()
    half = PredictionStore.open(tmp_path / "parts" / Path(whole["store"]).name)
    assert not half.is_complete and 0 < (half.labels[:] > 0).sum() < whole["tiles"]
    model.seen.clear()
    resumed, _ = run(slide_path, tuning, tmp_path / "parts", batch_size=16, deterministic=deterministic)
    assert resumed["status"] == "resumed" and resumed["tiles"] == whole["tiles"]
    assert sum(model.seen) < whole["tiles"]
    for expected, found in zip(arrays(whole["store"]), arrays(resumed["store"]), strict=True):
        if deterministic:
            np.testing.assert_array_equal(found, expected)
        else:
            np.testing.assert_allclose(found, expected, atol=2e-3)


def test_several_batches_at_a_time_change_nothing(
    run: Run, model: Any, tuning: Any, slide_path: Path, tmp_path: Path
) -> None:
    found = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            result, _ = run(slide_path, tuning, tmp_path / str(threads), batch_size=16)
            assert torch.get_num_threads() == threads
            found.append(arrays(result["store"]))
        left = result["tiles"] % (3 * 16)
        evened = -(-left // 3)
        assert 0 < evened < 16 and model.seen.count(evened) >= 2, "the last tiles are shared out among the lanes"
        assert len(model.seen) - model.seen.count(16) <= 4 + 2, "and no others"
    finally:
        torch.set_num_threads(before)
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-3)


def test_a_finished_store_is_not_computed_again(
    run: Run, model: Any, tuning: Any, slide_path: Path, tmp_path: Path
) -> None:
    first, _ = run(slide_path, tuning, tmp_path)
    model.seen.clear()
    again, _ = run(slide_path, tuning, tmp_path)
    assert again["status"] == "resumed" and not model.seen
    assert again["classes"] == first["classes"] and again["tiles"] == first["tiles"]
    restarted, _ = run(slide_path, tuning, tmp_path, resume=False)
    assert restarted["status"] == "done" and sum(model.seen) == first["tiles"]


def test_regions_add_up_in_one_store(run: Run, model: Any, tuning: Any, slide_path: Path, tmp_path: Path) -> None:
    left, _ = run(slide_path, tuning, tmp_path, box_px0=(0, 0, 800, 1300))
    run(slide_path, tuning, tmp_path, box_px0=(800, 0, 900, 1300))
    both = arrays(left["store"])
    whole, _ = run(slide_path, tuning, tmp_path / "whole")
    for expected, found in zip(arrays(whole["store"]), both, strict=True):
        np.testing.assert_allclose(found, expected, atol=2e-3)


def test_truncated_shard_is_done_again(run: Run, model: Any, tuning: Any, slide_path: Path, tmp_path: Path) -> None:
    result, _ = run(slide_path, tuning, tmp_path)
    before = arrays(result["store"])
    for kind in ("probabilities", "attention", "classes"):
        shard = max(
            (path for path in Path(result["store"], kind, "0", "c").rglob("*") if path.is_file()),
            key=lambda path: path.stat().st_size,
        )
        shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
        model.seen.clear()
        again, _ = run(slide_path, tuning, tmp_path)
        assert model.seen and again["tiles"] == result["tiles"]
        for expected, found in zip(before, arrays(result["store"]), strict=True):
            np.testing.assert_allclose(found, expected, atol=2e-3)


def test_cancel_ends_within_a_forward_pass(run: Run, model: Any, tuning: Any, slide_path: Path, tmp_path: Path) -> None:
    # Other threads may have begun a pass of theirs between this one's beginning and its look at the count.
    result, _ = run(slide_path, tuning, tmp_path, batch_size=4, cancel=lambda: len(model.seen) >= 5)
    assert result["status"] == "cancelled" and len(model.seen) <= 5 + torch.get_num_threads()
    store = PredictionStore.open(result["store"])
    assert result["tiles"] == (store.labels[:] > 0).sum() <= 16, "the pass that was broken off leaves nothing"
    assert not store.is_complete


def test_who_stops_stops_nobody_else_with_the_same_model(
    run: Run, model: Any, tuning: Any, slide_path: Path, tmp_path: Path
) -> None:
    other_inside, ended = threading.Event(), threading.Event()

    def hold(size: int) -> None:
        """Passes of the one (8 tiles) run while the other, which is not wanted any more, stands in its first (3)."""
        if size == 3 and not ended.is_set():
            other_inside.set()
            assert ended.wait(60)
        assert other_inside.wait(60)

    model.hook = hold
    whole = {"deterministic": True, "box_px0": (200, 200, 1024, 512)}
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(run, slide_path, tuning, tmp_path / "other", batch_size=3, cancel=other_inside.is_set)
        result, _ = run(slide_path, tuning, tmp_path / "one", batch_size=8, **whole)
        ended.set()
        stopped, _ = other.result(60)
    assert result["status"] == "done" and result["tiles"] > 8 and result["tiles"] % 8 != 3
    assert PredictionStore.open(result["store"]).is_complete
    assert stopped["status"] == "cancelled"


def test_time_paused_counts_neither_as_work_nor_in_the_rate(
    run: Run, model: Any, tuning: Any, slide_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("pathotune.waiting.time.monotonic", lambda: now[0])

    def wait_an_hour() -> bool:
        now[0] += 3600.0
        return False

    result, events = run(slide_path, tuning, tmp_path, cancel=wait_an_hour)
    assert result["status"] == "done" and now[0] > 3600 and result["seconds"] < 1
    assert PredictionStore.open(result["store"]).attrs["seconds"] < 1
    rates = [event.rate for event in events if isinstance(event, Step) and event.rate is not None]
    assert rates and min([*rates[-3:], result["tiles_per_second"]]) > 1, "tiles in an hour would be below one a second"


def test_batch_halves_when_memory_runs_out(run: Run, model: Any, tuning: Any, slide_path: Path, tmp_path: Path) -> None:
    whole, _ = run(slide_path, tuning, tmp_path / "whole", batch_size=16)

    def refuse(size: int) -> None:
        if size > 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    model.hook = refuse
    result, events = run(slide_path, tuning, tmp_path / "small", batch_size=16)
    notes = [event.text for event in events if isinstance(event, Note) and event.level == "warning"]
    assert len(notes) == 2 and "4" in notes[-1]
    for expected, found in zip(arrays(whole["store"]), arrays(result["store"]), strict=True):
        np.testing.assert_allclose(found, expected, atol=2e-3)


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")]
)
def test_one_tile_too_many_is_said(
    run: Run, model: Any, tuning: Any, slide_path: Path, tmp_path: Path, error: Exception
) -> None:
    def refuse(size: int) -> None:
        raise error

    model.hook = refuse
    with pytest.raises(TooLittleMemory, match="single tile"):
        run(slide_path, tuning, tmp_path, batch_size=4)


def test_other_errors_are_not_taken_for_memory(
    run: Run, model: Any, tuning: Any, slide_path: Path, tmp_path: Path
) -> None:
    def fail(size: int) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    model.hook = fail
    with pytest.raises(RuntimeError, match="mat1"):
        run(slide_path, tuning, tmp_path)


def test_not_a_number_is_refused(run: Run, model: Any, tuning: Any, slide_path: Path, tmp_path: Path) -> None:
    forward, passes = model.forward, itertools.count(1)

    def spoiled(pixels: torch.Tensor, attention: bool = False) -> Any:
        number = next(passes)  # in one step: several threads are in here
        answer = forward(pixels, attention)
        if number == 3:
            answer.logits[0, 0] = float("nan")
        return answer

    model.forward = spoiled
    with pytest.raises(NotFinite, match="no finite number"):
        run(slide_path, tuning, tmp_path, batch_size=8)
    store = PredictionStore.open(next(tmp_path.glob("*.zarr")))
    assert np.isfinite(store.probabilities[:]).all() and (store.labels[:] > 0).sum() <= 16 + 8 * torch.get_num_threads()


def test_resume_names_what_differs(run: Run, model: Any, tuning: Any, slide_path: Path, tmp_path: Path) -> None:
    run(slide_path, tuning, tmp_path, box_px0=(0, 0, 400, 400))
    with pytest.raises(StoreMismatch, match=r"tile grid.*stride_px0"):
        run(slide_path, tuning, tmp_path, stride_px=16)
    with pytest.raises(StoreMismatch, match=r"number format.*float32 there, bfloat16 now"):
        run(slide_path, tuning, tmp_path, precision="bfloat16")
    with pytest.raises(StoreMismatch, match="attention sources"):
        run(slide_path, tuning, tmp_path, attention=False)
    model.backbone.weights_sha256 = "1" * 64
    with pytest.raises(StoreMismatch, match="backbone"):
        run(slide_path, tuning, tmp_path)


def test_another_slide_of_the_same_name_is_not_mixed_in(
    run: Run, model: Any, tuning: Any, make_slide: Any, tmp_path: Path
) -> None:
    result, _ = run(make_slide(tmp_path / "a.tiff"), tuning, tmp_path / "out")
    before = arrays(result["store"])
    os.remove(tmp_path / "a.tiff")
    make_slide(tmp_path / "a.tiff", boundary_px0=300)
    with pytest.raises(StoreMismatch, match="slide"):
        run(tmp_path / "a.tiff", tuning, tmp_path / "out")
    for expected, found in zip(before, arrays(result["store"]), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_auto_precision_takes_over_that_of_the_store(model: Any, tuning: Any, slide_path: Path, tmp_path: Path) -> None:
    wanted = {"device": "cpu", "box_px0": (0, 0, 400, 400)}
    list(predict_slide(slide_path, tuning, tmp_path, precision="bfloat16", **wanted))
    result = list(predict_slide(slide_path, tuning, tmp_path, **wanted))[-1]
    assert isinstance(result, Finished) and result.result["status"] == "resumed"


def test_no_tissue_where_asked(run: Run, model: Any, tuning: Any, slide_path: Path, tmp_path: Path) -> None:
    for box in ((100000, 0, 50, 50), (0, -50, 50, 50)):
        result, events = run(slide_path, tuning, tmp_path, box_px0=box)
        assert result["status"] == "empty" and result["store"] is None and not list(tmp_path.glob("*.zarr"))
        (said,) = [event.text for event in events if isinstance(event, Note)]
        assert "lies off slide.tiff, which is 1700 × 1300 pixels" in said
    _, events = run(slide_path, tuning, tmp_path, box_px0=(-50, -50, 51, 51))
    assert not [event for event in events if isinstance(event, Note) and "lies off" in event.text]


def test_the_speed_of_formats_is_measured_on_the_first_of_many_slides(
    model: Any, tuning: Any, make_slide: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    speeds = iter((2.0, 0.5))  # by the second slide the machine is busy with something else
    monkeypatch.setattr("pathotune.device._speedup", lambda *arguments: next(speeds))
    model.backbone.card.tolerance = 1.0
    for name in ("a.tiff", "b.tiff"):
        path = make_slide(tmp_path / name)
        last = list(predict_slide(path, tuning, tmp_path, device="cpu", box_px0=(0, 0, 400, 400)))[-1]
        assert isinstance(last, Finished)
        assert PredictionStore.open(last.result["store"]).attrs["identity"]["precision"] == "bfloat16"


def test_without_attention(run: Run, model: Any, tuning: Any, slide_path: Path, tmp_path: Path) -> None:
    result, _ = run(slide_path, tuning, tmp_path, attention=False)
    store = PredictionStore.open(result["store"])
    assert store.attention is None and not Path(result["store"], "attention").exists()
    shutil.rmtree(result["store"])
