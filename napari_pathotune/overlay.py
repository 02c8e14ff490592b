"""What one prediction looks like: probabilities in memory, composited into one picture that is repainted in parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

# A class that wins by a hair is painted this faintly; a certain one fully.
FAINTEST = 0.25
# What is abstained is no class's colour: two greys that take turns from cell to cell.
ABSTAINED_RGB, ABSTAINED_DARK_RGB = (168, 168, 168), (72, 72, 72)
ABSTAINED_ALPHA = 0.85


@dataclass(frozen=True)
class Reading:
    """What the prediction says at one place; `is_abstained` where it is not sure enough to count."""

    class_name: str
    probability: float
    second_class: str
    second_probability: float
    is_abstained: bool = False


class ClassGrid:
    """Class probabilities on a slide's grid of tiles, and the picture composited from them.

    Parameters
    ----------
    probabilities : float array (classes, rows, columns); all zero where nothing is predicted.
    class_names, colors : one name and one (r, g, b) 0-255 per class.
    scale_um, translate_um : (y, x) size of a cell and centre of cell (0, 0) in micrometres.
    """

    def __init__(
        self,
        probabilities: Array,
        class_names: tuple[str, ...],
        colors: Array,
        scale_um: tuple[float, float],
        translate_um: tuple[float, float],
    ) -> None:
        self.probabilities = np.ascontiguousarray(probabilities, dtype=np.float32)  # (classes, rows, columns)
        self.class_names = tuple(class_names)
        self.colors = np.asarray(colors, dtype=np.uint8).reshape(-1, 3)
        self.scale_um, self.translate_um = scale_um, translate_um
        self.visible = np.ones(len(self.class_names), dtype=bool)
        self.is_empty = not self.probabilities.any()  # nothing is predicted
        self.fade = True
        self.abstain_below = 0.0  # cells whose largest probability is smaller belong to no class
        self.shows_abstained = True
        self.watchers: list[Callable[[slice, slice], None]] = []  # told which rows and columns were put
        self.shown_class = 0
        self.rgba = np.zeros((*self.shape, 4), dtype=np.uint8)  # (rows, columns, 4)
        self.shown = np.full(self.shape, np.nan, dtype=np.float32)  # (rows, columns), NaN where not predicted
        self.paint()

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the grid."""
        return self.probabilities.shape[1], self.probabilities.shape[2]

    def is_like(self, other: ClassGrid) -> bool:
        """Whether the other has the same classes and the same cells in the same place, whatever is predicted."""
        return (
            self.class_names == other.class_names
            and self.shape == other.shape
            and bool(np.array_equal(self.colors, other.colors))
            and bool(np.allclose((*self.scale_um, *self.translate_um), (*other.scale_um, *other.translate_um)))
        )

    @property
    def predicted_cells(self) -> int:
        """How many cells have a prediction."""
        return int((self.probabilities.sum(axis=0) > 0).sum())

    def paint(self, rows: slice = slice(None), columns: slice = slice(None)) -> None:
        """Composite the picture and the shown probability again, in this part only."""
        part = self.probabilities[:, rows, columns]
        predicted = part.sum(axis=0) > 0
        winner = part.argmax(axis=0)
        alpha = np.where(predicted & self.visible[winner], 1.0, 0.0)
        if self.fade:
            alpha = alpha * certainty(part)
        picture = self.rgba[rows, columns]
        picture[..., :3] = self.colors[winner]
        if self.abstain_below > 0:
            unsure = self.abstained(rows, columns)
            is_dark = (np.arange(self.shape[0])[rows, None] + np.arange(self.shape[1])[None, columns]) % 2 > 0
            picture[unsure & is_dark, :3] = ABSTAINED_DARK_RGB
            picture[unsure & ~is_dark, :3] = ABSTAINED_RGB
            alpha = np.where(unsure, ABSTAINED_ALPHA * self.shows_abstained, alpha)
        picture[..., 3] = np.round(alpha * 255)
        self.shown[rows, columns] = np.where(predicted, part[self.shown_class], np.nan)

    def put(self, probabilities: Array, row: int, column: int) -> None:
        """Take over newly predicted cells whose first one is (row, column), and repaint them.

        Parameters
        ----------
        probabilities : float array (classes, rows, columns) of the part.
        """
        rows = slice(row, row + probabilities.shape[1])
        columns = slice(column, column + probabilities.shape[2])
        self.probabilities[:, rows, columns] = probabilities
        # Asked at every move of the mouse, so it is counted only where something was taken away.
        self.is_empty = not (probabilities.any() or (not self.is_empty and self.probabilities.any()))
        self.paint(rows, columns)
        for watcher in self.watchers:
            watcher(rows, columns)

    def abstained(self, rows: slice = slice(None), columns: slice = slice(None)) -> Array:
        """(rows, columns) bool: predicted, but with a largest probability below `abstain_below`."""
        largest = self.probabilities[:, rows, columns].max(axis=0)
        result: Array = (largest > 0) & (largest < self.abstain_below)
        return result

    def take_choices(self, other: ClassGrid) -> None:
        """Show what the other shows, where both have the same classes; how sure is sure enough always stays."""
        self.abstain_below, self.shows_abstained = other.abstain_below, other.shows_abstained
        if self.class_names == other.class_names:
            self.visible, self.fade, self.shown_class = other.visible, other.fade, other.shown_class
        self.paint()

    def show_class(self, index: int) -> None:
        """Choose the class whose probability `shown` holds."""
        self.shown_class = index
        self.paint()

    def cell_at(self, y_um: float, x_um: float) -> tuple[int, int] | None:
        """Row and column of the cell at a place in micrometres; None beside the grid."""
        row = round((y_um - self.translate_um[0]) / self.scale_um[0])
        column = round((x_um - self.translate_um[1]) / self.scale_um[1])
        return (row, column) if 0 <= row < self.shape[0] and 0 <= column < self.shape[1] else None

    def at(self, y_um: float, x_um: float) -> Reading | None:
        """What is predicted at a place in micrometres, or None."""
        cell = self.cell_at(y_um, x_um)
        if cell is None:
            return None
        values = self.probabilities[:, cell[0], cell[1]]
        if values.sum() <= 0:
            return None
        order = np.argsort(values)[::-1]
        first, second = int(order[0]), int(order[min(1, len(order) - 1)])
        largest, next_one = float(values[first]), float(values[second])
        # Compared in the grid's own precision, as the picture and the areas are.
        is_abstained = bool(values[first] < self.abstain_below)
        return Reading(self.class_names[first], largest, self.class_names[second], next_one, is_abstained)

    @property
    def cell_mm2(self) -> float:
        """What one cell stands for, in square millimetres."""
        return self.scale_um[0] * self.scale_um[1] / 1e6

    @property
    def abstained_mm2(self) -> float:
        """Area that is predicted, but not surely enough."""
        return int(self.abstained().sum()) * self.cell_mm2 if self.abstain_below > 0 else 0.0

    def areas_mm2(self) -> dict[str, float]:
        """Predicted area of each class in square millimetres, without what is abstained."""
        predicted = (self.probabilities.sum(axis=0) > 0) & ~self.abstained()
        counts = np.bincount(self.probabilities.argmax(axis=0)[predicted], minlength=len(self.class_names))
        return {name: float(count * self.cell_mm2) for name, count in zip(self.class_names, counts, strict=True)}

    def cells_of(self, box_px0: tuple[float, float, float, float], mpp: tuple[float, float]) -> tuple[slice, slice]:
        """The rows and columns whose centres a box in level-0 pixels holds, clipped to the grid.

        Parameters
        ----------
        mpp : (x, y) micrometres per level-0 pixel.
        """
        x, y, width, height = box_px0
        parts = []
        for start, length, size, scale, translate, count in (
            (y, height, mpp[1], self.scale_um[0], self.translate_um[0], self.shape[0]),
            (x, width, mpp[0], self.scale_um[1], self.translate_um[1], self.shape[1]),
        ):
            # A point x in level-0 pixels lies at (x - 0.5) * mpp: the first pixel's centre is at 0.
            first = int(np.ceil(((start - 0.5) * size - translate) / scale - 1e-6))
            last = int(np.floor(((start + length - 0.5) * size - translate) / scale + 1e-6))
            parts.append(slice(min(max(first, 0), count), min(max(last + 1, 0), count)))
        return parts[0], parts[1]


