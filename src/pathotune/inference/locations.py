"""Where prediction stores lie: their names, the ones that belong to a slide, and making room for a new one."""

from __future__ import annotations

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


def _check_ours(path: Path) -> None:
    if not read_attributes(path):
        raise OutputRefused(f"{str(path)!r} is no prediction store, so it is not replaced. Choose another --out.")


def _rename(path: Path, other: Path) -> None:
    try:
        os.replace(path, other)
    except OSError as error:
        raise OutputRefused(f"{path.name} is in use and cannot be replaced ({error.strerror or error}).") from error
