"""PathoTune's model: prompted frozen backbone and linear head."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from pathotune.losses.head import LinearHead
from pathotune.methods.pathotune.layers import prompt_groups
from pathotune.methods.prompted import PromptedMethod
from pathotune.prompts.insert import TokenSource

if TYPE_CHECKING:
    from pathotune.backbones.surface import Backbone
    from pathotune.methods.pathotune.config import PathoTuneConfig


class PathoTune(PromptedMethod):
    """A frozen backbone steered by task visual, task textual and instance visual prompts (MICCAI 2024).

    Only the prompts, the text projection, the refine module and the head are trained. The paper published no code;
    sizes, places and head are our reading of it (see the config). Without text vectors textual prompts are off.
    """

    config: PathoTuneConfig

    def make_prompts(self, backbone: Backbone, text_vectors: np.ndarray | None) -> dict[str, TokenSource]:
        """The groups that are on."""
        return prompt_groups(self.config, backbone, text_vectors)

    def make_head(self, backbone: Backbone, text_vectors: np.ndarray | None) -> LinearHead:
        """A linear head, which may begin with a gentle fit."""
        width = backbone.embed_dim if self.config.head_input == "cls" else backbone.output_dim
        return LinearHead(width, len(self.class_names), self.config.first_fit)

    def pick(self, features: Any) -> Tensor:
        """The class token, or the backbone's own pooled output."""
        chosen: Tensor = features.cls if self.config.head_input == "cls" else features.pooled
        return chosen.float()
