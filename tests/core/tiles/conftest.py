"""A slide whose every pixel follows from a formula, at any level."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray

from pathotune.errors import MissingPixelSize

Formula = Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]


def ramp(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Red rises along x, green along y, so that a tile's mean colour tells the place of its centre.

    Both lean a little, which spreads the rounding to whole colours evenly.
    """
    x, y = np.broadcast_arrays(x, y)
    return np.stack([0.75 * x + 0.22 * y, 0.75 * y + 0.22 * x, np.full(x.shape, 100.0)], axis=-1)


class FormulaSlide:
    """What the tiles need of a slide; counts its reads and can be slow or fail."""

    def __init__(
        self,
        width: int = 240,
        height: int = 240,
        mpp: tuple[float, float] | None = (0.5, 0.5),
        downsamples: tuple[float, ...] = (1.0,),
        formula: Formula = ramp,
        delay: float = 0.0,
        fails: Exception | None = None,
    ) -> None:
        self.width_px0, self.height_px0, self.formula = width, height, formula
        self.path, self.fingerprint = Path("formula.tiff"), "formula"
        self.mpp = None if mpp is None else SimpleNamespace(x=mpp[0], y=mpp[1], mean=sum(mpp) / 2)
        self.levels = tuple(
            SimpleNamespace(width=int(width / ratio), height=int(height / ratio), downsample=float(ratio))
            for ratio in downsamples
        )
        self.delay, self.fails = delay, fails
        self.reads: list[tuple[int, int, int, int, int]] = []
        self._lock = threading.Lock()

    def require_mpp(self) -> SimpleNamespace:
        if self.mpp is None:
            raise MissingPixelSize(self.path)
        return self.mpp

    def read(self, x: int, y: int, width: int, height: int, level: int = 0, reduce: int = 1) -> NDArray[np.uint8]:
        with self._lock:
            self.reads.append((x, y, width, height, level))
        time.sleep(self.delay)
        if self.fails is not None and len(self.reads) > 3:
            raise self.fails
        ratio = self.levels[level].downsample * reduce
        columns, rows = np.arange(x, x + width), np.arange(y, y + height)
        pixels = self.formula((columns[None, :] + 0.5) * ratio, (rows[:, None] + 0.5) * ratio)
        outside_x = (columns < 0) | (columns >= self.levels[level].width // reduce)
        outside_y = (rows < 0) | (rows >= self.levels[level].height // reduce)
        pixels = np.where((outside_x[None, :] | outside_y[:, None])[..., None], 255, pixels)
        return np.clip(np.round(pixels), 0, 255).astype(np.uint8)

    def block_size(self, level: int) -> tuple[int, int]:
        return self.levels[level].width, self.levels[level].height

    def thumbnail(self, max_px: int = 1024) -> NDArray[np.uint8]:
        ratio = max(self.width_px0, self.height_px0) / max_px
        x = (np.arange(max(1, round(self.width_px0 / ratio))) + 0.5) * ratio
        y = (np.arange(max(1, round(self.height_px0 / ratio))) + 0.5) * ratio
        return np.clip(np.round(self.formula(x[None, :], y[:, None])), 0, 255).astype(np.uint8)


@pytest.fixture
def formula_slide() -> type[FormulaSlide]:
    return FormulaSlide
