"""How busy the model was: what counts as waiting for tiles, and who is told of it."""

from __future__ import annotations

import gc
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pathotune.cli.slides_view import say_result
from pathotune.inference import batches
from pathotune.inference.busy import End, Waiting, busy_share, waiting_sentence
from pathotune.tiles.reader import TileReader


@dataclass
class Batch:
    ended: float | None = None


class Clock:
    """A clock that is set by hand, and tiles that take their time on it."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def tiles(self, *seconds: float) -> Iterator[float]:
        for each in seconds:
            self.now += each
            yield each
        self.now += 1000.0


@pytest.mark.parametrize(
    ("lanes", "ends", "waited"),
    [
        (1, [], 8.0),
        (1, [None], 0.0),
        (1, [90.0], 8.0),
        (1, [106.0], 2.0),
        (2, [106.0, None], 1.0),
        (4, [None, None, None], 2.0),
        (4, [None] * 4, 0.0),
    ],
)
def test_waiting_is_the_time_in_which_a_lane_has_no_batch(lanes: int, ends: list[float | None], waited: float) -> None:
    clock = Clock()
    waiting = Waiting(lanes, clock)
    assert list(waiting.over(clock.tiles(8.0), [Batch(end) for end in ends])) == [8.0]
    assert waiting.seconds == pytest.approx(waited), "the end of the tiles is nothing to wait for"


def test_what_the_loop_does_with_the_tiles_is_no_waiting() -> None:
    clock, running = Clock(), [Batch(0.0)]
    waiting = Waiting(1, clock)
    for _ in waiting.over(clock.tiles(3.0, 0.0, 1.0), running):
        clock.now += 50.0
    assert waiting.seconds == pytest.approx(4.0)


def test_slow_tiles_leave_the_model_idle_and_a_slow_model_does_not_wait(
    run: Callable[..., Any], model: Any, tuning: Any, slide_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"attention": False, "batch_size": 16, "box_px0": (0, 0, 1000, 1000)}
    model.hook = lambda count: time.sleep(0.1)
    quick, _ = run(slide_path, tuning, tmp_path / "quick", **options)
    model.hook, read = None, TileReader._read_group

    def slow(*arguments: Any) -> None:
        time.sleep(0.1)
        read(*arguments)

    monkeypatch.setattr(TileReader, "_read_group", slow)
    late, _ = run(slide_path, tuning, tmp_path / "late", **options)
    assert quick["tiles"] == late["tiles"] > 100
    assert 0 <= late["model_busy"] < 0.5 < quick["model_busy"] <= 1
    again, _ = run(slide_path, tuning, tmp_path / "late", **options)
    assert again["status"] == "resumed" and again["model_busy"] is None, "nothing was computed"


def test_a_batch_is_gone_with_its_pictures_as_soon_as_nobody_has_it() -> None:
    clock, answer = Clock(), Future[Any]()
    batch = batches.Batch(np.zeros(1, np.intp), np.zeros((1, 4, 4, 3), np.uint8), answer, [], End(answer, clock))
    assert batch.ended is None
    clock.now = 107.0
    answer.set_result(None)
    assert batch.ended == 107.0
    kept = weakref.ref(batch)
    gc.disable()
    try:
        del batch, answer
        assert kept() is None, "a cycle would keep it until garbage is collected"
    finally:
        gc.enable()


def test_the_sentence_comes_only_where_it_is_of_use() -> None:
    assert waiting_sentence({"model_busy": 0.7, "seconds": 60.0}) == (
        "The model waited for tiles 30 % of the time: a faster disk or more cores would help."
    )
    for busy, seconds in ((0.9, 600.0), (0.2, 4.0), (None, 60.0), (1.0, 60.0)):
        assert waiting_sentence({"model_busy": busy, "seconds": seconds}) == ""
    assert waiting_sentence({"seconds": 60.0}) == ""
    assert (busy_share(1.0, 4.0), busy_share(0.0, 0.0), busy_share(5.0, 4.0)) == (0.75, None, 0.0)


def test_the_command_says_it_below_the_slide_s_line(capsys: pytest.CaptureFixture[str]) -> None:
    result = {"slide": "a.svs", "status": "done", "tiles": 9, "seconds": 60.0, "tiles_per_second": 4.0}
    result |= {"classes": {}, "store": "out/a.zarr", "model_busy": 0.6}
    say_result(result, quiet=False)
    assert "waited for tiles 40 % of the time" in capsys.readouterr().err
    say_result({**result, "model_busy": 0.98}, quiet=False)
    said = capsys.readouterr().err
    assert "a.svs: done" in said and "waited" not in said
