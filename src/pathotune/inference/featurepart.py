"""Features on their way to their file: what is computed lies beside it and survives a kill, and misleads nobody."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from pathotune.errors import OutputRefused

SUFFIX = ".features-part"
FLUSH_S = 2.0
"""How often what is computed is made safe: a killed run loses no more than that."""
_ROWS = 4096


class FeaturePart:
    """Rows of features in a folder beside the file they will become.

    The folder's name begins with a point and has no ending of a feature file, so no reader takes it for one. A row
    counts as done only after its numbers were handed to the disk.

    Parameters
    ----------
    target : the file to come.
    work : what two runs must have in common to go on with each other, JSON-ready.
    count, width : shape of the features.
    """

    def __init__(self, target: Path, work: dict[str, Any], count: int, width: int) -> None:
        self.folder = part_folder(target)
        self.count, self.width = count, width
        self.done = np.zeros(count, dtype=bool)
        self._work = {**work, "count": count, "width": width}
        self._pending: list[NDArray[np.intp]] = []
        self._flushed = time.monotonic()
        try:
            self._begin()
            self._values: BinaryIO = (self.folder / "features").open("r+b", buffering=0)
            self._flags: BinaryIO = (self.folder / "done").open("r+b", buffering=0)
        except OSError as error:
            raise _refused(self.folder, error) from None

    def _begin(self) -> None:
        """Take over what is there of this work, or make empty files."""
        if begun_work(self.folder) == self._work:
            with contextlib.suppress(OSError):
                flags = np.fromfile(self.folder / "done", dtype=np.uint8)
                if (
                    len(flags) == self.count
                    and (self.folder / "features").stat().st_size == 4 * self.count * self.width
                ):
                    self.done = flags == 1
                    return
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        for name, size in (("features", 4 * self.count * self.width), ("done", self.count)):
            with open(self.folder / name, "wb") as file:
                file.truncate(size)
        # Last, so that a folder with it is whole.
        (self.folder / "work.json").write_text(json.dumps(self._work), encoding="utf-8")

    def put(self, rows: NDArray[np.intp], answer: Any, done: NDArray[np.bool_]) -> None:
        """Features (m, width) of some rows, as `answer.features`; `done` is updated."""
        values = np.ascontiguousarray(answer.features, dtype=np.float32)
        try:
            for start, stop in _runs(rows):
                self._values.seek(4 * self.width * int(rows[start]))
                self._values.write(values[start:stop].tobytes())
            done[rows] = True
            self._pending.append(rows)
            if time.monotonic() - self._flushed > FLUSH_S:
                self.flush()
        except OSError as error:
            raise _refused(self.folder, error) from None

    def flush(self) -> None:
        """Hand the numbers to the disk, then say that they are there."""
        if not self._pending:
            return
        os.fsync(self._values.fileno())
        rows = np.sort(np.concatenate(self._pending))
        for start, stop in _runs(rows):
            self._flags.seek(int(rows[start]))
            self._flags.write(b"\x01" * (stop - start))
        self._pending, self._flushed = [], time.monotonic()

    def close(self) -> None:
        """Make safe what is computed and close the files; safe to call twice."""
        if not self._values.closed:
            with contextlib.suppress(OSError):
                self.flush()
            self._values.close()
            self._flags.close()

    def copy_into(self, data: Any) -> None:
        """Copy all rows into an HDF5 data set, some at a time."""
        values = np.memmap(self.folder / "features", np.float32, "r", shape=(self.count, self.width))
        for start in range(0, self.count, _ROWS):
            data[start : start + _ROWS] = values[start : start + _ROWS]
        del values  # Windows removes no file that is mapped

    def remove(self) -> None:
        """Take the folder away."""
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def part_folder(target: Path) -> Path:
    """Where what is computed of a file lies until it is whole."""
    return target.with_name(f".{target.stem}{SUFFIX}")


def begun_work(folder: Path) -> dict[str, Any]:
    """What an unfinished run is of; empty where there is none."""
    try:
        data = json.loads((folder / "work.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def _runs(rows: NDArray[np.intp]) -> list[tuple[int, int]]:
    """(start, stop) of the stretches of numbers that follow each other."""
    breaks = np.flatnonzero(np.diff(rows) != 1) + 1
    edges = [0, *breaks.tolist(), len(rows)]
    return [(start, stop) for start, stop in itertools.pairwise(edges) if stop > start]


def _refused(folder: Path, error: OSError) -> OutputRefused:
    return OutputRefused(
        f"What is computed cannot be written to {folder} ({error.strerror or error}). Make room, or choose another "
        "--out."
    )
