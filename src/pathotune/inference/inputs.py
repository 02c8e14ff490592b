"""Which slides a run over many is about, where each one's store goes, and the table of what became of them."""

from __future__ import annotations

import csv
import io
import os
import uuid
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pathotune.errors import FileMissing, NoTiles, OutputRefused, PathotuneError, TableUnreadable, UsageError
from pathotune.inference.predictions import SUFFIX, store_path

SLIDE_ENDINGS = (
    *(".svs", ".tif", ".tiff", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".vmu", ".svslide", ".dcm"),
    *(".zarr", ".png", ".jpg", ".jpeg"),
)
_COLUMNS = (
    *("slide", "status", "tiles", "score", "seconds", "tiles_per_second", "model_busy", "peak_memory_mb"),
    *("store", "error"),
)


@dataclass(frozen=True)
class SlideInput:
    """One slide of a run.

    path : the slide.
    folder : where below the results folder its store goes (the subfolder it was found in).
    mpp : its stated pixel size, or None.
    name : a pseudonym that stands for its file name in everything that is written; "" for none.
    """

    path: Path
    folder: Path = Path()
    mpp: float | None = None
    name: str = ""

    @property
    def called(self) -> str:
        """What results call it: its path, or its pseudonym."""
        return self.name or str(self.path)


def collect_slides(
    paths: Sequence[Path], *, table: Path | None = None, recursive: bool = False, mpp: float | None = None
) -> list[SlideInput]:
    """The slides named by paths and a table, in a fixed order.

    Parameters
    ----------
    paths : slides, or folders of slides.
    table : CSV with a column `slide` (or `path`), relative to the table, and optionally `mpp`.
    recursive : look into the subfolders of folders too; their names are kept for the stores.
    mpp : stated pixel size of all slides whose row in the table has none.

    Raises
    ------
    FileMissing, TableUnreadable, NoTiles : a path is missing, the table is no table, or there is no slide at all.
    UsageError : neither a path nor a table is given.
    """
    if not paths and table is None:
        raise UsageError("No slide is named: give slides, a folder of slides, or --slides TABLE.csv.")
    found = [item for path in paths for item in _below(path, recursive, mpp)]
    if table is not None:
        found += _of_table(table, mpp)
    if not found:
        where = ", ".join(map(str, [*paths, *([table] if table else [])]))
        advice = "" if recursive else " Add --recursive to look into subfolders."
        raise NoTiles(f"There is no slide in {where}.{advice}")
    return found


def is_slide_folder(path: Path) -> bool:
    """Whether a folder is itself a slide: OME-Zarr, or a DICOM series."""
    return path.name.endswith(".zarr") or any(path.glob("*.dcm"))


def _below(path: Path, recursive: bool, mpp: float | None) -> list[SlideInput]:
    if not path.exists():
        raise FileMissing(path, "slide")
    if path.is_file() or is_slide_folder(path):
        return [SlideInput(path, mpp=mpp)]
    return [SlideInput(found, found.parent.relative_to(path), mpp) for found in _walk(path, recursive)]


def _walk(folder: Path, recursive: bool) -> list[Path]:
    found = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name.endswith(SUFFIX):
            continue
        if path.is_dir() and not is_slide_folder(path):
            found += _walk(path, recursive) if recursive else []
        elif path.name.lower().endswith(SLIDE_ENDINGS) or path.is_dir():
            found.append(path)
    return found


def _of_table(table: Path, mpp: float | None) -> list[SlideInput]:
    if not table.is_file():
        raise FileMissing(table, "table of slides")
    try:
        rows = list(csv.DictReader(io.StringIO(table.read_text(encoding="utf-8-sig"))))
    except (UnicodeDecodeError, csv.Error) as error:
        raise TableUnreadable(f"{table.name} is not a CSV table that can be read: {error}.") from error
    column = next((name for name in ("slide", "path") if rows and name in rows[0]), None)
    if column is None:
        raise TableUnreadable(f"{table.name} needs a column `slide` with the path of each slide.")
    found = []
    for number, row in enumerate(rows, start=2):
        path = table.parent / (row[column] or "")
        if not row[column] or not path.exists():
            raise TableUnreadable(f"{table.name}, line {number}: there is no slide at {row[column]!r}.")
        try:
            own = float(row["mpp"]) if row.get("mpp") else mpp
        except ValueError as error:
            raise TableUnreadable(f"{table.name}, line {number}: mpp {row['mpp']!r} is not a number.") from error
        found.append(SlideInput(path, mpp=own))
    return found


def part_slice(part: str | None) -> slice:
    """Which of a list part "I/N" is, counted from 1: every Nth; each is in exactly one part.

    Raises
    ------
    UsageError : not of that form, or out of range.
    """
    if part is None:
        return slice(None)
    first, _, second = part.partition("/")
    if not (first.isdecimal() and second.isdecimal() and 1 <= int(first) <= int(second)):
        raise UsageError(f"--part {part!r} is not of the form I/N with 1 <= I <= N, for example 2/8.")
    return slice(int(first) - 1, None, int(second))


def pseudonymised(slides: Sequence[SlideInput]) -> list[SlideInput]:
    """The slides under pseudonyms made from their pixels, so that the same slide has the same one everywhere.

    Subfolders may carry names too, so all stores go into one folder. A slide that cannot be opened is numbered.
    """
    from pathotune.slides import open_slide
    from pathotune.training.record import pseudonym

    def name(numbered: tuple[int, SlideInput]) -> str:
        number, item = numbered
        try:
            with open_slide(item.path, mpp=item.mpp) as slide:
                return pseudonym(slide.fingerprint)
        except PathotuneError:
            return f"slide-unreadable-{number}"

    with ThreadPoolExecutor(4) as pool:
        names = list(pool.map(name, enumerate(slides, start=1)))
    return [replace(item, name=found, folder=Path()) for item, found in zip(slides, names, strict=True)]


def plan_stores(slides: Iterable[SlideInput], tuning_name: str, out: Path) -> dict[Path, SlideInput]:
    """Where each slide's store goes; checked before any work starts.

    Raises
    ------
    UsageError : two slides would be written into the same store.
    """
    planned: dict[Path, SlideInput] = {}
    names: dict[str, Path] = {}
    for slide in slides:
        path = store_path(slide.name or slide.path, tuning_name, out / slide.folder)
        # Some file systems see no difference between capitals and small letters.
        key = os.path.normcase(str(path)).lower()
        if key in names:
            other = planned[names[key]].path
            raise UsageError(
                f"{slide.path} and {other} would both be written to {path}. Name one of them, rename one, "
                "or put them into subfolders of one folder and use --recursive."
            )
        names[key] = path
        planned[path] = slide
    return planned


def write_table(results: Sequence[Mapping[str, Any]], class_names: Sequence[str], path: Path) -> Path:
    """What became of each slide, with the area of every class in mm², as CSV.

    Raises
    ------
    OutputRefused : the file cannot be written.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*_COLUMNS, *(f"{name} mm2" for name in class_names)])
    for result in results:
        areas = result.get("classes") or {}
        writer.writerow(
            [*("" if result.get(name) is None else result[name] for name in _COLUMNS)]
            + [f"{areas[name]:.6f}" if name in areas else "" for name in class_names]
        )
    # Several processes write it, and those of two computers or containers may have the same number.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text.getvalue(), encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        raise OutputRefused(f"{path} cannot be written ({error.strerror or error}). Choose another --out.") from error
    return path
