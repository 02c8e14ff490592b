"""Rows of a table in text form (CSV, TSV, with semicolons, gzipped), each with where it stands in the file."""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TextIO

from pathotune.errors import FileMissing, TableUnreadable

NAMED = 5  # bad rows named in a sentence
_LONGEST_CELL = 1 << 24


class Row(NamedTuple):
    """Cells by column name, and the row's number as a spreadsheet counts it."""

    cells: dict[str, str]
    number: int


class Table(NamedTuple):
    """Column names as written, and the rows below them."""

    columns: tuple[str, ...]
    rows: list[Row]


def read_rows(path: str | Path, what: str, *, lower: bool = True) -> Table:
    """All rows of a table with a head line; empty lines, and lines above the head that begin with #, are passed over.

    Parameters
    ----------
    path : .csv, .tsv or .txt, gzipped or not; comma, semicolon or tab, whichever the head line has most of.
    what : what the table is called in sentences ("cohort table").
    lower : column names in small letters.

    Raises
    ------
    FileMissing : no such file.
    TableUnreadable : no text, no head line, a column twice, or a row with more cells than there are columns.
    """
    with open_text(path, what) as file:
        return _rows(file, Path(path).name, lower)


@contextmanager
def open_text(path: str | Path, what: str) -> Iterator[TextIO]:
    """A text table opened for reading line by line, gzipped or not; faults while reading become `TableUnreadable`."""
    path = Path(path)
    if not path.is_file():
        raise FileMissing(path, what)
    with path.open("rb") as file:
        start = file.read(4096)
    is_packed = start[:2] == b"\x1f\x8b"
    if start[:2] == b"PK" or (not is_packed and b"\x00" in start):
        raise TableUnreadable(f"{path.name} is not a text file; save the {what} as CSV.")
    try:
        with gzip.open(path, "rb") if is_packed else path.open("rb") as raw:
            yield io.TextIOWrapper(raw, encoding="utf-8-sig", errors="replace", newline="")  # type: ignore[arg-type]
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise TableUnreadable(f"{path.name} is cut off or damaged ({error}); copy or download it again.") from None
    except csv.Error as error:
        raise TableUnreadable(f"{path.name} cannot be read as a table ({error}); save it as CSV again.") from None


def delimiter_of(head: str) -> str:
    """What parts the cells of a head line: a comma, a semicolon or a tab."""
    return max(",;\t", key=head.count)


def _rows(file: TextIO, name: str, lower: bool) -> Table:
    csv.field_size_limit(_LONGEST_CELL)
    head = next((line for line in file if line.strip() and not line.startswith("#")), "")
    if not head:
        raise TableUnreadable(f"{name} is empty.")
    reader = csv.reader(itertools.chain([head], file), delimiter=delimiter_of(head))
    columns = tuple(cell.strip().lower() if lower else cell.strip() for cell in next(reader))
    doubled = sorted({column for column in columns if column and columns.count(column) > 1})
    if doubled:
        raise TableUnreadable(f"{name} has the column {doubled[0]!r} twice; keep one.")
    rows, wrong = [], []
    for cells in reader:
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) > len(columns):
            wrong.append(f"row {reader.line_num}")
        rows.append(Row({key: cell.strip() for key, cell in zip(columns, cells, strict=False) if key}, reader.line_num))
    if wrong:
        raise TableUnreadable(f"{name}: {named(wrong)} have more cells than there are columns; quote the commas.")
    return Table(columns, rows)


def named(places: Sequence[str]) -> str:
    """The first few of many places for a sentence."""
    more = f" and {len(places) - NAMED} more" if len(places) > NAMED else ""
    return ", ".join(places[:NAMED]) + more
