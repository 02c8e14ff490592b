"""The linear probe's model: the plain frozen backbone and a linear head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pathotune.losses.head import LinearHead
from pathotune.methods.linear_probe.config import LinearProbeConfig
from pathotune.methods.prompted import PromptedMethod

if TYPE_CHECKING:
    from pathotune.backbones.surface import Backbone


class LinearProbe(PromptedMethod):
    """One linear layer on the backbone's pooled output; tiles pass the backbone once per run.

    Works with every backbone, convolutional ones too; attention where the backbone is a plain vision transformer.

    Parameters
    ----------
    config : the options.
    backbone : frozen, on any device.
    class_names : K names.
    text_vectors : not used; every method takes the same arguments.
    """

    def __init__(
        self,
        config: LinearProbeConfig,
        backbone: Backbone,
        class_names: Sequence[str],
        text_vectors: np.ndarray | None = None,
    ) -> None:
        super().__init__(config, backbone, class_names, {}, LinearHead(backbone.output_dim, len(class_names)))
