"""The lower pyramid levels of a prediction store: means of values, majorities of classes, written unit by unit."""

from __future__ import annotations

import logging
import shutil
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from pathotune.inference.cells import UnitValues, labels_of, majority, mean_of_four, sum_of_four, votes_of
from pathotune.inference.plan import Grid, Kind, Unit

if TYPE_CHECKING:
    from pathotune.inference.predictions import PredictionStore

_LOG = logging.getLogger(__name__)


def write_pyramid(store: PredictionStore, unit: Unit, values: UnitValues) -> None:
    """Bring the lower levels up to date under one unit: over predicted cells only, means, and the commonest class."""
    smaller: NDArray[Any] = values.probabilities
    votes = votes_of(labels_of(smaller), len(smaller))
    for level in range(1, store.grid.levels("probabilities")):
        smaller = _write_halved(store, "probabilities", level, unit, smaller)
        votes = sum_of_four(votes)[:, : smaller.shape[1], : smaller.shape[2]]
        part = _part_of_level(store.grid, "classes", level, unit)
        store.array("classes", level)[part] = majority(votes, smaller)
    if values.attention is not None and store.sources:
        smaller = values.attention
        for level in range(1, store.grid.levels("attention")):
            smaller = _write_halved(store, "attention", level, unit, smaller)


def repair_pyramids(store: PredictionStore) -> None:
    """Make the lower levels again where one of them is damaged."""
    damaged = False
    for kind in store.kinds:
        for level in range(1, store.grid.levels(kind)):
            try:
                store.array(kind, level)[:]
            except Exception as error:  # zarr, numcodecs and the disk each have their own
                _LOG.warning("%s: %s/%d is damaged and will be made again (%s).", store.path.name, kind, level, error)
                shutil.rmtree(store.path / kind / str(level) / "c", ignore_errors=True)
                damaged = True
    for unit in store.units() if damaged else ():
        values = store.read_unit(unit)
        if values is not None:
            write_pyramid(store, unit, values)


def _part_of_level(grid: Grid, kind: Kind, level: int, unit: Unit) -> tuple[slice, slice]:
    y, x = grid.per_cell(kind)
    shape = grid.shape(kind, level)
    first = (unit.row * y >> level, unit.column * x >> level)
    last = (-(-(unit.row + unit.rows) * y >> level), -(-(unit.column + unit.columns) * x >> level))
    return slice(first[0], min(last[0], shape[0])), slice(first[1], min(last[1], shape[1]))


def _write_halved(store: PredictionStore, kind: Kind, level: int, unit: Unit, values: NDArray[Any]) -> NDArray[Any]:
    """Write one lower level under a unit and return it."""
    part = _part_of_level(store.grid, kind, level, unit)
    smaller = mean_of_four(values)[:, : part[0].stop - part[0].start, : part[1].stop - part[1].start]
    store.array(kind, level)[(slice(None), *part)] = smaller
    return smaller
