"""Where a regions file's origin lies on the slide, and why regions would lie off it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pathotune.errors import RegionsOffSlide, UsageError
from pathotune.regions.geojson import total_bounds
from pathotune.regions.region import Region

if TYPE_CHECKING:
    from pathotune.slides.slide import Slide

ORIGINS = ("auto", "canvas", "bounds")
TOLERATED = 0.01  # part of the regions that may lie off the slide
FACTORS = (2, 4, 8, 16, 32, 64)  # between the magnifications people export at


def check_origin(origin: str) -> None:
    """Raise UsageError where there is no such origin."""
    if origin not in ORIGINS:
        raise UsageError(f"There is no origin {origin!r}; use {', '.join(ORIGINS)}.")


def file_origin_px0(
    origin: str, ours: dict[str, Any], is_geojson: bool, slide: Slide | None
) -> tuple[tuple[float, float], list[str]]:
    """What has to be added to a file's coordinates to get the slide's canvas, and sentences about doubts.

    "canvas" adds nothing and "bounds" the corner of the vendor's bounds. "auto" follows what the file itself says (ours
    do), else QuPath's convention for GeoJSON (the bounds) and that of ASAP and ImageScope for XML (the canvas).

    Raises
    ------
    UsageError : an unknown origin, or "bounds" without a slide to take them from.
    """
    check_origin(origin)
    if origin == "canvas":
        return (0.0, 0.0), []
    bounds = None if slide is None else (float(slide.bounds_px0[0]), float(slide.bounds_px0[1]))
    if origin == "bounds":
        if bounds is None:
            raise UsageError("The origin 'bounds' needs the slide that the regions belong to; name it.")
        return bounds, []
    stored = _stored_offset(ours)
    if stored is None:
        return (bounds or (0.0, 0.0)) if is_geojson else (0.0, 0.0), []
    if bounds is not None and any(stored) and np.abs(np.subtract(stored, bounds)).max() > 1:
        doubt = (
            f"The regions were written for a slide whose bounds start at {stored[0]:g}, {stored[1]:g}, and here they "
            f"start at {bounds[0]:g}, {bounds[1]:g}: check that it is the same slide."
        )
        return stored, [doubt]
    return stored, []


def _stored_offset(ours: dict[str, Any]) -> tuple[float, float] | None:
    offset = ours.get("offset_px0")
    if not isinstance(offset, list) or len(offset) != 2 or not all(isinstance(part, int | float) for part in offset):
        return None
    return float(offset[0]), float(offset[1])


def is_off(boxes: NDArray[np.float64], size: tuple[float, float]) -> NDArray[np.bool_]:
    """Which boxes (n, 4: x0, y0, x1, y1) have their centre outside a picture of that width and height."""
    x, y = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
    return np.asarray((x < 0) | (y < 0) | (x > size[0]) | (y > size[1]))


def check_on_slide(regions: Iterable[Region], slide: Slide, offset_px0: tuple[float, float], name: str) -> list[str]:
    """Sentences about the few regions that lie off the slide (off its bounds, where coordinates count from those).

    Parameters
    ----------
    offset_px0 : what was added to the file's coordinates.
    name : the file's name for the sentences.

    Raises
    ------
    RegionsOffSlide : more than one in a hundred lie off; the sentence names the likely cause.
    """
    boxes = total_bounds(regions) - np.tile(offset_px0, 2)
    size = _size(slide, is_bounds=any(offset_px0))
    off = is_off(boxes, size)
    if not off.any():
        return []
    few = f"{int(off.sum())} of {len(boxes)} regions in {name} lie off the slide {slide.name}"
    if off.mean() <= TOLERATED:
        return [f"{few}; they give no tiles."]
    reach = boxes[:, 2:].max(axis=0)
    raise RegionsOffSlide(
        f"{few}, which is {size[0]:.0f} × {size[1]:.0f} pixels, while the regions reach to {reach[0]:.0f}, "
        f"{reach[1]:.0f}. {likely_cause(boxes, slide, is_bounds=any(offset_px0))}"
    )


def likely_cause(boxes: NDArray[np.float64], slide: Slide, *, is_bounds: bool) -> str:
    """Try the usual mistakes on the boxes, as they stand in the file, and say which one would bring them all on."""
    size = _size(slide, is_bounds)

    def lands(moved: NDArray[np.float64], size: tuple[float, float] = size) -> bool:
        return bool(is_off(moved, size).mean() <= TOLERATED)

    if any(slide.bounds_px0[:2]) and lands(boxes, _size(slide, not is_bounds)):
        wanted = "canvas" if is_bounds else "bounds"
        return f"They fit with the origin of the slide's {wanted}: read them with --origin {wanted}."
    if lands(boxes[:, [1, 0, 3, 2]]):
        return "They fit with x and y swapped: export them with x first, as GeoJSON has it."
    if lands(boxes[:, [0, 3, 2, 1]] * [1, -1, 1, -1]):
        return "They fit with the y axis turned over: export them with y pointing down."
    for factor in sorted({*(float(known) for known in FACTORS), *(level.downsample for level in slide.levels)}):
        if factor > 1.05 and lands(boxes / factor):
            return (
                f"They fit when divided by {factor:g}: either they were drawn on a picture {factor:g} times as large, "
                "or they belong to another slide."
            )
    return "Most likely they belong to another slide: check which slide they were drawn on."


def _size(slide: Slide, is_bounds: bool) -> tuple[float, float]:
    """Width and height of what coordinates count over: the vendor's bounds or the whole canvas."""
    if is_bounds:
        return float(slide.bounds_px0[2]), float(slide.bounds_px0[3])
    return float(slide.width_px0), float(slide.height_px0)
