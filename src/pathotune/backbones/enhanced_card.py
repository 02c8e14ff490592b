"""A transcriptomics tuning as a backbone: where its file lies, and its card, without loading anything."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pathotune.errors import BackboneUnavailable
from pathotune.settings import read_json, settings, write_json

if TYPE_CHECKING:
    from pathotune.backbones.card import BackboneCard

ENDING = ".pathotune.safetensors"
METADATA_KEY, METHOD = "pathotune", "transcriptomics"
PLACES = "enhanced.json"
MOST_HEADER_BYTES = 100_000_000


def is_enhanced(name: object) -> bool:
    """Whether this names a tuning file rather than a card."""
    return str(name).endswith(ENDING)


def find_enhanced(name: str | Path) -> Path:
    """The tuning file of that name: as given, else in the folder of models, else where it was used last.

    Tunings that are made on an enhanced backbone keep its file's name only, as a path says too much in a file that is
    passed on.

    Raises
    ------
    BackboneUnavailable : it is in none of these places.
    """
    path = Path(name).expanduser()
    places = settings().cache_dir / PLACES
    known = read_json(places)
    for place in (path, settings().models_dir / path.name, Path(str(known.get(path.name) or ""))):
        if place.is_file():
            found = place.resolve()
            if known.get(path.name) != str(found):
                with contextlib.suppress(OSError):
                    write_json(places, {**known, path.name: str(found)})
            return found
    raise BackboneUnavailable(
        f"{path} is an enhanced backbone, and its tuning file is not here. Name it with its folder, or copy it to "
        f"{settings().models_dir}."
    )


def known_enhanced() -> list[Path]:
    """The enhanced backbones that were used on this machine and are still where they were, by name."""
    known = read_json(settings().cache_dir / PLACES)
    return [path for name in sorted(known) if (path := Path(str(known[name]))).is_file()]


def enhanced_facts(path: Path) -> dict[str, Any]:
    """What the file says of itself.

    Raises
    ------
    BackboneUnavailable : it is damaged, or no tuning that could be used as a backbone.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > min(MOST_HEADER_BYTES, path.stat().st_size):
                raise ValueError("its header is longer than the file")
            facts = json.loads(json.loads(file.read(length))["__metadata__"][METADATA_KEY])
        method = str(facts["method"])
        str(facts["backbone"]["name"])
    except (OSError, ValueError, KeyError, TypeError):
        raise BackboneUnavailable(f"{path.name} is no tuning that could be used as a backbone.") from None
    if method != METHOD:
        raise BackboneUnavailable(
            f"{path.name} is a tuning of the method {method}; only those of {METHOD} can be used as a backbone."
        )
    return dict(facts)


def enhanced_card(name: str | Path) -> BackboneCard:
    """The card of an enhanced backbone: its base's, under the name of the tuning's file.

    Raises
    ------
    BackboneUnavailable : as `find_enhanced` and `enhanced_facts`.
    """
    from pathotune.backbones.card import backbone_card

    path = find_enhanced(name)
    base = backbone_card(str(enhanced_facts(path)["backbone"]["name"]))
    title = f"{base.title} enhanced by {path.name.removesuffix(ENDING)}"
    # No weights of a hub or a file belong to this card: they are those of the base and of the tuning.
    return dataclasses.replace(base, name=path.name, title=title, hub_id="", file_sha256="")
