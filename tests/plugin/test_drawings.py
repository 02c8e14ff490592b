"""Drawn shapes land on the slide's pixels whatever their layer's scale, and regions survive the way there and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("napari")
import shapely
from napari.layers import Image, Layer, Points, Shapes

from napari_pathotune.drawings import class_names_of, color_of, layers_from_regions, regions_from_layer
from napari_pathotune.layers import facts, slide_layer
from pathotune.regions.region import Region

RECTANGLE = shapely.box(100, 40, 180, 120)


@pytest.fixture
def slide(slide_path: Path) -> Any:
    from pathotune.slides import open_slide

    with open_slide(slide_path) as opened:
        yield opened


@pytest.fixture
def on_slide(slide: Any) -> Layer:
    return Layer.create(*slide_layer(slide))


def back(regions: list[Region], slide: Any, on_slide: Layer) -> list[Region]:
    """Regions → layers → regions."""
    return [
        region
        for data in layers_from_regions(regions, slide)
        for region in regions_from_layer(Layer.create(*data), on_slide)
    ]


def test_a_layer_without_scale_is_in_micrometres_not_pixels(on_slide: Layer) -> None:
    """napari's own "new shapes layer" button makes one with scale 1: its vertices are world coordinates."""
    corners_um = np.array([[20, 50], [20, 90], [60, 90], [60, 50]]) - 0.25  # half a pixel of 0.5 µm
    drawn = Shapes([corners_um], shape_type="polygon", name="Tumor")
    region = regions_from_layer(drawn, on_slide)[0]
    assert region.class_name == "Tumor"
    assert region.geometry.equals_exact(RECTANGLE.normalize(), 1e-6) or region.geometry.equals(RECTANGLE)


@pytest.mark.parametrize("mpp", [(0.5, 0.5), (0.2527, 0.2527), (0.7, 0.35)])
def test_scaled_rotated_and_moved_layers_land_where_they_are_seen(mpp: tuple[float, float]) -> None:
    on_slide = Image(np.zeros((50, 60, 3), np.uint8), rgb=True, scale=mpp, translate=(3.0, -4.0), rotate=11)
    drawn = Shapes(scale=(2.0, 2.0), translate=(10, 5), rotate=30)
    pixel = np.array([[10, 20], [10, 44], [30, 20]])  # y, x of pixel centres on the slide
    world = np.array([on_slide.data_to_world(point) for point in pixel])
    drawn.add([np.array([drawn.world_to_data(point) for point in world])], shape_type="polygon")
    found = regions_from_layer(drawn, on_slide)[0].geometry
    expected = shapely.Polygon(pixel[:, ::-1] + 0.5)
    assert found.symmetric_difference(expected).area < 1e-6 * expected.area


def test_level_0_corner_of_the_slide_is_zero(slide: Any, on_slide: Layer) -> None:
    whole = Region(shapely.box(0, 0, slide.width_px0, slide.height_px0), "all")
    drawn = Layer.create(*layers_from_regions([whole], slide)[0])
    # napari's pixel (0, 0) reaches from -0.5 to 0.5, so the slide's corner is half a pixel (0.25 µm) before 0.
    outline = np.array([drawn.data_to_world(point) for point in drawn.data[0]])
    assert np.allclose(outline.min(axis=0), (-0.25, -0.25))
    assert np.allclose(outline.max(axis=0), (slide.height_px0 * 0.5 - 0.25, slide.width_px0 * 0.5 - 0.25))
    assert back([whole], slide, on_slide)[0].geometry.equals_exact(whole.geometry, 1e-6)


