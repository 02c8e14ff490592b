"""Predict one slide: tissue, tiles, batches, probabilities and attention, streamed into the store as events tell."""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from pathotune.device import Precision, choose_precision, peak_memory_mb, pick_device
from pathotune.errors import NotFinite, TooLittleMemory
from pathotune.events import Event, Finished, Note, Step
from pathotune.inference.allocator import keep_memory
from pathotune.inference.plan import Grid, order_tiles
from pathotune.inference.predictions import PredictionStore, remove_store, store_path
from pathotune.inference.provenance import begin_store, now
from pathotune.inference.stream import StoreStream
from pathotune.inference.tilemodel import (
    Answer,
    Lanes,
    StoppedInside,
    TileModel,
    default_batch_size,
    free_memory,
    is_out_of_memory,
)
from pathotune.tiles.grid import tile_grid
from pathotune.tiles.reader import TileReader
from pathotune.tiles.tileset import TileSet
from pathotune.tiles.tissue import tissue_mask

if TYPE_CHECKING:
    from pathotune.backbones.surface import Backbone
    from pathotune.methods.checkpoint import Tuning
    from pathotune.slides.slide import Slide

_STEP_S = 0.25
_PROBE_TILES = 8


@dataclass
class _Run:
    """What one call knows and counts."""

    slide: Slide
    tuning: Tuning
    device: str
    tiles: TileSet
    order: NDArray[np.intp]
    deterministic: bool
    cancel: Callable[[], bool]
    batch_size: int
    started: float
    new: int = 0
    was_cancelled: bool = False


@dataclass
class _Batch:
    """Tiles whose answer is on its way, and the queue of those behind them."""

    indices: NDArray[np.intp]
    images: NDArray[np.uint8]
    answer: Future[Answer]
    later: Collection[_Batch]


def predict_slide(
    slide: Slide | str | Path,
    tuning: Tuning | str | Path,
    out: str | Path,
    *,
    backbone: Backbone | None = None,
    device: str = "auto",
    precision: str = "auto",
    deterministic: bool = False,
    stride_px: int | None = None,
    box_px0: tuple[float, float, float, float] | None = None,
    polygon: Any = None,
    batch_size: int | None = None,
    resume: bool = True,
    start_point_px0: tuple[float, float] | None = None,
    attention: bool = True,
    cancel: Callable[[], bool] | None = None,
) -> Iterator[Event]:
    """Predict a slide, or a part of it, into its store under `out`.

    A generator: nothing happens until it is iterated. The last event is a `Finished` with the document of
    `pathotune predict`; its status is "done", "resumed", "cancelled" or "empty" (no tissue where one looked).

    Parameters
    ----------
    slide, tuning : opened, or their paths.
    out : results folder.
    backbone : the tuning's backbone where it is loaded already.
    device : "auto", "cpu", "cuda", "mps".
    precision : "auto", "float32" or "bfloat16"; auto takes over that of a store that is resumed.
    deterministic : byte-equal results on like hardware, however often the run was broken off; a little slower.
    stride_px : from tile to tile in pixels of the tuning's mpp; tiles lie side by side without it.
    box_px0, polygon : only tiles with their centre inside, in level-0 pixels.
    batch_size : tiles per forward pass; halved when memory runs out, which changes nothing else.
    resume : go on with a store that is there; False replaces it.
    start_point_px0 : where to begin, in level-0 pixels; the work grows outward.
    attention : whether attention maps are kept.
    cancel : asked several times a second.

    Raises
    ------
    PathotuneError : MissingPixelSize, TuningMismatch, StoreMismatch, BackboneUnavailable, TooLittleMemory, NotFinite,
        OutputRefused and what the readers raise.
    """
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        slide, tuning = _opened(slide, tuning, stack)
        keep_memory()
        mask = tissue_mask(slide)
        tiles = tile_grid(slide, tuning.reading, stride_px=stride_px, box_px0=box_px0, polygon=polygon, tissue=mask)
        if mask.is_almost_empty:
            yield Note(f"Hardly any tissue was found on {slide.name} ({100 * mask.fraction:.2f} %).", "warning")
        if not len(tiles):
            yield Finished(_result(slide, None, "empty", started, 0, {}, 0.0))
            return
        device = pick_device(device)
        stack.enter_context(_determinism(deterministic))
        model, backbone = _model(tuning, backbone, device)
        mpp = slide.require_mpp()
        sources = tuple(model.attention_sources) if attention else ()
        grid = Grid.from_tiles(tiles, (mpp.x, mpp.y), _patches(backbone, tuning) if sources else (0, 0))
        order = order_tiles(tiles, grid, start_px0=start_point_px0)
        size = batch_size or default_batch_size(device)
        run = _Run(slide, tuning, device, tiles, order, deterministic, cancel or _never, size, started)
        path = store_path(slide.path, tuning.name, out)
        if not resume and path.exists():
            remove_store(path)
        reader = stack.enter_context(TileReader(slide, tuning.reading))
        chosen = _precision(run, path, reader, model, backbone, precision)
        if chosen.reason:
            yield Note(f"{chosen.name}: {chosen.reason}")
        arguments = {
            "slide": str(slide.path),
            "tuning": str(tuning.path) if tuning.path else None,
            "stride_px": stride_px,
            "box_px0": box_px0,
            "polygon_px0": polygon and polygon.wkt,
            "batch_size": run.batch_size,
            "deterministic": deterministic,
        }
        store = begin_store(path, slide, tuning, backbone, grid, sources, chosen, device, arguments)
        yield from _fill(run, store, reader, TileModel(model, backbone, device, chosen, sources))


