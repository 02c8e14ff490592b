"""BitFit's model: the backbone with biases of its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from torch import nn

from pathotune.methods.adapted import AdaptedMethod

if TYPE_CHECKING:
    from pathotune.backbones.surface import Backbone
    from pathotune.methods.bitfit.config import BitFitConfig


class BitFit(AdaptedMethod):
    """All biases of the backbone are trained, and nothing else in it (Ben Zaken et al. 2022).

    Begun late, those of the later blocks and of the last norm.
    """

    config: BitFitConfig
    what = "biases"

    @property
    def changes_embedding(self) -> bool:
        """With all blocks the bias of the patch embedding is trained too."""
        return self.config.first_block(self.encoder.backbone.depth) == 0

    def own_weights(self, backbone: Backbone) -> Iterator[nn.Parameter]:
        """The biases."""
        first = self.config.first_block(backbone.depth) if backbone.takes_prompts else 0
        late = [part for parts in backbone.modules_by_role(first).values() for part in parts]
        for part in late if first else [backbone]:
            for name, parameter in part.named_parameters():
                if name.rpartition(".")[2].endswith("bias"):
                    yield parameter
