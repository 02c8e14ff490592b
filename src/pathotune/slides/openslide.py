"""Slides that openslide reads: DICOM, MRXS, VMS, SCN, BIF and what tiffslide declines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pathotune.slides import fingerprint
from pathotune.slides.mpp import Hint, from_objective, to_number
from pathotune.slides.source import Declined, Facts, Pixels, Source, is_tiff, make_levels, on_white

BLOCK = 512
HEADER_BYTES = 64 * 1024
UNLIKE_PARTS = "Its parts were scanned at different magnifications: export each from the scanner's program as a TIFF."
# Transfer syntaxes of DICOM; of other files openslide does not tell the codec.
DICOM_CODECS = {
    "1.2.840.10008.1.2": "none",
    "1.2.840.10008.1.2.1": "none",
    "1.2.840.10008.1.2.4.50": "jpeg",
    "1.2.840.10008.1.2.4.90": "jpeg2000",
    "1.2.840.10008.1.2.4.91": "jpeg2000",
}


class OpenSlideSource(Source):
    """A slide opened by openslide."""

    reader = "openslide"

    def __init__(self, path: Path) -> None:
        self.path = path
        self._slide = _open_dicom_folder(path) if path.is_dir() else _open(path)
        try:
            self.facts = _facts(self._slide)
        except BaseException:
            self.close()
            raise
        self._downsamples = self._slide.level_downsamples

    def block_size(self, level: int) -> tuple[int, int]:
        """The file's tiles where openslide tells them and they are not tiny, else 512 pixels."""
        stored = self.facts.levels[level]
        if min(stored.tile_width, stored.tile_height) >= 128 and max(stored.tile_width, stored.tile_height) <= 2048:
            return stored.tile_width, stored.tile_height
        return BLOCK, BLOCK

    def block(self, level: int, row: int, column: int) -> Pixels:
        """One block, laid on white where the slide has no pixels."""
        width, height = self.block_size(level)
        x, y = column * width, row * height
        stored = self.facts.levels[level]
        size = min(width, stored.width - x), min(height, stored.height - y)
        # openslide takes level-0 coordinates and divides by its own ratio, so that ratio must lead there. Where the
        # ratio is no whole number it resamples by less than half a pixel of the level; level 0 is exact.
        ratio = self._downsamples[level]
        picture = self._slide.read_region((round(x * ratio), round(y * ratio)), level, size)
        return np.ascontiguousarray(on_white(np.asarray(picture)))

    def associated_image(self, name: str) -> Pixels:
        """A label, macro or thumbnail picture."""
        return np.ascontiguousarray(on_white(np.asarray(self._slide.associated_images[name].convert("RGBA"))))

    def fingerprint(self) -> str:
        """For a TIFF its sampled bytes, as every reader; else openslide's hash of all files, whichever was named."""
        quick = self._slide.properties.get("openslide.quickhash-1")
        if not quick or (self.path.is_file() and is_tiff(self.path)):
            return fingerprint.of_file(self.path)
        return fingerprint.combine("openslide", [quick, repr(self._slide.level_dimensions)])

    def close(self) -> None:
        """Close the handle."""
        self._slide.close()


def _open(path: Path) -> Any:
    try:
        import openslide
    except (ImportError, OSError) as error:
        raise Declined(f"the openslide library is not there ({error})") from error
    try:
        slide = openslide.OpenSlide(str(path))
    except openslide.OpenSlideUnsupportedFormatError:
        raise Declined("not a format it knows") from None
    except openslide.OpenSlideError as error:
        raise Declined(str(error), advice=UNLIKE_PARTS if "dissimilar main images" in str(error) else "") from error
    return slide


def _open_dicom_folder(path: Path) -> Any:
    """Open the one whole-slide series in a folder."""
    files = [file for file in sorted(path.iterdir()) if file.is_file() and is_dicom(file)]
    if not files:
        raise Declined("it is a folder without DICOM files", advice=_slides_inside(path))
    slide, reason = None, ""
    for file in files:
        try:
            slide = _open(file)
            break
        except Declined as declined:
            reason = declined.reason
    if slide is None:
        raise Declined(f"none of its {len(files)} DICOM files opens: {reason}")
    series = str(slide.properties.get("dicom.SeriesInstanceUID", ""))
    others = [file.name for file in files if _is_volume_of_another(file, series)]
    if others:
        slide.close()
        raise Declined(
            "the folder holds more than one DICOM slide", final=True, advice=f"Name one file, for example {others[0]}."
        )
    return slide


def is_dicom(path: Path) -> bool:
    """Whether a file starts as DICOM files do."""
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def _is_volume_of_another(file: Path, series: str) -> bool:
    with file.open("rb") as opened:
        header = opened.read(HEADER_BYTES)
    return b"VOLUME" in header and series.encode() not in header


def _slides_inside(path: Path) -> str:
    endings = {".svs", ".ndpi", ".tif", ".tiff", ".mrxs", ".scn", ".bif", ".vms", ".dcm", ".svslide"}
    inside = [file.name for file in sorted(path.iterdir()) if file.suffix.lower() in endings]
    return f"Name a slide in it, for example {inside[0]}." if inside else ""


def _facts(slide: Any) -> Facts:
    properties = slide.properties
    vendor = properties.get("openslide.vendor", "unknown")
    sizes = list(slide.level_dimensions)
    tiles = [
        (_tile(properties, index, "width", size[0]), _tile(properties, index, "height", size[1]))
        for index, size in enumerate(sizes)
    ]
    power = to_number(properties.get("openslide.objective-power"))
    bounds = [to_number(properties.get(f"openslide.bounds-{key}")) for key in ("x", "y", "width", "height")]
    whole = [int(value) for value in bounds if value is not None]
    profile = slide.color_profile
    codec = DICOM_CODECS.get(properties.get("dicom.TransferSyntaxUID", ""), "unknown")
    return Facts(
        vendor=vendor,
        levels=tuple(make_levels(sizes, tiles, [codec] * len(sizes))),
        mpp_hints=tuple(_hints(properties, vendor, power)),
        objective_power=power,
        bounds_px0=(whole[0], whole[1], whole[2], whole[3]) if len(whole) == 4 else None,
        associated_images=tuple(slide.associated_images),
        icc=profile.tobytes() if profile is not None else None,
    )


def _tile(properties: Any, level: int, side: str, size: int) -> int:
    value = to_number(properties.get(f"openslide.level[{level}].tile-{side}"))
    return int(value) if value else min(BLOCK, size)


def _hints(properties: Any, vendor: str, power: float | None) -> list[Hint]:
    hints = []
    x, y = to_number(properties.get("openslide.mpp-x")), to_number(properties.get("openslide.mpp-y"))
    if x is not None and y is not None:
        hints.append(Hint(x, y, "tiff resolution" if vendor == "generic-tiff" else vendor))
    objective = from_objective(power)
    return [*hints, objective] if objective else hints
