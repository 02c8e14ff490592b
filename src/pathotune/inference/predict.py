"""Predict one slide: tissue, tiles, batches, probabilities and attention, streamed into the store as events tell."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from pathotune.device import Precision, choose_precision, number_format, peak_memory_mb, pick_device
from pathotune.errors import NotFinite, TooLittleMemory
from pathotune.events import Event, Finished, Note, Step
from pathotune.inference.allocator import keep_memory
from pathotune.inference.attention import relative_attention
from pathotune.inference.plan import Grid, order_tiles
from pathotune.inference.predictions import PredictionStore, remove_store, store_path
from pathotune.inference.stream import StoreStream
from pathotune.tiles.grid import tile_grid
from pathotune.tiles.reader import TileReader
from pathotune.tiles.tileset import TileSet
from pathotune.tiles.tissue import tissue_mask

if TYPE_CHECKING:
    from pathotune.backbones.surface import Backbone
    from pathotune.methods.checkpoint import Tuning
    from pathotune.slides.slide import Slide

_LOG = logging.getLogger(__name__)
_STEP_S = 0.25
_PROBE_TILES = 8


class _CancelledInside(Exception):
    """Raised in the middle of a forward pass."""


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
    working_seconds: float = 0.0


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
        run = _Run(
            slide,
            tuning,
            device,
            tiles,
            order_tiles(tiles, grid, start_px0=start_point_px0),
            deterministic,
            cancel or _never,
            batch_size or default_batch_size(device),
            started,
        )
        path = store_path(slide.path, tuning.name, out)
        if not resume and path.exists():
            remove_store(path)
        reader = stack.enter_context(TileReader(slide, tuning.reading))
        chosen = _precision(run, path, reader, model, backbone, precision)
        if chosen.reason:
            yield Note(f"{chosen.name}: {chosen.reason}")
        arguments = {
            "slide": str(slide.path),
            "tuning": None if tuning.path is None else str(tuning.path),
            "stride_px": stride_px,
            "box_px0": box_px0,
            "polygon_px0": None if polygon is None else polygon.wkt,
            "batch_size": run.batch_size,
            "deterministic": deterministic,
        }
        store = _store(run, path, grid, sources, backbone, chosen, arguments)
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
        with model.interruptible(run.cancel):
            yield from _predict_missing(run, stream, reader, model, done)
        ended = True
    finally:
        # Also reached when the caller closes the generator: what is predicted is written.
        stream.close()
        state = "complete" if done.all() and ended else "cancelled"
        seconds = seconds_before + time.monotonic() - run.started
        store.finish(state, seconds=round(seconds, 3), finished=_now(), batch_size=run.batch_size)
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
        units = stream.unit_of(missing)
        borders = np.flatnonzero(np.diff(units)) + 1
        parts = np.split(missing, borders)
    total, told, started = len(done), 0.0, time.monotonic()
    yield Step("predict", total - len(missing), total)
    for part in parts:
        with reader.batches(run.tiles, run.batch_size, order=part) as batches:
            for indices, images in batches:
                try:
                    yield from _predict_batch(run, stream, model, done, indices, images)
                except _CancelledInside:
                    run.was_cancelled = True
                yield from stream.events()
                run.working_seconds = time.monotonic() - started
                if run.was_cancelled or run.cancel():
                    run.was_cancelled = True
                    return
                if time.monotonic() - told >= _STEP_S:
                    told = time.monotonic()
                    rate = run.new / run.working_seconds
                    left = int(total - done.sum())
                    yield Step("predict", total - left, total, rate=rate, seconds_left=left / rate if rate else None)
    yield Step("predict", total, total, rate=run.new / max(run.working_seconds, 1e-9), seconds_left=0.0)


def _predict_batch(
    run: _Run,
    stream: StoreStream,
    model: TileModel,
    done: NDArray[np.bool_],
    indices: NDArray[np.intp],
    images: NDArray[np.uint8],
) -> Iterator[Event]:
    """One batch of the reader, in as many forward passes as memory allows."""
    at = 0
    while at < len(indices):
        size = min(run.batch_size, len(indices) - at)
        try:
            probabilities, attention = model(images[at : at + size])
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if size == 1:
                raise TooLittleMemory(
                    f"Memory ran out with a single tile at a time on {run.device}. "
                    "Close other programs, or use a smaller backbone or another --device."
                ) from error
            run.batch_size = size // 2
            yield Note(f"Memory ran out with {size} tiles at a time; going on with {run.batch_size}.", "warning")
            free_memory(run.device)
            continue
        _check_finite(run, indices[at : at + size], probabilities, attention, model.precision)
        stream.put(indices[at : at + size], probabilities, attention, done)
        run.new += size
        at += size


class TileModel:
    """A tuned model as a function of tile images.

    Parameters
    ----------
    model : what `methods.build_model` gave.
    backbone : its backbone.
    device : where both are.
    precision : the number format.
    sources : the attention maps wanted.
    """

    def __init__(
        self, model: Any, backbone: Backbone, device: str, precision: Precision, sources: tuple[str, ...]
    ) -> None:
        self._model, self._backbone, self._device, self._sources = model, backbone, device, sources
        self.precision = precision

    def __call__(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float16] | None]:
        """Probabilities (b, K) float32 and attention (b, S, rows, columns) float16 of tiles (b, h, w, 3)."""
        with torch.inference_mode(), number_format(self._device, self.precision):
            batch = torch.from_numpy(images)
            if self._device.startswith("cuda"):
                batch = batch.pin_memory().to(self._device, non_blocking=True)
            else:
                batch = batch.to(self._device)
            answer = self._model(self._backbone.normalise(batch), attention=bool(self._sources))
            probabilities = answer.logits.float().softmax(dim=1)  # (batch, class)
            attention = relative_attention(answer.attention, self._sources) if self._sources else None
            values = probabilities.cpu().numpy()
            return values, None if attention is None else attention.cpu().numpy()

    @contextlib.contextmanager
    def interruptible(self, cancel: Callable[[], bool]) -> Iterator[None]:
        """Inside, a cancel also ends a forward pass that is under way: a large model on a CPU takes many seconds."""

        def look(module: torch.nn.Module, inputs: Any) -> None:
            if cancel():
                raise _CancelledInside

        linear = [module for module in self._backbone.modules() if isinstance(module, torch.nn.Linear)]
        hooks = [module.register_forward_pre_hook(look) for module in linear] if self._device == "cpu" else []
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def default_batch_size(device: str) -> int:
    """Tiles per forward pass: many on a graphics card, few on a CPU, where more only cost memory."""
    return 128 if device.startswith("cuda") else 16


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out; torch has several ways to say so."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(
        words in text for words in ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate")
    )


def free_memory(device: str) -> None:
    """Give back what the device's allocator keeps."""
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
    elif device == "mps":
        torch.mps.empty_cache()


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


