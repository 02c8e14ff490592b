"""Predict one slide: tissue, tiles, batches, probabilities and attention, streamed into the store as events tell."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from numpy.typing import NDArray

from pathotune.device import Precision, peak_memory_mb, pick_device
from pathotune.errors import StoreBusy, UsageError
from pathotune.events import Event, Finished, Note, Step
from pathotune.inference.allocator import keep_memory
from pathotune.inference.batches import Run, answered, take
from pathotune.inference.explain import RolledOut
from pathotune.inference.leases import Lease, leased
from pathotune.inference.locations import drop_leftovers
from pathotune.inference.plan import AttentionKind, is_token, order_tiles
from pathotune.inference.predictions import PredictionStore, store_path
from pathotune.inference.preparing import determinism, kept_of, load_model, opened, pick_precision, work_of
from pathotune.inference.provenance import begin_store, now
from pathotune.inference.stream import StoreStream
from pathotune.inference.tilemodel import Lanes, TileModel, default_batch_size
from pathotune.inference.work import OnMismatch, Place, drop_replaced, find_place
from pathotune.methods.fitting import check_slide
from pathotune.tiles.grid import tile_grid
from pathotune.tiles.reader import TileReader
from pathotune.tiles.tissue import TissueMask, tissue_mask
from pathotune.waiting import Asking

if TYPE_CHECKING:
    from pathotune.backbones.surface import Backbone
    from pathotune.methods.checkpoint import Tuning
    from pathotune.slides.slide import Slide
    from pathotune.tiles.tileset import TileSet

_STEP_S = 0.25


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
    on_mismatch: OnMismatch = "refuse",
    start_point_px0: tuple[float, float] | None = None,
    attention: bool = True,
    attention_kind: AttentionKind = "last",
    attention_tokens: bool = False,
    reliability: bool = False,
    features: bool = False,
    tissue: TissueMask | None = None,
    name: str | None = None,
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
    resume : go on with a store that is there; False replaces it. A store that is replaced is moved aside, and deleted
        when the new one is complete, unless it is of another slide or covers more.
    on_mismatch : what becomes of a store that is there and of other work (another stride, number format, tuning …):
        "refuse" raises, "restart" replaces it, "beside" keeps it and predicts into NAME~2 (or ~3 …).
    start_point_px0 : where to begin, in level-0 pixels; the work grows outward.
    attention : whether attention maps are kept.
    attention_kind : "last" for the last block's own, "rollout" for what all blocks come to (`inference.explain`).
    attention_tokens : whether every single prompt token has a map of its own too, beside its group's.
    reliability : whether uncertainty and distance from the training tiles are kept; a store that is resumed keeps what
        it was begun with.
    features : whether the features of every tile are kept; the same.
    tissue : the slide's tissue where it is known already.
    name : what the slide is called in the store and its name, in place of its file name (a pseudonym).
    cancel : asked several times a second. While it does not answer the work is paused, which does not count as time.

    Raises
    ------
    PathotuneError : MissingPixelSize, TuningMismatch, StoreMismatch, StoreBusy, BackboneUnavailable, TooLittleMemory,
        NotFinite, OutputRefused and what the readers raise.
    """
    if attention_kind not in get_args(AttentionKind):
        raise UsageError(f"There is no attention_kind {attention_kind!r}; choose {', '.join(get_args(AttentionKind))}.")
    asking = Asking(cancel or _never)
    started = asking.worked()
    with contextlib.ExitStack() as stack:
        slide, tuning = opened(slide, tuning, stack)
        check_slide(tuning, slide)
        keep_memory()
        part = {"stride_px": stride_px, "box_px0": box_px0, "polygon": polygon}
        tiles = yield from _tiles(slide, tuning, part, tissue, name or slide.name)
        if not len(tiles):
            yield Finished(_result(name or slide.path, None, "empty", asking.worked() - started, 0, {}, 0.0))
            return
        path = store_path(name or slide.path, tuning.name, out)
        lease = stack.enter_context(leased(path))
        device = pick_device(device)
        stack.enter_context(determinism(deterministic))
        model, backbone = load_model(tuning, backbone, device)
        if attention and attention_tokens:
            yield from _reading_tokens(model, tuning)
        model = RolledOut(model) if attention_kind == "rollout" else model
        sources = tuple(model.attention_sources) if attention else ()
        work = work_of(slide, tuning, backbone, tiles, sources, precision)
        place = find_place(path, work, resume=resume, on_mismatch=on_mismatch)
        order = order_tiles(tiles, work.grid, start_px0=start_point_px0)
        size = batch_size or default_batch_size(device)
        run = Run(
            slide, tuning, device, tiles, order, deterministic, lambda: lease.is_lost or asking(), size, started, name,
            clock=asking.worked,
        )  # fmt: skip
        reader = stack.enter_context(TileReader(slide, tuning.reading))
        chosen = pick_precision(run, place.store, reader, model, backbone, precision)
        kept = kept_of(run, place.store, reader, model, backbone, sources, reliability, features)
        store = begin_store(place, work, run, backbone, kept, chosen, part)
        yield from _begun(chosen, place, store)
        yield from _fill(run, store, reader, TileModel(model, backbone, device, chosen, kept, tuning), lease)


