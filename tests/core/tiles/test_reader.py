"""Tiles show exactly the place they are said to lie at, in order, and threads behave."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile

from pathotune.errors import MissingPixelSize, SlideUnreadable, UsageError
from pathotune.slides import open_slide
from pathotune.slides.cache import BLOCKS
from pathotune.tiles import Reading, TileReader, tile_grid


def waves(x, y):
    """A smooth picture with detail in all directions."""
    value = 128 + 60 * np.sin(x / 19.0 + y / 31.0) + 50 * np.cos(x / 41.0 - y / 23.0)
    return np.stack([value, 255 - value, 0 * value + 90], axis=-1)


@pytest.mark.parametrize("decode", ["full", "reduced"])
@pytest.mark.parametrize("filter_name", ["bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("downsamples", [(1.0,), (1.0, 2.0, 4.0), (1.0, 3.17, 9.6)])
@pytest.mark.parametrize("mpp", [(0.5, 0.5), (0.25, 0.25), (0.73, 0.73), (0.31, 0.27)])
def test_a_tile_is_where_it_says_to_a_fraction_of_a_pixel(formula_slide, mpp, downsamples, filter_name, decode):
    slide = formula_slide(250, 250, mpp, downsamples)
    reading = Reading(mpp=0.61, tile_px=24, image_px=18, filter=filter_name, decode=decode)
    width, height = reading.tile_px0(slide)
    rng = np.random.default_rng(0)
    x, y = rng.uniform(20, 240 - width - 20, 12), rng.uniform(20, 240 - height - 20, 12)
    with TileReader(slide, reading) as reader:
        images = reader.read_at(x, y).astype(float)
    # A ramp's mean over a tile is its value at the tile's centre: 0.2 of a colour is a quarter of a pixel.
    centre_x, centre_y = x + width / 2, y + height / 2
    np.testing.assert_allclose(images[..., 0].mean(axis=(1, 2)), 0.75 * centre_x + 0.22 * centre_y, atol=0.2)
    np.testing.assert_allclose(images[..., 1].mean(axis=(1, 2)), 0.75 * centre_y + 0.22 * centre_x, atol=0.2)
    # And so is every column's: nothing is stretched or shifted towards an edge.
    columns = x[:, None] + (np.arange(18) + 0.5) * width / 18
    expected = 0.75 * columns + 0.22 * centre_y[:, None]
    np.testing.assert_allclose(images[..., 0].mean(axis=1), expected, atol=0.6)


@pytest.mark.parametrize("downsamples", [(1.0,), (1.0, 4.0, 16.0)])
def test_pixels_that_fit_are_taken_as_they_are(formula_slide, downsamples):
    slide = formula_slide(250, 250, (0.499, 0.499), downsamples, formula=waves)
    reading = Reading(mpp=0.5, tile_px=100, image_px=100)
    with TileReader(slide, reading) as reader:
        image = reader.read_at([50.3], [80.6])[0]
    np.testing.assert_array_equal(image, slide.read(50, 81, 100, 100))


def test_the_coarsest_level_that_is_fine_enough_is_read(formula_slide):
    slide = formula_slide(4000, 4000, (0.2525, 0.2525), (1.0, 2.0, 4.0, 8.0))
    levels = {mpp: TileReader(slide, Reading(mpp, 224, 224)).level for mpp in (0.2, 0.25, 0.5, 0.7, 1.0, 1.9, 9.0)}
    assert levels == {0.2: 0, 0.25: 0, 0.5: 1, 0.7: 1, 1.0: 2, 1.9: 2, 9.0: 3}


@pytest.mark.parametrize("decode", ["full", "reduced"])
def test_tiles_do_not_depend_on_the_levels_the_file_has(formula_slide, decode):
    reading = Reading(mpp=2.1, tile_px=48, image_px=48, decode=decode)
    pictures = []
    for downsamples in ((1.0,), (1.0, 2.0), (1.0, 2.0, 4.0), (1.0, 3.17)):
        slide = formula_slide(1200, 1200, (0.5, 0.5), downsamples, formula=waves)
        pictures.append(TileReader(slide, reading).read_at([101.7, 455.5], [222.2, 610.1]).astype(float))
    for picture in pictures[1:]:
        assert np.abs(picture - pictures[0]).mean() < 1.0


def test_a_reduced_reading_decodes_no_more_than_it_needs(formula_slide):
    slide = formula_slide(4000, 4000, (0.25, 0.25), (1.0, 4.0))
    chosen = {}
    for mpp in (0.25, 0.4, 0.5, 0.9, 1.0, 2.0, 30.0):
        window = TileReader(slide, Reading(mpp, 112, 112, decode="reduced"))._window
        chosen[mpp] = window.level, window.reduce
    assert chosen == {0.25: (0, 1), 0.4: (0, 1), 0.5: (0, 2), 0.9: (0, 2), 1.0: (1, 1), 2.0: (1, 2), 30.0: (1, 8)}


def test_neighbours_fit_together_without_a_seam(formula_slide):
    slide = formula_slide(1200, 300, (0.5, 0.5), formula=waves)
    reading = Reading(mpp=0.83, tile_px=64, image_px=64)
    width, _ = reading.tile_px0(slide)
    with TileReader(slide, reading) as reader:
        left, right = reader.read_at([40.0, 40.0 + width], [60.0, 60.0]).astype(float)
        both = np.concatenate([left, right], axis=1)[..., 0]
    step = np.abs(np.diff(both, axis=1)).mean(axis=0)
    assert step[63] < 1.6 * np.median(step) + 1


def test_outside_is_white(formula_slide):
    slide = formula_slide(240, 240, (0.5, 0.5), formula=lambda x, y: 0 * ramp_of(x, y))
    with TileReader(slide, Reading(0.5, 100, 100)) as reader:
        corner, beyond = reader.read_at([190.0, 900.0], [-30.0, 900.0])
    assert (corner[:30] == 255).all() and (corner[:, 50:] == 255).all()
    assert (corner[30:, :50] == 0).all()
    assert (beyond == 255).all()


def ramp_of(x, y):
    x, y = np.broadcast_arrays(x, y)
    return np.stack([x, y, x], axis=-1)


def test_reading_together_is_reading_one_by_one(formula_slide):
    slide = formula_slide(2000, 1500, (0.5, 0.5), (1.0, 2.0), formula=waves)
    for reading in (Reading(0.5, 64, 64), Reading(1.3, 64, 48)):
        tiles = tile_grid(slide, reading)
        reader = TileReader(slide, reading)
        together = reader.read_at(tiles.x_px0, tiles.y_px0)
        assert len(slide.reads) < len(tiles) / 3
        for index in range(0, len(tiles), 7):
            alone = reader.read_at(tiles.x_px0[index], tiles.y_px0[index])[0]
            # The filter's weights are rounded at another offset inside the larger read.
            assert np.abs(alone.astype(int) - together[index]).max() <= 1
        slide.reads.clear()


@pytest.mark.parametrize("batch_size", [1, 7, 64, 10_000])
def test_batches_keep_the_order_and_miss_nothing(formula_slide, batch_size):
    slide = formula_slide(900, 700, (0.5, 0.5), formula=waves)
    reading = Reading(0.5, 64, 64)
    tiles = tile_grid(slide, reading)
    with TileReader(slide, reading, threads=3) as reader:
        expected = reader.read_at(tiles.x_px0, tiles.y_px0)
        order = np.random.default_rng(1).permutation(len(tiles))
        for given in (None, order, order[:5].tolist()):
            indices, images = zip(*reader.batches(tiles, batch_size, order=given), strict=True)
            np.testing.assert_array_equal(np.concatenate(indices), np.arange(len(tiles)) if given is None else given)
            np.testing.assert_array_equal(np.concatenate(images), expected[np.concatenate(indices)])
        rest = [index for indices, _ in reader.batches(tiles, batch_size, order=order, start=10) for index in indices]
        np.testing.assert_array_equal(rest, order[10:])
        assert list(reader.batches(tiles, batch_size, order=[])) == []


def test_reading_ahead_is_bounded(formula_slide):
    slide = formula_slide(20_000, 64, (0.5, 0.5))
    reading = Reading(0.5, 64, 64)
    tiles = tile_grid(slide, reading)
    with TileReader(slide, reading, threads=2) as reader, reader.batches(tiles, 4) as batches:
        next(batches)
        time.sleep(0.3)
        first = len(slide.reads)
        time.sleep(0.3)
        assert len(slide.reads) == first < len(tiles) / 4


def test_close_stops_at_once(formula_slide):
    slide = formula_slide(20_000, 2000, (0.5, 0.5), delay=0.05)
    reading = Reading(0.5, 64, 64)
    reader = TileReader(slide, reading, threads=2)
    batches = reader.batches(tile_grid(slide, reading), 16)
    next(batches)
    began = time.perf_counter()
    batches.close()
    reader.close()
    assert time.perf_counter() - began < 0.7
    count = len(slide.reads)
    time.sleep(0.2)
    assert len(slide.reads) == count
    assert list(batches) == []
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("pathotune-tiles")]


def test_an_error_in_a_thread_reaches_the_caller_as_it_is(formula_slide):
    slide = formula_slide(5000, 5000, fails=SlideUnreadable("bad.svs", [("tiffslide", "the tile at 3, 4 is damaged")]))
    reading = Reading(0.5, 64, 64)
    with TileReader(slide, reading) as reader:
        batches = reader.batches(tile_grid(slide, reading), 8)
        with pytest.raises(SlideUnreadable, match="3, 4 is damaged"):
            list(batches)
        assert batches.is_closed


def test_kept_tiles_are_not_read_again(formula_slide):
    slide = formula_slide(640, 640, formula=waves)
    reading = Reading(0.5, 64, 64)
    tiles = tile_grid(slide, reading)
    with TileReader(slide, reading, cache_tiles=50) as reader:
        first = np.concatenate([images for _, images in reader.batches(tiles, 16, order=range(50))])
        slide.reads.clear()
        second = np.concatenate([images for _, images in reader.batches(tiles, 16, order=range(50))])
        np.testing.assert_array_equal(first, second)
        assert slide.reads == []
        reader.read_at(tiles.x_px0[50:], tiles.y_px0[50:])
        assert slide.reads


@pytest.mark.parametrize(("shift", "is_kept"), [(0, False), (64, False), (32, True)])
def test_tiles_that_are_the_files_own_blocks_push_nothing_out_of_memory(tmp_path, shift, is_kept):
    pixels = np.random.default_rng(0).integers(0, 255, (320, 320, 3), dtype=np.uint8)
    options = {"resolution": (2e4, 2e4), "resolutionunit": "CENTIMETER", "photometric": "rgb"}
    tifffile.imwrite(tmp_path / "slide.tiff", pixels, tile=(64, 64), metadata=None, **options)
    corners = np.arange(3) * 64.0 + shift
    places = SimpleNamespace(x_px0=np.tile(corners, 3), y_px0=np.repeat(corners, 3))
    with open_slide(tmp_path / "slide.tiff") as slide:
        slide.read(shift, shift, 64, 64)
        before = BLOCKS.bytes_used
        with TileReader(slide, Reading(mpp=0.5, tile_px=64, image_px=64), threads=2) as reader:
            found = np.concatenate([images for _, images in reader.batches(places, 4)])
        assert (BLOCKS.bytes_used > before) == is_kept
    for x, y, image in zip(places.x_px0.astype(int), places.y_px0.astype(int), found, strict=True):
        np.testing.assert_array_equal(image, pixels[y : y + 64, x : x + 64])


def test_what_cannot_be_is_said(formula_slide):
    with pytest.raises(MissingPixelSize):
        TileReader(formula_slide(mpp=None), Reading(0.5, 64, 64))
    with pytest.raises(UsageError, match="one thread"):
        TileReader(formula_slide(), Reading(0.5, 64, 64), threads=0)
    with pytest.raises(UsageError, match="at least one tile"):
        TileReader(formula_slide(), Reading(0.5, 64, 64)).batches(tile_grid(formula_slide(), Reading(0.5, 64, 64)), 0)
