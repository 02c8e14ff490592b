"""How much of a slide and of each drawn region every class covers, as rows of a table and as text: no viewer, no Qt."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from napari_pathotune.overlay import ClassGrid

if TYPE_CHECKING:
    from pathotune.inference.areas import Areas
    from pathotune.inference.plan import Grid
    from pathotune.regions.region import Region

COLUMNS = ("place", "class", "area_mm2", "percent_of_predicted")
SLIDE = "Whole slide"
ABSTAINED, UNPREDICTED = "(abstained)", "(not predicted)"
NOTE = "Research use only, not for diagnosis."


def areas_of(grid: ClassGrid, mpp: tuple[float, float], regions: Sequence[Region] = ()) -> list[Areas]:
    """The slide first, then each region with an area, in their order; what the grid abstains on belongs to no class.

    Parameters
    ----------
    grid : what is predicted.
    mpp : (x, y) micrometres per level-0 pixel.
    regions : drawn outlines in level-0 pixels.
    """
    from pathotune.inference.areas import class_areas

    cells, below = cells_of(grid, mpp), grid.abstain_below
    places = [(SLIDE, None), *((name, region.geometry) for name, region in named_outlines(regions))]
    return [
        class_areas(grid.probabilities, cells, grid.class_names, outline, abstain_below=below, name=name)
        for name, outline in places
    ]


def cells_of(grid: ClassGrid, mpp: tuple[float, float]) -> Grid:
    """The cells of a class grid in level-0 pixels, each as large as the area it stands for."""
    from pathotune.inference.plan import Grid

    stride = grid.scale_um[1] / mpp[0], grid.scale_um[0] / mpp[1]
    # A point x in level-0 pixels lies at (x - 0.5) * mpp; the translation is the first cell's centre.
    origin = tuple(grid.translate_um[1 - axis] / mpp[axis] + 0.5 - stride[axis] / 2 for axis in (0, 1))
    return Grid(grid.shape[0], grid.shape[1], (origin[0], origin[1]), stride, stride, mpp)


def named_outlines(regions: Iterable[Region]) -> list[tuple[str, Region]]:
    """Regions that enclose something, each with a name that no other has: its own, or its class and a number."""
    found, seen = [], Counter[str]()
    for region in regions:
        if region.geometry.area <= 0:
            continue
        name = region.name or region.class_name or "Region"
        seen[name] += 1
        found.append((name, seen[name], region))
    return [
        (f"{name} {number}" if seen[name] > 1 or not region.name else name, region) for name, number, region in found
    ]


def rows_of(areas: Iterable[Areas]) -> list[tuple[str, str, float, float | None]]:
    """Place, class, mm² and percent of what is predicted there, one row per class of each place."""
    rows: list[tuple[str, str, float, float | None]] = []
    for place in areas:
        percent = place.percent()
        rows += [(place.name, name, area, percent[name]) for name, area in place.classes.items()]
        if place.abstained_mm2:
            rows.append((place.name, ABSTAINED, place.abstained_mm2, None))
        rows.append((place.name, UNPREDICTED, place.unpredicted_mm2, None))
    return rows


def table_text(areas: Iterable[Areas], comments: Iterable[str] = (), separator: str = ",") -> str:
    """The table as text: lines of what it is (each with a #), the columns' names, then a line per row.

    Parameters
    ----------
    comments : what the numbers are of; the note on their use is always added.
    separator : a comma for a file, a tab for the clipboard, which spreadsheets take apart.
    """
    out = io.StringIO()
    for comment in (*comments, NOTE):
        out.write(f"# {' '.join(comment.split())}\n")
    writer = csv.writer(out, delimiter=separator, lineterminator="\n")
    writer.writerow(COLUMNS)
    for place, name, area, percent in rows_of(areas):
        writer.writerow([place, name, f"{area:.6f}", "" if percent is None else f"{percent:.2f}"])
    return out.getvalue()
