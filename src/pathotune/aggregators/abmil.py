"""Gated attention pooling (Ilse, Tomczak and Welling, ICML 2018)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from pathotune.aggregators.base import Aggregator, Pooled, in_chunks


class GatedScore(nn.Module):
    """One score per tile: w · (tanh(V h) ⊙ sigmoid(U h)), equation 9 of the paper.

    Parameters
    ----------
    width : of the embedded tiles.
    inner : of the two gates.
    """

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.signal, self.gate = nn.Linear(width, inner), nn.Linear(width, inner)
        self.weigh = nn.Linear(inner, 1)

    def forward(self, embedded: Tensor) -> Tensor:
        """(n, width) → (n, 1)."""
        scores: Tensor = self.weigh(self.signal(embedded).tanh() * self.gate(embedded).sigmoid())
        return scores


class GatedAttention(Aggregator):
    """The tiles' mean weighted by the softmax of their gated scores.

    The softmax takes the bag's size out: what is counted reaches the vector only as a share of the attended tiles.

    Parameters
    ----------
    mass : also give the head the logarithm of the mean of the scores' exponentials, which the softmax divides by: how
        much there was to attend to. Ours, not in the paper; for classes that are a matter of amount.
    """

    is_weighted_mean = True

    def __init__(
        self, dim: int, outputs: int, *, hidden: int = 128, dropout: float = 0.25, k: int = 8, mass: bool = False
    ) -> None:
        super().__init__(dim, outputs, hidden=hidden, dropout=dropout, k=k)
        self.attention = GatedScore(self.width, max(1, self.width // 2))
        self.mass = mass
        self.out_dim = self.width + int(mass)

    def pool(self, features: Tensor, coords: Tensor | None) -> Pooled:
        """One bag with at least one tile."""
        embedded = in_chunks(self.embed, features)
        scores = in_chunks(self.attention, embedded)[:, 0]
        weights = scores.softmax(dim=0)
        vector = weights @ embedded
        if self.mass:
            vector = torch.cat([vector, (torch.logsumexp(scores, dim=0) - math.log(len(scores)))[None]])
        return Pooled(vector, weights, None, embedded)

    def alone(self, features: Tensor) -> Tensor:
        """(n, d') the embedded tiles: a tile that is alone has all the weight."""
        embedded = in_chunks(self.embed, features)
        return torch.cat([embedded, in_chunks(self.attention, embedded)], dim=1) if self.mass else embedded
