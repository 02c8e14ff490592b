"""What tile-level methods share: an encoder made from the frozen backbone, and a head on what comes out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, nn

from pathotune.losses.head import LinearHead, StandardisedHead
from pathotune.methods.base import MethodConfig, MethodOutput, load_trained_arrays, trained_arrays
from pathotune.prompts.insert import PromptedEncoder

if TYPE_CHECKING:
    from pathotune.backbones.surface import Backbone


class TileMethod(nn.Module, ABC):
    """Base of the methods for single tiles (`methods.base.Method`).

    Parameters
    ----------
    config : the method's options.
    backbone : frozen, on any device.
    class_names : K names.
    text_vectors : (M, D_t) float32, one row per sentence of `config.sentences_for`; None without a text encoder.

    Raises
    ------
    TuningMismatch
        The method cannot be had on this backbone, or the backbone has no block `config.first_layer`.
    """

    def __init__(
        self,
        config: MethodConfig,
        backbone: Backbone,
        class_names: Sequence[str],
        text_vectors: np.ndarray | None = None,
    ) -> None:
        super().__init__()
        self.config: Any = config
        self.class_names = tuple(class_names)
        self.encoder = self.make_encoder(backbone, text_vectors)
        self.head: Any = self.make_head(backbone, text_vectors)

    # -- what a method fills in -----------------------------------------------------------------------------------

    @abstractmethod
    def make_encoder(self, backbone: Backbone, text_vectors: np.ndarray | None) -> PromptedEncoder:
        """The backbone with what the method puts into it."""

    def make_head(self, backbone: Backbone, text_vectors: np.ndarray | None) -> StandardisedHead:
        """What makes logits (b, K) of features (b, D)."""
        return LinearHead(backbone.output_dim, len(self.class_names), self.config.first_fit)

    def pick(self, features: Any) -> Tensor:
        """What the head sees of the backbone's features."""
        pooled: Tensor = features.pooled
        return pooled.float()

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences for the person on what this backbone and these options come to."""
        return ()

    def rate_share(self, name: str) -> float:
        """The share of the learning rate at which a parameter is trained."""
        return 1.0

    # -- what is the same for all ---------------------------------------------------------------------------------

    @property
    def backbone(self) -> Backbone:
        """The backbone as the method runs it."""
        return self.encoder.backbone

    @property
    def attention_sources(self) -> tuple[str, ...]:
        """ "cls" and each prompt group; none where the backbone is no plain vision transformer."""
        return self.encoder.attention_sources if self.backbone.takes_prompts else ()

    def answer(self, features: Any, attention: dict[str, Tensor] | None = None) -> MethodOutput:
        """What is said of tiles with these features of the backbone."""
        picked = self.pick(features)
        return MethodOutput(self.head(picked), picked, attention or {})

    def start(self, features: Tensor, labels: np.ndarray, lower: Tensor | None = None) -> None:
        """Let the head look at the training tiles (see `methods.base.Method`)."""
        self.head.begin(features, labels)

    def trainable_state(self) -> dict[str, np.ndarray]:
        """What was trained and what cannot be computed again, by name."""
        return trained_arrays(self)

    def load_trainable_state(self, state: dict[str, np.ndarray]) -> None:
        """Put back what `trainable_state` gave."""
        load_trained_arrays(self, state)
