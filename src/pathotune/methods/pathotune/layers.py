"""PathoTune's trained parts: the three prompt groups as its config asks for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from pathotune.methods.pathotune.config import PathoTuneConfig
from pathotune.prompts.insert import TileView, TokenSource
from pathotune.prompts.instance import InstancePrompts, instance_maker
from pathotune.prompts.visual import LearnedPrompts

if TYPE_CHECKING:
    from pathotune.backbones.surface import Backbone


class TextPrompts(TokenSource):
    """Sentences as tokens: their fixed vectors through a trained linear layer and LayerNorm.

    Parameters
    ----------
    vectors : (M, D_t) float32, one row per sentence, from a frozen text encoder that is not needed any more.
    width : C, the backbone's token width.
    deep : put the same tokens in again before every block.
    """

    vectors: Tensor

    def __init__(self, vectors: np.ndarray, width: int, deep: bool = False) -> None:
        super().__init__()
        self.count, self.deep = len(vectors), deep
        # Not in the state: the tuning file keeps the sentences' vectors once, under their own name.
        self.register_buffer("vectors", torch.as_tensor(vectors, dtype=torch.float32), persistent=False)
        self.projection = nn.Linear(vectors.shape[1], width)
        self.norm = nn.LayerNorm(width)

    def prepare(self, view: TileView) -> Tensor:
        """The sentences' tokens, the same for every tile: (b, M, C)."""
        tokens: Tensor = self.norm(self.projection(self.vectors))
        return tokens.expand(view.patches.shape[0], -1, -1)

    def tokens(self, step: int, prepared: Tensor) -> Tensor | None:
        """The tokens at the first prompted block, and at the others where `deep`."""
        return prepared if step == 0 or self.deep else None


def prompt_groups(
    config: PathoTuneConfig, backbone: Backbone, text_vectors: np.ndarray | None
) -> dict[str, TokenSource]:
    """The groups that are on, in the order in which they stand in the sequence."""
    width = backbone.embed_dim
    groups: dict[str, TokenSource] = {}
    if config.tvp_tokens:
        layers = max(1, backbone.depth - config.first_block(backbone.depth)) if config.tvp_depth == "deep" else 1
        groups["tvp"] = LearnedPrompts(config.tvp_tokens, width, backbone.card.patch_size or 16, layers)
    if text_vectors is not None and len(text_vectors) and config.ttp:
        groups["ttp"] = TextPrompts(text_vectors, width, deep=config.ttp_depth == "deep")
    if config.ivp != "off":
        maker = instance_maker(config.ivp, config.ivp_tokens, width, config.vrm_width)
        groups["ivp"] = InstancePrompts(maker, config.ivp_tokens, width, deep=config.ivp_depth == "deep")
    return groups
