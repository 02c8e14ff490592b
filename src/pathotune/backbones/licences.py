"""What a backbone's licence asks of who tunes on it, and of who passes on what came of it: one wording everywhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pathotune.backbones.card import BackboneCard, backbone_card
from pathotune.errors import PathotuneError
from pathotune.events import Note

FACTS = ("licence", "non_commercial", "no_derivatives")


def limits(facts: Mapping[str, Any]) -> list[str]:
    """What the licence forbids, in words.

    Parameters
    ----------
    facts : of a tuning, a store or a card: licence, non_commercial, no_derivatives; what is not stated is allowed.
    """
    licence = str(facts.get("licence") or "").upper()
    found = []
    if facts.get("non_commercial") or "-NC" in licence:
        found.append("no commercial use")
    if facts.get("no_derivatives") or "-ND" in licence:
        found.append("no changed versions passed on")
    return found


def stated(backbone: Mapping[str, Any]) -> dict[str, Any]:
    """The licence of a tuning's backbone, as a store carries it on."""
    return {name: backbone.get(name) for name in FACTS}


def of_card(card: BackboneCard) -> dict[str, Any]:
    """The same from a card."""
    return {name: getattr(card, name) for name in FACTS}


def tuning_warning(card: BackboneCard) -> str:
    """What a person has to know before she tunes; "" where the licence leaves her free."""
    found = limits(of_card(card))
    if not found:
        return ""
    return (
        f"{card.title or card.name} is under {card.licence or 'a licence of its own'}: {' and '.join(found)}. What you "
        "tune on it, and what that predicts, may be bound by this too; ask its authors where it matters."
    )


def warn_before_tuning(*cards: BackboneCard) -> Iterator[Note]:
    """One note for each of the cards whose licence limits what may be done."""
    for card in cards:
        if text := tuning_warning(card):
            yield Note(text, "warning")


def passing_on_warning(backbone: Mapping[str, Any]) -> str:
    """What who passes on a result has to know; "" where there is nothing.

    Parameters
    ----------
    backbone : what a store or a tuning says of it; one that was written before licences were kept is looked up by name.
    """
    facts = dict(backbone)
    if not any(facts.get(name) for name in FACTS) and facts.get("name"):
        try:
            facts |= of_card(backbone_card(str(facts["name"])))
        except PathotuneError:  # a person's own card that is not here
            return ""
    found = limits(facts)
    if not found:
        return ""
    title, licence = facts.get("title") or facts.get("name"), facts.get("licence") or "a licence of its own"
    return f"This was made with {title} ({licence}: {' and '.join(found)}); the licence may bind what you pass on."