def _fill(run: _Run, store: PredictionStore, reader: TileReader, model: TileModel) -> Iterator[Event]:
    """Predict what the store lacks and end with the result."""
    stream = StoreStream(store, run.tiles.row, run.tiles.column)
    done = stream.take_over(whole_units=run.deterministic)
    before, seconds_before = int(done.sum()), float(store.attrs.get("seconds", 0.0))
    store.attrs["state"] = "running"
    store.save_attributes()
    ended, working = False, time.monotonic()
    try:
        yield from _predict_missing(run, stream, reader, model, done)
        ended = True
    finally:
        # Also reached when the caller closes the generator: what is predicted is written.
        stream.close()
        state = "complete" if done.all() and ended else "cancelled"
        seconds = seconds_before + time.monotonic() - run.started
        store.finish(state, seconds=round(seconds, 3), finished=now(), batch_size=run.batch_size)
    yield from stream.events()
    rate = run.new / (time.monotonic() - working)
    areas = store.summary()
    if run.was_cancelled:
        status = "cancelled"
    else:
        status = "resumed" if before else "done"
    yield Finished(_result(run.slide, store.path, status, run.started, int(done.sum()), areas, rate))


def _predict_missing(
    run: _Run, stream: StoreStream, reader: TileReader, model: TileModel, done: NDArray[np.bool_]
) -> Iterator[Event]:
    """Batch after batch; batches cross the borders of work units except where results must be byte-equal."""
    missing = run.order[~done[run.order]]
    parts = [missing]
    if run.deterministic:
        parts = np.split(missing, np.flatnonzero(np.diff(stream.unit_of(missing))) + 1)
    total, started = len(done), time.monotonic()
    yield Step("predict", total - len(missing), total)
    with Lanes(model, run.cancel) as lanes:
        told = 0.0
        for batch in _answered(run, lanes, reader, parts):
            yield from _take(run, stream, lanes, batch, done)
            yield from stream.events()
            if time.monotonic() - told >= _STEP_S and not run.was_cancelled:
                told, left = time.monotonic(), int(total - done.sum())
                rate = run.new / (told - started)
                yield Step("predict", total - left, total, rate=rate, seconds_left=left / rate if rate else None)
    if not run.was_cancelled:
        yield Step("predict", total, total, rate=run.new / max(time.monotonic() - started, 1e-9), seconds_left=0.0)


def _answered(run: _Run, lanes: Lanes, reader: TileReader, parts: list[NDArray[np.intp]]) -> Iterator[_Batch]:
    """Batches in the order of the tiles, each with its answer on the way and the later ones running."""
    waiting: deque[_Batch] = deque()
    for part in parts:
        with reader.batches(run.tiles, run.batch_size, order=part) as batches:
            for indices, images in batches:
                at = 0
                while at < len(indices):
                    some = slice(at, at + run.batch_size)
                    batch = _Batch(indices[some], images[some], lanes.submit(images[some]), waiting)
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


def _take(run: _Run, stream: StoreStream, lanes: Lanes, batch: _Batch, done: NDArray[np.bool_]) -> Iterator[Event]:
    """One batch into the stream; where memory ran out, in smaller passes and alone."""
    at, size = 0, len(batch.indices)
    while at < len(batch.indices):
        some = slice(at, at + size)
        indices = batch.indices[some]
        try:
            if at == 0 and size == len(batch.indices):
                probabilities, attention = batch.answer.result()
            else:
                probabilities, attention = lanes.alone(batch.images[some], [later.answer for later in batch.later])
        except StoppedInside:
            run.was_cancelled = True
            return
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            yield from _smaller(run, len(indices), error)
            size = run.batch_size
            continue
        _check_finite(run, indices, probabilities, attention, lanes.precision)
        stream.put(indices, probabilities, attention, done)
        run.new += len(indices)
        at += len(indices)


