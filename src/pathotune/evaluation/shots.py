"""Which tiles a comparison learns from: so many tiles or slides of each class, the same for every method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pathotune.errors import NoTiles, UsageError

UNITS = ("tile", "slide", "largest-slide")
# With fewer drawn of a class, none can be spared to choose the best epoch by.
SPARED_FROM = 4

Tiles = NDArray[np.int64]


class Draw(NamedTuple):
    """The tiles of one draw, as indexes.

    train : to learn from.
    validation : to choose the best epoch and the temperature by.
    is_held_out : whether validation is apart from train; with very few shots both are the same tiles.
    """

    train: Tiles
    validation: Tiles
    is_held_out: bool


def parse_shots(text: str) -> tuple[int | None, ...]:
    """ "1,4,all" as numbers in their order, None for all.

    Raises
    ------
    UsageError : something is neither a positive number nor "all", or stands twice.
    """
    found: list[int | None] = []
    for part in (piece.strip() for piece in text.split(",") if piece.strip()):
        if part != "all" and not (part.isdigit() and int(part) > 0):
            raise UsageError(f"--shots takes numbers and all, such as 1,4,16,all, not {part!r}.")
        found.append(None if part == "all" else int(part))
    if not found or len(set(found)) < len(found):
        raise UsageError(f"--shots {text!r} names {'nothing' if not found else 'a number twice'}.")
    return tuple(found)


def draw_shots(
    labels: Tiles,
    groups: Sequence[str],
    pool: Tiles,
    kept: Tiles,
    shots: int | None,
    unit: str,
    seed: int,
) -> Draw:
    """Draw the tiles to learn from.

    Parameters
    ----------
    labels : (n,) class of every tile.
    groups : (n,) slide of every tile; tiles of one slide are never on both sides where slides can be parted.
    pool : tiles that may be learned from.
    kept : tiles the table itself keeps for validation; empty where it does not.
    shots : of each class; None takes all.
    unit : what is counted, "tile" or "slide"; "largest-slide" takes the slides with the most tiles, whatever the seed,
        as CITE's published few-shot lists do.
    seed : the same seed gives the same draw.

    Returns
    -------
    Where the table keeps no validation tiles, a quarter of what is drawn is held out from four of each class on; below
    that nothing can be spared, and the same tiles serve both ends.

    Raises
    ------
    NoTiles : a class has no tile.
    """
    random = np.random.default_rng([seed, 0 if shots is None else shots])
    train: list[Tiles] = []
    spared: list[Tiles] = []
    names = np.asarray(groups)
    for label in np.unique(labels):
        mine = pool[labels[pool] == label]
        if not len(mine):
            raise NoTiles(f"Class number {label + 1} has no tile to learn from outside the test rows.")
        units = mine if unit == "tile" else np.unique(names[mine])
        order = _largest_first(names[mine]) if unit == "largest-slide" else random.permutation(units)
        drawn = order[: len(units) if shots is None else shots]
        held = drawn[: max(1, len(drawn) // 4)] if len(drawn) >= SPARED_FROM and not len(kept) else drawn[:0]
        for part, into in ((np.setdiff1d(drawn, held), train), (held, spared)):
            tiles = np.isin(mine if unit == "tile" else names[mine], part)
            into.append(mine[tiles])
    chosen = np.sort(np.concatenate(train)).astype(np.int64)
    held_out = kept if len(kept) else np.sort(np.concatenate(spared)).astype(np.int64)
    # Judged by some classes only, the best epoch would be the one that says nothing else.
    is_whole = set(labels[held_out].tolist()) == set(labels[chosen].tolist())
    if len(held_out) and is_whole:
        return Draw(chosen, held_out, True)
    return Draw(np.sort(np.concatenate([chosen, held_out])), np.sort(np.concatenate([chosen, held_out])), False)


def _largest_first(slides: NDArray[np.str_]) -> NDArray[np.str_]:
    """The slides, those with the most tiles first; of as many, by name."""
    names, counts = np.unique(slides, return_counts=True)
    return names[np.lexsort((names, -counts))]
