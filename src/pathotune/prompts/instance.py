"""Instance visual prompts: tokens computed from the tile itself by a small trained module."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from pathotune.prompts.insert import TileView, TokenSource
from pathotune.prompts.spec import near_square


class InstancePrompts(TokenSource):
    """Tokens that a module makes from the tile, let in by a per-channel gate that starts at 0.

    token = slot + gate · LayerNorm(made from the tile). The slot is a learned vector like a visual prompt. It is our
    addition: with the gate at 0 the token would otherwise be exactly zero, the one point where the LayerNorm inside
    the next block multiplies gradients by 1/sqrt(eps) ≈ 1000, and the gate's own optimiser state would not recover
    from that first step for hundreds of others.

    Parameters
    ----------
    maker : gives (b, count, C) from a `TileView`.
    count : tokens.
    width : C, the backbone's token width.
    deep : put the same tokens in again before every block.
    """

    def __init__(self, maker: nn.Module, count: int, width: int, deep: bool = False) -> None:
        super().__init__()
        self.count, self.deep = count, deep
        self.looks_at_pixels = isinstance(maker, VisualRefineModule)
        self.maker = maker
        self.norm = nn.LayerNorm(width)
        self.gate = nn.Parameter(torch.zeros(width))  # (C,)
        self.slot = nn.Parameter(torch.empty(count, width).uniform_(-0.05, 0.05))  # (N, C)

    def prepare(self, view: TileView) -> Tensor:
        """The tile's own tokens, (b, N, C)."""
        made: Tensor = self.norm(self.maker(view))
        return self.slot + self.gate * made

    def tokens(self, step: int, prepared: Tensor) -> Tensor | None:
        """The tokens at the first prompted block, and at the others where `deep`."""
        return prepared if step == 0 or self.deep else None


class VisualRefineModule(nn.Module):
    """Three strided convolutions over the tile's pixels, pooled to a few cells, one token per cell.

    For 224 px: 224 → 56 → 28 → 14 → pooled to 2 x 2 (count 4). About 0.58 M weights for C = 768 and width 64.

    Parameters
    ----------
    count : tokens; the pooled grid is the most square one with that many cells.
    embed_dim : C.
    width : channels after the first convolution (doubled by each of the next two).
    """

    def __init__(self, count: int, embed_dim: int, width: int = 64) -> None:
        super().__init__()
        self.cells = near_square(count)
        channels = (3, width, 2 * width, 4 * width)
        kernels = ((7, 4, 3), (3, 2, 1), (3, 2, 1))
        stages: list[nn.Module] = []
        for (kernel, stride, padding), before, after in zip(kernels, channels[:-1], channels[1:], strict=True):
            # 16 channels a group; a narrow module falls back on one group.
            groups = after // 16 if after % 16 == 0 else 1
            stages += [
                nn.Conv2d(before, after, kernel, stride=stride, padding=padding),
                nn.GroupNorm(groups, after),
                nn.GELU(),
            ]
        self.stages = nn.Sequential(*stages)
        self.project = nn.Conv2d(channels[-1], embed_dim, 1)

    def forward(self, view: TileView) -> Tensor:
        """(b, 3, h, w) → (b, count, C)."""
        refined = self.stages(view.pixels)  # (b, 4·width, h/16, w/16)
        pooled = functional.adaptive_avg_pool2d(refined, self.cells)
        return self.project(pooled).flatten(2).transpose(1, 2)  # type: ignore[no-any-return]


class MeanPatch(nn.Module):
    """The mean of the tile's embedded patches through one linear layer (one token), or of each part of the tile.

    With count 1 this is the instance token of PathoDuet, with a learned projection behind it.
    """

    def __init__(self, count: int, embed_dim: int) -> None:
        super().__init__()
        self.cells = near_square(count)
        self.project = nn.Linear(embed_dim, embed_dim)

    def forward(self, view: TileView) -> Tensor:
        """(b, P, C) → (b, count, C)."""
        maps = view.patches.transpose(1, 2).reshape(len(view.patches), -1, *view.grid)  # (b, C, rows, columns)
        pooled = functional.adaptive_avg_pool2d(maps, self.cells).flatten(2).transpose(1, 2)
        return self.project(pooled)  # type: ignore[no-any-return]


class AttentionPool(nn.Module):
    """Learned queries over the tile's embedded patches, in a narrow space so that wide backbones stay cheap."""

    def __init__(self, count: int, embed_dim: int, width: int = 256) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(embed_dim)
        self.queries = nn.Parameter(torch.randn(count, width) * 0.02)
        self.key = nn.Linear(embed_dim, width)
        self.value = nn.Linear(embed_dim, width)
        self.project = nn.Linear(width, embed_dim)

    def forward(self, view: TileView) -> Tensor:
        """(b, P, C) → (b, count, C)."""
        patches = self.norm(view.patches)
        key, value = self.key(patches), self.value(patches)  # (b, P, width)
        queries = self.queries.to(key.dtype).expand(key.shape[0], -1, -1)
        return self.project(functional.scaled_dot_product_attention(queries, key, value))  # type: ignore[no-any-return]


def instance_maker(kind: str, count: int, embed_dim: int, width: int) -> nn.Module:
    """The module of that kind: "vrm", "mean_patch" or "attn_pool"."""
    if kind == "vrm":
        return VisualRefineModule(count, embed_dim, width)
    if kind == "mean_patch":
        return MeanPatch(count, embed_dim)
    return AttentionPool(count, embed_dim, 4 * width)
