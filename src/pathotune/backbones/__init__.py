"""Frozen feature extractors: the catalogue as cards, and each of them behind the one surface that methods know."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pathotune.backbones.card import BackboneCard, all_cards, backbone_card, backbone_names
from pathotune.backbones.enhanced_card import is_enhanced

if TYPE_CHECKING:
    from pathotune.backbones.surface import Backbone

__all__ = ["BackboneCard", "all_cards", "backbone_card", "backbone_names", "load_backbone"]


def load_backbone(
    card_or_name: BackboneCard | str | Path,
    *,
    weights: str | Path | None = None,
    random_seed: int | None = None,
    depth: int | None = None,
) -> Backbone:
    """Build a backbone and load its weights strictly.

    Parameters
    ----------
    card_or_name : a card, a name of `backbone_names`, the path of a card in YAML, or a transcriptomics tuning
        (.pathotune.safetensors), which gives its backbone with enhanced features.
    weights : a file (.safetensors, or .bin/.pt/.pth read without running code) or a folder that holds one. Without
        it: the file beside a person's own card, then `settings().models_dir/NAME/`, then the hub's cache, then the hub.
    random_seed : no weights at all, but numbers drawn from this seed; for tests and measurements.
    depth : keep only the first blocks (with `random_seed`; a published file would not fit).

    Returns
    -------
    Backbone
        Frozen, in evaluation mode, on the CPU, in float32.

    Raises
    ------
    UnknownName, TableUnreadable
        No such card, or a faulty one.
    BackboneUnavailable
        The weights are not here and cannot be fetched; the sentence says what it is and where to ask.
    WeightsRefused
        A tensor is missing, unexpected or of another shape, or the file is of a kind that could run code.
    """
    from pathotune.backbones.loading import load

    name = card_or_name.name if isinstance(card_or_name, BackboneCard) else card_or_name
    if is_enhanced(name):
        from pathotune.backbones.tile.enhanced import load_enhanced

        return load_enhanced(
            Path(name),
            lambda name: load_backbone(name, weights=weights, random_seed=random_seed, depth=depth),
        )
    card = card_or_name if isinstance(card_or_name, BackboneCard) else backbone_card(card_or_name)
    return load(card, None if weights is None else Path(weights), random_seed, depth)
