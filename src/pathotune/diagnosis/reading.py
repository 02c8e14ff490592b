"""Whether slides can be read: each reader on a small slide of its kind, made here."""

from __future__ import annotations

import importlib
import io
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pathotune.diagnosis import Finding

AGAIN = "Install it again: pip install --force-reinstall {}"


def check_readers() -> Iterator[Finding]:
    """TIFF with JPEG and JPEG 2000 tiles, openslide's library, OME-Zarr, pictures."""
    pixels = (np.add.outer(np.arange(64), np.arange(64))[..., None] + np.array([90, 20, 60])).astype(np.uint8)
    with tempfile.TemporaryDirectory(prefix="pathotune-") as folder:
        yield _tried("TIFF slides", "tiffslide", lambda: _tiff(Path(folder), pixels, "jpeg"))
        yield _tried("JPEG 2000 tiles", "imagecodecs", lambda: _tiff(Path(folder), pixels, "jpeg2000"))
        yield _tried("openslide (DICOM, MRXS, SCN …)", "openslide-bin openslide-python", _openslide)
        yield _tried("OME-Zarr slides and results", "zarr", lambda: _zarr(Path(folder), pixels))
        yield _tried("pictures", "pillow", lambda: _picture(pixels))


def _tried(name: str, packages: str, attempt: Callable[[], str]) -> Finding:
    try:
        return Finding(name, "ok", attempt())
    except Exception as error:  # a broken library throws anything
        text = f"do not work ({type(error).__name__}: {' '.join(str(error).split())[:160]})"
        return Finding(name, "trouble", text, AGAIN.format(packages))


def _check(same: bool) -> None:
    if not same:
        raise ValueError("the pixels that come back are not those that were written")


def _near(found: Any, pixels: np.ndarray) -> bool:
    return found.shape == pixels.shape and float(np.abs(found.astype(int) - pixels).mean()) < 8


def _tiff(folder: Path, pixels: np.ndarray, codec: str) -> str:
    import tifffile

    from pathotune.slides import open_slide

    path = folder / f"{codec}.tiff"
    tifffile.imwrite(path, pixels, tile=(64, 64), photometric="rgb", compression=codec, metadata=None)
    with open_slide(path, reader="tiffslide") as slide:
        _check(_near(slide.read(0, 0, 64, 64), pixels))
    return f"tiffslide and tifffile {tifffile.__version__} read them"


def _openslide() -> str:
    openslide = importlib.import_module("openslide")
    return f"library {openslide.__library_version__}"


def _zarr(folder: Path, pixels: np.ndarray) -> str:
    import zarr

    array = zarr.create_array(str(folder / "a.zarr"), shape=pixels.shape, chunks=(32, 32, 3), dtype="uint8")
    array[:] = pixels
    _check(bool(np.array_equal(zarr.open_array(str(folder / "a.zarr"), mode="r")[:], pixels)))
    return f"zarr {zarr.__version__} writes and reads them"


def _picture(pixels: np.ndarray) -> str:
    import PIL
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="JPEG", quality=90)
    _check(_near(np.asarray(Image.open(file)), pixels))
    return f"Pillow {PIL.__version__} reads them"
