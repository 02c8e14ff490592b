"""SSF's model: every layer's output scaled and shifted, channel by channel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pathotune.methods.adapted import AdaptedMethod, Change, new, put_change

if TYPE_CHECKING:
    from pathotune.backbones.surface import Backbone


class ScaleShift(Change):
    """A factor and a summand for each channel of a layer's output; one and zero at the start.

    Parameters
    ----------
    layer : a linear layer, a norm, or torch's MultiheadAttention for its projections.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        weight = layer.in_proj_weight if isinstance(layer, nn.MultiheadAttention) else layer.weight
        channels = int(weight.shape[0])  # type: ignore[union-attr, index]
        self.factor, self.shift = new(channels, like=layer), new(channels, like=layer)
        nn.init.ones_(self.factor)
        batch_or_group = isinstance(layer, nn.modules.batchnorm._BatchNorm | nn.GroupNorm)
        self.channels_first = batch_or_group or type(layer).__name__.endswith("2d")

    def forward(self, values: Tensor, output: Tensor) -> Tensor:
        """The output, scaled and shifted."""
        shape = (-1, *[1] * (output.ndim - 2)) if self.channels_first else (-1,)
        changed = torch.addcmul(self.shift.view(shape), output, self.factor.view(shape))
        return changed.to(output.dtype)

    def weight(self, weight: Tensor) -> Tensor:
        """Each row scaled."""
        return self.factor.view(-1, *[1] * (weight.ndim - 1)) * weight

    def bias(self, bias: Tensor | None) -> Tensor:
        """Scaled and shifted."""
        return self.shift if bias is None else torch.addcmul(self.shift, bias, self.factor)


class Ssf(AdaptedMethod):
    """Scale and shift behind the linear layers and norms of the blocks and behind the last norm (Lian et al. 2022).

    Published with one more behind the patch embedding and with a little noise at the start; here it starts as exactly
    the plain backbone. In convolutional networks the norms are scaled and shifted.
    """

    what = "linear layers and norms"

    def change(self, backbone: Backbone, first_block: int) -> None:
        """A factor and a summand behind every layer."""
        roles = backbone.modules_by_role(first_block)
        for role in ("qkv", "proj", "mlp", "norm"):
            for layer in roles[role]:
                if getattr(layer, "weight", layer) is not None:  # some norms have none
                    put_change(backbone, layer, ScaleShift(layer))
