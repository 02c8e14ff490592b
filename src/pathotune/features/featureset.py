"""The features of a slide's tiles with all that is needed to use them again, saved and loaded as HDF5."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pathotune.errors import FeaturesUnreadable, FileMissing, OutputRefused
from pathotune.features.layouts import LAYOUT, facts_of

if TYPE_CHECKING:
    import h5py

FORMAT = 1
_CHUNK_BYTES = 1 << 20
_BLOCK_ROWS = 4096


@dataclass(frozen=True)
class FeatureHeader:
    """What a file of tile features says of itself; "", NaN and 0 stand for what it does not say.

    Parameters
    ----------
    count, width : number of tiles and of features of each.
    backbone : name of the model's card; where another tool's name is not known here, that name.
    mpp : µm per pixel at which a tile is `tile_px` wide.
    tile_px, image_px : side of a tile, and of the image that reached the model.
    tile_px0 : (width, height) of a tile in level-0 pixels.
    slide, slide_fingerprint : name and identity of the slide.
    tuning : fingerprint of the tuning the features were made with, "" for the plain backbone.
    extra : everything else, among it "layout" ("pathotune", "trident", "clam") and "mpp_from" ("file", "magnification",
        "person").
    """

    count: int
    width: int
    backbone: str
    mpp: float
    tile_px: int
    image_px: int
    tile_px0: tuple[float, float]
    slide: str
    slide_fingerprint: str
    tuning: str = ""
    extra: dict[str, Any] = field(default_factory=dict)
    path: Path | None = None

    @property
    def tile_um(self) -> float:
        """Side of the tissue square a tile covers, in µm; NaN where it is not known."""
        return self.tile_px * self.mpp if self.tile_px else math.nan


@dataclass
class FeatureSet:
    """Features of the tiles of one slide.

    Parameters
    ----------
    features : (n, d) float32.
    coords_px0 : (n, 2) float64, x and y of each tile's top-left corner in level-0 pixels.
    The others are those of `FeatureHeader`.
    """

    features: NDArray[np.float32]
    coords_px0: NDArray[np.float64]
    backbone: str
    mpp: float
    tile_px: int
    image_px: int
    tile_px0: tuple[float, float]
    slide: str
    slide_fingerprint: str
    tuning: str = ""
    extra: dict[str, Any] = field(default_factory=dict)
    path: Path | None = None

    def __len__(self) -> int:
        return len(self.features)

    @property
    def header(self) -> FeatureHeader:
        """What is known of them without the numbers."""
        values = {name: getattr(self, name) for name in _SHARED}
        return FeatureHeader(count=len(self), width=self.features.shape[1], **values)

    def centres_px0(self) -> NDArray[np.float64]:
        """(n, 2) float64: x, y of every tile's centre."""
        return self.coords_px0 + np.asarray(self.tile_px0) / 2

    def take(self, rows: Any) -> FeatureSet:
        """The tiles of these indices, or where this boolean mask is true."""
        return replace(self, features=self.features[rows], coords_px0=self.coords_px0[rows])

    def save(self, path: str | Path) -> Path:
        """Write it as HDF5, whole or not at all.

        Beside our own attributes stand those that TRIDENT and CLAM write, so that tools made for theirs read it.

        Raises
        ------
        OutputRefused : the file cannot be written.
        """
        target = Path(path)
        with writing(target, self.features.shape[1], len(self)) as file:
            file["features"][:] = self.features
            put_coords(file, self.coords_px0)
            put_header(file, self.header)
        self.path = target
        return target

    @classmethod
    def load(cls, path: str | Path, rows: NDArray[np.intp] | None = None) -> FeatureSet:
        """Read a file of tile features, ours or one laid out as TRIDENT's or CLAM's.

        Parameters
        ----------
        rows : only these tiles, ascending and none twice; a part of a large file is read without the whole of it.

        Raises
        ------
        FileMissing : no such file.
        FeaturesUnreadable : no such features in it, or damaged, or numbers that are not finite.
        """
        with _opened(path) as file:
            about = _header(file, Path(path))
            exact = file["coords_px0"] if "coords_px0" in file else file["coords"]
            features = _rows(file["features"], rows, np.float32)
            coords = _rows(exact, rows, np.float64)
        if not np.isfinite(features).all():
            row = int(np.argmin(np.isfinite(features).all(axis=1)))
            raise FeaturesUnreadable(
                f"{Path(path).name} holds features that are not finite (the first in row {row}); extract them again."
            )
        return cls(features=features, coords_px0=coords, **{name: getattr(about, name) for name in _SHARED})


_SHARED = tuple(name for name in FeatureHeader.__dataclass_fields__ if name not in {"count", "width"})


def header(path: str | Path) -> FeatureHeader:
    """What a file of tile features says of itself, without reading the numbers.

    Raises
    ------
    FileMissing, FeaturesUnreadable : as `FeatureSet.load`.
    """
    with _opened(path) as file:
        return _header(file, Path(path))


