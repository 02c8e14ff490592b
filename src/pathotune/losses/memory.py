"""Heads that are not trained: they keep what the training tiles' features are like, and compare."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pathotune.losses.head import StandardisedHead


class ClassMeansHead(StandardisedHead):
    """Minus half the squared distance to each class's mean, of standardised features, as logits.

    Parameters
    ----------
    width : D, the features' width.
    classes : K.
    """

    means: Tensor

    def __init__(self, width: int, classes: int) -> None:
        super().__init__(width)
        self.register_buffer("means", torch.zeros(classes, width))

    def forward(self, features: Tensor) -> Tensor:
        """(b, D) float32 → (b, K)."""
        with torch.autocast(features.device.type, enabled=False):
            logits = -torch.cdist(self.scaled(features), self.means).square() / 2
        return logits / self.temperature  # type: ignore[no-any-return]

    def begin(self, features: Tensor, labels: np.ndarray) -> None:
        """Take the means of training features (n, D) of these classes (n,)."""
        super().begin(features, labels)
        scaled, kinds = self.scaled(features), torch.as_tensor(np.asarray(labels), device=features.device)
        for index in torch.unique(kinds).tolist():
            self.means[index] = scaled[kinds == index].mean(dim=0)


class NeighboursHead(StandardisedHead):
    """The logarithm of the share of each class among the nearest training tiles, by cosine.

    A share counts as if one neighbour more were spread over all classes, so that no class is ever impossible; each
    neighbour counts by how near it is (Wu et al. 2018, temperature 0.07).

    Parameters
    ----------
    width : D, the features' width.
    classes : K.
    neighbours : how many are asked.
    """

    kept: Tensor
    kinds: Tensor

    def __init__(self, width: int, classes: int, neighbours: int) -> None:
        super().__init__(width)
        self.classes, self.neighbours = classes, neighbours
        self.register_buffer("kept", torch.zeros(0, width))
        self.register_buffer("kinds", torch.zeros(0, dtype=torch.int64))

    def forward(self, features: Tensor) -> Tensor:
        """(b, D) float32 → (b, K)."""
        votes = features.new_zeros(len(features), self.classes, dtype=torch.float32)
        if not len(self.kept):
            return votes
        with torch.autocast(features.device.type, enabled=False):
            cosines = functional.normalize(self.scaled(features), dim=1) @ self.kept.T
            near, places = cosines.topk(min(self.neighbours, len(self.kept)), dim=1)
            # Relative to the nearest, which counts one: far from everything, the order still says something.
            votes.scatter_add_(1, self.kinds[places], ((near - near[:, :1]) / 0.07).exp())
            shares = votes + 1.0 / self.classes
            logits = (shares / shares.sum(dim=1, keepdim=True)).log()
        return logits / self.temperature

    def begin(self, features: Tensor, labels: np.ndarray) -> None:
        """Keep training features (n, D) and their classes (n,)."""
        super().begin(features, labels)
        self.kept = functional.normalize(self.scaled(features), dim=1).detach().clone()
        self.kinds = torch.as_tensor(np.asarray(labels), device=features.device, dtype=torch.int64)

    def make_room(self, tiles: int) -> None:
        """Be ready for the state of a head that keeps so many tiles."""
        self.kept = self.kept.new_zeros(tiles, self.kept.shape[1])
        self.kinds = self.kinds.new_zeros(tiles)
