"""Predicted values on their way into the store: the work units being filled, and the thread that writes them."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pathotune.events import ShardDone
from pathotune.inference.cells import UnitValues
from pathotune.inference.locations import writing
from pathotune.inference.plan import Unit
from pathotune.inference.predictions import PredictionStore
from pathotune.inference.pyramids import repair_pyramids, write_pyramid
from pathotune.inference.tilemodel import Answer

FLUSH_S = 1.0
"""How often a unit that is not whole yet is written, so that it can be seen and a killed run loses little."""
FLUSH_SHARE = 0.02
"""Largest share of the time that writing unfinished units may take."""


@dataclass
class _Filling:
    """One unit in memory."""

    unit: Unit
    values: UnitValues
    planned: int
    left: int
    new: list[tuple[int, int]]


class StoreStream:
    """Takes values tile by tile and writes whole units from a thread of its own.

    Only the units being filled are in memory: the order of the tiles keeps that to one or two.

    Parameters
    ----------
    store : where to.
    row, column : cells of all planned tiles, done ones included.
    """

    def __init__(self, store: PredictionStore, row: NDArray[np.int32], column: NDArray[np.int32]) -> None:
        self._store, self._grid = store, store.grid
        self._row, self._column = np.asarray(row, np.intp), np.asarray(column, np.intp)
        self._unit_of = self._grid.unit_of(row, column)
        self._planned = np.bincount(self._unit_of, minlength=int(np.prod(self._grid.units_shape)))
        self._units_done = 0
        self._filling: dict[int, _Filling] = {}
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="pathotune-store")
        self._writes: list[Future[None]] = []
        self._events: queue.SimpleQueue[ShardDone] = queue.SimpleQueue()
        self._flushed_at, self._write_seconds = time.monotonic(), 0.0
        self._patches = self._grid.patch_indices() if store.sources else None

    # ---- what is there already ---------------------------------------------------------------------------------

    def take_over(self, whole_units: bool = False) -> NDArray[np.bool_]:
        """Look at what the store holds and say which planned tiles are done.

        Parameters
        ----------
        whole_units : start a unit again unless all its planned tiles are there (for byte-equal results).

        Returns
        -------
        (n,) bool. Damaged shards count as empty and are written again.
        """
        done = np.zeros(len(self._row), bool)
        for index in np.flatnonzero(self._planned):
            unit, members = self._grid.unit(int(index)), np.flatnonzero(self._unit_of == index)
            read = self._store.read_unit(unit) if str(index) in self._store.attrs["shards"] else None
            if read is None:
                self._store.drop_unit(unit)
                continue
            there = (
                read.probabilities.sum(axis=0)[self._row[members] - unit.row, self._column[members] - unit.column] > 0
            )
            if there.all():
                done[members] = True
                self._units_done += 1
            elif not whole_units:
                done[members[there]] = True
        repair_pyramids(self._store)
        return done

    def unit_of(self, tiles: NDArray[np.intp]) -> NDArray[np.intp]:
        """The work unit of each of these planned tiles."""
        return self._unit_of[tiles]

    def _open(self, index: int, done: NDArray[np.bool_]) -> _Filling:
        """The unit's arrays, with what the store has of it."""
        unit = self._grid.unit(index)
        read = self._store.read_unit(unit) if str(index) in self._store.attrs["shards"] else None
        values = self._empty(unit) if read is None else read
        members = self._unit_of == index
        return _Filling(unit, values, int(self._planned[index]), int((members & ~done).sum()), [])

    def _empty(self, unit: Unit) -> UnitValues:
        """Zeros for everything the store keeps."""
        store, (y, x) = self._store, self._grid.samples
        cells, sources, numbers = (unit.rows, unit.columns), len(store.sources), len(store.reliability_names)
        return UnitValues(
            np.zeros((len(store.classes), *cells), np.float32),
            np.zeros((sources, unit.rows * y, unit.columns * x), np.float16) if sources else None,
            np.zeros((numbers, *cells), np.float16) if numbers else None,
            np.zeros((*cells, store.features.shape[2]), np.float16) if store.features is not None else None,
        )

    # ---- taking and writing ------------------------------------------------------------------------------------

    def put(self, tiles: NDArray[np.intp], answer: Answer, done: NDArray[np.bool_]) -> None:
        """Values of some tiles; `done` is updated.

        Parameters
        ----------
        tiles : (b,) indices into the planned tiles.
        answer : what the model says of them.
        done : (n,) which planned tiles are predicted.
        """
        for place, tile in enumerate(tiles.tolist()):
            index = int(self._unit_of[tile])
            if index not in self._filling:
                self._filling[index] = self._open(index, done)
            filling = self._filling[index]
            row, column = int(self._row[tile]) - filling.unit.row, int(self._column[tile]) - filling.unit.column
            self._put_tile(filling.values, row, column, answer, place)
            filling.new.append((row, column))
            filling.left -= 1
            done[tile] = True
            if filling.left == 0:
                self._write(self._filling.pop(index))
        self._flush_if_due()

    def _put_tile(self, values: UnitValues, row: int, column: int, answer: Answer, place: int) -> None:
        """One tile of a batch into its cell."""
        values.probabilities[:, row, column] = answer.probabilities[place]
        if values.attention is not None and answer.attention is not None:
            self._put_attention(values.attention, row, column, answer.attention[place])
        if values.reliability is not None and answer.reliability is not None:
            values.reliability[:, row, column] = answer.reliability[place]
        if values.features is not None and answer.features is not None:
            values.features[row, column] = answer.features[place]

    def _put_attention(self, array: NDArray[np.float16], row: int, column: int, values: NDArray[np.float16]) -> None:
        if self._patches is None:
            return
        rows, columns = self._patches
        y, x = self._grid.samples
        picked = values[:, rows][:, :, columns]
        picked[:, rows < 0] = 0
        picked[:, :, columns < 0] = 0
        array[:, row * y : (row + 1) * y, column * x : (column + 1) * x] = picked

    def _flush_if_due(self) -> None:
        wait = max(FLUSH_S, self._write_seconds / FLUSH_SHARE)
        if time.monotonic() - self._flushed_at < wait or any(not write.done() for write in self._writes):
            return
        for filling in self._filling.values():
            self._write(filling, is_whole=False)

    def _write(self, filling: _Filling, is_whole: bool = True) -> None:
        self._check_writes()
        self._flushed_at = time.monotonic()
        if not filling.new:
            return
        copied = filling
        if not is_whole:
            # The thread writes what was there now, while more tiles come.
            copied = replace(filling, values=filling.values.copy())
            filling.new = []
        self._writes.append(self._pool.submit(self._write_unit, copied, is_whole))

    def _write_unit(self, filling: _Filling, with_pyramid: bool) -> None:
        """Thread: write, then announce."""
        started = time.monotonic()
        is_done = filling.left == 0
        self._store.write_unit(
            filling.unit,
            *filling.values,
            state="done" if is_done else "partial",
            tiles=int((filling.values.probabilities.sum(axis=0) > 0).sum()),
            planned=filling.planned,
        )
        if with_pyramid:
            with writing(self._store.path):
                write_pyramid(self._store, filling.unit, filling.values)
        else:
            self._write_seconds = time.monotonic() - started
        self._units_done += is_done
        rows, columns = (np.array(values) for values in zip(*filling.new, strict=True))
        box = self._grid.box_px0(
            filling.unit.row + int(rows.min()),
            filling.unit.column + int(columns.min()),
            int(rows.max() - rows.min()) + 1,
            int(columns.max() - columns.min()) + 1,
        )
        total = int((self._planned > 0).sum())
        self._events.put(ShardDone(str(self._store.path), filling.unit.index, self._units_done, total, box))

    def _check_writes(self) -> None:
        """Raise what a write raised; forget the finished ones."""
        for write in [write for write in self._writes if write.done()]:
            self._writes.remove(write)
            write.result()

    def events(self) -> Iterator[ShardDone]:
        """What has become readable since the last call."""
        self._check_writes()
        while not self._events.empty():
            yield self._events.get()

    def close(self, write: bool = True) -> None:
        """Write what is in memory, lower pyramid levels included, and end the thread; without `write` only that."""
        try:
            for index in list(self._filling) if write else ():
                self._write(self._filling.pop(index))
        finally:
            self._pool.shutdown(wait=True, cancel_futures=not write)
        if not write:
            return
        for written in self._writes:
            written.result()
        self._writes = []
