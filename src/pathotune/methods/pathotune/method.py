"""PathoTune's model: prompted frozen backbone and linear head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor, nn

from pathotune.losses.head import LinearHead
from pathotune.methods.base import MethodOutput, load_trained_arrays, trained_arrays
from pathotune.methods.pathotune.config import PathoTuneConfig
from pathotune.methods.pathotune.layers import prompt_groups
from pathotune.prompts.insert import Encoded, PromptedEncoder

if TYPE_CHECKING:
    from pathotune.backbones.surface import Backbone

# Inverse L2 penalty of the head's first fit: weak enough a fit that the prompts still get gradients from every tile.
HEAD_START_STRENGTH = 0.003


class PathoTune(nn.Module):
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

    def __init__(
        self,
        config: PathoTuneConfig,
        backbone: Backbone,
        class_names: Sequence[str],
        text_vectors: np.ndarray | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.class_names = tuple(class_names)
        groups = prompt_groups(config, backbone, text_vectors)
        self.encoder = PromptedEncoder(backbone, groups, config.first_block(backbone.depth))
        width = backbone.embed_dim if config.head_input == "cls" else backbone.output_dim
        self.head = LinearHead(width, len(self.class_names))

    @property
    def notes(self) -> tuple[str, ...]:
        """Nothing to say."""
        return ()

    @property
    def attention_sources(self) -> tuple[str, ...]:
        """ "cls" and each prompt group that is on."""
        return self.encoder.attention_sources

    @property
    def kept_blocks(self) -> int:
        """Blocks below the first prompt."""
        return self.encoder.first_layer

    @property
    def looks_at_tokens(self) -> bool:
        """Prompts join the tokens."""
        return True

    @property
    def looks_at_pixels(self) -> bool:
        """Whether an instance prompt is made from the tile's pixels."""
        return self.encoder.looks_at_pixels

    def lower(self, pixels: Tensor) -> Tensor:
        """The tokens below the first prompted block, (b, prefix + P, C)."""
        return self.encoder.lower(pixels)

    def upper(self, lower: Tensor, pixels: Tensor, attention: bool = False) -> MethodOutput:
        """Prompted blocks and head on what `lower` gave."""
        return self._answer(self.encoder.upper(lower, pixels, attention))

    def forward(self, pixels: Tensor, attention: bool = False) -> MethodOutput:
        """Logits, features and attention of normalised tiles (b, 3, h, w)."""
        return self._answer(self.encoder(pixels, attention))

    def start(self, features: Tensor, labels: np.ndarray, lower: Tensor | None = None) -> None:
        """Standardise the head's input and, if wanted, fit the head before the first step."""
        self.head.standardise(features)
        if self.config.head_start == "probe":
            self.head.fit(features, labels, HEAD_START_STRENGTH)

    def trainable_state(self) -> dict[str, np.ndarray]:
        """Prompts, projection, refine module and head by name."""
        return trained_arrays(self)

    def load_trainable_state(self, state: dict[str, np.ndarray]) -> None:
        """Put back what `trainable_state` gave."""
        load_trained_arrays(self, state)

    def _answer(self, encoded: Encoded) -> MethodOutput:
        chosen = encoded.features.cls if self.config.head_input == "cls" else encoded.features.pooled
        features = chosen.float()  # (b, D)
        return MethodOutput(self.head(features), features, encoded.attention)
