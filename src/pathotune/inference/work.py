"""What a prediction store is of, and where a run's own store is: the one that is there, or a new one beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from pathotune.errors import OutputRefused, StoreMismatch, StoreUnreadable, UsageError
from pathotune.inference.locations import further_paths, read_attributes, remove_store
from pathotune.inference.plan import Grid
from pathotune.inference.predictions import PredictionStore

OnMismatch = Literal["refuse", "restart", "beside"]
"""What becomes of a store that is of other work: say so, replace it, or keep both."""

_TITLES = {
    "slide": "slide (fingerprint)",
    "tuning": "tuning (fingerprint)",
    "backbone": "backbone weights (sha256)",
    "grid": "tile grid",
    "reading": "way tiles are read",
    "precision": "number format",
    "sources": "attention sources",
    "classes": "classes",
}


@dataclass(frozen=True)
class Work:
    """What two runs must have in common to fill one store.

    grid : cells and their place on the slide.
    classes : names of the classes, in the order of the probabilities.
    sources : names of the attention maps.
    slide, tuning, backbone : fingerprints.
    reading : how tiles are read.
    precision : number format; None takes over a store's own.
    """

    grid: Grid
    classes: tuple[str, ...]
    sources: tuple[str, ...]
    slide: str
    tuning: str
    backbone: str
    reading: dict[str, Any]
    precision: str | None

    def identity(self) -> dict[str, Any]:
        """What a store writes down of it, beside its grid, classes and sources."""
        names = ("slide", "tuning", "backbone", "reading", "precision")
        return {name: getattr(self, name) for name in names}

    def differences(self, attributes: Mapping[str, Any]) -> list[str]:
        """What is other in a store with this attribute `pathotune`, each with both values; empty where nothing is."""
        there = {
            **attributes["identity"],
            "grid": attributes["grid"],
            "classes": [entry["name"] for entry in attributes["classes"]],
            "sources": list(attributes["sources"]),
        }
        here = {
            **self.identity(),
            "precision": self.precision or there.get("precision"),
            "grid": self.grid.to_dict(),
            "classes": list(self.classes),
            "sources": list(self.sources) if all(self.grid.patches) else [],
        }
        return [
            f"{title} ({_brief(there.get(key), here[key])})"
            for key, title in _TITLES.items()
            if there.get(key) != here[key]
        ]


@dataclass(frozen=True)
class Place:
    """Where a run writes.

    path : its store.
    store : opened, where there is one of this very work to go on with.
    is_taken : whether another store is there, to be moved aside.
    """

    path: Path
    store: PredictionStore | None = None
    is_taken: bool = False


def find_place(path: Path, work: Work, *, resume: bool = True, on_mismatch: str = "refuse") -> Place:
    """The store to go on with, or the place for a new one.

    Nothing is lost on the way: a store that is to be replaced is moved aside when the new one begins, and
    `drop_replaced` deletes it once that is complete.

    Parameters
    ----------
    path : where the store of this slide and tuning is by its name.
    work : what is to be predicted.
    resume : go on with a store of the same work; False replaces whatever is there.
    on_mismatch : what to do about a store of other work: one of `OnMismatch`.

    Raises
    ------
    StoreMismatch : there is a store of other work, and it is to be left alone; every difference is named.
    StoreUnreadable, OutputRefused : what is there is damaged, or no store at all.
    UsageError : there is no such `on_mismatch`.
    """
    if on_mismatch not in get_args(OnMismatch):
        raise UsageError(f"There is no on_mismatch {on_mismatch!r}; choose {', '.join(get_args(OnMismatch))}.")
    if not path.exists():
        return Place(path)
    if resume:
        if on_mismatch == "refuse":
            store = PredictionStore.open(path)
            _refuse_other(store, work)
            return Place(path, store)
        found = _same(path, work)
        if found is not None:
            return Place(path, found)
        if on_mismatch == "beside":
            for further in further_paths(path):
                found = _same(further, work) if further.exists() else None
                if found is not None or not further.exists():
                    return Place(further, found)
    return Place(path, is_taken=True)


def _same(path: Path, work: Work) -> PredictionStore | None:
    """The store at this path if it is of this work."""
    try:
        store = PredictionStore.open(path)
    except StoreUnreadable:
        return None
    return None if work.differences(store.attrs) else store


def _refuse_other(store: PredictionStore, work: Work) -> None:
    found = work.differences(store.attrs)
    if found:
        raise StoreMismatch(
            f"{store.path.name} cannot be resumed, because it differs in its {', '.join(found)}. "
            "Replace it (--restart), keep both (--on-mismatch beside), or choose another folder for the results."
        )


def drop_replaced(store: PredictionStore) -> list[str]:
    """Delete the stores a complete one replaces; the sentences say which ones are kept and why.

    A store goes only where it is the one that was moved aside, of the same slide, and covers no more than the new one:
    what was predicted on a whole slide is worth more than one region of it at another stride.
    """
    notes, kept = [], []
    for entry in store.attrs.get("replaces", []):
        old = read_attributes(store.path.parent / entry["name"])
        if not old or old.get("created") != entry["created"]:
            continue  # somebody deleted it, and another has its name now
        why = _why_kept(store, entry["name"], old)
        if why:
            kept.append(entry)
            notes.append(f"{entry['name']} is kept, because it {why}.")
    if kept != store.attrs.get("replaces", []):
        store.attrs["replaces"] = kept
        store.save_attributes()
    return notes


def _why_kept(store: PredictionStore, name: str, old: Mapping[str, Any]) -> str:
    """Delete a replaced store, or say why not."""
    if old.get("identity", {}).get("slide") != store.slide_fingerprint:
        return "is of another slide"
    path = store.path.parent / name
    try:
        if not _covers(store, PredictionStore.open(path)):
            return "covers more of the slide"
        remove_store(path)
    except StoreUnreadable:
        return "cannot be read"
    except OutputRefused:
        return "is in use by another program"
    return ""


def _covers(store: PredictionStore, old: PredictionStore) -> bool:
    """Whether (nearly) all tiles of the old store have one of this store within a tile's width of them."""
    from scipy.ndimage import binary_dilation

    grid = store.grid
    reach = max(math.ceil(old.grid.tile_px0[axis] / grid.stride_px0[axis]) for axis in (0, 1))
    near = binary_dilation(np.asarray(store.labels[...]) > 0, np.ones((3, 3)), iterations=reach)
    row, column = np.nonzero(np.asarray(old.labels[...]))
    x0, y0, width, height = grid.box_px0(0, 0, 1, 1)
    left, top, old_width, old_height = old.grid.box_px0(0, 0, 1, 1)
    found = near[
        np.clip((top + (row + 0.5) * old_height - y0) // height, 0, grid.rows - 1).astype(int),
        np.clip((left + (column + 0.5) * old_width - x0) // width, 0, grid.columns - 1).astype(int),
    ]
    return bool(found.size == 0 or found.mean() > 0.99)


def _brief(there: Any, here: Any) -> str:
    """What differs, short: of two mappings only the keys that do."""
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        keys = [key for key in {**there, **here} if there.get(key) != here.get(key)]
        return "; ".join(f"{key}: {there.get(key)} there, {here.get(key)} now" for key in keys)
    return f"{_short(there)} there, {_short(here)} now"


def _short(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 24 else f"{text[:12]}…"
