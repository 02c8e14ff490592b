"""What is drawn, kept on disk while it is drawn: a journal of the changes, and what a crash left of it."""

from __future__ import annotations

import json
import os
import queue
import threading
import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from pathotune.errors import OutputRefused, PathotuneError
from pathotune.processes import still_runs, this_process
from pathotune.regions.document import Change, RegionDocument
from pathotune.regions.geojson import from_feature, to_feature
from pathotune.regions.palette import Palette, PaletteClass
from pathotune.regions.region import Region
from pathotune.tasks import Color

SUFFIX = ".regions-journal.jsonl"
KEPT = ".kept"  # what a journal's name ends in once the person said no to it
FORMAT = 1
SYNC_S = 1.0
# Rewritten in short once it is this long and several times as long as what it says.
COMPACT_BYTES = 4_000_000
COMPACT_RATIO = 4


@dataclass
class State:
    """What a journal says is drawn.

    Parameters
    ----------
    classes : name and colour of each class, in order.
    features : (place in the order of drawing, GeoJSON feature) by key.
    changes : how many changes were made since the start or the last save.
    skipped : lines that could not be read; after a crash the last one may be torn.
    draft : the shape that was being drawn when the last line was written, as a GeoJSON feature.
    """

    classes: list[tuple[str, Color]] = field(default_factory=list)
    features: dict[str, tuple[int, dict[str, Any]]] = field(default_factory=dict)
    changes: int = 0
    skipped: int = 0
    draft: dict[str, Any] | None = None

    @property
    def is_unsaved(self) -> bool:
        """Whether it says something that no regions file has."""
        return self.changes > 0 or self.draft is not None

    @property
    def count(self) -> int:
        """How many regions there are, the half-drawn one with them."""
        return len(self.features) + (self.draft is not None)

    def take(self, line: Mapping[str, Any]) -> None:
        """Take in one line of the journal."""
        if "draft" in line:
            self.draft = line["draft"]
            return
        if line.get("snapshot"):
            self.classes, self.features, self.draft = [], {}, None
        if "put" in line:
            self.draft = None  # it has become a region, or was dropped for another
        if "classes" in line:
            self.classes = [
                (str(name), (int(red), int(green), int(blue))) for name, (red, green, blue) in line["classes"]
            ]
        for key, place, feature in line.get("put", ()):
            self.features[key] = int(place), feature
        for key in line.get("drop", ()):
            self.features.pop(key, None)
        for name, keys in line.get("reclass", ()):
            for key in keys:
                if key in self.features:
                    place, feature = self.features[key]
                    self.features[key] = place, _with_class(feature, name)
        if "saved" in line:
            self.changes = 0
        elif not line.get("snapshot"):
            self.changes += 1

    def document(self) -> RegionDocument:
        """A document with these regions and classes, and nothing to undo."""
        document = RegionDocument(self.palette())
        document.add(self.regions())
        document.forget_steps()
        return document

    def palette(self) -> Palette:
        """The classes."""
        return Palette(PaletteClass(name, color) for name, color in self.classes)

    def regions(self) -> list[Region]:
        """The regions, in the order they were drawn; one that cannot be understood is left out and counted."""
        found: list[Region] = []
        features = [feature for _, feature in sorted(self.features.values(), key=lambda item: item[0])]
        for feature in [*features, *([] if self.draft is None else [self.draft])]:
            try:
                region = from_feature(feature)
            except PathotuneError:
                self.skipped += 1
                continue
            if region is not None:
                found.append(region)
        return found


def _with_class(feature: dict[str, Any], name: str | None) -> dict[str, Any]:
    properties = {key: value for key, value in feature.get("properties", {}).items() if key != "classification"}
    if name is not None:
        properties["classification"] = {"name": name}
    return {**feature, "properties": properties}


