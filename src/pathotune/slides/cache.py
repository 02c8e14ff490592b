"""One bounded store of decoded blocks for the whole process, shared by all slides and threads."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable

import numpy as np
from numpy.typing import NDArray

DEFAULT_BYTES = 256 * 2**20


class BlockCache:
    """The most recently used arrays up to a number of bytes; each is made once, also when several threads want it.

    Parameters
    ----------
    limit_bytes : what the kept arrays may take together.
    """

    def __init__(self, limit_bytes: int = DEFAULT_BYTES) -> None:
        self._limit = limit_bytes
        self._kept: OrderedDict[tuple[Hashable, ...], NDArray[np.uint8]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()
        self._in_making: dict[tuple[Hashable, ...], threading.Event] = {}

    @property
    def bytes_used(self) -> int:
        """Bytes of the arrays kept now."""
        return self._bytes

    @property
    def limit_bytes(self) -> int:
        """Bytes the kept arrays may take together; lowering it drops the oldest."""
        return self._limit

    @limit_bytes.setter
    def limit_bytes(self, value: int) -> None:
        with self._lock:
            self._limit = value
            self._shrink()

    def get(self, key: tuple[Hashable, ...], make: Callable[[], NDArray[np.uint8]]) -> NDArray[np.uint8]:
        """The array of `key`, made by `make()` where it is not kept; read-only, as it is shared."""
        while True:
            with self._lock:
                found = self._kept.get(key)
                if found is not None:
                    self._kept.move_to_end(key)
                    return found
                waiting = self._in_making.get(key)
                if waiting is None:
                    mine = self._in_making[key] = threading.Event()
            if waiting is None:
                break
            # Another thread makes it. If that fails, the loop comes back here and this thread tries itself.
            waiting.wait()
        try:
            array = make()
            array.flags.writeable = False
            with self._lock:
                self._kept[key] = array
                self._bytes += array.nbytes
                self._shrink()
            return array
        finally:
            with self._lock:
                del self._in_making[key]
            mine.set()

    def peek(self, key: tuple[Hashable, ...]) -> NDArray[np.uint8] | None:
        """The array of `key` where it is kept, else None; nothing is made."""
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
            return found

    def drop(self, owner: Hashable) -> None:
        """Forget every array whose key starts with `owner`."""
        with self._lock:
            for key in [key for key in self._kept if key[0] == owner]:
                self._bytes -= self._kept.pop(key).nbytes

    def _shrink(self) -> None:
        while self._bytes > self._limit and self._kept:
            _, oldest = self._kept.popitem(last=False)
            self._bytes -= oldest.nbytes


BLOCKS = BlockCache()
