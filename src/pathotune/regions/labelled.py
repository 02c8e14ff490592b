"""Tiles with a class, and what each region gave or why it gave nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathotune.errors import UsageError

FloatArray = NDArray[np.float64]


@dataclass
class LabelledTiles:
    """Tiles with a class, of one or several slides.

    Parameters
    ----------
    x_px0, y_px0 : (n,) top-left corners in level-0 pixels of their slide.
    label : (n,) index into `class_names`.
    region : (n,) index of the region in its slide's regions.
    slide : (n,) index into the list of slides.
    class_names : the classes.
    width_px0, height_px0 : (n,) size of each tile in level-0 pixels of its slide; 0 where it is not known.
    patients : patient of each slide, by slide index; empty where nobody said (then every slide is its own patient).
    is_correction : (n,) whether the tile is one that was suggested and decided by a person (`Region.is_correction`).
    """

    x_px0: FloatArray
    y_px0: FloatArray
    label: NDArray[np.int64]
    region: NDArray[np.int64]
    slide: NDArray[np.int64]
    class_names: tuple[str, ...]
    width_px0: FloatArray = field(default_factory=lambda: np.zeros(0))
    height_px0: FloatArray = field(default_factory=lambda: np.zeros(0))
    patients: tuple[str, ...] = ()
    is_correction: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, dtype=bool))

    def __post_init__(self) -> None:
        self.class_names = tuple(self.class_names)
        self.patients = tuple(self.patients)
        if not len(self.width_px0):
            self.width_px0 = np.zeros(len(self.x_px0))
        if not len(self.height_px0):
            self.height_px0 = np.zeros(len(self.x_px0))
        if not len(self.is_correction):
            self.is_correction = np.zeros(len(self.x_px0), dtype=bool)

    def __len__(self) -> int:
        return len(self.x_px0)

    def take(self, indices: Any) -> LabelledTiles:
        """The tiles at `indices` (any numpy index)."""
        return LabelledTiles(
            self.x_px0[indices],
            self.y_px0[indices],
            self.label[indices],
            self.region[indices],
            self.slide[indices],
            self.class_names,
            self.width_px0[indices],
            self.height_px0[indices],
            self.patients,
            self.is_correction[indices],
        )

    @property
    def tiles_per_class(self) -> dict[str, int]:
        """How many tiles each class has."""
        counts = np.bincount(self.label, minlength=len(self.class_names))
        return {name: int(count) for name, count in zip(self.class_names, counts, strict=True)}

    def centres_px0(self) -> FloatArray:
        """(n, 2) centres, x then y."""
        return np.stack([self.x_px0 + self.width_px0 / 2, self.y_px0 + self.height_px0 / 2], axis=1)


@dataclass(frozen=True)
class RegionReport:
    """What one region gave.

    Parameters
    ----------
    region : its index.
    class_name, name, kind : as drawn.
    tiles : how many tiles it gave.
    reason : why it gave none, or what was lost; empty where nothing was.
    cause : the same as one word, to count by.
    """

    region: int
    class_name: str | None
    name: str
    kind: str
    tiles: int
    reason: str = ""
    cause: str = ""

    def to_dict(self) -> dict[str, Any]:
        """For JSON and tables."""
        return dict(vars(self))


def merge_tiles(parts: Sequence[LabelledTiles], patients: Sequence[str] = ()) -> LabelledTiles:
    """The tiles of several slides as one; the slide index is the position in `parts`.

    Raises
    ------
    UsageError : the parts do not have the same classes.
    """
    if not parts:
        raise UsageError("There are no slides to take tiles from.")
    classes = parts[0].class_names
    if any(part.class_names != classes for part in parts):
        raise UsageError("The slides' tiles were labelled with different lists of classes; label them with one list.")
    slides = [np.full(len(part), index, dtype=np.int64) for index, part in enumerate(parts)]

    def joined(name: str) -> Any:
        return np.concatenate([getattr(part, name) for part in parts])

    return LabelledTiles(
        joined("x_px0"),
        joined("y_px0"),
        joined("label"),
        joined("region"),
        np.concatenate(slides),
        classes,
        joined("width_px0"),
        joined("height_px0"),
        tuple(patients),
        joined("is_correction"),
    )


def why_no_tiles(reports: Iterable[RegionReport]) -> str:
    """The reasons of all regions that gave no tile, each once with its count; empty where all gave some."""
    counted = Counter(report.reason for report in reports if not report.tiles and report.reason)
    return " ".join(f"{count} × {reason}" if count > 1 else reason for reason, count in counted.most_common())
