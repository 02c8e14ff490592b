"""Opening reads headers only, leaves no handle behind, and knows a slide under any name."""

from __future__ import annotations

import gc
import os
import pickle
import shutil
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import tifffile

from pathotune.errors import SlideUnreadable
from pathotune.slides import open_slide


def bytes_read_so_far() -> int:
    for line in Path("/proc/self/io").read_text().splitlines():
        if line.startswith("rchar"):
            return int(line.split()[1])
    raise AssertionError


def write_large(path: Path, side: int) -> Path:
    """A slide whose tiles are all the same few bytes, in a moment."""
    tile = np.random.default_rng(0).integers(0, 255, (256, 256, 3), np.uint8)
    count = (side // 256) ** 2
    with tifffile.TiffWriter(path) as file:
        file.write(
            (tile for _ in range(count)),
            shape=(side, side, 3),
            dtype=np.uint8,
            tile=(256, 256),
            photometric="rgb",
            metadata=None,
        )
    return path


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="counting bytes read needs Linux")
def test_opening_reads_headers_and_samples_only(tmp_path):
    read = []
    for side in (2048, 8192):
        path = write_large(tmp_path / f"{side}.tiff", side)
        with open_slide(path) as slide:  # imports out of the way
            _ = slide.pyramid
        before = bytes_read_so_far()
        with open_slide(path) as slide:
            _ = slide.pyramid
        read.append(bytes_read_so_far() - before)
    assert (tmp_path / "8192.tiff").stat().st_size > 190 * 2**20
    assert max(read) < 2 * 2**20
    assert read[1] < 2 * read[0]


def test_the_whole_of_a_single_level_slide_is_never_in_memory(tmp_path):
    import psutil

    from pathotune.slides.cache import BLOCKS

    path = write_large(tmp_path / "large.tiff", 10240)  # 300 MB of pixels
    limit, BLOCKS.limit_bytes = BLOCKS.limit_bytes, 24 * 2**20
    try:
        with open_slide(path) as slide:
            slide.read(0, 0, 256, 256)
            before = psutil.Process().memory_info().rss
            assert slide.thumbnail(512).shape == (512, 512, 3)
            grown = psutil.Process().memory_info().rss - before
            assert BLOCKS.bytes_used <= 24 * 2**20
    finally:
        BLOCKS.limit_bytes = limit
    assert grown < 100 * 2**20


NAMES = [
    "Präparat Müller 3.tiff",
    "with  two spaces.tiff",
    "切片.tiff",
    "a" * 120 + "/" + "b" * 120 + "/slide.tiff",
    "%23#'&.tiff",
]


@pytest.mark.parametrize("name", NAMES, ids=["umlaut", "spaces", "chinese", "long", "signs"])
def test_any_name_and_any_length_of_path(draw, make_tiff, name):
    path = make_tiff(draw(300, 300), name)
    with open_slide(path) as slide:
        assert slide.name == path.name
        assert slide.read(0, 0, 300, 300).shape == (300, 300, 3)
    with open_slide(str(path)):
        pass


def test_the_fingerprint_is_of_the_content(draw, make_tiff, tmp_path):
    path = make_tiff(draw(700, 700), "one.tiff")
    other = make_tiff(draw(700, 700, 1), "two.tiff")
    copied = tmp_path / "elsewhere" / "renamed.tif"
    copied.parent.mkdir()
    shutil.copy(path, copied)
    prints = []
    for one in (path, copied, other):
        with open_slide(one) as slide:
            prints.append(slide.fingerprint)
    assert prints[0] == prints[1] != prints[2]


def test_the_fingerprint_is_the_same_through_every_reader(draw, make_svs):
    path = make_svs(draw(700, 700), compression="jpeg", compressionargs={"level": 90})
    with open_slide(path, reader="tiffslide") as one, open_slide(path, reader="openslide") as two:
        assert one.fingerprint == two.fingerprint
        assert np.abs(one.read(0, 0, 700, 700).astype(int) - two.read(0, 0, 700, 700)).mean() < 1


def open_files() -> set[str]:
    folder = Path("/proc/self/fd")
    found = set()
    for link in folder.iterdir():
        try:
            found.add(os.readlink(link))
        except OSError:
            continue
    return found


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="listing open files needs Linux")
@pytest.mark.parametrize("reader", ["tiffslide", "openslide"])
def test_close_gives_the_file_back(draw, make_svs, reader):
    path = make_svs(draw(300, 300), compression="jpeg", compressionargs={"level": 90})
    slide = open_slide(path, reader=reader)
    slide.read(0, 0, 100, 100)
    slide.close()
    slide.close()
    assert str(path) not in open_files()
    path.rename(path.with_name("renamed.svs"))
    with pytest.raises(SlideUnreadable, match="was closed"):
        slide.read(0, 0, 10, 10)
    assert slide.to_dict()["width_px0"] == 300


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="listing open files needs Linux")
def test_a_refused_file_is_not_kept_open(draw, make_tiff):
    path = make_tiff(draw(900, 900))
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(SlideUnreadable):
        open_slide(path)
    gc.collect()
    assert str(path) not in open_files()


def test_a_forgotten_slide_closes_without_a_complaint(draw, make_tiff, capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        unraisable = []
        hook, sys.unraisablehook = sys.unraisablehook, unraisable.append
        try:
            slide = open_slide(make_tiff(draw(300, 300)))
            slide.read(0, 0, 100, 100)
            del slide
            gc.collect()
        finally:
            sys.unraisablehook = hook
    assert unraisable == []


def test_arrays_keep_their_slide_open(draw, make_tiff):
    pixels = draw(300, 300)
    array = open_slide(make_tiff(pixels)).pyramid[0]
    gc.collect()
    assert np.array_equal(array.compute(), pixels)


def test_facts_are_json(draw, make_svs):
    import json

    with open_slide(make_svs(draw(300, 300))) as slide:
        facts = json.loads(json.dumps(slide.to_dict()))
    assert facts["levels"] == [
        {
            "width": 300,
            "height": 300,
            "downsample": 1.0,
            "tile_width": 256,
            "tile_height": 256,
            "compression": "deflate",
        }
    ]
    assert facts["vendor"] == "aperio"
    assert set(facts) == {
        "path", "reader", "vendor", "width_px0", "height_px0", "levels", "mpp_x", "mpp_y", "mpp_source",
        "objective_power", "bounds_px0", "associated_images", "icc_profile", "fingerprint", "warnings",
    }  # fmt: skip


def test_levels_and_sizes_travel_between_processes(draw, make_svs):
    with open_slide(make_svs(draw(300, 300))) as slide:
        assert pickle.loads(pickle.dumps((slide.levels, slide.mpp))) == (slide.levels, slide.mpp)


def test_importing_the_room_costs_no_reader():
    import subprocess

    code = (
        "import sys, pathotune.slides; "
        "print([m for m in ('tiffslide', 'openslide', 'zarr', 'tifffile', 'dask', 'PIL', 'torch') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
