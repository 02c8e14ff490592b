"""Where predicted values lie on the slide, and in which order and in which parts they are made."""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pathotune.tiles.tileset import TileSet

Kind = Literal["probabilities", "attention", "classes", "reliability"]
# Which attention a store keeps: that of the last block, or what all blocks come to; and how sources of the latter end.
AttentionKind = Literal["last", "rollout"]
ROLLOUT = " rollout"
# A source that is one prompt token: its group and its number, from 1.
_TOKEN = re.compile(rf"\w+ \d+({ROLLOUT})?")

MAX_UNITS = 9
"""Most work units of a store: with three arrays and their pyramids some 50 files, which network drives bear."""

# Longer side that needs no smaller level, and the most levels, for one value per cell and for attention.
_PYRAMID = ((128, 3), (512, 5))
_BLOCK = 8


def is_token(source: str) -> bool:
    """Whether an attention source is a single prompt token ("tvp 1"), not a group of them."""
    return _TOKEN.fullmatch(source) is not None


@dataclass(frozen=True)
class Unit:
    """A square of grid cells that owns whole shards of every array; `index` counts row by row."""

    index: int
    row: int
    column: int
    rows: int
    columns: int


@dataclass(frozen=True)
class Grid:
    """The cells of a slide's tile grid and how they become arrays in micrometres.

    One cell holds one probability vector and one class, standing for the stride's area around its tile's centre, and
    `samples` attention values a side. The grid spans the slide whatever part of it is predicted, so that a region, the
    rest of the slide and a resumed run fill the same store.

    Parameters
    ----------
    rows, columns : cells of the whole slide.
    origin_px0 : x, y of the top-left corner of the first tile.
    tile_px0, stride_px0 : width and height of a tile, and from one tile to the next, in level-0 pixels.
    mpp : µm per level-0 pixel in x and y.
    patches : rows and columns of the backbone's patch grid in one tile; (0, 0) where it has no attention.
    """

    rows: int
    columns: int
    origin_px0: tuple[float, float]
    tile_px0: tuple[float, float]
    stride_px0: tuple[float, float]
    mpp: tuple[float, float]
    patches: tuple[int, int] = (0, 0)

    @classmethod
    def from_tiles(cls, tiles: TileSet, mpp: tuple[float, float], patches: tuple[int, int] = (0, 0)) -> Grid:
        """The grid of these tiles on a slide of this pixel size."""
        return cls(
            rows=int(tiles.rows),
            columns=int(tiles.columns),
            origin_px0=(float(tiles.origin_px0[0]), float(tiles.origin_px0[1])),
            tile_px0=(float(tiles.tile_px0[0]), float(tiles.tile_px0[1])),
            stride_px0=(float(tiles.stride_px0[0]), float(tiles.stride_px0[1])),
            mpp=(float(mpp[0]), float(mpp[1])),
            patches=(int(patches[0]), int(patches[1])),
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Grid:
        """Make it again from `to_dict`."""
        fields: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in data.items()
        }
        return cls(**fields)

    # ---- units -------------------------------------------------------------------------------------------------

    @property
    def chunk(self) -> int:
        """Cells a side of an inner chunk."""
        return 16 if max(self.rows, self.columns) <= 384 else 32

    @property
    def unit_cells(self) -> int:
        """Cells a side of a work unit: the smallest multiple of `chunk` that needs no more than `MAX_UNITS` of them."""
        cells = self.chunk
        while math.ceil(self.rows / cells) * math.ceil(self.columns / cells) > MAX_UNITS:
            cells += self.chunk
        return cells

    @property
    def units_shape(self) -> tuple[int, int]:
        """Rows and columns of work units."""
        cells = self.unit_cells
        return max(1, math.ceil(self.rows / cells)), max(1, math.ceil(self.columns / cells))

    def unit(self, index: int) -> Unit:
        """The work unit of this index, cut at the grid's edge."""
        cells = self.unit_cells
        row, column = (part * cells for part in divmod(index, self.units_shape[1]))
        return Unit(index, row, column, min(cells, self.rows - row), min(cells, self.columns - column))

    def unit_of(self, row: NDArray[np.int32], column: NDArray[np.int32]) -> NDArray[np.intp]:
        """Index of the unit that owns each cell."""
        cells = self.unit_cells
        return (np.asarray(row, np.intp) // cells) * self.units_shape[1] + np.asarray(column, np.intp) // cells

    def box_px0(self, row: int, column: int, rows: int, columns: int) -> tuple[float, float, float, float]:
        """The area in level-0 pixels that these cells stand for: x, y, width, height."""
        x0, y0 = (self.origin_px0[axis] + self.tile_px0[axis] / 2 - self.stride_px0[axis] / 2 for axis in (0, 1))
        return (
            x0 + column * self.stride_px0[0],
            y0 + row * self.stride_px0[1],
            columns * self.stride_px0[0],
            rows * self.stride_px0[1],
        )

    def cell_at(self, x_px0: float, y_px0: float) -> tuple[int, int] | None:
        """Row and column of the cell whose area holds this point, or None outside the grid."""
        x0, y0, _, _ = self.box_px0(0, 0, 1, 1)
        column, row = math.floor((x_px0 - x0) / self.stride_px0[0]), math.floor((y_px0 - y0) / self.stride_px0[1])
        return (row, column) if 0 <= row < self.rows and 0 <= column < self.columns else None

    @property
    def cell_area_mm2(self) -> float:
        """Tissue area one cell stands for."""
        return self.stride_px0[0] * self.mpp[0] * self.stride_px0[1] * self.mpp[1] / 1e6

    # ---- attention ---------------------------------------------------------------------------------------------

    @property
    def samples(self) -> tuple[int, int]:
        """Attention values per cell in y and x: as many backbone patches as fit into one stride."""
        if not all(self.patches):
            return 0, 0
        y, x = (
            max(1, round(self.stride_px0[axis] / (self.tile_px0[axis] / self.patches[1 - axis]))) for axis in (1, 0)
        )
        return y, x

    def _first_patch(self, axis: int) -> int:
        """Patches of the tile (axis 0 is x) that lie before the part one stride owns, the tile's middle."""
        patch_px0 = self.tile_px0[axis] / self.patches[1 - axis]
        return round((self.tile_px0[axis] - self.stride_px0[axis]) / 2 / patch_px0)

    def patch_indices(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Patch row and patch column of the tile that each attention value of a cell takes; -1 outside the tile.

        With a stride of whole patches every value is exactly one patch; otherwise the nearest.
        """
        found = []
        for axis, count in ((1, self.samples[0]), (0, self.samples[1])):
            patches = self.patches[1 - axis]
            patch_px0 = self.tile_px0[axis] / patches
            at = self._first_patch(axis) + (np.arange(count) + 0.5) * self.stride_px0[axis] / count / patch_px0
            index = np.floor(at + 1e-9).astype(np.intp)
            found.append(np.where((index >= 0) & (index < patches), index, -1))
        return found[0], found[1]

    # ---- arrays and where they lie -----------------------------------------------------------------------------

    def per_cell(self, kind: Kind) -> tuple[int, int]:
        """Values per cell in y and x."""
        return self.samples if kind == "attention" else (1, 1)

    def shape(self, kind: Kind, level: int = 0) -> tuple[int, int]:
        """Rows and columns of an array's pyramid level; each level halves, rounding up."""
        y, x = self.per_cell(kind)
        return -(-self.rows * y // 2**level), -(-self.columns * x // 2**level)

    def levels(self, kind: Kind) -> int:
        """Pyramid levels: halved until the longer side is small, and at least once where there is anything to halve.

        `reliability` has one: it is small, and every level is another file.
        """
        if kind == "reliability":
            return 1
        longest = max(self.shape(kind))
        small, most = _PYRAMID[kind == "attention"]
        return min(most, max(2, 1 + math.ceil(math.log2(longest / small)))) if longest > 1 else 1

    def placement_um(self, kind: Kind, level: int = 0) -> tuple[tuple[float, float], tuple[float, float]]:
        """Scale and translation in µm, each (y, x), of one pyramid level.

        A slide's level-0 pixel i has its centre at i * mpp (the pixel-centre convention of napari and OME-Zarr), so a
        point x in level-0 pixels, counted from the first pixel's edge, lies at (x - 0.5) * mpp. The translation is the
        place of the first value's centre.
        """
        counts = self.per_cell(kind)
        scale, translate = [], []
        for axis in (1, 0):
            step = self.stride_px0[axis] / counts[1 - axis]
            first = self.origin_px0[axis] + self.tile_px0[axis] / 2
            if kind == "attention" and self.patches != (1, 1):  # one value per tile lies on its middle
                patch_px0 = self.tile_px0[axis] / self.patches[1 - axis]
                first = self.origin_px0[axis] + self._first_patch(axis) * patch_px0 + step / 2
            first += (2**level - 1) / 2 * step
            scale.append(step * 2**level * self.mpp[axis])
            translate.append((first - 0.5) * self.mpp[axis])
        return (scale[0], scale[1]), (translate[0], translate[1])


def order_tiles(
    tiles: TileSet, grid: Grid, *, start_px0: tuple[float, float] | None = None, by_unit: bool = True
) -> NDArray[np.intp]:
    """The order in which tiles are predicted, as indices into `tiles`.

    Parameters
    ----------
    tiles : the selected tiles.
    grid : the grid they lie on.
    start_px0 : point the work grows outward from (what is in view); None goes row by row.
    by_unit : finish one work unit before the next, so that few shards are open at a time.

    Returns
    -------
    (n,) indices. Small blocks of neighbours stay together, so that a decoded file tile serves all of them.
    """
    row, column = np.asarray(tiles.row, np.intp), np.asarray(tiles.column, np.intp)
    keys: list[NDArray[Any]] = [column % _BLOCK, row % _BLOCK]
    blocks = row // _BLOCK, column // _BLOCK
    if start_px0 is None:
        keys += [blocks[1], blocks[0]]
    else:
        middle = [(block + 0.5) * _BLOCK for block in blocks]
        keys += [blocks[1], blocks[0], _distance(grid, middle[0], middle[1], start_px0)]
    if by_unit:
        units = grid.unit_of(tiles.row, tiles.column)
        rank = np.empty(math.prod(grid.units_shape), np.intp)
        rank[_unit_order(grid, start_px0)] = np.arange(len(rank))
        keys.append(rank[units])
    return np.lexsort(keys)


def _unit_order(grid: Grid, start_px0: tuple[float, float] | None) -> NDArray[np.intp]:
    count = math.prod(grid.units_shape)
    if start_px0 is None:
        return np.arange(count)
    units = [grid.unit(index) for index in range(count)]
    x, y = ((start_px0[axis] - grid.box_px0(0, 0, 1, 1)[axis]) / grid.stride_px0[axis] for axis in (0, 1))
    outside = [
        math.hypot(
            max(unit.column - x, 0, x - unit.column - unit.columns), max(unit.row - y, 0, y - unit.row - unit.rows)
        )
        for unit in units
    ]
    return np.argsort(outside, kind="stable")


def _distance(
    grid: Grid, row: NDArray[Any], column: NDArray[Any], start_px0: tuple[float, float]
) -> NDArray[np.float64]:
    x0, y0, _, _ = grid.box_px0(0, 0, 1, 1)
    dx = x0 + column * grid.stride_px0[0] - start_px0[0]
    dy = y0 + row * grid.stride_px0[1] - start_px0[1]
    return np.hypot(dx, dy)
