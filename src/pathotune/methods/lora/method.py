"""LoRA's model: frozen linear layers, each with a trained matrix of low rank added."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch import Tensor, nn

from pathotune.methods.adapted import AdaptedMethod, Change, map_size, new, put_change

if TYPE_CHECKING:
    from pathotune.backbones.surface import Backbone
    from pathotune.methods.lora.config import LoraConfig


class LowRank(Change):
    """`scale * up @ down` added to a weight; zero at the start.

    Parameters
    ----------
    layer : the linear map.
    rank : columns of `up`.
    scale : alpha / rank.
    """

    def __init__(self, layer: nn.Module, rank: int, scale: float) -> None:
        super().__init__()
        into, out = map_size(layer)
        self.scale = scale
        self.down_weight, self.up_weight = new(rank, into, like=layer), new(out, rank, like=layer)
        nn.init.kaiming_uniform_(self.down_weight, a=math.sqrt(5))

    def forward(self, values: Tensor, output: Tensor) -> Tensor:
        """The layer's output and the low-rank part of it."""
        return output + self.scale * nn.functional.linear(
            nn.functional.linear(values, self.down_weight), self.up_weight
        )

    def weight(self, weight: Tensor) -> Tensor:
        """The sum as one matrix."""
        return weight + self.scale * self.up_weight @ self.down_weight


class Lora(AdaptedMethod):
    """Low-rank adaptation of the linear layers of attention, or of all in the blocks (Hu et al. 2022).

    The sums are those of the peft library, which the tests compare with. Its own layers are not used: they add to the
    output alone, which the attention read-out and timm's models that take the weight itself would not see, and in
    CLIP towers they write into the frozen weights and back in every pass, which no two passes may do at a time.
    """

    config: LoraConfig
    what = "linear layers in its blocks"

    def change(self, backbone: Backbone, first_block: int) -> None:
        """A low-rank part for every layer of the roles that are on."""
        roles, config = backbone.modules_by_role(first_block), self.config
        for role in config.roles:
            for layer in roles[role]:
                put_change(backbone, layer, LowRank(layer, config.rank, config.alpha / config.rank))
