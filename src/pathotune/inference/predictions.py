"""The prediction store: probabilities, attention and classes of one slide as OME-Zarr, readable while it grows."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathotune.errors import FileMissing, OutputRefused, StoreMismatch, StoreUnreadable
from pathotune.inference.plan import Grid, Kind, Unit
from pathotune.inference.skeleton import rgb, write_skeleton
from pathotune.settings import settings

__all__ = [
    "FORMAT",
    "SUFFIX",
    "PredictionStore",
    "find_stores",
    "read_attributes",
    "remove_store",
    "rgb",
    "store_path",
]

FORMAT = 1
SUFFIX = ".pathotune.zarr"

_LOG = logging.getLogger(__name__)
_IDENTITY = {
    "slide": "slide (fingerprint)",
    "tuning": "tuning (fingerprint)",
    "backbone": "backbone weights (sha256)",
    "grid": "tile grid",
    "reading": "way tiles are read",
    "precision": "number format",
    "sources": "attention sources",
    "classes": "classes",
}


class PredictionStore:
    """A prediction store on disk.

    A value of `probabilities` and `classes` stands for one stride of the tile grid, a value of `attention` for one
    patch of the backbone; `placement_um` says where they lie. Cells nobody predicted hold 0 everywhere.

    Parameters
    ----------
    path : folder of the store; use `create` or `open`.
    attributes : its `pathotune` attribute.
    """

    def __init__(self, path: Path, attributes: dict[str, Any]) -> None:
        self.path = path
        self.attrs = attributes
        self.grid = Grid.from_dict(attributes["grid"])
        self._arrays: dict[str, Any] = {}

    # ---- making and opening ------------------------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        path: str | Path,
        *,
        grid: Grid,
        classes: Sequence[Mapping[str, Any]],
        sources: Sequence[str] = (),
        identity: Mapping[str, Any],
        facts: Mapping[str, Any] | None = None,
    ) -> PredictionStore:
        """An empty store under this path; it appears there whole, by one rename.

        Parameters
        ----------
        path : folder that must not exist yet.
        grid : cells and their place on the slide.
        classes : name and color of each class, in the order of the probabilities.
        sources : names of the attention maps; none leaves `attention/` out.
        identity : what a resumed run must agree on: fingerprints ("slide", "tuning", "backbone"), "reading",
            "precision".
        facts : what else the attribute `pathotune` shall say (job, versions, device …).

        Raises
        ------
        OutputRefused : the folder exists or cannot be written.
        """
        path = Path(path)
        sources = list(sources) if all(grid.patches) else []
        attributes: dict[str, Any] = {
            "format": FORMAT,
            **(facts or {}),
            "identity": dict(identity),
            "classes": [dict(entry) for entry in classes],
            "sources": sources,
            "grid": grid.to_dict(),
            "state": "running",
            "tiles_done": 0,
            "seconds": 0.0,
            "shards": {},
        }
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():
                raise OutputRefused(f"{str(path)!r} exists already. Resume it, or use --restart to make it again.")
            shutil.rmtree(temporary, ignore_errors=True)
            write_skeleton(temporary, attributes, grid)
            os.replace(temporary, path)
        except OutputRefused:
            raise
        except OSError as error:
            shutil.rmtree(temporary, ignore_errors=True)
            raise OutputRefused(
                f"The store {str(path)!r} cannot be written ({error.strerror or error}). Choose another --out."
            ) from error
        return cls(path, attributes)

    @classmethod
    def open(cls, path: str | Path) -> PredictionStore:
        """Open a store, finished or half-done.

        Raises
        ------
        FileMissing : there is nothing at this path.
        StoreUnreadable : it is no prediction store, or one of a later format.
        """
        path = Path(path)
        if not path.exists():
            raise FileMissing(path, "prediction store")
        attributes = read_attributes(path)
        if not attributes:
            raise StoreUnreadable(f"{str(path)!r} is no prediction store of pathotune. Choose a folder *{SUFFIX}.")
        if attributes.get("format", 0) > FORMAT:
            raise StoreUnreadable(
                f"{path.name} has the format {attributes['format']}, and this version knows {FORMAT}. Update pathotune."
            )
        try:
            return cls(path, attributes)
        except (KeyError, TypeError) as error:
            raise StoreUnreadable(
                f"{path.name} lacks {error} in its metadata. Make it again with --restart."
            ) from error

    # ---- what it holds -----------------------------------------------------------------------------------------

    @property
    def classes(self) -> list[dict[str, Any]]:
        """Name and color of each class, in the order of the probabilities; class i has the label i + 1."""
        return list(self.attrs["classes"])

    @property
    def class_names(self) -> list[str]:
        """Names of the classes."""
        return [entry["name"] for entry in self.attrs["classes"]]

    @property
    def sources(self) -> list[str]:
        """Names of the attention maps, in the order of their array."""
        return list(self.attrs["sources"])

    @property
    def is_complete(self) -> bool:
        """Whether the last run came to its end."""
        return bool(self.attrs["state"] == "complete")

    @property
    def shards_done(self) -> list[int]:
        """Work units whose planned tiles are all predicted."""
        return sorted(int(index) for index, shard in self.attrs["shards"].items() if shard["state"] == "done")

    @property
    def slide_fingerprint(self) -> str:
        """Identity of the slide it belongs to."""
        return str(self.attrs["identity"].get("slide", ""))

    def array(self, kind: Kind, level: int = 0) -> Any:
        """The zarr array of one pyramid level."""
        import zarr

        name = f"{kind}/{level}"
        if name not in self._arrays:
            try:
                self._arrays[name] = zarr.open_array(str(self.path / kind / str(level)), mode="r+")
            except (OSError, ValueError, KeyError) as error:
                raise StoreUnreadable(f"{self.path.name} has no readable array {name} ({error}).") from error
        return self._arrays[name]

    @property
    def probabilities(self) -> Any:
        """(class, row, column) float32, one vector per cell; the zarr array at full resolution."""
        return self.array("probabilities")

    @property
    def attention(self) -> Any | None:
        """(source, row, column) float16, one value per backbone patch, or None. 1 is an even share of the tile."""
        return self.array("attention") if self.sources else None

    @property
    def labels(self) -> Any:
        """(row, column) uint8 class labels, 0 where nothing is predicted; the zarr array at full resolution."""
        return self.array("classes")

    @property
    def kinds(self) -> list[Kind]:
        """The images it holds."""
        return ["probabilities", "attention", "classes"] if self.sources else ["probabilities", "classes"]

    def pyramid(self, kind: Kind) -> list[Any]:
        """The zarr arrays of all pyramid levels."""
        return [self.array(kind, level) for level in range(self.grid.levels(kind))]

    def placement_um(self, kind: Kind, level: int = 0) -> tuple[tuple[float, float], tuple[float, float]]:
        """Scale and translation in µm, each (y, x): `Grid.placement_um`."""
        return self.grid.placement_um(kind, level)

    def at(self, x_px0: float, y_px0: float) -> dict[str, float] | None:
        """Probability of each class at a point in level-0 pixels, or None where nothing is predicted."""
        cell = self.grid.cell_at(x_px0, y_px0)
        if cell is None or not int(self.labels[cell]):
            return None
        values = self.probabilities[(slice(None), *cell)]
        return {name: float(value) for name, value in zip(self.class_names, values, strict=True)}

    def summary(self) -> dict[str, float]:
        """Area of each class in mm²."""
        counts = np.zeros(len(self.classes) + 1, np.int64)
        for unit in self.units():
            counts += np.bincount(self.read_labels(unit).ravel(), minlength=len(counts))[: len(counts)]
        area = self.grid.cell_area_mm2
        return {name: float(count) * area for name, count in zip(self.class_names, counts[1:], strict=True)}

    def units(self) -> Iterator[Unit]:
        """All work units."""
        shape = self.grid.units_shape
        return (self.grid.unit(index) for index in range(shape[0] * shape[1]))

    # ---- reading and writing parts -----------------------------------------------------------------------------

    def read_labels(self, unit: Unit) -> NDArray[np.uint8]:
        """(rows, columns) class labels of one unit; zeros where its shard is damaged."""
        try:
            return np.asarray(self.labels[_part(unit, (1, 1))], np.uint8)
        except Exception as error:  # zarr, numcodecs and the disk each have their own
            _LOG.warning("%s: shard %d of classes is damaged (%s).", self.path.name, unit.index, error)
            return np.zeros((unit.rows, unit.columns), np.uint8)

    def read_unit(self, unit: Unit) -> tuple[NDArray[np.float32], NDArray[np.float16] | None] | None:
        """Probabilities (K, rows, columns) and attention (S, …) of one unit, or None where a shard is damaged.

        Damaged is what fails its checksum (a truncated file), is not finite or disagrees with the class labels.
        """
        try:
            labels = np.asarray(self.labels[_part(unit, (1, 1))])
            probabilities = np.asarray(self.probabilities[(slice(None), *_part(unit, (1, 1)))])
            attention = None
            if self.attention is not None:
                attention = np.asarray(self.attention[(slice(None), *_part(unit, self.grid.samples))])
        except Exception as error:  # zarr, numcodecs and the disk each have their own
            _LOG.warning("%s: shard %d is damaged and will be made again (%s).", self.path.name, unit.index, error)
            return None
        predicted = labels > 0
        whole = np.abs(probabilities.sum(axis=0) - predicted) < 1e-3
        agree = _label(probabilities)[predicted] == labels[predicted]
        if not (np.isfinite(probabilities).all() and whole[predicted].all() and agree.all()):
            return None
        probabilities[:, ~predicted] = 0
        return probabilities, attention

    def write_unit(
        self,
        unit: Unit,
        probabilities: NDArray[np.float32],
        attention: NDArray[np.float16] | None,
        *,
        state: str,
        tiles: int,
        planned: int,
    ) -> None:
        """Write whole shards of one unit, then say so in the metadata.

        The order matters: class labels come after the values they vouch for, the state after both, so that a process
        killed anywhere in between leaves a store that says nothing untrue.

        Parameters
        ----------
        unit : the work unit.
        probabilities : (K, rows, columns), 0 where nothing is predicted.
        attention : (S, rows * samples, columns * samples) or None.
        state : "done" or "partial".
        tiles, planned : tiles predicted so far in this unit, and tiles planned.

        Raises
        ------
        OutputRefused : the disk refuses.
        """
        try:
            self.probabilities[(slice(None), *_part(unit, (1, 1)))] = probabilities
            if attention is not None and self.attention is not None:
                self.attention[(slice(None), *_part(unit, self.grid.samples))] = attention
            self.labels[_part(unit, (1, 1))] = _label(probabilities)
        except OSError as error:
            raise OutputRefused(
                f"{self.path.name} cannot be written any further ({error.strerror or error}). "
                "Free some space and run again: what was done is kept."
            ) from error
        self.attrs["shards"][str(unit.index)] = {"state": state, "tiles": int(tiles), "planned": int(planned)}
        self.save_attributes()

    def drop_unit(self, unit: Unit) -> None:
        """Delete what is on disk of one unit at full resolution: writing into a damaged shard would read it first."""
        at = (unit.row // self.grid.unit_cells, unit.column // self.grid.unit_cells)
        for kind in self.kinds:
            leading = () if kind == "classes" else (0,)
            shard = self.path.joinpath(kind, "0", "c", *map(str, (*leading, *at)))
            shard.unlink(missing_ok=True)

    def repair_pyramids(self) -> None:
        """Make the lower levels again where one of them is damaged."""
        damaged = False
        for kind in self.kinds:
            for level in range(1, self.grid.levels(kind)):
                try:
                    self.array(kind, level)[:]
                except Exception as error:  # zarr, numcodecs and the disk each have their own
                    _LOG.warning(
                        "%s: %s/%d is damaged and will be made again (%s).", self.path.name, kind, level, error
                    )
                    shutil.rmtree(self.path / kind / str(level) / "c", ignore_errors=True)
                    damaged = True
        for unit in self.units() if damaged else ():
            read = self.read_unit(unit)
            if read is not None:
                self.write_pyramid(unit, *read)

    def write_pyramid(
        self, unit: Unit, probabilities: NDArray[np.float32], attention: NDArray[np.float16] | None
    ) -> None:
        """Bring the lower pyramid levels up to date under one unit: means over predicted cells only."""
        values: NDArray[Any] = probabilities
        for level in range(1, self.grid.levels("probabilities")):
            values = self._write_halved("probabilities", level, unit, values)
            self.array("classes", level)[self._part_of_level("classes", level, unit)] = _label(values)
        if attention is not None:
            values = attention
            for level in range(1, self.grid.levels("attention")):
                values = self._write_halved("attention", level, unit, values)

    def _part_of_level(self, kind: Kind, level: int, unit: Unit) -> tuple[slice, slice]:
        y, x = self.grid.per_cell(kind)
        shape = self.grid.shape(kind, level)
        first = (unit.row * y >> level, unit.column * x >> level)
        last = (-(-(unit.row + unit.rows) * y >> level), -(-(unit.column + unit.columns) * x >> level))
        return slice(first[0], min(last[0], shape[0])), slice(first[1], min(last[1], shape[1]))

    def _write_halved(self, kind: Kind, level: int, unit: Unit, values: NDArray[Any]) -> NDArray[Any]:
        """Write one lower level under a unit and return it."""
        part = self._part_of_level(kind, level, unit)
        smaller = _mean_of_four(values)[:, : part[0].stop - part[0].start, : part[1].stop - part[1].start]
        self.array(kind, level)[(slice(None), *part)] = smaller
        return smaller

    def finish(self, state: str, **facts: Any) -> None:
        """Say how the run ended ("complete", "cancelled") with further facts for the attribute."""
        self.attrs.update(facts)
        self.attrs["state"] = state
        self.save_attributes()

    def save_attributes(self) -> None:
        """Write the attribute `pathotune` in one rename."""
        self.attrs["tiles_done"] = sum(shard["tiles"] for shard in self.attrs["shards"].values())
        document = json.loads((self.path / "zarr.json").read_text(encoding="utf-8"))
        document["attributes"]["pathotune"] = self.attrs
        _replace_text(self.path / "zarr.json", json.dumps(document, indent=1, ensure_ascii=False))

    # ---- resuming ----------------------------------------------------------------------------------------------

    def check_same(
        self, *, grid: Grid, classes: Sequence[str], sources: Sequence[str], identity: Mapping[str, Any]
    ) -> None:
        """Raise StoreMismatch, naming every difference, unless this store is of exactly this work."""
        here = {**self.attrs["identity"], "grid": self.attrs["grid"], "classes": self.class_names}
        there = {**identity, "grid": grid.to_dict(), "classes": list(classes)}
        here["sources"], there["sources"] = self.sources, list(sources) if all(grid.patches) else []
        found = [
            f"{name} ({_brief(here.get(key), there.get(key))})"
            for key, name in _IDENTITY.items()
            if here.get(key) != there.get(key)
        ]
        if found:
            raise StoreMismatch(
                f"{self.path.name} cannot be resumed, because it differs in its {', '.join(found)}. "
                "Use --restart to replace it, or another --out to keep it."
            )


# ---- where stores are ------------------------------------------------------------------------------------------


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


def read_attributes(path: str | Path) -> dict[str, Any]:
    """The attribute `pathotune` of a store, or {} where there is none; reads one small file, without zarr."""
    try:
        document = json.loads((Path(path) / "zarr.json").read_text(encoding="utf-8"))
        attributes = document["attributes"]["pathotune"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return attributes if isinstance(attributes, dict) else {}


def remove_store(path: str | Path) -> None:
    """Delete a prediction store; anything else in its place is refused.

    Raises
    ------
    OutputRefused : the folder is not one of our stores, or it cannot be deleted.
    """
    path = Path(path)
    if not read_attributes(path):
        raise OutputRefused(f"{str(path)!r} is no prediction store, so it is not replaced. Choose another --out.")
    doomed = path.with_name(f".{path.name}.{os.getpid()}.old")
    try:
        os.replace(path, doomed)
    except OSError as error:
        raise OutputRefused(f"{path.name} is in use and cannot be replaced ({error.strerror or error}).") from error
    shutil.rmtree(doomed, ignore_errors=True)


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


# ---- arrays ----------------------------------------------------------------------------------------------------


def _part(unit: Unit, per_cell: tuple[int, int]) -> tuple[slice, slice]:
    y, x = per_cell
    return (
        slice(unit.row * y, (unit.row + unit.rows) * y),
        slice(unit.column * x, (unit.column + unit.columns) * x),
    )


def _label(probabilities: NDArray[Any]) -> NDArray[np.uint8]:
    """(rows, columns) label of the most probable class, 0 where nothing is predicted."""
    labels = probabilities.argmax(axis=0).astype(np.uint8) + np.uint8(1)
    return np.where(probabilities.sum(axis=0) > 0, labels, np.uint8(0))


def _mean_of_four(values: NDArray[Any]) -> NDArray[Any]:
    """Half as many rows and columns; each the mean of the up to four values that are predicted."""
    channels, rows, columns = values.shape
    padded = np.zeros((channels, rows + rows % 2, columns + columns % 2), np.float32)
    padded[:, :rows, :columns] = values
    quads = padded.reshape(channels, padded.shape[1] // 2, 2, padded.shape[2] // 2, 2)
    predicted = (quads > 0).any(axis=0, keepdims=True)
    count = predicted.sum(axis=(2, 4))
    mean = quads.sum(axis=(2, 4)) / np.maximum(count, 1)
    return np.asarray(mean.astype(values.dtype))


def _brief(here: Any, there: Any) -> str:
    """What differs, short: of two mappings only the keys that do."""
    if isinstance(here, Mapping) and isinstance(there, Mapping):
        keys = [key for key in {**here, **there} if here.get(key) != there.get(key)]
        return "; ".join(f"{key}: {here.get(key)} there, {there.get(key)} now" for key in keys)
    return f"{_short(here)} there, {_short(there)} now"


def _short(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 24 else f"{text[:12]}…"


def _replace_text(path: Path, text: str) -> None:
    """Write a file by rename; on Windows a reader that has it open makes the rename wait a moment."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    for attempt in range(20):
        try:
            os.replace(temporary, path)
            return
        except PermissionError:
            if attempt == 19:
                raise
            time.sleep(0.05)
