"""Where a file's origin lies, and the mistake named when regions lie off the slide."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import shapely

from pathotune.errors import RegionsOffSlide, RegionsUnreadable, UsageError
from pathotune.regions import Region, Regions, read_regions, write_regions
from pathotune.slides.source import Level

BOUNDS = np.asarray([7000.0, 12_000.0])


def boxes(corners: np.ndarray, size: float = 50) -> list[Region]:
    return [Region(shapely.box(x, y, x + size, y + size), "A") for x, y in corners]


@pytest.fixture
def corners() -> np.ndarray:
    """Forty places all over a slide of 4000 × 3000 pixels."""
    return np.random.default_rng(1).uniform([0, 0], [3900, 2900], (40, 2))


def plain(path: Path, regions: list[Region]) -> Path:
    """As another program writes it: no word about the origin."""
    features = [{"type": "Feature", "geometry": shapely.geometry.mapping(one.geometry)} for one in regions]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def test_qupath_counts_from_the_bounds(tmp_path, corners, bounded_slide) -> None:
    path = plain(tmp_path / "r.geojson", boxes(corners))
    regions = read_regions(path, bounded_slide)
    assert regions.origin_px0 == (7000, 12_000)
    assert np.allclose(shapely.bounds(regions.geometries)[:, :2], corners + BOUNDS)
    canvas = read_regions(path, bounded_slide, origin="canvas")
    assert np.allclose(shapely.bounds(canvas.geometries)[:, :2], corners)


def test_what_we_write_comes_back_in_place(tmp_path, corners, bounded_slide) -> None:
    drawn = boxes(np.round(corners + BOUNDS, 2))
    path = write_regions(drawn, tmp_path / "r.geojson", bounded_slide)
    document = json.loads(path.read_text())
    assert document["pathotune"] == {"origin": "bounds", "offset_px0": [7000, 12_000]}
    first = shapely.from_geojson(json.dumps(document["features"][0]["geometry"]))
    assert first.bounds[:2] == pytest.approx(np.round(corners[0], 2)), "QuPath sees it from the bounds"
    expected = [one.geometry for one in drawn]
    for again in (read_regions(path, bounded_slide), read_regions(path)):
        assert shapely.equals_exact(again.geometries, expected, tolerance=1e-3).all()
    rewritten = write_regions(read_regions(path), tmp_path / "again.geojson")
    assert json.loads(rewritten.read_text())["features"] == document["features"], "the origin is kept without the slide"


def test_written_without_a_slide_is_canvas(tmp_path, corners, bounded_slide) -> None:
    path = write_regions(boxes(corners + BOUNDS), tmp_path / "r.geojson")
    again = read_regions(path, bounded_slide)
    assert np.allclose(shapely.bounds(again.geometries)[:, :2], corners + BOUNDS)


def test_another_slides_bounds_are_doubted(tmp_path, corners, bounded_slide) -> None:
    path = write_regions(boxes(corners + BOUNDS), tmp_path / "r.geojson", bounded_slide)
    bounded_slide.bounds_px0 = (6000, 12_000, 6000, 4000)
    assert any("same slide" in warning for warning in read_regions(path, bounded_slide).warnings)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda xy: xy[:, ::-1], "x and y swapped"),
        (lambda xy: xy * 4, "divided by 4"),
        (lambda xy: xy * 2, "divided by 2"),
        (lambda xy: xy * np.asarray([1, -1]) - np.asarray([0, 60]), "y axis turned over"),
        (lambda xy: xy - np.asarray([1e6, 0]), "another slide"),
    ],
    ids=["swapped", "four times", "twice", "flipped", "elsewhere"],
)
def test_the_likely_mistake_is_named(tmp_path, corners, plain_slide, change, says) -> None:
    path = plain(tmp_path / "r.geojson", boxes(change(corners)))
    with pytest.raises(RegionsOffSlide, match=says) as caught:
        read_regions(path, plain_slide)
    assert "4000 × 3000" in str(caught.value) and "slide.svs" in str(caught.value)


def test_a_levels_own_factor_is_tried(tmp_path, corners, plain_slide) -> None:
    plain_slide.levels = (Level(4000, 3000, 1.0, 256, 256, "jpeg"), Level(1333, 1000, 3.0, 256, 256, "jpeg"))
    with pytest.raises(RegionsOffSlide, match="divided by 3"):
        read_regions(plain(tmp_path / "r.geojson", boxes(corners * 2.9)), plain_slide)


def test_the_wrong_origin_is_named_both_ways(tmp_path, corners, bounded_slide) -> None:
    path = plain(tmp_path / "r.geojson", boxes(corners + BOUNDS))
    with pytest.raises(RegionsOffSlide, match="--origin canvas"):
        read_regions(path, bounded_slide)
    assert len(read_regions(path, bounded_slide, origin="canvas")) == 40
    bounded_slide.bounds_px0 = (-500, 0, 22_000, 30_000)
    path = plain(tmp_path / "s.geojson", boxes(np.asarray([[20_100.0, 10], [21_000, 10]])))
    with pytest.raises(RegionsOffSlide, match="--origin bounds"):
        read_regions(path, bounded_slide, origin="canvas")


def test_one_in_a_hundred_may_lie_off(tmp_path, plain_slide) -> None:
    places = np.tile([[100.0, 100.0]], (200, 1))
    places[:2] = [9000, 9000]
    regions = read_regions(plain(tmp_path / "r.geojson", boxes(places)), plain_slide)
    assert len(regions) == 200 and any(warning.startswith("2 of 200") for warning in regions.warnings)
    places[2] = [9000, 9000]
    with pytest.raises(RegionsOffSlide, match="3 of 200"):
        read_regions(plain(tmp_path / "r.geojson", boxes(places)), plain_slide)


def test_parts_of_the_width_are_no_pixels(tmp_path, corners, plain_slide) -> None:
    path = plain(tmp_path / "r.geojson", boxes(corners / 4000, 0.01))
    with pytest.raises(RegionsUnreadable, match="between 0 and 1"):
        read_regions(path, plain_slide)


def test_origins_that_cannot_be(tmp_path, corners) -> None:
    path = plain(tmp_path / "r.geojson", boxes(corners))
    with pytest.raises(UsageError, match="auto, canvas, bounds"):
        read_regions(path, origin="corner")
    with pytest.raises(UsageError, match="needs the slide"):
        read_regions(path, origin="bounds")


def test_her2st_spots_fit_their_slide_and_not_another(annotations: Path, plain_slide) -> None:
    plain_slide.width_px0, plain_slide.height_px0 = 9274, 9911
    plain_slide.bounds_px0 = (0, 0, 9274, 9911)
    regions = read_regions(annotations / "her2st_C2_spots.geojson", plain_slide)
    assert isinstance(regions, Regions) and not regions.warnings
    plain_slide.width_px0, plain_slide.height_px0 = 2220, 2967
    with pytest.raises(RegionsOffSlide):
        read_regions(annotations / "her2st_C2_spots.geojson", plain_slide)