def certainty(probabilities: Array) -> Array:
    """How clearly the winner leads: `FAINTEST` when all classes are equal, 1 when it has everything.

    Parameters
    ----------
    probabilities : float array (classes, rows, columns).

    Returns
    -------
    float array (rows, columns).
    """
    classes = probabilities.shape[0]
    if classes < 2:
        return np.ones(probabilities.shape[1:], dtype=np.float32)
    lead = (probabilities.max(axis=0) - 1 / classes) / (1 - 1 / classes)
    result: Array = FAINTEST + (1 - FAINTEST) * np.clip(lead, 0, 1)
    return result


def entropy(probabilities: Array) -> Array:
    """How undecided each cell is: 0 where one class has everything, 1 where all classes are equally likely.

    The entropy of the class probabilities divided by its largest possible value.

    Parameters
    ----------
    probabilities : float array (classes, rows, columns); all zero where nothing is predicted.

    Returns
    -------
    float32 array (rows, columns); NaN where nothing is predicted.
    """
    classes = probabilities.shape[0]
    terms = np.where(probabilities > 0, probabilities, 1.0)
    found = -(probabilities * np.log(terms)).sum(axis=0) / np.log(max(classes, 2))
    result: Array = np.where(probabilities.sum(axis=0) > 0, np.clip(found, 0, 1), np.nan).astype(np.float32)
    return result
