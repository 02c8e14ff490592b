"""Known regions of a generated slide as GeoJSON: the whole truth, and the few outlines a pathologist would draw."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pathotune.slides.synthetic.fields import salt
from pathotune.slides.synthetic.layout import BACKGROUND, CLASSES, PEN

if TYPE_CHECKING:
    from pathotune.slides.synthetic.slide import SyntheticSlide

MAP_UM = 8.0
DRAWN_UM = (35.0, 170.0)
"""Smallest and largest radius of a drawn outline."""


def _feature(rings: list[list[NDArray[np.float64]]], tissue: int, name: str, seed: int) -> dict[str, Any]:
    """A GeoJSON feature of polygons, each a list of closed rings (n, 2), the outer one first."""
    coordinates = [[np.round(ring, 2).tolist() for ring in polygon] for polygon in rings]
    geometry: dict[str, Any] = (
        {"type": "Polygon", "coordinates": coordinates[0]}
        if len(coordinates) == 1
        else {"type": "MultiPolygon", "coordinates": coordinates}
    )
    known = CLASSES[tissue]
    return {
        "type": "Feature",
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"pathotune synthetic {seed} {name}")),
        "geometry": geometry,
        "properties": {
            "objectType": "annotation",
            "name": name,
            "classification": {"name": known.name, "color": list(known.color)},
        },
    }


def drawn_regions(slide: SyntheticSlide, per_class: int) -> dict[str, Any]:
    """A few outlines per class, each wholly inside one patch; the largest patches first, no two in one place."""
    from scipy import ndimage

    step = max(MAP_UM / slide.mpp, 1.0)
    classes = np.pad(slide.class_map(step), 1, constant_values=255)  # nothing is deep at the slide's edge
    features = []
    for tissue in range(len(CLASSES)):
        if tissue in (BACKGROUND, PEN):
            continue
        free = classes == tissue
        for number in range(per_class):
            depth = ndimage.distance_transform_edt(free)
            row, column = (int(place) for place in np.unravel_index(int(depth.argmax()), depth.shape))
            # Two squares are kept from the border: the map knows a border to one square only.
            radius = min(float(depth[row, column] - 2) * step, DRAWN_UM[1] / slide.mpp)
            if radius < DRAWN_UM[0] / slide.mpp:
                break
            centre = (column - 0.5) * step, (row - 0.5) * step
            name = f"{CLASSES[tissue].name} {number + 1}"
            ring = _by_hand(centre, radius, np.random.default_rng([slide.seed, salt(name)]))
            features.append(_feature([[ring]], tissue, name, slide.seed))
            _clear(free, row, column, int(np.ceil(1.6 * radius / step)))
    return {"type": "FeatureCollection", "features": features}


def _clear(free: NDArray[np.bool_], row: int, column: int, reach: int) -> None:
    """Take a square around a place out of what is free for the next outline."""
    free[max(row - reach, 0) : row + reach + 1, max(column - reach, 0) : column + reach + 1] = False


def _by_hand(centre: tuple[float, float], radius: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """A closed ring (n, 2) about as round as a hand draws one, nowhere farther from the centre than the radius."""
    theta = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    wobble = sum(rng.normal(0, 0.10 / order) * np.cos(order * theta + rng.uniform(0, 6.3)) for order in range(2, 6))
    distance = radius * np.clip(0.86 + wobble, 0.6, 0.98)
    ring = np.column_stack([centre[0] + distance * np.cos(theta), centre[1] + distance * np.sin(theta)])
    return np.vstack([ring, ring[:1]])


def true_regions(slide: SyntheticSlide) -> dict[str, Any]:
    """Every class as one region: the outlines of a map whose squares are 8 µm wide, so they are true to about that."""
    import shapely
    from skimage import measure

    step = max(MAP_UM / slide.mpp, 1.0)
    classes = np.pad(slide.class_map(step), 1, constant_values=255)
    features = []
    for tissue in range(len(CLASSES)):
        rings = [
            shapely.Polygon((contour[:, ::-1] - 0.5) * step)
            for contour in measure.find_contours((classes == tissue).astype(np.float32), 0.5)
            if len(contour) >= 4
        ]
        if tissue == BACKGROUND or not rings:
            continue
        # A ring inside a ring is a hole, one inside that is tissue again.
        area = shapely.make_valid(rings[0])
        for ring in rings[1:]:
            area = area.symmetric_difference(shapely.make_valid(ring))
        area = area.simplify(0.3 * step)
        polygons = [part for part in getattr(area, "geoms", [area]) if part.geom_type == "Polygon" and part.area > 0]
        coordinates = [
            [np.asarray(ring.coords) for ring in (polygon.exterior, *polygon.interiors)] for polygon in polygons
        ]
        features.append(_feature(coordinates, tissue, f"All {CLASSES[tissue].name}", slide.seed))
    return {"type": "FeatureCollection", "features": features}
