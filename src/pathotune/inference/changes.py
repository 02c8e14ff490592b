"""What differs between two predictions of one slide: cells whose class is another, and how much area they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathotune.inference.plan import Grid

NOBODY = -1  # no prediction in this cell


@dataclass(frozen=True)
class Changes:
    """Two predictions laid on the cells of the later one.

    names : classes of both, each once.
    before, after : (rows, columns) int16 index into `names`; -1 where nothing is predicted.
    cell_mm2 : what one cell stands for.
    """

    names: tuple[str, ...]
    before: NDArray[np.int16]
    after: NDArray[np.int16]
    cell_mm2: float

    @property
    def compared(self) -> NDArray[np.bool_]:
        """(rows, columns): predicted both times."""
        return np.asarray((self.before >= 0) & (self.after >= 0))

    @property
    def changed(self) -> NDArray[np.bool_]:
        """(rows, columns): predicted both times, and another class now."""
        return np.asarray(self.compared & (self.before != self.after))

    @property
    def compared_mm2(self) -> float:
        """Area predicted both times."""
        return float(self.compared.sum()) * self.cell_mm2

    @property
    def changed_mm2(self) -> float:
        """Area whose class is another now."""
        return float(self.changed.sum()) * self.cell_mm2

    def by_pair(self) -> list[tuple[str, str, float]]:
        """Class before, class after and mm² of each kind of change, the largest first."""
        here, count = self.changed, len(self.names)
        pairs = self.before[here].astype(np.int64) * count + self.after[here]
        counts = np.bincount(pairs, minlength=count * count)
        order = [int(pair) for pair in np.argsort(-counts, kind="stable") if counts[pair]]
        return [
            (self.names[pair // count], self.names[pair % count], float(counts[pair]) * self.cell_mm2) for pair in order
        ]

    def at(self, row: int, column: int) -> tuple[str, str] | None:
        """Class before and after in a cell; None where it was not predicted both times."""
        first, second = int(self.before[row, column]), int(self.after[row, column])
        return None if min(first, second) < 0 else (self.names[first], self.names[second])


def compare(
    before: NDArray[np.floating[Any]],
    before_grid: Grid,
    before_names: Sequence[str],
    after: NDArray[np.floating[Any]],
    after_grid: Grid,
    after_names: Sequence[str],
) -> Changes:
    """Which cells of the later prediction have another class than the earlier one had in their middle.

    Classes are the same where their names are, so classes that came, went or changed places do no harm, and neither
    does another stride.

    Parameters
    ----------
    before, after : (class, row, column) probabilities, 0 where nothing is predicted.
    before_grid, after_grid : where their cells lie on the slide.
    before_names, after_names : in the order of the probabilities.
    """
    names = tuple(dict.fromkeys([*before_names, *after_names]))
    earlier = _classes(before, [names.index(name) for name in before_names])
    later = _classes(after, [names.index(name) for name in after_names])
    rows = _same_place(after_grid, before_grid, axis=1)
    columns = _same_place(after_grid, before_grid, axis=0)
    laid = np.full(later.shape, NOBODY, dtype=np.int16)
    inside = (rows >= 0)[:, None] & (columns >= 0)[None, :]
    laid[inside] = earlier[np.maximum(rows, 0)][:, np.maximum(columns, 0)][inside]
    return Changes(names, laid, later, after_grid.cell_area_mm2)


def _classes(probabilities: NDArray[np.floating[Any]], numbers: list[int]) -> NDArray[np.int16]:
    """(rows, columns) number of the most probable class, -1 where nothing is predicted."""
    winner = np.asarray(numbers, dtype=np.int16)[probabilities.argmax(axis=0)]
    return np.where(probabilities.sum(axis=0) > 0, winner, np.int16(NOBODY))


def _same_place(grid: Grid, other: Grid, axis: int) -> NDArray[np.intp]:
    """For each row (axis 1) or column (axis 0) of a grid that of the other one its middle lies in; -1 outside."""
    count = (grid.columns, grid.rows)[axis]
    start, size = grid.box_px0(0, 0, 1, 1)[axis], grid.box_px0(0, 0, 1, 1)[axis + 2]
    other_start, other_size = other.box_px0(0, 0, 1, 1)[axis], other.box_px0(0, 0, 1, 1)[axis + 2]
    middles = start + (np.arange(count) + 0.5) * size
    # A middle on a border by rounding alone stays on the side it is meant to be on.
    found = np.floor((middles - other_start) / other_size + 1e-6).astype(np.intp)
    return np.where((found >= 0) & (found < (other.columns, other.rows)[axis]), found, -1)
