"""TIFF slides (SVS, NDPI, Philips, OME-TIFF, generic) through tiffslide and tifffile."""

from __future__ import annotations

import logging
import math
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from pathotune.slides import fingerprint, ome
from pathotune.slides.mpp import Hint, from_objective, from_resolution, to_number
from pathotune.slides.source import Declined, Facts, Level, Pixels, Source, is_tiff, make_levels, on_white
from pathotune.slides.tiffchain import COPY_AGAIN, check_chain
from pathotune.slides.tiffpage import FileBytes, PageReader, check_complete, check_page, check_segments

# Scanners whose files hold the slide in the first series; elsewhere the largest is taken.
SLIDE_IS_FIRST = ("aperio", "hamamatsu", "philips", "perkinelmer")
NOT_LEVELS = ("thumbnail", "label", "macro", "overview")
UNITS = {2: "inch", 3: "cm", 4: "mm", 5: "um"}
LARGE_PX = 4096
LOOKED_AT = 64


class TiffSource(Source):
    """A TIFF slide: tiffslide says what it is, tifffile's segments give the pixels."""

    reader = "tiffslide"

    def __init__(self, path: Path) -> None:
        _check_magic(path)
        self.path = path
        self._bytes: FileBytes | None = None
        with _quiet_tifffile():
            self._slide = _open(path)
            try:
                file = self._slide.ts_tifffile
                self._vendor = _vendor(file)
                self._series = _main_series(file, self._vendor)
                levels = [self._series.levels[0], *_lower_levels(file, self._series)]
                self._pages = [level.pages[0] for level in levels]
                for page in self._pages:
                    check_page(page)
                self._bytes = FileBytes(path)
                check_complete(self._pages, self._bytes.size)
                check_segments(_first_pages(file), self._bytes.size)
                self._readers = [PageReader(page, self._bytes) for page in self._pages]
                self._others = _other_series(file, [self._series, *levels])
                self.facts = self._collect()
            except BaseException:
                self.close()
                raise

    def _collect(self) -> Facts:
        file, frame = self._slide.ts_tifffile, self._pages[0].keyframe
        tags = _tags(self._slide, self._vendor)
        power = _objective_power(file, self._vendor, tags)
        icc = frame.tags.valueof(34675)
        return Facts(
            vendor=self._vendor,
            levels=_levels(self._pages, self._vendor),
            mpp_hints=tuple(_hints(file, frame, self._vendor, tags, power)),
            objective_power=power,
            associated_images=tuple(self._others),
            icc=icc if isinstance(icc, bytes) else None,
            warnings=tuple(_remarks(file, self._series, self._pages)),
        )

    def block_size(self, level: int) -> tuple[int, int]:
        """Tiles of the file, or bands of its strips."""
        return self._readers[level].block_size

    def block(self, level: int, row: int, column: int) -> Pixels:
        """One tile, or one band of strips."""
        return self._readers[level].block(row, column)

    def reduced_block(self, level: int, row: int, column: int, factor: int) -> Pixels | None:
        """One tile decoded at 1/`factor` of its size, where it is JPEG."""
        return self._readers[level].reduced_block(row, column, factor)

    def associated_image(self, name: str) -> Pixels:
        """A series beside the slide's own, as RGB; raises ValueError where it is no 8-bit picture."""
        pixels = np.squeeze(np.asarray(self._others[name].asarray()))
        if pixels.ndim == 2:
            pixels = np.repeat(pixels[..., None], 3, axis=2)
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (3, 4):
            raise ValueError(f"the picture {name} is not an 8-bit picture")
        return np.ascontiguousarray(on_white(pixels))

    def fingerprint(self) -> str:
        """From sampled bytes of the file."""
        return fingerprint.of_file(self.path)

    def close(self) -> None:
        """Close both handles."""
        self._slide.close()
        if self._bytes:
            self._bytes.close()


def _check_magic(path: Path) -> None:
    if path.is_dir():
        raise Declined("it is a folder")
    if not path.stat().st_size:
        raise Declined("the file is empty", final=True, advice=COPY_AGAIN)
    if not is_tiff(path):
        raise Declined("not a TIFF file")
    check_chain(path)


