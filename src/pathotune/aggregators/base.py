"""The contract of an aggregator: a bag of tile features in, one vector and the share of every tile out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

CHUNK = 16_384
"""Tiles that pass a layer at a time where no gradient is wanted; a slide may have 100,000."""


class Pooled(NamedTuple):
    """What an aggregator makes of a bag of n tiles.

    Attributes
    ----------
    vector : (d',) float32, of the whole bag; zeros where the bag is empty.
    weights : (n,) float32, each tile's share in it; they sum to 1, and are 0 for masked tiles.
    class_weights : (K, n) the same for every output, or None where the aggregator has one share for all of them.
    embedded : (m, h) the unmasked tiles as they were weighed, for losses on single tiles.
    """

    vector: Tensor
    weights: Tensor
    class_weights: Tensor | None = None
    embedded: Tensor | None = None


class Aggregator(nn.Module, ABC):
    """Base of the aggregators: embedding of the tiles, masks, empty bags.

    Parameters
    ----------
    dim : D, width of the tiles' features.
    outputs : K, the numbers told of a bag in the end.
    hidden : width of the embedding, one linear layer and ReLU as in ABMIL and CLAM; 0 leaves features as they are.
    dropout : of the embedding, in training.
    k : tiles that count where the aggregator picks some.

    Attributes
    ----------
    out_dim : width of `Pooled.vector`.
    gives_logits : whether that vector holds the K outputs themselves, so that no head follows.
    is_weighted_mean : whether that vector begins with the embedded tiles' mean, each with its share as the weight.
    """

    gives_logits = False
    is_weighted_mean = False

    def __init__(self, dim: int, outputs: int, *, hidden: int = 128, dropout: float = 0.25, k: int = 8) -> None:
        super().__init__()
        self.dim, self.outputs, self.k = dim, outputs, k
        self.width = hidden or dim
        self.embed: nn.Module = nn.Identity()
        if hidden:
            self.embed = nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Dropout(dropout))
        self.out_dim = self.width

    def forward(self, features: Tensor, coords: Tensor | None = None, mask: Tensor | None = None) -> Pooled:
        """Pool one bag.

        Parameters
        ----------
        features : (n, D) float32.
        coords : (n, 2) column and row of each tile on its slide's grid, for aggregators that look at places.
        mask : (n,) bool, tiles that count; all of them without it.
        """
        kept = features if mask is None else features[mask]
        places = coords if coords is None or mask is None else coords[mask]
        if not len(kept):
            empty = features.new_zeros(self.out_dim)
            return Pooled(empty, features.new_zeros(len(features)), None, features.new_zeros(0, self.width))
        pooled = self.pool(kept, places)
        return pooled if mask is None else _spread(pooled, mask)

    @abstractmethod
    def pool(self, features: Tensor, coords: Tensor | None) -> Pooled:
        """`forward` for a bag with at least one tile, none of them masked."""

    def alone(self, features: Tensor) -> Tensor:
        """(n, d') the vectors of bags of one tile each."""
        places = features.new_zeros(1, 2)
        return torch.stack([self.pool(row[None], places).vector for row in features])

    def bag_loss(self, pooled: Pooled, label: int) -> Tensor | None:
        """A further loss on single tiles of a training bag of class `label`, or None where there is none."""
        return None


def in_chunks(function: Callable[[Tensor], Tensor], features: Tensor) -> Tensor:
    """`function` of rows, some at a time where no gradient is wanted, which is the same and needs less memory."""
    if torch.is_grad_enabled() or len(features) <= CHUNK:
        return function(features)
    return torch.cat([function(part) for part in torch.split(features, CHUNK)])


def _spread(pooled: Pooled, mask: Tensor) -> Pooled:
    """Shares of the unmasked tiles at the places of all."""
    weights = pooled.weights.new_zeros(len(mask)).masked_scatter(mask, pooled.weights)
    by_class = pooled.class_weights
    if by_class is not None:
        spread = by_class.new_zeros(len(by_class), len(mask))
        spread[:, mask] = by_class
        by_class = spread
    return pooled._replace(weights=weights, class_weights=by_class)
