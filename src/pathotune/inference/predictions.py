"""The prediction store: probabilities, attention and classes of one slide as OME-Zarr, readable while it grows."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pathotune.errors import FileMissing, OutputRefused, StoreUnreadable
from pathotune.inference.areas import Areas, class_areas
from pathotune.inference.cells import UnitValues, labels_of, unit_part
from pathotune.inference.locations import (
    SUFFIX,
    file_sizes,
    find_stores,
    read_attributes,
    remove_store,
    store_path,
    writing,
)
from pathotune.inference.metadata import FORMAT, fault_of
from pathotune.inference.plan import Grid, Kind, Unit
from pathotune.inference.skeleton import image_kinds, rgb, write_skeleton

if TYPE_CHECKING:
    from pathotune.regions.region import Region

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

_LOG = logging.getLogger(__name__)


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
        reliability: Sequence[str] = (),
        features: int = 0,
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
        reliability : names of the numbers that say how far a value can be trusted; none leaves `reliability/` out.
        features : width of each tile's features; 0 leaves them out.
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
            "reliability": list(reliability),
            "features": int(features),
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
        fault = fault_of(attributes)
        if not fault and attributes.get("format", 0) > FORMAT:
            raise StoreUnreadable(
                f"{path.name} has the format {attributes['format']}, and this version knows {FORMAT}. Update pathotune."
            )
        if fault:
            raise StoreUnreadable(f"{path.name} {fault} in its metadata. Make it again with --restart.")
        return cls(path, attributes)

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
    def reliability_names(self) -> list[str]:
        """What `reliability` holds, in its order: "uncertainty" and, where the tuning can say it, "distance"."""
        return list(self.attrs.get("reliability", ()))

    @property
    def far_distance(self) -> float | None:
        """The distance beyond which a tile is unlike everything the tuning was trained on; None where none is kept.

        It is the unit of distance: 99 % of the tuning's own validation tiles stay below.
        """
        return 1.0 if "distance" in self.reliability_names else None

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
        return self._array(f"{kind}/{level}")

    def _array(self, name: str) -> Any:
        import zarr

        if name not in self._arrays:
            try:
                self._arrays[name] = zarr.open_array(str(self.path.joinpath(*name.split("/"))), mode="r+")
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
    def reliability(self) -> Any | None:
        """(number, row, column) float16 as `reliability_names` says, or None; 0 where nothing is predicted.

        Uncertainty is 1 - the largest probability; distance is that from the nearest class of the training tiles in
        feature space (`training.distance.FeatureSpace`).
        """
        return self.array("reliability") if self.reliability_names else None

    @property
    def features(self) -> Any | None:
        """(row, column, feature) float16, what the tuning's head sees of each tile, or None where not kept."""
        return self._array("features") if self.attrs.get("features") else None

    @property
    def kinds(self) -> list[Kind]:
        """The images it holds."""
        return image_kinds(self.attrs)

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

    def areas(self, regions: Iterable[Region] = (), abstain_below: float = 0.0) -> list[Areas]:
        """Areas of the classes on the slide, then inside each region, with what is abstained and not predicted.

        Parameters
        ----------
        regions : drawn regions of this slide; points and lines have no area and come out as zeros.
        abstain_below : cells whose largest probability is smaller belong to no class.
        """
        probabilities = np.zeros((len(self.classes), self.grid.rows, self.grid.columns), np.float32)
        for unit in self.units():
            probabilities[(slice(None), *unit_part(unit))] = self._read("probabilities", unit)
        wanted: list[tuple[str, Any]] = [("slide", None)]
        wanted += [(region.name or region.class_name or "region", region.geometry) for region in regions]
        return [
            class_areas(probabilities, self.grid, self.class_names, geometry, abstain_below=abstain_below, name=name)
            for name, geometry in wanted
        ]

    def units(self) -> Iterator[Unit]:
        """All work units."""
        shape = self.grid.units_shape
        return (self.grid.unit(index) for index in range(shape[0] * shape[1]))

    # ---- reading and writing parts -----------------------------------------------------------------------------

    def read_labels(self, unit: Unit) -> NDArray[np.uint8]:
        """(rows, columns) class labels of one unit; zeros where its shard is damaged."""
        return self._read("classes", unit)

    def _read(self, kind: Kind, unit: Unit) -> NDArray[Any]:
        """One unit's part of an array of one value per cell; zeros where its shard is damaged."""
        array = self.array(kind)
        part = (*(slice(None),) * (array.ndim - 2), *unit_part(unit))
        try:
            return np.asarray(array[part])
        except Exception as error:  # zarr, numcodecs and the disk each have their own
            _LOG.warning("%s: shard %d of %s is damaged (%s).", self.path.name, unit.index, kind, error)
            return np.zeros((*array.shape[:-2], unit.rows, unit.columns), array.dtype)

    def read_unit(self, unit: Unit, attention: bool = True) -> UnitValues | None:
        """The values of one unit, or None where a shard is damaged.

        Damaged is what fails its checksum (a truncated file), is not finite or disagrees with the class labels.
        `attention` is the largest part of a store, and can be left out.
        """
        try:
            labels = np.asarray(self.labels[unit_part(unit)])
            values = UnitValues(
                np.asarray(self.probabilities[(slice(None), *unit_part(unit))]),
                *(None if array is None else np.asarray(array[part]) for array, part in self._further(unit, attention)),
            )
        except Exception as error:  # zarr, numcodecs and the disk each have their own
            _LOG.warning("%s: shard %d is damaged and will be made again (%s).", self.path.name, unit.index, error)
            return None
        probabilities, predicted = values.probabilities, labels > 0
        whole = np.abs(probabilities.sum(axis=0) - predicted) < 1e-3
        agree = labels_of(probabilities)[predicted] == labels[predicted]
        if not (np.isfinite(probabilities).all() and whole[predicted].all() and agree.all()):
            return None
        probabilities[:, ~predicted] = 0
        return values

    def _further(self, unit: Unit, attention: bool = True) -> list[tuple[Any | None, tuple[slice, ...]]]:
        """The arrays beside probabilities and classes, None where not kept, and the part of each that a unit owns."""
        part = unit_part(unit)
        return [
            (self.attention if attention else None, (slice(None), *unit_part(unit, self.grid.samples))),
            (self.reliability, (slice(None), *part)),
            (self.features, (*part, slice(None))),
        ]

    def write_unit(
        self,
        unit: Unit,
        probabilities: NDArray[np.float32],
        attention: NDArray[np.float16] | None = None,
        reliability: NDArray[np.float16] | None = None,
        features: NDArray[np.float16] | None = None,
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
        probabilities, attention, reliability, features : as in `UnitValues`.
        state : "done" or "partial".
        tiles, planned : tiles predicted so far in this unit, and tiles planned.

        Raises
        ------
        OutputRefused : the disk refuses.
        """
        with writing(self.path):
            self.probabilities[(slice(None), *unit_part(unit))] = probabilities
            for values, (array, part) in zip((attention, reliability, features), self._further(unit), strict=True):
                if values is not None and array is not None:
                    array[part] = values
            self.labels[unit_part(unit)] = labels_of(probabilities)
        self.attrs["shards"][str(unit.index)] = {"state": state, "tiles": int(tiles), "planned": int(planned)}
        self.save_attributes()

    def drop_unit(self, unit: Unit) -> None:
        """Delete what is on disk of one unit at full resolution: writing into a damaged shard would read it first."""
        row, column = str(unit.row // self.grid.unit_cells), str(unit.column // self.grid.unit_cells)
        shards = [Path(kind, "0", "c", *(() if kind == "classes" else ("0",)), row, column) for kind in self.kinds]
        for shard in [*shards, Path("features", "c", row, column, "0")]:
            (self.path / shard).unlink(missing_ok=True)

    def finish(self, state: str, **facts: Any) -> None:
        """Say how the run ended ("complete", "cancelled") with further facts for the attribute.

        A complete store also says how large each of its files is, so that one cut short later is noticed at a glance.
        """
        self.attrs.update(facts)
        self.attrs["state"] = state
        self.attrs["files"] = file_sizes(self.path) if state == "complete" else {}
        self.save_attributes()

    def save_attributes(self) -> None:
        """Write the attribute `pathotune` in one rename.

        Raises
        ------
        OutputRefused : the disk refuses.
        """
        self.attrs["tiles_done"] = sum(shard["tiles"] for shard in self.attrs["shards"].values())
        with writing(self.path):
            document = json.loads((self.path / "zarr.json").read_text(encoding="utf-8"))
            document["attributes"]["pathotune"] = self.attrs
            _replace_text(self.path / "zarr.json", json.dumps(document, indent=1, ensure_ascii=False))


def _replace_text(path: Path, text: str) -> None:
    """Write a file by rename; on Windows a reader that has it open makes the rename wait a moment."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        for attempt in range(20):
            try:
                os.replace(temporary, path)
                return
            except PermissionError:
                if attempt == 19:
                    raise
                time.sleep(0.05)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
