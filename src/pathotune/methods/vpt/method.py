"""Visual prompt tuning's model: task visual prompts and a linear head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pathotune.losses.head import LinearHead
from pathotune.methods.prompted import PromptedMethod
from pathotune.methods.vpt.config import VptConfig
from pathotune.prompts.visual import LearnedPrompts

if TYPE_CHECKING:
    from pathotune.backbones.surface import Backbone


class Vpt(PromptedMethod):
    """Learned tokens at the first block or at every one, and a linear layer on the pooled output (Jia et al. 2022).

    Parameters
    ----------
    config : the options.
    backbone : frozen, on any device.
    class_names : K names.
    text_vectors : not used; every method takes the same arguments.

    Raises
    ------
    TuningMismatch
        The backbone takes no prompt tokens, or has fewer blocks than `first_layer` asks for.
    """

    def __init__(
        self,
        config: VptConfig,
        backbone: Backbone,
        class_names: Sequence[str],
        text_vectors: np.ndarray | None = None,
    ) -> None:
        first = config.first_block(backbone.depth)
        layers = max(1, backbone.depth - first) if config.depth == "deep" else 1
        tokens = LearnedPrompts(config.tokens, backbone.embed_dim, backbone.card.patch_size or 16, layers)
        head = LinearHead(backbone.output_dim, len(class_names))
        super().__init__(config, backbone, class_names, {"tvp": tokens}, head, first)
