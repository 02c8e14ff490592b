"""Marks on the cells of a grid as pictures finer than the grid: outlines, and cells of two colours; pure numpy."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

MOST_PX = 4_000_000  # of a picture: 16 MB
FINEST = 8  # pixels a cell, where there is room
DASH_RGB = ((255, 225, 25), (20, 20, 20))  # no class's colours, and seen on tissue, glass and any overlay


def fineness(shape: tuple[int, ...], most_px: int = MOST_PX) -> int:
    """How many pixels a side a cell can have, so that the picture is no larger than `most_px`."""
    return int(np.clip(np.sqrt(most_px / max(1, shape[0] * shape[1])), 1, FINEST))


def finer(values: Array, factor: int) -> Array:
    """Each cell as factor × factor pixels."""
    return np.repeat(np.repeat(values, factor, axis=0), factor, axis=1)


def placed(
    scale_um: tuple[float, float], translate_um: tuple[float, float], factor: int
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Scale and translation (y, x) of a picture with factor × factor pixels a cell, from those of the cells."""
    scale = scale_um[0] / factor, scale_um[1] / factor
    # The first cell's edge stays where it is; its first pixel's centre lies half a pixel inside.
    y, x = (translate_um[axis] - scale_um[axis] / 2 + scale[axis] / 2 for axis in (0, 1))
    return scale, (y, x)


def outlines(mask: Array, most_px: int = MOST_PX) -> tuple[Array, int]:
    """A dashed line along the inner edge of what is marked; nothing inside, so that what lies below is seen.

    Parameters
    ----------
    mask : bool (rows, columns).

    Returns
    -------
    uint8 (rows × factor, columns × factor, 4), and the factor. Where there is no room for lines (a factor below 3),
    every other marked cell is filled.
    """
    factor = fineness(mask.shape, most_px)
    fine = finer(mask, factor)
    y, x = np.ogrid[: fine.shape[0], : fine.shape[1]]
    if factor < 3:
        line = fine & ((y // factor + x // factor) % 2 == 0)
    else:
        line = fine & ~_inside(fine, max(1, factor // 6))
    picture = np.zeros((*fine.shape, 4), dtype=np.uint8)
    is_dark = (y + x) // 4 % 2 > 0
    picture[line & is_dark] = (*DASH_RGB[1], 255)
    picture[line & ~is_dark] = (*DASH_RGB[0], 255)
    return picture, factor


def _inside(mask: Array, width: int) -> Array:
    """What lies at least this many pixels from all that is not marked."""
    padded = np.pad(mask, width)
    rows, columns = mask.shape
    result = mask.copy()
    for down in (0, width, 2 * width):
        for right in (0, width, 2 * width):
            result &= padded[down : down + rows, right : right + columns]
    return result


def split_cells(mask: Array, first: Array, second: Array, most_px: int = MOST_PX) -> tuple[Array, int]:
    """Marked cells cut from corner to corner: one colour to the upper left, another to the lower right.

    Parameters
    ----------
    mask : bool (rows, columns).
    first, second : uint8 (rows, columns, 3) colours of the upper left and the lower right half.

    Returns
    -------
    uint8 (rows × factor, columns × factor, 4), and the factor; with a factor of 1 only the second colour is seen.
    """
    factor = fineness(mask.shape, most_px)
    y, x = np.ogrid[: mask.shape[0] * factor, : mask.shape[1] * factor]
    is_first = (y % factor + x % factor) < factor - 1
    picture = np.zeros((mask.shape[0] * factor, mask.shape[1] * factor, 4), dtype=np.uint8)
    picture[..., :3] = np.where(is_first[..., None], finer(first, factor), finer(second, factor))
    picture[..., 3] = np.where(finer(mask, factor), 255, 0)
    return picture, factor
