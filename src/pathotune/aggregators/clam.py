"""CLAM with one attention branch and its loss on single tiles (Lu et al., Nature Biomedical Engineering 2021)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from pathotune.aggregators.abmil import GatedAttention
from pathotune.aggregators.base import Pooled


class ClamSingleBranch(GatedAttention):
    """Gated attention whose extremes are taught: the k most attended tiles of a bag show its class, the k least do not.

    For each class a small classifier tells tiles that show it from tiles that do not. The classifier of the bag's own
    class learns from both ends; those of the other classes learn that the most attended tiles do not show them, as in
    the paper for subtypes. We take cross-entropy where the authors have a smooth hinge loss.
    """

    def __init__(
        self, dim: int, outputs: int, *, hidden: int = 128, dropout: float = 0.25, k: int = 8, mass: bool = False
    ) -> None:
        super().__init__(dim, outputs, hidden=hidden, dropout=dropout, k=k, mass=mass)
        self.shows = nn.ModuleList(nn.Linear(self.width, 2) for _ in range(outputs))

    def bag_loss(self, pooled: Pooled, label: int) -> Tensor | None:
        """Mean cross-entropy of the tile classifiers on the most and least attended tiles."""
        embedded, weights = pooled.embedded, pooled.weights
        if embedded is None or len(embedded) < 2 or len(weights) != len(embedded):
            return None  # a masked bag, or one without two ends
        k = min(self.k, len(embedded) // 2)
        most, least = weights.topk(k).indices, weights.topk(k, largest=False).indices
        ends = embedded[torch.cat([most, least])]
        truth = torch.cat([torch.ones_like(most), torch.zeros_like(least)])
        losses = []
        for name, classifier in enumerate(self.shows):
            if name == label:
                losses.append(functional.cross_entropy(classifier(ends), truth))
            else:
                losses.append(functional.cross_entropy(classifier(embedded[most]), torch.zeros_like(most)))
        return torch.stack(losses).mean()
