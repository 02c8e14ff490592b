"""Features of all tissue tiles of a slide, from a backbone or a tuned model, into one HDF5 file."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pathotune.device import Precision, choose_precision, number_format, peak_memory_mb, pick_device
from pathotune.errors import FeaturesMismatch, FeaturesUnreadable, TuningMismatch
from pathotune.events import Event, Finished, Note, Step
from pathotune.features.featureset import FeatureHeader, header, put_coords, put_header, writing
from pathotune.features.folder import feature_path
from pathotune.inference.allocator import keep_memory
from pathotune.inference.batches import Run, answered, take
from pathotune.inference.featurepart import FeaturePart, begun_work, part_folder
from pathotune.inference.leases import leased
from pathotune.inference.preparing import probe_tiles
from pathotune.inference.provenance import now, versions
from pathotune.inference.tilemodel import Answer, Lanes, TileModel, default_batch_size
from pathotune.methods.fitting import COARSEST, check_slide
from pathotune.tiles.grid import tile_grid
from pathotune.tiles.reader import TileReader
from pathotune.tiles.tissue import tissue_mask
from pathotune.waiting import Asking

if TYPE_CHECKING:
    from pathotune.backbones.card import BackboneCard
    from pathotune.backbones.surface import Backbone
    from pathotune.methods.checkpoint import Tuning
    from pathotune.slides.slide import Slide
    from pathotune.tiles.tileset import Reading, TileSet

_STEP_S = 0.25
_TITLES = {
    "slide": "slide",
    "backbone": "backbone",
    "sha256": "backbone weights",
    "tuning": "tuning",
    "reading": "way tiles are read",
    "stride_px": "distance from tile to tile",
    "mpp": "pixel size of the slide",
    "precision": "number format",
}


@dataclass
class _Source:
    """What features are made with: a backbone, alone or under a tuning."""

    card: BackboneCard
    load: Callable[[], Backbone]
    tuning: Tuning | None
    sha256: str  # "" while it is not known
    stain: str = "none"  # how a plain backbone's tiles are brought to one stain; a tuning says it itself

    @property
    def reading(self) -> Reading:
        return replace(self.card.reading(), stain=self.stain) if self.tuning is None else self.tuning.reading

    @property
    def name(self) -> str:
        return self.card.title if self.tuning is None else f"the tuning {self.tuning.name}"


class FeatureModel(TileModel):
    """Features as a function of tile images: the backbone's pooled ones, or what a tuned model's head sees."""

    def __init__(self, backbone: Backbone, model: Any, device: str, precision: Precision) -> None:
        self.model = backbone if model is None else model
        self.backbone, self.device, self.precision = backbone, device, precision

    def __call__(self, images: NDArray[np.uint8]) -> Answer:
        """Features (b, d) float32 of tiles (b, h, w, 3)."""
        import torch

        with torch.inference_mode(), number_format(self.device, self.precision):
            batch = torch.from_numpy(images)
            if self.device.startswith("cuda"):
                batch = batch.pin_memory().to(self.device, non_blocking=True)
            else:
                batch = batch.to(self.device)
            values: Any = self.features(batch).float().cpu().numpy()
            return Answer(values[:, :0], features=values)

    def features(self, batch: Any) -> Any:
        """(b, d) of uint8 images on the device."""
        pixels = self.backbone.normalise(batch)
        answer = self.model(pixels)
        return answer.pooled if self.model is self.backbone else answer.features


def extract(
    slide: Slide | str | Path,
    backbone: Backbone | BackboneCard,
    out: str | Path,
    *,
    tuning: Tuning | None = None,
    load: Callable[[], Backbone] | None = None,
    sha256: str = "",
    file_name: str = "",
    device: str = "auto",
    precision: str = "auto",
    settled: str = "",
    stride_px: int | None = None,
    batch_size: int | None = None,
    resume: bool = True,
    stain: str = "none",
    cancel: Callable[[], bool] | None = None,
) -> Iterator[Event]:
    """Extract the features of a slide's tissue tiles into `out`/SLIDE-ID.h5.

    A generator: nothing happens until it is iterated. The last event is a `Finished` with slide, out, tiles, width,
    seconds, tiles_per_second, model_busy, peak_memory_mb, status and error; its status is "done", "resumed", "kept"
    (the file was there), "cancelled" or "empty" (no tissue).

    Parameters
    ----------
    slide : opened, or its path.
    backbone : loaded, or its card: it is then loaded (by `load`, if given) once it is known that there is work to do.
    sha256 : of the weights that `load` gives, where that is known.
    file_name : of the file, where it is not SLIDE-ID.h5.
    tuning : extract what this tuning's head sees instead of the plain backbone's pooled features.
    device, precision, batch_size, cancel : as in `predict_slide`.
    settled : the number format that was found good for another slide of the same run, taken without another trial.
    stride_px : from tile to tile in pixels of the reading's mpp; tiles lie side by side without it.
    resume : go on with an unfinished run and keep a file of the same work; False computes all again.
    stain : "macenko" brings the stain of a plain backbone's tiles to one reference; a tuning says it itself.

    Raises
    ------
    FeaturesMismatch : there is a file of other work, or the slide is too coarse for the backbone.
    TuningMismatch : the tuning gives no features of single tiles.
    PathotuneError : what `predict_slide` raises.
    """
    asking = Asking(cancel or _never)
    started = asking.worked()
    source = replace(_source_of(backbone, tuning, load, sha256), stain=stain)
    with contextlib.ExitStack() as stack:
        if isinstance(slide, str | Path):
            from pathotune.slides import open_slide

            slide = stack.enter_context(open_slide(slide, icc=source.reading.icc))
        _check_resolution(slide, source)
        target = Path(out) / file_name if file_name else feature_path(out, slide.alias or slide.path)
        if resume and source.sha256 and (about := _kept(target, _work(slide, source, stride_px), precision)):
            yield Finished(_result(slide, target, "kept", started, about.count, about.width))
            return
        stack.enter_context(leased(target))
        keep_memory()
        device = pick_device(device)
        network = source.load().to(device)
        source.sha256 = network.weights_sha256
        work = _work(slide, source, stride_px)
        if resume and (about := _kept(target, work, precision)):
            yield Finished(_result(slide, target, "kept", started, about.count, about.width))
            return
        mask = tissue_mask(slide)
        if mask.is_almost_empty:
            yield Note(f"Hardly any tissue was found on {slide.name} ({100 * mask.fraction:.2f} %).", "warning")
        tiles = tile_grid(slide, source.reading, tissue=mask, stride_px=stride_px)
        if not len(tiles):
            yield Finished(_result(slide, None, "empty", started, 0, 0))
            return
        reader = stack.enter_context(TileReader(slide, source.reading))
        whose: Any = tuning  # the batches ask the tuning nothing
        order = np.arange(len(tiles), dtype=np.intp)
        run = Run(slide, whose, device, tiles, order, False, asking, 1, started, clock=asking.worked)
        run.batch_size = batch_size or default_batch_size(device)
        yield from _extract(run, reader, source, network, target, work, precision, resume, settled)


def _source_of(backbone: Any, tuning: Tuning | None, load: Callable[[], Backbone] | None, sha256: str) -> _Source:
    from pathotune.backbones.card import BackboneCard

    if not isinstance(backbone, BackboneCard):
        return _Source(backbone.card, lambda: backbone, tuning, backbone.weights_sha256)
    card = backbone
    if load is not None:
        return _Source(card, load, tuning, sha256)

    def fresh() -> Backbone:
        from pathotune.backbones import load_backbone

        return load_backbone(card)

    from pathotune.backbones.remembered import remembered_sha256

    return _Source(card, fresh, tuning, remembered_sha256(card))


def _check_resolution(slide: Slide, source: _Source) -> None:
    """Refuse a slide so coarse that the features would be of blurred pictures."""
    if source.tuning is not None:
        check_slide(source.tuning, slide)
        return
    wanted = source.reading.image_mpp
    if slide.mpp is not None and slide.mpp.mean > COARSEST * wanted:
        raise FeaturesMismatch(
            f"{source.name} reads tissue at {wanted:g} µm per pixel, and {slide.name} has only one pixel every "
            f"{slide.mpp.mean:g} µm ({slide.mpp.source}). Use a finer scan, or state the right size with --slide-mpp."
        )


def _work(slide: Slide, source: _Source, stride_px: int | None) -> dict[str, Any]:
    """What two runs must have in common to make one file."""
    return {
        "slide": slide.fingerprint,
        "backbone": source.card.name,
        "sha256": source.sha256,
        "tuning": "" if source.tuning is None else source.tuning.fingerprint,
        "reading": source.reading.to_dict(),
        "stride_px": stride_px or source.reading.tile_px,
        "mpp": [slide.require_mpp().x, slide.require_mpp().y],
    }


def _kept(target: Path, work: dict[str, Any], precision: str) -> FeatureHeader | None:
    """What is there of this very work already; raises FeaturesMismatch where it is of other work."""
    if not target.is_file():
        return None
    try:
        about = header(target)
    except FeaturesUnreadable:
        return None  # damaged: it is made again
    there = {
        "slide": about.slide_fingerprint,
        "backbone": about.backbone,
        "sha256": about.extra.get("backbone_sha256"),
        "tuning": about.tuning,
        "reading": about.extra.get("reading"),
        "stride_px": about.extra.get("stride_px"),
        "mpp": about.extra.get("slide_mpp"),
        "precision": about.extra.get("precision"),
    }
    # A format that is not asked for is as good as the other.
    work = {**work, "precision": there["precision"] if precision == "auto" else precision}
    other = [title for name, title in _TITLES.items() if there[name] != work[name]]
    if other:
        raise FeaturesMismatch(
            f"{target} is there already and of another {', '.join(other)}. Choose another --out, or replace it with "
            "--restart."
        )
    return about


def _extract(
    run: Run,
    reader: TileReader,
    source: _Source,
    network: Backbone,
    target: Path,
    work: dict[str, Any],
    wanted: str,
    resume: bool,
    settled: str = "",
) -> Iterator[Event]:
    """Compute what is missing and write the file when all is there."""
    model = _model(source, network)
    begun = begun_work(part_folder(target)) if resume else {}
    if begun and any(begun.get(name) != value for name, value in work.items()):
        yield Note(f"An unfinished run for {target.name} was of other work and is begun again.")
        begun = {}
    chosen = _precision(run, reader, network, model, begun.get("precision") or settled, wanted)
    extractor = FeatureModel(network, model, run.device, chosen)
    width = int(begun.get("width") or _width(run, reader, extractor))
    work = {**work, "precision": chosen.name}
    if chosen.reason:
        yield Note(f"{chosen.name}: {chosen.reason}")
    part = FeaturePart(target, work, len(run.tiles), width)
    before = int(part.done.sum())
    working = run.clock()
    try:
        yield from _compute(run, reader, extractor, part)
    finally:
        part.close()  # also where the caller closes the generator: what is computed is kept
    rate = run.new / max(run.clock() - working, 1e-9)
    if run.was_cancelled or not part.done.all():
        there = int(part.done.sum())
        yield Finished(_result(run.slide, None, "cancelled", run.started, there, width, rate, run.model_busy))
        return
    _write(run, source, part, target, work)
    part.remove()
    status = "resumed" if before else "done"
    yield Finished(_result(run.slide, target, status, run.started, len(run.tiles), width, rate, run.model_busy))


def _model(source: _Source, network: Backbone) -> Any:
    """The tuned model, or None for the backbone alone."""
    if source.tuning is None:
        return None
    from pathotune.methods import METHODS, build_model

    level = (METHODS[source.tuning.method].facts or {}).get("level", "tile")
    if level == "spot":
        raise TuningMismatch(
            f"The tuning {source.tuning.name} ({source.tuning.method}) is an enhanced backbone: give its file as "
            "--backbone, and leave --tuning out."
        )
    if level in {"slide", "patient"}:
        raise TuningMismatch(
            f"The tuning {source.tuning.name} ({source.tuning.method}) looks at a whole {level} and changes no tile's "
            "features; leave --tuning out and extract those of its backbone."
        )
    return build_model(source.tuning, network)


def _precision(
    run: Run, reader: TileReader, network: Backbone, model: Any, begun: str | None, wanted: str
) -> Precision:
    """The number format of the whole file: what it was begun with, or what a probe of real tiles says."""
    if begun and wanted in {"auto", begun}:
        return Precision(begun, reason="the work was begun so.")
    probe = FeatureModel(network, model, run.device, Precision("float32"))
    what = f"features of {network.card.name}" + (f" under {run.tuning.method}" if model is not None else "")
    images = probe_tiles(run, reader)
    return choose_precision(probe.features, images, run.device, wanted, network.card.tolerance, what)


def _width(run: Run, reader: TileReader, extractor: FeatureModel) -> int:
    answer = extractor(probe_tiles(run, reader, 1).numpy()[:1])
    return 0 if answer.features is None else int(answer.features.shape[1])


def _compute(run: Run, reader: TileReader, extractor: FeatureModel, part: FeaturePart) -> Iterator[Event]:
    """Batch after batch into the part."""
    stream: Any = part  # takes answers as a prediction's stream does
    done, total, started, told = part.done, len(run.tiles), run.clock(), 0.0
    missing = run.order[~done]
    yield Step("features", total - len(missing), total)
    with Lanes(extractor, run.cancel) as lanes:
        for batch in answered(run, lanes, reader, [missing]):
            yield from take(run, stream, lanes, batch, done)
            if time.monotonic() - told >= _STEP_S and not run.was_cancelled:
                told, left = time.monotonic(), int(total - done.sum())
                rate = run.new / max(run.clock() - started, 1e-9)
                yield Step("features", total - left, total, rate=rate, seconds_left=left / rate if rate else None)


def _write(run: Run, source: _Source, part: FeaturePart, target: Path, work: dict[str, Any]) -> None:
    """The HDF5 file, whole or not at all."""
    slide, tiles = run.slide, run.tiles
    with writing(target, part.width, part.count) as file:
        part.copy_into(file["features"])
        put_coords(file, np.stack([tiles.x_px0, tiles.y_px0], axis=1))
        put_header(file, _header(slide, tiles, source, part, work))


def _header(slide: Slide, tiles: TileSet, source: _Source, part: FeaturePart, work: dict[str, Any]) -> FeatureHeader:
    mpp, reading = slide.require_mpp(), source.reading
    return FeatureHeader(
        count=part.count,
        width=part.width,
        backbone=source.card.name,
        mpp=reading.mpp,
        tile_px=reading.tile_px,
        image_px=reading.image_px,
        tile_px0=tiles.tile_px0,
        slide=slide.alias or slide.name,
        slide_fingerprint=slide.fingerprint,
        tuning=work["tuning"],
        extra={
            "backbone_sha256": source.sha256,
            "backbone_licence": source.card.licence,
            "tuning_name": "" if source.tuning is None else source.tuning.name,
            "reading": reading.to_dict(),
            "stride_px": work["stride_px"],
            "precision": work["precision"],
            "slide_mpp": [mpp.x, mpp.y],
            "slide_mpp_source": mpp.source,
            "slide_size_px0": [slide.width_px0, slide.height_px0],
            "versions": versions(),
            "created": now(),
        },
    )


def _result(
    slide: Slide,
    out: Path | None,
    status: str,
    started: float,
    tiles: int,
    width: int,
    rate: float = 0.0,
    busy: float | None = None,
) -> dict[str, Any]:
    """The document of one slide."""
    return {
        "slide": slide.alias or str(slide.path),
        "out": None if out is None else str(out),
        "tiles": tiles,
        "width": width,
        "seconds": round(time.monotonic() - started, 3),
        "tiles_per_second": round(rate, 3),
        "model_busy": busy,
        "peak_memory_mb": round(peak_memory_mb(), 1),
        "status": status,
        "error": None,
    }


def _never() -> bool:
    return False
