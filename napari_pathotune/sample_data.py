"""The generated slide as napari's sample: made once into the cache, then opened like any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

# 4096 × 4096 px at 0.5 µm: large enough to pan in, made in a few seconds.
SIZE_PX0 = 4096
NAME = "generated-slide.tiff"


def generated_slide() -> list[tuple[Any, ...]]:
    """Layers of the generated H&E-like slide."""
    from napari_pathotune.reader import read_slides

    return read_slides(str(generated_slide_path()))


def generated_slide_path() -> Path:
    """The generated slide in the cache folder; written on first use."""
    import os

    from pathotune.settings import settings
    from pathotune.slides.synthetic import write_slide

    path = settings().cache_dir / "samples" / NAME
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        # Written beside and renamed, so that an interrupted first use leaves no half slide.
        unfinished = path.with_name(f".{os.getpid()}-{NAME}")
        write_slide(unfinished, width_px0=SIZE_PX0, height_px0=SIZE_PX0, seed=7)
        os.replace(unfinished, path)
    return path
