"""Pictures for a tuning's card: some training tiles of each class side by side, as the model saw them."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pathotune.methods.card import picture_path, pictures_folder

if TYPE_CHECKING:
    from pathotune.training.examples import Examples

SHOWN = 6
SIDE_PX = 96
GAP_PX = 4
QUALITY = 88


def write_pictures(examples: Examples, tuning: Path) -> None:
    """A strip of training tiles for each class, beside the tuning's card; a disk that will not costs only them.

    The tiles are of as many different regions as there are. Labels of slides are never among them: tiles lie on drawn
    regions.
    """
    from PIL import Image

    with contextlib.suppress(OSError):
        pictures_folder(tuning).mkdir(parents=True, exist_ok=True)
        for old in pictures_folder(tuning).glob("class-*.jpg"):
            old.unlink()
        for label in range(len(examples.class_names)):
            strip = strip_of(examples, label)
            if strip is not None:
                Image.fromarray(strip).save(picture_path(tuning, label), quality=QUALITY)


def strip_of(examples: Examples, label: int) -> NDArray[np.uint8] | None:
    """(`SIDE_PX`, width, 3) training tiles of a class side by side; None where there are none."""
    from PIL import Image

    tiles = examples.train[examples.labels[examples.train] == label]
    if not len(tiles):
        return None
    # The middle tile of each region first, then the others: regions in turn, whatever their size.
    groups = examples.groups[tiles]
    turn = np.empty(len(tiles), dtype=np.int64)
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        turn[members] = np.abs(np.arange(len(members)) - len(members) // 2)
    chosen = tiles[np.lexsort((groups, turn))[:SHOWN]]
    strip = np.full((SIDE_PX, len(chosen) * (SIDE_PX + GAP_PX) - GAP_PX, 3), 255, dtype=np.uint8)
    for place, tile in enumerate(chosen.tolist()):
        picture = Image.fromarray(np.ascontiguousarray(examples.images[tile]))
        left = place * (SIDE_PX + GAP_PX)
        strip[:, left : left + SIDE_PX] = np.asarray(picture.resize((SIDE_PX, SIDE_PX), Image.Resampling.BOX))
    return strip
