"""The computer under the program: Python, memory, cores, folders and the room in them."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pathotune.diagnosis import Finding
from pathotune.settings import settings

LITTLE_GB, LITTLE_ROOM_GB = 6.0, 5.0


def check_python() -> Iterator[Finding]:
    """Version, and whether file names can be of any script."""
    from importlib.metadata import version

    python, system = platform.python_version(), f"{platform.system()} {platform.machine()}"
    text = f"pathotune {version('pathotune')}, Python {python}, {system}"
    if sys.maxsize < 2**32:
        yield Finding("python", "trouble", f"{text}: a 32-bit Python", "Install a 64-bit Python 3.11 or later.")
    else:
        yield Finding("python", "ok", text)
    encoding = sys.getfilesystemencoding()
    if encoding.lower().replace("-", "") != "utf8":
        text = f"file names are read as {encoding}: slides with letters beyond English may not be found"
        yield Finding("file names", "trouble", text, "Set the environment variable PYTHONUTF8=1.")


def check_packages() -> Iterator[Finding]:
    """Whether what pathotune needs is there in versions that go with it: a later installation may have changed it."""
    from importlib.metadata import PackageNotFoundError, requires, version

    from packaging.requirements import InvalidRequirement, Requirement

    wrong = []
    for line in requires("pathotune") or ():
        try:
            need = Requirement(line)
        except InvalidRequirement:
            continue
        if need.marker is not None and not need.marker.evaluate({"extra": ""}):
            continue
        try:
            found = version(need.name)
        except PackageNotFoundError:
            wrong.append(f"{need.name} is missing")
            continue
        if not need.specifier.contains(found, prereleases=True):
            wrong.append(f"{need.name} is {found} where {need.specifier} is needed")
    if wrong:
        fix = "Install pathotune again in an environment of its own: other programs there ask for other versions."
        yield Finding("packages", "trouble", "; ".join(wrong), fix)
    else:
        yield Finding("packages", "ok", "all there, in versions that go together")


def check_memory() -> Iterator[Finding]:
    """Memory and cores, also as a scheduler limits them."""
    import psutil

    memory = psutil.virtual_memory()
    total, free = memory.total / 1e9, memory.available / 1e9
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    text = f"{total:.0f} GB of memory, {free:.1f} GB free; {cores} cores"
    if free < LITTLE_GB:
        fix = "Close other programs, or choose a smaller backbone: large ones alone need several GB."
        yield Finding("memory", "note", text, fix)
    else:
        yield Finding("memory", "ok", text)
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if threads.isdecimal() and int(threads) < cores:
        text = f"OMP_NUM_THREADS={threads} leaves {cores - int(threads)} of {cores} cores unused"
        yield Finding("threads", "note", text, "Unset it where this program may use the whole computer.")


def check_folders() -> Iterator[Finding]:
    """Whether caches and results can be written, and have room."""
    known = settings()
    for name, folder in (("cache folder", known.cache_dir), ("results folder", known.results_dir)):
        variable = "PATHOTUNE_CACHE" if name.startswith("cache") else "PATHOTUNE_RESULTS"
        reason = _why_not_writable(folder)
        if reason:
            text = f"{shown(folder)} cannot be written ({reason})"
            yield Finding(name, "trouble", text, f"Set {variable} to a folder of your own.")
            continue
        free = shutil.disk_usage(_there(folder)).free / 1e9
        text = f"{shown(folder)}, {free:.0f} GB free"
        if free < LITTLE_ROOM_GB:
            yield Finding(name, "note", text, f"Free some space, or set {variable} to a larger drive.")
        else:
            yield Finding(name, "ok", text)


def shown(folder: Path) -> str:
    """A folder without the name of whose home it is in: a report may be passed on."""
    try:
        return str(Path("~") / folder.relative_to(Path.home()))
    except (ValueError, RuntimeError):
        return str(folder)


def _there(folder: Path) -> Path:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def _why_not_writable(folder: Path) -> str:
    """Tried for real, in the folder or the nearest above it that is there; nothing is left behind."""
    try:
        with tempfile.TemporaryFile(dir=_there(folder)) as file:
            file.write(b"pathotune")
    except OSError as error:
        return error.strerror or str(error)
    return ""
