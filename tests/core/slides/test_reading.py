"""`Slide.read` gives the file's own pixels, wherever the box lies and however many threads ask."""

from __future__ import annotations

import struct
from concurrent.futures import ThreadPoolExecutor

import imagecodecs
import numpy as np
import pytest
import tifffile

from pathotune.errors import SlideUnreadable, UsageError
from pathotune.slides import open_slide
from pathotune.slides.cache import BLOCKS

BOXES = [
    (0, 0, 256, 256),
    (256, 256, 256, 256),
    (100, 77, 300, 290),
    (699, 0, 1, 613),
    (0, 0, 700, 613),
    (511, 511, 2, 2),
]


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("tile", [(256, 256), (240, 240), (64, 128), None])
def test_pixels_are_those_written(draw, make_tiff, tile, box):
    pixels = draw(700, 613)
    x, y, width, height = box
    with open_slide(make_tiff(pixels, tile=tile)) as slide:
        assert np.array_equal(slide.read(*box), pixels[y : y + height, x : x + width])


@pytest.mark.parametrize(
    "options",
    [
        {"compression": None},
        {"compression": None, "tile": None},
        {"compression": "lzw", "predictor": True, "tile": None, "rowsperstrip": 17},
        {"compression": "jpeg2000", "compressionargs": {"level": 0}},
        {"bigtiff": True},
        {"byteorder": ">", "compression": None, "tile": None},
        {"planar": True},
        {"planar": True, "tile": None, "rowsperstrip": 100},
    ],
    ids=str,
)
def test_pixels_survive_every_way_of_storing_them(draw, tmp_path, options):
    pixels = draw(520, 391)
    options = {"tile": (256, 256), "compression": "adobe_deflate", "photometric": "rgb", **options}
    stored = pixels
    if options.pop("planar", False):
        stored, options["planarconfig"] = pixels.transpose(2, 0, 1), "separate"
    size = {key: options.pop(key) for key in ("bigtiff", "byteorder") if key in options}
    path = tmp_path / "stored.tiff"
    with tifffile.TiffWriter(path, **size) as file:
        file.write(stored, metadata=None, **options)
    with open_slide(path) as slide:
        assert slide.reader == "tiffslide"
        assert np.array_equal(slide.read(0, 0, 520, 391), pixels)
        assert np.array_equal(slide.read(130, 201, 300, 150), pixels[201:351, 130:430])


@pytest.mark.parametrize(
    ("photometric", "subsampling"), [("rgb", "444"), ("ycbcr", "444"), ("ycbcr", "422"), ("ycbcr", "420")]
)
def test_jpeg_is_as_tiffslide_decodes_it(draw, make_svs, photometric, subsampling):
    import tiffslide

    args = {"level": 90, "subsampling": subsampling}
    path = make_svs(draw(900, 700), photometric=photometric, compression="jpeg", compressionargs=args)
    with open_slide(path) as slide, tiffslide.TiffSlide(path) as other:
        for x, y, width, height in [(0, 0, 256, 256), (33, 120, 500, 400), (800, 650, 100, 50)]:
            theirs = other.read_region((x, y), 0, (width, height), as_array=True)
            assert np.array_equal(slide.read(x, y, width, height), theirs)


def test_every_level_is_as_tiffslide_reads_it(draw, make_tiff):
    import tiffslide

    path = make_tiff(draw(1000, 800), levels=((500, 400), (250, 200)))
    with open_slide(path) as slide, tiffslide.TiffSlide(path) as other:
        assert [(level.width, level.height) for level in slide.levels] == list(other.level_dimensions)
        for number, level in enumerate(slide.levels):
            theirs = other.read_region((0, 0), number, (level.width, level.height), as_array=True)
            assert np.array_equal(slide.read(0, 0, level.width, level.height, number), theirs)


def test_outside_is_white(draw, make_tiff):
    pixels = draw(300, 280)
    with open_slide(make_tiff(pixels)) as slide:
        around = slide.read(-20, -10, 340, 300)
        assert np.array_equal(around[10:290, 20:320], pixels)
        around[10:290, 20:320] = 255
        assert (around == 255).all()
        assert (slide.read(10_000, 10_000, 5, 6) == 255).all()
        assert slide.read(10_000, 10_000, 5, 6).shape == (6, 5, 3)
        assert slide.read(5, 5, 0, 0).shape == (0, 0, 3)


