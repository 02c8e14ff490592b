"""Whether a tuning can be used here and on a slide, told before anything is loaded: no torch, no weights read."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from pathotune.backbones.card import BackboneCard, all_cards, backbone_card
from pathotune.backbones.locate import is_available
from pathotune.backbones.remembered import remembered_sha256
from pathotune.errors import BackboneUnavailable, PathotuneError, TuningMismatch
from pathotune.methods import METHODS, check_backbone_name

if TYPE_CHECKING:
    from pathotune.methods.checkpoint import Tuning
    from pathotune.slides.slide import Slide

COARSEST = 2.0
"""A slide's pixels may be this many times as large as those of the pictures a tuning learned from; beyond, most of what
it looks at is not in the scan. Finer scans are averaged and lose nothing."""


def unavailable_reason(method: str, card: BackboneCard) -> str:
    """Why a method cannot be had on a backbone, in a sentence; "" where it can.

    Told from the cards alone, so that a form can show it beside the choice: no torch, no weights read.

    Raises
    ------
    UnknownName : there is no such method.
    """
    facts = METHODS[method].facts or {}
    title = METHODS[method].title
    if not card.loadable:
        return f"{card.title} cannot be loaded yet: {card.reason}"
    if facts.get("level", "tile") == "tile" and card.kind != "tile":
        return f"{card.title} takes features of tiles, not tiles; {title} needs a model of single tiles."
    if facts.get("needs_text_side") and not card.text:
        readers = ", ".join(one.name for one in all_cards() if one.text and one.loadable)
        return f"{card.title} has no text side: {title} needs a model of images and sentences ({readers})."
    if facts.get("needs_prompts") and not card.takes_prompts:
        return f"{card.title} takes no prompt tokens (only plain vision transformers do), and {title} is made of them."
    return ""


def backbone_to_load(tuning: Tuning, given: str | None = None) -> str:
    """What a tuning's backbone is loaded by: its name in the catalogue, or the card a person gives for the same one.

    Raises
    ------
    TuningMismatch : the card is another backbone's, or none is given and the catalogue does not have it.
    """
    if given:
        check_backbone_name(tuning, backbone_card(given).name)
        return given
    need = str(tuning.backbone["name"])
    try:
        backbone_card(need)
    except PathotuneError:
        raise TuningMismatch(
            f"The tuning {tuning.name} needs the backbone {need}, which is not in this version's catalogue. If it has "
            "a card of its own, give that with --backbone CARD.yaml on the command line; otherwise update pathotune."
        ) from None
    return need


def check_here(tuning: Tuning) -> None:
    """Refuse a tuning that cannot be used with this installation.

    Raises
    ------
    TuningMismatch : its method or its backbone is not known here, or the backbone is another one by now.
    BackboneUnavailable : the backbone is known and cannot be loaded.
    """
    name = tuning.name
    if tuning.method not in METHODS:
        raise TuningMismatch(
            f"The tuning {name} was made with the method {tuning.method!r}, which this version of pathotune does not "
            "know. Update pathotune."
        )
    card = backbone_card(backbone_to_load(tuning))
    if not card.loadable:
        raise BackboneUnavailable(f"The tuning {name} needs {card.title}, which cannot be loaded yet: {card.reason}")
    lacking = [package for package in card.needs if importlib.util.find_spec(package) is None]
    if lacking:
        raise BackboneUnavailable(
            f"The tuning {name} needs {card.title}, and that needs the package {lacking[0]}. Install it with: pip "
            f"install {lacking[0]}"
        )
    _check_same(tuning, card)


def _check_same(tuning: Tuning, card: BackboneCard) -> None:
    """Whether card and weights are those the tuning was made with, as far as that is known without loading them."""
    name, need = tuning.name, tuning.backbone
    advice = "Get the release of it that the tuning was made with, or tune again on the same regions."
    if card.embed_dim and need["embed_dim"] != card.embed_dim:
        raise TuningMismatch(
            f"The tuning {name} needs a {card.title} with tokens {need['embed_dim']} wide; the one here has "
            f"{card.embed_dim}. {advice}"
        )
    reads = card.reading().mpp
    if need.get("mpp") is not None and need["mpp"] != reads:
        raise TuningMismatch(
            f"The tuning {name} needs {card.title} at {need['mpp']:g} µm per pixel; the one here reads at {reads:g} µm "
            f"per pixel. {advice}"
        )
    here = remembered_sha256(card)
    if here and need.get("sha256") and here != need["sha256"]:
        raise TuningMismatch(
            f"The tuning {name} was made with other weights of {card.title} ({str(need['sha256'])[:8]}…) than those "
            f"here ({here[:8]}…). {advice}"
        )


def check_slide(tuning: Tuning, slide: Slide) -> None:
    """Refuse a slide on which the tuning cannot see what it learned from.

    Raises
    ------
    TuningMismatch : the slide's pixels are more than `COARSEST` times as large as those the tuning reads.
    """
    wanted = tuning.reading.image_mpp
    if slide.mpp is None or slide.mpp.mean <= COARSEST * wanted:
        return
    raise TuningMismatch(
        f"The tuning {tuning.name} reads tissue at {wanted:g} µm per pixel, and {slide.name} has only one pixel every "
        f"{slide.mpp.mean:g} µm ({slide.mpp.source}). Use a scan with pixels of at most {COARSEST * wanted:g} µm or a "
        "tuning made for coarser ones; if that pixel size is wrong, state the right one."
    )


def what_is_to_come(tuning: Tuning) -> str:
    """A sentence where the first use takes more than a moment: the backbone's weights are not on this machine."""
    card = backbone_card(str(tuning.backbone["name"]))
    if is_available(card):
        return ""
    size = f" ({card.params_m:g} million parameters)" if card.params_m else ""
    gate = "after its authors' agreement, asked for at" if card.gated else "from"
    where = f" It is downloaded {gate} {card.where_to_ask} on first use." if card.where_to_ask else ""
    return f"Its backbone {card.title}{size} is not on this machine.{where}"
