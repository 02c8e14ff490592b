"""Methods that change nothing in the backbone: with or without prompt tokens, and a head on what comes out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from pathotune.methods.base import MethodOutput
from pathotune.methods.tile import TileMethod
from pathotune.prompts.insert import PromptedEncoder, TokenSource

if TYPE_CHECKING:
    from pathotune.backbones.surface import Backbone


class PromptedMethod(TileMethod):
    """Base of the methods whose backbone stays as it is: prompt tokens before some block, and a head.

    Without prompts the backbone's features are the same in every epoch, and are what `lower` gives: such methods work
    with every backbone, convolutional ones too.
    """

    def make_prompts(self, backbone: Backbone, text_vectors: np.ndarray | None) -> Mapping[str, TokenSource]:
        """Group name to token source, in the order in which they stand in the sequence."""
        return {}

    def make_encoder(self, backbone: Backbone, text_vectors: np.ndarray | None) -> PromptedEncoder:
        """The backbone with its prompts."""
        prompts = self.make_prompts(backbone, text_vectors)
        return PromptedEncoder(backbone, prompts, self.config.first_block(backbone.depth) if prompts else 0)

    @property
    def has_prompts(self) -> bool:
        """Whether tokens join the backbone's."""
        return bool(self.encoder.prompts)

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
        return self.answer(*self.encoder.upper(lower, pixels, attention))

    def forward(self, pixels: Tensor, attention: bool = False) -> MethodOutput:
        """Logits, features and attention of normalised tiles (b, 3, h, w)."""
        if self.has_prompts or not (attention and self.attention_sources):
            return self.upper(self.lower(pixels), pixels, attention)
        with torch.no_grad():
            encoded = self.encoder(pixels, attention=True)
        return self.answer(*encoded)
