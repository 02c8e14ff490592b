"""Labelled tiles from a table, from one folder per class, or from a list of file names."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathotune.errors import FileMissing, TableUnreadable
from pathotune.regions.split import Split, split_groups

COLUMNS = ("path", "label", "slide", "patient", "split", "mpp", "x_px0", "y_px0", "width_px0")
PLACE = ("x_px0", "y_px0", "width_px0")
IMAGES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp"})
SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")
BLOCK_TILES = 4  # tiles along the side of a block of neighbours
NAMED = 5  # bad rows named in a sentence


@dataclass
class TileTable:
    """Tiles with a label, one row each.

    Parameters
    ----------
    path : picture of the tile, or the slide where `x_px0` is given.
    label : class name of each row.
    slide, patient, split : "" where the table does not say; split is "train", "val" or "test".
    mpp : (n,) pixel size in µm, NaN where the table does not say.
    x_px0, y_px0, width_px0 : (n,) where the tile lies in its slide (level-0 pixels), NaN for tiles that are pictures.
    source : the file or folder the table came from.
    warnings : sentences about rows that were left out.
    """

    path: list[Path]
    label: list[str]
    slide: list[str]
    patient: list[str]
    split: list[str]
    mpp: NDArray[np.float64]
    x_px0: NDArray[np.float64]
    y_px0: NDArray[np.float64]
    width_px0: NDArray[np.float64]
    source: str = ""
    warnings: tuple[str, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.path)

    @property
    def class_names(self) -> list[str]:
        """The labels, in alphabetical order."""
        return sorted(set(self.label), key=str.casefold)

    @property
    def tiles_per_class(self) -> dict[str, int]:
        """How many rows each label has."""
        return {name: self.label.count(name) for name in self.class_names}

    @property
    def is_on_slides(self) -> bool:
        """Whether the rows are places on slides (else pictures)."""
        return bool(len(self)) and not math.isnan(float(self.x_px0[0]))

    def labels(self, class_names: Sequence[str] | None = None) -> NDArray[np.int64]:
        """(n,) index of each row's label among `class_names` (default: its own), -1 for a label that is not there."""
        index = {name: number for number, name in enumerate(class_names or self.class_names)}
        return np.asarray([index.get(name, -1) for name in self.label], dtype=np.int64)

    def groups(self, by: str = "patient") -> list[str]:
        """What must not be parted: the patient (missing: the slide) or the slide; else the row itself.

        "block" parts slides into squares of four by four tiles, where the rows are places on slides.
        """
        own = [str(path) if self.is_on_slides else f"row {number}" for number, path in enumerate(self.path)]
        slides = [slide or alone for slide, alone in zip(self.slide, own, strict=True)]
        if by == "slide":
            return slides
        if by == "block" and self.is_on_slides:
            side = BLOCK_TILES * float(np.median(self.width_px0))
            blocks = np.floor(np.stack([self.x_px0, self.y_px0], axis=1) / side).astype(np.int64)
            return [f"{slide} {x} {y}" for slide, (x, y) in zip(slides, blocks.tolist(), strict=True)]
        return [patient or slide for patient, slide in zip(self.patient, slides, strict=True)]

    def take(self, indices: Iterable[int]) -> TileTable:
        """The rows at `indices`."""
        rows = [int(index) for index in indices]
        lists: dict[str, Any] = {name: [getattr(self, name)[row] for row in rows] for name in COLUMNS[:5]}
        arrays: dict[str, Any] = {name: getattr(self, name)[rows] for name in COLUMNS[5:]}
        return TileTable(**lists, **arrays, source=self.source, warnings=self.warnings)

    def map_classes(self, mapping: dict[str, str]) -> TileTable:
        """Rename labels; rows whose label is mapped to "" are left out."""
        label = [mapping.get(name, name).strip() for name in self.label]
        renamed = TileTable(**{**vars(self), "label": label})
        return renamed.take(index for index, name in enumerate(label) if name)

    def divide(self, *, by: str = "patient", fraction: float = 0.25, seed: int = 0) -> Split:
        """Rows to learn from and rows to judge by.

        Follows the column `split` where it names both; test rows are in neither. Else whole patients (or slides) are
        kept together, with every class on both sides.

        Raises
        ------
        NoTiles : a class would be on one side only.
        """
        said = np.asarray([SPLITS.get(value, "") for value in self.split])
        if (said == "train").any() and (said == "val").any():
            return Split(np.flatnonzero(said == "train"), np.flatnonzero(said == "val"))
        free = np.flatnonzero(said != "test")
        groups = self.groups(by)
        split = split_groups(
            self.labels()[free],
            [groups[index] for index in free],
            self.class_names,
            fraction=fraction,
            seed=seed,
            what=by if by in ("slide", "block") else "patient",
        )
        notes = () if any(self.slide) or any(self.patient) or self.is_on_slides else (_ALONE,)
        return Split(free[split.train], free[split.validation], notes)


