"""A small slide encoder for every machine: a transformer of fixed random weights on the features of any backbone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pathotune.backbones.card import BackboneCard
from pathotune.backbones.slide.surface import Embedded, SlideEncoder, sine_cosine

CELL_PX = 256
# How strongly the random layers change what passes: small, so that a tile's token stays recognisably its features.
BRANCH_SCALE = 0.3


def build(card: BackboneCard, feature_dim: int) -> SmallSlideEncoder:
    """The network of a card, its weights still to come."""
    return SmallSlideEncoder(card, feature_dim)


class SmallSlideEncoder(SlideEncoder):
    """A plain transformer over a slide's tiles.

    Nothing of it was ever trained: it mixes the tiles in a fixed way, so that a method's adapters have layers to stand
    between, on a machine without any slide encoder and with features of any backbone. Its own slide vector is the mean
    of the tiles' tokens beside the class token's. The order of the tiles does not matter, only where they lie.
    """

    takes_masks = True

    def __init__(self, card: BackboneCard, feature_dim: int) -> None:
        super().__init__(card, feature_dim)
        self.norm_features = nn.LayerNorm(feature_dim, elementwise_affine=False)
        self.project = nn.Linear(feature_dim, self.width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, self.width))
        self.layers = nn.ModuleList(_Layer(self.width, self.num_heads) for _ in range(self.depth))
        self.norm = nn.LayerNorm(self.width)
        self.freeze()

    def _embed(self, features: Tensor, coords: Tensor, mask: Tensor | None) -> Embedded:
        cells = torch.floor(coords.to(torch.float64) / CELL_PX)
        tokens = self.project(self.norm_features(features))
        tokens = tokens + 0.1 * sine_cosine(cells, self.width).to(tokens)
        first = self.cls_token.to(tokens).expand(len(tokens), -1, -1)
        if mask is not None:
            mask = functional.pad(mask, (1, 0), value=True)[:, None, None, :]  # (b, 1, 1, 1 + n)
        return Embedded(torch.cat([first, tokens], dim=1), mask)

    def _layer(self, index: int, tokens: Tensor, context: Any) -> Tensor:
        computed: Tensor = self.layers[index](tokens, context)
        return computed

    def finish(self, tokens: Tensor, context: Any = None) -> Tensor:
        """The class token beside the mean of the tiles' tokens, (batch, 2 * width)."""
        normed = self.norm(tokens)
        tiles = normed[:, 1:]
        if context is None:
            return torch.cat([normed[:, 0], tiles.mean(dim=1)], dim=-1)
        there = context[:, 0, 0, 1:, None].to(tiles)
        return torch.cat([normed[:, 0], (tiles * there).sum(dim=1) / there.sum(dim=1).clamp_min(1)], dim=-1)


class _Layer(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        batch, count, width = tokens.shape
        q, k, v = self.qkv(self.norm1(tokens)).reshape(batch, count, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        tokens = tokens + BRANCH_SCALE * self.proj(mixed.transpose(1, 2).reshape(batch, count, width))
        fed: Tensor = self.fc2(functional.gelu(self.fc1(self.norm2(tokens))))
        return tokens + BRANCH_SCALE * fed
