"""Prov-GigaPath's slide encoder: LongNet with dilated attention, in plain torch, for its published weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pathotune.backbones.card import BackboneCard
from pathotune.backbones.slide.attention import attend
from pathotune.backbones.slide.surface import Embedded, SlideEncoder, sine_cosine

# (segment, ratio) of the branches: 2^10 to 2^20 in even steps of the exponent, for slides of 262,144 pixels and tiles
# of 256.
BRANCHES = ((1024, 1), (5792, 2), (32768, 4), (185363, 8), (1048576, 16))
CELL_PX = 256
GRID = 1000
# What a position that a head did not take counts in the softmax over branches.
NOT_TAKEN = -1e8


def build(card: BackboneCard, feature_dim: int) -> LongNet:
    """The network of a card, its weights still to come."""
    return LongNet(card, feature_dim)


class LongNet(SlideEncoder):
    """Tiles in sequence order through layers of dilated attention (LongNet, Ding et al. 2023; Prov-GigaPath, 2024).

    State names are those of the published file (key "model" of slide_encoder.pth), without its fixed table of
    positions, which is computed. Positions beyond the table's 1000 × 1000 cells take its edge; the original stops with
    an index error there.
    """

    depends_on_order = True

    def __init__(self, card: BackboneCard, feature_dim: int) -> None:
        super().__init__(card, feature_dim)
        width, hidden = self.width, int(card.arguments.get("hidden", 4 * self.width))
        branches = tuple((int(segment), int(ratio)) for segment, ratio in card.arguments.get("branches", BRANCHES))
        self.patch_embed = nn.ModuleDict({"proj": nn.Linear(feature_dim, width)})
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.encoder = nn.ModuleDict(
            {
                "layers": nn.ModuleList(_Layer(width, hidden, self.num_heads, branches) for _ in range(self.depth)),
                "layer_norm": nn.LayerNorm(width, eps=1e-5),
            }
        )
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.freeze()

    def _embed(self, features: Tensor, coords: Tensor, mask: Tensor | None) -> Embedded:
        cells = torch.floor(coords.to(torch.float64) / CELL_PX).clamp(0, GRID - 1)
        tokens = self.patch_embed["proj"](features)
        tokens = tokens + sine_cosine(cells, self.width).to(tokens)
        first = self.cls_token.to(tokens).expand(len(tokens), -1, -1)
        return Embedded(torch.cat([first, tokens], dim=1))  # (b, 1 + n, width)

    def _layer(self, index: int, tokens: Tensor, context: Any) -> Tensor:
        layers: Any = self.encoder["layers"]
        computed: Tensor = layers[index](tokens)
        return computed

    def finish(self, tokens: Tensor, context: Any = None) -> Tensor:
        """The class token after both final norms, (batch, width)."""
        normed: Tensor = self.norm(self.encoder["layer_norm"](tokens[:, 0]))
        return normed


class _Layer(nn.Module):
    """Pre-norm attention and feed-forward with a further norm inside each."""

    def __init__(self, width: int, hidden: int, heads: int, branches: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        self.self_attn = _DilatedAttention(width, heads, branches)
        self.self_attn_layer_norm = nn.LayerNorm(width, eps=1e-5)
        self.ffn = nn.ModuleDict(
            {
                "fc1": nn.Linear(width, hidden),
                "fc2": nn.Linear(hidden, width),
                "ffn_layernorm": nn.LayerNorm(hidden, eps=1e-5),
            }
        )
        self.final_layer_norm = nn.LayerNorm(width, eps=1e-5)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.self_attn(self.self_attn_layer_norm(tokens))
        inner = functional.gelu(self.ffn["fc1"](self.final_layer_norm(tokens)).float()).to(tokens)
        fed: Tensor = self.ffn["fc2"](self.ffn["ffn_layernorm"](inner))
        return tokens + fed


class _DilatedAttention(nn.Module):
    def __init__(self, width: int, heads: int, branches: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        self.heads, self.branches = heads, tuple(branches)
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)
        self.inner_attn_ln = nn.LayerNorm(width, eps=1e-5)

    def forward(self, tokens: Tensor) -> Tensor:
        batch, count, width = tokens.shape
        q, k, v = (
            project(tokens).reshape(batch, count, self.heads, width // self.heads)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = torch.stack([dilated(q[row], k[row], v[row], self.branches) for row in range(batch)])
        projected: Tensor = self.out_proj(self.inner_attn_ln(mixed.reshape(batch, count, width)))
        return projected


def dilated(query: Tensor, key: Tensor, value: Tensor, branches: Sequence[tuple[int, int]]) -> Tensor:
    """Dilated attention of one slide.

    Each branch cuts the row of tokens into segments, in which every head looks at every r-th token only, each group of
    heads at others; the branches are added by the weight their logits had at a place. No gradient flows through these
    weights. The zeros a segment is filled up with take part in the softmax, as in the original.

    Parameters
    ----------
    query, key, value : (tokens, heads, dim).
    branches : (segment, ratio) pairs.

    Returns
    -------
    (tokens, heads, dim).
    """
    parts = [_branch(query, key, value, segment, ratio) for segment, ratio in branches]
    if len(parts) == 1:
        return parts[0][0]
    shares = torch.stack([sums for _, sums in parts]).softmax(dim=0)  # (branches, n, h)
    mixed = torch.zeros_like(query)
    for (output, _), share in zip(parts, shares, strict=True):
        mixed = mixed + output * share.unsqueeze(-1).to(output)
    return mixed


def _branch(query: Tensor, key: Tensor, value: Tensor, segment: int, ratio: int) -> tuple[Tensor, Tensor]:
    """One branch: (n, h, d) outputs, and (n, h) log-sums; what a head did not take is 0 and `NOT_TAKEN`."""
    count, heads, dim = query.shape
    segment = min(segment, count)
    q, k, v = (_thinned(values, segment, ratio) for values in (query, key, value))  # (segments * h, length, d)
    output, sums = attend(q, k, v, 1.0 / math.sqrt(dim))
    segments = math.ceil(count / segment)
    length = q.shape[1]
    dense = _spread(output.reshape(segments, heads, length, dim), ratio, 0.0)
    spread = _spread(sums.reshape(segments, heads, length, 1), ratio, NOT_TAKEN).squeeze(-1)
    return (
        dense[:, :segment].reshape(-1, heads, dim)[:count],
        spread[:, :segment].reshape(-1, heads)[:count],
    )


def _thinned(values: Tensor, segment: int, ratio: int) -> Tensor:
    """What each head takes of each segment: (n, h, d) → (segments * h, length, d)."""
    count, heads, dim = values.shape
    segments, length = math.ceil(count / segment), math.ceil(segment / ratio)
    values = functional.pad(values, (0, 0, 0, 0, 0, segments * segment - count)).reshape(segments, segment, heads, dim)
    values = functional.pad(values, (0, 0, 0, 0, 0, length * ratio - segment))
    values = values.reshape(segments, length, ratio, ratio, heads // ratio, dim)  # place in r, then group of heads
    taken = values.diagonal(dim1=2, dim2=3)  # (segments, length, h / r, d, group)
    return taken.permute(0, 4, 2, 1, 3).reshape(segments * heads, length, dim)


def _spread(taken: Tensor, ratio: int, filler: float) -> Tensor:
    """The opposite: (segments, h, length, d) → (segments, length * r, h, d), the filler where nothing was taken."""
    segments, heads, length, dim = taken.shape
    grouped = taken.reshape(segments, ratio, heads // ratio, length, dim).permute(0, 3, 2, 4, 1)
    empty = taken.new_full((segments, length, ratio, ratio, heads // ratio, dim), filler)
    dense = torch.diagonal_scatter(empty, grouped, dim1=2, dim2=3)
    return dense.reshape(segments, length * ratio, heads, dim)
