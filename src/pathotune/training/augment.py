"""What a training tile may look like besides itself: turned, mirrored, and stained a little more or less."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pathotune.tiles.stain import jittered

Images = NDArray[np.uint8]


def turned(images: Images, views: NDArray[np.integer]) -> Images:
    """Each image in one of its eight turns and mirror images.

    Parameters
    ----------
    images : (b, side, side, 3).
    views : (b,) from 0 to 7; 0 is the image itself, 4 and above are mirrored.
    """
    result = np.empty_like(images)
    for image, view, place in zip(images, views, result, strict=True):
        part = np.rot90(image, int(view) % 4)
        place[...] = part[:, ::-1] if view >= 4 else part
    return result


class Augmentation:
    """Random turns, mirror images and stain of training tiles, reproducible by seed.

    Parameters
    ----------
    seed : the same seed gives the same sequence.
    stain_jitter : spread of the stain's density, as a fraction; 0 leaves colours alone.
    """

    def __init__(self, seed: int, stain_jitter: float) -> None:
        self._random = np.random.default_rng(seed)
        self._jitter = stain_jitter

    def __call__(self, images: Images) -> Images:
        """(b, side, side, 3) uint8 → the same shape."""
        images = turned(images, self._random.integers(0, 8, len(images)))
        return jittered(images, self._random, self._jitter) if self._jitter else images
