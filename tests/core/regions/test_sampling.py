"""The one rule by which regions become tiles."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from pathotune.errors import UsageError
from pathotune.regions import LabelledTiles, Region, label_tiles, merge_tiles, read_regions, why_no_tiles
from pathotune.regions.region import correction

SLIDE = (4000.0, 3000.0)
TILE = (100.0, 100.0)


def lay(*regions: Region, classes: tuple[str, ...] = ("A", "B"), tile: tuple[float, float] = TILE, **options: float):
    return label_tiles(list(regions), SLIDE, tile, classes, **options)


def boxes(tiles: LabelledTiles) -> np.ndarray:
    return shapely.box(tiles.x_px0, tiles.y_px0, tiles.x_px0 + tiles.width_px0, tiles.y_px0 + tiles.height_px0)


def disc(x: float, y: float, radius: float, name: str = "A") -> Region:
    return Region(shapely.Point(x, y).buffer(radius, quad_segs=32), name)


def test_a_small_region_gives_one_centred_tile_whatever_its_coverage() -> None:
    tiles, reports = lay(disc(500.5, 600.25, 5))
    assert tiles.centres_px0() == pytest.approx(np.asarray([[500.5, 600.25]]))
    assert (tiles.label.tolist(), reports[0].tiles, reports[0].reason) == ([0], 1, "")


def test_points_give_a_tile_each() -> None:
    tiles, reports = lay(
        Region(shapely.Point(300, 300), "B"), Region(shapely.MultiPoint([(500, 500), (800, 500), (900, 900)]), "A")
    )
    assert tiles.centres_px0().tolist() == [[300, 300], [500, 500], [800, 500], [900, 900]]
    assert tiles.label.tolist() == [1, 0, 0, 0] and tiles.region.tolist() == [0, 1, 1, 1]
    assert [report.tiles for report in reports] == [1, 3]


def test_a_larger_region_gives_its_centre_and_a_grid_inside() -> None:
    region = disc(1000, 1000, 300)
    tiles, _ = lay(region, overlap=0.5)
    centres = tiles.centres_px0()
    assert np.abs(centres - 1000).max(axis=1).min() < 1e-6
    steps = (centres - [1000, 1000]) / 50
    assert np.allclose(steps, np.round(steps)), "the grid goes through the centroid at half a tile"
    cover = shapely.area(shapely.intersection(boxes(tiles), region.geometry)) / 1e4
    assert cover.min() >= 0.5
    assert shapely.intersects_xy(region.geometry, centres).all()
    wanted = np.stack(np.meshgrid(np.arange(600, 1450, 50), np.arange(600, 1450, 50)), -1).reshape(-1, 2)
    around = shapely.box(*(wanted - 50).T, *(wanted + 50).T)
    fits = (shapely.area(shapely.intersection(around, region.geometry)) >= 5000) & shapely.intersects_xy(
        region.geometry, wanted
    )
    assert len(tiles) == fits.sum(), "and every place of the grid that fits is taken"


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.75])
def test_overlap_sets_the_step(overlap: float) -> None:
    tiles, _ = lay(Region(shapely.box(1000, 1000, 2000, 1400), "A"), overlap=overlap)
    xs = np.unique(tiles.x_px0)
    assert np.allclose(np.diff(xs), 100 * (1 - overlap))


def test_tiles_of_a_slide_with_oblong_pixels() -> None:
    region = Region(shapely.box(1000, 1000, 1400, 1400), "A")
    tiles, _ = lay(region, tile=(100.0, 80.0), overlap=0.0)
    assert set(np.round(np.diff(np.unique(tiles.y_px0)), 6)) == {80}
    assert set(tiles.height_px0) == {80} and set(tiles.width_px0) == {100}


def test_a_centroid_outside_is_replaced_by_a_point_inside() -> None:
    ring = shapely.Point(1000, 1000).buffer(60).difference(shapely.Point(1000, 1000).buffer(58))
    tiles, _ = lay(Region(ring, "A"))
    assert len(tiles) == 1
    assert ring.distance(shapely.Point(tiles.centres_px0()[0])) < 1e-6
    crescent = shapely.Point(2000, 1500).buffer(600).difference(shapely.Point(2000, 1500).buffer(400))
    tiles, _ = lay(Region(crescent, "A"))
    assert len(tiles) > 50
    assert shapely.intersects_xy(crescent, tiles.centres_px0()).all()


def test_where_regions_overlap_the_smaller_wins() -> None:
    large, small = Region(shapely.box(500, 500, 1500, 1500), "A"), Region(shapely.box(900, 900, 1300, 1300), "B")
    for order in ((large, small), (small, large)):
        tiles, _ = lay(*order)
        inside = shapely.intersects_xy(small.geometry, tiles.centres_px0())
        assert set(tiles.label[inside]) == {1} and set(tiles.label[~inside]) == {0}
        owned = shapely.difference(large.geometry, small.geometry)
        cover = shapely.area(shapely.intersection(boxes(tiles)[~inside], owned)) / 1e4
        assert cover.min() >= 0.5, "what the smaller one took does not count for the larger"
        assert (~inside).sum() > 100


def test_a_corridor_between_smaller_regions_is_too_narrow_for_the_larger() -> None:
    large = Region(shapely.box(500, 500, 1500, 1500), "A")
    beside = [Region(shapely.box(x, 600, x + 385, 1400), "B") for x in (600, 1015)]
    tiles, _ = lay(large, *beside)
    centres = tiles.centres_px0()[tiles.label == 0]
    in_corridor = (np.abs(centres[:, 0] - 1000) < 15) & (np.abs(centres[:, 1] - 1000) < 340)
    assert len(centres) and not in_corridor.any()


def test_a_spot_in_a_region_keeps_its_tile() -> None:
    tiles, reports = lay(Region(shapely.box(500, 500, 1500, 1500), "A"), disc(1000, 1000, 20, "B"))
    assert reports[1].tiles == 1
    centres = tiles.centres_px0()[tiles.label == 0]
    assert np.hypot(*(centres - 1000).T).min() > 20, "no tile of the other class stands on the spot"


def test_a_region_under_smaller_ones_says_so() -> None:
    _, reports = lay(disc(1000, 1000, 30, "A"), disc(1000, 1000, 20, "B"))
    assert reports[0].tiles == 0 and "smaller regions" in reports[0].reason
    assert reports[1].tiles == 1


def test_ignore_excludes_whatever_its_size() -> None:
    region = Region(shapely.box(500, 500, 1500, 1000), "A")
    ignored = Region(shapely.box(0, 0, 1000, 3000), "Ignore*")
    tiles, reports = lay(region, ignored, disc(800, 2000, 20, "B"), Region(shapely.Point(700, 700), "B"))
    assert len(tiles) and (tiles.centres_px0()[:, 0] > 1000).all()
    cover = shapely.area(shapely.intersection(boxes(tiles), shapely.box(1000, 500, 1500, 1000))) / 1e4
    assert cover.min() >= 0.5
    assert [report.cause for report in reports[1:]] == ["ignore", "ignored area", "ignored area"]


def test_classes_with_a_star_and_regions_without_class_win_nothing() -> None:
    plain, _ = lay(Region(shapely.box(500, 500, 1500, 1500), "A"))
    inside = shapely.box(800, 800, 1200, 1200)
    tiles, reports = lay(Region(shapely.box(500, 500, 1500, 1500), "A"), Region(inside, "Region*"), Region(inside))
    assert len(tiles) == len(plain)
    assert [report.cause for report in reports[1:]] == ["no training class", "no class"]


def test_a_class_outside_the_task_still_owns_its_area() -> None:
    vessel = Region(shapely.box(900, 900, 1300, 1300), "Vessel")
    tiles, reports = lay(Region(shapely.box(500, 500, 1500, 1500), "A"), vessel)
    assert not shapely.intersects_xy(vessel.geometry, tiles.centres_px0()).any()
    assert reports[1].cause == "other class" and "'Vessel'" in reports[1].reason


def test_each_cause_has_its_sentence() -> None:
    regions = {
        "line": Region(shapely.LineString([(1, 1), (900, 900)]), "A"),
        "no class": Region(shapely.box(100, 100, 300, 300)),
        "no training class": Region(shapely.box(100, 100, 300, 300), "Region*"),
        "ignore": Region(shapely.box(3000, 2000, 3100, 2100), "Ignore*"),
        "other class": Region(shapely.box(100, 100, 300, 300), "a"),
        "thin": Region(shapely.box(100, 100, 2000, 110), "A"),
        "off slide": Region(shapely.box(5000, 100, 5010, 110), "A"),
        "no area": Region(shapely.Polygon([(0, 0), (5, 5), (9, 9)]), "A"),
    }
    tiles, reports = lay(*regions.values())
    assert len(tiles) == 0
    assert [report.cause for report in reports] == list(regions)
    sentences = [report.reason for report in reports]
    assert len(set(sentences)) == len(sentences) and all(one.endswith(".") for one in sentences)
    assert "'a=A'" in reports[4].reason, "a class that only differs in case is told how to map"
    assert "100 × 100 level-0 pixels" in reports[5].reason
    told = why_no_tiles([*reports, reports[1]])
    assert told.startswith("2 × The region has no class") and all(one in told for one in sentences)


def test_a_band_the_grid_misses_gets_a_tile_in_its_widest_place() -> None:
    dumbbell = shapely.union_all([shapely.box(100, 100, 220, 220), shapely.box(220, 155, 1200, 160)])
    tiles, reports = lay(Region(dumbbell, "A"), min_cover=0.9)
    assert reports[0].tiles >= 1
    assert shapely.area(shapely.intersection(boxes(tiles), dumbbell)).min() >= 0.9e4


def test_tiles_off_the_slide_are_dropped_and_said() -> None:
    tiles, reports = lay(Region(shapely.box(3800, 1000, 4400, 1400), "A"))
    on_slide = shapely.area(shapely.intersection(boxes(tiles), shapely.box(0, 0, *SLIDE)))
    assert len(tiles) and on_slide.min() >= 0.5e4
    assert reports[0].cause == "off slide" and "off the slide" in reports[0].reason


def test_every_part_of_a_multipolygon_is_used_and_crumbs_are_not() -> None:
    parts = shapely.MultiPolygon(
        [shapely.box(500, 500, 800, 800), shapely.box(2000, 2000, 2110, 2110), shapely.box(3000, 300, 3010, 310)]
    )
    tiles, _ = lay(Region(parts, "A"))
    hit = [shapely.intersects(part, shapely.points(tiles.centres_px0())).sum() for part in parts.geoms]
    assert hit[0] > 10 and hit[1] >= 1 and hit[2] == 0


def test_outlines_that_cross_themselves_are_used() -> None:
    bow_tie = shapely.Polygon([(500, 500), (1500, 1500), (1500, 500), (500, 1500)])
    tiles, _ = lay(Region(bow_tie, "A"))
    assert len(tiles) > 50


def test_an_outline_of_many_corners_gives_the_same_tiles_as_a_plain_one() -> None:
    plain = shapely.box(500, 500, 1500, 1400)
    fine = shapely.segmentize(plain, 0.5)
    assert shapely.get_num_coordinates(fine) > 5000
    first, _ = lay(Region(plain, "A"))
    second, _ = lay(Region(fine, "A"))
    assert np.allclose(first.centres_px0(), second.centres_px0())


@pytest.mark.parametrize("options", [{"overlap": 1.0}, {"overlap": -0.1}, {"min_cover": 0.0}, {"min_cover": 1.5}])
def test_options_out_of_range(options: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        lay(disc(100, 100, 5), **options)
    with pytest.raises(UsageError, match="no area"):
        lay(disc(100, 100, 5), tile=(0.0, 100.0))


def test_nothing_drawn_gives_nothing() -> None:
    tiles, reports = lay()
    assert len(tiles) == 0 and reports == [] and tiles.tiles_per_class == {"A": 0, "B": 0}
    assert why_no_tiles(reports) == ""


def test_merging_keeps_slides_apart() -> None:
    first, _ = lay(disc(500, 500, 20))
    second, _ = lay(disc(500, 500, 20, "B"), disc(900, 900, 20, "A"))
    both = merge_tiles([first, second], ["p1", "p2"])
    assert both.slide.tolist() == [0, 1, 1] and both.region.tolist() == [0, 0, 1]
    assert both.tiles_per_class == {"A": 2, "B": 1} and both.take([2, 0]).label.tolist() == [0, 0]
    other, _ = lay(disc(500, 500, 20), classes=("A",))
    with pytest.raises(UsageError, match="different lists"):
        merge_tiles([first, other])


polygons = st.builds(
    lambda x, y, radii: shapely.Polygon(
        [(x + r * np.cos(a), y + r * np.sin(a)) for a, r in zip(np.linspace(0, 6, len(radii)), radii, strict=True)]
    ),
    st.floats(200, 3800),
    st.floats(200, 2800),
    st.lists(st.floats(5, 600), min_size=3, max_size=9),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(polygons, st.sampled_from(["A", "B", "Ignore*"])), min_size=1, max_size=4))
def test_the_rule_holds_for_any_regions(drawn: list[tuple[shapely.Polygon, str]]) -> None:
    regions = [
        Region(shapely.make_valid(shape, method="structure", keep_collapsed=False), name) for shape, name in drawn
    ]
    regions = [region for region in regions if region.geometry.area > 1]
    tiles, reports = lay(*regions)
    assert [report.tiles for report in reports] == np.bincount(tiles.region, minlength=len(regions)).tolist()
    centres = shapely.points(tiles.centres_px0())
    ignored = shapely.union_all([region.geometry for region in regions if region.is_ignore])
    assert not shapely.intersects(ignored.buffer(-1e-6), centres).any()
    for box, centre, label, number in zip(boxes(tiles), centres, tiles.label, tiles.region, strict=True):
        owner = regions[number]
        assert ("A", "B")[label] == owner.class_name
        assert owner.geometry.distance(centre) < 1e-6
        if owner.geometry.area >= 1e4:
            assert owner.geometry.intersection(box).area >= 0.5e4 - 1e-3
        for other in regions:
            if other is not owner and other.geometry.area < owner.geometry.area:
                assert not other.geometry.buffer(-1e-6).intersects(centre)


def test_fifty_thousand_small_regions_take_seconds() -> None:
    random = np.random.default_rng(0)
    places = shapely.points(random.uniform(100, 99_900, (50_000, 2)))
    cells = shapely.buffer(places, 20, quad_segs=4)
    regions = [Region(cell, "AB"[number % 2]) for number, cell in enumerate(cells)]
    start = time.perf_counter()
    tiles, _ = label_tiles(regions, (1e5, 1e5), TILE, ("A", "B"))
    assert len(tiles) > 49_000
    assert time.perf_counter() - start < 20, "about one second on an idle machine"


def test_her2st_gives_one_tile_for_each_spot(annotations: Path) -> None:
    regions = read_regions(annotations / "her2st_C2_spots.geojson")
    side = 112 / 0.696
    tiles, reports = label_tiles(regions, (9274, 9911), (side, side), ("cancer", "immune"))
    assert tiles.tiles_per_class == {"cancer": 83, "immune": 88}
    centres = [regions[number].geometry.centroid.coords[0] for number in tiles.region]
    assert np.abs(tiles.centres_px0() - centres).max() < 1e-6
    assert {report.cause for report in reports if not report.tiles} == {"other class"}


@given(x=st.floats(0, 3900), y=st.floats(0, 2900), off=st.floats(-0.01, 0.01))
@settings(max_examples=60, deadline=None)
def test_a_correction_gives_exactly_its_tile_wherever_it_lies(x: float, y: float, off: float) -> None:
    around = Region(shapely.box(0, 0, *SLIDE), "B")
    tiles, reports = lay(around, correction((x, y, TILE[0] + off, TILE[1] - off), "A"))
    own = tiles.take(tiles.region == 1)
    assert len(own) == 1 and own.is_correction.all() and not tiles.is_correction[tiles.region == 0].any()
    assert (own.x_px0[0], own.y_px0[0]) == pytest.approx((x, y), abs=0.01)
    assert (own.label[0], reports[1].tiles, reports[1].reason) == (0, 1, "")


def test_a_correction_that_hangs_over_the_corner_counts_and_one_that_has_grown_is_a_region() -> None:
    tiles, _ = lay(correction((SLIDE[0] - 40, SLIDE[1] - 40, *TILE), "A"))
    assert len(tiles) == 1
    grown = correction((500, 500, 4 * TILE[0], TILE[1]), "A")
    assert not lay(grown)[0].is_correction.any()
    plain = correction((500, 500, *TILE), "A")
    assert merge_tiles([lay(plain)[0], lay(disc(300, 300, 5))[0]]).is_correction.tolist() == [True, False]