class Journal:
    """Writes every change of a document to disk as it is made; a thread does the writing.

    What was handed over is in the hands of the operating system at once, and on the disk within a second.

    Parameters
    ----------
    document : what is written; its state now is the first line.
    name : the slide's file name.
    fingerprint : of the slide.
    folder : where the journal goes.
    fallback : where it goes if that folder cannot be written to; `note` then says so.

    Raises
    ------
    OutputRefused : neither folder can be written to.
    """

    def __init__(self, document: RegionDocument, name: str, fingerprint: str, folder: Path, fallback: Path) -> None:
        self.note = ""
        self.problem = ""
        self._document = document
        self._header = {
            "pathotune": "regions journal",
            "format": FORMAT,
            "slide": name,
            "fingerprint": fingerprint,
            **this_process(),
        }
        self.path, self._file = self._open(name, fingerprint, folder, fallback)
        self._bytes = self._file.tell()
        self._lines: queue.Queue[dict[str, Any] | threading.Event | None] = queue.Queue()
        self._drafted: dict[str, Any] | None = None
        self._thread = threading.Thread(target=self._work, name="pathotune-journal", daemon=True)
        self._thread.start()
        document.listeners.append(self.take)

    def _open(self, name: str, fingerprint: str, folder: Path, fallback: Path) -> tuple[Path, BinaryIO]:
        short = f"{name}.{fingerprint[:8]}.{os.getpid()}-{uuid.uuid4().hex[:6]}{SUFFIX}"
        start = _encoded(self._header) + _encoded(_snapshot(self._document))
        reason = ""
        for place in (folder, fallback):
            path = place / short
            try:
                place.mkdir(parents=True, exist_ok=True)
                file = path.open("xb", buffering=0)
                file.write(start)
                os.fsync(file.fileno())
            except OSError as error:
                reason = reason or f"{error.strerror or error}"
                continue
            if place is not folder:
                self.note = (
                    f"The results folder {str(folder)!r} cannot be written to ({reason}); what you draw is kept in "
                    f"{str(fallback)!r} instead."
                )
            return path, file
        raise OutputRefused(
            f"What you draw cannot be kept on disk: neither {str(folder)!r} nor {str(fallback)!r} can be written to "
            f"({reason}). Choose another results folder."
        )

    # -- what the document's side calls

    def take(self, change: Change) -> None:
        """Hand over a change; returns at once."""
        line = _line_of(change, self._document)
        if line:
            if "put" in line:
                self._drafted = None
            self._lines.put(line)

    def keep_draft(self, region: Region | None) -> None:
        """Note the shape that is being drawn and is no region yet; None where there is none."""
        feature = None if region is None else to_feature(region)
        if feature != self._drafted:
            self._drafted = feature
            self._lines.put({"draft": feature, "time": time.time()})

    def mark_saved(self, path: Path) -> None:
        """Note that everything up to here is in a regions file."""
        self._lines.put({"saved": str(path), "time": time.time()})

    def flush(self, timeout_s: float = 10.0) -> bool:
        """Wait until all that was handed over is on the disk, and say whether it is."""
        done = threading.Event()
        self._lines.put(done)
        return self._thread.is_alive() and done.wait(timeout_s) and not self.problem

    def close(self, delete: bool) -> None:
        """Stop listening and writing.

        Parameters
        ----------
        delete : the journal is not needed any more, as everything is in a regions file.
        """
        if self.take in self._document.listeners:
            self._document.listeners.remove(self.take)
        self._lines.put(None)
        self._thread.join(10.0)
        self._file.close()
        if delete and not self.problem:
            self.path.unlink(missing_ok=True)

    # -- the thread

    def _work(self) -> None:
        is_dirty, synced = False, time.monotonic()
        while True:
            try:
                item = self._lines.get(timeout=max(0.01, synced + SYNC_S - time.monotonic()) if is_dirty else None)
            except queue.Empty:
                item = {}
            if isinstance(item, dict) and item:
                self._write(_encoded(_written(item)))
                is_dirty = True
                self._compact_if_long()
            wants_sync = item is None or isinstance(item, threading.Event)
            if is_dirty and (wants_sync or time.monotonic() - synced >= SYNC_S):
                self._sync()
                is_dirty, synced = False, time.monotonic()
            if isinstance(item, threading.Event):
                item.set()
            if item is None:
                return

    def _write(self, line: bytes) -> None:
        try:
            # A line that was cut off by a full disk must not take the next one with it.
            written = self._file.write(b"\n" + line if self.problem else line)
            if written is not None and written < len(line):
                raise OSError(28, "the disk is full")
            self._bytes += len(line)
            self.problem = ""
        except OSError as error:
            self.problem = (
                f"What you draw cannot be kept in {self.path.name} ({error.strerror or error}): free some space, and "
                "save the regions to a file."
            )

    def _sync(self) -> None:
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            self.problem = f"{self.path.name} could not be brought to disk ({error.strerror or error})."

    def _compact_if_long(self) -> None:
        """Rewrite the journal as one snapshot where most of it has been overtaken."""
        if self._bytes < COMPACT_BYTES or self.problem:
            return
        state = read_state(self.path)[1]
        short = _encoded(self._header) + _encoded(_snapshot_of(state))
        if state.changes:
            short += _encoded({"time": time.time(), "label": "compacted"})
        if state.draft is not None:
            short += _encoded({"draft": state.draft, "time": time.time()})
        if len(short) * COMPACT_RATIO > self._bytes:
            self._bytes = 0  # asked again after as much more
            return
        temporary = self.path.with_name(f"{self.path.name}.tmp")
        try:
            with temporary.open("wb") as file:
                file.write(short)
                file.flush()
                os.fsync(file.fileno())
            self._file.close()
            os.replace(temporary, self.path)
            self._file = self.path.open("ab", buffering=0)
            self._bytes = len(short)
        except OSError:
            temporary.unlink(missing_ok=True)
            if self._file.closed:
                self._file = self.path.open("ab", buffering=0)


