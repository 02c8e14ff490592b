"""PathoTune's model: prompted frozen backbone and linear head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from pathotune.losses.head import LinearHead
from pathotune.methods.pathotune.config import PathoTuneConfig
from pathotune.methods.pathotune.layers import prompt_groups
from pathotune.methods.prompted import PromptedMethod

if TYPE_CHECKING:
    from pathotune.backbones.surface import Backbone

# Inverse L2 penalty of the head's first fit: weak enough a fit that the prompts still get gradients from every tile.
HEAD_START_STRENGTH = 0.003


class PathoTune(PromptedMethod):
    """A frozen backbone steered by task visual, task textual and instance visual prompts (MICCAI 2024).

    Only the prompts, the text projection, the refine module and the head are trained. The paper published no code;
    sizes, places and head are our reading of it (see the config).

    Parameters
    ----------
    config : which prompts there are.
    backbone : frozen, on any device.
    class_names : K names.
    text_vectors : (M, D_t) float32, or None without a text encoder: textual prompts are then off.

    Raises
    ------
    TuningMismatch
        The backbone takes no prompt tokens, or has fewer blocks than `first_layer` asks for.
    """

    config: PathoTuneConfig

    def __init__(
        self,
        config: PathoTuneConfig,
        backbone: Backbone,
        class_names: Sequence[str],
        text_vectors: np.ndarray | None = None,
    ) -> None:
        groups = prompt_groups(config, backbone, text_vectors)
        width = backbone.embed_dim if config.head_input == "cls" else backbone.output_dim
        head = LinearHead(width, len(class_names))
        super().__init__(config, backbone, class_names, groups, head, config.first_block(backbone.depth))

    def pick(self, features: Any) -> Tensor:
        """The class token, or the backbone's own pooled output."""
        chosen: Tensor = features.cls if self.config.head_input == "cls" else features.pooled
        return chosen.float()

    def start(self, features: Tensor, labels: np.ndarray, lower: Tensor | None = None) -> None:
        """Standardise the head's input and, if wanted, fit the head before the first step."""
        self.head.standardise(features)
        if self.config.head_start == "probe":
            self.head.fit(features, labels, HEAD_START_STRENGTH)
