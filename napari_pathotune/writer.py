"""Writes drawn shapes as GeoJSON that QuPath reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def write_shapes(path: str, layer_data: list[tuple[Any, dict[str, Any], str]]) -> list[str]:
    """Write Shapes layers as one GeoJSON file in level-0 pixels of the slide they were drawn on.

    Parameters
    ----------
    path : the file to write.
    layer_data : napari's (data, attributes, type) tuples.

    Returns
    -------
    The path written, or [] where no slide says what a pixel is (the person is told).
    """
    from napari.layers import Layer

    from napari_pathotune import compat
    from napari_pathotune.drawings import regions_from_layer
    from napari_pathotune.layers import facts
    from pathotune.errors import PathotuneError
    from pathotune.regions import Regions, write_regions

    slide_layer = _slide_layer([attributes for _, attributes, _ in layer_data])
    if slide_layer is None:
        compat.show_error(
            f"{Path(path).name} was not written: open the slide the shapes were drawn on, "
            "so that they can be given in its pixels."
        )
        return []
    regions = []
    for data, attributes, kind in layer_data:
        regions += regions_from_layer(Layer.create(data, attributes, kind), slide_layer)
    try:
        return [str(write_regions(Regions(regions), Path(path), facts(slide_layer)["slide"]))]
    except PathotuneError as error:
        compat.show_error(str(error))
        return []


def _slide_layer(attributes: list[dict[str, Any]]) -> Any | None:
    """The open slide the shapes say they belong to, or else the top one."""
    from napari_pathotune import compat
    from napari_pathotune.layers import KEY, facts

    viewer = compat.current_viewer()
    if viewer is None:
        return None
    slides = [layer for layer in viewer.layers if facts(layer).get("kind") == "slide"]
    wanted = {item.get("metadata", {}).get(KEY, {}).get("slide_path", "") for item in attributes}
    named = [layer for layer in slides if facts(layer)["path"] in wanted]
    return (named or slides or [None])[-1]
