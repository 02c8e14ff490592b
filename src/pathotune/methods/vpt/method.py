"""Visual prompt tuning's model: task visual prompts and a linear head."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pathotune.methods.prompted import PromptedMethod
from pathotune.prompts.visual import LearnedPrompts

if TYPE_CHECKING:
    from pathotune.backbones.surface import Backbone
    from pathotune.methods.vpt.config import VptConfig


class Vpt(PromptedMethod):
    """Learned tokens at the first block or at every one, and a linear layer on the pooled output (Jia et al. 2022)."""

    config: VptConfig

    def make_prompts(self, backbone: Backbone, text_vectors: np.ndarray | None) -> dict[str, LearnedPrompts]:
        """The one group of learned tokens."""
        config = self.config
        layers = max(1, backbone.depth - config.first_block(backbone.depth)) if config.depth == "deep" else 1
        return {"tvp": LearnedPrompts(config.tokens, backbone.embed_dim, backbone.card.patch_size or 16, layers)}
