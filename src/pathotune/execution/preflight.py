"""What a run over slides will meet: which slides open, what they need in time and room, tried on a few tiles."""

from __future__ import annotations

import math
import shutil
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pathotune.errors import MissingPixelSize, OutputRefused, PathotuneError
from pathotune.events import Event, Finished, Note, Step, up_to_the_end

if TYPE_CHECKING:
    from pathotune.execution.batch import Batch
    from pathotune.execution.job import BackboneCache
    from pathotune.inference.inputs import SlideInput
    from pathotune.tiles.tileset import TileSet

THREADS = 4
SURVEY_S = 60.0
"""Longest time a run looks at its slides before it begins with the first."""
STORE_MB = 0.1  # of what every store has beside its values


@dataclass(frozen=True)
class Rates:
    """What a tile costs here: seconds, and megabytes in the store."""

    seconds: float
    megabytes: float


def survey(batch: Batch, ends: Mapping[str, Mapping[str, Any]], cancel: Callable[[], bool]) -> Iterator[Event]:
    """Open every slide's headers, so that what cannot be predicted is known in the evening and not in the morning.

    Slides that are done by the ledger's word are passed over, and so is the rest after a minute; each is opened again
    when its turn comes.
    """
    from pathotune.execution.summary import store_key

    done = {key for key, result in ends.items() if result.get("status") in ("done", "resumed", "empty")}
    slides = [item for store, item in batch.planned.items() if store_key(store, batch.out) not in done]
    problems: list[tuple[str, str]] = []
    until = time.monotonic() + SURVEY_S
    for number, (item, error) in enumerate(_each(slides, lambda item: _headers(batch, item)), start=1):
        if isinstance(error, PathotuneError):
            problems.append(("needs_mpp" if isinstance(error, MissingPixelSize) else "failed", item.called))
        yield Step("open", number, len(slides), "slides")
        if cancel() or time.monotonic() > until:
            break
    for status, words in (("failed", "cannot be opened"), ("needs_mpp", "state no pixel size (--slide-mpp)")):
        named = [name for kind, name in problems if kind == status]
        if named:
            more = f" and {len(named) - 3} more" if len(named) > 3 else ""
            names = ", ".join(Path(name).name for name in named[:3])
            yield Note(f"{len(named)} of {len(slides)} slides {words}: {names}{more}. The others go on.", "warning")


def _each(slides: list[SlideInput], look: Callable[[SlideInput], Any]) -> Iterator[tuple[SlideInput, Any]]:
    """Each slide with what was found of it, or the error, in order; a few are looked at at a time."""

    def safely(item: SlideInput) -> Any:
        try:
            return look(item)
        except PathotuneError as error:
            return error

    with ThreadPoolExecutor(THREADS, thread_name_prefix="pathotune-preflight") as pool:
        try:
            yield from zip(slides, pool.map(safely, slides), strict=True)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _headers(batch: Batch, item: SlideInput) -> None:
    from pathotune.slides import open_slide

    with open_slide(item.path, mpp=item.mpp, icc=batch.tuning.reading.icc) as slide:
        slide.require_mpp()


def preflight(
    batch: Batch, *, cancel: Callable[[], bool] | None = None, backbones: BackboneCache | None = None
) -> Iterator[Event]:
    """Look at every slide of a batch and predict a few tiles of one; ends with what the run would take.

    The result: "slides" (each with slide, status "ready", "done", "part", "empty", "needs_mpp" or "failed", mpp,
    tissue_mm2, tiles, seconds, megabytes, error), "tiles", "seconds", "megabytes", "free_megabytes", and "problem", a
    sentence where the disk is too small. Nothing is written into the results folder. Time is that of one process and
    counts what is left to do.
    """
    cancel = cancel or (lambda: False)
    planned = {item.path: store for store, item in batch.planned.items()}
    rows: list[dict[str, Any]] = []
    probe: tuple[SlideInput, TileSet] | None = None
    slides = list(batch.planned.values())
    for item, found in _each(slides, lambda item: _look(batch, planned[item.path], item)):
        if isinstance(found, PathotuneError):
            status = "needs_mpp" if isinstance(found, MissingPixelSize) else "failed"
            rows.append({**_row(item, status), "error": str(found)})
        else:
            row, tiles = found
            rows.append(row)
            if probe is None and row["tiles"]:
                probe = item, tiles
        yield Step("look at slides", len(rows), len(slides), "slides")
        if cancel():
            break
    rates = None
    if probe is not None and not cancel():
        rates = yield from _probe(batch, *probe, backbones, cancel)
    yield Finished(_totals(rows, rates, batch.out))


def _row(item: SlideInput, status: str) -> dict[str, Any]:
    empty = {"mpp": None, "tissue_mm2": None, "tiles": 0, "seconds": None, "megabytes": None, "error": None}
    return {"slide": item.called, "status": status, **empty}