def _store(
    run: _Run,
    path: Path,
    grid: Grid,
    sources: tuple[str, ...],
    backbone: Backbone,
    precision: Precision,
    arguments: Mapping[str, Any],
) -> PredictionStore:
    """The store to go on with, or a new one."""
    slide, tuning = run.slide, run.tuning
    identity = {
        "slide": slide.fingerprint,
        "tuning": tuning.fingerprint,
        "backbone": backbone.weights_sha256,
        "reading": tuning.reading.to_dict(),
        "precision": precision.name,
    }
    if path.exists():
        store = PredictionStore.open(path)
        store.check_same(grid=grid, classes=tuning.class_names, sources=sources, identity=identity)
        return store
    mpp = slide.require_mpp()
    facts = {
        "slide": {
            "name": slide.name,
            "width_px0": slide.width_px0,
            "height_px0": slide.height_px0,
            "origin_px0": list(slide.bounds_px0[:2]),
            "mpp": [mpp.x, mpp.y],
            "mpp_source": mpp.source,
        },
        "tuning": {"name": tuning.name, "method": tuning.method},
        "backbone": {"name": backbone.card.name, "source": backbone.weights_source},
        "job": {"command": "predict", "arguments": dict(arguments)},
        "device": run.device,
        "device_name": _device_name(run.device),
        "precision_difference": precision.difference,
        "attention_unit": "share of the tile's attention times its number of patches",
        "versions": _versions(),
        "created": _now(),
    }
    return PredictionStore.create(
        path, grid=grid, classes=tuning.classes, sources=sources, identity=identity, facts=facts
    )


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


def _device_name(device: str) -> str:
    if device.startswith("cuda"):
        return str(torch.cuda.get_device_name(device))
    import platform

    return platform.processor() or platform.machine()


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for package in ("pathotune", "torch", "timm", "zarr", "tiffslide"):
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _never() -> bool:
    return False
