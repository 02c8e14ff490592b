"""What of a slide can be shown at once: decoded blocks, and coarser ones enlarged until threads have the rest."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

import numpy as np

from pathotune.errors import SlideUnreadable
from pathotune.slides.cache import BLOCKS
from pathotune.slides.pyramid import Plane
from pathotune.slides.source import Pixels

if TYPE_CHECKING:
    from pathotune.slides.slide import Slide

Key = tuple[int, int, int]  # plane, row and column of a block
log = logging.getLogger(__name__)

THREADS = 2
# What is decoded ahead of the view takes at most this share of the cache, or it would push out what is seen.
AHEAD_SHARE = 0.25
# Nothing is decoded ahead while the canvas is drawn, and until the hand has come to rest: each of the many calls a
# picture is drawn by has to get Python's lock back from whoever holds it, and busy threads beside it made pictures take
# two to three times as long.
REST_S = 0.25


class Glance:
    """One slide's pixels for a window that must not wait: the view's own blocks are decoded first, its neighbours next.

    The smallest plane is always kept, so that there is something to show everywhere.

    Parameters
    ----------
    slide : an open slide.
    """

    def __init__(self, slide: Slide) -> None:
        self.slide, self._pyramid = slide, slide._planes
        self._changed = threading.Condition()
        self._wanted: deque[Key] = deque()  # in the view
        self._ahead: deque[Key] = deque()  # around it, and in the next planes
        self._in_hand: set[Key] = set()
        self._view: frozenset[Key] = frozenset()
        self.lacking = 0  # blocks that the last region was given without, and that will come
        self._held: dict[Key, Pixels] = {}  # the view's own blocks, which the cache may not lose
        self._running = 0
        self._ahead_from = 0.0  # the time before which nothing is decoded ahead
        self._is_closed = False
        self.failed: dict[Key, str] = {}
        self._smallest: Pixels | None = None

    @property
    def planes(self) -> list[Plane]:
        """The planes of the slide, largest first."""
        return self._pyramid.planes

    @property
    def missing(self) -> int:
        """How many blocks of the region that was asked for last are still being decoded."""
        with self._changed:
            return len(self._wanted) + sum(1 for key in self._in_hand if key in self._view)

    def region(self, plane: int, x: int, y: int, width: int, height: int, patience_s: float = 0.0) -> Pixels:
        """Pixels (height, width, 3) of a box inside a plane, in its own pixels, as good as they are now.

        What is not decoded yet is asked of the threads, in place of what was asked before, and is enlarged from a
        coarser plane meanwhile; `lacking` says how much that was, `missing` how much is still to come.

        Parameters
        ----------
        patience_s : how long to wait for what is missing.
        """
        keys = self._pyramid.blocks_of(plane, x, y, width, height)
        found = self._blocks(keys)
        self._ask(keys, [key for key in keys if key not in found], (plane, x, y, width, height))
        if len(found) < len(keys):
            self._wait(patience_s)
            found = self._blocks(keys)
        with self._changed:
            self._held = found
            self.lacking = sum(1 for key in keys if key not in found and key not in self.failed)
        if len(found) < len(keys) / 2:
            out, keys = self._enlarged(plane, x, y, width, height), list(found)
        else:
            out = np.empty((height, width, 3), np.uint8)
        for key in keys:
            self._lay(out, key, found.get(key), x, y)
        return out

    def _blocks(self, keys: list[Key]) -> dict[Key, Pixels]:
        """Those of the blocks that are in memory."""
        with self._changed:
            held = dict(self._held)
        found = {key: held.get(key) if key in held else self._pyramid.decoded(*key) for key in keys}
        return {key: block for key, block in found.items() if block is not None}

    def rest(self) -> None:
        """The window is drawing: leave what lies ahead alone for a moment."""
        self._ahead_from = time.perf_counter() + REST_S

    def close(self) -> None:
        """Let the threads end; what is in hand is finished."""
        with self._changed:
            self._is_closed = True
            self._wanted.clear()
            self._ahead.clear()
            self._held = {}

    # -- what is asked of the threads

    def _ask(self, keys: list[Key], missing: list[Key], box: tuple[int, int, int, int, int]) -> None:
        ahead = self._neighbours(keys, box)
        with self._changed:
            if self._is_closed:
                return
            self.rest()
            self._view = frozenset(keys)
            self._wanted = deque(key for key in missing if key not in self._in_hand and key not in self.failed)
            self._ahead = deque(key for key in ahead if key not in self._in_hand and key not in self.failed)
            self._changed.notify_all()  # threads that rest have work again
            waiting = len(self._wanted) + len(self._ahead)
            for _ in range(min(THREADS - self._running, waiting)):
                self._running += 1
                threading.Thread(target=self._work, name="pathotune-glance", daemon=True).start()

    def _neighbours(self, keys: list[Key], box: tuple[int, int, int, int, int]) -> list[Key]:
        """Blocks that will be wanted next: the ring around the view, then the planes a zoom would come to."""
        plane, x, y, width, height = box
        shown, planes = self.planes[plane], self.planes
        known, found = set(keys), []
        near = (plane, x - shown.block_width, y - shown.block_height)
        found += self._pyramid.blocks_of(*near, width + 2 * shown.block_width, height + 2 * shown.block_height)
        for other, part in ((plane + 1, 2.0), (plane - 1, 0.5)):
            if 0 <= other < len(planes):
                scale_x, scale_y = planes[other].width / shown.width, planes[other].height / shown.height
                centre_x, centre_y = (x + width / 2) * scale_x, (y + height / 2) * scale_y
                wide, high = round(width * scale_x * part), round(height * scale_y * part)
                found += self._pyramid.blocks_of(
                    other, round(centre_x - wide / 2), round(centre_y - high / 2), wide, high
                )
        room = BLOCKS.limit_bytes * AHEAD_SHARE
        chosen: list[Key] = []
        for key in found:
            if key in known or self._pyramid.decoded(*key) is not None:
                continue
            room -= 3 * planes[key[0]].block_width * planes[key[0]].block_height
            if room < 0:
                break
            known.add(key)
            chosen.append(key)
        return chosen

    def _wait(self, seconds: float) -> None:
        """Until the view's blocks are there, or the time is over."""
        end = time.perf_counter() + seconds
        with self._changed:
            while self._wanted or any(key in self._view for key in self._in_hand):
                left = end - time.perf_counter()
                if left <= 0 or not self._changed.wait(left):
                    return

    def _work(self) -> None:
        """Thread: decode what is wanted, then what is ahead, until there is nothing left."""
        while True:
            with self._changed:
                key = self._next()
                if key is None:
                    self._running -= 1
                    self._changed.notify_all()
                    return
                self._in_hand.add(key)
            try:
                self._decode(key)
            finally:
                with self._changed:
                    self._in_hand.discard(key)
                    self._changed.notify_all()

    def _next(self) -> Key | None:
        """The block to decode now; waits where there are only blocks ahead and the window is drawing."""
        while True:
            left = self._ahead_from - time.perf_counter()
            if not self._wanted and self._ahead and left > 0:
                self._changed.wait(left)
                continue
            queue = self._wanted or self._ahead
            if not queue:
                return None
            key = queue.popleft()
            if key not in self._in_hand:
                return key

    def _decode(self, key: Key) -> None:
        plane = self.planes[key[0]]
        x, y = key[2] * plane.block_width, key[1] * plane.block_height
        try:
            width, height = min(plane.block_width, plane.width - x), min(plane.block_height, plane.height - y)
            block = self.slide._region(key[0], x, y, width, height)
            with self._changed:
                if key in self._view:
                    self._held[key] = block
        except SlideUnreadable as error:
            if not self._is_closed:
                self.failed[key] = str(error)
        except Exception as error:  # a thread must not end with its place still taken
            log.exception("a block of %s could not be decoded", self.slide.name)
            self.failed[key] = str(error)

    # -- what is shown meanwhile

    def _lay(self, out: Pixels, key: Key, block: Pixels | None, x: int, y: int) -> None:
        """Put a block, or what stands for it, where it belongs in a picture whose corner is (x, y) of the plane."""
        plane = self.planes[key[0]]
        left, top = key[2] * plane.block_width, key[1] * plane.block_height
        right, bottom = min(left + plane.block_width, plane.width), min(top + plane.block_height, plane.height)
        first, last = max(left, x), min(right, x + out.shape[1])
        upper, lower = max(top, y), min(bottom, y + out.shape[0])
        target = out[upper - y : lower - y, first - x : last - x]
        if block is not None:
            target[:] = block[upper - top : lower - top, first - left : last - left]
        else:
            target[:] = self._enlarged(key[0], first, upper, last - first, lower - upper)

    def _enlarged(self, plane: int, x: int, y: int, width: int, height: int) -> Pixels:
        """The same box from the finest coarser plane that has all of it decoded."""
        shown, last = self.planes[plane], len(self.planes) - 1
        for index in range(plane + 1, last + 1):
            coarse = self.planes[index]
            columns = _places(x, width, shown.width, coarse.width)
            rows = _places(y, height, shown.height, coarse.height)
            box = int(columns[0]), int(rows[0]), int(columns[-1] - columns[0]) + 1, int(rows[-1] - rows[0]) + 1
            if index == last:
                source = self.smallest[box[1] : box[1] + box[3], box[0] : box[0] + box[2]]
            elif all(self._pyramid.decoded(*key) is not None for key in self._pyramid.blocks_of(index, *box)):
                source = self._pyramid.region(index, *box)
            else:
                continue
            # Columns first: what is left are copies of whole rows, which are quick.
            enlarged: Pixels = source.take(columns - columns[0], axis=1).take(rows - rows[0], axis=0)
            return enlarged
        return np.full((height, width, 3), 255, np.uint8)

    def keep_smallest(self, pixels: Pixels | None) -> None:
        """Take over the smallest plane from who has it: of a slide of one level it takes the whole slide to make."""
        last = self.planes[-1]
        if pixels is not None and pixels.shape == (last.height, last.width, 3):
            self._smallest = pixels

    @property
    def smallest(self) -> Pixels:
        """The smallest plane, whole; decoded when first asked for and kept."""
        if self._smallest is None:
            index = len(self.planes) - 1
            self._smallest = self.slide._region(index, 0, 0, self.planes[index].width, self.planes[index].height)
        return self._smallest


def _places(first: int, count: int, size: int, coarse_size: int) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    """Which pixels of the coarser plane the pixels `first` to `first + count` lie in, along one axis."""
    centres = (np.arange(first, first + count) + 0.5) * (coarse_size / size)
    found: np.ndarray[tuple[int], np.dtype[np.intp]] = np.clip(centres.astype(np.intp), 0, coarse_size - 1)
    return found
