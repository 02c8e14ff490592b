"""What one tile costs a training on this machine, from a few forward and backward passes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pathotune.device import choose_precision, pick_device
from pathotune.methods import load_config
from pathotune.methods.base import MethodConfig
from pathotune.prompts.text import SentenceVectors
from pathotune.tasks import task_from_dict
from pathotune.training.examples import Examples
from pathotune.training.preflight import Costs
from pathotune.training.run import Run
from pathotune.training.schedule import TrainingConfig

if TYPE_CHECKING:
    from pathotune.backbones.surface import Backbone

TILES = 16
READ_SECONDS = 0.006  # a tile of a JPEG slide, two threads; measured by the training itself once it runs


def measure(
    backbone: Backbone,
    method: str = "pathotune",
    method_config: MethodConfig | Mapping[str, Any] | None = None,
    training: TrainingConfig | None = None,
    text_width: int = 384,
) -> Costs:
    """Time a few tiles of noise through a method's model: one batch forward, one with its gradient.

    It takes a second or two with a small backbone; nothing is kept of it.

    Parameters
    ----------
    text_width : of the sentences' vectors, where the method takes sentences.
    """
    training = training or TrainingConfig()
    config = method_config if isinstance(method_config, MethodConfig) else load_config(method, method_config)
    device = pick_device(training.device)
    backbone = backbone.to(device)
    side = backbone.card.reading().image_px
    random = np.random.default_rng(0)
    examples = Examples(
        random.integers(0, 256, (TILES, side, side, 3), dtype=np.uint8),
        np.arange(TILES, dtype=np.int64) % 2,
        np.arange(TILES, dtype=np.int64),
        ("a", "b"),
        ((0, 0, 0), (0, 0, 0)),
        task_from_dict({"name": "probe", "classes": ["a", "b"]}),
        keys=[bytes([255]) * 15 + bytes([number]) for number in range(TILES)],
    )
    examples.train = examples.validation = np.arange(TILES, dtype=np.int64)
    vectors = random.normal(size=(2, text_width)).astype(np.float32) if config.text_encoder_wanted else None
    run = Run(method, config, backbone, examples, training, SentenceVectors(vectors, None), device)
    precision = choose_precision(
        lambda pixels: backbone(pixels).pooled,
        run.tiles.pixels(examples.images[:8]),
        device,
        training.precision,
        backbone.card.tolerance,
        backbone.speed_name,
    )
    try:
        return _timed(run, precision)
    finally:
        run.tiles.close()


def _timed(run: Run, precision: Any) -> Costs:
    tiles = run.examples.train
    run.tiles.precision = precision
    lower, kept_mb = 0.0, 0.0
    if run.tiles.keeps:
        run.tiles.use_own_cache()
        lower = _seconds(lambda: run.tiles.compute(tiles)) / TILES
        kept = run.tiles.inputs(tiles).kept
        kept_mb = 0.0 if kept is None else kept[0].nbytes / 2**20
    judge = _seconds(lambda: run.tiles.answers(tiles)) / TILES
    learn = _seconds(lambda: run.step(tiles, 0.0)) / TILES
    return Costs(READ_SECONDS, lower, learn, judge, kept_mb)


def _seconds(work: Callable[[], Any]) -> float:
    """Wall-clock time of the second of two calls: the first one warms kernels and memory up."""
    work()
    began = time.monotonic()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.monotonic() - began
