"""Regions of any level from cached blocks, the levels a file lacks, and both as dask arrays."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from pathotune.slides.cache import BLOCKS
from pathotune.slides.source import Pixels, Source

if TYPE_CHECKING:
    import dask.array as da

SMALLEST_SIDE = 1024
MADE_BLOCK = 512
# Full-width blocks of made levels stay below this, so that a row of them fits the cache.
MADE_BAND_BYTES = 8 * 2**20
# Levels 1, 4, 16 are common and fine; a wider gap is filled, or a thumbnail would read the level above whole.
WIDEST_GAP = 6.0
_owners = itertools.count()


@dataclass(frozen=True)
class Plane:
    """One resolution of the pyramid: a level of the file, or one made from the plane before it."""

    width: int
    height: int
    downsample: float
    block_width: int
    block_height: int
    level: int | None


class Pyramid:
    """All resolutions of one open slide, from level 0 to one whose longer side is at most 1024 pixels.

    Parameters
    ----------
    source : the open file.
    color : applied to every block that comes from the file (ICC to sRGB), before it is cached.
    """

    def __init__(self, source: Source, color: Callable[[Pixels], Pixels] | None = None) -> None:
        self._source, self._color = source, color
        self._owner = next(_owners)
        self.planes = plan(source)
        self._reduced: dict[tuple[int, int], Plane] = {}
        self.plane_of_level = [self.planes.index(plane) for plane in self.planes if plane.level is not None]

    def region(
        self, plane_index: int, x: int, y: int, width: int, height: int, factor: int = 1, keep: bool = True
    ) -> Pixels:
        """Pixels (height, width, 3) of a box in that plane's own pixels; white outside.

        With a `factor` of 2, 4 or 8 in pixels that are so many times larger, decoded at that size where the file can.
        Without `keep` blocks that are not in memory are decoded for this box alone.
        """
        plane = self.planes[plane_index] if factor == 1 else self._reduced_plane(plane_index, factor)
        inside = x >= 0 and y >= 0 and x + width <= plane.width and y + height <= plane.height
        out = np.empty((height, width, 3), np.uint8) if inside else np.full((height, width, 3), 255, np.uint8)
        block_width, block_height = plane.block_width, plane.block_height
        left, top = max(x, 0), max(y, 0)
        right, bottom = min(x + width, plane.width), min(y + height, plane.height)
        if right <= left or bottom <= top:
            return out
        for row in range(top // block_height, (bottom - 1) // block_height + 1):
            y0 = row * block_height
            upper, lower = max(y0, top), min(y0 + block_height, bottom)
            for column in range(left // block_width, (right - 1) // block_width + 1):
                x0 = column * block_width
                first, last = max(x0, left), min(x0 + block_width, right)
                block = self._block(plane_index, row, column, factor, keep)
                if block.shape == out.shape and (x, y) == (x0, y0) and block.flags.writeable:
                    return block  # the very box, decoded for nobody else
                out[upper - y : lower - y, first - x : last - x] = block[
                    upper - y0 : lower - y0, first - x0 : last - x0
                ]
        return out

    def blocks_of(self, plane_index: int, x: int, y: int, width: int, height: int) -> list[tuple[int, int, int]]:
        """(plane, row, column) of the blocks that hold a box in that plane's own pixels, those of its middle first."""
        plane = self.planes[plane_index]
        left, top, right, bottom = max(x, 0), max(y, 0), min(x + width, plane.width), min(y + height, plane.height)
        if right <= left or bottom <= top:
            return []
        rows = range(top // plane.block_height, (bottom - 1) // plane.block_height + 1)
        columns = range(left // plane.block_width, (right - 1) // plane.block_width + 1)
        middle = (rows[0] + rows[-1]) / 2, (columns[0] + columns[-1]) / 2
        places = [(plane_index, row, column) for row in rows for column in columns]
        return sorted(places, key=lambda place: max(abs(place[1] - middle[0]), abs(place[2] - middle[1])))

    def decoded(self, plane_index: int, row: int, column: int) -> Pixels | None:
        """A block that is in memory, else None."""
        return BLOCKS.peek((self._owner, plane_index, row, column))

    def drop(self) -> None:
        """Forget this slide's blocks."""
        BLOCKS.drop(self._owner)

    def _block(self, plane_index: int, row: int, column: int, factor: int = 1, keep: bool = True) -> Pixels:
        place = (plane_index, row, column)
        make: Callable[[], Pixels]
        if factor > 1:
            key: tuple[int, ...] = (self._owner, *place, factor)
            make = partial(self._made_smaller, *place, factor)
        else:
            key = (self._owner, *place)
            make = partial(self._from_file if self.planes[plane_index].level is not None else self._halved, *place)
        if keep:
            return BLOCKS.get(key, make)
        found = BLOCKS.peek(key)
        return make() if found is None else found

    def _from_file(self, plane_index: int, row: int, column: int) -> Pixels:
        level = self.planes[plane_index].level
        pixels = self._source.block(level or 0, row, column)
        return self._color(pixels) if self._color else pixels

    def _reduced_plane(self, plane_index: int, factor: int) -> Plane:
        """The plane as it is when decoded at 1/`factor`; its blocks are those of the file where they divide evenly."""
        plane = self._reduced.get((plane_index, factor))
        if plane is None:
            full = self.planes[plane_index]
            block = full.block_width, full.block_height
            if any(side % factor for side in block):
                block = factor * full.block_width, factor * full.block_height
            plane = Plane(
                full.width // factor,
                full.height // factor,
                full.downsample * factor,
                block[0] // factor,
                block[1] // factor,
                full.level,
            )
            self._reduced[plane_index, factor] = plane
        return plane

    def _made_smaller(self, plane_index: int, row: int, column: int, factor: int) -> Pixels:
        """A block of a reduced plane, by the file's own coding or from whole pixels."""
        plane, level = self._reduced_plane(plane_index, factor), self.planes[plane_index].level
        x, y = column * plane.block_width, row * plane.block_height
        width, height = min(plane.block_width, plane.width - x), min(plane.block_height, plane.height - y)
        if level is not None and (pixels := self._source.reduced_block(level, row, column, factor)) is not None:
            cut = np.ascontiguousarray(pixels[:height, :width])
            return self._color(cut) if self._color else cut
        pixels = self.region(plane_index, factor * x, factor * y, factor * width, factor * height)
        while factor > 1:
            pixels, factor = halve(pixels), factor // 2
        return pixels

    def _halved(self, plane_index: int, row: int, column: int) -> Pixels:
        plane = self.planes[plane_index]
        x, y = column * plane.block_width, row * plane.block_height
        width, height = min(plane.block_width, plane.width - x), min(plane.block_height, plane.height - y)
        return halve(self.region(plane_index - 1, 2 * x, 2 * y, 2 * width, 2 * height))

    def arrays(self, name: str, read: Callable[[int, int, int, int, int], Pixels]) -> list[da.Array]:
        """Every plane as a lazy array (height, width, 3).

        `name` keeps the keys of two slides apart; `read` is `region` or a function around it, called for each chunk.
        """
        import dask.array as da

        arrays = []
        for index, plane in enumerate(self.planes):
            chunk = _chunk(plane.block_height, plane.height), _chunk(plane.block_width, plane.width), 3
            arrays.append(
                da.from_array(
                    _PlaneView(plane, index, read),
                    chunks=chunk,
                    name=f"{name}-{self._owner}-{index}",
                    fancy=False,
                    inline_array=True,
                    meta=np.empty((0, 0, 0), np.uint8),
                )
            )
        return arrays


class _PlaneView:
    """One plane as the array-like dask cuts chunks from."""

    dtype = np.dtype(np.uint8)
    ndim = 3

    def __init__(self, plane: Plane, index: int, read: Callable[[int, int, int, int, int], Pixels]) -> None:
        self._read, self._index = read, index
        self.shape = (plane.height, plane.width, 3)

    def __getitem__(self, key: Any) -> Pixels:
        rows, columns, channels = (tuple(key) + (slice(None),) * 3)[:3]
        (y, height, rows), (x, width, columns) = _span(rows, self.shape[0]), _span(columns, self.shape[1])
        cut: Pixels = self._read(self._index, x, y, width, height)[rows, columns, channels]
        return cut


def _span(index: Any, size: int) -> tuple[int, int, Any]:
    # First pixel and number of pixels to read along one axis, and the index to apply to what was read.
    if isinstance(index, slice):
        start, stop, step = index.indices(size)
        numbers = range(start, stop, step)
        if not len(numbers):
            return 0, 0, slice(0, 0)
        low, high = min(numbers[0], numbers[-1]), max(numbers[0], numbers[-1])
        return low, high - low + 1, slice(None, None, step)
    return int(index) % size, 1, 0


def plan(source: Source) -> list[Plane]:
    """The planes of a slide: its levels, wide gaps between them filled, then halved until small."""
    planes: list[Plane] = []
    for index, level in enumerate(source.facts.levels):
        if planes:
            _halve_until(planes, partial(_is_near, goal=level.downsample))
        block_width, block_height = source.block_size(index)
        planes.append(Plane(level.width, level.height, level.downsample, block_width, block_height, index))
    _halve_until(planes, lambda last: max(last.width, last.height) <= SMALLEST_SIDE)
    return planes


def _is_near(last: Plane, goal: float) -> bool:
    return goal / last.downsample <= WIDEST_GAP


def _halve_until(planes: list[Plane], is_enough: Callable[[Plane], bool]) -> None:
    while not is_enough(planes[-1]) and min(planes[-1].width, planes[-1].height) > 1:
        last = planes[-1]
        width, height = last.width // 2, last.height // 2
        block = (MADE_BLOCK, MADE_BLOCK)
        if last.block_width >= last.width > 2 * MADE_BLOCK:
            # The file stores strips: square blocks would decode every strip once per block.
            block = (width, max(1, min(MADE_BLOCK, MADE_BAND_BYTES // (12 * width))))
        planes.append(Plane(width, height, last.downsample * 2, *block, None))


def halve(pixels: Pixels) -> Pixels:
    """Means of 2×2 pixels, rounded; both sides are even."""
    wide = pixels.astype(np.uint16)
    rows = wide[0::2] + wide[1::2]
    total = rows[:, 0::2] + rows[:, 1::2] + 2
    return (total >> 2).astype(np.uint8)


def _chunk(block: int, size: int) -> int:
    # Small tiles are taken together: dask's cost is per chunk. Large slides take larger ones, as their graph is longer.
    goal = 1024 if size > 32768 else 512
    return min(size, block * max(1, round(goal / block)))