def _smaller(run: _Run, size: int, error: Exception) -> Iterator[Event]:
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


# ---- preparing -------------------------------------------------------------------------------------------------


def _opened(
    slide: Slide | str | Path, tuning: Tuning | str | Path, stack: contextlib.ExitStack
) -> tuple[Slide, Tuning]:
    if isinstance(tuning, str | Path):
        from pathotune.methods.checkpoint import Tuning as TuningFile

        tuning = TuningFile.load(Path(tuning))
    if isinstance(slide, str | Path):
        from pathotune.slides import open_slide

        slide = stack.enter_context(open_slide(slide, icc=tuning.reading.icc))
    return slide, tuning


def _model(tuning: Tuning, backbone: Backbone | None, device: str) -> tuple[Any, Backbone]:
    from pathotune.methods import build_model

    if backbone is None:
        from pathotune.backbones import load_backbone

        backbone = load_backbone(tuning.backbone["name"])
    backbone.to(device)
    return build_model(tuning, backbone), backbone


def _patches(backbone: Backbone, tuning: Tuning) -> tuple[int, int]:
    """Patch rows and columns of one tile."""
    side, patch = tuning.reading.image_px, backbone.card.patch_size
    if patch and side != backbone.card.image_size:
        return side // patch, side // patch
    return backbone.grid


def _precision(run: _Run, path: Path, reader: TileReader, model: Any, backbone: Backbone, wanted: str) -> Precision:
    """The number format of the whole job: that of the store that is resumed, or what a probe of real tiles says."""
    if wanted == "auto" and path.exists():
        stored = PredictionStore.open(path).attrs["identity"].get("precision", "float32")
        return Precision(stored, reason="the store was begun with it.")
    if wanted == "auto" and run.deterministic:
        return Precision("float32", reason="for byte-equal results.")

    def forward(images: torch.Tensor) -> torch.Tensor:
        probabilities: torch.Tensor = model(backbone.normalise(images)).logits.float().softmax(dim=1)
        return probabilities

    picked = run.tiles.take(run.order[:: max(1, len(run.order) // _PROBE_TILES)][:_PROBE_TILES])
    probe = torch.from_numpy(reader.read_at(picked.x_px0, picked.y_px0))
    options = {} if backbone.card.tolerance is None else {"tolerance": float(backbone.card.tolerance)}
    return choose_precision(forward, probe, run.device, wanted, **options)


def _check_finite(
    run: _Run,
    indices: NDArray[np.intp],
    probabilities: NDArray[np.float32],
    attention: NDArray[np.float16] | None,
    precision: Precision,
) -> None:
    good = np.isfinite(probabilities).all(axis=1)
    if attention is not None:
        good &= np.isfinite(attention).all(axis=(1, 2, 3))
    if good.all():
        return
    tile = int(indices[int(np.argmin(good))])
    x, y = run.tiles.x_px0[tile], run.tiles.y_px0[tile]
    advice = (
        "Try --precision float32."
        if precision.name != "float32"
        else "Its tuning is damaged or went wrong: tune again."
    )
    raise NotFinite(
        f"The model gave no finite number for the tile at ({x:.0f}, {y:.0f}) px of {run.slide.name}. {advice}"
    )


@contextlib.contextmanager
def _determinism(wanted: bool) -> Iterator[None]:
    """Only kernels that give the same bytes every time, where that is wanted."""
    before = torch.are_deterministic_algorithms_enabled()
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
        torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        if wanted:
            torch.use_deterministic_algorithms(before)


def _result(
    slide: Slide,
    store: Path | None,
    status: str,
    started: float,
    tiles: int,
    classes: Mapping[str, float],
    rate: float,
) -> dict[str, Any]:
    """The contract's document of one slide."""
    return {
        "slide": str(slide.path),
        "store": None if store is None else str(store),
        "tiles": tiles,
        "classes": dict(classes),
        "score": None,
        "seconds": round(time.monotonic() - started, 3),
        "tiles_per_second": round(rate, 3),
        "peak_memory_mb": round(peak_memory_mb(), 1),
        "status": status,
        "error": None,
    }


def _never() -> bool:
    return False
