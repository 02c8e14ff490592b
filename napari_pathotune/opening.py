"""Opens files in a viewer through our own reader, whatever napari's preferences say."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from napari_pathotune.reader import read_drawn_regions, read_slides

REGION_SUFFIXES = (".geojson",)


def open_paths(viewer: Any, paths: Iterable[Path]) -> list[Any]:
    """Add the layers of slides, stores and region files to a viewer.

    Regions come last, so that they find the slide they belong to. An error is shown as a notification.
    """
    from napari.layers import Layer

    added = []
    for path in sorted(paths, key=lambda path: path.suffix.lower() in REGION_SUFFIXES):
        read = read_drawn_regions if path.suffix.lower() in REGION_SUFFIXES else read_slides
        for data in read(str(path)):
            if data[0] is not None:
                layer = Layer.create(*data)
                viewer.layers.append(layer)
                added.append(layer)
    return added
