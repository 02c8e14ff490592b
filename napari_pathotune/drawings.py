"""Drawn shapes to regions in level-0 pixels and back, through world coordinates: pure, no viewer and no Qt."""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_pathotune.layers import DEFAULT_COLOR, KEY, LayerData, facts, pixel_um, units_of

if TYPE_CHECKING:
    from pathotune.regions.region import Region
    from pathotune.slides.slide import Slide

Array = np.ndarray[Any, Any]

# What the `class` feature of a shape without a class says.
NO_CLASS = ""
# With more outlines on a layer than this, napari is slow to draw and to edit them.
MANY_OUTLINES = 10_000
CLASS_COLUMNS = ("class", "class_name", "label")
# The centre of level-0 pixel (0, 0) lies at 0 in napari and at (0.5, 0.5) in QuPath's level-0 pixels.
HALF_PIXEL = 0.5


def affine_of(mapping: Callable[[Any], Any]) -> tuple[Array, Array]:
    """Matrix (2, 2) and offset (2,) of an affine point mapping, found from three points."""
    offset = np.asarray(mapping((0.0, 0.0)), dtype=float)
    columns = [np.asarray(mapping(unit), dtype=float) - offset for unit in ((1.0, 0.0), (0.0, 1.0))]
    return np.stack(columns, axis=1), offset


def to_px0(layer: Any, slide_layer: Any, points: Array) -> Array:
    """Points of a layer in level-0 pixels of a slide's layer, whatever scale or rotation either has.

    Parameters
    ----------
    points : float array (n, 2), y then x, in the layer's own coordinates.

    Returns
    -------
    float array (n, 2), x then y, level-0 pixels with corners at whole numbers, as QuPath counts.
    """
    matrix, offset = affine_of(layer.data_to_world)
    world = np.asarray(points, dtype=float) @ matrix.T + offset
    matrix, offset = affine_of(slide_layer.world_to_data)
    pixels: Array = (world @ matrix.T + offset)[:, ::-1] + HALF_PIXEL
    return pixels


def regions_from_layer(layer: Any, slide_layer: Any, only: Iterable[int] | None = None) -> list[Region]:
    """The shapes or points of a layer as regions of the slide.

    The class of each is what its `class` feature says, or the layer's name. Shapes that share an `id` (parts of one
    multi-polygon) become one region again. Shapes with no extent are left out.

    Parameters
    ----------
    only : numbers of the shapes wanted; all where None.
    """
    from pathotune.regions.region import Region

    rows, names, wanted = _rows(layer), class_names_of(layer), None if only is None else set(only)
    found: list[Region] = []
    by_id: dict[str, int] = {}
    for index, geometry in enumerate(_geometries(layer, slide_layer)):
        if geometry.is_empty or (wanted is not None and index not in wanted):
            continue
        row = rows[index] if index < len(rows) else {}
        identity = _text(row.get("id"))
        if identity and identity in by_id:
            earlier = found[by_id[identity]]
            found[by_id[identity]] = replace(earlier, geometry=_joined(earlier.geometry, geometry))
            continue
        if identity:
            by_id[identity] = len(found)
        found.append(
            Region(
                geometry=geometry,
                class_name=names[index] or None,
                color=color_of(layer, index),
                object_type=_text(row.get("object_type")) or "annotation",
                name=_text(row.get("name")),
                locked=str(row.get("locked", "")).lower() == "true",
                id=identity or None,
                **_kept(row.get("kept")),
            )
        )
    return found


def many_outlines_text(regions: Iterable[Region], name: str) -> str:
    """The question before more outlines are laid on a slide than the window is quick with; "" where there are few.

    Points are no outlines: they are drawn fast.
    """
    count = sum(len(getattr(one.geometry, "geoms", (0,))) for one in regions if one.kind != "point")
    if count <= MANY_OUTLINES:
        return ""
    return (
        f"{name} has {count:,} outlines. With more than {MANY_OUTLINES:,} the window is slow to move and to draw in. "
        "To train on them without seeing them, give the file to pathotune tune --regions. Load them all the same?"
    )


