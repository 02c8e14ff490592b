"""A slide whose classes are known to the pixel, and a model that sees nothing but brightness."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from pathotune.events import Event, Finished
from pathotune.inference.predict import predict_slide
from pathotune.methods.base import MethodOutput
from pathotune.methods.checkpoint import Tuning
from pathotune.tiles.tileset import Reading

DARK, LIGHT = (110, 50, 120), (205, 130, 190)
TILE_PX, PATCH_PX = 32, 8


class StubBackbone(nn.Module):
    """A backbone of 4 x 4 patches with nothing in it but one linear layer for the hooks."""

    def __init__(self) -> None:
        super().__init__()
        self.card = SimpleNamespace(name="stub", patch_size=PATCH_PX, image_size=TILE_PX, tolerance=0.03)
        self.grid = (TILE_PX // PATCH_PX, TILE_PX // PATCH_PX)
        self.weights_sha256, self.weights_source, self.speed_name = "0" * 64, "test", "stub"
        self.layer = nn.Linear(1, 1)

    def normalise(self, images: Tensor) -> Tensor:
        return images.permute(0, 3, 1, 2).float() / 255


class BrightnessModel(nn.Module):
    """Class 0 is darker than the middle of both colours, class 1 lighter; attention goes to the dark."""

    attention_sources = ("cls", "tvp")

    def __init__(self, backbone: StubBackbone) -> None:
        super().__init__()
        self.backbone = backbone
        self.seen: list[int] = []
        self.hook: Callable[[int], None] | None = None

    def forward(self, pixels: Tensor, attention: bool = False) -> MethodOutput:
        self.seen.append(len(pixels))
        if self.hook is not None:
            self.hook(len(pixels))
        light = pixels[:, 0].mean(dim=(1, 2))[:, None]
        self.backbone.layer(light)
        middle = (DARK[0] + LIGHT[0]) / 2 / 255
        logits = torch.cat([middle - light, light - middle], dim=1).float() * 40
        patches = nn.functional.avg_pool2d(1 - pixels[:, 0].float(), PATCH_PX)
        share = patches / patches.sum(dim=(1, 2), keepdim=True)
        maps = {"cls": share, "tvp": share.flip(2)} if attention else {}
        return MethodOutput(logits, light, maps)


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Iterator[BrightnessModel]:
    """The model every prediction of the test uses."""
    model = BrightnessModel(StubBackbone())
    monkeypatch.setattr("pathotune.backbones.load_backbone", lambda name, **options: model.backbone)
    monkeypatch.setattr("pathotune.methods.fitting.backbone_to_load", lambda tuning, given=None: "stub")
    monkeypatch.setattr("pathotune.methods.build_model", lambda tuning, backbone: model)
    yield model


@pytest.fixture
def tuning(tmp_path: Path) -> Tuning:
    """A tuning of two classes that reads tiles of 16 µm."""
    classes = [{"name": "dark", "color": [200, 0, 0]}, {"name": "light", "color": [0, 160, 0]}]
    return Tuning(
        method="linear_probe",
        config={"views": 1},
        task={},
        classes=classes,
        backbone={"name": "stub", "sha256": "0" * 64},
        reading=Reading(mpp=0.5, tile_px=TILE_PX, image_px=TILE_PX),
        path=tmp_path / "brightness.pathotune.safetensors",
    )


def two_halves(
    path: Path,
    *,
    size: tuple[int, int] = (1700, 1300),
    mpp: float = 0.25,
    boundary_px0: float = 700.0,
    downsamples: tuple[float, ...] = (4.0,),
) -> Path:
    """A slide that is dark left of the boundary and light right of it, with tissue everywhere but in a margin."""
    import tifffile

    width, height = size
    columns = np.arange(width)[None, :, None]
    pixels = np.where(columns < boundary_px0, np.array(DARK), np.array(LIGHT)) + np.zeros((height, 1, 1), int)
    noise = np.random.default_rng(0).integers(-12, 13, (height, width, 1))
    pixels = (pixels + noise).clip(0, 255).astype(np.uint8)
    per_cm = 1e4 / mpp
    options: dict[str, Any] = {"tile": (256, 256), "photometric": "rgb", "metadata": None}
    options |= {"resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(pixels, resolution=(per_cm, per_cm), **options)
        for downsample in downsamples:
            smaller = Image.fromarray(pixels).resize(
                (round(width / downsample), round(height / downsample)), Image.Resampling.BOX
            )
            rate = per_cm / downsample
            tiff.write(np.asarray(smaller), subfiletype=1, resolution=(rate, rate), **options)
    return path


@pytest.fixture
def slide_path(tmp_path: Path) -> Path:
    return two_halves(tmp_path / "slide.tiff")


@pytest.fixture
def make_slide() -> Callable[..., Path]:
    """`two_halves`, for tests that need another size or pixel size."""
    return two_halves


@pytest.fixture
def run() -> Callable[..., tuple[dict[str, Any], list[Event]]]:
    """Predict to the end; the result and every event."""

    def predict(*arguments: Any, **options: Any) -> tuple[dict[str, Any], list[Event]]:
        events = list(predict_slide(*arguments, **{"device": "cpu", "precision": "float32", **options}))
        assert isinstance(events[-1], Finished)
        return events[-1].result, events

    return predict
