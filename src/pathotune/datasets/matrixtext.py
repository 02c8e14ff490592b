"""A table of numbers in text form: how it is laid out, and its rows one after the other."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathotune.errors import TableUnreadable

LOOKED_AT = 10  # rows whose every cell is looked at, to tell words from numbers
NAMES_LOOKED_AT = 200


@dataclass(frozen=True)
class Layout:
    """What the first lines of a text table say of the rest."""

    delimiter: str
    header: list[str]  # one name for each cell of a row, the row names' column included
    skipped: int  # lines above and with the header
    rows: int
    first_names: list[str]
    numeric: list[int]  # cells of a row that hold numbers
    words: list[str]  # names of the columns that do not


def open_bytes(path: Path) -> Any:
    """The file's content, unpacked where it is gzipped."""
    import gzip

    with path.open("rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rb") if zipped else path.open("rb")


def layout_of(path: Path) -> Layout:
    """Look through the file once: delimiter, header, number of rows, and which columns hold numbers.

    Raises
    ------
    TableUnreadable : no text, or no rows or columns of numbers.
    """
    head: list[str] = []
    skipped = rows = 0
    delimiter = ","
    first: list[list[str]] = []
    with open_bytes(path) as file:
        for line in file:
            if b"\x00" in line[:1000]:
                raise TableUnreadable(f"{path.name} is not a text table; give .csv, .tsv (also .gz) or .h5ad.")
            if not head:
                skipped += 1
                text = _text(line)
                # GCT files begin with a version and a line of their size.
                if not text.strip() or text.startswith("#") or (skipped == 2 and text.replace("\t", "").isdigit()):
                    continue
                delimiter = max("\t,;", key=text.count)
                head = _cells(text, delimiter)
                continue
            if line.strip():
                rows += 1
                if rows <= LOOKED_AT:
                    first.append(_cells(_text(line), delimiter))
                elif rows <= NAMES_LOOKED_AT:
                    first.append([_text(line).partition(delimiter)[0].strip().strip('"')])
    if not first:
        raise TableUnreadable(
            f"{path.name} has no rows of numbers; it needs a header and a row for each sample or gene."
        )
    if len(first[0]) == len(head) + 1:  # as R writes it: no name above the row names
        head = ["", *head]
    numeric = [
        index
        for index in range(1, len(head))
        if head[index].casefold() != "description" and not any(_is_word(cells, index) for cells in first[:LOOKED_AT])
    ]
    if not numeric:
        raise TableUnreadable(
            f"{path.name} holds no column of numbers behind its first one; is it an expression table?"
        )
    of_numbers = set(numeric)
    words = [head[index] for index in range(1, len(head)) if index not in of_numbers]
    return Layout(delimiter, head, skipped, rows, [cells[0] for cells in first], numeric, words)


def _text(line: bytes) -> str:
    try:
        return line.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError:
        return line.decode("cp1252", errors="replace").rstrip("\r\n")


def _cells(text: str, delimiter: str) -> list[str]:
    if '"' in text:
        import csv

        return [cell.strip() for cell in next(csv.reader([text], delimiter=delimiter))]
    return [cell.strip() for cell in text.split(delimiter)]


MISSING = frozenset({"", "na", "nan", "null", "none", "n/a"})


def _is_word(cells: list[str], index: int) -> bool:
    """Whether a cell holds what is neither a number nor a missing value."""
    if index >= len(cells) or cells[index].casefold() in MISSING:
        return False
    try:
        float(cells[index])
    except ValueError:
        return True
    return False


def rows_of(path: Path, layout: Layout) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Name and numbers of each row; a line that is not plain numbers is read cell by cell.

    Raises
    ------
    TableUnreadable : a row is too short or too long, or a cell is no number; the line is named.
    """
    wanted = len(layout.header)
    contiguous = len(layout.numeric) == wanted - 1
    with open_bytes(path) as file:
        for _ in range(layout.skipped):
            next(file)
        number = layout.skipped
        for line in file:
            number += 1
            if not line.strip():
                continue
            text = _text(line)
            name, _, rest = text.partition(layout.delimiter)
            numbers = _fast(rest, layout.delimiter, wanted - 1) if contiguous and '"' not in text else None
            if numbers is None:
                cells = _cells(text, layout.delimiter)
                if len(cells) != wanted:
                    raise TableUnreadable(
                        f"{path.name}, line {number}: {len(cells)} cells, but the header has {wanted} columns; "
                        "save the table again."
                    )
                name = cells[0]
                numbers = np.asarray([_number(cells[i], path, number) for i in layout.numeric], dtype=np.float32)
            yield name.strip(), numbers


def _fast(text: str, delimiter: str, wanted: int) -> NDArray[np.float32] | None:
    """The numbers of a line as numpy parses them, or None where that does not give exactly `wanted`."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            numbers = np.fromstring(text, dtype=np.float32, sep=delimiter)
        except (ValueError, DeprecationWarning):
            return None
    return numbers if len(numbers) == wanted else None


def _number(cell: str, path: Path, line: int) -> float:
    if cell.casefold() in MISSING:
        return math.nan
    try:
        return float(cell)
    except ValueError:
        raise TableUnreadable(f"{path.name}, line {line}: {cell!r} is not a number.") from None
