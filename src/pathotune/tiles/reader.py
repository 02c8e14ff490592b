"""Pixels of tiles: the right level, resampled exactly where the tile lies, decoded ahead of the model by threads."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pathotune.errors import UsageError
from pathotune.slides.slide import REDUCTIONS
from pathotune.tiles.tileset import Reading

if TYPE_CHECKING:
    from pathotune.slides.slide import Slide
    from pathotune.tiles.stain import StainNormaliser

Images = NDArray[np.uint8]
Indices = NDArray[np.intp]

TOLERANCE = 1.01
"""A level may be this much coarser than wanted (scanners write 0.2525 where they mean 0.25)."""
PLAIN = 0.003
"""A tile whose side differs from `image_px` level pixels by less than this share and half a pixel is not resampled."""
SUPPORT = {"box": 0.5, "bilinear": 1.0, "hamming": 1.0, "bicubic": 2.0, "lanczos": 3.0}
READ_PX = 4_000_000  # of one read, in the level's pixels: keeps memory small and lets a cancel through
AHEAD = 2  # batches kept ready besides the ones the threads work on
STAIN_TILES = 24


class Placed(Protocol):
    """Anything that says where tiles lie: a `TileSet`, or labelled tiles."""

    @property
    def x_px0(self) -> NDArray[np.float64]: ...

    @property
    def y_px0(self) -> NDArray[np.float64]: ...


@dataclass(frozen=True)
class _Window:
    """How tiles map to one level, decoded at 1/`reduce`: side lengths in those pixels, and the pixels around a tile the
    filter looks at."""

    level: int
    reduce: int
    downsample: float
    width: float
    height: float
    margin_x: int
    margin_y: int
    is_plain: bool


class TileReader:
    """Reads tiles of one slide as the reading says.

    The level is the coarsest one not coarser than the image's pixels (`LEVEL_RULE`, within 1 %), decoded at a half, a
    quarter or an eighth of its size where the reading allows it and that is still not coarser. The tile's exact, in
    general fractional box is resampled from it with an antialiasing filter that sees the pixels around the tile too, so
    neighbours fit together and the result does not depend on which levels the file has. Where a tile's side is
    `image_px` of the level's pixels to within half a pixel and 0.3 %, the pixels are taken as they are, as
    interpolation would only blur them; the tile then lies less than one of the level's pixels beside its place.

    Parameters
    ----------
    slide : an open slide with a known pixel size; it stays the caller's.
    reading : what a tile is.
    threads : how many decode at a time; without it half the cores, two to eight.
    cache_tiles : how many finished tiles are kept in memory, for work that reads them again.

    Raises
    ------
    MissingPixelSize : the slide's pixel size is not known.
    UsageError : a number of threads below one.
    """

    def __init__(self, slide: Slide, reading: Reading, *, threads: int | None = None, cache_tiles: int = 0) -> None:
        if threads is not None and threads < 1:
            raise UsageError(f"Tiles are read by at least one thread, not {threads}.")
        self.slide, self.reading = slide, reading
        self.threads = threads or min(8, max(2, (os.cpu_count() or 2) // 2))
        self.tile_px0 = reading.tile_px0(slide)
        self._window = self._choose_window()
        self._cache = _TileCache(cache_tiles)
        self._pool: ThreadPoolExecutor | None = None
        self._open: list[Batches] = []
        self._stain: StainNormaliser | None = None
        self._stain_ready = reading.stain == "none"
        self._lock = threading.RLock()

    @property
    def level(self) -> int:
        """The pyramid level tiles are read from."""
        return self._window.level

    def _choose_window(self) -> _Window:
        wanted = min(side / self.reading.image_px for side in self.tile_px0)
        allowed = [index for index, level in enumerate(self.slide.levels) if level.downsample <= wanted * TOLERANCE]
        index = max(allowed, key=lambda number: self.slide.levels[number].downsample, default=0)
        downsample, reduce = self.slide.levels[index].downsample, 1
        if self.reading.decode == "reduced":
            reduce = max(factor for factor in REDUCTIONS if factor == 1 or downsample * factor <= wanted * TOLERANCE)
            downsample *= reduce
        width, height = (side / downsample for side in self.tile_px0)
        size, support = self.reading.image_px, SUPPORT[self.reading.filter]
        is_plain = all(abs(side - size) < min(0.5, PLAIN * size) for side in (width, height))
        margins = [0 if is_plain else int(np.ceil(support * max(side / size, 1.0))) + 1 for side in (width, height)]
        return _Window(index, reduce, downsample, width, height, margins[0], margins[1], is_plain)

    # --- a few tiles now -----------------------------------------------------------------------------------------

    def read_at(self, x_px0: ArrayLike, y_px0: ArrayLike) -> Images:
        """Tiles with their top-left corners here, (n, image_px, image_px, 3) uint8; white outside the slide."""
        x, y = np.atleast_1d(np.asarray(x_px0, dtype=np.float64)), np.atleast_1d(np.asarray(y_px0, dtype=np.float64))
        out = self._empty(len(x))
        for members in self._groups(x, y, len(x)):
            self._read_group(x, y, members, out)
        return out

    def _empty(self, count: int) -> Images:
        return np.empty((count, self.reading.image_px, self.reading.image_px, 3), dtype=np.uint8)

    # --- many tiles, ahead of the model --------------------------------------------------------------------------

    def batches(
        self, tiles: Placed, batch_size: int, order: Sequence[int] | Indices | None = None, start: int = 0
    ) -> Batches:
        """Batches of tiles, decoded by threads while the caller works on the one before.

        Parameters
        ----------
        tiles : where they lie.
        batch_size : tiles per batch; the last may be smaller.
        order : indices of the tiles in the order wanted; without it all, as they stand.
        start : how many of that order to leave out at its beginning (done already).

        Returns
        -------
        an iterator over (indices (b,) intp, images (b, image_px, image_px, 3) uint8), in order. `close()` it (or use it
        as a context manager) to stop early: threads stop after the read they are at.
        """
        if batch_size < 1:
            raise UsageError(f"A batch has at least one tile, not {batch_size}.")
        count = len(tiles.x_px0)
        indices = np.arange(count, dtype=np.intp) if order is None else np.asarray(order, dtype=np.intp)
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="pathotune-tiles")
            batches = Batches(self, tiles, indices[start:], batch_size, self._pool)
            self._open = [*(other for other in self._open if not other.is_closed), batches]
        return batches

    def close(self) -> None:
        """Stop all batches and give the threads back; the slide stays open."""
        with self._lock:
            opened, self._open = self._open, []
            pool, self._pool = self._pool, None
        for batches in opened:
            batches.close()
        if pool is not None:
            pool.shutdown(wait=False, cancel_futures=True)

    def __enter__(self) -> TileReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- how -----------------------------------------------------------------------------------------------------

    def _groups(self, x: NDArray[np.float64], y: NDArray[np.float64], limit: int) -> list[Indices]:
        """Tiles that are read together: neighbours in one row, as long as the read stays small."""
        window = self._window
        rows = round(window.height) + 2 * window.margin_y + 2
        longest = max(window.width, READ_PX / rows) * window.downsample
        groups: list[list[int]] = []
        previous = -1
        for index in np.lexsort((x, y)).tolist():
            joins = (
                previous >= 0
                and y[index] == y[previous]
                and x[index] - x[previous] <= 1.25 * self.tile_px0[0]
                and x[index] + self.tile_px0[0] - x[groups[-1][0]] <= longest
                and len(groups[-1]) < limit
            )
            if joins:
                groups[-1].append(index)
            else:
                groups.append([index])
            previous = index
        return [np.array(group, dtype=np.intp) for group in groups]

    def _is_stored_so(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> bool:
        """Whether every one of these tiles is a block of the file as it is, so that none needs a block of another."""
        window, size = self._window, self.reading.image_px
        if not window.is_plain or window.reduce > 1 or self.slide.block_size(window.level) != (size, size):
            return False
        corners = np.floor(np.stack([x, y]) / window.downsample + 0.5).astype(np.int64)
        return not np.any(corners % size)

    def _read_group(
        self, x: NDArray[np.float64], y: NDArray[np.float64], members: Indices, out: Images, keep: bool = True
    ) -> None:
        """Read these tiles (of one row) into their places of `out`; without `keep` each is a block of the file."""
        missing = self._cache.take(x, y, members, out)
        if not len(missing):
            return
        fill = self._take_plain if self._window.is_plain else self._resample
        fill = fill if keep else self._take_stored
        fill(x[missing] / self._window.downsample, float(y[missing[0]]) / self._window.downsample, missing, out)
        normalise = self._normaliser()
        if normalise is not None:
            out[missing] = normalise(out[missing])
        self._cache.keep(x, y, missing, out)

    def _take_stored(self, left: NDArray[np.float64], top: float, members: Indices, out: Images) -> None:
        size, row = self.reading.image_px, int(np.floor(top + 0.5))
        columns = np.floor(left + 0.5).astype(int)
        for index, column in zip(members.tolist(), columns.tolist(), strict=True):
            out[index] = self.slide.read(column, row, size, size, self._window.level, keep=False)

    def _take_plain(self, left: NDArray[np.float64], top: float, members: Indices, out: Images) -> None:
        size = self.reading.image_px
        columns, row = np.floor(left + 0.5).astype(int), int(np.floor(top + 0.5))
        first = int(columns.min())
        strip = self.slide.read(
            first, row, int(columns.max()) - first + size, size, self._window.level, self._window.reduce
        )
        for index, column in zip(members.tolist(), (columns - first).tolist(), strict=True):
            out[index] = strip[:, column : column + size]

    def _resample(self, left: NDArray[np.float64], top: float, members: Indices, out: Images) -> None:
        from PIL import Image

        window, size = self._window, self.reading.image_px
        x0, y0 = int(np.floor(left.min())) - window.margin_x, int(np.floor(top)) - window.margin_y
        x1 = int(np.ceil(left.max() + window.width)) + window.margin_x
        y1 = int(np.ceil(top + window.height)) + window.margin_y
        strip = Image.fromarray(self.slide.read(x0, y0, x1 - x0, y1 - y0, window.level, window.reduce))
        method = Image.Resampling[self.reading.filter.upper()]
        upper = top - y0
        for index, x in zip(members.tolist(), (left - x0).tolist(), strict=True):
            box = (x, upper, x + window.width, upper + window.height)
            out[index] = np.asarray(strip.resize((size, size), method, box=box))

    def _normaliser(self) -> StainNormaliser | None:
        """What brings this slide's stain to the reference, measured once on tiles spread over its tissue."""
        if self._stain_ready:
            return self._stain
        with self._lock:
            if not self._stain_ready:
                self._stain = self._measure_stain()
                self._stain_ready = True
        return self._stain

    def _measure_stain(self) -> StainNormaliser | None:
        from dataclasses import replace

        from pathotune.tiles.grid import tile_grid
        from pathotune.tiles.stain import StainNormaliser
        from pathotune.tiles.tissue import tissue_mask

        plain = replace(self.reading, stain="none")
        tiles = tile_grid(self.slide, plain, tissue=tissue_mask(self.slide), min_tissue=0.5)
        if not len(tiles):
            return None
        picked = tiles.take(np.unique(np.linspace(0, len(tiles) - 1, STAIN_TILES).astype(int)))
        with TileReader(self.slide, plain, threads=1) as reader:
            return StainNormaliser.fit(reader.read_at(picked.x_px0, picked.y_px0))


