"""TransMIL (Shao et al., NeurIPS 2021): tiles look at each other, and at where they lie."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from pathotune.aggregators.base import Aggregator, Pooled

PLAIN_UP_TO = 4096
LANDMARKS = 256
_ITERATIONS = 6


class TransMIL(Aggregator):
    """A class token and two attention layers with convolutions over the tiles' places between them (PPEG).

    The authors fold the tiles, in the order of the file, into a square; here the convolutions run over the tiles' own
    places where these are given, so that tiles that touch on the slide touch there too, and the order of the file does
    not matter. Without places it is the square. Up to 4096 tiles attention is exact; beyond, it is the Nyström
    approximation of the paper (256 landmarks, the mean of tiles that follow each other along the rows of the slide),
    whose memory and time grow with the number of tiles and not with its square.
    """

    def __init__(self, dim: int, outputs: int, *, hidden: int = 128, dropout: float = 0.25, k: int = 8) -> None:
        super().__init__(dim, outputs, hidden=hidden, dropout=dropout, k=k)
        self.token = nn.Parameter(torch.randn(1, self.width) * 0.02)
        heads = next(count for count in (8, 4, 3, 2, 1) if self.width % count == 0)
        self.first, self.second = (TokenAttention(self.width, heads, dropout) for _ in range(2))
        self.places = PlaceConvolutions(self.width)
        self.norm = nn.LayerNorm(self.width)

    def pool(self, features: Tensor, coords: Tensor | None) -> Pooled:
        """One bag with at least one tile."""
        embedded: Tensor = self.embed(features)
        order = _row_by_row(coords) if coords is not None else torch.arange(len(features), device=features.device)
        back = torch.empty_like(order)
        back[order] = torch.arange(len(order), device=order.device)
        tokens = torch.cat([self.token, embedded[order]])  # (1 + n, width)
        tokens = tokens + self.first(tokens)
        cells = _cells(len(order), None if coords is None else coords[order], features.device)
        tokens = torch.cat([tokens[:1], self.places(tokens[1:], cells)])
        seen = self.second.attention_of_first(tokens)
        tokens = tokens + self.second(tokens)
        weights = seen[1:] / seen[1:].sum().clamp_min(1e-12)
        return Pooled(self.norm(tokens[0]), weights[back], None, embedded)


class TokenAttention(nn.Module):
    """Self-attention of one bag behind a layer norm.

    Parameters
    ----------
    width : of the tokens.
    heads : attention heads; `width` is a multiple of it.
    dropout : of the result, in training.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.into, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def _split(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each (heads, n, width / heads)."""
        parts = self.into(self.norm(tokens)).reshape(len(tokens), 3, self.heads, -1)
        query, key, value = parts.permute(1, 2, 0, 3)
        return query, key, value

    def forward(self, tokens: Tensor) -> Tensor:
        """(n, width) → (n, width)."""
        query, key, value = self._split(tokens)
        if len(tokens) <= PLAIN_UP_TO:
            mixed = functional.scaled_dot_product_attention(query[None], key[None], value[None])[0]
        else:
            mixed = nystrom_attention(query, key, value, LANDMARKS)
        found: Tensor = self.dropout(self.out(mixed.transpose(0, 1).reshape(len(tokens), -1)))
        return found

    def attention_of_first(self, tokens: Tensor) -> Tensor:
        """(n,) what the first token looks at, the mean of the heads; exact for bags of any size."""
        query, key, _ = self._split(tokens)
        scores = (query[:, :1] @ key.transpose(1, 2))[:, 0] / math.sqrt(query.shape[-1])  # (heads, n)
        return scores.softmax(dim=1).mean(dim=0)


class PlaceConvolutions(nn.Module):
    """Depthwise convolutions of three sizes over the tiles' places, added to the tiles (PPEG)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            nn.Conv2d(width, width, size, padding=size // 2, groups=width) for size in (7, 5, 3)
        )

    def forward(self, tiles: Tensor, cells: Tensor) -> Tensor:
        """(n, width) at `cells` (n, 2) column and row, from 0 → (n, width)."""
        columns, rows = (int(value) + 1 for value in cells.amax(dim=0))
        at = cells[:, 1] * columns + cells[:, 0]
        grid = tiles.new_zeros(rows * columns, tiles.shape[1]).index_copy(0, at, tiles)
        image = grid.T.reshape(1, -1, rows, columns)
        mixed: Tensor = image + sum(one(image) for one in self.convolutions)
        return mixed.reshape(tiles.shape[1], -1).T[at]


def nystrom_attention(query: Tensor, key: Tensor, value: Tensor, landmarks: int) -> Tensor:
    """Attention (heads, n, d) by way of a few landmarks (Xiong et al., AAAI 2021, section 3.2)."""
    scale = 1 / math.sqrt(query.shape[-1])
    few_queries, few_keys = (_segment_means(part, landmarks) for part in (query, key))
    to_landmarks = (query @ few_keys.transpose(1, 2) * scale).softmax(dim=-1)  # (heads, n, m)
    between = (few_queries @ few_keys.transpose(1, 2) * scale).softmax(dim=-1)
    # Without the n x m matrix: the landmarks' own attention over all tiles.
    from_landmarks = functional.scaled_dot_product_attention(few_queries[None], key[None], value[None])[0]
    return to_landmarks @ (_inverse(between) @ from_landmarks)


def _segment_means(parts: Tensor, landmarks: int) -> Tensor:
    """(heads, n, d) → (heads, m, d): means of stretches of tokens of (nearly) the same length."""
    count = parts.shape[1]
    of = torch.arange(count, device=parts.device) * landmarks // count
    sums = parts.new_zeros(parts.shape[0], landmarks, parts.shape[2]).index_add(1, of, parts)
    return sums / torch.bincount(of, minlength=landmarks).clamp_min(1)[None, :, None]


def _inverse(matrix: Tensor) -> Tensor:
    """Moore-Penrose inverse (heads, m, m) by the iteration of the Nyströmformer paper, equation 11."""
    eye = torch.eye(matrix.shape[-1], device=matrix.device, dtype=matrix.dtype)
    norm = matrix.abs().sum(dim=-2).amax() * matrix.abs().sum(dim=-1).amax()
    found = matrix.transpose(-1, -2) / norm
    for _ in range(_ITERATIONS):
        product = matrix @ found
        found = 0.25 * found @ (13 * eye - product @ (15 * eye - product @ (7 * eye - product)))
    return found


def _row_by_row(coords: Tensor) -> Tensor:
    """The order of the tiles along the rows of the slide."""
    columns, rows = coords[:, 0].double(), coords[:, 1].double()
    span = (columns.max() - columns.min()).abs() + 1
    return torch.argsort(rows * (2 * span) + columns, stable=True)


def _cells(count: int, coords: Tensor | None, device: torch.device) -> Tensor:
    """(n, 2) whole column and row of each tile, from 0, no two alike; a square where no places are given."""
    if coords is not None:
        cells = coords.round().long() - coords.round().long().amin(dim=0)
        columns, rows = (int(value) + 1 for value in cells.amax(dim=0))
        is_apart = len(torch.unique(cells[:, 1] * columns + cells[:, 0])) == count
        # Places on several sections of glass can be far apart: a grid mostly of nothing is not worth its memory.
        if is_apart and rows * columns <= 16 * count + 4096:
            return cells
    side = math.ceil(math.sqrt(count))
    index = torch.arange(count, device=device)
    return torch.stack([index % side, index // side], dim=1)
