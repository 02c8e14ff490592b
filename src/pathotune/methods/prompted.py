"""What tile-level methods share: a frozen backbone with or without prompt tokens, and a head on what comes out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from pathotune.losses.head import StandardisedHead
from pathotune.methods.base import MethodConfig, MethodOutput, load_trained_arrays, trained_arrays
from pathotune.prompts.insert import PromptedEncoder, TokenSource

if TYPE_CHECKING:
    from pathotune.backbones.surface import Backbone


class PromptedMethod(nn.Module):
    """Base of the methods that change nothing in the backbone: prompt tokens before some block, and a head.

    Without prompts the backbone's features are the same in every epoch, and are what `lower` gives.

    Parameters
    ----------
    config : the method's options.
    backbone : frozen, on any device.
    class_names : K names.
    prompts : group name to token source; may be empty.
    head : from features (b, D) to logits (b, K).
    first_layer : the block before which prompts enter.
    """

    head: Any

    def __init__(
        self,
        config: MethodConfig,
        backbone: Backbone,
        class_names: Sequence[str],
        prompts: Mapping[str, TokenSource],
        head: StandardisedHead,
        first_layer: int = 0,
    ) -> None:
        super().__init__()
        self.config = config
        self.class_names = tuple(class_names)
        self.encoder = PromptedEncoder(backbone, prompts, first_layer if prompts else 0)
        self.head = head

    @property
    def backbone(self) -> Backbone:
        """The frozen backbone."""
        return self.encoder.backbone

    @property
    def has_prompts(self) -> bool:
        """Whether tokens join the backbone's."""
        return bool(self.encoder.prompts)

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences for the person on what this backbone and these options come to."""
        return ()

    @property
    def attention_sources(self) -> tuple[str, ...]:
        """ "cls" and each prompt group; none where the backbone is no plain vision transformer."""
        return self.encoder.attention_sources if self.backbone.takes_prompts else ()

    @property
    def kept_blocks(self) -> int:
        """Blocks below the first prompt; without prompts all (one where the backbone has no row of blocks)."""
        return self.encoder.first_layer if self.has_prompts else max(1, self.backbone.depth)

    @property
    def looks_at_tokens(self) -> bool:
        """Whether prompts join the tokens; without them the head sees finished features alone."""
        return self.has_prompts

    @property
    def looks_at_pixels(self) -> bool:
        """Whether a prompt is made from the tile's pixels."""
        return self.encoder.looks_at_pixels

    def pick(self, features: Any) -> Tensor:
        """What the head sees of the backbone's features."""
        pooled: Tensor = features.pooled
        return pooled.float()

    def lower(self, pixels: Tensor) -> Tensor:
        """The tokens below the first prompt, (b, prefix + P, C); without prompts the head's features, (b, D)."""
        if self.has_prompts:
            return self.encoder.lower(pixels)
        with torch.no_grad():
            return self.pick(self.backbone(pixels))

    def upper(self, lower: Tensor, pixels: Tensor, attention: bool = False) -> MethodOutput:
        """The rest on what `lower` gave; without prompts attention is read by `forward` alone."""
        if not self.has_prompts:
            return MethodOutput(self.head(lower), lower, {})
        encoded = self.encoder.upper(lower, pixels, attention)
        features = self.pick(encoded.features)
        return MethodOutput(self.head(features), features, encoded.attention)

    def forward(self, pixels: Tensor, attention: bool = False) -> MethodOutput:
        """Logits, features and attention of normalised tiles (b, 3, h, w)."""
        if self.has_prompts or not (attention and self.attention_sources):
            return self.upper(self.lower(pixels), pixels, attention)
        with torch.no_grad():
            encoded = self.encoder(pixels, attention=True)
        features = self.pick(encoded.features)
        return MethodOutput(self.head(features), features, encoded.attention)

    def start(self, features: Tensor, labels: np.ndarray, lower: Tensor | None = None) -> None:
        """Standardise the head's input."""
        self.head.standardise(features)

    def trainable_state(self) -> dict[str, np.ndarray]:
        """Prompts and head by name."""
        return trained_arrays(self)

    def load_trainable_state(self, state: dict[str, np.ndarray]) -> None:
        """Put back what `trainable_state` gave."""
        load_trained_arrays(self, state)
