"""A backbone with learned tokens of its own behind its prefix tokens, which any method can take like the plain one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pathotune.backbones.surface import Backbone, Features
from pathotune.backbones.tile.wrapped import Wrapped
from pathotune.errors import TuningMismatch


class WithTokens(Wrapped):
    """A frozen backbone on [prefix | own tokens | patches]; to others the own ones are prefix tokens too.

    Parameters
    ----------
    base : the backbone; it stays as it is.
    tokens : (layers, N, C). Those of layer 0 enter before the first block; the own tokens are replaced by those of
        layer i before block i, as in deep visual prompt tuning (Jia et al. 2022).

    Raises
    ------
    TuningMismatch : the backbone takes no tokens, or tokens of another width.
    """

    def __init__(self, base: Backbone, tokens: Tensor) -> None:
        if not base.takes_prompts:
            raise TuningMismatch(
                f"{base.card.title} takes no prompt tokens (only plain vision transformers do); use --set tuned=full."
            )
        if tokens.ndim != 3 or tokens.shape[2] != base.embed_dim or tokens.shape[0] > base.depth:
            raise TuningMismatch(
                f"Prompts of shape {tuple(tokens.shape)} do not fit {base.card.title}: it has {base.depth} blocks of "
                f"tokens {base.embed_dim} wide."
            )
        super().__init__(base.card, base)
        self.first, self.own = base.prefix_tokens, int(tokens.shape[1])
        self.prefix_tokens = self.first + self.own
        self.tokens = nn.Parameter(tokens.detach().clone(), requires_grad=False)

    def _embed(self, pixels: Tensor) -> Tensor:
        tokens = super()._embed(pixels)
        return torch.cat([tokens[:, : self.first], self._layer(0, tokens), tokens[:, self.first :]], dim=1)

    def _block(self, index: int, tokens: Tensor, extra: int) -> Tensor:
        if 0 < index < len(self.tokens):
            rest = tokens[:, self.prefix_tokens :]
            tokens = torch.cat([tokens[:, : self.first], self._layer(index, tokens), rest], dim=1)
        return super()._block(index, tokens, extra + self.own)

    def _finish(self, tokens: Tensor) -> Features:
        return self.network.finish(tokens, self.own)

    def _layer(self, index: int, tokens: Tensor) -> Tensor:
        return self.tokens[index].to(tokens.dtype).expand(len(tokens), -1, -1)

    def _queries_and_keys(self, index: int, tokens: Tensor, extra: int, rows: Tensor) -> tuple[Tensor, Tensor, float]:
        return super()._queries_and_keys(index, tokens, extra + self.own, rows)
