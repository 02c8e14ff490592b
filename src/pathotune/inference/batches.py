"""Batch after batch through the model: several on their way at a time, in smaller passes where memory runs out."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pathotune.device import Precision
from pathotune.errors import NotFinite, TooLittleMemory
from pathotune.events import Event, Note
from pathotune.inference.busy import End, Waiting, busy_share
from pathotune.inference.stream import StoreStream
from pathotune.inference.tilemodel import Answer, Lanes, StoppedInside, free_memory, is_out_of_memory
from pathotune.tiles.reader import TileReader
from pathotune.tiles.tileset import TileSet

if TYPE_CHECKING:
    from pathotune.methods.checkpoint import Tuning
    from pathotune.slides.slide import Slide


@dataclass
class Run:
    """What one call of `predict_slide` knows and counts.

    order : in which the tiles are predicted.
    batch_size : of the batches to come; it shrinks when memory runs out.
    started : what the clock said at the call.
    name : what the slide is called, where not by its file's name.
    new : tiles predicted so far.
    was_cancelled : whether somebody asked to stop.
    clock : stands still while the work is paused.
    waited : seconds in which the model waited for tiles.
    looped : seconds from the first tile that was asked for to the last answer.
    """

    slide: Slide
    tuning: Tuning
    device: str
    tiles: TileSet
    order: NDArray[np.intp]
    deterministic: bool
    cancel: Callable[[], bool]
    batch_size: int
    started: float
    name: str | None = None
    new: int = 0
    was_cancelled: bool = False
    clock: Callable[[], float] = time.monotonic
    waited: float = 0.0
    looped: float = 0.0

    @property
    def model_busy(self) -> float | None:
        """The share of the time in which the model did not wait for tiles; None where nothing was computed."""
        return busy_share(self.waited, self.looped) if self.new else None


@dataclass
class Batch:
    """Tiles whose answer is on its way, and the queue of those behind them."""

    indices: NDArray[np.intp]
    images: NDArray[np.uint8]
    answer: Future[Answer]
    later: Collection[Batch]
    end: End

    @property
    def ended(self) -> float | None:
        """What the run's clock said when the answer was there; None before."""
        return self.end.at


def answered(run: Run, lanes: Lanes, reader: TileReader, parts: list[NDArray[np.intp]]) -> Iterator[Batch]:
    """Batches in the order of the tiles, each with its answer on the way and the later ones running."""
    waiting: deque[Batch] = deque()
    idle, began = Waiting(lanes.count, run.clock), run.clock()
    for part, size in _evened(run, lanes.count, parts):
        with reader.batches(run.tiles, size, order=part) as batches:
            for indices, images in idle.over(batches, waiting):
                at = 0
                while at < len(indices):
                    some = slice(at, at + run.batch_size)
                    answer = lanes.submit(images[some])
                    batch = Batch(indices[some], images[some], answer, waiting, End(answer, run.clock))
                    at += len(batch.indices)
                    waiting.append(batch)
                    while len(waiting) > lanes.count:
                        yield waiting.popleft()
                if run.was_cancelled or run.cancel():
                    run.was_cancelled = True
                    break
        if run.was_cancelled:
            break
    while waiting:
        yield waiting.popleft()
    run.waited, run.looped = idle.seconds, run.clock() - began


def _evened(run: Run, lanes: int, parts: list[NDArray[np.intp]]) -> Iterator[tuple[NDArray[np.intp], int]]:
    """The parts with the size of their batches; what does not fill a batch for every lane is shared out evenly.

    Otherwise the last batch of a slide would be computed on one core while the others have nothing to do. Where bytes
    must be equal batches are cut alike however many lanes there are.
    """
    for part in parts:
        left = 0 if run.deterministic or lanes == 1 else len(part) % (run.batch_size * lanes)
        if left < len(part):
            yield part[: len(part) - left], run.batch_size
        if left:
            yield part[len(part) - left :], -(-left // lanes)


def take(run: Run, stream: StoreStream, lanes: Lanes, batch: Batch, done: NDArray[np.bool_]) -> Iterator[Event]:
    """One batch into the stream; where memory ran out, in smaller passes and alone."""
    at, size = 0, len(batch.indices)
    while at < len(batch.indices):
        some = slice(at, at + size)
        indices = batch.indices[some]
        try:
            if at == 0 and size == len(batch.indices):
                answer = batch.answer.result()
            else:
                answer = lanes.alone(batch.images[some], [later.answer for later in batch.later])
        except StoppedInside:
            run.was_cancelled = True
            return
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            yield from _smaller(run, len(indices), error)
            size = run.batch_size
            continue
        _check_finite(run, indices, answer, lanes.precision)
        stream.put(indices, answer, done)
        run.new += len(indices)
        at += len(indices)


def _smaller(run: Run, size: int, error: Exception) -> Iterator[Event]:
    """Halve the batch from here on, or say that even one tile is too much."""
    if size == 1:
        raise TooLittleMemory(
            f"Memory ran out with a single tile at a time on {run.device}. "
            "Close other programs, or use a smaller backbone or another --device."
        ) from error
    free_memory(run.device)
    if size <= run.batch_size:  # a larger one was on its way before
        run.batch_size = size // 2
        yield Note(f"Memory ran out with {size} tiles at a time; going on with {run.batch_size}.", "warning")


def _check_finite(run: Run, indices: NDArray[np.intp], answer: Answer, precision: Precision) -> None:
    good = np.ones(len(indices), bool)
    for values in answer:
        if values is not None:
            good &= np.isfinite(values).reshape(len(indices), -1).all(axis=1)
    if good.all():
        return
    tile = int(indices[int(np.argmin(good))])
    x, y, called = run.tiles.x_px0[tile], run.tiles.y_px0[tile], run.name or run.slide.name
    advice = (
        "Try --precision float32."
        if precision.name != "float32"
        else "Its tuning is damaged or went wrong: tune again."
    )
    raise NotFinite(f"The model gave no finite number for the tile at ({x:.0f}, {y:.0f}) px of {called}. {advice}")
