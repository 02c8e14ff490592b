"""GeoJSON in and out: every form QuPath has written, nothing lost, and a sentence for what cannot be read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely

from pathotune.errors import FileMissing, OutputRefused, RegionsUnreadable
from pathotune.regions import Region, Regions, read_regions, write_regions

SQUARE = [[[10, 10], [110, 10], [110, 60], [10, 60], [10, 10]]]
HOLE = [[30, 20], [50, 20], [50, 40], [30, 40], [30, 20]]


def feature(geometry: dict[str, Any], **properties: Any) -> dict[str, Any]:
    return {"type": "Feature", "id": "a", "geometry": geometry, "properties": properties}


def square(**properties: Any) -> dict[str, Any]:
    return feature({"type": "Polygon", "coordinates": SQUARE}, **properties)


def save(path: Path, document: Any) -> Path:
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "document",
    [
        {"type": "FeatureCollection", "features": [square()]},
        square(),
        [square()],
        [{"type": "FeatureCollection", "features": [square()]}],
        {"type": "Polygon", "coordinates": SQUARE},
    ],
    ids=["collection", "feature", "list", "list of collections", "geometry"],
)
def test_every_wrapping_is_read(tmp_path: Path, document: Any) -> None:
    (region,) = read_regions(save(tmp_path / "r.json", document))
    assert region.geometry.equals(shapely.Polygon(SQUARE[0]))
    assert region.class_name is None and not region.is_training_class


@pytest.mark.parametrize(
    ("geometry", "kind", "parts"),
    [
        ({"type": "Polygon", "coordinates": [*SQUARE, HOLE]}, "polygon", 1),
        ({"type": "MultiPolygon", "coordinates": [SQUARE, [[[200, 200], [300, 200], [250, 300]]]]}, "polygon", 2),
        ({"type": "Point", "coordinates": [5, 6]}, "point", 1),
        ({"type": "MultiPoint", "coordinates": [[5, 6], [7, 8]]}, "point", 2),
        ({"type": "LineString", "coordinates": [[5, 6], [7, 8]]}, "line", 1),
        ({"type": "Polygon", "coordinates": [[[x, y, 0] for x, y in SQUARE[0]]]}, "polygon", 1),
        ({"type": "LineString", "coordinates": [[5, 6, 1], [7, 8]]}, "line", 1),
    ],
)
def test_every_geometry_is_read_and_written_back(
    tmp_path: Path, geometry: dict[str, Any], kind: str, parts: int
) -> None:
    first = read_regions(save(tmp_path / "r.geojson", feature(geometry)))
    assert first[0].kind == kind
    assert shapely.get_num_geometries(first[0].geometry) == parts
    assert not shapely.has_z(first[0].geometry)
    again = read_regions(write_regions(first, tmp_path / "again.geojson"))
    assert shapely.equals_exact(again[0].geometry, first[0].geometry)


def test_a_hole_stays_a_hole(tmp_path: Path) -> None:
    path = save(tmp_path / "r.json", feature({"type": "Polygon", "coordinates": [*SQUARE, HOLE]}))
    (region,) = read_regions(write_regions(read_regions(path), tmp_path / "o.geojson"))
    assert region.geometry.area == 100 * 50 - 20 * 20


@pytest.mark.parametrize(
    ("classification", "name", "color"),
    [
        ({"name": "Tumor", "color": [200, 0, 0]}, "Tumor", (200, 0, 0)),
        ({"name": "Nucleus", "colorRGB": -4689085}, "Nucleus", (184, 115, 67)),
        ({"names": ["Tumor", "Positive"], "color": [1, 2, 3]}, "Tumor: Positive", (1, 2, 3)),
        ("Stroma", "Stroma", None),
        ({"name": "Region*", "colorRGB": 180}, "Region*", (0, 0, 180)),
        ({"name": ""}, None, None),
        (None, None, None),
    ],
)
def test_classes_and_colours_of_every_age(
    tmp_path: Path, classification: Any, name: str | None, color: tuple[int, int, int] | None
) -> None:
    (region,) = read_regions(save(tmp_path / "r.json", square(classification=classification)))
    assert (region.class_name, region.color) == (name, color)


def test_what_we_do_not_know_survives(tmp_path: Path) -> None:
    properties = {
        "objectType": "cell",
        "classification": {"name": "Tumor", "color": [200, 0, 0], "extra": 1},
        "isLocked": True,
        "name": "nést",
        "measurements": {"Area µm^2": 12.5, "Circularity": None},
        "metadata": {"ANNOTATION_DESCRIPTION": "by hand"},
        "somebody's": [1, {"deep": True}],
    }
    document = {
        "type": "Feature",
        "id": "7c1e3f1c-6f5c-4b0e-8f6f-0a4cbb1e7d11",
        "geometry": {"type": "Polygon", "coordinates": SQUARE, "plane": {"c": -1, "z": 3, "t": 0}},
        "nucleusGeometry": {"type": "Point", "coordinates": [20, 20]},
        "properties": properties,
    }
    regions = read_regions(save(tmp_path / "r.geojson", [document]))
    assert (regions[0].object_type, regions[0].locked, regions[0].name) == ("cell", True, "nést")
    (written,) = json.loads(write_regions(regions, tmp_path / "o.geojson").read_text("utf-8"))["features"]
    assert written["properties"] == properties
    assert written["id"] == document["id"]
    assert written["nucleusGeometry"] == document["nucleusGeometry"]
    assert written["geometry"]["plane"] == {"c": -1, "z": 3, "t": 0}


def test_a_changed_class_is_written_and_the_rest_kept(tmp_path: Path) -> None:
    regions = read_regions(save(tmp_path / "r.json", square(classification={"name": "A", "colorRGB": 5}, own=1)))
    changed = regions.with_regions([replace(regions[0], class_name="B", color=(9, 8, 7), locked=True)])
    (written,) = json.loads(write_regions(changed, tmp_path / "o.geojson").read_text())["features"]
    assert written["properties"]["classification"] == {"name": "B", "color": [9, 8, 7]}
    assert written["properties"]["own"] == 1
    assert written["properties"]["isLocked"] is True
    cleared = regions.with_regions([replace(regions[0], class_name=None)])
    (written,) = json.loads(write_regions(cleared, tmp_path / "o.geojson").read_text())["features"]
    assert "classification" not in written["properties"]


def test_name_and_notes_are_written_where_qupath_looks_for_them(tmp_path: Path) -> None:
    metadata = {"ANNOTATION_DESCRIPTION": "by hand", "seen by": "two"}
    regions = read_regions(save(tmp_path / "r.json", square(name="nést", metadata=metadata, own=1)))
    assert regions[0].notes == "by hand"
    changed = regions.with_regions([regions[0].described("Rand", "free\nof tumour")])
    path = write_regions(changed, tmp_path / "o.geojson")
    properties = json.loads(path.read_text("utf-8"))["features"][0]["properties"]
    assert properties["name"] == "Rand" and properties["own"] == 1
    assert properties["metadata"] == {"ANNOTATION_DESCRIPTION": "free\nof tumour", "seen by": "two"}
    assert (read_regions(path)[0].name, read_regions(path)[0].notes) == ("Rand", "free\nof tumour")
    assert regions[0].described("", "").properties["metadata"] == {"seen by": "two"}
    assert "metadata" not in Region(shapely.box(0, 0, 9, 9)).described("a", "b").described("a", "").properties


def test_new_regions_get_stable_identifiers(tmp_path: Path) -> None:
    drawn = Regions.from_shapes([np.asarray([[0, 0], [50, 0], [50, 50]])], class_names=["Tumor"])
    first = write_regions(drawn, tmp_path / "a.geojson").read_text()
    assert write_regions(drawn, tmp_path / "b.geojson").read_text() == first
    (written,) = json.loads(first)["features"]
    assert len(written["id"]) == 36 and written["properties"]["objectType"] == "annotation"


def test_written_outlines_are_valid(tmp_path: Path) -> None:
    bow_tie = shapely.Polygon([(0, 0), (100, 100), (100, 0), (0, 100)])
    alone = shapely.MultiPolygon([shapely.box(0, 0, 9, 9)])
    path = write_regions([Region(bow_tie, "A"), Region(alone, "B")], tmp_path / "o.geojson")
    first, second = read_regions(path)
    assert first.geometry.is_valid and first.geometry.area == pytest.approx(bow_tie.buffer(0).area + 2500, rel=1)
    assert first.geometry.area == pytest.approx(5000)
    assert second.geometry.geom_type == "Polygon"


def test_area_drawn_over_twice_is_no_hole(tmp_path: Path) -> None:
    twice = [[0, 0], [100, 0], [100, 100], [40, 100], [40, -50], [60, -50], [60, 50], [0, 50]]
    path = save(tmp_path / "r.json", feature({"type": "Polygon", "coordinates": [twice]}))
    regions = read_regions(path)
    assert regions[0].geometry.is_valid
    assert regions[0].geometry.covers(shapely.Point(50, 25))
    assert any("untangled" in warning for warning in regions.warnings)


def test_objects_without_an_area_are_left_out_and_said(tmp_path: Path) -> None:
    empty = feature({"type": "Polygon", "coordinates": [[[1, 1], [2, 2]]]})
    regions = read_regions(save(tmp_path / "r.json", [square(), empty, {**square(), "geometry": None}]))
    assert len(regions) == 1
    assert any(warning.startswith("2 of 3") for warning in regions.warnings)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"\x89PNG\r\n\x1a\n", "not a regions file"),
        (b"PK\x03\x04....", "compressed"),
        (b"hello", "not a regions file"),
        (b'{"type": "FeatureCollection", "features": [', "damaged JSON"),
        (b'{"a": 1}', "not GeoJSON"),
        (b"[1, 2]", "not GeoJSON"),
        (b"[" * 100_000, "damaged JSON"),
        (b"<html><body/></html>", "root <html>"),
        (b"<ASAP_Annotations><Annot", "damaged XML"),
        (b'<!DOCTYPE x [<!ENTITY a "b">]><Annotations/>', "entities"),
        (json.dumps([square(), feature({"type": "Circle", "coordinates": [1, 2]})]).encode(), "Object 2"),
        (json.dumps(feature({"type": "Polygon", "coordinates": [[["a", 1], [2, 3], [4, 5]]]})).encode(), "Object 1"),
        (b'{"type": "Point", "coordinates": [1, NaN]}', "not finite"),
        (json.dumps({"annotation": {"location": "POINT (1 2)"}}).encode(), "Cytomine"),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "r.geojson"
    path.write_bytes(content)
    with pytest.raises(RegionsUnreadable, match=says) as caught:
        read_regions(path)
    assert "r.geojson" in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(FileMissing):
        read_regions(tmp_path / "none.geojson")
    with pytest.raises(RegionsUnreadable, match="folder"):
        read_regions(tmp_path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_every_encoding_qupath_wrote(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "r.geojson"
    path.write_bytes(json.dumps(square(name="Drüse"), ensure_ascii=False).encode(encoding))
    assert read_regions(path)[0].name == "Drüse"


def test_a_failed_write_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "taken"
    target.mkdir()
    (target / "inside").touch()
    with pytest.raises(OutputRefused, match="cannot be written"):
        write_regions([Region(shapely.box(0, 0, 1, 1))], target)
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_real_exports(annotations: Path) -> None:
    for path in sorted((annotations / "qupath").iterdir()):
        regions = read_regions(path)
        assert len(regions) and not regions.warnings, path.name
        assert all(region.object_type == "annotation" for region in regions)
    assert read_regions(annotations / "qupath" / "dlup_qupath05.geojson")[0].color == (255, 0, 0)
    cells = read_regions(annotations / "qupath" / "qupath-polygon-cell-classified.json")
    assert cells.counts == {"Cell": 2, "Nucleus": 2}
    assert len(read_regions(annotations / "large_image_sample.geojson")) == 10
    spots = read_regions(annotations / "her2st_C2_spots.geojson")
    assert spots.class_names() == ["cancer", "immune", "unknown"] and len(spots) == 187


def test_real_exports_survive_a_round_trip(annotations: Path, tmp_path: Path) -> None:
    for path in [*sorted((annotations / "qupath").iterdir()), annotations / "her2st_C2_spots.geojson"]:
        first = read_regions(path)
        again = read_regions(write_regions(first, tmp_path / "again.geojson"))
        assert shapely.equals_exact(again.geometries, first.geometries).all(), path.name
        for before, after in zip(first, again, strict=True):
            assert (before.class_name, before.color, before.name, before.id) == (
                after.class_name,
                after.color,
                after.name,
                after.id,
            )
            assert before.properties.items() <= after.properties.items()


def test_foreign_formats_are_refused_with_their_name(annotations: Path) -> None:
    for folder, says in (("cytomine", "Cytomine"), ("sectra", "Sectra")):
        for path in (annotations / folder).iterdir():
            with pytest.raises(RegionsUnreadable, match=says):
                read_regions(path)