def _encoded(line: Mapping[str, Any]) -> bytes:
    return json.dumps(line, ensure_ascii=False, separators=(",", ":"), default=_plain).encode() + b"\n"


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else str(value)


def _line_of(change: Change, document: RegionDocument) -> dict[str, Any]:
    """A change as a line; regions stay as they are, as turning them into text is the thread's work."""
    line: dict[str, Any] = {"time": time.time(), "label": change.label}
    put: list[tuple[str, int, Region]] = []
    drop: list[str] = []
    reclass: dict[str | None, list[str]] = {}
    for key, region in change.after.items():
        earlier = change.before.get(key)
        if region is None:
            drop.append(key)
        elif earlier is not None and _differ_in_class_only(earlier, region):
            reclass.setdefault(region.class_name, []).append(key)
        else:
            put.append((key, document.place_of(key), region))
    if change.touches_palette:
        line["classes"] = [[one.name, list(one.color)] for one in change.palette_after]
    for name, value in (("put", put), ("drop", drop), ("reclass", list(reclass.items()))):
        if value:
            line[name] = value
    return line


def _differ_in_class_only(first: Region, second: Region) -> bool:
    return (
        first.geometry is second.geometry
        and first.properties is second.properties
        and (first.name, first.locked) == (second.name, second.locked)
    )


def _written(line: dict[str, Any]) -> dict[str, Any]:
    """The line with its regions as GeoJSON features."""
    if "put" not in line:
        return line
    features = [(key, place, to_feature(region)) for key, place, region in line["put"]]
    return {**line, "put": [item for item in features if item[2] is not None]}


def _snapshot(document: RegionDocument) -> dict[str, Any]:
    put = [(key, document.place_of(key), document[key]) for key in document.keys]
    classes = [[one.name, list(one.color)] for one in document.palette]
    return _written({"snapshot": True, "time": time.time(), "classes": classes, "put": put})


def _snapshot_of(state: State) -> dict[str, Any]:
    put = [(key, place, feature) for key, (place, feature) in state.features.items()]
    return {"snapshot": True, "time": time.time(), "classes": state.classes, "put": put}


# -- after a crash


@dataclass(frozen=True)
class Unsaved:
    """A journal whose writer ended without saving.

    Parameters
    ----------
    path : the journal.
    state : what it says.
    time : when it was last written to (seconds since 1970).
    """

    path: Path
    state: State
    time: float

    def set_aside(self) -> Path:
        """Keep the file but never offer it again; returns where it is."""
        kept = self.path.with_name(self.path.name + KEPT)
        try:
            os.replace(self.path, kept)
        except OSError:
            return self.path
        return kept

    def discard(self) -> None:
        """Delete the file: what it says is kept elsewhere."""
        try:
            self.path.unlink(missing_ok=True)
        except OSError:
            self.set_aside()


def unsaved_journals(fingerprint: str, folders: Iterable[Path]) -> list[Unsaved]:
    """What crashes left of a slide's regions, newest first.

    A journal whose writer still runs is left alone, and one that says nothing beyond what was saved is tidied away.
    """
    found: list[Unsaved] = []
    for folder in dict.fromkeys(folders):
        for path in sorted(folder.glob(f"*.{fingerprint[:8]}.*{SUFFIX}")) if folder.is_dir() else ():
            try:
                header, state = read_state(path)
                changed = path.stat().st_mtime
            except OSError:
                continue
            if header.get("fingerprint") != fingerprint or still_runs(header, changed):
                continue
            unsaved = Unsaved(path, state, changed)
            if state.is_unsaved:
                found.append(unsaved)
            else:
                unsaved.discard()
    return sorted(found, key=lambda unsaved: unsaved.time, reverse=True)


def read_state(path: Path) -> tuple[dict[str, Any], State]:
    """A journal's header and what its lines come to; torn and foreign lines are skipped and counted.

    Raises
    ------
    OSError : the file cannot be read.
    """
    header: dict[str, Any] = {}
    state = State()
    with path.open("rb") as file:
        for line in file:
            if not line.strip():
                continue
            try:
                parsed = json.loads(line)
                if not header and parsed.get("pathotune") == "regions journal":
                    header = parsed
                else:
                    state.take(parsed)
            except (ValueError, TypeError, AttributeError, KeyError):
                state.skipped += 1
    return header, state
