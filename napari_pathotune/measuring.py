"""Lengths and areas of drawn lines and outlines in plain units, and the layer they are drawn on: no viewer, no Qt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from napari_pathotune.layers import KEY, LayerData, pixel_um, units_of

if TYPE_CHECKING:
    from pathotune.slides.slide import Slide

Array = np.ndarray[Any, Any]

NAME = "Measurements"
# Stands out on pink, on purple and on white: no stain is this green.
COLOR = "#00b400"


def length_um(points_um: Array) -> float:
    """Length of a line through points (n, 2) in micrometres."""
    return float(np.linalg.norm(np.diff(points_um, axis=0), axis=1).sum())


def area_um2(points_um: Array, kind: str = "polygon") -> float:
    """Area inside an outline (n, 2) in micrometres; of an ellipse the points are the corners around it."""
    y, x = np.asarray(points_um, dtype=float).T
    inside = abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2
    return inside * np.pi / 4 if kind == "ellipse" else inside


def length_text(micrometres: float) -> str:
    """A length in µm below a millimetre, in mm from there on."""
    if micrometres < 1000:
        return f"{micrometres:.1f} µm" if micrometres < 10 else f"{micrometres:.0f} µm"
    return f"{micrometres / 1000:.2f} mm"


def area_text(square_micrometres: float) -> str:
    """An area in µm² below a hundredth of a square millimetre, in mm² from there on."""
    if square_micrometres < 10_000:
        return f"{square_micrometres:.0f} µm²"
    millimetres = square_micrometres / 1e6
    return f"{millimetres:.3f} mm²" if millimetres < 1 else f"{millimetres:.2f} mm²"


def fields_text(square_micrometres: float, field_mm2: float) -> str:
    """An area in high-power fields, as cells are counted by; empty where no field's size is set."""
    return f" = {square_micrometres / 1e6 / field_mm2:.1f} fields" if field_mm2 > 0 else ""


def size_text(points_um: Array, kind: str, field_mm2: float = 0.0) -> str:
    """What a drawn shape measures: a line or path its length, everything else its area.

    Parameters
    ----------
    points_um : (n, 2) in micrometres.
    kind : napari's shape type.
    field_mm2 : area of a high-power field, for areas that are counted by such; 0 counts none.
    """
    if kind in ("line", "path"):
        return length_text(length_um(points_um))
    area = area_um2(points_um, kind)
    return area_text(area) + fields_text(area, field_mm2)


def sizes_of(layer: Any) -> list[str]:
    """What each shape of a layer measures; the layer's world is in micrometres."""
    from napari_pathotune.compat import preferences

    field_mm2 = preferences().field_mm2
    kinds = layer.shape_type if isinstance(layer.shape_type, list) else [layer.shape_type] * len(layer.data)
    return [
        size_text(np.asarray([layer.data_to_world(point) for point in vertices])[:, -2:], kind, field_mm2)
        for vertices, kind in zip(layer.data, kinds, strict=True)
    ]


def measure_layer(slide: Slide) -> LayerData:
    """An empty layer to measure on a slide; each shape carries its size as text.

    Raises
    ------
    MissingPixelSize : the slide's pixel size is not known, so nothing can be measured on it.
    """
    slide.require_mpp()
    options = {
        "name": NAME,
        "ndim": 2,
        "scale": pixel_um(slide),
        "units": units_of(slide),
        "edge_color": COLOR,
        "edge_width": max(2.0, max(slide.width_px0, slide.height_px0) / 400),
        "face_color": "transparent",
        "features": {"size": np.zeros(0, dtype=object)},
        "text": {"string": "{size}", "size": 16, "color": COLOR, "anchor": "upper_left"},
        "metadata": {KEY: {"kind": "measurement", "slide_path": str(slide.path)}},
    }
    return [], options, "shapes"
