"""Where on a predicted slide a person might label next: uncertain, typical, and unlike what is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pathotune.errors import NoTiles, UsageError
from pathotune.inference.tiletable import PredictedTiles, predicted_tiles

if TYPE_CHECKING:
    from pathotune.inference.predictions import PredictionStore
    from pathotune.regions.region import Region

Floats = NDArray[np.floating[Any]]
Flags = NDArray[np.bool_]

MOST_CANDIDATES = 20_000  # of more tiles a random part is looked at: the best of so many is as good
AXES = 32  # directions of largest variance in which features are compared; the others are mostly noise
REFERENCES = 4_000  # tiles among which a tile's like are counted
LIKE = 10  # a tile is typical where so many others lie close
TYPICAL_POWER = 2.0
# Tiles from one place to the next, and from a place to what is labelled, as far as there are enough places; at least
# they never overlap, nor what is labelled.
GAPS_TILES = ((2.0, 2.0), (1.0, 0.0))


@dataclass(frozen=True)
class Place:
    """One tile that a person is asked about.

    Parameters
    ----------
    x_px0, y_px0 : its centre in level-0 pixels.
    box_px0 : x, y, width and height of exactly the tile that the tuning reads there, in level-0 pixels.
    probabilities : of each class, in the tuning's order.
    row, column : its cell in the store.
    """

    x_px0: float
    y_px0: float
    box_px0: tuple[float, float, float, float]
    probabilities: dict[str, float]
    row: int
    column: int

    @property
    def class_name(self) -> str:
        """What the tuning says it is."""
        return max(self.probabilities, key=lambda name: self.probabilities[name])

    @property
    def probability(self) -> float:
        """How sure the tuning is of that."""
        return self.probabilities[self.class_name]


def suggest_places(
    store: PredictionStore,
    regions: Sequence[Region] = (),
    count: int = 12,
    *,
    skipped_px0: Sequence[tuple[float, float]] = (),
    seed: int = 0,
) -> list[Place]:
    """The places of a predicted slide to label next, the most telling first.

    Parameters
    ----------
    store : a prediction, complete or not; only predicted tiles are suggested. Where it keeps features, places are
        unlike each other and what is labelled in what the tuning sees; where not, they lie far apart.
    regions : drawn on this slide. No place overlaps one, whatever its class.
    count : at most so many.
    skipped_px0 : centres (x, y) of places the person had no answer to; neither they nor their like come again.
    seed : the same seed gives the same places.

    Raises
    ------
    NoTiles : nothing is predicted yet, or everything predicted is labelled.
    UsageError : fewer than one place is asked for.
    """
    if count < 1:
        raise UsageError(f"{count} places cannot be suggested; ask for at least one.")
    tiles = predicted_tiles(store)
    if not len(tiles):
        raise NoTiles(f"Nothing is predicted in {store.path.name} yet: predict a part of the slide first.")
    tile, stride = np.asarray(store.grid.tile_px0), np.asarray(store.grid.stride_px0)
    known, touched = covered(tiles.centres_px0, tile, regions, skipped_px0)
    if touched.all():
        raise NoTiles("Every predicted tile is labelled already: predict more of the slide first.")
    rows = choose(tiles, known, touched, count, tile / stride, seed)
    names = store.class_names
    return [_place(tiles, row, tile, names) for row in rows]


def choose(
    tiles: PredictedTiles, known: Flags, touched: Flags, count: int, tile_cells: Floats, seed: int = 0
) -> list[int]:
    """Rows of the tiles to ask about, the most telling first.

    Uncertainty alone picks borders and artefacts, and with few labels it is not to be trusted; typical tiles alone
    repeat what is known. So places are taken one by one (a greedy k-centre, as Sener and Savarese, ICLR 2018) by the
    product of three: how unlike a tile is to everything labelled or taken, how undecided the model is about it (the
    margin between its two largest probabilities), and how many others are like it (information density, Settles and
    Craven, EMNLP 2008). `benchmarks/suggestions.py` shows what that is worth.

    Parameters
    ----------
    tiles : as `predicted_tiles` gives them.
    known : (n,) tiles whose class is known: the model has seen their like.
    touched : (n,) tiles that overlap something drawn and are not to be chosen.
    count : how many.
    tile_cells : (2,) width and height of a tile in cells of the grid.
    seed : decides which tiles are looked at where there are very many.
    """
    random = np.random.default_rng(seed)
    looked_at = _part(known, touched, random)
    known, free = known[looked_at], ~touched[looked_at]
    cells = np.stack([tiles.column, tiles.row], axis=1)[looked_at] / tile_cells
    doubt = _margins(tiles.probabilities[looked_at])
    if tiles.features is None:
        space, typical = cells.astype(np.float64), np.ones(len(cells))
    else:
        space = _main_axes(tiles.features[looked_at].astype(np.float32), random)
        typical = _typical(space, random)
    worth = doubt * typical**TYPICAL_POWER
    unlike = _distance2(space, space[known]) if known.any() else np.ones(len(space))
    chosen: list[int] = []
    for gap, gap_to_known in GAPS_TILES:
        far = free & _is_far(cells, cells[known], gap_to_known)
        for row in chosen:
            far &= _is_far(cells, cells[[row]], gap)
        while len(chosen) < count and far.any():
            row = int(np.argmax(np.where(far, unlike * worth, -1.0)))
            chosen.append(row)
            to_new = _distance2(space, space[[row]])
            # Before the first known tile everything is equally unlike.
            unlike = to_new if len(chosen) == 1 and not known.any() else np.minimum(unlike, to_new)
            far &= _is_far(cells, cells[[row]], gap)
    return [int(looked_at[row]) for row in chosen]


def covered(
    centres_px0: Floats,
    tile_px0: Floats,
    regions: Sequence[Region],
    skipped_px0: Sequence[tuple[float, float]] = (),
) -> tuple[Flags, Flags]:
    """Which tiles are known by what is drawn, and which of them touch it.

    Parameters
    ----------
    centres_px0 : (n, 2) x and y of the tiles' centres.
    tile_px0 : (2,) width and height of a tile.
    regions : drawn on the slide; lines say nothing.
    skipped_px0 : centres that count as known without being drawn.

    Returns
    -------
    known : (n,) the centre lies in a region, or it is the tile nearest to a region that holds no centre.
    touched : (n,) the tile shares area with a region, or is known.
    """
    import shapely

    known, touched = np.zeros(len(centres_px0), bool), np.zeros(len(centres_px0), bool)
    drawn = [region.geometry for region in regions if region.kind != "line" and not region.geometry.is_empty]
    drawn += [shapely.Point(x, y) for x, y in skipped_px0]
    if not drawn:
        return known, touched
    low, high = centres_px0 - tile_px0 * 0.499, centres_px0 + tile_px0 * 0.499
    boxes = shapely.box(low[:, 0], low[:, 1], high[:, 0], high[:, 1])
    tree = shapely.STRtree(boxes)
    for geometry in drawn:
        shapely.prepare(geometry)
        near = tree.query(geometry, predicate="intersects")
        if not len(near):
            continue
        inside = near[shapely.intersects_xy(geometry, centres_px0[near, 0], centres_px0[near, 1])]
        if not len(inside):
            middle = shapely.get_coordinates(shapely.point_on_surface(geometry))[0]
            inside = near[[np.abs((centres_px0[near] - middle) / tile_px0).max(axis=1).argmin()]]
        known[inside] = True
        touched[near] = True
    return known, touched


def _part(known: Flags, touched: Flags, random: np.random.Generator) -> NDArray[np.intp]:
    """The tiles that are looked at: all, or a random part of very many."""
    parts = []
    for rows in (np.flatnonzero(known), np.flatnonzero(~touched)):
        most = len(rows) <= MOST_CANDIDATES
        parts.append(rows if most else np.sort(random.choice(rows, MOST_CANDIDATES, replace=False)))
    return np.asarray(np.union1d(*parts), dtype=np.intp)


def _margins(probabilities: Floats) -> NDArray[np.float64]:
    """(n,) 1 - the difference of the two largest probabilities (n, K): 1 where the model cannot decide."""
    if probabilities.shape[1] < 2:
        return np.ones(len(probabilities))
    two = np.sort(probabilities.astype(np.float64), axis=1)[:, -2:]
    return np.asarray(1 - (two[:, 1] - two[:, 0]))


def _main_axes(features: NDArray[np.float32], random: np.random.Generator) -> NDArray[np.float64]:
    """Features (n, D) as (n, r) along the r axes of largest variance, each feature scaled to the same spread."""
    spread = features.std(axis=0)
    scaled = (features - features.mean(axis=0)) / np.where(spread > 1e-6, spread, 1.0)
    some = scaled
    if len(scaled) > REFERENCES:
        some = scaled[random.choice(len(scaled), REFERENCES, replace=False)]
    _, axes = np.linalg.eigh(some.T @ some)
    return np.asarray(scaled @ axes[:, ::-1][:, :AXES], dtype=np.float64)


def _typical(space: NDArray[np.float64], random: np.random.Generator) -> NDArray[np.float64]:
    """(n,) 1 for the tile with the closest like, smaller the farther the nearest others lie."""
    if len(space) <= 2:
        return np.ones(len(space))
    some = space if len(space) <= REFERENCES else space[random.choice(len(space), REFERENCES, replace=False)]
    like = min(LIKE, len(some) - 1)
    far = np.empty(len(space))
    for start in range(0, len(space), 2048):
        squared = _pairs(space[start : start + 2048], some)
        nearest = np.partition(squared, like, axis=1)[:, : like + 1]
        far[start : start + 2048] = np.sqrt(nearest).sum(axis=1) / like
    return np.asarray(max(far.min(), 1e-12) / np.maximum(far, 1e-12))


def _pairs(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, m) squared distances."""
    squared = (first**2).sum(axis=1)[:, None] + (second**2).sum(axis=1) - 2 * first @ second.T
    return np.asarray(np.maximum(squared, 0))


def _distance2(space: NDArray[np.float64], centres: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,) squared distance from the nearest of the centres."""
    found = np.full(len(space), np.inf)
    for start in range(0, len(centres), 256):
        found = np.minimum(found, _pairs(space, centres[start : start + 256]).min(axis=1))
    return found


def _is_far(cells: Floats, others: Floats, gap: float) -> Flags:
    """(n,) whether every other place is so many tiles away, in x or in y."""
    from scipy.spatial import cKDTree

    if not len(others) or not gap:
        return np.ones(len(cells), bool)
    away, _ = cKDTree(others).query(cells, p=np.inf, distance_upper_bound=gap)
    return np.asarray(away >= gap - 1e-6)


def _place(tiles: PredictedTiles, row: int, tile_px0: Floats, names: Sequence[str]) -> Place:
    x, y = (float(part) for part in tiles.centres_px0[row])
    width, height = (float(part) for part in tile_px0)
    values = {name: float(value) for name, value in zip(names, tiles.probabilities[row], strict=True)}
    box = (x - width / 2, y - height / 2, width, height)
    return Place(x, y, box, values, int(tiles.row[row]), int(tiles.column[row]))
