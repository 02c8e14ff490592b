"""The nearest neighbours' model: the plain frozen backbone and the training tiles' features."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pathotune.losses.memory import NeighboursHead
from pathotune.methods.prompted import PromptedMethod

if TYPE_CHECKING:
    from pathotune.backbones.surface import Backbone
    from pathotune.methods.neighbours.config import NeighboursConfig

KEPT = "head.kept"


class Neighbours(PromptedMethod):
    """Nearest neighbours on standardised features; nothing is trained, and the tuning holds the features."""

    config: NeighboursConfig

    def make_head(self, backbone: Backbone, text_vectors: np.ndarray | None) -> NeighboursHead:
        """Votes of the nearest training tiles."""
        return NeighboursHead(backbone.output_dim, len(self.class_names), self.config.neighbours)

    def load_trainable_state(self, state: dict[str, np.ndarray]) -> None:
        """Put back what `trainable_state` gave, however many tiles it holds."""
        if KEPT in state and state[KEPT].ndim == 2:
            self.head.make_room(len(state[KEPT]))
        super().load_trainable_state(state)
