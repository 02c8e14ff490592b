"""Layers behind the pooling that some authors count as part of their feature."""

from __future__ import annotations

from torch import nn

from pathotune.backbones.card import BackboneCard
from pathotune.errors import TableUnreadable


def build_head(card: BackboneCard) -> nn.Module | None:
    """The layers of `card.head` in order, or None; raises TableUnreadable for a line that is not understood."""
    if not card.head:
        return None
    return nn.Sequential(*(_layer(line, card) for line in card.head))


def _layer(line: str, card: BackboneCard) -> nn.Module:
    words = str(line).split()
    sizes = [int(word) for word in words[1:] if word.isdigit()]
    if words[0] == "linear" and len(sizes) == 2:
        return nn.Linear(sizes[0], sizes[1], bias="nobias" not in words)
    if words[0] == "norm" and len(sizes) == 1:
        return nn.LayerNorm(sizes[0])
    if words == ["gelu"]:
        return nn.GELU()
    raise TableUnreadable(
        f"The card of {card.name} has the head layer {line!r}; known: 'linear IN OUT [nobias]', 'norm WIDTH', 'gelu'."
    )
