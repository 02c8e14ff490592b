"""Whether a TIFF file is all there, from its headers alone: the chain of its pages, and where their tags lie."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

from pathotune.slides.source import Declined

COPY_AGAIN = "Copy the file again from where it came."
# Bytes of one value of each TIFF type; those of unknown types are not followed.
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
MOST_PAGES = 1024
NDPI_TAG = 65420
NDPI_LARGE = 2**32


def check_chain(path: Path) -> None:
    """Raise `Declined` where the file ends before its own headers say.

    Libraries drop the pages they cannot reach and the tags that lie beyond the end, so a slide cut short opens with
    fewer levels, or without its pixel size, and nobody is told.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(16)
        order = "<" if start[:2] == b"II" else ">"
        is_big = struct.unpack(f"{order}H", start[2:4])[0] == 43 if len(start) >= 4 else False
        needed = 16 if is_big else 8
        if len(start) < needed:
            raise _truncated(needed - len(start))
        offset = int(
            struct.unpack(f"{order}Q", start[8:16])[0] if is_big else struct.unpack(f"{order}I", start[4:8])[0]
        )
        seen: set[int] = set()
        while offset and offset not in seen and len(seen) < MOST_PAGES:
            seen.add(offset)
            offset = _next_page(file, offset, size, order, is_big)


def _next_page(file: BinaryIO, offset: int, size: int, order: str, is_big: bool) -> int:
    """Check one page's tags; where the next one begins, 0 after the last."""
    head, entry, value = (8, 20, 8) if is_big else (2, 12, 4)
    file.seek(offset)
    counted = file.read(head)
    if len(counted) < head:
        raise _truncated(offset + head - size)
    count = int(struct.unpack(f"{order}Q" if is_big else f"{order}H", counted)[0])
    table = file.read(count * entry + value)
    if len(table) < count * entry + value:
        raise _truncated(offset + head + count * entry + value - size)
    if size >= NDPI_LARGE and not is_big and NDPI_TAG in {_tag(table, i, entry, order) for i in range(count)}:
        return 0  # large Hamamatsu files keep the upper half of every offset elsewhere
    for index in range(count):
        at = index * entry
        kind = struct.unpack_from(f"{order}H", table, at + 2)[0]
        number = int(struct.unpack_from(f"{order}Q" if is_big else f"{order}I", table, at + 4)[0])
        length = SIZES.get(kind, 0) * number
        if length > value:
            place = int(struct.unpack_from(f"{order}Q" if is_big else f"{order}I", table, at + entry - value)[0])
            if place + length > size:
                raise _truncated(place + length - size)
    return int(struct.unpack_from(f"{order}Q" if is_big else f"{order}I", table, count * entry)[0])


def _tag(table: bytes, index: int, entry: int, order: str) -> int:
    return int(struct.unpack_from(f"{order}H", table, index * entry)[0])


def _truncated(missing: int) -> Declined:
    reason = f"the file is truncated: at least {missing} bytes are missing at its end"
    return Declined(reason, final=True, advice=COPY_AGAIN)
