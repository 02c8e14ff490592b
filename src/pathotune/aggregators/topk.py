"""Top tiles: a slide is what its most telling tiles say."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pathotune.aggregators.base import Aggregator, Pooled, in_chunks


class TopK(Aggregator):
    """The mean, per output, of the k highest tile scores; a tile's share is 1/k for every output that chose it.

    With k as large as the bag it is the mean of all scores. Outputs choose their tiles separately, as in HE2RNA.
    """

    gives_logits = True

    def __init__(self, dim: int, outputs: int, *, hidden: int = 128, dropout: float = 0.25, k: int = 8) -> None:
        super().__init__(dim, outputs, hidden=hidden, dropout=dropout, k=k)
        self.score = nn.Linear(self.width, outputs)
        self.out_dim = outputs

    def pool(self, features: Tensor, coords: Tensor | None) -> Pooled:
        """One bag with at least one tile."""
        embedded = in_chunks(self.embed, features)
        scores = in_chunks(self.score, embedded)  # (n, K)
        best, chosen = scores.topk(min(self.k, len(scores)), dim=0)
        share = torch.zeros_like(scores).scatter(0, chosen, 1 / len(best)).detach().T
        return Pooled(best.mean(dim=0), share.mean(dim=0), share, embedded)

    def alone(self, features: Tensor) -> Tensor:
        """(n, K) each tile's scores."""
        return in_chunks(self.score, in_chunks(self.embed, features))
