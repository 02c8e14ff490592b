"""GeoJSON as QuPath writes it, in and out, with everything we do not know kept as it was."""

from __future__ import annotations

import contextlib
import json
import math
import os
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from pathotune.errors import OutputRefused, RegionsUnreadable
from pathotune.regions.region import Region, Regions, polygonal

if TYPE_CHECKING:
    from pathotune.slides.slide import Slide

# QuPath before 0.4 wrote the kind of object where the identifier now stands.
OLD_TYPES = {
    "PathAnnotationObject": "annotation",
    "PathDetectionObject": "detection",
    "PathCellObject": "cell",
    "PathTileObject": "tile",
    "PathRootObject": "root",
    "TMACoreObject": "tma_core",
}
GEOMETRIES = {"Polygon", "MultiPolygon", "Point", "MultiPoint", "LineString", "MultiLineString"}
OURS = "pathotune"  # member of the collection that says which origin was written


def parse_geojson(document: Any, name: str) -> tuple[list[Region], dict[str, Any], list[str]]:
    """Regions from a parsed GeoJSON document.

    Parameters
    ----------
    document : FeatureCollection, Feature, bare geometry, or a list of features.
    name : what to call the document in sentences.

    Returns
    -------
    regions in the document's own coordinates; our member of the collection ({} where another program wrote it); what
    was repaired or left out, as sentences.

    Raises
    ------
    RegionsUnreadable : not GeoJSON, or a feature that makes no sense; its number is named.
    """
    features = _features(document, name)
    regions: list[Region] = []
    empty, repaired = 0, 0
    for number, feature in enumerate(features, 1):
        geometry = _geometry(feature, number, name)
        if geometry is None or geometry.is_empty:
            empty += 1
            continue
        if not geometry.is_valid:
            geometry = polygonal(geometry) if "Polygon" in geometry.geom_type else geometry
            repaired += 1
        if geometry.is_empty:
            empty += 1
            continue
        regions.append(_region(feature, geometry))
    warnings = []
    if empty:
        warnings.append(f"{empty} of {len(features)} objects in {name} have no outline with an area and were left out.")
    if repaired:
        warnings.append(f"{repaired} outlines in {name} cross themselves and were untangled.")
    ours = document.get(OURS) if isinstance(document, dict) else None
    return regions, ours if isinstance(ours, dict) else {}, warnings


def _features(document: Any, name: str) -> list[dict[str, Any]]:
    """The list of features, whichever of the usual wrappings the document has."""
    if isinstance(document, list):
        found: list[dict[str, Any]] = []
        for item in document:
            found += _features(item, name)
        return found
    kind = document.get("type") if isinstance(document, dict) else None
    if kind == "FeatureCollection" and isinstance(document.get("features"), list):
        return _features(document["features"], name)
    if kind == "Feature":
        return [document]
    if kind in GEOMETRIES:
        return [{"type": "Feature", "geometry": document, "properties": {}}]
    if isinstance(document, dict) and ("annotation" in document or "location" in document):
        raise RegionsUnreadable(
            f"{name} is a Cytomine annotation, whose y axis points the other way; export it from Cytomine as GeoJSON."
        )
    if isinstance(document, dict) and "content" in document and "slideId" in document:
        raise RegionsUnreadable(
            f"{name} is a Sectra annotation in parts of the slide's width, not in pixels; export it as GeoJSON."
        )
    raise RegionsUnreadable(
        f"{name} is JSON but not GeoJSON ({_what(document)} stands where a feature should); "
        "export the objects from QuPath with File > Export objects as GeoJSON."
    )


def _what(value: Any) -> str:
    if isinstance(value, dict):
        return f"an object of type {value['type']!r}" if "type" in value else "an object without a type"
    return f"{type(value).__name__} {str(value)[:20]!r}"


def _geometry(feature: dict[str, Any], number: int, name: str) -> BaseGeometry | None:
    """The feature's geometry in two dimensions; None where it has none."""
    geometry = feature.get("geometry")
    if geometry is None:
        return None
    kind = geometry.get("type") if isinstance(geometry, dict) else None
    if kind not in GEOMETRIES:
        raise RegionsUnreadable(
            f"Object {number} of {name} has a geometry of type {kind!r}; known are {', '.join(sorted(GEOMETRIES))}."
        )
    try:
        return _build(kind, geometry["coordinates"])
    except (KeyError, TypeError, ValueError, IndexError, shapely.errors.GEOSException) as error:
        raise RegionsUnreadable(
            f"Object {number} of {name} ({kind}) has coordinates that make no sense ({error}); export the file again."
        ) from error


