"""The regular grid of tiles over a slide, and the selection of those that matter."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pathotune.errors import UsageError
from pathotune.tiles.tileset import Reading, TileSet
from pathotune.tiles.tissue import TissueMask

if TYPE_CHECKING:
    from pathotune.slides.slide import Slide


def tile_grid(
    slide: Slide,
    reading: Reading,
    *,
    stride_px: int | None = None,
    box_px0: tuple[float, float, float, float] | None = None,
    polygon: Any | None = None,
    tissue: TissueMask | None = None,
    min_tissue: float = 0.25,
) -> TileSet:
    """Tiles of a slide, row by row.

    The grid is anchored at level-0 pixel (0, 0) and knows nothing of the file's levels: the tile of cell (row, column)
    starts at ``column * stride`` and ``row * stride`` exactly. Every cell whose tile has its centre on the slide
    belongs to the grid (a slide smaller than half a tile has one). A box, a polygon and the tissue only select cells,
    so a tile is the same one whether a region or the whole slide is asked for.

    Parameters
    ----------
    slide : an open slide with a known pixel size.
    reading : size and resolution of the tiles.
    stride_px : from one tile to the next, in pixels of the reading's mpp; without it tiles lie side by side.
    box_px0 : (x, y, width, height); tiles with their centre inside are taken.
    polygon : a shapely geometry in level-0 pixels; tiles with their centre inside are taken.
    tissue : tiles with at least `min_tissue` of their area on it are taken.
    min_tissue : 0..1.

    Returns
    -------
    the tiles, perhaps none.

    Raises
    ------
    MissingPixelSize : the slide's pixel size is not known.
    UsageError : a stride that is not positive, or a share outside 0..1.
    """
    mpp = slide.require_mpp()
    stride = reading.tile_px if stride_px is None else stride_px
    if not stride > 0:
        raise UsageError(f"Tiles cannot follow each other every {stride} pixels; give a stride of at least 1.")
    if not 0 <= min_tissue <= 1:
        raise UsageError(f"The share of tissue a tile needs lies between 0 and 1, and {min_tissue:g} does not.")
    tile = reading.tile_px0(slide)
    step = stride * reading.mpp / mpp.x, stride * reading.mpp / mpp.y
    columns, rows = _cells(slide.width_px0, tile[0], step[0]), _cells(slide.height_px0, tile[1], step[1])
    row, column = _selected(rows, columns, tile, step, box_px0, polygon, tissue, min_tissue)
    return TileSet.from_cells(
        row,
        column,
        rows=rows,
        columns=columns,
        tile_px0=tile,
        stride_px0=step,
        slide_fingerprint=slide.fingerprint,
        reading=reading,
    )


def _cells(length: float, tile: float, step: float) -> int:
    """How many tiles along a side have their centre on it, at least one."""
    return max(1, math.floor((length - tile / 2) / step + 1e-9) + 1)


def _span(start: float, length: float, tile: float, step: float, cells: int) -> tuple[int, int]:
    """The first cell with its centre at or after `start`, and the first at or after ``start + length``."""
    first = math.ceil((start - tile / 2) / step - 1e-9)
    last = math.ceil((start + length - tile / 2) / step - 1e-9)
    return min(max(first, 0), cells), min(max(last, 0), cells)


def _selected(
    rows: int,
    columns: int,
    tile: tuple[float, float],
    step: tuple[float, float],
    box: tuple[float, float, float, float] | None,
    polygon: Any | None,
    tissue: TissueMask | None,
    min_tissue: float,
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Row and column of the cells that box, polygon and tissue leave."""
    left, right, top, bottom = 0, columns, 0, rows
    boxes = [box] if box is not None else []
    if polygon is not None:
        x0, y0, x1, y1 = polygon.bounds if not polygon.is_empty else (0.0, 0.0, 0.0, 0.0)
        boxes.append((x0, y0, x1 - x0, y1 - y0))
    for x, y, width, height in boxes:
        first, last = _span(x, width, tile[0], step[0], columns)
        left, right = max(left, first), min(right, last)
        first, last = _span(y, height, tile[1], step[1], rows)
        top, bottom = max(top, first), min(bottom, last)
    picked_rows, picked_columns = [np.zeros(0, np.int32)], [np.zeros(0, np.int32)]
    # Some rows at a time: a stride of a few pixels makes many millions of cells.
    chunk = max(1, 1_000_000 // max(1, right - left))
    for start in range(top, bottom, chunk):
        row, column = np.mgrid[start : min(start + chunk, bottom), left : max(left, right)].astype(np.int32)
        row, column = row.ravel(), column.ravel()
        keep = np.ones(row.shape, dtype=bool)
        x, y = column * step[0], row * step[1]
        if polygon is not None:
            import shapely

            shapely.prepare(polygon)
            keep &= shapely.contains_xy(polygon, x + tile[0] / 2, y + tile[1] / 2)
        if tissue is not None:
            keep &= tissue.covered(x, y, np.full(x.shape, tile[0]), np.full(y.shape, tile[1])) >= min_tissue
        picked_rows.append(row[keep])
        picked_columns.append(column[keep])
    return np.concatenate(picked_rows), np.concatenate(picked_columns)
