"""The tiles of a slide that were looked at most: where they lie, and as one picture."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pathotune.errors import OutputRefused

if TYPE_CHECKING:
    from pathotune.features import FeatureSet
    from pathotune.methods.checkpoint import Tuning
    from pathotune.slides.slide import Slide

SHOWN_TILES = 12
_COLUMNS, _FRAME_PX = 4, 6


def attended_tiles(features: FeatureSet, attention: NDArray[np.float32]) -> list[dict[str, float]]:
    """Where the tiles lie that were looked at most, and how much more than an even share each got."""
    order = np.argsort(-attention, kind="stable")[:SHOWN_TILES]
    return [
        {
            "x_px0": round(float(features.coords_px0[tile, 0]), 2),
            "y_px0": round(float(features.coords_px0[tile, 1]), 2),
            "width_px0": round(float(features.tile_px0[0]), 2),
            "attention": round(float(attention[tile]), 4),
        }
        for tile in order.tolist()
    ]


def attended_picture(slide: Slide, tuning: Tuning, attended: list[dict[str, float]], store: Path) -> Path:
    """The most attended tiles as one PNG beside the store: NAME.attended.png, the first top left.

    Raises
    ------
    OutputRefused : it cannot be written.
    """
    from PIL import Image

    from pathotune.tiles.reader import TileReader

    with TileReader(slide, tuning.reading) as reader:
        images = reader.read_at([tile["x_px0"] for tile in attended], [tile["y_px0"] for tile in attended])
    side = images.shape[1] + 2 * _FRAME_PX
    rows = -(-len(images) // _COLUMNS)
    sheet = np.full((rows * side, min(_COLUMNS, len(images)) * side, 3), 255, np.uint8)
    for number, image in enumerate(images):
        top, left = (number // _COLUMNS) * side + _FRAME_PX, (number % _COLUMNS) * side + _FRAME_PX
        sheet[top : top + image.shape[0], left : left + image.shape[1]] = image
    target = store.with_name(f"{store.name.removesuffix('.pathotune.zarr')}.attended.png")
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        Image.fromarray(sheet).save(temporary, format="PNG")
        os.replace(temporary, target)
    except OSError as error:
        raise OutputRefused(f"{target} cannot be written ({error.strerror or error}). Choose another --out.") from None
    return target
