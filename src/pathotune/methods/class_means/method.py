"""The nearest class mean's model: the plain frozen backbone and one point per class."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pathotune.losses.memory import ClassMeansHead
from pathotune.methods.prompted import PromptedMethod

if TYPE_CHECKING:
    from pathotune.backbones.surface import Backbone


class ClassMeans(PromptedMethod):
    """Nearest class mean on standardised features; nothing is trained."""

    def make_head(self, backbone: Backbone, text_vectors: np.ndarray | None) -> ClassMeansHead:
        """Distances to the classes' means."""
        return ClassMeansHead(backbone.output_dim, len(self.class_names))