def test_what_is_returned_belongs_to_the_caller(draw, make_tiff):
    pixels = draw(256, 256)
    with open_slide(make_tiff(pixels)) as slide:
        slide.read(0, 0, 256, 256)[:] = 0
        assert np.array_equal(slide.read(0, 0, 256, 256), pixels)


def test_alpha_lies_on_white(draw, make_tiff):
    pixels = np.dstack([draw(300, 300), np.full((300, 300), 255, np.uint8)])
    pixels[:100, :, 3] = 0
    with open_slide(make_tiff(pixels, extrasamples=["unassalpha"])) as slide:
        read = slide.read(0, 0, 300, 300)
        assert (read[:100] == 255).all()
        assert np.array_equal(read[100:], pixels[100:, :, :3])


def test_tiles_left_out_are_white(draw, tmp_path):
    tiles = [imagecodecs.zlib_encode(draw(256, 256, seed).tobytes()) for seed in range(4)]
    tiles[2] = b""
    path = tmp_path / "sparse.tiff"
    with tifffile.TiffWriter(path) as file:
        file.write(
            iter(tiles), shape=(512, 512, 3), dtype=np.uint8, tile=(256, 256), photometric="rgb", compression="zlib"
        )
    with open_slide(path) as slide:
        assert (slide.read(0, 256, 256, 256) == 255).all()
        assert np.array_equal(slide.read(256, 256, 256, 256), draw(256, 256, 3))


def test_many_threads_read_the_same(draw, make_tiff):
    pixels = draw(1500, 1400)
    rng = np.random.default_rng(0)
    boxes = [(int(x), int(y), 200, 180) for x, y in rng.integers(-50, 1300, (300, 2))]
    with open_slide(make_tiff(pixels, compression="jpeg", compressionargs={"level": 95})) as slide:
        alone = [slide.read(*box) for box in boxes]
        limit = BLOCKS.limit_bytes
        BLOCKS.limit_bytes = 2 * 2**20  # so that blocks are dropped and made again all the time
        try:
            with ThreadPoolExecutor(8) as pool:
                together = list(pool.map(lambda box: slide.read(*box), boxes))
        finally:
            BLOCKS.limit_bytes = limit
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))


def test_a_damaged_tile_is_told_where_it_is(draw, make_tiff):
    path = make_tiff(draw(600, 600), compression="jpeg", compressionargs={"level": 90})
    with tifffile.TiffFile(path) as file:
        offset, count = file.pages[0].dataoffsets[4], file.pages[0].databytecounts[4]
    data = bytearray(path.read_bytes())
    data[offset : offset + count] = bytes(count)
    path.write_bytes(data)
    with open_slide(path) as slide:
        assert slide.read(0, 0, 256, 256).shape == (256, 256, 3)
        with pytest.raises(SlideUnreadable, match="x 256, y 256 cannot be decoded"):
            slide.read(256, 256, 256, 256)


def test_a_read_beside_the_levels_is_a_wrong_use(draw, make_tiff):
    with open_slide(make_tiff(draw(300, 300))) as slide:
        with pytest.raises(UsageError, match="no level 3"):
            slide.read(0, 0, 10, 10, 3)
        with pytest.raises(UsageError, match="-1"):
            slide.read(0, 0, -1, 10)


def test_aperio_jpeg2000_in_ycbcr_has_right_colours(draw, make_svs):
    """Compression 33003: the tiles hold YCbCr, which their decoder does not know."""
    pixels = draw(256, 256)
    r, g, b = (pixels[..., i].astype(float) for i in range(3))
    y = 0.299 * r + 0.587 * g + 0.114 * b
    ycbcr = np.stack([y, (b - y) / 1.772 + 128, (r - y) / 1.402 + 128], axis=2)
    tile = imagecodecs.jpeg2k_encode(
        np.clip(np.rint(ycbcr), 0, 255).astype(np.uint8), codecformat="J2K", mct=False, reversible=True, level=0
    )
    path = make_svs(pixels, compression=None)
    with tifffile.TiffFile(path, mode="r+b") as file:
        page = file.pages[0]
        end = file.filehandle.seek(0, 2)
        file.filehandle.write(tile)
        for tag, value in ((259, 33003), (324, end), (325, len(tile))):
            kind = page.tags[tag]
            file.filehandle.seek(kind.valueoffset)
            file.filehandle.write(struct.pack("<H" if kind.dtype == 3 else "<I", value))
    with open_slide(path) as slide:
        difference = np.abs(slide.read(0, 0, 256, 256).astype(int) - pixels)
        assert difference.max() <= 6
