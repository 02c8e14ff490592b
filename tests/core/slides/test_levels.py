"""Levels: how far each is reduced, and the ones the file lacks."""

from __future__ import annotations

import math

import dask
import numpy as np
import pytest

from pathotune.slides import open_slide
from pathotune.slides.pyramid import halve
from pathotune.slides.source import level_downsample


@pytest.mark.parametrize("rounding", [math.floor, math.ceil, round])
@pytest.mark.parametrize("factor", [2, 4, 8, 16, 64])
@pytest.mark.parametrize("size", [(2967, 2220), (9385, 3727), (100_003, 7_919)])
def test_whole_reductions_are_exact_however_sizes_were_rounded(size, factor, rounding):
    width, height = (rounding(side / factor) for side in size)
    assert level_downsample(*size, width, height) == factor


def test_a_cascade_of_rounding_stays_exact():
    width, height = size = (2967, 2220)
    for power in range(1, 7):
        width, height = width // 2, height // 2
        assert level_downsample(*size, width, height) == 2**power


@pytest.mark.parametrize("ratio", [1.5, 2.5, 3.3, 2.02])
def test_other_reductions_stay_what_they_are(ratio):
    found = level_downsample(30_000, 20_000, round(30_000 / ratio), round(20_000 / ratio))
    assert found == pytest.approx(ratio, rel=1e-4)
    assert found != round(ratio)


@pytest.mark.parametrize("marked", [True, False], ids=["marked as reduced", "unmarked"])
@pytest.mark.parametrize("subifds", [True, False], ids=["in SubIFDs", "as pages"])
@pytest.mark.parametrize(
    "ratios", [(2, 4, 8), (1.5, 2.25), (3, 12), (2, 5, 20), (1.37,)], ids=lambda ratios: "-".join(map(str, ratios))
)
def test_all_levels_of_a_file_are_found_whatever_their_ratios(draw, make_tiff, ratios, subifds, marked):
    sizes = tuple((round(960 / ratio), round(733 / ratio)) for ratio in ratios)
    path = make_tiff(draw(960, 733), levels=sizes, subifds=subifds, marked=marked, tile=(32, 32))
    with open_slide(path) as slide:
        assert [(level.width, level.height) for level in slide.levels[1:]] == list(sizes)
        assert [level.downsample for level in slide.levels[1:]] == pytest.approx(ratios, rel=2e-3)
        exact = [(level.downsample, ratio) for level, ratio in zip(slide.levels[1:], ratios, strict=True)]
        assert all(found == ratio for found, ratio in exact if ratio == int(ratio))
        assert slide.associated_images == ()


def test_a_thumbnail_or_label_is_no_level(draw, make_svs):
    path = make_svs(draw(1600, 1200))
    import tifffile

    with tifffile.TiffWriter(path, append=True) as file:
        file.write(draw(400, 300, 1), photometric="rgb", metadata=None, description="Aperio\n400x300")
        file.write(
            draw(300, 300, 2), photometric="rgb", metadata=None, description="Aperio\nlabel 300x300", subfiletype=1
        )
        file.write(
            draw(800, 280, 3), photometric="rgb", metadata=None, description="Aperio\nmacro 800x280", subfiletype=9
        )
    with open_slide(path) as slide:
        assert len(slide.levels) == 1
        assert set(slide.associated_images) == {"thumbnail", "label", "macro"}
        assert np.array_equal(slide.associated_image("label"), draw(300, 300, 2))


def test_an_svs_whose_second_page_is_a_level_keeps_it(draw, make_svs):
    """tifffile takes the second page of every SVS for the thumbnail."""
    with open_slide(make_svs(draw(800, 600), levels=((200, 150),), marked=False)) as slide:
        assert [level.downsample for level in slide.levels] == [1, 4]


def test_missing_levels_are_made_by_averaging(draw, make_tiff):
    pixels = draw(2301, 1999)
    with open_slide(make_tiff(pixels)) as slide:
        assert [array.shape for array in slide.pyramid] == [(1999, 2301, 3), (999, 1150, 3), (499, 575, 3)]
        assert slide.pyramid_downsamples == [1, 2, 4]
        first, second, third = dask.compute(*slide.pyramid)
    assert np.array_equal(first, pixels)
    expected = pixels[:1998, :2300].reshape(999, 2, 1150, 2, 3).mean(axis=(1, 3))
    assert np.abs(second - expected).max() <= 0.5
    assert np.array_equal(third, halve(second[:998]))


