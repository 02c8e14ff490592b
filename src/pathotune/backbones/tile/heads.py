"""Layers behind the blocks that some authors count as part of their feature."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pathotune.backbones.card import BackboneCard
from pathotune.backbones.surface import heads_first
from pathotune.errors import TableUnreadable

KNOWN = "'linear IN OUT [nobias]', 'norm WIDTH', 'gelu', 'attend CONTEXT OUT HEADS', 'attend_fused CONTEXT OUT HEADS'"


class AttentionPool(nn.Module):
    """One learned query attends to all tokens, as in CONCH (Lu et al. 2024) and before it in CoCa.

    The projections are torch's own MultiheadAttention, so that CONCH's tensor names fit.
    """

    def __init__(self, context_dim: int, dim: int, heads: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(1, dim))
        self.attn = nn.MultiheadAttention(dim, heads, kdim=context_dim, vdim=context_dim, batch_first=True)
        self.ln_q = nn.LayerNorm(dim)
        self.ln_k = nn.LayerNorm(context_dim)

    def forward(self, tokens: Tensor) -> Tensor:
        context = self.ln_k(tokens)  # (b, n, context_dim)
        query = self.ln_q(self.query).expand(len(tokens), -1, -1)  # (b, 1, dim)
        pooled: Tensor = self.attn(query, context, context, need_weights=False)[0]
        return pooled[:, 0]


class FusedAttentionPool(nn.Module):
    """The same with one projection for keys and values and no biases, as in CONCH v1.5 (Ding et al. 2024)."""

    def __init__(self, context_dim: int, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Parameter(torch.randn(1, dim))
        self.ln_k = nn.LayerNorm(context_dim)
        self.ln_q = nn.LayerNorm(dim)
        self.to_q = nn.Linear(dim, dim, bias=False)
        self.to_kv = nn.Linear(context_dim, 2 * dim, bias=False)
        self.to_out = nn.Linear(dim, dim, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        keys, values = self.to_kv(self.ln_k(tokens)).chunk(2, dim=-1)  # (b, n, dim) each
        query = self.to_q(self.ln_q(self.query)).expand(len(tokens), -1, -1)  # (b, 1, dim)
        query, keys, values = (heads_first(part, self.heads) for part in (query, keys, values))
        pooled = F.scaled_dot_product_attention(query, keys, values)  # (b, heads, 1, d)
        result: Tensor = self.to_out(pooled.transpose(1, 2).flatten(2))[:, 0]
        return result


def build_head(card: BackboneCard) -> nn.Module | None:
    """The layers of `card.head` in order, or None; raises TableUnreadable for a line that is not understood."""
    if not card.head:
        return None
    return nn.Sequential(*(_layer(line, card) for line in card.head))


def _layer(line: str, card: BackboneCard) -> nn.Module:
    words = str(line).split()
    sizes = [int(word) for word in words[1:] if word.isdigit()]
    match words[0], len(sizes):
        case "linear", 2:
            return nn.Linear(sizes[0], sizes[1], bias="nobias" not in words)
        case "norm", 1:
            return nn.LayerNorm(sizes[0])
        case "attend", 3:
            return AttentionPool(*sizes)
        case "attend_fused", 3:
            return FusedAttentionPool(*sizes)
        case "gelu", 0:
            return nn.GELU()
    raise TableUnreadable(f"The card of {card.name} has the head layer {line!r}; known: {KNOWN}.")
