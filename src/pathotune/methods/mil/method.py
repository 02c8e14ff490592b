"""The model of multiple-instance learning: standardised features of tiles, an aggregator, a linear head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from pathotune.aggregators import build_aggregator
from pathotune.aggregators.base import Pooled
from pathotune.methods import load_config
from pathotune.methods.base import load_trained_arrays, trained_arrays
from pathotune.methods.mil.config import MilConfig

if TYPE_CHECKING:
    from pathotune.methods.checkpoint import Tuning

# The aggregators that can also say how much there was to attend to.
ATTENDING = ("abmil", "clam_sb")


class BagOutput(NamedTuple):
    """What is said of a bag of tiles."""

    logits: Tensor  # (K,) float32, calibrated where the model comes from a tuning
    weights: Tensor  # (n,) share of each tile, summing to 1
    pooled: Pooled


class Mil(nn.Module):
    """Logits of a slide from the features of its tiles.

    Parameters
    ----------
    config : the options.
    width : D, of the features.
    class_names : K names.

    Attributes
    ----------
    temperature : logits are divided by it (calibration; 1 while training). It is kept by the tuning, not in the state.
    """

    mean: Tensor
    spread: Tensor

    def __init__(self, config: MilConfig, width: int, class_names: Sequence[str]) -> None:
        super().__init__()
        self.config, self.class_names = config, tuple(class_names)
        self.temperature = 1.0
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("spread", torch.ones(width))
        options: dict[str, Any] = {"hidden": config.hidden, "dropout": config.dropout, "k": config.k}
        if config.aggregator in ATTENDING:
            options["mass"] = config.mass
        self.aggregator = build_aggregator(config.aggregator, width, len(self.class_names), **options)
        gives_logits = self.aggregator.gives_logits
        self.head: nn.Module = (
            nn.Identity() if gives_logits else nn.Linear(self.aggregator.out_dim, len(self.class_names))
        )

    @classmethod
    def from_tuning(cls, tuning: Tuning, device: str = "cpu") -> Mil:
        """The model a tuning describes, ready to predict; raises TuningUnreadable where its tensors do not fit."""
        config = load_config(tuning.method, tuning.config)
        width = int(tuning.training["features"]["width"])
        model = cls(config, width, tuning.class_names)  # type: ignore[arg-type]
        model.load_trainable_state(tuning.trained)
        model.temperature = float(tuning.calibration.get("temperature", 1.0))
        return model.to(device).eval().requires_grad_(False)

    def standardise(self, features: Tensor) -> None:
        """Take mean and spread from features (n, D) of training tiles."""
        self.mean.copy_(features.float().mean(dim=0))
        spread = features.float().std(dim=0, unbiased=False)
        # A channel that never changes keeps its scale instead of being blown up.
        self.spread.copy_(torch.where(spread > 1e-6, spread, torch.ones_like(spread)))

    def forward(self, features: Tensor, cells: Tensor | None = None) -> BagOutput:
        """What is said of one slide.

        Parameters
        ----------
        features : (n, D) of its tiles.
        cells : (n, 2) column and row of each tile.
        """
        pooled = self.aggregator((self.own(features) - self.mean) / self.spread, cells)
        return BagOutput(self.head(pooled.vector) / self.temperature, pooled.weights, pooled)

    def alone(self, features: Tensor) -> Tensor:
        """(n, K) logits of each of a slide's tiles as if it were all there is of its slide."""
        logits: Tensor = self.head(self.aggregator.alone((self.own(features) - self.mean) / self.spread))
        return logits / self.temperature

    def own(self, features: Tensor) -> Tensor:
        """The features (n, D) of one slide's tiles; where that is wanted, without what all of them share."""
        features = features.float()
        if not (self.config.centre and len(features)):
            return features
        return features - features.mean(dim=0)

    def speaking(self, said: BagOutput) -> Tensor | None:
        """(K, n) which tiles speak for each class: their share of all that attention brings to its logit.

        Attention says where the aggregator looks, not for what: in a slide without what a class is known by it lies
        somewhere too. A tile's part in a logit is its weight times what the head makes of it, over the mean of all
        classes; parts that speak against the class count as none. The parts of all tiles together are the logit, as
        in additive multiple-instance learning (Javed et al. 2022). None where the slide's vector is no weighted mean
        of its tiles.
        """
        pooled = said.pooled
        if pooled.class_weights is not None:
            return pooled.class_weights
        if not (self.aggregator.is_weighted_mean and isinstance(self.head, nn.Linear)) or pooled.embedded is None:
            return None
        rest = pooled.vector[self.aggregator.width :]  # the mass, which tiles share as they share attention
        tiles = torch.cat([pooled.embedded, rest.expand(len(pooled.embedded), -1)], dim=1)
        logits: Tensor = self.head(tiles)  # (n, K)
        parts = (pooled.weights[:, None] * (logits - logits.mean(dim=1, keepdim=True))).clamp_min(0).T
        return parts / parts.sum(dim=1, keepdim=True).clamp_min(1e-12)

    def trainable_state(self) -> dict[str, np.ndarray]:
        """Everything there is by name."""
        return trained_arrays(self)

    def load_trainable_state(self, state: dict[str, np.ndarray]) -> None:
        """Put back what `trainable_state` gave; raises TuningUnreadable where a name or shape differs."""
        load_trained_arrays(self, state)
