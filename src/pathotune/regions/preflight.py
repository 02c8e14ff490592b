"""What a training would make of drawn regions, before it starts: tiles, which side of the split, or why not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pathotune.errors import NoTiles
from pathotune.regions.labelled import LabelledTiles, RegionReport, merge_tiles
from pathotune.regions.region import Regions
from pathotune.regions.sampling import label_tiles
from pathotune.regions.split import split_tiles


@dataclass(frozen=True)
class DrawnSlide:
    """One slide and what is drawn on it.

    Parameters
    ----------
    name : of the slide.
    regions : in its level-0 pixels.
    size_px0 : width and height of the slide.
    tile_px0 : width and height of a tile on it.
    patient : whose slide it is; "" where nobody said.
    """

    name: str
    regions: Regions
    size_px0: tuple[float, float]
    tile_px0: tuple[float, float]
    patient: str = ""


@dataclass(frozen=True)
class PreflightRow:
    """What one region would give: its tiles on either side, or the sentence that says why none."""

    slide: int
    region: int
    class_name: str | None
    name: str
    train: int
    validation: int
    reason: str = ""
    cause: str = ""

    @property
    def tiles(self) -> int:
        """Tiles on both sides."""
        return self.train + self.validation

    @property
    def use(self) -> str:
        """ "training", "validation", "both" or "not used"."""
        if self.train and self.validation:
            return "both"
        return "training" if self.train else "validation" if self.validation else "not used"


@dataclass(frozen=True)
class Preflight:
    """What all regions would give.

    Parameters
    ----------
    rows : one a region, in the order of slides and regions.
    tiles_per_class : usable tiles of each class, on both sides.
    notes : sentences on the split.
    problem : why a training cannot start with these regions; "" where it can.
    """

    rows: tuple[PreflightRow, ...] = ()
    tiles_per_class: dict[str, int] | None = None
    notes: tuple[str, ...] = ()
    problem: str = ""

    @property
    def tiles(self) -> int:
        """Usable tiles."""
        return sum((self.tiles_per_class or {}).values())


def preflight(
    slides: Sequence[DrawnSlide],
    class_names: Sequence[str] | None = None,
    *,
    by: str = "region",
    fraction: float = 0.25,
    seed: int = 0,
) -> Preflight:
    """Lay and split the tiles of drawn regions as a training would, without reading a pixel.

    Parameters
    ----------
    class_names : the classes to learn; those drawn where None.
    by, fraction, seed : of the split, as in `split_tiles`.
    """
    names = list(class_names) if class_names is not None else _drawn_classes(slides)
    parts: list[LabelledTiles] = []
    reports: list[list[RegionReport]] = []
    for slide in slides:
        tiles, report = label_tiles(slide.regions, slide.size_px0, slide.tile_px0, names)
        parts.append(tiles)
        reports.append(report)
    if not parts:
        return Preflight(problem="No slide is chosen.")
    merged = merge_tiles(parts, [slide.patient or f"slide {number}" for number, slide in enumerate(slides)])
    is_validation = np.zeros(len(merged), dtype=bool)
    is_used = np.ones(len(merged), dtype=bool)
    notes: tuple[str, ...] = ()
    problem = ""
    try:
        split = split_tiles(merged, by=by, fraction=fraction, seed=seed)
    except NoTiles as error:
        problem = str(error)
    else:
        notes = tuple(split.notes)
        is_validation[split.validation] = True
        is_used[:] = False
        is_used[split.train] = is_used[split.validation] = True
    rows: list[PreflightRow] = []
    for number, found in enumerate(reports):
        own = merged.slide == number
        train, validation = (
            np.bincount(merged.region[own & side], minlength=len(found))
            for side in (is_used & ~is_validation, is_used & is_validation)
        )
        rows += [_row(number, report, int(train[report.region]), int(validation[report.region])) for report in found]
    return Preflight(tuple(rows), merged.tiles_per_class, notes, problem)


def _drawn_classes(slides: Sequence[DrawnSlide]) -> list[str]:
    names = {name for slide in slides for name in slide.regions.class_names()}
    return sorted(names, key=str.casefold)


def _row(slide: int, report: RegionReport, train: int, validation: int) -> PreflightRow:
    reason = report.reason
    if report.tiles and not train + validation:
        reason = "All its tiles overlap tiles of a validation region, so they are left out of the training."
    return PreflightRow(slide, report.region, report.class_name, report.name, train, validation, reason, report.cause)
