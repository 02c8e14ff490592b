"""One page of a TIFF slide: whether it can be read as one, and its blocks, decoded directly."""

from __future__ import annotations

import math
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np

from pathotune.slides.source import Declined, Pixels, on_white
from pathotune.slides.tiffchain import COPY_AGAIN

# One block of a page that stores strips; and the largest strip that is decoded whole to read a part of it.
BAND_BYTES = 4 * 2**20
LARGEST_STRIP_BYTES = 256 * 2**20
JPEG_CODECS = (6, 7, 34892, 33007)
BASELINE_JPEG = 7
APERIO_YCBCR = 33003
RGB, YCBCR = 2, 6
BRIGHTFIELD = "pathotune reads brightfield slides, 8 bit red-green-blue."
TO_PYRAMID = (
    "Convert it to a tiled pyramid first, for example: vips tiffsave IN OUT.tif --tile --pyramid --compression jpeg."
)


class FileBytes:
    """Bytes of a file at any place, from several threads."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb", buffering=0)
        self.size = self._file.seek(0, 2)
        self._lock = threading.Lock()

    def at(self, offset: int, count: int) -> bytes:
        """The bytes there; fewer where the file ends."""
        if hasattr(os, "pread"):
            return os.pread(self._file.fileno(), count, offset)
        with self._lock:
            self._file.seek(offset)
            return self._file.read(count)

    def close(self) -> None:
        """Close the handle."""
        self._file.close()


class PageReader:
    """Blocks of one TIFF page: its tiles, bands of its strips, or rows of an uncompressed one.

    tiffslide reads the same segments through a zarr store, which costs several times the decoding of a small tile.
    """

    def __init__(self, page: Any, file: FileBytes) -> None:
        frame = page.keyframe
        self._file = file
        self._offsets, self._counts = page.dataoffsets, page.databytecounts
        self._decode = frame.decode
        self._options: dict[str, Any] = {}
        if int(frame.compression) in JPEG_CODECS:
            self._options = {"jpegtables": page.jpegtables, "jpegheader": frame.jpegheader}
        self.width, self.height = int(frame.imagewidth), int(frame.imagelength)
        samples = int(frame.samplesperpixel)
        self._planes = samples if int(frame.planarconfig) == 2 else 1
        self._row_bytes = self.width * samples
        self._is_raw = self._planes == 1 and is_plain(page)
        self._strip = 0 if frame.is_tiled else min(int(frame.rowsperstrip), self.height)
        if frame.is_tiled:
            self.block_size = int(frame.tilewidth), int(frame.tilelength)
        else:
            rows = max(1, BAND_BYTES // self._row_bytes)
            rows = rows if self._is_raw else self._strip * max(1, rows // self._strip)
            self.block_size = self.width, min(rows, self.height)
        self._across = math.ceil(self.width / self.block_size[0])
        can_reduce = frame.is_tiled and int(frame.compression) == BASELINE_JPEG and self._planes == 1 and samples == 3
        self._jpeg_start = _jpeg_start(frame, page.jpegtables) if can_reduce and not frame.jpegheader else None
        self._segments = len(self._offsets) // self._planes

    def block(self, row: int, column: int) -> Pixels:
        """One block as (height, width, 3), cut to the page."""
        width, height = self.block_size
        height, width = min(height, self.height - row * height), min(width, self.width - column * width)
        if self._is_raw:
            return self._rows(row * self.block_size[1], height)
        if not self._strip:
            return self._segment(row * self._across + column, height, width)
        out = np.empty((height, width, 3), np.uint8)
        first = row * self.block_size[1] // self._strip
        for y in range(0, height, self._strip):
            rows = min(self._strip, height - y)
            out[y : y + rows] = self._segment(first + y // self._strip, rows, width)
        return out

    def reduced_block(self, row: int, column: int, factor: int) -> Pixels | None:
        """One tile at 1/`factor` of its size by JPEG's own scaling, padding included; None where that cannot be."""
        index, (width, height) = row * self._across + column, self.block_size
        if self._jpeg_start is None or width % factor or height % factor or not self._counts[index]:
            return None
        import simplejpeg

        pixels: Pixels = simplejpeg.decode_jpeg(
            self._jpeg_start + self._data(index)[2:],
            "RGB",
            min_height=height // factor,
            min_width=width // factor,
            min_factor=factor,
            strict=False,
        )
        return pixels if pixels.shape[:2] == (height // factor, width // factor) else None

    def _rows(self, first: int, count: int) -> Pixels:
        data = self._file.at(self._offsets[0] + first * self._row_bytes, count * self._row_bytes)
        return np.ascontiguousarray(on_white(np.frombuffer(data, np.uint8).reshape(count, self.width, -1)))

    def _segment(self, index: int, height: int, width: int) -> Pixels:
        planes = [self._decoded(index + plane * self._segments) for plane in range(self._planes)]
        if any(plane is None for plane in planes):
            # Sparse files leave out tiles without tissue.
            return np.full((height, width, 3), 255, np.uint8)
        pixels = planes[0] if self._planes == 1 else np.concatenate(planes, axis=2)
        return np.ascontiguousarray(on_white(pixels[:height, :width]))

    def _decoded(self, index: int) -> Any:
        if not self._counts[index]:
            return None
        return self._decode(self._data(index), index, **self._options)[0][0]

    def _data(self, index: int) -> bytes:
        data = self._file.at(self._offsets[index], self._counts[index])
        if len(data) < self._counts[index]:
            raise ValueError(f"the file ends inside tile {index}")
        return data


def _jpeg_start(frame: Any, tables: bytes | None) -> bytes:
    """What a tile's JPEG stream begins with: the page's shared tables, and how colours are stored.

    The tiles themselves do not say whether they are RGB or YCbCr; the TIFF does, and decoders believe Adobe's marker.
    """
    is_ycbcr = int(frame.photometric) == YCBCR
    adobe = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + bytes([is_ycbcr])
    return b"\xff\xd8" + adobe + (tables[2:-2] if tables else b"")


def is_plain(page: Any) -> bool:
    """Whether rows of a page can be read from the file as they are."""
    frame = page.keyframe
    uncompressed = int(frame.compression) == 1 and int(frame.predictor) == 1 and int(frame.fillorder) == 1
    return bool(not frame.is_tiled and uncompressed and page.is_contiguous)


def check_page(page: Any) -> None:
    """Raise `Declined` where this page is not 8-bit RGB, or cannot be read in parts."""
    import tifffile

    frame = page.keyframe
    _check_pixels(frame)
    codec = int(frame.compression)
    try:
        tifffile.TIFF.DECOMPRESSORS[codec]
    except KeyError:
        raise Declined(f"its compression {codec} is not known") from None
    if codec == APERIO_YCBCR:
        raise Declined("its JPEG 2000 tiles are stored as YCbCr, which openslide converts")
    if int(frame.photometric) == YCBCR and codec not in JPEG_CODECS:
        raise Declined("its colours are YCbCr without JPEG, which tifffile does not convert")
    width, height = int(frame.imagewidth), int(frame.imagelength)
    rows = int(frame.tilelength) if frame.is_tiled else min(int(frame.rowsperstrip), height)
    size = rows * (int(frame.tilewidth) if frame.is_tiled else width) * int(frame.samplesperpixel)
    if size > LARGEST_STRIP_BYTES and not is_plain(page):
        reason = f"its {width} × {height} pixels are stored in pieces of {size / 2**30:.1f} GiB instead of small tiles"
        raise Declined(reason, advice=TO_PYRAMID)


def _check_pixels(frame: Any) -> None:
    samples, photometric = int(frame.samplesperpixel), int(frame.photometric)
    if frame.dtype != np.uint8 or frame.bitspersample != 8:
        bits = frame.bitspersample
        raise Declined(f"its pixels have {bits} bits, not 8", final=True, advice=BRIGHTFIELD)
    if samples == 1:
        reason = "its images have one channel each (fluorescence, a mask or grey)"
        raise Declined(reason, final=True, advice=BRIGHTFIELD)
    has_alpha = samples == 4 and len(frame.extrasamples) == 1 and int(frame.extrasamples[0]) in (1, 2)
    if photometric not in (RGB, YCBCR) or not (samples == 3 or has_alpha):
        name = getattr(frame.photometric, "name", str(photometric)).lower()
        raise Declined(f"it has {samples} channels ({name}), not red-green-blue", final=True, advice=BRIGHTFIELD)


def check_complete(pages: list[Any], size: int) -> None:
    """Raise `Declined` where tiles of the slide lie beyond the end of the file, or are not listed."""
    check_segments(pages, size)
    for page in pages:
        frame = page.keyframe
        if not frame.is_tiled:
            continue
        needed = math.ceil(frame.imagewidth / frame.tilewidth) * math.ceil(frame.imagelength / frame.tilelength)
        if len(page.dataoffsets) < needed:
            reason = f"its table lists {len(page.dataoffsets)} of {needed} tiles: the file is damaged"
            raise Declined(reason, final=True, advice=COPY_AGAIN)


def check_segments(pages: list[Any], size: int) -> None:
    """Raise `Declined` where the pixels of a page lie beyond the end of the file."""
    for page in pages:
        offsets, counts = (np.asarray(values, np.int64) for values in (page.dataoffsets, page.databytecounts))
        if offsets.size != counts.size:
            reason = f"its tables list {offsets.size} places and {counts.size} sizes of tiles: the file is damaged"
            raise Declined(reason, final=True, advice=COPY_AGAIN)
        ends = offsets + counts
        if ends.size and int(ends.max()) > size:
            reason = f"the file is truncated: at least {int(ends.max()) - size} bytes are missing at its end"
            raise Declined(reason, final=True, advice=COPY_AGAIN)
