"""Plain pictures as slides of one level: PNG, JPEG and BMP."""

from __future__ import annotations

import io
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np

from pathotune.slides import fingerprint
from pathotune.slides.mpp import Hint, from_resolution
from pathotune.slides.source import Declined, Facts, Level, Pixels, Source, on_white

BLOCK = 512
ENDINGS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".jpe": "jpeg", ".bmp": "bmp"}
# Such a picture can only be decoded whole: above the first size into a temporary file, above the second not at all.
IN_MEMORY_BYTES = 128 * 2**20
LARGEST_BYTES = 4 * 2**30
TAIL_BYTES = 64 * 1024
COLOR_MODES = ("RGB", "RGBA", "P", "CMYK", "YCbCr")
TO_PYRAMID = (
    "Convert it to a tiled pyramid first, for example: vips tiffsave IN OUT.tif --tile --pyramid --compression jpeg."
)


class ImageSource(Source):
    """A picture file, decoded on first use."""

    reader = "image"

    def __init__(self, path: Path) -> None:
        self.path = path
        kind = ENDINGS.get(path.suffix.lower())
        if path.is_dir() or kind is None:
            raise Declined("not a PNG, JPEG or BMP picture")
        self._kind = kind
        self._mode, size, info = _header(path, kind)
        if size[0] * size[1] * 3 > LARGEST_BYTES:
            reason = f"{size[0]} × {size[1]} pixels are too many for a picture without tiles"
            raise Declined(reason, advice=TO_PYRAMID)
        _check_complete(path, kind)
        level = Level(*size, 1.0, min(BLOCK, size[0]), min(BLOCK, size[1]), "none" if kind == "bmp" else kind)
        icc = info.get("icc_profile")
        hint = _resolution(info)
        self.facts = Facts(
            kind, (level,), mpp_hints=(hint,) if hint else (), icc=icc if isinstance(icc, bytes) else None
        )
        self._lock = threading.Lock()
        self._pixels: Pixels | None = None

    def block(self, level: int, row: int, column: int) -> Pixels:
        """A block of the decoded picture."""
        stored = self.facts.levels[0]
        x, y = column * stored.tile_width, row * stored.tile_height
        return self._decoded()[y : y + stored.tile_height, x : x + stored.tile_width].copy()

    def _decoded(self) -> Pixels:
        with self._lock:
            if self._pixels is None:
                self._pixels = self._decode()
            return self._pixels

    def _decode(self) -> Pixels:
        import imagecodecs

        level = self.facts.levels[0]
        data = self.path.read_bytes()
        if self._mode == "RGB" and self._kind in ("jpeg", "png"):
            decode = imagecodecs.jpeg8_decode if self._kind == "jpeg" else imagecodecs.png_decode
            pixels: Pixels = decode(data, out=_room(level.height, level.width))
            return pixels
        picture = _plugin(self._kind)(io.BytesIO(data))
        return np.ascontiguousarray(on_white(np.asarray(picture.convert("RGBA"))))

    def associated_image(self, name: str) -> Pixels:
        """There are none."""
        raise KeyError(name)

    def fingerprint(self) -> str:
        """From sampled bytes of the file."""
        return fingerprint.of_file(self.path)

    def close(self) -> None:
        """Forget the decoded pixels, and with them their temporary file."""
        with self._lock:
            self._pixels = None


def _room(height: int, width: int) -> Pixels:
    """Empty pixels: in memory, or for a large picture in an unnamed file the system can page out."""
    if height * width * 3 <= IN_MEMORY_BYTES:
        return np.empty((height, width, 3), np.uint8)
    with tempfile.TemporaryFile() as file:
        file.truncate(height * width * 3)
        return np.memmap(file, np.uint8, "r+", shape=(height, width, 3))


def _plugin(kind: str) -> Any:
    # Image.open refuses large pictures as bombs, by a process-wide limit; slides are large, so the classes are asked.
    from PIL import BmpImagePlugin, JpegImagePlugin, PngImagePlugin

    return {
        "png": PngImagePlugin.PngImageFile,
        "jpeg": JpegImagePlugin.JpegImageFile,
        "bmp": BmpImagePlugin.BmpImageFile,
    }[kind]


def _header(path: Path, kind: str) -> tuple[str, tuple[int, int], dict[str, Any]]:
    """Mode, (width, height) and tags of a picture, without its pixels."""
    with path.open("rb") as file:
        try:
            picture = _plugin(kind)(file)
        except (OSError, SyntaxError, ValueError) as error:
            raise Declined(f"the {kind.upper()} header cannot be read ({error})") from error
        mode, size, info = picture.mode, picture.size, dict(picture.info)
    if mode not in COLOR_MODES:
        what = "16 bit" if mode.startswith("I") else "grey, such as a mask" if mode in ("L", "LA", "1") else mode
        advice = "pathotune reads colour pictures, 8 bit red-green-blue."
        raise Declined(f"the picture is {what}, not a colour picture", final=True, advice=advice)
    return mode, (int(size[0]), int(size[1])), info


def _check_complete(path: Path, kind: str) -> None:
    end = {"png": b"IEND", "jpeg": b"\xff\xd9"}.get(kind)
    if end is None:
        return
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - TAIL_BYTES))
        if end not in file.read():
            raise Declined("the file is truncated: its end is missing", final=True, advice="Copy it again.")


def _resolution(info: dict[str, Any]) -> Hint | None:
    dpi = info.get("dpi")
    if not dpi or not dpi[0] or not dpi[1]:
        return None
    return from_resolution(round(float(dpi[0]), 3), round(float(dpi[1]), 3), "inch", "picture's resolution")