def _build(kind: str, coordinates: Any) -> BaseGeometry:
    if kind == "Polygon":
        return _polygon(coordinates)
    if kind == "MultiPolygon":
        parts = [part for part in map(_polygon, coordinates) if not part.is_empty]
        return parts[0] if len(parts) == 1 else shapely.MultiPolygon(parts)
    if kind == "Point":
        return shapely.Point(_points([coordinates])[0])
    if kind == "MultiPoint":
        return shapely.MultiPoint(_points(coordinates))
    if kind == "LineString":
        return shapely.LineString(_points(coordinates))
    return shapely.MultiLineString([_points(line) for line in coordinates])


def _polygon(rings: Any) -> BaseGeometry:
    """A polygon from its rings; rings with fewer than three points enclose nothing and fall away."""
    outlines = [_points(ring) for ring in rings]
    if not outlines or len(outlines[0]) < 3:
        return shapely.Polygon()
    return shapely.Polygon(outlines[0], [hole for hole in outlines[1:] if len(hole) >= 3])


def _points(values: Any) -> NDArray[np.float64]:
    """(n, 2) array; a third value (the z some programs write) is dropped."""
    try:
        points = np.asarray(values, dtype=np.float64)
    except ValueError:  # some points with a third value and some without
        points = np.asarray([value[:2] for value in values], dtype=np.float64)
    if points.size == 0:
        return np.zeros((0, 2))
    if points.ndim != 2 or points.shape[1] < 2:
        raise ValueError("pairs of numbers were expected")
    if not np.isfinite(points).all():
        raise ValueError("a number is not finite")
    return points[:, :2]


def _region(feature: dict[str, Any], geometry: BaseGeometry) -> Region:
    properties = feature.get("properties")
    properties = properties if isinstance(properties, dict) else {}
    class_name, color = classification(properties)
    identifier = feature.get("id")
    kind = properties.get("objectType") or properties.get("object_type") or OLD_TYPES.get(str(identifier), "annotation")
    members = {key: value for key, value in feature.items() if key not in {"type", "geometry", "properties", "id"}}
    plane = {key: value for key, value in feature["geometry"].items() if key not in {"type", "coordinates"}}
    if plane:
        members["geometry"] = plane
    return Region(
        geometry=geometry,
        class_name=class_name,
        color=color,
        object_type=str(kind),
        name=str(properties.get("name") or ""),
        locked=properties.get("isLocked") is True,
        properties=properties,
        id=None if identifier is None else str(identifier),
        members=members,
    )


def from_feature(feature: dict[str, Any]) -> Region | None:
    """The region `to_feature` wrote; None where it has no outline.

    Raises
    ------
    RegionsUnreadable : coordinates that make no sense.
    """
    geometry = _geometry(feature, 1, "the feature")
    return None if geometry is None or geometry.is_empty else _region(feature, geometry)


def classification(properties: dict[str, Any]) -> tuple[str | None, tuple[int, int, int] | None]:
    """Class name and colour from a feature's properties, in each of the ways QuPath has written them."""
    found = properties.get("classification")
    if isinstance(found, str):
        found = {"name": found}
    if not isinstance(found, dict):
        return None, _color(properties)
    name = found.get("name")
    if name is None and isinstance(found.get("names"), list):
        name = ": ".join(str(part) for part in found["names"])  # as QuPath shows a derived class
    name = str(name).strip() if name is not None else ""
    return name or None, _color(found) or _color(properties)


def _color(holder: dict[str, Any]) -> tuple[int, int, int] | None:
    value = holder.get("color", holder.get("colorRGB"))
    if isinstance(value, list | tuple) and len(value) >= 3 and all(isinstance(part, int | float) for part in value[:3]):
        red, green, blue = (min(255, max(0, round(part))) if math.isfinite(part) else 0 for part in value[:3])
        return red, green, blue
    if isinstance(value, int) and not isinstance(value, bool):
        return (value >> 16) & 255, (value >> 8) & 255, value & 255  # Java's packed ARGB, often negative
    return None