def test_a_wide_gap_between_levels_is_filled(draw, make_tiff):
    with open_slide(make_tiff(draw(1600, 1200), levels=((100, 75),))) as slide:
        assert len(slide.levels) == 2
        assert slide.pyramid_downsamples == [1, 2, 4, 16]
        assert np.array_equal(slide.pyramid[-1].compute(), slide.read(0, 0, 100, 75, 1))


def test_an_aperio_like_gap_of_four_is_left_as_it_is(draw, make_tiff):
    with open_slide(make_tiff(draw(1600, 1200), levels=((400, 300), (100, 75)))) as slide:
        assert slide.pyramid_downsamples == [1, 4, 16]


def test_chunks_are_whole_tiles(draw, make_tiff):
    with open_slide(make_tiff(draw(1500, 1300), tile=(240, 240))) as slide:
        rows, columns, channels = slide.pyramid[0].chunks
        assert all(size % 240 == 0 for size in (*rows[:-1], *columns[:-1]))
        assert channels == (3,)


@pytest.mark.parametrize(
    "key",
    [
        np.s_[100:300, 50:70],
        np.s_[::3, ::-2],
        np.s_[5],
        np.s_[:, 1100],
        np.s_[-1, -1, -1],
        np.s_[10:10],
        np.s_[..., 1],
        np.s_[700:, 900:, :2],
    ],
    ids=str,
)
def test_arrays_cut_as_numpy_does(draw, make_tiff, key):
    pixels = draw(1200, 800)
    with open_slide(make_tiff(pixels)) as slide:
        assert np.array_equal(slide.pyramid[0][key].compute(), pixels[key])


def test_arrays_of_strips_and_of_two_slides(draw, make_tiff):
    one, two = draw(3000, 700, 1), draw(3000, 700, 2)
    with (
        open_slide(make_tiff(one, "one.tiff", tile=None, rowsperstrip=8)) as first,
        open_slide(make_tiff(two, "two.tiff", tile=None, rowsperstrip=8)) as second,
    ):
        a, b = dask.compute(first.pyramid[0], second.pyramid[0])
        assert np.array_equal(a, one)
        assert np.array_equal(b, two)
        assert np.array_equal(first.pyramid[1].compute(), halve(one))


def test_a_thumbnail_is_the_slide_made_small(draw, make_tiff):
    pixels = draw(2000, 1000)
    with open_slide(make_tiff(pixels)) as slide:
        small = slide.thumbnail(200)
        assert small.shape == (100, 200, 3)
        assert np.abs(small.astype(float) - pixels.reshape(100, 10, 200, 10, 3).mean(axis=(1, 3))).max() <= 2
        assert slide.thumbnail(5000).shape == (1000, 2000, 3)
        assert slide.thumbnail(1).shape == (1, 1, 3)


PHILIPS = """<?xml version="1.0" encoding="UTF-8" ?><DataObject ObjectType="DPUfsImport">
<Attribute Name="DICOM_MANUFACTURER" Group="0x0008" Element="0x0070" PMSVR="IString">PHILIPS</Attribute>
<Attribute Name="PIM_DP_SCANNED_IMAGES" Group="0x301D" Element="0x1003" PMSVR="IDataObjectArray"><Array>
<DataObject ObjectType="DPScannedImage">{levels}</DataObject></Array></Attribute></DataObject>"""
PHILIPS_LEVEL = """<DataObject ObjectType="PixelDataRepresentation"><Attribute Name="DICOM_PIXEL_SPACING" Group="0x0028"
Element="0x0030" PMSVR="IDoubleArray">"{spacing}" "{spacing}"</Attribute></DataObject>"""


def test_philips_pads_its_levels_and_they_are_powers_of_two_all_the_same(draw, make_tiff):
    """Every level is padded to whole tiles, so that sizes alone would give 1, 1.97, 3.66 …"""
    levels = "".join(PHILIPS_LEVEL.format(spacing=0.00025 * 2**i) for i in range(3))
    path = make_tiff(
        draw(1408, 1152),
        levels=((768, 640), (384, 384)),
        marked=False,
        tile=(128, 128),
        software="Philips DP v1.0",
        description=PHILIPS.format(levels=levels),
    )
    with open_slide(path) as slide:
        assert slide.vendor == "philips"
        assert [level.downsample for level in slide.levels] == [1, 2, 4]
        assert (slide.mpp.x, slide.mpp.source) == (pytest.approx(0.25), "philips")
        assert np.array_equal(slide.read(0, 0, 1408, 1152), draw(1408, 1152))
