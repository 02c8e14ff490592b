"""From a card to a frozen backbone: build the library's own network, then fill it strictly."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from pathotune.backbones import locate, weights
from pathotune.backbones.card import BackboneCard, backbone_names
from pathotune.backbones.remembered import remember
from pathotune.errors import BackboneUnavailable, MissingPackage, TableUnreadable, UsageError, WeightsRefused
from pathotune.registry import Entry, Table
from pathotune.resources import resource_root

if TYPE_CHECKING:
    from pathotune.backbones.surface import Backbone

log = logging.getLogger(__name__)

# One builder for each library: (card, depth or None) -> Backbone with weights still to come.
BUILDERS = Table(
    "loader",
    (
        Entry("timm", "pathotune.backbones.tile.timm_build:build", "timm model names"),
        Entry("transformers", "pathotune.backbones.tile.hugging:build", "classes of transformers, no remote code"),
        Entry("open_clip", "pathotune.backbones.tile.clip_tower:build", "the image tower of an open_clip model"),
    ),
)
# Without its file the built-in backbone is drawn from this seed, the same on every machine.
BUILT_IN_SEED = 2024
# Poolings no file of weights stands for: the same weights are read otherwise elsewhere, and what was made of those
# features, a tuning or a table, must not be taken for these.
OWN_POOLINGS = ("mean+std_patch",)


def load(card: BackboneCard, given: Path | None, random_seed: int | None, depth: int | None) -> Backbone:
    """See `pathotune.backbones.load_backbone`."""
    require_loadable(card)
    if depth is not None and random_seed is None:
        raise UsageError("A reduced depth fits no published weights; give a random seed with it.")
    if depth is not None and not 1 <= depth <= (card.depth or depth):
        raise UsageError(f"{card.title} has {card.depth} blocks; {depth} cannot be kept.")
    if random_seed is not None:
        return _random(card, random_seed, depth)
    if given is None and locate.is_built_in(card):
        backbone = _built_in(card)
        remember(card, backbone.weights_sha256)
        return backbone
    path, source = locate.find_weights(card, given)
    backbone = BUILDERS.load(card.loader)(card, None)
    _check_file(card, path)
    tensors = weights.read_tensors(path)
    backbone.load_tensors(tensors, path)
    if card.name not in backbone_names():
        _check_facts(backbone)
    backbone.weights_path, backbone.text_scale = path, weights.text_scale(tensors)
    backbone = _sealed(backbone, source)
    if given is None:
        remember(card, backbone.weights_sha256)
    return backbone


def require_loadable(card: BackboneCard) -> None:
    """Raise BackboneUnavailable or MissingPackage for a card that cannot be built here."""
    if not card.loadable:
        raise BackboneUnavailable(f"{card.title} is in the catalogue but cannot be loaded yet: {card.reason}")
    if card.kind != "tile":
        raise UsageError(
            f"{card.title} is a slide encoder: it takes features of tiles, not tiles. Name it with --set "
            f"slide_encoder={card.name} of the method modaltune."
        )
    installs = {"open_clip": "pip install 'pathotune[openclip]'"}
    for package in card.needs:
        if importlib.util.find_spec(package) is None:
            raise MissingPackage(package, card.title, installs.get(package, f"pip install {package}"))


def built_in_file() -> Path:
    """Where the trained weights of pathotune-tiny lie when they ship."""
    return resource_root() / "backbones" / "weights" / "pathotune-tiny.safetensors"


def _built_in(card: BackboneCard) -> Backbone:
    path = built_in_file()
    if not card.file_sha256:
        log.debug("%s has no trained weights; drawn from seed %d", card.name, BUILT_IN_SEED)
        return _random(card, BUILT_IN_SEED, None)
    if not path.is_file():
        raise BackboneUnavailable(f"{path.name} is missing from this installation; install pathotune again.")
    backbone = BUILDERS.load(card.loader)(card, None)
    _check_file(card, path)
    backbone.load_tensors(weights.read_tensors(path), path)
    return _sealed(backbone, "built in")


def _random(card: BackboneCard, seed: int, depth: int | None) -> Backbone:
    if depth is not None:
        card = dataclasses.replace(card, depth=depth)
    backbone: Backbone = BUILDERS.load(card.loader)(card, depth)
    weights.fill_randomly(backbone, seed)
    return _sealed(backbone, f"random, seed {seed}")


def _check_file(card: BackboneCard, path: Path) -> None:
    if card.file_sha256 and weights.file_sha256(path) != card.file_sha256:
        raise WeightsRefused(
            f"{path.name} is not the file the card of {card.name} names (SHA-256 differs); fetch or install it again."
        )


def _check_facts(backbone: Backbone) -> None:
    """Refuse a person's own card whose numbers are not the network's: tunings would be made of the wrong ones."""
    import torch

    card = backbone.card
    side = card.image_size or card.reading().image_px
    with torch.inference_mode():
        found = backbone.freeze()(torch.zeros(1, 3, side, side))
    built = {
        "embed_dim": found.cls.shape[1],
        "output_dim": found.pooled.shape[1],
        "depth": backbone.depth,
        "num_heads": backbone.num_heads,
        "prefix_tokens": backbone.prefix_tokens,
    }
    for fact, value in built.items():
        stated = getattr(card, fact)
        if stated and stated != value:
            raise TableUnreadable(
                f"The card of {card.name} says {fact}: {stated}, but the network built from it and its weights has "
                f"{value}. Correct the card."
            )


def _sealed(backbone: Backbone, source: str) -> Backbone:
    backbone.weights_sha256 = weights.content_sha256(backbone)
    if backbone.card.pooling in OWN_POOLINGS:
        named = f"{backbone.weights_sha256} {backbone.card.pooling}"
        backbone.weights_sha256 = hashlib.sha256(named.encode()).hexdigest()
    backbone.weights_source = source
    return backbone.freeze()
