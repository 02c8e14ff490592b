"""What a training tile may look like besides itself: turned, mirrored, and stained a little more or less."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

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


def restained(images: Images, random: np.random.Generator, amount: float) -> Images:
    """Tiles as if stained on other days; the numbers of `tiles.stain.jittered`, by table and so much quicker.

    What becomes of a pixel depends on its own brightness alone, so that 256 of them per tile and colour tell all.

    Parameters
    ----------
    images : (b, side, side, 3).
    amount : spread of the stain's density, as a fraction.
    """
    ramp = np.broadcast_to(np.arange(256, dtype=np.uint8)[None, None, :, None], (len(images), 1, 256, 3))
    tables = jittered(ramp, random, amount)[:, 0]  # (b, 256, 3)
    result = np.empty_like(images)
    for image, table, place in zip(images, tables, result, strict=True):
        # Pillow's look-up is quicker than numpy's indexing.
        place[...] = Image.fromarray(image).point(table.T.ravel().tolist())
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
        return restained(images, self._random, self._jitter) if self._jitter else images


class Variants:
    """A fixed small number of looks for each tile, so that what is computed of a look can be kept.

    Look 0 is the tile itself; up to look 7 each is turned or mirrored another way, and each has a stain of its own.
    They depend on the tile's key and the seed alone, not on the order in which they are asked for.

    Parameters
    ----------
    count : looks per tile; 1 is the tile itself.
    seed, stain_jitter : as in `Augmentation`.
    """

    def __init__(self, count: int, seed: int, stain_jitter: float) -> None:
        self.count, self._seed, self._jitter = count, seed, stain_jitter
        self._mark = hashlib.blake2b(f"{seed} {stain_jitter!r}".encode(), digest_size=4).digest()

    def key(self, tile: bytes, look: int) -> bytes:
        """A name for one look of the tile with this key; it begins with the tile's key."""
        return tile if look == 0 else tile + look.to_bytes(2, "little") + self._mark

    def __call__(self, images: Images, tiles: Sequence[bytes], looks: NDArray[np.integer]) -> Images:
        """Images (b, side, side, 3) of tiles with these keys, as these looks (b,) show them."""
        if not looks.any():
            return images
        result = images.copy()
        for row in np.flatnonzero(looks).tolist():
            look = int(looks[row])
            numbers = int.from_bytes(tiles[row], "little")
            order = np.random.default_rng([self._seed, numbers]).permutation(7)
            random = np.random.default_rng([self._seed, numbers, look])
            one = turned(images[row : row + 1], np.asarray([1 + order[(look - 1) % 7]]))
            result[row] = (restained(one, random, self._jitter) if self._jitter else one)[0]
        return result
