"""A small slide with two kinds of tissue and regions drawn on both."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import shapely
from PIL import Image

from pathotune.regions import Region, Regions
from pathotune.training import examples
from pathotune.training.examples import Examples, TuneSource, gather
from pathotune.training.kept import KeptTiles
from pathotune.training.prefix import forget_prefixes
from pathotune.training.schedule import TrainingConfig

if TYPE_CHECKING:
    from pathotune.backbones.surface import Backbone

SIDE = 64


def checked_slide(folder: Path, name: str = "Doe^Jane 1960.png", seed: int = 0) -> tuple[Path, Regions]:
    """A slide of 12 x 8 cells of one tile each: the left half pale and smooth, the right half dark and grainy.

    Every second cell of every second row is drawn as a region of its own, so regions do not touch.
    """
    random = np.random.default_rng(seed)
    slide = np.empty((8 * SIDE, 12 * SIDE, 3), dtype=np.int64)
    slide[:, : 6 * SIDE] = (225, 170, 205)
    slide[:, 6 * SIDE :] = (150, 90, 170)
    grain = random.normal(0, 1, slide.shape[:2])[..., None]
    slide += (grain * np.where(np.arange(12 * SIDE) < 6 * SIDE, 6, 30)[None, :, None]).astype(np.int64)
    path = folder / name
    Image.fromarray(np.clip(slide, 0, 255).astype(np.uint8)).save(path)
    regions = []
    for row in range(0, 8, 2):
        for column in range(0, 12, 2):
            kind = "stroma" if column < 6 else "tumour"
            x, y = column * SIDE, row * SIDE
            regions.append(Region(shapely.box(x + 2, y + 2, x + SIDE - 2, y + SIDE - 2), kind, (1, 2, 3)))
    return path, Regions(regions, "drawn")


@pytest.fixture
def source(tmp_path: Path) -> TuneSource:
    """The slide and its regions, at half a micrometre per pixel."""
    path, regions = checked_slide(tmp_path)
    return TuneSource(path, regions=regions, slide_mpp=0.5, patient="Doe, Jane")


@pytest.fixture
def examples_of() -> Callable[..., Examples]:
    """Gathers the tiles of a source: `examples_of(source, backbone, training)`."""

    def gathered(source: TuneSource, backbone: Backbone, training: TrainingConfig) -> Examples:
        stream = gather([source], training.reading_of(backbone.card), training)
        while True:
            try:
                next(stream)
            except StopIteration as end:
                return end.value

    return gathered


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test finds tiles or values that another one left in the process."""
    monkeypatch.setattr(examples, "TILES", KeptTiles(10**8))
    forget_prefixes()
    yield
    forget_prefixes()