@dataclass
class _Pending:
    """A batch that threads are filling."""

    indices: Indices
    images: Images
    parts: list[Future[None]]


class Batches(Iterator[tuple[Indices, Images]]):
    """Batches in order, a bounded number of them ahead; made by `TileReader.batches`."""

    def __init__(
        self, reader: TileReader, tiles: Placed, indices: Indices, batch_size: int, pool: ThreadPoolExecutor
    ) -> None:
        self._reader, self._pool, self._batch_size = reader, pool, batch_size
        self._x, self._y = np.asarray(tiles.x_px0, np.float64), np.asarray(tiles.y_px0, np.float64)
        self._indices, self._next = indices, 0
        # Blocks that nobody else needs would only push out of memory what others have there.
        self._keep = not reader._is_stored_so(self._x, self._y)
        self._pending: deque[_Pending] = deque()
        self._stop = threading.Event()
        self._ahead = AHEAD + reader.threads

    def __len__(self) -> int:
        return -(-len(self._indices) // self._batch_size)

    @property
    def is_closed(self) -> bool:
        """Whether it has ended, by itself or by `close`."""
        return self._stop.is_set()

    def __iter__(self) -> Batches:
        return self

    def __next__(self) -> tuple[Indices, Images]:
        self._fill()
        if self._stop.is_set() or not self._pending:
            self._stop.set()
            raise StopIteration
        batch = self._pending.popleft()
        try:
            for part in batch.parts:
                part.result()
        except BaseException:
            self.close()
            raise
        self._fill()
        return batch.indices, batch.images

    def _fill(self) -> None:
        while not self._stop.is_set() and len(self._pending) < self._ahead and self._next < len(self._indices):
            indices = self._indices[self._next : self._next + self._batch_size]
            self._next += len(indices)
            x, y, images = self._x[indices], self._y[indices], self._reader._empty(len(indices))
            groups = self._reader._groups(x, y, max(1, -(-len(indices) // self._reader.threads)))
            parts = [self._pool.submit(self._work, x, y, members, images) for members in groups]
            self._pending.append(_Pending(indices, images, parts))

    def _work(self, x: NDArray[np.float64], y: NDArray[np.float64], members: Indices, images: Images) -> None:
        if not self._stop.is_set():
            self._reader._read_group(x, y, members, images, self._keep)

    def close(self) -> None:
        """Stop now: what is queued is dropped, and what is being read (a fraction of a second) is waited for."""
        self._stop.set()
        pending, self._pending = self._pending, deque()
        running = [part for batch in pending for part in batch.parts if not part.cancel()]
        # A dead network drive must not hold up a cancel: the thread then ends by itself, later.
        wait(running, timeout=0.5)

    def __enter__(self) -> Batches:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _TileCache:
    """The most recently read tiles, by place."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: OrderedDict[tuple[float, float], Images] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, x: NDArray[np.float64], y: NDArray[np.float64], members: Indices, out: Images) -> Indices:
        """Fill in the kept ones of these tiles; returns the others."""
        if not self._limit:
            return members
        missing = []
        for index in members.tolist():
            key = float(x[index]), float(y[index])
            with self._lock:
                image = self._kept.get(key)
                if image is not None:
                    self._kept.move_to_end(key)
            if image is None:
                missing.append(index)
            else:
                out[index] = image
        return np.array(missing, dtype=np.intp)

    def keep(self, x: NDArray[np.float64], y: NDArray[np.float64], members: Indices, out: Images) -> None:
        """Remember these tiles, and forget the oldest above the limit."""
        if not self._limit:
            return
        with self._lock:
            for index in members.tolist():
                self._kept[float(x[index]), float(y[index])] = out[index].copy()
            while len(self._kept) > self._limit:
                self._kept.popitem(last=False)