def _open(path: Path) -> Any:
    from tifffile import TiffFileError
    from tiffslide import TiffSlide

    try:
        slide = TiffSlide(str(path))
    except TiffFileError as error:
        raise Declined(f"the file is truncated or damaged ({error})", final=True, advice=COPY_AGAIN) from error
    except (ValueError, OSError) as error:
        raise Declined(f"its header is damaged ({error})") from error
    # Only the count: a page may be damaged in a way that is told better where it is used.
    if not len(slide.ts_tifffile.pages):
        slide.close()
        raise Declined("it has no images: the file is truncated", final=True, advice=COPY_AGAIN)
    return slide


def _first_pages(file: Any) -> list[Any]:
    """The pages of a slide and the pictures beside it; of a stack of very many the first."""
    return [file.pages[index] for index in range(min(len(file.pages), LOOKED_AT))]


def _vendor(file: Any) -> str:
    flags = {"svs": "aperio", "ndpi": "hamamatsu", "philips": "philips", "scn": "leica", "bif": "ventana"}
    found = [name for flag, name in (flags | {"qpi": "perkinelmer"}).items() if getattr(file, f"is_{flag}", False)]
    if found:
        return found[0]
    return "ome" if file.is_ome else "generic-tiff"


def _main_series(file: Any, vendor: str) -> Any:
    """The series that is the slide: the first for scanners that put it there, else the largest."""
    if vendor in ("leica", "ventana"):
        raise Declined(f"the parts of a {vendor} slide have to be laid out, which openslide does")
    every = list(file.series)
    chosen = every[0] if vendor in SLIDE_IS_FIRST else max(every, key=_area)
    if getattr(chosen, "is_multifile", False):
        raise Declined("its pixels lie in several files", final=True, advice="Save it as one OME-TIFF file.")
    check_page(chosen.pages[0])
    if len(chosen.pages) > 1:
        # openslide reads the first focal plane of what scanners write; elsewhere nobody can know which is meant.
        reason = f"it holds {len(chosen.pages)} planes (axes {chosen.axes}), not one picture"
        raise Declined(reason, final=vendor not in SLIDE_IS_FIRST, advice="Save one plane as red-green-blue.")
    return chosen


def _area(series: Any) -> int:
    frame = series.pages[0].keyframe
    return int(frame.imagewidth) * int(frame.imagelength)


def _lower_levels(file: Any, main: Any) -> list[Any]:
    """The levels below the first, also those tifffile lists apart, largest first.

    tifffile joins levels of one and the same whole factor only; a pyramid with another ratio comes as several series.
    """
    lower = list(main.levels[1:])
    first = main.pages[0].keyframe
    for series in file.series:
        frame = series.pages[0].keyframe
        is_marked = frame.is_reduced and not any(word in series.name.lower() for word in NOT_LEVELS)
        # By its tiles alone: tifffile calls the second page of every SVS the thumbnail, also where it is a level.
        is_alike = frame.is_tiled and frame.tilewidth == first.tilewidth
        if series is not main and (is_marked or is_alike) and _is_smaller_copy(series, first):
            lower += series.levels
    sizes = {
        (level.pages[0].keyframe.imagewidth, level.pages[0].keyframe.imagelength): level for level in reversed(lower)
    }
    sizes.pop((first.imagewidth, first.imagelength), None)
    return [sizes[size] for size in sorted(sizes, reverse=True)]


def _is_smaller_copy(series: Any, first: Any) -> bool:
    frame = series.pages[0].keyframe
    ratio = frame.imagewidth / first.imagewidth
    same_shape = abs(frame.imagelength - first.imagelength * ratio) <= 1 + first.imagelength / first.imagewidth
    same_kind = frame.samplesperpixel == first.samplesperpixel and frame.dtype == first.dtype
    return bool(ratio < 1 and same_shape and same_kind and len(series.pages) == 1)