_ALONE = (
    "The table names neither slides nor patients, so tiles were split one by one: neighbouring tiles may stand on both "
    "sides and the scores are optimistic; add a column slide or patient."
)


def read_tile_table(path: str | Path) -> TileTable:
    """Read labelled tiles.

    Parameters
    ----------
    path : a table (.csv or .tsv; columns path and label, optionally slide, patient, split, mpp, and x_px0, y_px0,
        width_px0, with which path is the slide), a folder with one folder per class (or train/val/test folders of
        them), a text file with ``filename label`` in each line, or the folder of PatchGastricADC22 as it is downloaded.
        Paths count from the file's folder.

    Raises
    ------
    FileMissing : no such file or folder.
    TableUnreadable : a column or value that cannot be used; the row is named, counted as a spreadsheet counts it.
    """
    path = Path(path)
    if not path.exists():
        raise FileMissing(path, "table of tiles")
    if path.is_dir():
        from pathotune.datasets.patchgastric import is_patchgastric, read_patchgastric

        return read_patchgastric(path) if is_patchgastric(path) else _read_folder(path)
    text = _text(path)
    if path.suffix.lower() in {".txt", ".lst"}:
        return _read_list(path, text)
    return _read_csv(path, text)


def _text(path: Path) -> str:
    if path.stat().st_size > 1_000_000_000:
        raise TableUnreadable(f"{path.name} has more than 1 GB, which is no table of tiles; name the table itself.")
    content = path.read_bytes()
    if b"\x00" in content[:4096] or content[:2] in {b"PK", b"\x1f\x8b"}:
        raise TableUnreadable(f"{path.name} is not a text file; save the table as CSV.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252", errors="replace")


def _read_folder(folder: Path) -> TileTable:
    """One folder per class; a layer of train, val and test folders above them gives the split."""
    rows: list[dict[str, str]] = []
    children = [child for child in sorted(folder.iterdir()) if child.is_dir() and not child.name.startswith(".")]
    is_split = bool(children) and all(child.name.casefold() in SPLITS for child in children)
    tops = [(child, SPLITS[child.name.casefold()]) for child in children] if is_split else [(folder, "")]
    for top, split in tops:
        for class_folder in sorted(child for child in top.iterdir() if child.is_dir()):
            if class_folder.name.startswith("."):
                continue
            rows += [
                {"path": str(picture), "label": class_folder.name, "split": split}
                for picture in sorted(class_folder.rglob("*"))
                if picture.suffix.lower() in IMAGES and not picture.name.startswith(".")
            ]
    if not rows:
        raise TableUnreadable(
            f"{folder.name} holds no folders with pictures; it needs one folder for each class "
            f"({', '.join(sorted(IMAGES))} inside), or name a table."
        )
    return _table(rows, [f"picture {index}" for index in range(1, len(rows) + 1)], folder, folder)


def _read_list(path: Path, text: str) -> TileTable:
    """Lines of ``filename label``; the label is what follows the last space or tab."""
    rows, places, bad = [], [], []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        parts = line.rstrip().rsplit("\t" if "\t" in line else None, 1)
        if len(parts) != 2:
            bad.append(f"line {number}")
            continue
        rows.append({"path": parts[0].strip(), "label": parts[1].strip()})
        places.append(f"line {number}")
    if bad:
        raise TableUnreadable(f"{path.name}: {_named(bad)} have no label behind the file name; write 'filename label'.")
    return _table(rows, places, path, path.parent)


