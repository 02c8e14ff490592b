"""Going on from an earlier split: what was learned from is never judged by later, and what was judged by stays so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pathotune.regions import LabelledTiles
    from pathotune.training.session import Sides

Indices = NDArray[np.int64]


def settled(
    tiles: LabelledTiles, fingerprints: Sequence[str], train: Indices, validation: Indices, before: Sides
) -> tuple[Indices, Indices, tuple[str, ...]]:
    """Bring a new split into line with an earlier one.

    A region that overlaps a tile of the earlier training goes to training, else one that overlaps a tile of the earlier
    validation goes to validation; regions that touch neither stay where the new split has them. Training tiles that
    then overlap a validation tile are left out.

    Parameters
    ----------
    tiles : laid on all slides.
    fingerprints : of the slides, in the order of `tiles.slide`.
    train, validation : the new split.
    before : the earlier one.

    Returns
    -------
    training, validation, and sentences for the person. Where a class would be left without tiles on one side, the new
    split is kept and a sentence says so.
    """
    if not before:
        note = "Which tiles this tuning learned from before is not known here, so some may now be used to judge it."
        return train, validation, (note,)
    keys = np.stack([tiles.slide, tiles.region], axis=1)
    _, group = np.unique(keys, axis=0, return_inverse=True)
    group = group.reshape(-1)
    learned, judged = (_touched(tiles, fingerprints, boxes) for boxes in (before.training, before.validation))
    side = np.zeros(len(tiles), dtype=np.int64)  # 0 neither, 1 training, 2 validation
    side[train], side[validation] = 1, 2
    for member in np.unique(group[learned | judged]):
        rows = (group == member) & (side > 0)
        side[rows] = 1 if learned[group == member].any() else 2
    overlapping = _overlapping(tiles, np.flatnonzero(side == 1), np.flatnonzero(side == 2))
    side[overlapping] = 0
    for number in (1, 2):
        present = np.bincount(tiles.label[side == number], minlength=len(tiles.class_names))
        if (present == 0).any():
            name = tiles.class_names[int(np.argmin(present))]
            note = (
                f"The earlier split leaves {name} without {'training' if number == 1 else 'validation'} tiles, so the "
                "regions are split anew; the scores may look a little too good."
            )
            return train, validation, (note,)
    notes = (f"{len(overlapping)} training tiles that overlap a validation tile were left out.",)
    return np.flatnonzero(side == 1), np.flatnonzero(side == 2), notes if len(overlapping) else ()


def unlearned(tiles: LabelledTiles, fingerprints: Sequence[str], train: Indices, before: Sides) -> int:
    """How many training tiles lie where an earlier training has learned nothing; all where that is not known."""
    return int((~_touched(tiles.take(train), fingerprints, before.training)).sum())


def relearned(tiles: LabelledTiles, fingerprints: Sequence[str], train: Indices, before: Sides) -> float:
    """The share of the tiles an earlier training learned from that training tiles overlap; 0 where that is unknown."""
    import shapely

    every = sum(map(len, before.training.values()))
    found = 0
    for index, name in enumerate(fingerprints):
        mine = train[tiles.slide[train] == index]
        if name in before.training and len(mine):
            x, y, width, height = before.training[name].T
            boxes = shapely.box(x, y, x + width, y + height)
            found += len(np.unique(shapely.STRtree(_shrunk(tiles, mine)).query(boxes)[0]))
    return found / every if every else 0.0


def _touched(tiles: LabelledTiles, fingerprints: Sequence[str], boxes: dict[str, Any]) -> NDArray[np.bool_]:
    """Whether each tile overlaps one of the boxes on its slide."""
    import shapely

    touched = np.zeros(len(tiles), dtype=bool)
    for index, name in enumerate(fingerprints):
        mine = np.flatnonzero(tiles.slide == index)
        if name not in boxes or not len(mine):
            continue
        x, y, width, height = boxes[name].T
        tree = shapely.STRtree(shapely.box(x, y, x + width, y + height))
        touched[mine[np.unique(tree.query(_shrunk(tiles, mine))[0])]] = True
    return touched


def _overlapping(tiles: LabelledTiles, train: Indices, validation: Indices) -> Indices:
    """Training tiles that share area with a validation tile of their slide."""
    import shapely

    found = []
    for index in np.unique(tiles.slide):
        mine, theirs = train[tiles.slide[train] == index], validation[tiles.slide[validation] == index]
        tree = shapely.STRtree(_shrunk(tiles, theirs))
        found.append(mine[np.unique(tree.query(_shrunk(tiles, mine))[0])])
    return np.concatenate(found) if found else np.zeros(0, dtype=np.int64)


def _shrunk(tiles: LabelledTiles, rows: Indices) -> NDArray[np.object_]:
    """The tiles as boxes, a thousandth smaller: tiles side by side do not overlap."""
    import shapely

    x, y = tiles.x_px0[rows], tiles.y_px0[rows]
    width, height = tiles.width_px0[rows], tiles.height_px0[rows]
    edge = 0.0005 * np.minimum(width, height)
    return np.asarray(shapely.box(x + edge, y + edge, x + width - edge, y + height - edge))
