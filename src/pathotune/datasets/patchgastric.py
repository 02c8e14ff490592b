"""PatchGastricADC22 (Zenodo 6550925) as it is downloaded: three grades of gastric adenocarcinoma, split by slide."""

from __future__ import annotations

import csv
import math
import random
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from pathotune.datasets.pictures import open_archive
from pathotune.datasets.tiles import IMAGES, TileTable
from pathotune.errors import TableUnreadable

CAPTIONS = "captions.csv"
ARCHIVE = "patches_captions.zip"
FOLDER = "patches_captions"
# The subtypes that are used, and the three classes they are merged to; the other five are left out.
CLASSES = {
    "well differentiated tubular adenocarcinoma": "well differentiated",
    "moderately differentiated tubular adenocarcinoma": "moderately differentiated",
    "poorly differentiated adenocarcinoma, non-solid type": "poorly differentiated",
    "poorly differentiated adenocarcinoma, solid type": "poorly differentiated",
}
NAMES = tuple(dict.fromkeys(CLASSES.values()))
# The share of each class's slides that is judged by (CITE's "val_0.8", which is its test set too), and the seed.
JUDGED = 0.8
SEED = 0


def is_patchgastric(folder: Path) -> bool:
    """Whether a folder holds the data set as it is downloaded, packed or unpacked."""
    return (folder / CAPTIONS).is_file() and ((folder / ARCHIVE).is_file() or (folder / FOLDER).is_dir())


def read_patchgastric(folder: str | Path, slides_per_class: int | None = None) -> TileTable:
    """The tiles of the three classes, read from the archive without unpacking it.

    The split is CITE's (MICCAI 2023), rebuilt from its rule: of each class 80 % of the slides are judged by, drawn with
    seed 0 in the order of the captions; the others are learned from. What its few-shot lists leave open, the order of
    slides with equally many tiles, is by name here.

    Parameters
    ----------
    folder : with captions.csv, and patches_captions.zip or the folder patches_captions.
    slides_per_class : of the slides to learn from, only so many of each class, those with the most tiles, as CITE's
        lists for 1, 2, 4, 8 and 16 slides; all without it.

    Raises
    ------
    TableUnreadable : a file is not what the data set has.
    """
    folder = Path(folder)
    classes = _classes(folder / CAPTIONS)
    places = _pictures(folder, classes)
    judged = _judged(classes)
    learned = _learned(places, classes, judged, slides_per_class)
    rows = [(place, slide) for place, slide in places if slide in judged or slide in learned]
    if not rows:
        raise TableUnreadable(f"No picture in {folder.name} belongs to a slide of {CAPTIONS}.")
    nowhere = np.full(len(rows), math.nan)
    return TileTable(
        [place for place, _ in rows],
        [classes[slide] for _, slide in rows],
        [slide for _, slide in rows],
        [""] * len(rows),
        ["test" if slide in judged else "" for _, slide in rows],
        nowhere.copy(),
        nowhere.copy(),
        nowhere.copy(),
        nowhere.copy(),
        source=str(folder),
    )


def _classes(path: Path) -> dict[str, str]:
    """Slide → class, in the order of the file; slides of other subtypes are left out."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = list(csv.reader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TableUnreadable(f"{path.name} cannot be read ({error}); download it again.") from None
    if not rows or len(rows[0]) < 2:
        raise TableUnreadable(f"{path.name} is not the data set's: it has slide, subtype and text in each row.")
    head = [cell.strip().casefold() for cell in rows[0]]
    slide = head.index("id") if "id" in head else 0
    subtype = head.index("subtype") if "subtype" in head else 1
    found = {
        row[slide].strip(): CLASSES[row[subtype].strip().casefold()]
        for row in rows[1:]
        if len(row) > max(slide, subtype) and row[subtype].strip().casefold() in CLASSES
    }
    absent = [name for name in NAMES if name not in found.values()]
    if absent:
        raise TableUnreadable(f"{path.name} has no slide that is {absent[0]}; it is not the data set's own file.")
    return found


def _pictures(folder: Path, classes: dict[str, str]) -> list[tuple[Path, str]]:
    """Every picture of a slide that is used, with its slide, sorted by name."""
    unpacked, archive = folder / FOLDER, folder / ARCHIVE
    if unpacked.is_dir():
        found = [path for path in unpacked.rglob("*") if path.suffix.lower() in IMAGES]
    else:
        members = [PurePosixPath(name) for name in open_archive(archive).namelist()]
        found = [archive / name for name in members if name.suffix.lower() in IMAGES and not name.name.startswith(".")]
    rows = [(path, path.name.partition("_")[0]) for path in sorted(found, key=lambda path: path.name)]
    return [(path, slide) for path, slide in rows if slide in classes]


def _judged(classes: dict[str, str]) -> set[str]:
    """The slides that are judged by: of each class, one class after the other, from one stream of random numbers."""
    stream = random.Random(SEED)
    chosen: set[str] = set()
    for name in NAMES:
        slides = [slide for slide, one in classes.items() if one == name]
        chosen.update(stream.sample(slides, int(len(slides) * JUDGED)))
    return chosen


def _learned(
    places: Sequence[tuple[Path, str]], classes: dict[str, str], judged: set[str], slides_per_class: int | None
) -> set[str]:
    """The slides that are learned from."""
    counts: dict[str, int] = {}
    for _, slide in places:
        if slide not in judged:
            counts[slide] = counts.get(slide, 0) + 1
    chosen: set[str] = set()
    for name in NAMES:
        slides = sorted((slide for slide in counts if classes[slide] == name), key=lambda one: (-counts[one], one))
        chosen.update(slides[:slides_per_class])
    return chosen