@contextlib.contextmanager
def writing(target: Path, width: int, count: int) -> Any:
    """A new file with room for the features, which gets its name when it is whole; nothing is left where that fails.

    Raises
    ------
    OutputRefused : the file cannot be written.
    """
    import h5py

    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(temporary, "w", locking=False) as file:
            rows = max(1, min(count, _CHUNK_BYTES // (4 * max(1, width))))
            file.create_dataset("features", (count, width), np.float32, chunks=(rows, width) if count else None)
            yield file
        os.replace(temporary, target)
    except OSError as error:
        raise OutputRefused(f"{target} cannot be written ({error.strerror or error}). Choose another --out.") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def put_coords(file: h5py.File, coords_px0: NDArray[np.float64]) -> None:
    """The corners as whole pixels, as the field has them, and exactly beside them where that loses something."""
    whole = np.rint(coords_px0).astype(np.int64).reshape(-1, 2)
    file["coords"] = whole
    if not np.array_equal(whole, coords_px0):
        file["coords_px0"] = np.asarray(coords_px0, dtype=np.float64)


def put_header(file: h5py.File, about: FeatureHeader) -> None:
    """Our attributes on the file, and on the data sets those that TRIDENT and CLAM know."""
    extra = {name: value for name, value in about.extra.items() if name not in {"layout", "mpp_from"}}
    file.attrs.update(
        {
            "format": LAYOUT,
            "version": FORMAT,
            "backbone": about.backbone,
            "mpp": float(about.mpp),
            "tile_px": int(about.tile_px),
            "image_px": int(about.image_px),
            "tile_px0": np.asarray(about.tile_px0, dtype=np.float64),
            "slide": about.slide,
            "slide_fingerprint": about.slide_fingerprint,
            "tuning": about.tuning,
            "extra": json.dumps(extra, ensure_ascii=False, sort_keys=True),
        }
    )
    name = Path(about.slide).name
    file["features"].attrs.update({"name": name, "encoder": about.backbone})
    places = {"patch_size": int(about.tile_px), "overlap": 0, "name": name}
    size0 = float(np.mean(about.tile_px0))
    if size0 > 0:
        places["patch_size_level0"] = round(size0)
    if size0 > 0 and about.mpp > 0:
        # Objective powers as the field counts them: 0.5 µm per pixel is 20.
        places["target_magnification"] = round(10 / about.mpp)
        places["level0_magnification"] = round(10 / about.mpp * size0 / about.tile_px)
    file["coords"].attrs.update(places)


@contextlib.contextmanager
def _opened(path: str | Path) -> Any:
    """The HDF5 file, open for reading; faults of the file become `FeaturesUnreadable`."""
    import h5py

    path = Path(path)
    if not path.is_file():
        raise FileMissing(path, "file of tile features")
    if path.suffix in {".pt", ".pth", ".pkl", ".npy", ".npz"}:
        raise FeaturesUnreadable(
            f"{path.name} holds no places of the tiles beside their features. Give the HDF5 file that the same tool "
            "writes (.h5; CLAM keeps them in h5_files), or extract again with: pathotune features"
        )
    try:
        # Nobody writes into a file that has its name, and some network drives know no locks.
        with h5py.File(path, "r", locking=False) as file:
            yield file
    except (OSError, RuntimeError, KeyError) as error:
        raise FeaturesUnreadable(
            f"{path.name} cannot be read as HDF5 ({error}); it is damaged or cut off. Copy or extract it again."
        ) from None


def _header(file: h5py.File, path: Path) -> FeatureHeader:
    import h5py

    missing = [name for name in ("features", "coords") if not isinstance(file.get(name), h5py.Dataset)]
    if missing:
        raise FeaturesUnreadable(
            f"{path.name} has no data set {' and no '.join(map(repr, missing))} (it holds: "
            f"{', '.join(sorted(file)) or 'nothing'}). Tile features have both: (n, d) numbers and (n, 2) corners."
        )
    shape, places = _two(file["features"].shape), _two(file["coords"].shape)
    if len(shape) != 2:
        raise FeaturesUnreadable(
            f"{path.name} holds one vector of a whole slide, not features of its tiles; give the folder of those."
        )
    if len(places) != 2 or places[1] != 2 or places[0] != shape[0]:
        raise FeaturesUnreadable(
            f"{path.name} has {shape[0]} tiles with features and corners of shape {places}; there must be one (x, y) "
            "for each tile. Extract it again."
        )
    return FeatureHeader(count=shape[0], width=shape[1], path=path, **facts_of(file, path))


def _two(shape: Sequence[int]) -> tuple[int, ...]:
    """A shape without the batch of one that some tools put in front."""
    return tuple(shape[1:] if len(shape) == 3 and shape[0] == 1 else shape)


def _rows(data: h5py.Dataset, rows: NDArray[np.intp] | None, kind: Any) -> NDArray[Any]:
    """(n, d) a data set or some of its rows; block by block, as picking single rows from HDF5 is slow."""
    batched = len(data.shape) == 3
    count, width = _two(data.shape)
    if rows is None:
        values = np.empty((count, width), dtype=kind)
        if count:
            data.read_direct(values[None] if batched else values)
        return values
    rows = np.asarray(rows, dtype=np.intp)
    values = np.empty((len(rows), width), dtype=kind)
    for start in range(0, count, _BLOCK_ROWS):
        first, last = np.searchsorted(rows, (start, start + _BLOCK_ROWS))
        if first < last:
            stop = min(count, start + _BLOCK_ROWS)
            block = data[0, start:stop] if batched else data[start:stop]
            values[first:last] = block[rows[first:last] - start]
    return values
