"""A folder of tile features: which file is a slide's, by the names that we and other tools give them."""

from __future__ import annotations

from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from pathotune.errors import FeaturesUnreadable, FileMissing
from pathotune.features.featureset import FeatureSet, header
from pathotune.features.matching import check_features

if TYPE_CHECKING:
    from pathotune.backbones.card import BackboneCard
    from pathotune.tiles.tileset import Reading

# CLAM keeps them one folder deeper.
_INSIDE = ("", "h5_files")
_COMPOUND = (".ome.tif", ".ome.tiff", ".ome.zarr")


def slide_stem(slide: str | Path) -> str:
    """A slide's name without its ending: what the field calls the slide's id."""
    name = PurePath(str(slide).replace("\\", "/")).name
    for ending in _COMPOUND:
        if name.lower().endswith(ending):
            return name[: -len(ending)]
    # An id may hold points (TCGA-…-DX1.0F3E…); only what looks like a file's ending is one.
    stem, point, ending = name.rpartition(".")
    return stem if point and stem and 2 <= len(ending) <= 8 and ending.isalnum() else name


def feature_path(folder: str | Path, slide: str | Path) -> Path:
    """Where the features of a slide are written: the slide's id with .h5, as other tools name them."""
    return Path(folder) / f"{slide_stem(slide)}.h5"


def find_features(folder: str | Path, slide: str | Path) -> Path:
    """The file with a slide's features.

    Parameters
    ----------
    folder : of feature files; CLAM's folder above h5_files does too.
    slide : path or name of the slide; subfolders of a relative path are looked for first.

    Raises
    ------
    FileMissing : no such folder, or no file of that slide in it.
    FeaturesUnreadable : there is only a file without the places of the tiles (.pt).
    """
    folder, path = Path(folder), PurePath(str(slide).replace("\\", "/"))
    if not folder.is_dir():
        raise FileMissing(folder, "folder of features")
    parents = () if path.is_absolute() or ".." in path.parts else (path.parent,)
    stem = slide_stem(slide)
    names = dict.fromkeys((f"{stem}.h5", f"{path.name}.h5", f"{stem}.hdf5"))
    for parent in dict.fromkeys((*parents, PurePath())):
        for inside in _INSIDE:
            for name in names:
                candidate: Path = folder / inside / parent / name
                if candidate.is_file():
                    return candidate
    for inside in ("", "pt_files"):
        if (folder / inside / f"{stem}.pt").is_file():
            raise FeaturesUnreadable(
                f"Of {stem} there is only {stem}.pt in {folder}, which holds no places of the tiles; give the folder "
                "of the HDF5 files (.h5) that the same tool writes."
            )
    raise FileMissing(folder / f"{stem}.h5", "file of tile features")


def features_of(
    folder: str | Path,
    slide: str | Path,
    backbone: BackboneCard | str,
    reading: Reading | None = None,
    *,
    tuning: str = "",
    sha256: str = "",
) -> FeatureSet:
    """The features of a slide, found, checked as `check_features` does, and read."""
    path = find_features(folder, slide)
    check_features(header(path), backbone, reading, tuning=tuning, sha256=sha256)
    return FeatureSet.load(path)
