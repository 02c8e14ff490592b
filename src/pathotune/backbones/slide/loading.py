"""From a name to a frozen slide encoder: build the network, then fill it strictly."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pathotune.backbones import locate, weights
from pathotune.backbones.card import backbone_card
from pathotune.backbones.slide import SLIDE_ENCODERS
from pathotune.errors import BackboneUnavailable, TuningMismatch, UsageError

if TYPE_CHECKING:
    from pathotune.backbones.slide.surface import SlideEncoder

# The small encoder is drawn from this seed, the same on every machine.
SMALL_SEED = 2024


def load(
    name: str, feature_dim: int | None, given: Path | None, random_seed: int | None, run_local_code: bool
) -> SlideEncoder:
    """See `pathotune.backbones.slide.load_slide_encoder`."""
    entry = SLIDE_ENCODERS[name]
    card = backbone_card(name)
    if name == "titan-slide":
        if random_seed is not None:
            raise UsageError("TITAN's network is not part of pathotune, so it cannot be drawn from a seed.")
        encoder: SlideEncoder = entry.load()(card, given, run_local_code)
        return _sealed(encoder, "file")
    wanted = card.arguments.get("feature_dim")
    if wanted is None and feature_dim is None:
        raise UsageError(f"{card.title} needs to know how wide the tile features are (feature_dim).")
    if wanted is not None and feature_dim is not None and feature_dim != wanted:
        raise TuningMismatch(
            f"{card.title} is fed with features {wanted} wide, but these are {feature_dim} wide. Make them with "
            f"`pathotune features --backbone {card.arguments.get('fed_with')}`, or choose small-slide."
        )
    encoder = entry.load()(card, int(wanted or feature_dim or 0))
    if random_seed is not None or locate.is_built_in(card):
        if given is not None:
            raise UsageError(f"{card.title} takes no weights file.")
        seed = SMALL_SEED if random_seed is None else random_seed
        weights.fill_randomly(encoder, seed)
        return _sealed(encoder, f"random, seed {seed}")
    path, source = locate.find_weights(card, given)
    tensors = weights.rename(weights.read_tensors(path), card)
    if not tensors:
        raise BackboneUnavailable(f"{path.name} holds no tensors of {card.title}.")
    weights.load_strictly(encoder, tensors, card, path.name)
    return _sealed(encoder, source)


def _sealed(encoder: SlideEncoder, source: str) -> SlideEncoder:
    encoder.weights_sha256 = weights.content_sha256(encoder)
    encoder.weights_source = source
    return encoder.freeze()
