"""The nearest neighbours' model: the plain frozen backbone and the training tiles' features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from pathotune.losses.memory import NeighboursHead
from pathotune.methods.neighbours.config import NeighboursConfig
from pathotune.methods.prompted import PromptedMethod

if TYPE_CHECKING:
    from pathotune.backbones.surface import Backbone

KEPT = "head.kept"


class Neighbours(PromptedMethod):
    """Nearest neighbours on standardised features; nothing is trained, and the tuning holds the features.

    Parameters
    ----------
    config : the options.
    backbone : frozen, on any device.
    class_names : K names.
    text_vectors : not used; every method takes the same arguments.
    """

    def __init__(
        self,
        config: NeighboursConfig,
        backbone: Backbone,
        class_names: Sequence[str],
        text_vectors: np.ndarray | None = None,
    ) -> None:
        head = NeighboursHead(backbone.output_dim, len(class_names), config.neighbours)
        super().__init__(config, backbone, class_names, {}, head)

    def start(self, features: Tensor, labels: np.ndarray, lower: Tensor | None = None) -> None:
        """Keep the training tiles' features."""
        super().start(features, labels, lower)
        self.head.remember(features, labels)

    def load_trainable_state(self, state: dict[str, np.ndarray]) -> None:
        """Put back what `trainable_state` gave, however many tiles it holds."""
        if KEPT in state and state[KEPT].ndim == 2:
            self.head.make_room(len(state[KEPT]))
        super().load_trainable_state(state)
