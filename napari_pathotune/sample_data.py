"""The generated slide and its drawn regions as napari's sample: shipped, so that it opens at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

NAME = "generated-slide"
# How `resources/samples` was made: this seed and size give every class two regions or more, so that it can be tuned
# on. Making it takes several seconds, too long for the window's thread.
SEED, WIDTH_PX0, HEIGHT_PX0, QUALITY = 5, 4096, 3072, 75


def generated_slide() -> list[tuple[Any, ...]]:
    """Layers of the generated H&E-like slide, and of the regions drawn on it."""
    from napari_pathotune.drawings import layers_from_regions
    from napari_pathotune.layers import facts_of
    from napari_pathotune.reader import NOTHING, read_slides
    from pathotune.regions import read_regions
    from pathotune.resources import resource

    layers = read_slides(str(resource("samples", f"{NAME}.tiff")))
    if layers == NOTHING:
        return layers
    slide, regions_path = facts_of(layers[0])["slide"], resource("samples", f"{NAME}.geojson")
    return [*layers, *layers_from_regions(read_regions(regions_path, slide), slide, str(regions_path))]


def write_again(folder: Path) -> tuple[Path, Path]:
    """Write the shipped slide and its regions anew, for when the generator has changed."""
    from pathotune.slides.synthetic import write_sample

    return write_sample(folder, SEED, width_px0=WIDTH_PX0, height_px0=HEIGHT_PX0, name=NAME, quality=QUALITY)
