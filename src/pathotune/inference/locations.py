"""Where prediction stores lie: their names, the ones that belong to a slide, and making room for a new one."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pathotune.errors import OutputRefused
from pathotune.settings import settings

SUFFIX = ".pathotune.zarr"
_GONE = {errno.ENOENT, errno.ESTALE, errno.EIO, errno.ENODEV, errno.ENOTCONN, errno.EHOSTDOWN, errno.ETIMEDOUT}
_NOT_ALLOWED = {errno.EACCES, errno.EPERM, errno.EROFS}


def store_path(slide_path: str | Path, tuning_name: str, out: str | Path) -> Path:
    """Where the predictions of a slide by a tuning lie under a results folder.

    A name that no file system would take is shortened, and a digest keeps it unique.
    """
    tuning = Path(tuning_name).name.removesuffix(".safetensors").removesuffix(".pathotune")
    stem = f"{Path(slide_path).name}.{tuning}"
    if len(stem.encode()) + len(SUFFIX) > 220:
        digest = hashlib.sha256(stem.encode()).hexdigest()[:12]
        stem = stem.encode()[:190].decode(errors="ignore") + "~" + digest
    return Path(out) / f"{stem}{SUFFIX}"


def further_paths(path: Path) -> Iterator[Path]:
    """The names beside a store's own for others of the same slide and tuning: NAME~2, NAME~3, …"""
    stem = path.name.removesuffix(SUFFIX)
    return (path.with_name(f"{stem}~{number}{SUFFIX}") for number in itertools.count(2))


def find_stores(
    slide_path: str | Path, extra_folders: Iterable[str | Path] = (), *, fingerprint: str | None = None
) -> list[Path]:
    """Every prediction store of a slide beside it, in the results folder and in further folders.

    Parameters
    ----------
    slide_path : the slide.
    extra_folders : more places to look, with their subfolders.
    fingerprint : identity of the slide where it is known already; otherwise the slide is opened for it.

    Returns
    -------
    Paths, newest first. Stores belong by the slide's fingerprint, so a renamed slide finds its own and a namesake
    does not.
    """
    slide_path = Path(slide_path)
    candidates = dict.fromkeys(slide_path.absolute().parent.glob(f"*{SUFFIX}"))
    for folder in (settings().results_dir, *map(Path, extra_folders)):
        candidates.update(dict.fromkeys(_stores_below(Path(folder).absolute())))
    known = {path: read_attributes(path) for path in candidates}
    if not any(known.values()):
        return []
    if fingerprint is None:
        from pathotune.slides import open_slide

        with open_slide(slide_path) as slide:
            fingerprint = slide.fingerprint
    found = [path for path, attrs in known.items() if attrs.get("identity", {}).get("slide") == fingerprint]
    return sorted(found, key=lambda path: (path / "zarr.json").stat().st_mtime, reverse=True)


def _stores_below(folder: Path, depth: int = 4) -> Iterator[Path]:
    try:
        entries = [entry for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith(".")]
    except OSError:
        return
    for entry in entries:
        if entry.name.endswith(SUFFIX):
            yield Path(entry.path)
        elif depth and not entry.name.endswith(".zarr"):
            yield from _stores_below(Path(entry.path), depth - 1)


def read_attributes(path: str | Path) -> dict[str, Any]:
    """The attribute `pathotune` of a store, or {} where there is none; reads one small file, without zarr."""
    try:
        document = json.loads((Path(path) / "zarr.json").read_text(encoding="utf-8"))
        attributes = document["attributes"]["pathotune"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return attributes if isinstance(attributes, dict) else {}


def file_sizes(store: Path) -> dict[str, int]:
    """Bytes of every file of a store that holds values, by its path below the store."""
    found = {}
    for folder, _, names in os.walk(store):
        for name in names:
            if name != "zarr.json" and not name.startswith(".") and not name.endswith(".partial"):
                path = Path(folder, name)
                found[path.relative_to(store).as_posix()] = path.stat().st_size
    return dict(sorted(found.items()))


def drop_leftovers(store: Path) -> None:
    """Delete what a killed process left of files it had not finished; only who alone writes the store may."""
    for path in store.rglob("*.partial"):
        path.unlink(missing_ok=True)
    for path in store.glob(".zarr.json.*.tmp"):
        path.unlink(missing_ok=True)


def set_aside(path: str | Path) -> Path:
    """Rename a prediction store to the first further name that is free, and return that.

    Raises
    ------
    OutputRefused : the folder is not one of our stores, or it is in use.
    """
    path = Path(path)
    _check_ours(path)
    free = next(further for further in further_paths(path) if not further.exists())
    _rename(path, free)
    return free


def remove_store(path: str | Path) -> None:
    """Delete a prediction store; anything else in its place is refused.

    Raises
    ------
    OutputRefused : the folder is not one of our stores, or it cannot be deleted.
    """
    path = Path(path)
    _check_ours(path)
    doomed = path.with_name(f".{path.name}.{os.getpid()}.old")
    _rename(path, doomed)
    shutil.rmtree(doomed, ignore_errors=True)


@contextlib.contextmanager
def writing(store: Path) -> Iterator[None]:
    """Inside, a store is written; what the disk refuses becomes a sentence that says what to do.

    Raises
    ------
    OutputRefused : the disk is full, read-only, or gone with its folder, which is never made anew below a store.
    """
    try:
        if not (store / "zarr.json").is_file():
            raise FileNotFoundError(errno.ENOENT, "its folder is gone")
        yield
    except OutputRefused:
        raise
    except OSError as error:
        if isinstance(error, FileNotFoundError) or error.errno in _GONE:
            advice = "Connect its drive again"
        elif error.errno in _NOT_ALLOWED:
            advice = "Allow writing there"
        else:
            advice = "Free some space"
        raise OutputRefused(
            f"{store.name} cannot be written any further ({error.strerror or error}). {advice} and run again: "
            "what was done is kept."
        ) from error


def _check_ours(path: Path) -> None:
    if not read_attributes(path):
        raise OutputRefused(f"{str(path)!r} is no prediction store, so it is not replaced. Choose another --out.")


def _rename(path: Path, other: Path) -> None:
    try:
        os.replace(path, other)
    except OSError as error:
        raise OutputRefused(f"{path.name} is in use and cannot be replaced ({error.strerror or error}).") from error
