"""The nearest class mean's model: the plain frozen backbone and one point per class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from pathotune.losses.memory import ClassMeansHead
from pathotune.methods.class_means.config import ClassMeansConfig
from pathotune.methods.prompted import PromptedMethod

if TYPE_CHECKING:
    from pathotune.backbones.surface import Backbone


class ClassMeans(PromptedMethod):
    """Nearest class mean on standardised features; nothing is trained.

    Parameters
    ----------
    config : the options.
    backbone : frozen, on any device.
    class_names : K names.
    text_vectors : not used; every method takes the same arguments.
    """

    def __init__(
        self,
        config: ClassMeansConfig,
        backbone: Backbone,
        class_names: Sequence[str],
        text_vectors: np.ndarray | None = None,
    ) -> None:
        super().__init__(config, backbone, class_names, {}, ClassMeansHead(backbone.output_dim, len(class_names)))

    def start(self, features: Tensor, labels: np.ndarray, lower: Tensor | None = None) -> None:
        """Take the classes' means."""
        super().start(features, labels, lower)
        self.head.remember(features, labels)
