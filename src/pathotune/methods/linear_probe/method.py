"""The linear probe's model: the plain frozen backbone and a linear head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from pathotune.losses.head import LinearHead
from pathotune.methods.base import MethodOutput, load_trained_arrays, trained_arrays
from pathotune.methods.linear_probe.config import LinearProbeConfig
from pathotune.prompts.insert import PromptedEncoder

if TYPE_CHECKING:
    from pathotune.backbones.surface import Backbone


class LinearProbe(nn.Module):
    """One linear layer on the backbone's pooled output; tiles pass the backbone once per run.

    Works with every backbone, convolutional ones too; attention where the backbone is a plain vision transformer.

    Parameters
    ----------
    config : the options.
    backbone : frozen, on any device.
    class_names : K names.
    text_vectors : not used; every method takes the same arguments.
    """

    def __init__(
        self,
        config: LinearProbeConfig,
        backbone: Backbone,
        class_names: Sequence[str],
        text_vectors: np.ndarray | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.class_names = tuple(class_names)
        self.backbone = backbone
        self.head = LinearHead(backbone.output_dim, len(self.class_names))

    @property
    def notes(self) -> tuple[str, ...]:
        """Nothing to say."""
        return ()

    @property
    def attention_sources(self) -> tuple[str, ...]:
        """ "cls" where the backbone is a plain vision transformer."""
        return ("cls",) if self.backbone.takes_prompts else ()

    @property
    def kept_blocks(self) -> int:
        """All of them (one where the backbone has no row of blocks)."""
        return max(1, self.backbone.depth)

    @property
    def looks_at_tokens(self) -> bool:
        """The head sees finished features alone."""
        return False

    @property
    def looks_at_pixels(self) -> bool:
        """The head sees finished features alone."""
        return False

    def lower(self, pixels: Tensor) -> Tensor:
        """The pooled features, (b, D): everything but the head is frozen."""
        with torch.no_grad():
            pooled: Tensor = self.backbone(pixels).pooled
        return pooled.float()

    def upper(self, lower: Tensor, pixels: Tensor, attention: bool = False) -> MethodOutput:
        """The head on pooled features; attention needs the pixels and is read by `forward` alone."""
        return MethodOutput(self.head(lower), lower, {})

    def forward(self, pixels: Tensor, attention: bool = False) -> MethodOutput:
        """Logits, features and attention of normalised tiles (b, 3, h, w)."""
        if not (attention and self.attention_sources):
            return self.upper(self.lower(pixels), pixels)
        with torch.no_grad():
            encoded = PromptedEncoder(self.backbone, {})(pixels, attention=True)
        features = encoded.features.pooled.float()
        return MethodOutput(self.head(features), features, encoded.attention)

    def start(self, features: Tensor, labels: np.ndarray, lower: Tensor | None = None) -> None:
        """Standardise the head's input."""
        self.head.standardise(features)

    def trainable_state(self) -> dict[str, np.ndarray]:
        """The head by name."""
        return trained_arrays(self)

    def load_trainable_state(self, state: dict[str, np.ndarray]) -> None:
        """Put back what `trainable_state` gave."""
        load_trained_arrays(self, state)
