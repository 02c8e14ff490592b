"""Task visual prompts: free learnable tokens, at one block or at every one."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from pathotune.prompts.insert import TileView, TokenSource


class LearnedPrompts(TokenSource):
    """Learnable tokens, the same for every tile.

    Uniformly drawn at first within ±sqrt(6 / (3·p² + C)), p the patch size and C the token width: the bound of visual
    prompt tuning (Jia et al. 2022), a Xavier bound for the patch projection.

    Parameters
    ----------
    count : tokens per block.
    width : C, the backbone's token width.
    patch_size : p, in pixels.
    layers : prompted blocks; more than 1 replaces the tokens before each block (deep), 1 lets them pass on (shallow).
    """

    def __init__(self, count: int, width: int, patch_size: int, layers: int = 1) -> None:
        super().__init__()
        self.count = count
        bound = math.sqrt(6.0 / (3 * patch_size * patch_size + width))
        self.values = nn.Parameter(torch.empty(layers, count, width).uniform_(-bound, bound))  # (layers, N, C)

    def prepare(self, view: TileView) -> Tensor:
        """The values for every tile of the batch, without copying: (layers, b, N, C)."""
        return self.values.unsqueeze(1).expand(-1, view.patches.shape[0], -1, -1)

    def tokens(self, step: int, prepared: Tensor) -> Tensor | None:
        """The tokens of that block; None beyond the last prompted one."""
        return prepared[step] if step < prepared.shape[0] else None
