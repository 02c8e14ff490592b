"""The generated slide and its drawn regions as napari's sample, made once into the cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

# Large enough to pan in, small enough to be drawn in a few seconds on first use.
WIDTH_PX0, HEIGHT_PX0 = 3072, 2304
SEED = 7
NAME = "generated-slide"


def generated_slide() -> list[tuple[Any, ...]]:
    """Layers of the generated H&E-like slide, and the regions drawn on it, one layer per class."""
    from napari_pathotune.drawings import layers_from_regions
    from napari_pathotune.layers import facts_of
    from napari_pathotune.reader import NOTHING, read_slides
    from pathotune.regions import read_regions

    slide_path, regions_path = generated_slide_paths()
    layers = read_slides(str(slide_path))
    if layers == NOTHING:
        return layers
    slide = facts_of(layers[0])["slide"]
    return [*layers, *layers_from_regions(read_regions(regions_path, slide), slide, str(regions_path))]


def generated_slide_paths() -> tuple[Path, Path]:
    """The generated slide and its regions in the cache folder; written on first use."""
    import os
    import tempfile

    from pathotune.settings import settings
    from pathotune.slides.synthetic import write_sample

    folder = settings().cache_dir / "samples"
    slide_path, regions_path = folder / f"{NAME}.tiff", folder / f"{NAME}.geojson"
    if not (slide_path.is_file() and regions_path.is_file()):
        folder.mkdir(parents=True, exist_ok=True)
        # Written beside and renamed, so that an interrupted first use leaves no half slide.
        with tempfile.TemporaryDirectory(dir=folder) as unfinished:
            made = write_sample(unfinished, SEED, width_px0=WIDTH_PX0, height_px0=HEIGHT_PX0, name=NAME)
            for source, target in zip(made, (slide_path, regions_path), strict=True):
                os.replace(source, target)
    return slide_path, regions_path
