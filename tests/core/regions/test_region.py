"""Regions themselves: classes, mapping, and shapes drawn in a viewer."""

from __future__ import annotations

import numpy as np
import pytest
import shapely

from pathotune.errors import UsageError
from pathotune.regions import Region, Regions, parse_class_map

BOX = shapely.box(0, 0, 10, 10)


@pytest.mark.parametrize(
    ("name", "trains", "ignores"),
    [("Tumor", True, False), ("Region*", False, False), ("Ignore*", False, True), ("ignore*", False, True),
     ("Ignore", True, False), (None, False, False)],
)  # fmt: skip
def test_stars_as_in_qupath(name: str | None, trains: bool, ignores: bool) -> None:
    region = Region(BOX, name)
    assert (region.is_training_class, region.is_ignore) == (trains, ignores)


def test_mapping_classes() -> None:
    regions = Regions([Region(BOX, "Tumor", (1, 1, 1)), Region(BOX, "cancer", (2, 2, 2)), Region(BOX, "Other")])
    mapped = regions.map_classes(parse_class_map("Tumor=cancer, Other= ,Absent=x"))
    assert mapped.counts == {"cancer": 2, None: 1}
    assert mapped[0].color == (2, 2, 2), "colours follow the class that was there"
    assert regions.counts == {"Tumor": 1, "cancer": 1, "Other": 1}
    assert mapped.class_names() == ["cancer"]


@pytest.mark.parametrize("text", ["Tumor", "=x", "a=b,a=c"])
def test_mappings_that_make_no_sense(text: str) -> None:
    with pytest.raises(UsageError):
        parse_class_map(text)


def test_no_mapping() -> None:
    assert parse_class_map(None) == parse_class_map("") == parse_class_map(" , ") == {}


def test_shapes_of_a_viewer() -> None:
    corners = np.asarray([[0, 0], [40, 0], [40, 20], [0, 20]], dtype=float)
    turned = corners @ np.asarray([[0.6, 0.8], [-0.8, 0.6]])
    regions = Regions.from_shapes(
        [corners, corners, turned, corners[:2], corners[:1], corners[:2]],
        ["rectangle", "ellipse", "ellipse", "line", "point", "polygon"],
        ["A", "A", "A", "", None, "B"],
        {"A": (9, 8, 7)},
    )
    rectangle, ellipse, turned_ellipse, line, point = regions
    assert rectangle.geometry.equals(shapely.box(0, 0, 40, 20)) and rectangle.color == (9, 8, 7)
    assert ellipse.geometry.area == pytest.approx(np.pi * 20 * 10, rel=0.01)
    assert ellipse.geometry.bounds == pytest.approx((0, 0, 40, 20), abs=0.1)
    assert turned_ellipse.geometry.area == pytest.approx(ellipse.geometry.area)
    assert (line.kind, point.kind, line.class_name, point.class_name) == ("line", "point", None, None)
    assert len(regions) == 5, "a polygon of two points is none"


def test_a_drawn_knot_is_untangled() -> None:
    (region,) = Regions.from_shapes([[[0, 0], [10, 10], [10, 0], [0, 10]]])
    assert region.geometry.is_valid and region.geometry.area == pytest.approx(50)


def test_shapes_that_cannot_be() -> None:
    with pytest.raises(UsageError, match="'spline'"):
        Regions.from_shapes([[[0, 0], [1, 1]]], "spline")
    with pytest.raises(UsageError, match="2 kinds"):
        Regions.from_shapes([[[0, 0]]], ["point", "point"])


def test_regions_behave_as_a_list() -> None:
    regions = Regions([Region(BOX, "b"), Region(BOX, "A"), Region(BOX)], "file.geojson", (1, 2), ["w"])
    assert len(regions) == 3 and regions[1].class_name == "A"
    part = regions[:2]
    assert isinstance(part, Regions) and part.origin_px0 == (1, 2) and part.warnings == ("w",)
    assert regions.class_names() == ["A", "b"] and set(regions.by_class()) == {"b", "A", None}
    assert "no class 1" in repr(regions)