def layers_from_regions(regions: Iterable[Region], slide: Slide | None, source: str = "") -> list[LayerData]:
    """One Shapes layer, and a Points layer where there are points, in micrometres on the slide.

    Each shape has its class as a feature and its class's colour.

    Parameters
    ----------
    slide : the slide the regions belong to; without one the layers are in pixels.
    source : the file they came from, kept in the metadata.
    """
    parts: dict[str, list[tuple[Region, Array, str]]] = {}
    for region in regions:
        for vertices, kind in drawable_parts(region.geometry):
            parts.setdefault("points" if kind == "point" else "shapes", []).append((region, vertices, kind))
    return [_layer(kind, parts[kind], slide, source) for kind in ("shapes", "points") if kind in parts]


def _layer(group: str, drawn: list[tuple[Region, Array, str]], slide: Slide | None, source: str) -> LayerData:
    paint = np.asarray([[*(region.color or DEFAULT_COLOR), 255] for region, _, _ in drawn], dtype=float) / 255
    options: dict[str, Any] = {
        "name": _name_of(drawn, source),
        "scale": pixel_um(slide) if slide else (1.0, 1.0),
        "units": units_of(slide) if slide else ("pixel", "pixel"),
        "features": _features(drawn),
        "metadata": {KEY: {"kind": "regions", "source": source, "slide_path": str(slide.path) if slide else ""}},
    }
    if group == "points":
        options |= {"face_color": paint, "border_color": "white", "size": _point_size(slide)}
        return np.concatenate([vertices for _, vertices, _ in drawn]), options, "points"
    options |= {
        "shape_type": [kind for _, _, kind in drawn],
        "edge_color": paint,
        "face_color": paint * (1, 1, 1, 0.12),
        "edge_width": _line_width(slide),
    }
    return [vertices for _, vertices, _ in drawn], options, "shapes"


def _name_of(drawn: list[tuple[Region, Array, str]], source: str) -> str:
    """The class where there is only one, else the file, else what it is."""
    names = {region.class_name for region, _, _ in drawn}
    if len(names) == 1 and None not in names:
        return str(names.pop())
    return Path(source).name if source else "Regions"


def _line_width(slide: Slide | None) -> float:
    """A line that is seen at overview zoom: a 400th of the slide's longer side, in level-0 pixels."""
    return max(2.0, max(slide.width_px0, slide.height_px0) / 400) if slide else 4.0


def _point_size(slide: Slide | None) -> float:
    return 4 * _line_width(slide)


def _features(drawn: list[tuple[Region, Array, str]]) -> dict[str, list[str]]:
    columns: dict[str, list[str]] = {key: [] for key in ("class", "name", "object_type", "locked", "id", "kept")}
    parts = Counter(id(region) for region, _, _ in drawn)
    # Parts of one region need an id in common to be one region again.
    ids = {id(region): region.id or (str(uuid.uuid4()) if parts[id(region)] > 1 else "") for region, _, _ in drawn}
    for region, _, _ in drawn:
        columns["class"].append(region.class_name or NO_CLASS)
        columns["name"].append(region.name)
        columns["object_type"].append(region.object_type)
        columns["locked"].append(str(region.locked))
        columns["id"].append(ids[id(region)])
        kept = {key: value for key in ("properties", "members") if (value := getattr(region, key))}
        columns["kept"].append(json.dumps(kept, ensure_ascii=False) if kept else "")
    return columns


def _rows(layer: Any) -> list[dict[str, Any]]:
    features = layer.features
    return [dict(row) for row in features.to_dict("records")] if len(features.columns) else []


def _text(value: Any) -> str:
    """A feature's value as text; a missing one (None, NaN) is empty."""
    return "" if value is None or value != value else str(value).strip()


def _kept(value: Any) -> dict[str, dict[str, Any]]:
    """What a file said beyond what the form shows (QuPath's measurements, a cell's nucleus), as it was."""
    try:
        found = json.loads(_text(value) or "{}")
    except ValueError:
        return {}
    return {key: found[key] for key in ("properties", "members") if isinstance(found.get(key), dict)}


def class_names_of(layer: Any) -> list[str]:
    """The class of each shape: its `class` feature, or the layer's name where it has none."""
    rows = _rows(layer)
    found = [next((_text(row.get(key)) for key in CLASS_COLUMNS if _text(row.get(key))), "") for row in rows]
    found += [""] * (len(layer.data) - len(found))
    # A region of a file or of our own layer that has no class is not of a class called like its layer.
    spare = NO_CLASS if facts(layer).get("kind") == "regions" and "class" in layer.features else str(layer.name)
    return [name or spare for name in found[: len(layer.data)]]


