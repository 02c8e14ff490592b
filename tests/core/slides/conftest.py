"""Generated slides: small TIFFs as scanners and programs write them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

APERIO = (
    "Aperio Image Library v11.2.1 \n{width}x{height} [0,0 {width}x{height}] (256x256) JPEG/RGB Q=90"
    "|AppMag = {power}|MPP = {mpp}"
)
Maker = Callable[..., Path]


def _draw(width: int, height: int, seed: int = 0) -> NDArray[np.uint8]:
    """Smooth colours and sharp edges, different everywhere: a shifted or swapped read shows."""
    x, y = np.arange(width), np.arange(height)[:, None]
    pixels = np.random.default_rng(seed).integers(0, 9, (height, width, 3), np.uint8)
    pixels[..., 0] += (x * 245 // width).astype(np.uint8)
    pixels[..., 1] += (y * 245 // height).astype(np.uint8)
    pixels[..., 2] += ((x // 37) % 2 * 120 + (y // 53) % 2 * 90).astype(np.uint8)
    return pixels


def reduce_to(pixels: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """The picture at another size."""
    from PIL import Image

    return np.array(Image.fromarray(pixels).resize((width, height), Image.Resampling.BOX))


@pytest.fixture
def draw() -> Callable[..., NDArray[np.uint8]]:
    """A picture of a size that is different everywhere: draw(width, height, seed=0)."""
    return _draw


@pytest.fixture
def make_tiff(tmp_path: Path) -> Maker:
    """Write a TIFF of given pixels; `levels` are sizes (width, height) below the first."""

    def make(
        pixels: NDArray[Any],
        name: str = "slide.tiff",
        *,
        levels: tuple[tuple[int, int], ...] = (),
        subifds: bool = False,
        tile: tuple[int, int] | None = (256, 256),
        marked: bool = True,
        **options: Any,
    ) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        options.setdefault("photometric", "rgb")
        options.setdefault("compression", "adobe_deflate")
        if options["compression"] == "adobe_deflate":
            options.setdefault("compressionargs", {"level": 1})
        lower = {key: options[key] for key in ("photometric", "compression", "compressionargs") if key in options}
        is_ome = name.endswith((".ome.tif", ".ome.tiff"))
        with tifffile.TiffWriter(path, ome=is_ome) as file:
            options.setdefault("metadata", {"axes": "YXS"} if is_ome else None)
            file.write(pixels, tile=tile, subifds=len(levels) if subifds else None, **options)
            for size in levels:
                kind = 1 if marked or subifds else 0
                file.write(reduce_to(pixels, *size), tile=tile, subfiletype=kind, metadata=None, **lower)
        return path

    return make


@pytest.fixture
def make_svs(make_tiff: Maker) -> Maker:
    """Write an Aperio-like slide."""

    def make(
        pixels: NDArray[np.uint8], name: str = "slide.svs", *, mpp: str = "0.5", power: str = "20", **options: Any
    ) -> Path:
        height, width = pixels.shape[:2]
        options.setdefault("description", APERIO.format(width=width, height=height, mpp=mpp, power=power))
        return make_tiff(pixels, name, **options)

    return make