def _look(batch: Batch, store: Path, item: SlideInput) -> tuple[dict[str, Any], TileSet]:
    """What is known of one slide without the model, and its tiles."""
    from pathotune.inference.finished import finished_store
    from pathotune.inference.locations import read_attributes
    from pathotune.methods.fitting import check_slide
    from pathotune.slides import open_slide
    from pathotune.tiles.grid import tile_grid
    from pathotune.tiles.tissue import tissue_mask

    options, reading = batch.options, batch.tuning.reading
    with open_slide(item.path, mpp=item.mpp, icc=reading.icc) as slide:
        mpp = slide.require_mpp()
        check_slide(batch.tuning, slide)
        mask = tissue_mask(slide)
        tiles = tile_grid(
            slide, reading, tissue=mask, stride_px=options.get("stride_px"), box_px0=options.get("box_px0")
        )
        done = 0
        if options.get("resume", True):
            finished = finished_store(store, slide.fingerprint, batch.tuning, options)
            there = read_attributes(store)
            same = there.get("identity", {}).get("slide") == slide.fingerprint
            done = len(tiles) if finished else min(len(tiles), int(there.get("tiles_done", 0))) if same else 0
        status = "ready"
        if not len(tiles):
            status = "empty"
        elif done:
            status = "done" if finished else "part"
        area = mask.fraction * slide.width_px0 * mpp.x * slide.height_px0 * mpp.y / 1e6
        row = _row(item, status) | {"mpp": mpp.mean, "tissue_mm2": round(area, 3), "tiles": len(tiles) - done}
        return row, tiles


def _probe(
    batch: Batch, item: SlideInput, tiles: TileSet, backbones: BackboneCache | None, cancel: Callable[[], bool]
) -> Generator[Event, None, Rates | None]:
    """Predict a square of tiles in the middle of a slide's tissue, into a folder that is thrown away."""
    from pathotune.execution.job import tuning_backbone
    from pathotune.inference.locations import file_sizes
    from pathotune.inference.predict import predict_slide
    from pathotune.inference.tilemodel import default_batch_size
    from pathotune.methods import stage_of
    from pathotune.slides import open_slide

    if stage_of(batch.tuning.method, "predictor") is not None:
        return None
    options = {name: value for name, value in batch.options.items() if value is not None}
    backbone = tuning_backbone(
        batch.tuning,
        options.pop("backbone", None),
        options.pop("weights", None),
        {} if backbones is None else backbones,
    )
    count = 2 * (options.get("batch_size") or default_batch_size(options.get("device", "auto")))
    side = math.ceil(math.sqrt(count)) / 2
    centres = tiles.centres_px0()
    middle = centres[int(np.argmin(np.abs(centres - np.median(centres, axis=0)).sum(axis=1)))]
    reach = side * tiles.stride_px0[0], side * tiles.stride_px0[1]
    box = (middle[0] - reach[0], middle[1] - reach[1], 2 * reach[0], 2 * reach[1])
    options |= {"box_px0": tuple(float(value) for value in box), "resume": False}
    with tempfile.TemporaryDirectory(prefix="pathotune-") as folder:
        with open_slide(item.path, mpp=item.mpp, icc=batch.tuning.reading.icc) as slide:
            stage = predict_slide(slide, batch.tuning, folder, backbone=backbone, cancel=cancel, **options)
            result = yield from up_to_the_end(stage)
        if not result.get("tiles_per_second"):
            return None
        written = sum(file_sizes(Path(result["store"])).values())
    return Rates(1 / result["tiles_per_second"], written / result["tiles"] / 1e6)


def _totals(rows: list[dict[str, Any]], rates: Rates | None, out: Path) -> dict[str, Any]:
    """The rows with their costs, and the sums."""
    if rates is not None:
        for row in rows:
            if row["status"] in ("ready", "part"):
                row["seconds"] = round(row["tiles"] * rates.seconds, 1)
                row["megabytes"] = round(row["tiles"] * rates.megabytes + STORE_MB, 2)
    seconds, megabytes = (sum(row[name] or 0.0 for row in rows) for name in ("seconds", "megabytes"))
    free = _free_megabytes(out)
    problem = ""
    if free is not None and megabytes > free:
        problem = (
            f"The results need about {megabytes:.0f} MB and {str(out)!r} has {free:.0f} MB free. Free some space, "
            "choose another --out, or leave the attention maps out (--no-attention)."
        )
    return {
        "slides": rows,
        "tiles": sum(row["tiles"] for row in rows),
        "seconds": round(seconds, 1) if rates is not None else None,
        "megabytes": round(megabytes, 1) if rates is not None else None,
        "free_megabytes": free,
        "problem": problem,
    }


def _free_megabytes(out: Path) -> float | None:
    """Room on the drive of a folder that may not be there yet."""
    folder = out.absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        return round(shutil.disk_usage(folder).free / 1e6, 1)
    except OSError as error:
        raise OutputRefused(f"{str(out)!r} cannot be looked at ({error.strerror or error}).") from error
