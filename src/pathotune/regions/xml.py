"""Regions from the XML of ASAP and of Aperio ImageScope (and HALO, which writes the same)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from pathotune.errors import RegionsUnreadable
from pathotune.regions.region import Region, ellipse, polygonal

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

POLYGON, RECTANGLE, ELLIPSE = "0", "1", "2"  # ImageScope's Region Type; 3 arrow, 4 ruler, 5 pin


def parse_xml(content: bytes, name: str) -> tuple[list[Region], float | None, list[str]]:
    """Regions from an ASAP or ImageScope document.

    Returns
    -------
    regions in the document's own coordinates; the pixel size it states (µm) or None; sentences about what was left out.

    Raises
    ------
    RegionsUnreadable : broken XML, XML of another program, or numbers that make no sense.
    """
    if re.search(rb"<!(DOCTYPE|ENTITY)", content[:4096], re.IGNORECASE):
        raise RegionsUnreadable(f"{name} declares XML entities, which no annotation file needs; it is not read.")
    try:
        root = ElementTree.fromstring(content)
    except ElementTree.ParseError as error:
        raise RegionsUnreadable(f"{name} is damaged XML ({error}); export the annotations again.") from error
    tag = root.tag.rpartition("}")[2]
    try:
        if tag == "ASAP_Annotations":
            regions, left_out = _asap(root)
            mpp = None
        elif tag == "Annotations" and root.find(".//Region") is not None:
            regions, left_out = _imagescope(root)
            mpp = _mpp(root)
        elif tag == "Annotations":
            return [], _mpp(root), [f"{name} holds no regions."]
        else:
            raise RegionsUnreadable(
                f"{name} is XML with the root <{tag}>; annotations of ASAP (<ASAP_Annotations>) and ImageScope "
                "(<Annotations>) can be read, and GeoJSON."
            )
    except (ValueError, KeyError) as error:
        raise RegionsUnreadable(f"{name} has a point that makes no sense ({error}); export it again.") from error
    return regions, mpp, [f"{count} {what} in {name} were left out." for what, count in left_out.items() if count]


def _number(text: str) -> float:
    """A coordinate; programs on a German or French system write a comma."""
    value = float(text.replace(",", "."))
    if not np.isfinite(value):
        raise ValueError(f"{text!r} is not finite")
    return value


def _points(elements: Iterable[Element]) -> NDArray[np.float64]:
    points = [(_number(element.attrib["X"]), _number(element.attrib["Y"])) for element in elements]
    return np.asarray(points, dtype=np.float64).reshape(-1, 2)


def _outline(points: NDArray[np.float64]) -> BaseGeometry:
    return polygonal(shapely.Polygon(points)) if len(points) >= 3 else shapely.Polygon()


def _asap(root: Element) -> tuple[list[Region], dict[str, int]]:
    groups = {group.get("Name", ""): group for group in root.iter("Group")}
    regions: list[Region] = []
    empty = 0
    for annotation in root.iter("Annotation"):
        points = _points(sorted(annotation.iter("Coordinate"), key=lambda element: _number(element.get("Order", "0"))))
        kind = annotation.get("Type", "Polygon")
        geometry: BaseGeometry
        if kind == "Dot":
            geometry = shapely.Point(points[0]) if len(points) else shapely.Point()
        elif kind == "PointSet":
            geometry = shapely.MultiPoint(points)
        elif kind == "Measurement":
            geometry = shapely.LineString(points) if len(points) > 1 else shapely.LineString()
        else:  # Polygon, Rectangle, Spline (its points are taken as corners)
            geometry = _outline(points)
        if geometry.is_empty:
            empty += 1
            continue
        group = annotation.get("PartOfGroup", "None")
        class_name = None if group in {"", "None"} else group
        holder = groups.get(group, annotation) if class_name else annotation
        properties = {"asap": dict(annotation.attrib)}
        color = _hex_color(holder.get("Color", ""))
        regions.append(Region(geometry, class_name, color, name=annotation.get("Name", ""), properties=properties))
    return regions, {"objects without an outline": empty}


def _hex_color(text: str) -> tuple[int, int, int] | None:
    if not re.fullmatch(r"#[0-9a-fA-F]{6}", text):
        return None
    return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)


def _imagescope(root: Element) -> tuple[list[Region], dict[str, int]]:
    regions: list[Region] = []
    left_out = {"objects without an outline": 0, "negative outlines that lie in no region of their layer": 0}
    for layer in root.iter("Annotation"):
        drawn: list[Region] = []
        holes: list[BaseGeometry] = []
        layer_class, color = _layer_class(layer), _bgr_color(layer.get("LineColor", ""))
        for element in layer.iter("Region"):
            geometry = _imagescope_geometry(element)
            if geometry.is_empty:
                left_out["objects without an outline"] += 1
                continue
            if element.get("NegativeROA") == "1" and geometry.geom_type.endswith("Polygon"):
                holes.append(geometry)
                continue
            text = (element.get("Text") or "").strip()
            properties: dict[str, Any] = {"imagescope": dict(element.attrib)}
            drawn.append(Region(geometry, layer_class or text or None, color, name=text, properties=properties))
        cut, unused = _cut_holes(drawn, holes)
        left_out["negative outlines that lie in no region of their layer"] += unused
        regions += cut
    return regions, left_out


def _imagescope_geometry(element: Element) -> BaseGeometry:
    points = _points(vertex for vertex in element.iter() if vertex.tag in {"Vertex", "V"})
    kind = {"Polygon": POLYGON, "Rectangle": RECTANGLE, "Ellipse": ELLIPSE}.get(
        element.get("Type", POLYGON), element.get("Type", POLYGON)
    )
    if kind in {RECTANGLE, ELLIPSE} and len(points) == 2:  # two opposite corners
        (x0, y0), (x1, y1) = points
        corners = np.asarray([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])
        return polygonal(ellipse(corners) if kind == ELLIPSE else shapely.Polygon(corners))
    if kind in {POLYGON, RECTANGLE, ELLIPSE}:
        return _outline(points)
    if len(points) > 1:
        return shapely.LineString(points)
    return shapely.Point(points[0]) if len(points) else shapely.Point()


def _cut_holes(drawn: list[Region], holes: list[BaseGeometry]) -> tuple[list[Region], int]:
    """Take the layer's negative outlines out of its regions, and count those that touch none."""
    unused = 0
    geometries = [region.geometry for region in drawn]
    for hole in holes:
        hit = [index for index, geometry in enumerate(geometries) if geometry.area > 0 and geometry.intersects(hole)]
        unused += not hit
        for index in hit:
            geometries[index] = polygonal(geometries[index].difference(hole))
    cut = [
        Region(geometry, region.class_name, region.color, name=region.name, properties=region.properties)
        for region, geometry in zip(drawn, geometries, strict=True)
        if not geometry.is_empty
    ]
    return cut, unused


def _layer_class(layer: Element) -> str | None:
    """A layer's class: its name, or where people leave that empty, its description."""
    name = (layer.get("Name") or "").strip()
    if name:
        return name
    for attribute in layer.iterfind("./Attributes/Attribute"):
        value = (attribute.get("Value") or "").strip()
        if value:
            return value
    return None


def _bgr_color(text: str) -> tuple[int, int, int] | None:
    """ImageScope's LineColor: blue, green, red in one number."""
    if not text.isdigit():
        return None
    value = int(text)
    return value & 255, (value >> 8) & 255, (value >> 16) & 255


def _mpp(root: Element) -> float | None:
    try:
        value = _number(root.get("MicronsPerPixel", ""))
    except ValueError:
        return None
    return value if value > 0 else None
