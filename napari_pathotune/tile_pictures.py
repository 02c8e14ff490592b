"""The picture of one tile, read from its slide: no viewer, no Qt."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

log = logging.getLogger("pathotune")
TILE_PX = 84


def read_tile(slide_path: str, box_px0: tuple[float, ...]) -> Any | None:
    """A tile's picture (h, w, 3) uint8 from its slide; None where it cannot be read."""
    from pathotune.errors import PathotuneError
    from pathotune.slides import open_slide

    x, y, width, height = box_px0
    try:
        with open_slide(slide_path) as slide:
            fitting = [level for level in range(len(slide.levels)) if width / slide.levels[level].downsample >= TILE_PX]
            level = max(fitting, default=0)
            down = slide.levels[level].downsample
            parts = (int(x / down), int(y / down), max(1, round(width / down)), max(1, round(height / down)))
            return slide.read(*parts, level=level)
    except (PathotuneError, OSError, ValueError) as error:
        log.warning("a tile of %s cannot be shown: %s", Path(slide_path).name, error)
        return None
