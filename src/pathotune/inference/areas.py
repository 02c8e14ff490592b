"""How much of a slide, or of a drawn region, each class covers, with what is abstained and what nobody predicted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pathotune.inference.cells import labels_of
from pathotune.inference.plan import Grid

if TYPE_CHECKING:
    from shapely.geometry.base import BaseGeometry


@dataclass(frozen=True)
class Areas:
    """Areas in mm² inside one outline.

    name : what the outline is called.
    classes : area of each class.
    abstained_mm2 : predicted, but not surely enough to count for a class.
    unpredicted_mm2 : the rest of the outline: glass, and tissue that nobody predicted.
    """

    name: str
    classes: dict[str, float]
    abstained_mm2: float
    unpredicted_mm2: float

    @property
    def predicted_mm2(self) -> float:
        """All classes and what is abstained."""
        return sum(self.classes.values()) + self.abstained_mm2

    def percent(self) -> dict[str, float]:
        """Share of each class in the predicted area, in percent; what is missing to 100 is abstained."""
        whole = self.predicted_mm2
        return {name: 100 * area / whole if whole else 0.0 for name, area in self.classes.items()}

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form, percentages included."""
        return {**asdict(self), "predicted_mm2": self.predicted_mm2, "percent": self.percent()}


def class_areas(
    probabilities: NDArray[np.floating[Any]],
    grid: Grid,
    class_names: Sequence[str],
    geometry: BaseGeometry | None = None,
    *,
    abstain_below: float = 0.0,
    name: str = "slide",
) -> Areas:
    """Areas of the classes inside an outline.

    Parameters
    ----------
    probabilities : (class, row, column), 0 where nothing is predicted.
    grid : where the cells lie.
    class_names : in the order of the probabilities.
    geometry : the outline in level-0 pixels; None takes the whole grid. A cell on its border counts by the share of it
        that lies inside, so outlines that share a border share no area.
    abstain_below : cells whose largest probability is smaller count as abstained.
    name : what the outline is called.
    """
    shares: NDArray[Any]
    if geometry is None:
        first, shares = (0, 0), np.ones(probabilities.shape[1:])
        whole = float(shares.size)
    else:
        first, shares = _shares(geometry, grid)
        whole = float(geometry.area) / (grid.stride_px0[0] * grid.stride_px0[1])
    rows, columns = shares.shape
    part = probabilities[:, first[0] : first[0] + rows, first[1] : first[1] + columns]
    labels = labels_of(part)
    unsure = (labels > 0) & (part.max(axis=0) < abstain_below)
    cells = np.bincount(
        np.where(unsure, len(class_names) + 1, labels).ravel(), weights=shares.ravel(), minlength=len(class_names) + 2
    )
    predicted = float(cells[1:].sum())
    mm2 = grid.cell_area_mm2
    return Areas(
        name,
        {label: float(count) * mm2 for label, count in zip(class_names, cells[1:-1], strict=True)},
        float(cells[-1]) * mm2,
        max(0.0, whole - predicted) * mm2,
    )


def _shares(geometry: BaseGeometry, grid: Grid) -> tuple[tuple[int, int], NDArray[np.float64]]:
    """First row and column of the cells around an outline, and the share of each cell that lies inside."""
    import shapely

    x0, y0, width, height = grid.box_px0(0, 0, 1, 1)
    # In units of cells, so that cell (r, c) is the unit square at (c, r).
    outline = shapely.transform(geometry, lambda points: (points - (x0, y0)) / (width, height))
    if outline.is_empty:
        return (0, 0), np.zeros((0, 0))
    left, top, right, bottom = outline.bounds
    columns = np.arange(max(0, int(np.floor(left))), min(grid.columns, int(np.ceil(right))))
    rows = np.arange(max(0, int(np.floor(top))), min(grid.rows, int(np.ceil(bottom))))
    if not (len(rows) and len(columns)):
        return (0, 0), np.zeros((0, 0))
    squares = shapely.box(columns[None], rows[:, None], columns[None] + 1, rows[:, None] + 1)
    shapely.prepare(outline)
    inside = shapely.contains_properly(outline, squares)
    border = shapely.intersects(outline, squares) & ~inside
    shares = inside.astype(np.float64)
    shares[border] = shapely.area(shapely.intersection(outline, squares[border]))
    return (int(rows[0]), int(columns[0])), shares
