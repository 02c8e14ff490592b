"""Decoded tiles that are kept for the next training of this process."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pathotune.slides.slide import Slide
    from pathotune.tiles.tileset import Reading

Images = NDArray[np.uint8]

MEMORY_BYTES = 512 * 2**20
KEY_BYTES = 16


def place_keys(slide: Slide, reading: Reading, x_px0: NDArray[np.floating[Any]], y_px0: Any) -> list[bytes]:
    """A key for each tile of a slide at these corners: what is read there depends on nothing else."""
    facts = [slide.fingerprint, reading.to_dict(), [round(side, 4) for side in reading.tile_px0(slide)]]
    scope = hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=KEY_BYTES)
    keys = []
    for x, y in zip(np.round(x_px0, 3).tolist(), np.round(y_px0, 3).tolist(), strict=True):
        one = scope.copy()
        one.update(f"{x} {y}".encode())
        keys.append(one.digest())
    return keys


def content_keys(images: Images) -> list[bytes]:
    """A key for each picture (n, h, w, 3), from its pixels."""
    return [hashlib.blake2b(image.tobytes(), digest_size=KEY_BYTES).digest() for image in images]


class KeptTiles:
    """The most recently used decoded tiles, by key.

    Parameters
    ----------
    limit_bytes : above it the oldest are forgotten.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._kept: OrderedDict[bytes, Images] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def fill(self, keys: Sequence[bytes], images: Images, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Copy the kept ones of these tiles into their rows of `images`; returns the rows of the others."""
        missing = []
        for row in rows.tolist():
            image = self._kept.get(keys[row])
            if image is None or image.shape != images.shape[1:]:
                missing.append(row)
                continue
            self._kept.move_to_end(keys[row])
            images[row] = image
        return np.asarray(missing, dtype=np.int64)

    def keep(self, keys: Sequence[bytes], images: Images, rows: NDArray[np.int64]) -> None:
        """Remember these rows of `images`."""
        for row in rows.tolist():
            if keys[row] not in self._kept:
                self._kept[keys[row]] = images[row].copy()
                self._bytes += images[row].nbytes
        while self._bytes > self.limit_bytes:
            self._bytes -= self._kept.popitem(last=False)[1].nbytes


TILES = KeptTiles(MEMORY_BYTES)
"""Those of this process; a worker that stays alive between trainings decodes new tiles only."""
