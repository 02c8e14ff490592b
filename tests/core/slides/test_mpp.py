"""The pixel size: who is believed, who is doubted, and what a person stated is remembered."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tifffile

from pathotune.errors import MissingPixelSize, UsageError
from pathotune.settings import settings
from pathotune.slides import mpp as pixel_size
from pathotune.slides import open_slide

PER_CM = {"resolution": (20000, 20000), "resolutionunit": "CENTIMETER"}  # 0.5 µm


def test_vendor_tag_comes_first(draw, make_svs):
    with open_slide(make_svs(draw(300, 300), mpp="0.2525", power="40", **PER_CM)) as slide:
        assert (slide.mpp.x, slide.mpp.y, slide.mpp.source) == (0.2525, 0.2525, "aperio")
        assert any("tiff resolution says 20000 pixels per cm" in text for text in slide.warnings)


def test_a_decimal_comma_is_read(draw, make_svs):
    with open_slide(make_svs(draw(300, 300), mpp="0,2525", power="40")) as slide:
        assert slide.mpp.x == 0.2525


@pytest.mark.parametrize(
    ("per_unit", "unit", "expected"),
    [(20000, "CENTIMETER", 0.5), (50800, "INCH", 0.5), (2000, "MILLIMETER", 0.5), (2, "MICROMETER", 0.5)],
)
def test_tiff_resolution_in_its_unit(draw, make_tiff, per_unit, unit, expected):
    with open_slide(make_tiff(draw(300, 300), resolution=(per_unit, per_unit), resolutionunit=unit)) as slide:
        assert slide.mpp.x == pytest.approx(expected, rel=1e-3)
        assert slide.mpp.source == "tiff resolution"
        assert slide.warnings == ()


@pytest.mark.parametrize("dpi", [72, 96])
def test_a_screens_resolution_is_doubted(draw, make_tiff, dpi):
    with open_slide(make_tiff(draw(300, 300), resolution=(dpi, dpi), resolutionunit="INCH")) as slide:
        assert slide.mpp is None
        assert any(f"{dpi} dpi, which is a screen's" in text for text in slide.warnings)
        with pytest.raises(MissingPixelSize, match=f"{dpi} dpi.*--slide-mpp"):
            slide.require_mpp()


@pytest.mark.parametrize("absurd", ["1000", "0", "800000", "0.0001", "-0.5"])
def test_absurd_vendor_values_are_doubted_and_the_next_is_asked(draw, make_svs, absurd):
    with open_slide(make_svs(draw(300, 300), mpp=absurd, power="20", **PER_CM)) as slide:
        assert (slide.mpp.x, slide.mpp.source) == (0.5, "tiff resolution")
        assert any("not believed" in text for text in slide.warnings)


def test_the_objective_is_asked_last(draw, make_svs):
    with open_slide(make_svs(draw(300, 300), mpp="", power="40")) as slide:
        assert (slide.mpp.x, slide.mpp.source) == (0.25, "objective power")
        assert slide.objective_power == 40


@pytest.mark.parametrize(("size", "unit"), [(0.5, "µm"), (500, "nm"), (0.0005, "mm")])
def test_ome_physical_size_in_its_unit(draw, make_tiff, size, unit):
    metadata = {"axes": "YXS", "PhysicalSizeX": size, "PhysicalSizeY": size, "PhysicalSizeXUnit": unit}
    path = make_tiff(draw(300, 300), "slide.ome.tif", metadata=metadata | {"PhysicalSizeYUnit": unit})
    with open_slide(path) as slide:
        assert slide.mpp.x == pytest.approx(0.5)
        assert (slide.mpp.source, slide.vendor) == ("ome", "ome")


def test_ome_is_believed_where_the_resolution_is_a_screens(draw, make_tiff):
    metadata = {"axes": "YXS", "PhysicalSizeX": 0.25, "PhysicalSizeY": 0.25}
    options = {"resolution": (72, 72), "resolutionunit": "INCH", "metadata": metadata}
    with open_slide(make_tiff(draw(300, 300), "slide.ome.tif", **options)) as slide:
        assert (slide.mpp.x, slide.mpp.source) == (0.25, "ome")


def test_pixels_that_are_not_square_are_said(draw, make_tiff):
    path = make_tiff(draw(300, 300), resolution=(20000, 25000), resolutionunit="CENTIMETER")
    with open_slide(path) as slide:
        assert (slide.mpp.x, slide.mpp.y) == pytest.approx((0.5, 0.4))
        assert slide.mpp.mean == pytest.approx(0.45)
        assert any("not square" in text for text in slide.warnings)


def test_a_description_in_an_odd_encoding_keeps_its_pixel_size(draw, make_svs):
    text = "Aperio Image Library v11.2.1 \n300x300|AppMag = 20|MPP = 0.4992|User = Jürgen".encode("latin-1")
    with open_slide(make_svs(draw(300, 300), description=text)) as slide:
        assert (slide.mpp.x, slide.mpp.source) == (0.4992, "aperio")
        assert slide.objective_power == 20


def test_what_was_stated_is_remembered_under_any_name(draw, make_tiff, tmp_path):
    path = make_tiff(draw(300, 300))
    with open_slide(path) as slide:
        assert slide.mpp is None
    with open_slide(path, mpp=0.669) as slide:
        assert (slide.mpp.x, slide.mpp.source) == (0.669, "stated")
    moved = shutil.move(path, tmp_path / "umbenannt – ä.tiff")
    with open_slide(moved) as slide:
        assert (slide.mpp.x, slide.mpp.source) == (0.669, "stated")
        assert slide.require_mpp() == slide.mpp


def test_what_was_stated_is_not_for_another_slide(draw, make_tiff):
    with open_slide(make_tiff(draw(300, 300), "one.tiff"), mpp=0.3):
        pass
    with open_slide(make_tiff(draw(300, 300, 1), "two.tiff")) as slide:
        assert slide.mpp is None


def test_the_file_is_believed_before_the_memory_but_not_before_the_person(draw, make_tiff):
    path = make_tiff(draw(300, 300), **PER_CM)
    with open_slide(path, mpp=(0.3, 0.31)) as slide:
        assert (slide.mpp.x, slide.mpp.y) == (0.3, 0.31)
    with open_slide(path) as slide:
        assert slide.mpp.x == 0.5
        assert any("stated for this slide earlier" in text for text in slide.warnings)


def test_with_mpp_shares_the_file_and_outlives_the_first(draw, make_tiff):
    pixels = draw(300, 300)
    slide = open_slide(make_tiff(pixels))
    other = slide.with_mpp(0.25)
    slide.close()
    assert slide.mpp is None
    assert other.require_mpp().x == 0.25
    assert (other.read(0, 0, 300, 300) == pixels).all()
    other.close()


@pytest.mark.parametrize("value", [0, -1, 1000, float("nan"), 0.01])
def test_an_implausible_statement_is_refused(draw, make_tiff, value):
    with pytest.raises(UsageError, match=r"between 0\.05 and 20"):
        open_slide(make_tiff(draw(300, 300)), mpp=value)


def test_a_damaged_or_read_only_memory_is_no_obstacle(draw, make_tiff):
    path = make_tiff(draw(300, 300))
    with open_slide(path, mpp=0.3) as slide:
        kept = settings().cache_dir / "pixel_sizes" / f"{slide.fingerprint}.json"
    for content in ("{", "[]", '{"mpp_x": "many"}', '{"mpp_x": 9999, "mpp_y": 1}'):
        kept.write_text(content)
        with open_slide(path) as slide:
            assert slide.mpp is None
    shutil.rmtree(settings().cache_dir)
    settings().cache_dir.write_text("a file where the folder should be")
    with open_slide(path, mpp=0.3) as slide:
        assert slide.mpp.x == 0.3
        assert any("could not be remembered" in text for text in slide.warnings)


def test_many_writers_at_once_leave_a_whole_memory():
    sizes = [pixel_size.stated(0.2 + i / 100) for i in range(32)]
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(lambda size: pixel_size.remember("same", size), sizes))
    assert pixel_size.remembered("same") in sizes
    assert [path.name for path in (settings().cache_dir / "pixel_sizes").iterdir()] == ["same.json"]


def test_one_pixel_an_inch_is_what_writers_put_who_know_none(tmp_path):
    path = tmp_path / "slide.tiff"
    pixels = np.full((300, 300, 3), 200, np.uint8)
    tifffile.imwrite(
        path, pixels, photometric="rgb", tile=(256, 256), resolution=(1, 1), resolutionunit=2, metadata=None
    )
    with open_slide(path) as slide:
        assert slide.mpp is None and not slide.warnings
