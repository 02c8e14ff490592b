"""What a reader hands over: the facts of a slide and its blocks of pixels, or the reason why it declines."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from pathotune.slides.mpp import Hint

Pixels: TypeAlias = NDArray[np.uint8]
MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


class Declined(Exception):
    """A reader does not take this file; `open_slide` collects the reasons and asks the next reader.

    Parameters
    ----------
    reason : why, as the end of a sentence ("not a TIFF file").
    final : True where no other reader may try, as it would show wrong pixels (16 bit, truncated).
    advice : what the person can do about it.
    """

    def __init__(self, reason: str, *, final: bool = False, advice: str = "") -> None:
        self.reason, self.final, self.advice = reason, final, advice
        super().__init__(reason)


@dataclass(frozen=True)
class Level:
    """One resolution stored in the file.

    `downsample` is level-0 pixels per pixel of this level. `tile_width` × `tile_height` is how the file stores it
    (a strip is as wide as the level); `compression` is the name of the codec, "none" where there is none.
    """

    width: int
    height: int
    downsample: float
    tile_width: int
    tile_height: int
    compression: str


@dataclass(frozen=True)
class Facts:
    """What the headers say, before the pixel size is decided.

    `bounds_px0` is (x, y, width, height) of the scanned part in level-0 pixels, the whole slide where not stated.
    """

    vendor: str
    levels: tuple[Level, ...]
    mpp_hints: tuple[Hint, ...] = ()
    objective_power: float | None = None
    bounds_px0: tuple[int, int, int, int] | None = None
    associated_images: tuple[str, ...] = ()
    icc: bytes | None = None
    warnings: tuple[str, ...] = ()


class Source(ABC):
    """An open file, read in blocks on one grid per level. All methods may be called from several threads."""

    reader: str
    path: Path
    facts: Facts

    def block_size(self, level: int) -> tuple[int, int]:
        """Width and height of the blocks of one level, in its pixels (the last ones of a row or column are smaller)."""
        stored = self.facts.levels[level]
        return stored.tile_width, stored.tile_height

    @abstractmethod
    def block(self, level: int, row: int, column: int) -> Pixels:
        """One block as (height, width, 3) uint8, cut to the level's size."""

    def reduced_block(self, level: int, row: int, column: int, factor: int) -> Pixels | None:
        """One block at 1/`factor` (2, 4 or 8) of its size, whole where it reaches over the level's edge; None where the
        file's coding has no quick way to that."""
        return None

    @abstractmethod
    def associated_image(self, name: str) -> Pixels:
        """A label, macro or thumbnail picture as (height, width, 3) uint8."""

    @abstractmethod
    def fingerprint(self) -> str:
        """The slide's identity, from its bytes and not from its name."""

    @abstractmethod
    def close(self) -> None:
        """Give the file back; calling it again does nothing."""


def level_downsample(width_px0: int, height_px0: int, width: int, height: int) -> float:
    """Level-0 pixels per pixel of a level, exact where the sizes allow it.

    Writers round the sizes of their levels down or up, so the ratio of the sizes is not the scale: 2967/741 is 4.004
    for a level reduced by 4. Where a whole number explains both sizes to less than one pixel, it is taken (a power of
    two first, as several numbers explain a tiny level); else the ratio of the longer side, whose rounding weighs least.
    """
    longer, shorter = (width_px0, width), (height_px0, height)
    if height_px0 > width_px0:
        longer, shorter = shorter, longer
    ratio = longer[0] / longer[1]
    for whole in (2 ** round(math.log2(ratio)), max(1, round(ratio))):
        if abs(longer[0] / whole - longer[1]) < 1 and abs(shorter[0] / whole - shorter[1]) < 1:
            return float(whole)
    return ratio


def make_levels(
    sizes: Sequence[tuple[int, int]], tiles: Sequence[tuple[int, int]], codecs: Sequence[str]
) -> list[Level]:
    """Levels from their sizes and stored tiles, (width, height) each, largest first."""
    width_px0, height_px0 = sizes[0]
    return [
        Level(width, height, level_downsample(width_px0, height_px0, width, height), *tile, codec)
        for (width, height), tile, codec in zip(sizes, tiles, codecs, strict=True)
    ]


def is_tiff(path: Path) -> bool:
    """Whether a file starts as TIFF and BigTIFF do."""
    with path.open("rb") as file:
        return file.read(4) in MAGICS


def on_white(pixels: NDArray[np.uint8]) -> Pixels:
    """RGBA (not premultiplied) laid on white, as slides have a white background; RGB is passed through."""
    if pixels.shape[2] == 3:
        return pixels
    alpha = pixels[..., 3:]
    if alpha.min(initial=255) == 255:
        return np.ascontiguousarray(pixels[..., :3])
    weight = alpha.astype(np.uint16)
    mixed = pixels[..., :3] * weight + 255 * (255 - weight) + 127
    return (mixed // 255).astype(np.uint8)
