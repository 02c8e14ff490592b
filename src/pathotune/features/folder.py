"""A folder of tile features: which file is a slide's, by the names that we and other tools give them."""

from __future__ import annotations

from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from pathotune.datasets.names import slide_stem as slide_stem
from pathotune.errors import FeaturesUnreadable, FileMissing
from pathotune.features.featureset import FeatureSet, header
from pathotune.features.matching import check_features

if TYPE_CHECKING:
    from pathotune.backbones.card import BackboneCard
    from pathotune.tiles.tileset import Reading

# CLAM keeps them one folder deeper.
_INSIDE = ("", "h5_files")


def feature_path(folder: str | Path, slide: str | Path) -> Path:
    """Where the features of a slide are written: the slide's id with .h5, as other tools name them."""
    return Path(folder) / f"{slide_stem(slide)}.h5"


def find_features(folder: str | Path, slide: str | Path) -> Path:
    """The file with a slide's features.

    Parameters
    ----------
    folder : of feature files; CLAM's folder above h5_files does too.
    slide : path or name of the slide; its subfolders, as far as the folder of features has them too, count first.

    Raises
    ------
    FileMissing : no such folder, or no file of that slide in it.
    FeaturesUnreadable : there is only a file without the places of the tiles (.pt).
    """
    folder, path = Path(folder), PurePath(str(slide).replace("\\", "/"))
    if not folder.is_dir():
        raise FileMissing(folder, "folder of features")
    stem = slide_stem(slide)
    # The whole name first: of two slides with one id, each has its ending in the name of its features.
    names = dict.fromkeys((f"{path.name}.h5", f"{stem}.h5", f"{stem}.hdf5"))
    for parent in _ends(path.parent):
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


def _ends(parent: PurePath) -> list[PurePath]:
    """a/b/c, b/c, c and nothing, of a folder a/b/c: features are kept below the folders that were searched."""
    parts = [part for part in parent.parts if part != parent.anchor]
    ends = [parts[start:] for start in range(len(parts) + 1)]
    return [PurePath(*end) for end in ends if ".." not in end]


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
