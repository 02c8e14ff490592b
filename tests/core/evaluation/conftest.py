"""A quick tuning and another slide to judge it on."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from PIL import Image

from pathotune.backbones import load_backbone
from pathotune.regions import Region, Regions, write_regions
from pathotune.training.examples import TuneSource
from pathotune.training.loop import tune
from pathotune.training.schedule import TrainingConfig


def slide(folder, name, seed):
    """A slide, left half pale and right half dark, with its regions as a source and as a file."""
    random = np.random.default_rng(seed)
    pixels = np.empty((224 * 4, 224 * 6, 3))
    pixels[:, : 224 * 3], pixels[:, 224 * 3 :] = (225, 170, 205), (130, 80, 160)
    pixels += random.normal(0, 10, pixels.shape)
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / f"{name}.png")
    regions = Regions(
        Region(shapely.box(x * 224 + 4, y * 224 + 4, x * 224 + 220, y * 224 + 220), "pale" if x < 3 else "dark")
        for x in range(6)
        for y in range(4)
    )
    write_regions(regions, folder / f"{name}.geojson")
    return TuneSource(folder / f"{name}.png", folder / f"{name}.geojson", slide_mpp=0.5)


@pytest.fixture(scope="session")
def tuned(tmp_path_factory):
    """(folder, tuning file, source it was tuned on, another source)."""
    folder = tmp_path_factory.mktemp("tuned")
    one, two = slide(folder, "one", 1), slide(folder, "two", 2)
    training = TrainingConfig(epochs=2, tiles_per_epoch=32, lr=3e-3, precision="float32")
    backbone = load_backbone("pathotune-tiny")
    for _ in tune([one], "linear_probe", {}, backbone, training, out=folder / "t"):
        pass
    return folder, folder / "t.pathotune.safetensors", one, two
