"""Aggregators without attention: the mean of the tiles, and the mean of what each tile says."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pathotune.aggregators.base import Aggregator, Pooled, in_chunks


class Mean(Aggregator):
    """The mean of the embedded tiles; every tile has the same share."""

    is_weighted_mean = True

    def pool(self, features: Tensor, coords: Tensor | None) -> Pooled:
        """One bag with at least one tile."""
        embedded = in_chunks(self.embed, features)
        return Pooled(embedded.mean(dim=0), _even(features), None, embedded)

    def alone(self, features: Tensor) -> Tensor:
        """(n, d') the embedded tiles themselves."""
        return in_chunks(self.embed, features)


class SoftVote(Aggregator):
    """The mean of the tiles' class probabilities (the slide decision of CITE's authors).

    Its vector are the logarithms of these means, so that cross-entropy on it is that of the vote. A tile's share of a
    class is its part of that class's votes; its share without a class is even.
    """

    gives_logits = True

    def __init__(self, dim: int, outputs: int, *, hidden: int = 128, dropout: float = 0.25, k: int = 8) -> None:
        super().__init__(dim, outputs, hidden=hidden, dropout=dropout, k=k)
        self.vote = nn.Linear(self.width, outputs)
        self.out_dim = outputs

    def pool(self, features: Tensor, coords: Tensor | None) -> Pooled:
        """One bag with at least one tile."""
        embedded = in_chunks(self.embed, features)
        said = in_chunks(self.vote, embedded).log_softmax(dim=1)  # (n, K)
        vector = torch.logsumexp(said, dim=0) - torch.log(said.new_tensor(float(len(said))))
        return Pooled(vector, _even(features), said.softmax(dim=0).T, embedded)

    def alone(self, features: Tensor) -> Tensor:
        """(n, K) the logarithms of each tile's votes."""
        return in_chunks(self.vote, in_chunks(self.embed, features)).log_softmax(dim=1)


def _even(features: Tensor) -> Tensor:
    return features.new_full((len(features),), 1 / len(features))