def _tiles(
    slide: Slide, tuning: Tuning, part: dict[str, Any], mask: TissueMask | None, called: str
) -> Generator[Event, None, TileSet]:
    """The tiles with tissue in the part of the slide that is asked for."""
    box, size = part["box_px0"], (slide.width_px0, slide.height_px0)
    if box is not None and any(box[axis] >= size[axis] or box[axis] + box[axis + 2] <= 0 for axis in (0, 1)):
        x, y, width, height = (f"{value:.10g}" for value in box)
        yield Note(
            f"The region {x},{y},{width},{height} lies off {called}, which is {size[0]} × {size[1]} pixels.",
            "warning",
        )
    mask = tissue_mask(slide) if mask is None else mask
    if mask.is_almost_empty:
        yield Note(f"Hardly any tissue was found on {called} ({100 * mask.fraction:.2f} %).", "warning")
    return tile_grid(slide, tuning.reading, tissue=mask, **part)


def _reading_tokens(model: Any, tuning: Tuning) -> Iterator[Event]:
    """Have the model tell the attention of its prompt tokens one by one; says where it has none."""
    model.encoder.reads_tokens = True
    if not any(is_token(source) for source in model.attention_sources):
        yield Note(f"{tuning.name} has no prompt tokens whose attention could be kept one by one.", "warning")


def _begun(precision: Precision, place: Place, store: PredictionStore) -> Iterator[Event]:
    """What a person should know before the work begins."""
    if precision.reason:
        yield Note(f"Computing in {precision.name}: {precision.reason}")
    if place.is_taken:
        yield Note(f"What was predicted before is kept as {store.attrs['replaces'][0]['name']} until this is complete.")


def _fill(run: Run, store: PredictionStore, reader: TileReader, model: TileModel, lease: Lease) -> Iterator[Event]:
    """Predict what the store lacks and end with the result."""
    drop_leftovers(store.path)
    stream = StoreStream(store, run.tiles.row, run.tiles.column)
    done = stream.take_over(whole_units=run.deterministic)
    before, seconds_before = int(done.sum()), float(store.attrs.get("seconds", 0.0))
    store.attrs["state"] = "running"
    store.save_attributes()
    ended, working = False, run.clock()
    try:
        yield from _predict_missing(run, stream, reader, model, done)
        ended = True
    finally:
        # Also reached when the caller closes the generator: what is predicted is written, where that is still ours.
        stream.close(write=not lease.is_lost)
        state = "complete" if done.all() and ended else "cancelled"
        seconds = seconds_before + run.clock() - run.started
        if not lease.is_lost:
            store.finish(state, seconds=round(seconds, 3), finished=now(), batch_size=run.batch_size)
    if lease.is_lost:
        raise StoreBusy(store.path.name)
    yield from stream.events()
    for text in drop_replaced(store) if store.is_complete else ():
        yield Note(text)
    rate = run.new / max(run.clock() - working, 1e-9)
    areas = store.summary()
    if run.was_cancelled:
        status = "cancelled"
    else:
        status = "resumed" if before else "done"
    called = run.name or run.slide.path
    seconds, tiles = run.clock() - run.started, int(done.sum())
    yield Finished(_result(called, store.path, status, seconds, tiles, areas, rate, run.model_busy))


def _predict_missing(
    run: Run, stream: StoreStream, reader: TileReader, model: TileModel, done: NDArray[np.bool_]
) -> Iterator[Event]:
    """Batch after batch; batches cross the borders of work units except where results must be byte-equal."""
    missing = run.order[~done[run.order]]
    parts = [missing]
    if run.deterministic:
        parts = np.split(missing, np.flatnonzero(np.diff(stream.unit_of(missing))) + 1)
    total, started = len(done), run.clock()
    yield Step("predict", total - len(missing), total)
    with Lanes(model, run.cancel) as lanes:
        told = 0.0
        for batch in answered(run, lanes, reader, parts):
            yield from take(run, stream, lanes, batch, done)
            yield from stream.events()
            if time.monotonic() - told >= _STEP_S and not run.was_cancelled:
                told, left = time.monotonic(), int(total - done.sum())
                rate = run.new / max(run.clock() - started, 1e-9)
                yield Step("predict", total - left, total, rate=rate, seconds_left=left / rate if rate else None)
    if not run.was_cancelled:
        yield Step("predict", total, total, rate=run.new / max(run.clock() - started, 1e-9), seconds_left=0.0)


def _result(
    slide: str | Path,
    store: Path | None,
    status: str,
    seconds: float,
    tiles: int,
    classes: Mapping[str, float],
    rate: float,
    busy: float | None = None,
) -> dict[str, Any]:
    """The contract's document of one slide."""
    return {
        "slide": str(slide),
        "store": None if store is None else str(store),
        "tiles": tiles,
        "classes": dict(classes),
        "score": None,
        "seconds": round(seconds, 3),
        "tiles_per_second": round(rate, 3),
        "model_busy": busy,
        "peak_memory_mb": round(peak_memory_mb(), 1),
        "status": status,
        "error": None,
    }


def _never() -> bool:
    return False
