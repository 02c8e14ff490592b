"""The predicted tiles of a store as a table: where each lies, what was said of it and how far that can be trusted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathotune.inference.cells import UnitValues, uncertainty_of
from pathotune.inference.predictions import PredictionStore

Rows = NDArray[np.intp]


@dataclass(frozen=True)
class PredictedTiles:
    """One row per predicted tile, work unit by work unit.

    row, column : (n,) grid cells.
    centres_px0 : (n, 2) x and y in level-0 pixels.
    probabilities : (n, K).
    uncertainty : (n,) 1 - the largest probability.
    distance : (n,) from what the tuning was trained on, or None where the store does not keep it.
    features : (n, D) float16, or None where the store does not keep them.
    """

    row: Rows
    column: Rows
    centres_px0: NDArray[np.float64]
    probabilities: NDArray[np.float32]
    uncertainty: NDArray[np.float32]
    distance: NDArray[np.float16] | None
    features: NDArray[np.float16] | None

    def __len__(self) -> int:
        """Number of tiles."""
        return len(self.row)


def predicted_tiles(store: PredictionStore) -> PredictedTiles:
    """Everything the store knows of its predicted tiles; damaged shards are left out."""
    found: list[tuple[Rows, Rows, UnitValues]] = []
    for unit in store.units():
        values = store.read_unit(unit, attention=False)
        if values is not None:
            row, column = np.nonzero(values.probabilities.sum(axis=0) > 0)
            found.append((row + unit.row, column + unit.column, _at(values, row, column)))
    grid, names = store.grid, store.reliability_names

    def joined(pick: Callable[[UnitValues], Any], width: tuple[int, ...], kind: str) -> NDArray[Any]:
        return np.concatenate([np.zeros((0, *width), kind), *(pick(values) for _, _, values in found)])

    row = np.concatenate([np.zeros(0, np.intp), *(rows for rows, _, _ in found)])
    column = np.concatenate([np.zeros(0, np.intp), *(columns for _, columns, _ in found)])
    x, y, width, height = grid.box_px0(0, 0, 1, 1)
    probabilities = joined(lambda values: values.probabilities, (len(store.classes),), "f4")
    distance, features = None, None
    if "distance" in names:
        distance = joined(lambda values: values.reliability, (len(names),), "f2")[:, names.index("distance")]
    if store.features is not None:
        features = joined(lambda values: values.features, (store.features.shape[2],), "f2")
    return PredictedTiles(
        row,
        column,
        np.stack([x + (column + 0.5) * width, y + (row + 0.5) * height], axis=1),
        probabilities,
        uncertainty_of(probabilities.T),
        distance,
        features,
    )


def _at(values: UnitValues, row: Rows, column: Rows) -> UnitValues:
    """The values of these cells of a unit, cells first; attention is left out."""
    return UnitValues(
        values.probabilities[:, row, column].T,
        None,
        None if values.reliability is None else values.reliability[:, row, column].T,
        None if values.features is None else values.features[row, column],
    )
