"""Pixels decoded at a half, a quarter or an eighth of their size: the same place, the same colours, any file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from pathotune.errors import UsageError
from pathotune.slides import open_slide
from pathotune.slides.pyramid import halve


def smooth(height: int, width: int) -> np.ndarray:
    """A picture that JPEG hardly changes, with a colour of its own in every corner."""
    y, x = np.mgrid[:height, :width].astype(float)
    red = 128 + 100 * np.sin(x / 37) * np.cos(y / 53)
    return np.stack([red, 40 + 180 * x / width, 220 - 180 * y / height], axis=-1).round().astype(np.uint8)


def halved(pixels: np.ndarray, factor: int) -> np.ndarray:
    pixels = pixels[: pixels.shape[0] // factor * factor, : pixels.shape[1] // factor * factor]
    while factor > 1:
        pixels, factor = halve(pixels[: pixels.shape[0] // 2 * 2, : pixels.shape[1] // 2 * 2]), factor // 2
    return pixels


def write(path: Path, picture: np.ndarray, **options: object) -> Path:
    resolution = {"resolution": (20000.0, 20000.0), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(path, picture, photometric=options.pop("photometric", "rgb"), **resolution, **options)
    return path


KINDS = {
    "jpeg": {"tile": (64, 64), "compression": "jpeg", "compressionargs": {"level": 95}, "photometric": "ycbcr"},
    "jpeg as rgb": {
        "tile": (64, 64),
        "compression": "jpeg",
        "compressionargs": {"level": 95, "outcolorspace": "rgb"},
        "photometric": "rgb",
    },
    "jpeg, odd tiles": {"tile": (48, 80), "compression": "jpeg", "photometric": "ycbcr"},
    "deflate": {"tile": (64, 64), "compression": "adobe_deflate"},
    "strips": {"rowsperstrip": 7, "compression": "adobe_deflate"},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("factor", [2, 4, 8])
def test_it_is_the_mean_of_the_pixels(tmp_path: Path, kind: str, factor: int) -> None:
    picture = smooth(301, 413)
    with open_slide(write(tmp_path / "a.tiff", picture, **KINDS[kind])) as slide:
        width, height = slide.width_px0 // factor, slide.height_px0 // factor
        small = slide.read(0, 0, width, height, reduce=factor)
        expected = halved(slide.read(0, 0, slide.width_px0, slide.height_px0), factor)
        difference = np.abs(small.astype(int) - expected)
        if "jpeg" in kind:
            assert difference.mean() < 1 and np.percentile(difference, 99) <= 4
        else:
            assert difference.max() == 0
        part = slide.read(5, 3, 11, 13, reduce=factor)
        np.testing.assert_array_equal(part, small[3:16, 5:16])


def test_a_file_of_jpeg_tiles_is_decoded_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_slide(write(tmp_path / "a.tiff", smooth(256, 256), **KINDS["jpeg"])) as slide:
        monkeypatch.setattr(type(slide._source), "block", lambda *_: pytest.fail("a whole tile was decoded"))
        assert slide.read(0, 0, 64, 64, reduce=4).shape == (64, 64, 3)


def test_outside_is_white_and_other_factors_are_refused(tmp_path: Path) -> None:
    with open_slide(write(tmp_path / "a.tiff", smooth(100, 100), **KINDS["jpeg"])) as slide:
        pixels = slide.read(-2, 45, 10, 10, reduce=2)
        assert (pixels[:, :2] == 255).all() and (pixels[5:] == 255).all() and (pixels[:5, 2:] < 255).any(axis=-1).all()
        with pytest.raises(UsageError, match="1/2, 1/4, 1/8 of their size, not 1/3"):
            slide.read(0, 0, 5, 5, reduce=3)


def test_a_tile_that_ends_early_is_said(tmp_path: Path) -> None:
    with open_slide(write(tmp_path / "a.tiff", smooth(256, 256), **KINDS["jpeg"])) as slide:
        reader = slide._source._readers[0]
        reader._file.at = lambda offset, count: b"\xff\xd8"
        with pytest.raises(Exception, match=r"cannot be decoded: the file ends inside tile 0"):
            slide.read(0, 0, 8, 8, reduce=2)


def test_a_real_slide_whose_tiles_are_rgb_inside_jpeg(shared_data: Path) -> None:
    with open_slide(shared_data / "wsi" / "CMU-1-Small-Region.svs") as slide:
        full = slide.read(400, 800, 960, 960)
        small = slide.read(200, 400, 480, 480, reduce=2)
    difference = np.abs(small.astype(int) - halve(full))
    assert difference.mean() < 1.5 and np.abs(small.mean((0, 1)) - full.mean((0, 1))).max() < 0.2
