"""A small slide of two halves with regions drawn on both, as a command line asks for them."""

from __future__ import annotations

import json
from pathlib import Path

import brightness


def drawn_halves(
    slide: Path, regions: Path, names: tuple[str, str] = ("dark", "bright"), size: tuple[int, int] = (500, 400)
) -> None:
    """Write the slide (pixels of 0.25 µm) and a GeoJSON with six squares of each of two classes."""
    brightness.two_halves(slide, size=size, boundary_px0=250)
    features = []
    for column, name in enumerate(names):
        for x in (10, 90, 170):
            for y in (40, 240):
                left = x + 250 * column
                corners = [(left, y), (left + 64, y), (left + 64, y + 64), (left, y + 64), (left, y)]
                features.append(
                    {
                        "type": "Feature",
                        "geometry": {"type": "Polygon", "coordinates": [corners]},
                        "properties": {"objectType": "annotation", "classification": {"name": name}},
                    }
                )
    regions.parent.mkdir(parents=True, exist_ok=True)
    regions.write_text(json.dumps({"type": "FeatureCollection", "features": features}), encoding="utf-8")
