"""What a cluster's worker does of one slide: begin its store, fill one part of it, or put the parts together.

Each part is predicted as a store of its own that holds one work unit, and its whole files are then moved into the
slide's store: no two workers ever write one file, a worker that dies leaves nothing half, and the same task done twice
does no harm.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pathotune.errors import MissingPixelSize, NotFinite, PathotuneError, StoreBusy
from pathotune.events import result_of

if TYPE_CHECKING:
    from pathotune.inference.predictions import PredictionStore
    from pathotune.slides.slide import Slide

PARTS = ".parts"
# A worker does one task at a time, whatever threads it has: the model runs on all of its cores or its card anyway.
_ONE_AT_A_TIME = threading.RLock()
_BACKBONES: dict[str, Any] = {}
"""Loaded once per worker."""


@dataclass(frozen=True)
class SlideTask:
    """One slide as data that travels to the workers; all paths are on storage they share.

    slide, tuning, folder, store : paths.
    mpp, name : as in `inference.inputs.SlideInput`.
    options : of a predict job.
    split_above : tiles above which a slide is predicted in parts.
    picture : where its picture for the contact sheet goes.
    """

    slide: str
    tuning: str
    folder: str
    store: str
    mpp: float | None = None
    name: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    split_above: int = 4000
    picture: str = ""


def begin(task: SlideTask) -> dict[str, Any]:
    """A small slide whole; of a large one the empty store and the work units that are to be filled.

    Returns
    -------
    {"result": document} of a slide that is over, or {"store", "units": [index, …], "precision", "tiles"}, or {"error"}.
    """
    with _ONE_AT_A_TIME:
        return _told(lambda: _begin(task))


def _begin(task: SlideTask) -> dict[str, Any]:
    from pathotune.execution.job import run_job
    from pathotune.inference.finished import document_of, finished_store
    from pathotune.inference.predict import predict_slide
    from pathotune.inference.predictions import PredictionStore
    from pathotune.inference.stream import StoreStream
    from pathotune.methods import stage_of
    from pathotune.methods.checkpoint import Tuning
    from pathotune.methods.fitting import check_slide
    from pathotune.slides import open_slide
    from pathotune.tiles.grid import tile_grid
    from pathotune.tiles.tissue import tissue_mask

    tuning, called = Tuning.load(Path(task.tuning)), task.name or task.slide
    if stage_of(tuning.method, "predictor") is not None:  # not tile by tile: such a method does a slide in its own way
        return {"result": result_of(run_job(_job(task), backbones=_BACKBONES))}
    with open_slide(task.slide, mpp=task.mpp, icc=tuning.reading.icc) as slide:
        slide.require_mpp()
        check_slide(tuning, slide)
        if task.options.get("resume", True):
            finished = finished_store(Path(task.store), slide.fingerprint, tuning, task.options)
            if finished is not None:
                return {"result": document_of(finished, called, "resumed")}
        mask = tissue_mask(slide)
        options = _options(task, tuning)
        stride, box = options.get("stride_px"), options.get("box_px0")
        tiles = tile_grid(slide, tuning.reading, tissue=mask, stride_px=stride, box_px0=box)
        is_small = len(tiles) <= task.split_above
        options |= {"tissue": mask, "name": task.name or None, "cancel": lambda: not is_small}
        result = result_of(predict_slide(slide, tuning, task.folder, **options))
        if is_small or result["status"] != "cancelled":
            if result["store"]:
                _draw(task, PredictionStore.open(result["store"]), slide)
            return {"result": result}
    store = PredictionStore.open(result["store"])
    stream = StoreStream(store, tiles.row, tiles.column)
    done = stream.take_over(whole_units=True)
    stream.close()
    units = np.unique(stream.unit_of(np.flatnonzero(~done)))
    planned = np.bincount(store.grid.unit_of(tiles.row, tiles.column), minlength=int(np.prod(store.grid.units_shape)))
    return {
        "store": result["store"],
        "units": [int(unit) for unit in units],
        "planned": {int(unit): int(count) for unit, count in enumerate(planned) if count},
        "precision": store.attrs["identity"]["precision"],
        "tiles": len(tiles),
    }


def fill(task: SlideTask, store: str, unit: int, precision: str) -> dict[str, Any]:
    """Predict the tiles of one work unit into a store of their own; {"part": path, "tiles", "rate"} or {"error"}."""
    with _ONE_AT_A_TIME:
        return _told(lambda: _fill(task, store, unit, precision))


def _fill(task: SlideTask, store: str, unit: int, precision: str) -> dict[str, Any]:
    from pathotune.inference.predict import predict_slide
    from pathotune.inference.predictions import PredictionStore
    from pathotune.methods.checkpoint import Tuning
    from pathotune.slides import open_slide

    whole, tuning = PredictionStore.open(store), Tuning.load(Path(task.tuning))
    cells = whole.grid.unit(unit)
    box = whole.grid.box_px0(cells.row, cells.column, cells.rows, cells.columns)
    options = _options(task, tuning)
    if options.get("box_px0") is not None:
        box = _common(box, options["box_px0"])
    options |= {"box_px0": box, "precision": precision, "resume": True, "on_mismatch": "restart"}
    options |= {"reliability": bool(whole.reliability_names), "features": bool(whole.attrs.get("features"))}
    with open_slide(task.slide, mpp=task.mpp, icc=tuning.reading.icc) as slide:
        folder = parts_of(Path(store)) / str(unit)
        result = result_of(predict_slide(slide, tuning, folder, name=task.name or None, **options))
    if PredictionStore.open(store).is_complete:  # done a second time, and after the slide was put together
        shutil.rmtree(parts_of(Path(store)), ignore_errors=True)
    return {"part": result["store"], "tiles": result["tiles"], "rate": result["tiles_per_second"]}


def finish(task: SlideTask, store: str, parts: Mapping[int, str], planned: Mapping[int, int]) -> dict[str, Any]:
    """Move the parts into the slide's store, make its lower levels, and say what it holds; {"result"} or {"error"}."""
    with _ONE_AT_A_TIME:
        return _told(lambda: _finish(task, Path(store), parts, planned))


