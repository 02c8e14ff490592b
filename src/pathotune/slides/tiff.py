"""TIFF slides through tiffslide and tifffile, their tiles decoded directly."""

from __future__ import annotations

import logging
import math
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from pathotune.slides import fingerprint
from pathotune.slides.mpp import Hint, from_objective, from_resolution, to_number
from pathotune.slides.source import Declined, Facts, Level, Pixels, Source, make_levels, on_white

# One block of a file that stores strips; and the largest strip that is decoded whole to read a part of it.
BAND_BYTES = 4 * 2**20
LARGEST_STRIP_BYTES = 256 * 2**20
MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
TO_PYRAMID = (
    "Convert it to a tiled pyramid first, for example: vips tiffsave IN OUT.tif --tile --pyramid --compression jpeg."
)
BRIGHTFIELD = "pathotune reads brightfield slides, 8 bit red-green-blue."


class TiffSource(Source):
    """SVS, Philips, NDPI, OME-TIFF and generic TIFF slides."""

    reader = "tiffslide"

    def __init__(self, path: Path) -> None:
        _check_magic(path)
        from tiffslide import TiffSlide

        self.path = path
        self._bytes: _FileBytes | None = None
        with _quiet_tifffile():
            self._slide = _open(TiffSlide, path)
            try:
                self._series = _main_series(self._slide.ts_tifffile)
                self._pages = [level.pages[0] for level in self._series.levels]
                for page in self._pages:
                    _check_page(page)
                self._bytes = _FileBytes(path)
                _check_complete(self._pages, self._bytes.size)
                self._readers = [_PageReader(page, self._bytes) for page in self._pages]
                self.facts = self._collect()
            except BaseException:
                self.close()
                raise

    def _collect(self) -> Facts:
        file = self._slide.ts_tifffile
        vendor = _vendor(file)
        tags = _tags(self._slide, vendor)
        power = next((n for key in POWER_KEYS if (n := to_number(tags.get(key))) is not None), None)
        levels = _levels(self._pages, vendor)
        icc = self._pages[0].keyframe.tags.valueof(34675)
        warnings = _remarks(file, self._series, self._pages)
        return Facts(
            vendor=vendor,
            levels=levels,
            mpp_hints=tuple(_hints(file, self._pages[0].keyframe, vendor, tags, power)),
            objective_power=power,
            associated_images=tuple(self._other_series()),
            icc=icc if isinstance(icc, bytes) else None,
            warnings=tuple(warnings),
        )

    def _other_series(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for number, series in enumerate(self._slide.ts_tifffile.series):
            if series is not self._series:
                name = (series.name or "").strip().lower() or f"image {number}"
                found[name if name not in found else f"{name} {number}"] = series
        return found

    def block_size(self, level: int) -> tuple[int, int]:
        """Tiles of the file, or bands of its strips."""
        return self._readers[level].block_size

    def block(self, level: int, row: int, column: int) -> Pixels:
        """One tile, or one band of strips."""
        return self._readers[level].block(row, column)

    def associated_image(self, name: str) -> Pixels:
        """A series beside the slide's own, as RGB."""
        pixels = np.asarray(self._other_series()[name].asarray())
        if pixels.dtype != np.uint8:
            raise ValueError(f"the picture {name} is not 8 bit")
        if pixels.ndim == 2:
            pixels = np.repeat(pixels[..., None], 3, axis=2)
        return on_white(pixels)

    def fingerprint(self) -> str:
        """From sampled bytes of the file."""
        return fingerprint.of_file(self.path)

    def close(self) -> None:
        """Close both handles."""
        self._slide.close()
        if self._bytes:
            self._bytes.close()


class _FileBytes:
    """Bytes of a file at any place, from several threads."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb", buffering=0)
        self.size = self._file.seek(0, 2)
        self._lock = threading.Lock()

    def at(self, offset: int, count: int) -> bytes:
        if hasattr(os, "pread"):
            return os.pread(self._file.fileno(), count, offset)
        with self._lock:
            self._file.seek(offset)
            return self._file.read(count)

    def close(self) -> None:
        self._file.close()


class _PageReader:
    """Blocks of one TIFF page: its tiles, bands of its strips, or rows of an uncompressed one."""

    def __init__(self, page: Any, file: _FileBytes) -> None:
        frame = page.keyframe
        self._file, self._frame = file, frame
        self._offsets, self._counts = page.dataoffsets, page.databytecounts
        self._decode = frame.decode
        self._options: dict[str, Any] = {}
        if int(frame.compression) in (6, 7, 34892, 33007):
            self._options = {"jpegtables": page.jpegtables, "jpegheader": frame.jpegheader}
        self.width, self.height = int(frame.imagewidth), int(frame.imagelength)
        self._planes = int(frame.samplesperpixel) if int(frame.planarconfig) == 2 else 1
        self._row_bytes = self.width * int(frame.samplesperpixel)
        self._is_raw = not frame.is_tiled and self._planes == 1 and page.is_contiguous and int(frame.compression) == 1
        self._strip = 0 if frame.is_tiled else min(int(frame.rowsperstrip), self.height)
        if frame.is_tiled:
            self.block_size = int(frame.tilewidth), int(frame.tilelength)
        else:
            rows = max(1, BAND_BYTES // self._row_bytes)
            rows = rows if self._is_raw else self._strip * max(1, rows // self._strip)
            self.block_size = self.width, min(rows, self.height)
        self._across = math.ceil(self.width / self.block_size[0])
        self._segments = len(self._offsets) // self._planes

    def block(self, row: int, column: int) -> Pixels:
        width, height = self.block_size
        height, width = min(height, self.height - row * height), min(width, self.width - column * width)
        if self._is_raw:
            start = self._offsets[0] + row * self.block_size[1] * self._row_bytes
            data = self._file.at(start, height * self._row_bytes)
            return on_white(np.frombuffer(data, np.uint8).reshape(height, width, -1).copy())
        if not self._strip:
            return self._segment(row * self._across + column, height, width)
        out = np.empty((height, width, 3), np.uint8)
        first = row * self.block_size[1] // self._strip
        for y in range(0, height, self._strip):
            rows = min(self._strip, height - y)
            out[y : y + rows] = self._segment(first + y // self._strip, rows, width)
        return out

    def _segment(self, index: int, height: int, width: int) -> Pixels:
        planes = [self._decoded(index + plane * self._segments) for plane in range(self._planes)]
        if planes[0] is None:
            # Sparse files leave out tiles without tissue.
            return np.full((height, width, 3), 255, np.uint8)
        pixels = planes[0] if self._planes == 1 else np.concatenate(planes, axis=2)
        return np.ascontiguousarray(on_white(pixels[:height, :width]))

    def _decoded(self, index: int) -> Any:
        offset, count = self._offsets[index], self._counts[index]
        if not count:
            return None
        data = self._file.at(offset, count)
        if len(data) < count:
            raise ValueError(f"the file ends inside tile {index}")
        return self._decode(data, index, **self._options)[0][0]


POWER_KEYS = (
    "aperio.AppMag",
    "AppMag",
    "tiffslide.objective-power",
    "hamamatsu.SourceLens",
    "ome.NominalMagnification",
)


def _check_magic(path: Path) -> None:
    if path.is_dir():
        raise Declined("it is a folder")
    with path.open("rb") as file:
        start = file.read(4)
    if not start:
        raise Declined("the file is empty", final=True, advice="Copy it again.")
    if start not in MAGICS:
        raise Declined("not a TIFF file")


def _open(cls: Any, path: Path) -> Any:
    from tifffile import TiffFileError

    try:
        slide = cls(str(path))
    except TiffFileError as error:
        raise Declined(str(error)) from error
    try:
        pages = len(slide.ts_tifffile.pages)
    except Exception:
        slide.close()
        raise
    if not pages:
        slide.close()
        raise Declined("it has no images: the file is truncated", final=True, advice="Copy it again.")
    return slide


def _vendor(file: Any) -> str:
    known = {"svs": "aperio", "ndpi": "hamamatsu", "philips": "philips", "scn": "leica", "bif": "ventana"}
    found = [name for flag, name in known.items() if getattr(file, f"is_{flag}")]
    if found:
        return found[0]
    if getattr(file, "is_qpi", False):
        return "perkinelmer"
    return "ome" if file.is_ome else "generic-tiff"


def _main_series(file: Any) -> Any:
    """The series that is the slide: the first for scanners that put it there, else the largest."""
    vendor = _vendor(file)
    if vendor in ("leica", "ventana"):
        raise Declined(f"the parts of a {vendor} slide have to be laid out, which openslide does")
    series = list(file.series)
    if vendor in ("aperio", "hamamatsu", "philips", "perkinelmer"):
        return series[0]
    return max(series, key=lambda one: int(one.pages[0].keyframe.imagewidth) * int(one.pages[0].keyframe.imagelength))


def _check_page(page: Any) -> None:
    """Raise `Declined` where this page is not 8 bit RGB, or cannot be read in parts."""
    import tifffile

    frame = page.keyframe
    bits, samples, photometric = frame.bitspersample, int(frame.samplesperpixel), int(frame.photometric)
    if frame.dtype != np.uint8:
        kind = frame.dtype.name if frame.dtype is not None else f"{bits} bit"
        raise Declined(f"its pixels are {kind}, not 8 bit", final=True, advice=BRIGHTFIELD)
    if samples == 1:
        raise Declined("each image has one channel (fluorescence, a mask or grey)", final=True, advice=BRIGHTFIELD)
    if samples > 4 or photometric not in (2, 6) or (samples == 4 and not frame.extrasamples):
        name = getattr(frame.photometric, "name", str(frame.photometric)).lower()
        raise Declined(f"it has {samples} channels ({name}), not red-green-blue", final=True, advice=BRIGHTFIELD)
    try:
        tifffile.TIFF.DECOMPRESSORS[int(frame.compression)]
    except KeyError:
        raise Declined(f"its compression {frame.compression!r} is not known") from None
    strip = (
        0 if frame.is_tiled else min(int(frame.rowsperstrip), int(frame.imagelength)) * int(frame.imagewidth) * samples
    )
    if strip > LARGEST_STRIP_BYTES and not (int(frame.compression) == 1 and page.is_contiguous):
        size = f"{frame.imagewidth} × {frame.imagelength}"
        reason = f"its {size} pixels are one compressed strip of {strip / 2**30:.1f} GiB, not tiles"
        raise Declined(reason, advice=TO_PYRAMID)


def _check_complete(pages: list[Any], size: int) -> None:
    for page in pages:
        ends = np.asarray(page.dataoffsets, np.int64) + np.asarray(page.databytecounts, np.int64)
        if ends.size and int(ends.max()) > size:
            missing = int(ends.max()) - size
            raise Declined(
                f"the file is truncated: {missing} bytes are missing at its end", final=True, advice="Copy it again."
            )


def _levels(pages: list[Any], vendor: str) -> tuple[Level, ...]:
    frames = [page.keyframe for page in pages]
    sizes = [(int(frame.imagewidth), int(frame.imagelength)) for frame in frames]
    tiles = [
        (int(frame.tilewidth), int(frame.tilelength))
        if frame.is_tiled
        else (int(frame.imagewidth), min(int(frame.rowsperstrip), int(frame.imagelength)))
        for frame in frames
    ]
    levels = make_levels(sizes, tiles, [_codec(frame) for frame in frames])
    if vendor == "philips":
        # Philips pads every level to whole tiles: the sizes say nothing, the levels are powers of two.
        powers = [2.0 ** round(math.log2(level.downsample)) for level in levels]
        levels = [
            Level(v.width, v.height, power, v.tile_width, v.tile_height, v.compression)
            for v, power in zip(levels, powers)
        ]
    return tuple(levels)


def _codec(frame: Any) -> str:
    name = str(getattr(frame.compression, "name", frame.compression)).lower()
    if "jp2" in name or "jpeg2000" in name or "jpeg_2000" in name:
        return "jpeg2000"
    return {"adobe_deflate": "deflate", "ojpeg": "jpeg"}.get(name, name)


def _tags(slide: Any, vendor: str) -> dict[str, Any]:
    """What tiffslide reads from the headers; for what it cannot parse, the description's own `key = value` pairs."""
    if vendor == "hamamatsu":
        tags = slide.ts_tifffile.pages[0].tags
        return {"hamamatsu.SourceLens": tags.valueof(65421)}
    try:
        return dict(slide.properties)
    except Exception as error:  # tiffslide refuses descriptions in other encodings than ASCII, the pixels are fine
        logging.getLogger(__name__).info("tiffslide could not read the properties of %s: %s", slide, error)
    return parse_description(slide.ts_tifffile.pages[0].tags.valueof(270))


def parse_description(value: object) -> dict[str, str]:
    """The `key = value` pairs of an Aperio description, also one in an odd encoding."""
    text = value.decode("latin-1") if isinstance(value, bytes) else str(value or "")
    pairs = re.findall(r"(?:^|\|)\s*([^|=]+?)\s*=\s*([^|]*)", text)
    return {f"aperio.{key}": content.strip() for key, content in pairs}


def _hints(file: Any, frame: Any, vendor: str, tags: dict[str, Any], power: float | None) -> Iterator[Hint]:
    """Pixel sizes the file states, in the order in which they are believed."""
    if vendor == "aperio":
        mpp = to_number(tags.get("aperio.MPP"))
        if mpp is not None:
            yield Hint(mpp, mpp, "aperio")
    if vendor == "philips":
        x, y = to_number(tags.get("tiffslide.mpp-x")), to_number(tags.get("tiffslide.mpp-y"))
        if x is not None and y is not None:
            yield Hint(x, y, "philips")
    resolution = _resolution(frame)
    if resolution:
        yield resolution
    if file.is_ome:
        yield from _ome_hints(file.ome_metadata or "", int(frame.imagewidth))
    objective = from_objective(power)
    if objective:
        yield objective


def _resolution(frame: Any) -> Hint | None:
    x, y = frame.tags.valueof(282), frame.tags.valueof(283)
    unit = {1: "", 2: "inch", 3: "cm", 4: "mm", 5: "um"}.get(int(frame.tags.valueof(296, 2) or 2), "")
    if not x or not y:
        return None
    x, y = (value[0] / value[1] if value[1] else 0.0 for value in (x, y))
    return from_resolution(x, y, unit)


def _ome_hints(xml: str, width: int) -> Iterator[Hint]:
    from pathotune.slides.ome import pixel_sizes

    for x, y, size_x in pixel_sizes(xml):
        if size_x == width:
            yield Hint(x, y, "ome")
            return


def _remarks(file: Any, series: Any, pages: list[Any]) -> list[str]:
    """What a person should know about how this file is laid out."""
    remarks = []
    if len(pages) == 1 and max(pages[0].keyframe.imagewidth, pages[0].keyframe.imagelength) > 4096:
        remarks.append("The file has one level only; lower ones are made while looking, which is slower.")
    if not pages[0].keyframe.is_tiled and pages[0].keyframe.imagewidth > 4096:
        remarks.append("The file stores strips, not tiles: reading is slow.")
    number = list(file.series).index(series)
    if number:
        remarks.append(f"Image {number} of the file is taken as the slide: it is the largest.")
    return remarks


@contextmanager
def _quiet_tifffile() -> Iterator[None]:
    # tifffile logs what it works around; the person gets our sentence instead.
    thread = threading.get_ident()
    logger = logging.getLogger("tifffile")

    def is_other_thread(record: logging.LogRecord) -> bool:
        return record.thread != thread

    logger.addFilter(is_other_thread)
    try:
        yield
    finally:
        logger.removeFilter(is_other_thread)
