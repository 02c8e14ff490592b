"""Which weights of a backbone are on this machine, remembered from their last loading: reading them takes seconds."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from pathotune.backbones import locate
from pathotune.backbones.card import BackboneCard
from pathotune.errors import WeightsRefused
from pathotune.settings import read_json, settings, write_json

FILE = "backbones.json"


def remember(card: BackboneCard, sha256: str | None) -> None:
    """Note what was loaded from the place where the backbone is looked for; a disk that will not costs nothing."""
    place = _place(card)
    path = settings().cache_dir / FILE
    known = read_json(path)
    entry = {"place": place, "sha256": sha256}
    if place is None or not sha256 or known.get(card.name) == entry:
        return
    with contextlib.suppress(OSError):
        write_json(path, {**known, card.name: entry})


def remembered_sha256(card: BackboneCard) -> str:
    """SHA-256 of the weights' content as they lie here now; "" where they were never loaded or have changed since."""
    entry = read_json(settings().cache_dir / FILE).get(card.name)
    if not isinstance(entry, dict) or entry.get("place") != _place(card):
        return ""
    return str(entry.get("sha256") or "")


def _place(card: BackboneCard) -> list[Any] | None:
    """What changes when other weights come to lie there."""
    if locate.is_built_in(card):
        return ["built in", card.file_sha256]
    try:
        path: Path | None = locate.local_weights(card)
        if path is None:
            return None
        about = path.stat()
    except (WeightsRefused, OSError):
        return None
    return [str(path), about.st_size, about.st_mtime_ns]
