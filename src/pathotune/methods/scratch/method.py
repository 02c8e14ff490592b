"""The same network from random weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from pathotune.backbones.weights import fill_randomly
from pathotune.methods.adapted import WholeMethod

if TYPE_CHECKING:
    from pathotune.backbones.surface import Backbone

BatchNorm = nn.modules.batchnorm._BatchNorm


class Scratch(WholeMethod):
    """The backbone's architecture, drawn at random and trained as a whole; none of its weights are used.

    Batch norms take mean and spread of the first tiles and keep them: what a tile is said to be then never depends on
    the others in its batch.
    """

    def own_weights(self, backbone: Backbone) -> Iterator[Tensor]:
        """All parameters, and what batch norms have counted."""
        yield from backbone.parameters()
        for norm in _batch_norms(backbone):
            yield from (norm.running_mean, norm.running_var)

    def change(self, backbone: Backbone, first_block: int) -> None:
        """Random weights, by torch's own seed."""
        fill_randomly(backbone, int(torch.randint(2**31, ())))
        for norm in _batch_norms(backbone):
            norm.running_mean.zero_()
            norm.running_var.fill_(1.0)

    def start(self, features: Tensor, labels: np.ndarray, lower: Tensor | None = None) -> None:
        """Let batch norms count, and the head look at what then comes out."""
        norms = _batch_norms(self.backbone)
        if norms and lower is not None:
            hooks = [norm.register_forward_pre_hook(_count) for norm in norms]
            with torch.no_grad():
                self.backbone(lower)
                for hook in hooks:
                    hook.remove()
                features = self.pick(self.backbone(lower))
        self.head.standardise(features)


def _batch_norms(backbone: Backbone) -> list[Any]:
    return [part for part in backbone.modules() if isinstance(part, BatchNorm) and part.running_mean is not None]


def _count(norm: Any, inputs: tuple[Tensor, ...]) -> None:
    """Mean and variance of each channel of what comes in."""
    values = inputs[0].float()
    others = [axis for axis in range(values.ndim) if axis != 1]
    norm.running_mean.copy_(values.mean(dim=others))
    norm.running_var.copy_(values.var(dim=others))