def to_feature(region: Region, offset_px0: tuple[float, float] = (0.0, 0.0)) -> dict[str, Any] | None:
    """One region as a QuPath feature, its outline made valid; None where nothing is left of it.

    What the region's fields do not change is written back exactly as it was read.
    """
    geometry = region.geometry
    if "Polygon" in geometry.geom_type:
        geometry = polygonal(geometry)
    if geometry.is_empty:
        return None
    if any(offset_px0):
        # Sums of floats are cut to a ten-thousandth of a pixel, so that a round trip gives the same digits.
        geometry = shapely.transform(geometry, lambda points: np.round(points - offset_px0, 4))
    if geometry.geom_type == "MultiPolygon" and len(geometry.geoms) == 1:
        geometry = geometry.geoms[0]  # QuPath refuses a MultiPolygon of one
    members = dict(region.members)
    drawn = {**shapely.geometry.mapping(geometry), **members.pop("geometry", {})}
    return {
        "type": "Feature",
        "id": region.id or str(uuid.uuid5(uuid.NAMESPACE_OID, f"{region.class_name}{region.name}{geometry.wkt}")),
        "geometry": drawn,
        "properties": _properties(region),
        **members,
    }


def _properties(region: Region) -> dict[str, Any]:
    properties = dict(region.properties)
    if properties.get("objectType") != region.object_type:
        properties["objectType"] = region.object_type
    if str(properties.get("name") or "") != region.name:
        properties["name"] = region.name
    if (properties.get("isLocked") is True) != region.locked:
        properties["isLocked"] = region.locked
    known_name, known_color = classification(properties)
    if region.class_name is None:
        if known_name is not None:
            del properties["classification"]
        if region.color is not None and region.color != known_color:
            properties["color"] = list(region.color)
    elif (region.class_name, region.color) != (known_name, known_color):
        kept = properties.get("classification")
        kept = {} if not isinstance(kept, dict) else kept
        kept = {key: value for key, value in kept.items() if key not in {"names", "colorRGB", "color"}}
        color = {} if region.color is None else {"color": list(region.color)}
        properties["classification"] = {**kept, "name": region.class_name, **color}
    return properties


def write_regions(
    regions: Regions | Sequence[Region],
    path: str | Path,
    slide: Slide | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Path:
    """Write regions as a GeoJSON FeatureCollection that QuPath opens in the right place.

    Coordinates are written with QuPath's origin (the vendor's bounds of `slide`; without a slide the origin of the file
    the regions came from), and the offset is stored beside them.

    Parameters
    ----------
    regions : in level-0 pixels of the slide's canvas.
    path : the file; its folder is made, and it is replaced in one step.
    facts : more to say of the whole collection, beside the origin in our member of it; QuPath ignores it.

    Raises
    ------
    OutputRefused : the file cannot be written.
    """
    path = Path(path)
    offset = _written_offset(regions, slide)
    features = [feature for region in regions if (feature := to_feature(region, offset)) is not None]
    document = {
        "type": "FeatureCollection",
        OURS: {
            **(facts or {}),
            "origin": "bounds" if any(offset) else "canvas",
            "offset_px0": [_short(value) for value in offset],
        },
        "features": features,
    }
    text = json.dumps(document, ensure_ascii=False, default=_short)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise OutputRefused(
            f"The regions cannot be written to {str(path)!r} ({error.strerror or error}); choose another place."
        ) from error
    return path


def _written_offset(regions: Regions | Sequence[Region], slide: Slide | None) -> tuple[float, float]:
    if slide is not None:
        return float(slide.bounds_px0[0]), float(slide.bounds_px0[1])
    return regions.origin_px0 if isinstance(regions, Regions) else (0.0, 0.0)


def _short(value: Any) -> Any:
    """Whole numbers without a decimal point; numpy numbers as Python ones."""
    number = value.item() if hasattr(value, "item") else value
    return int(number) if isinstance(number, float) and number.is_integer() else number


def total_bounds(regions: Iterable[Region]) -> NDArray[np.float64]:
    """(n, 4) bounding boxes x0, y0, x1, y1."""
    geometries = np.empty(0, dtype=object)
    drawn = [region.geometry for region in regions]
    if drawn:
        geometries = np.empty(len(drawn), dtype=object)
        geometries[:] = drawn
    return np.asarray(shapely.bounds(geometries), dtype=np.float64).reshape(-1, 4)