def color_of(layer: Any, index: int) -> tuple[int, int, int]:
    """The colour a shape or point is drawn in."""
    colors = layer.edge_color if hasattr(layer, "edge_color") else layer.face_color
    red, green, blue = (round(float(part) * 255) for part in np.asarray(colors)[index][:3])
    return red, green, blue


def _geometries(layer: Any, slide_layer: Any) -> list[Any]:
    """One shapely geometry per shape, in level-0 pixels; empty where too few points were set."""
    if not hasattr(layer, "shape_type"):
        kinds, drawn = ["point"] * len(layer.data), [point[None] for point in np.asarray(layer.data)]
    else:
        kinds = layer.shape_type if isinstance(layer.shape_type, list) else [layer.shape_type] * len(layer.data)
        drawn = [np.asarray(vertices) for vertices in layer.data]
    return [_geometry(to_px0(layer, slide_layer, vertices), kind) for vertices, kind in zip(drawn, kinds, strict=True)]


def geometry_of(layer: Any, index: int, slide_layer: Any) -> Any:
    """One shape or point as a shapely geometry in level-0 pixels; empty where too few points were set."""
    vertices = np.asarray(layer.data[index], dtype=float)
    if not hasattr(layer, "shape_type"):
        return _geometry(to_px0(layer, slide_layer, vertices[None]), "point")
    kind = layer.shape_type[index] if isinstance(layer.shape_type, list) else layer.shape_type
    return _geometry(to_px0(layer, slide_layer, vertices), str(kind))


def _geometry(xy: Array, kind: str) -> Any:
    from pathotune.regions.region import Regions

    if kind == "polygon" and _has_slit(xy):
        return _closed_slits(xy)
    regions = Regions.from_shapes([xy], [kind])
    return regions[0].geometry if len(regions) else _nothing()


def _nothing() -> Any:
    import shapely

    return shapely.Polygon()


def _has_slit(xy: Array) -> bool:
    """Whether an outline comes back to a point it had before: how `_slit` draws a hole."""
    inner = xy[:-1] if np.array_equal(xy[0], xy[-1]) else xy
    return len(np.unique(inner.round(6), axis=0)) < len(inner)


def _closed_slits(xy: Array) -> Any:
    """The polygon with holes that `_slit` drew as one outline."""
    import shapely

    # The even-odd way of making an outline valid: what is gone round twice, once each way, is a hole.
    made = shapely.make_valid(shapely.Polygon(xy))
    parts = [part for part in shapely.get_parts(made) if part.geom_type in ("Polygon", "MultiPolygon")]
    return shapely.union_all(parts) if parts else _nothing()


def _joined(first: Any, second: Any) -> Any:
    import shapely

    if first.geom_type == "Point" and second.geom_type == "Point":
        return shapely.MultiPoint([first, second])
    return shapely.union_all([first, second])


def drawable_parts(geometry: Any) -> list[tuple[Array, str]]:
    """The parts of a geometry as (vertices (n, 2) y then x in layer pixels, napari's shape type)."""
    found: list[tuple[Array, str]] = []
    kind = geometry.geom_type
    if kind == "Polygon":
        found.append((_slit(geometry), "polygon"))
    elif kind in ("LineString", "LinearRing"):
        found.append((_yx(geometry.coords), "path"))
    elif kind == "Point":
        found.append((_yx(geometry.coords), "point"))
    else:
        for part in getattr(geometry, "geoms", ()):
            found += drawable_parts(part)
    return found


def _yx(coordinates: Any) -> Array:
    xy = np.asarray([point[:2] for point in coordinates], dtype=float).reshape(-1, 2)
    result: Array = xy[:, ::-1] - HALF_PIXEL
    return result


def _slit(polygon: Any) -> Array:
    """A polygon's outline; its holes are joined to it by slits, as napari's shapes have no holes."""
    outline = _yx(polygon.exterior.coords[:-1])
    for ring in polygon.interiors:
        hole = _yx(ring.coords[:-1])
        distance = ((outline[:, None, :] - hole[None, :, :]) ** 2).sum(axis=-1)
        at, start = np.unravel_index(int(distance.argmin()), distance.shape)
        turned = np.roll(hole, -int(start), axis=0)
        outline = np.concatenate([outline[: at + 1], turned, turned[:1], outline[at : at + 1], outline[at + 1 :]])
    return outline