@pytest.mark.parametrize(
    "geometry",
    [
        RECTANGLE,
        shapely.Polygon([(0, 0), (200, 10), (150, 180), (10, 150)], [[(50, 50), (80, 50), (80, 80), (50, 80)]]),
        shapely.Polygon(
            [(0, 0), (300, 0), (300, 300), (0, 300)],
            [[(10, 10), (40, 10), (40, 40)], [(200, 200), (250, 200), (250, 260), (200, 260)]],
        ),
        shapely.MultiPolygon([shapely.box(0, 0, 10, 10), shapely.box(50, 50, 90, 70)]),
        shapely.Point(12.5, 80.25),
        shapely.MultiPoint([(1, 2), (30, 40)]),
        shapely.LineString([(0, 0), (10, 40), (90, 30)]),
    ],
    ids=["polygon", "hole", "two holes", "multipolygon", "point", "multipoint", "line"],
)
def test_regions_survive_the_way_there_and_back(geometry: Any, slide: Any, on_slide: Layer) -> None:
    region = Region(
        geometry, "Tumor", (200, 0, 10), "annotation", "R 1", True, {"measurements": {"a": 1.5}, "unknown": [1]}, "id-1"
    )
    (found,) = back([region], slide, on_slide)
    assert found.geometry.symmetric_difference(geometry).area < 1e-6
    assert found.geometry.hausdorff_distance(geometry) < 1e-6
    assert (found.class_name, found.name, found.locked, found.id) == ("Tumor", "R 1", True, "id-1")
    assert found.properties == region.properties and found.color == region.color


def test_one_layer_for_shapes_and_one_for_points_in_the_colours_of_the_classes(slide: Any) -> None:
    regions = [
        Region(RECTANGLE, "a", (200, 0, 0)),
        Region(RECTANGLE, "b", (0, 200, 0)),
        Region(RECTANGLE, None),
        Region(shapely.Point(1, 1), "a", (200, 0, 0)),
    ]
    made = [Layer.create(*data) for data in layers_from_regions(regions, slide, "some/where.geojson")]
    assert [(layer.name, type(layer), len(layer.data)) for layer in made] == [
        ("where.geojson", Shapes, 3),
        ("a", Points, 1),
    ]
    assert [color_of(made[0], index) for index in range(2)] == [(200, 0, 0), (0, 200, 0)]
    assert class_names_of(made[0]) == ["a", "b", ""], "no class is not a class called like the layer"
    assert all(str(unit) in ("micrometer", "micrometre") for layer in made for unit in layer.units)
    assert all(facts(layer)["kind"] == "regions" for layer in made)


def test_class_is_the_feature_or_the_layers_name() -> None:
    square = np.array([[0, 0], [0, 9], [9, 9], [9, 0]])
    drawn = Shapes([square, square], features={"class": ["Tumor", None]}, name="Other")
    assert class_names_of(drawn) == ["Tumor", "Other"]


def test_an_ellipse_has_an_ellipses_area_and_a_click_none(on_slide: Layer) -> None:
    corners = np.array([[0, 0], [0, 100], [50, 100], [50, 0]], float)
    drawn = Shapes([corners], shape_type="ellipse", scale=(0.5, 0.5))
    assert regions_from_layer(drawn, on_slide)[0].geometry.area == pytest.approx(np.pi * 50 * 25, rel=0.01)
    drawn = Shapes([corners[:1].repeat(4, axis=0)], shape_type="polygon", scale=(0.5, 0.5))
    assert regions_from_layer(drawn, on_slide) == []


def test_writer_and_reader_round_trip(
    viewer: Any, add: Any, slide_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from napari_pathotune import compat
    from napari_pathotune.reader import read_drawn_regions, read_slides
    from napari_pathotune.writer import write_shapes

    monkeypatch.setattr(compat, "current_viewer", lambda: viewer)
    add(read_slides(str(slide_path)))
    drawn = Shapes([np.array([[20, 50], [20, 90], [60, 90], [60, 50]]) - 0.25], shape_type="polygon", name="Tumor")
    target = tmp_path / "regions.geojson"
    assert write_shapes(str(target), [drawn.as_layer_data_tuple()]) == [str(target)]
    ((vertices, options, kind),) = read_drawn_regions(str(target))
    assert kind == "shapes" and options["name"] == "Tumor"
    assert shapely.Polygon(np.asarray(vertices[0])[:, ::-1] + 0.5).equals(RECTANGLE)


def test_writing_without_a_slide_says_so(tmp_path: Path, notices: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from napari_pathotune import compat
    from napari_pathotune.writer import write_shapes

    monkeypatch.setattr(compat, "current_viewer", lambda: None)
    drawn = Shapes([np.eye(4)[:, :2] * 9], shape_type="polygon")
    assert write_shapes(str(tmp_path / "x.geojson"), [drawn.as_layer_data_tuple()]) == []
    assert "open the slide" in notices[0] and not (tmp_path / "x.geojson").exists()
