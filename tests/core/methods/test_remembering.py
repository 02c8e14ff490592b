"""Methods that train nothing: nearest class mean and nearest neighbours."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pathotune.events import EpochEnd
from pathotune.losses.memory import ClassMeansHead, NeighboursHead


def clouds(count=30, width=8):
    """Features of three classes, far apart, and their labels."""
    random = torch.Generator().manual_seed(0)
    labels = np.arange(count) % 3
    return torch.eye(3, width)[torch.from_numpy(labels)] * 6 + torch.randn(count, width, generator=random), labels


@pytest.mark.parametrize("head", [ClassMeansHead(8, 3), NeighboursHead(8, 3, 5)])
def test_what_lies_near_is_alike(head):
    features, labels = clouds()
    head.begin(features, labels)
    logits = head(features)
    assert (logits.argmax(dim=1).numpy() == labels).all()
    assert torch.isfinite(logits).all()
    head.temperature = 2.0
    assert torch.allclose(head(features), logits / 2)


def test_as_many_neighbours_are_asked_as_there_are():
    features, labels = clouds(6)
    head = NeighboursHead(8, 3, 50)
    assert head(features).shape == (6, 3), "before anything is kept nothing is said"
    head.begin(features, labels)
    shares = head(features).exp()
    assert torch.allclose(shares.sum(dim=1), torch.ones(6), atol=1e-5) and shares.min() > 0


@pytest.mark.parametrize("method", ["class_means", "neighbours"])
def test_one_look_is_the_whole_training(tiny_backbone, tmp_path, method):
    from PIL import Image
    from shapely.geometry import box

    from pathotune.methods import build_model
    from pathotune.methods.checkpoint import Tuning
    from pathotune.regions import Region, Regions
    from pathotune.training.examples import TuneSource
    from pathotune.training.loop import tune
    from pathotune.training.schedule import TrainingConfig

    random = np.random.default_rng(0)
    pixels = random.normal(190, 20, (256, 512, 3))
    pixels[:, 256:] -= 110
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(tmp_path / "slide.png")
    drawn = Regions(
        [
            Region(box(x, y, x + 64, y + 64), "pale" if x < 256 else "dark")
            for x in range(0, 512, 64)
            for y in (0, 96, 180)
        ]
    )
    source = TuneSource(tmp_path / "slide.png", regions=drawn, slide_mpp=0.5)
    backbone = tiny_backbone()
    events = list(
        tune([source], method, {}, backbone, TrainingConfig(epochs=5, precision="float32"), out=tmp_path / "t")
    )
    assert sum(isinstance(event, EpochEnd) for event in events) == 1
    result = events[-1].result
    assert result["val"]["balanced_accuracy"] == 1.0 and result["trainable_parameters"] == 0
    model = build_model(Tuning.load(result["out"]), backbone)
    assert torch.isfinite(model(torch.zeros(1, 3, 64, 64)).logits).all()