def _other_series(file: Any, used: list[Any]) -> dict[str, Any]:
    """Name → series of the pictures beside the slide."""
    pages = {id(series.pages[0]) for series in used}
    found: dict[str, Any] = {}
    for number, series in enumerate(file.series):
        if id(series.pages[0]) not in pages:
            name = (series.name or "").strip().lower() or f"image {number}"
            found[name if name not in found else f"{name} {number}"] = series
    return found


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
            Level(level.width, level.height, power, level.tile_width, level.tile_height, level.compression)
            for level, power in zip(levels, powers, strict=True)
        ]
    return tuple(levels)


def _codec(frame: Any) -> str:
    name = str(getattr(frame.compression, "name", frame.compression)).lower()
    if "jp2" in name or "jpeg2000" in name or "jpeg_2000" in name:
        return "jpeg2000"
    return {"adobe_deflate": "deflate", "ojpeg": "jpeg"}.get(name, name)


def _tags(slide: Any, vendor: str) -> dict[str, Any]:
    """What tiffslide reads from the headers; where it cannot, the description's own `key = value` pairs."""
    if vendor not in ("aperio", "philips"):
        return {}
    try:
        return dict(slide.properties)
    except Exception as error:  # it refuses descriptions that are not ASCII, though the pixels are fine
        logging.getLogger(__name__).info("tiffslide could not read the properties of %s: %s", slide, error)
    return parse_description(slide.ts_tifffile.pages[0].tags.valueof(270))


def parse_description(value: object) -> dict[str, str]:
    """The `key = value` pairs of an Aperio description, also of one in an odd encoding."""
    text = value.decode("latin-1") if isinstance(value, bytes) else str(value or "")
    pairs = re.findall(r"\|\s*([^|=]+?)\s*=\s*([^|]*)", text)
    return {f"aperio.{key}": content.strip() for key, content in pairs}


def _objective_power(file: Any, vendor: str, tags: dict[str, Any]) -> float | None:
    if vendor == "hamamatsu":
        return to_number(file.pages[0].tags.valueof(65421))
    if vendor == "ome":
        return ome.objective_power(file.ome_metadata or "")
    return to_number(tags.get("aperio.AppMag") or tags.get("tiffslide.objective-power"))


def _hints(file: Any, frame: Any, vendor: str, tags: dict[str, Any], power: float | None) -> Iterator[Hint]:
    """Pixel sizes the file states, in the order in which they are believed."""
    if vendor == "aperio" and (mpp := to_number(tags.get("aperio.MPP"))) is not None:
        yield Hint(mpp, mpp, "aperio")
    if vendor == "philips":
        x, y = to_number(tags.get("tiffslide.mpp-x")), to_number(tags.get("tiffslide.mpp-y"))
        if x is not None and y is not None:
            yield Hint(x, y, "philips")
    if resolution := _resolution(frame):
        yield resolution
    if file.is_ome:
        sizes = {width: (x, y) for x, y, width in ome.pixel_sizes(file.ome_metadata or "")}
        if frame.imagewidth in sizes:
            x, y = sizes[frame.imagewidth]
            yield Hint(x, y, "ome")
    if objective := from_objective(power):
        yield objective


def _resolution(frame: Any) -> Hint | None:
    x, y = frame.tags.valueof(282), frame.tags.valueof(283)
    unit = UNITS.get(int(frame.tags.valueof(296, 2) or 2), "")
    if not x or not y or tuple(x) == tuple(y) == (1, 1):  # one pixel an inch: what writers put who know none
        return None
    per_unit = [value[0] / value[1] if value[1] else 0.0 for value in (x, y)]
    return from_resolution(per_unit[0], per_unit[1], unit)


def _remarks(file: Any, series: Any, pages: list[Any]) -> list[str]:
    """What a person should know about how this file is laid out."""
    frame, remarks = pages[0].keyframe, []
    if len(pages) == 1 and max(frame.imagewidth, frame.imagelength) > LARGE_PX:
        remarks.append("The file has one level only; lower ones are made while looking, which is slower.")
    if not frame.is_tiled and frame.imagewidth > LARGE_PX:
        remarks.append("The file stores strips, not tiles: reading is slow.")
    number = next(i for i, one in enumerate(file.series) if one is series)
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
