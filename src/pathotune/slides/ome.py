"""What OME metadata say: pixel sizes in micrometres and whether channels are red, green and blue."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

# OME-XML writes symbols, OME-Zarr writes names.
MICROMETRES = {
    "µm": 1.0,
    "μm": 1.0,
    "um": 1.0,
    "micron": 1.0,
    "micrometer": 1.0,
    "micrometre": 1.0,
    "nm": 1e-3,
    "nanometer": 1e-3,
    "mm": 1e3,
    "millimeter": 1e3,
    "cm": 1e4,
    "centimeter": 1e4,
    "m": 1e6,
    "meter": 1e6,
    "in": 25400.0,
    "inch": 25400.0,
    "pm": 1e-6,
    "picometer": 1e-6,
    "Å": 1e-4,
    "angstrom": 1e-4,
}


def pixel_sizes(xml: str) -> Iterator[tuple[float, float, int]]:
    """(x µm, y µm, width in pixels) of every image in an OME-XML that states its pixel size in a length."""
    from xml.etree import ElementTree

    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError:
        return
    for element in root.iter():
        if element.tag.rpartition("}")[2] != "Pixels":
            continue
        unit_x = MICROMETRES.get(element.get("PhysicalSizeXUnit", "µm"))
        unit_y = MICROMETRES.get(element.get("PhysicalSizeYUnit", "µm"))
        try:
            x, y = float(element.attrib["PhysicalSizeX"]), float(element.attrib["PhysicalSizeY"])
            width = int(element.attrib["SizeX"])
        except (KeyError, ValueError):
            continue
        if unit_x and unit_y:
            yield x * unit_x, y * unit_y, width


def objective_power(xml: str) -> float | None:
    """The nominal magnification of the first objective in an OME-XML."""
    from xml.etree import ElementTree

    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError:
        return None
    for element in root.iter():
        power = element.get("NominalMagnification")
        if element.tag.rpartition("}")[2] == "Objective" and power:
            try:
                return float(power)
            except ValueError:
                return None
    return None


def are_colors(channels: list[dict[str, Any]]) -> bool:
    """Whether the three channels of an OME-Zarr are red, green and blue; unlabelled ones are taken as such.

    Brightfield and fluorescence are both stored as three 8-bit channels; the display colours and names tell them apart.
    """
    if len(channels) != 3:
        return not channels
    colors = [str(channel.get("color", "")).upper().lstrip("#") for channel in channels]
    if all(colors):
        return colors == ["FF0000", "00FF00", "0000FF"]
    names = [str(channel.get("label", "")).strip().lower() for channel in channels]
    return not all(names) or [name[:1] for name in names] == ["r", "g", "b"]
