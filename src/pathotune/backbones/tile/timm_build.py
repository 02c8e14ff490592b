"""Builds timm's own networks from cards: plain and rotary transformers as tokens, everything else pooled."""

from __future__ import annotations

import inspect
from typing import Any

import timm
from timm.layers import SwiGLU, SwiGLUPacked
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from pathotune.backbones.card import BackboneCard
from pathotune.backbones.surface import Backbone
from pathotune.backbones.tile.heads import build_head
from pathotune.backbones.tile.pooled import Pooled
from pathotune.backbones.tile.timm_vit import TimmRotary, TimmTransformer
from pathotune.errors import BackboneUnavailable, TableUnreadable

# Names a card may use where timm wants a class.
LAYERS: dict[str, type[nn.Module]] = {
    "SwiGLUPacked": SwiGLUPacked,
    "SwiGLU": SwiGLU,
    "SiLU": nn.SiLU,
    "GELU": nn.GELU,
    "LayerNorm": nn.LayerNorm,
}


def build(card: BackboneCard, depth: int | None = None) -> Backbone:
    """The network of a card with timm's start values, wrapped for the surface."""
    network = build_network(card, depth)
    head = build_head(card)
    if not card.takes_prompts:
        return Pooled(card, network, head)
    if isinstance(network, VisionTransformer):
        return TimmTransformer(card, network, head)
    if isinstance(network, Eva):
        return TimmRotary(card, network, head)
    raise TableUnreadable(
        f"The card of {card.name} says that it takes prompts, but timm's {card.architecture} has no row of tokens "
        "that is known here; set takes_prompts to false."
    )


def build_network(card: BackboneCard, depth: int | None = None) -> nn.Module:
    """timm's own model, no weights fetched."""
    if not timm.is_model(card.architecture):
        raise BackboneUnavailable(
            f"{card.title} needs timm's model {card.architecture!r}, which timm {timm.__version__} does not have; "
            "install a newer timm."
        )
    arguments = timm_arguments(card)
    if depth is not None:
        arguments["depth"] = depth
    entry = timm.model_entrypoint(card.architecture)
    try:
        network: nn.Module = timm.create_model(card.architecture, pretrained=False, **arguments)
    except TypeError as error:
        raise TableUnreadable(
            f"The card of {card.name} has an argument that timm's {inspect.unwrap(entry).__name__} does not take "
            f"({error})."
        ) from None
    return network


def timm_arguments(card: BackboneCard) -> dict[str, Any]:
    """The card's arguments with names of layers turned into classes; without a classifier unless it asks for one."""
    arguments = {key: _layer(key, value) for key, value in card.arguments.items()}
    arguments.setdefault("num_classes", 0)
    return arguments


def _layer(key: str, value: Any) -> Any:
    if key.endswith("_layer") and isinstance(value, str):
        if value not in LAYERS:
            raise TableUnreadable(f"{key}: {value!r} is no layer a card may name; known: {', '.join(LAYERS)}.")
        return LAYERS[value]
    return value