def _read_csv(path: Path, text: str) -> TileTable:
    head = text.splitlines()[0] if text.strip() else ""
    delimiter = max(",;\t", key=head.count)
    reader = csv.reader(io.StringIO(text), delimiter=delimiter)
    try:
        lines = [(reader.line_num, line) for line in reader if any(cell.strip() for cell in line)]
    except csv.Error as error:
        raise TableUnreadable(f"{path.name}, row {reader.line_num}: {error}; save the table as CSV again.") from error
    if not lines:
        raise TableUnreadable(f"{path.name} is empty.")
    names = [name.strip().casefold() for name in lines[0][1]]
    for needed in ("path", "label"):
        if needed not in names:
            raise TableUnreadable(
                f"{path.name} has no column {needed!r} (its columns: {', '.join(names[:12])}); "
                f"rename the one that holds the {'files' if needed == 'path' else 'classes'}."
            )
    doubled = sorted({name for name in names if name in COLUMNS and names.count(name) > 1})
    if doubled:
        raise TableUnreadable(f"{path.name} has the column {doubled[0]!r} twice; keep one.")
    wrong = [f"row {number}" for number, cells in lines[1:] if len(cells) > len(names)]
    if wrong:
        raise TableUnreadable(f"{path.name}: {_named(wrong)} have more cells than there are columns; quote the commas.")
    rows = [
        {name: cell.strip() for name, cell in zip(names, cells, strict=False) if name in COLUMNS}
        for _, cells in lines[1:]
    ]
    return _table(rows, [f"row {number}" for number, _ in lines[1:]], path, path.parent)


def _table(rows: list[dict[str, str]], places: list[str], source: Path, base: Path) -> TileTable:
    """Check every row and make the columns."""
    if not rows:
        raise TableUnreadable(f"{source.name} has no rows.")
    _refuse(rows, places, source, lambda row: not row.get("path"), "have no path")
    _refuse(rows, places, source, lambda row: not row.get("label"), "have no label; leave such rows out")
    _refuse(
        rows,
        places,
        source,
        lambda row: bool(row.get("split")) and row["split"].casefold() not in SPLITS,
        "have another split than train, val or test",
    )
    _refuse(
        rows,
        places,
        source,
        _is_elsewhere,
        "point into an archive or to another machine; unpack the files and name them",
    )
    numbers = {name: _numbers(rows, places, source, name) for name in ("mpp", *PLACE)}
    placed = np.stack([~np.isnan(numbers[name]) for name in PLACE])
    if placed.any() and not placed.all():
        some = [places[index] for index in np.flatnonzero(~placed.all(axis=0))]
        raise TableUnreadable(
            f"{source.name}: {_named(some)} lack one of x_px0, y_px0, width_px0; give all three in all rows, or none."
        )
    files = [(base / Path(row["path"]).expanduser()) for row in rows]
    exists = {file: file.exists() for file in set(files)}
    missing = [place for place, file in zip(places, files, strict=True) if not exists[file]]
    if missing:
        first = rows[places.index(missing[0])]["path"]
        raise TableUnreadable(
            f"{source.name}: {_named(missing)} name files that do not exist (the first: {first!r}); "
            f"paths count from the folder of the table."
        )
    return TileTable(
        files,
        [row["label"] for row in rows],
        [row.get("slide", "") for row in rows],
        [row.get("patient", "") for row in rows],
        [SPLITS.get(row.get("split", "").casefold(), "") for row in rows],
        numbers["mpp"],
        numbers["x_px0"],
        numbers["y_px0"],
        numbers["width_px0"],
        source=str(source),
    )


def _is_elsewhere(row: dict[str, str]) -> bool:
    """Whether a path leads into an archive or onto the network by a URL."""
    text = row["path"].replace("\\", "/")
    parents = text.split("/")[:-1]
    return "://" in text or text.lower().endswith(ARCHIVES) or any(part.lower().endswith(ARCHIVES) for part in parents)


def _numbers(rows: list[dict[str, str]], places: list[str], source: Path, name: str) -> NDArray[np.float64]:
    def number(row: dict[str, str]) -> float:
        text = row.get(name, "")
        try:
            return float(text) if text else math.nan
        except ValueError:
            return math.inf

    values = np.asarray([number(row) for row in rows], dtype=np.float64)
    is_size = name in {"mpp", "width_px0"}
    wrong = np.isinf(values) | (is_size & (values <= 0))
    if wrong.any():
        what = "a positive number" if is_size else "a number"
        first = rows[int(np.flatnonzero(wrong)[0])][name]
        bad = [places[index] for index in np.flatnonzero(wrong)]
        raise TableUnreadable(f"{source.name}: {_named(bad)} need {what} in {name!r} (the first holds {first!r}).")
    return values


def _refuse(
    rows: list[dict[str, str]],
    places: list[str],
    source: Path,
    is_bad: Callable[[dict[str, Any]], bool],
    what: str,
) -> None:
    bad = [place for row, place in zip(rows, places, strict=True) if is_bad(row)]
    if bad:
        raise TableUnreadable(f"{source.name}: {_named(bad)} {what}.")


def _named(places: list[str]) -> str:
    more = f" and {len(places) - NAMED} more" if len(places) > NAMED else ""
    return ", ".join(places[:NAMED]) + more