def _finish(task: SlideTask, path: Path, parts: Mapping[int, str], planned: Mapping[int, int]) -> dict[str, Any]:
    from pathotune.inference.finished import document_of
    from pathotune.inference.leases import leased
    from pathotune.inference.predictions import PredictionStore
    from pathotune.inference.provenance import now
    from pathotune.inference.pyramids import write_pyramid
    from pathotune.slides import open_slide

    with leased(path):
        store = PredictionStore.open(path)
        for unit, part in sorted(parts.items()):
            _adopt(store, PredictionStore.open(part), unit, planned[unit])
        store.save_attributes()
        for unit in sorted(planned):
            values = store.read_unit(store.grid.unit(unit))
            if values is None:
                raise StoreBusy(path.name)  # damaged since: the next run makes it again
            write_pyramid(store, store.grid.unit(unit), values)
        store.finish("complete", finished=now(), workers="cluster")
        shutil.rmtree(parts_of(path), ignore_errors=True)
        with open_slide(task.slide, mpp=task.mpp) as slide:
            _draw(task, store, slide)
        return {"result": document_of(store, task.name or task.slide, "done")}


def _draw(task: SlideTask, store: PredictionStore, slide: Slide) -> None:
    """The slide's picture for the contact sheet; a slide without one is predicted all the same."""
    from pathotune.inference.contact_sheet import write_picture

    if task.picture:
        with contextlib.suppress(Exception):  # whatever is odd about its picture, the slide is predicted
            write_picture(store, slide, Path(task.picture))


def parts_of(store: Path) -> Path:
    """Where the parts of a store lie until it is put together."""
    return store.parent / PARTS / store.name


def _adopt(store: PredictionStore, part: PredictionStore, unit: int, planned: int) -> None:
    """The whole files of one work unit from a part's store into the slide's."""
    from pathotune.inference.locations import writing

    cells = store.grid.unit(unit)
    row, column = str(cells.row // store.grid.unit_cells), str(cells.column // store.grid.unit_cells)
    with writing(store.path):
        for kind in store.kinds:
            lead = () if kind == "classes" else ("0",)
            _moved(part.path, store.path, Path(kind, "0", "c", *lead, row, column))
        _moved(part.path, store.path, Path("features", "c", row, column, "0"))
    tiles = part.attrs["shards"].get(str(unit), {}).get("tiles", planned)
    store.attrs["shards"][str(unit)] = {"state": "done", "tiles": tiles, "planned": planned}
    store.attrs["seconds"] = round(float(store.attrs["seconds"]) + float(part.attrs["seconds"]), 3)


def _moved(source: Path, target: Path, file: Path) -> None:
    """Move one file; where it is gone already, an earlier try of this task moved it."""
    if (source / file).exists():
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        os.replace(source / file, target / file)


def _options(task: SlideTask, tuning: Any) -> dict[str, Any]:
    """What `predict_slide` takes, with the backbone this worker has loaded."""
    from pathotune.execution.job import tuning_backbone

    options = dict(task.options)
    backbone = tuning_backbone(tuning, options.pop("backbone", None), options.pop("weights", None), _BACKBONES)
    return {"backbone": backbone, **{name: value for name, value in options.items() if value is not None}}


def _job(task: SlideTask) -> Any:
    """The task as a job for one slide."""
    from pathotune.execution.job import Job

    of_slide = {"slide": task.slide, "slide_mpp": task.mpp, "tuning": task.tuning, "out": task.folder}
    return Job("predict", {**task.options, **of_slide})


def _common(one: tuple[float, float, float, float], other: Any) -> tuple[float, float, float, float]:
    """The box that two boxes (x, y, width, height) share."""
    x, y = max(one[0], other[0]), max(one[1], other[1])
    right, bottom = min(one[0] + one[2], other[0] + other[2]), min(one[1] + one[3], other[1] + other[3])
    return x, y, max(0.0, right - x), max(0.0, bottom - y)


def _told(work: Any) -> dict[str, Any]:
    """What a task answers; an error with a sentence is an answer, anything else is tried again on another worker."""
    try:
        answer: dict[str, Any] = work()
        return answer
    except StoreBusy as error:
        return {"error": str(error), "kind": "StoreBusy", "of_one_slide": True}
    except PathotuneError as error:
        from pathotune.errors import TuningMismatch
        from pathotune.execution.batch import OF_ONE_SLIDE

        is_own = isinstance(error, (*OF_ONE_SLIDE, MissingPixelSize, NotFinite, TuningMismatch))
        return {"error": str(error), "kind": type(error).__name__, "of_one_slide": is_own}
