"""What became of each slide of a run: one file per process that takes part, so that none waits for another to write."""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pathotune.errors import OutputRefused
from pathotune.processes import this_process

FOLDER = ".pathotune"
GOOD = ("done", "resumed")


class Ledger:
    """The ends of slides that this process and others wrote down in one results folder, now and earlier.

    Lines are appended to a file of this process alone, so nothing is locked and a process killed while it writes
    spoils its own last line at most. What cannot be written for a moment (a full disk) is written with the next line.

    Parameters
    ----------
    out : the results folder; made where it is not there.

    Raises
    ------
    OutputRefused : it cannot be written.
    """

    def __init__(self, out: Path) -> None:
        self.out, self.folder = out, out / FOLDER
        process = this_process()
        self._own = self.folder / f"{process['host']}-{process['pid']}-{uuid.uuid4().hex[:8]}.jsonl"
        self._unwritten: list[str] = []
        self._read: dict[Path, int] = {}
        self._ends: dict[str, dict[str, Any]] = {}
        self._begun: dict[tuple[Path, str], int] = {}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputRefused(
                f"The folder {str(out)!r} cannot be written ({error.strerror or error}). Choose another --out."
            ) from error

    @property
    def is_there(self) -> bool:
        """Whether the results folder still is where it was; that of a drive that went away is not."""
        return self.folder.is_dir()

    def begin(self, key: str) -> None:
        """Say that a slide's turn begins; `key` is its store's path below the results folder."""
        self._append({"begun": key, "time": _now()})

    def end(self, key: str, result: Mapping[str, Any]) -> None:
        """Say what became of it: the document `pathotune predict` prints."""
        self._append({"ended": key, "time": _now(), "result": dict(result)})

    def ends(self) -> dict[str, dict[str, Any]]:
        """The newest document of each slide that any process wrote."""
        self._refresh()
        return {key: entry["result"] for key, entry in self._ends.items()}

    def left_off(self) -> Counter[str]:
        """How often a slide was begun in earlier processes without an end: perhaps what killed them."""
        self._refresh()
        found: Counter[str] = Counter()
        for (path, key), count in self._begun.items():
            if path != self._own and count > 0:
                found[key] += count
        return found

    def _append(self, entry: dict[str, Any]) -> None:
        self._unwritten.append(json.dumps(entry, ensure_ascii=False, default=str))
        # Never into a folder made anew where a drive's mount point has become empty.
        with contextlib.suppress(OSError), open(self._own, "a", encoding="utf-8") as file:
            file.write("".join(f"{line}\n" for line in self._unwritten))
            file.flush()
            os.fsync(file.fileno())
            self._unwritten.clear()

    def _refresh(self) -> None:
        """Read what was appended since the last look."""
        with contextlib.suppress(OSError):
            for path in sorted(self.folder.glob("*.jsonl")):
                at = self._read.get(path, 0)
                if path.stat().st_size > at:
                    with open(path, "rb") as file:
                        file.seek(at)
                        data = file.read()
                    whole = data.rfind(b"\n") + 1
                    self._read[path] = at + whole
                    for line in data[:whole].splitlines():
                        self._take(path, line)

    def _take(self, path: Path, line: bytes) -> None:
        try:
            entry = json.loads(line)
            key = entry.get("ended") or entry["begun"]
            if "begun" in entry:
                self._begun[path, key] = self._begun.get((path, key), 0) + 1
                return
            self._begun[path, key] = 0
            if isinstance(entry["result"], dict) and _is_better(entry, self._ends.get(key)):
                self._ends[key] = entry
        except (ValueError, KeyError, TypeError, AttributeError):
            return  # half a line after a crash, or somebody else's file


def _is_better(entry: dict[str, Any], known: dict[str, Any] | None) -> bool:
    """Whether an end says more than the one known: who made a store knows more than who found it, else the later."""
    if known is None:
        return True
    if entry["result"].get("status") in GOOD and known["result"].get("status") in GOOD:
        worked = bool(entry["result"].get("seconds")), bool(known["result"].get("seconds"))
        if worked[0] != worked[1]:
            return worked[0]
    return bool(entry["time"] >= known["time"])


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
