"""A slide reduced to what regions ask of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from pathotune.slides.mpp import Mpp
from pathotune.slides.source import Level


@dataclass
class PlainSlide:
    """Size, bounds, levels and pixel size, without pixels."""

    width_px0: int = 4000
    height_px0: int = 3000
    bounds_px0: tuple[int, int, int, int] = (0, 0, 4000, 3000)
    name: str = "slide.svs"
    levels: tuple[Level, ...] = ()
    mpp: Mpp | None = None


@pytest.fixture
def plain_slide() -> PlainSlide:
    return PlainSlide()


@pytest.fixture
def bounded_slide() -> PlainSlide:
    """As MRXS files are: the scanned part lies somewhere on a larger canvas."""
    return PlainSlide(20_000, 30_000, (7000, 12_000, 4000, 3000), "slide.mrxs")


@pytest.fixture
def annotations(shared_data: Path) -> Path:
    return shared_data / "annotations"
