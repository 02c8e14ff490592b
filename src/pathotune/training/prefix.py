"""What a frozen backbone's lower blocks gave for tiles, kept from one epoch and one tuning to the next."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

CHUNK_BYTES = 32 * 2**20
SPILL_BYTES = 16 * 2**30
# Of a disk's free space, what a spill may take.
SPILL_SHARE = 0.25


@dataclass
class _Chunk:
    """Rows of one size, in memory or mapped from a file."""

    rows: NDArray[Any]
    file: Path | None = None


class PrefixCache:
    """Values of one shape by key, bounded in memory and on disk.

    What does not fit any more is not kept, and is computed again when it is needed. Nothing is thrown out for what
    comes later within one training: of tiles drawn at random, one is as likely to come again as another.

    Parameters
    ----------
    dtype : how values are stored. With float16 a value beyond its range is not kept, rather than changed.
    memory_bytes : held in memory.
    spill : a folder for what is beyond that; None keeps nothing there.

    Attributes
    ----------
    shape : of one value; () before the first.
    """

    def __init__(self, dtype: str, memory_bytes: int, spill: Path | None = None) -> None:
        self.dtype = np.dtype(dtype)
        self.memory_bytes, self.spill = memory_bytes, spill
        self._chunks: list[_Chunk] = []
        self._per_chunk = 0
        self._places: dict[bytes, int] = {}
        self._free: list[int] = []
        self.shape: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self._places)

    @property
    def bytes_in_memory(self) -> int:
        """What its rows take in memory."""
        return sum(chunk.rows.nbytes for chunk in self._chunks if chunk.file is None)

    @property
    def bytes_on_disk(self) -> int:
        """What its rows take in files."""
        return sum(chunk.rows.nbytes for chunk in self._chunks if chunk.file is not None)

    def find(self, keys: Sequence[bytes]) -> NDArray[np.int64]:
        """Where each key's value is; -1 where it is not kept."""
        return np.fromiter((self._places.get(key, -1) for key in keys), dtype=np.int64, count=len(keys))

    def take(self, places: NDArray[np.int64], out: NDArray[Any], rows: NDArray[np.int64]) -> None:
        """Copy the values at these places into these rows of `out`."""
        for place, row in zip(places.tolist(), rows.tolist(), strict=True):
            out[row] = self._chunks[place // self._per_chunk].rows[place % self._per_chunk]

    def keep(self, keys: Sequence[bytes], values: NDArray[Any]) -> None:
        """Remember values (n, …) by their keys, as far as there is room."""
        with np.errstate(over="ignore"):
            stored = values.astype(self.dtype, copy=False)
        faithful = np.isfinite(stored).all(axis=tuple(range(1, stored.ndim)))
        for key, value, good in zip(keys, stored, faithful, strict=True):
            if not good or key in self._places:
                continue
            place = self._room(value)
            if place is None:
                return
            self._chunks[place // self._per_chunk].rows[place % self._per_chunk] = value
            self._places[key] = place

    def retire(self, wanted: Collection[bytes], prefix_length: int) -> None:
        """Make room when memory is half full: forget keys whose first bytes are none of the wanted ones."""
        if self.bytes_in_memory < self.memory_bytes / 2:
            return
        for key in [key for key in self._places if key[:prefix_length] not in wanted]:
            self._free.append(self._places.pop(key))

    def drop_files(self) -> None:
        """Forget what is on disk and delete its files."""
        first = next((index for index, chunk in enumerate(self._chunks) if chunk.file is not None), None)
        if first is None:
            return
        files = [chunk.file for chunk in self._chunks[first:] if chunk.file is not None]
        del self._chunks[first:]
        limit = first * self._per_chunk
        self._places = {key: place for key, place in self._places.items() if place < limit}
        self._free = [place for place in self._free if place < limit]
        for file in files:
            # Windows keeps a file that is still mapped somewhere; the next training's spill replaces it.
            with contextlib.suppress(OSError):
                file.unlink()
        if self.spill is not None:
            with contextlib.suppress(OSError):
                self.spill.rmdir()

    def _room(self, value: NDArray[Any]) -> int | None:
        if not self._per_chunk:
            self.shape = value.shape
            size = max(1, value.nbytes)
            fits = min(CHUNK_BYTES, self.memory_bytes) if self.memory_bytes >= size else CHUNK_BYTES
            self._per_chunk = max(1, fits // size)
        if not self._free:
            chunk = self._new_chunk()
            if chunk is None:
                return None
            start = len(self._chunks) * self._per_chunk
            self._chunks.append(chunk)
            self._free = list(range(start + self._per_chunk - 1, start - 1, -1))
        return self._free.pop()

    def _new_chunk(self) -> _Chunk | None:
        shape = (self._per_chunk, *self.shape)
        size = int(np.prod(shape)) * self.dtype.itemsize
        # Chunks on disk come behind those in memory, so that they can be dropped together.
        if self.bytes_on_disk == 0 and self.bytes_in_memory + size <= self.memory_bytes:
            return _Chunk(np.empty(shape, dtype=self.dtype))
        if self.spill is None or self.bytes_on_disk + size > SPILL_BYTES:
            return None
        try:
            self.spill.mkdir(parents=True, exist_ok=True)
            if size > SPILL_SHARE * shutil.disk_usage(self.spill).free:
                return None
            file = self.spill / f"{len(self._chunks)}.rows"
            return _Chunk(np.memmap(file, dtype=self.dtype, mode="w+", shape=shape), file)
        except OSError:
            # A full or read-only disk costs time, not the training.
            return None


_KEPT: dict[str, PrefixCache] = {}


def kept_prefixes(scope: str, dtype: str, memory_bytes: int, spill: Path | None = None) -> PrefixCache:
    """The cache of this process for a backbone, a depth and a number format; that of another scope is given up.

    A process that stays alive between two trainings so computes new tiles only.

    Parameters
    ----------
    scope : everything the values depend on beside the tile.
    """
    for other in [name for name in _KEPT if name != scope]:
        _KEPT.pop(other).drop_files()
    cache = _KEPT.setdefault(scope, PrefixCache(dtype, memory_bytes, spill))
    cache.drop_files()
    cache.memory_bytes, cache.spill = memory_bytes, spill
    if spill is not None and spill.is_dir():
        # What a killed training left behind.
        for left_over in spill.glob("*.rows"):
            with contextlib.suppress(OSError):
                left_over.unlink()
    return cache


def forget_prefixes() -> None:
    """Give back all memory behind `kept_prefixes`."""
    while _KEPT:
        _KEPT.popitem()[1].drop_files()
