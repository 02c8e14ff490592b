"""Which tiles are learned from and which are kept to judge: whole regions, slides or patients, never single tiles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pathotune.errors import NoTiles, UsageError

if TYPE_CHECKING:
    from pathotune.regions.labelled import LabelledTiles

Indices = NDArray[np.int64]
UNITS = ("region", "slide", "patient")
RESTARTS = 20


class Split(tuple[Indices, Indices]):
    """(training, validation) indices, with `notes` about what had to be done to get them.

    `dropped` counts tiles that are in neither, because they overlap a tile of the other side.
    """

    notes: tuple[str, ...]
    dropped: int

    def __new__(cls, train: Indices, validation: Indices, notes: Sequence[str] = (), dropped: int = 0) -> Split:
        """Make the pair."""
        self = super().__new__(cls, (train, validation))
        self.notes, self.dropped = tuple(notes), dropped
        return self

    @property
    def train(self) -> Indices:
        """Tiles to learn from."""
        return self[0]

    @property
    def validation(self) -> Indices:
        """Tiles to judge by."""
        return self[1]


def split_tiles(tiles: LabelledTiles, *, by: str = "region", fraction: float = 0.25, seed: int = 0) -> Split:
    """Split tiles so that no region (slide, patient) is on both sides and every class is on both.

    Regions whose tiles overlap go to the same side. Where that leaves a class on one side only, single regions are
    moved and the training tiles that overlap a validation tile are dropped. A class drawn as one region is
    cut in two halves of that region, with the tiles across the cut dropped; `notes` says so.

    Corrections are learned from and not judged by, as far as the drawn regions suffice for that: they were chosen for
    being hard, so scores on them would fall with every round. By slide or patient they go with their slide.

    Parameters
    ----------
    by : "region", "slide" or "patient".
    fraction : part of each class's tiles that should be validation tiles.
    seed : the same seed gives the same split.

    Raises
    ------
    NoTiles : a class has no tiles, or cannot be on both sides; the sentence says what to draw.
    UsageError : an unknown `by` or a fraction outside 0.05 to 0.9.
    """
    if by not in UNITS:
        raise UsageError(f"Tiles cannot be split by {by!r}; use {', '.join(UNITS)}.")
    _check_classes(tiles.label, tiles.class_names)
    if by != "region":
        return _by_slide(tiles, by, fraction, seed)
    to_learn = np.flatnonzero(_to_learn(tiles))
    if len(to_learn):
        drawn = np.setdiff1d(np.arange(len(tiles)), to_learn)
        try:
            return _with_corrections(tiles, drawn, to_learn, _by_region(tiles.take(drawn), fraction, seed))
        except NoTiles:
            pass  # too few drawn regions: the corrections have to help out
    return _by_region(tiles, fraction, seed)


def _by_region(tiles: LabelledTiles, fraction: float, seed: int) -> Split:
    """Whole regions, with what has to be done where that does not come out."""
    _, unit = np.unique(np.stack([tiles.slide, tiles.region]), axis=1, return_inverse=True)
    unit = unit.reshape(-1)
    joined = _joined(tiles, unit)
    is_validation = assign_groups(tiles.label, joined, len(tiles.class_names), fraction, seed)
    if is_validation is not None:
        train, validation = np.flatnonzero(~is_validation), np.flatnonzero(is_validation)
        return Split(train, validation, _thin_notes(tiles, validation, fraction))
    notes = []
    is_validation = assign_groups(tiles.label, unit, len(tiles.class_names), fraction, seed)
    split = None if is_validation is None else _without_overlaps(tiles, is_validation)
    if split is None:
        unit, cut = _cut_single_regions(tiles, unit, fraction)
        notes = [_cut_note(tiles.class_names[label]) for label in cut]
        is_validation = assign_groups(tiles.label, unit, len(tiles.class_names), fraction, seed)
        split = None if is_validation is None else _without_overlaps(tiles, is_validation)
    if split is None:
        raise NoTiles(_one_sided(tiles, unit))
    if split.dropped:
        notes.append(f"{split.dropped} training tiles that overlap a validation tile were left out.")
    notes += _thin_notes(tiles, split.validation, fraction)
    return Split(split.train, split.validation, notes, split.dropped)


def _to_learn(tiles: LabelledTiles) -> NDArray[np.bool_]:
    """Corrections that need not be judged by: those of classes with other tiles in two places or more."""
    centres = tiles.centres_px0()
    keep = np.zeros(len(tiles.class_names), dtype=bool)
    for label in range(len(tiles.class_names)):
        drawn = (tiles.label == label) & ~tiles.is_correction
        keep[label] = len(np.unique(np.column_stack([tiles.slide[drawn], centres[drawn]]), axis=0)) > 1
    return np.asarray(tiles.is_correction & keep[tiles.label])


def _with_corrections(tiles: LabelledTiles, drawn: Indices, corrections: Indices, split: Split) -> Split:
    """Corrections join the training, but for those that overlap a validation tile: these are judged by as well.

    One that overlaps both sides is left out.
    """
    from scipy.spatial import cKDTree

    train, validation = drawn[split.train], drawn[split.validation]
    centres = _scaled_centres(tiles)

    def near(rows: Indices) -> NDArray[np.bool_]:
        away, _ = cKDTree(centres[rows]).query(centres[corrections], p=np.inf, distance_upper_bound=1 - 1e-6)
        return np.asarray(np.isfinite(away), dtype=bool)

    judged = near(validation)
    both = judged & near(train)
    learned = corrections[~judged]
    validation = np.sort(np.concatenate([validation, corrections[judged & ~both]]))
    sides = np.zeros(len(tiles), dtype=bool)
    sides[validation] = True
    rows = np.sort(np.concatenate([train, learned, validation]))
    found = _without_overlaps(tiles.take(rows), sides[rows])
    if found is None:
        raise NoTiles(_one_sided(tiles, np.arange(len(tiles))))
    dropped = split.dropped + found.dropped + int(both.sum())
    notes = list(split.notes)
    lost = found.dropped + int(both.sum())
    if lost:
        what = (
            "1 correction that overlaps both sides was"
            if lost == 1
            else f"{lost} corrections that overlap both sides were"
        )
        notes.append(f"{what} left out.")
    return Split(rows[found.train], rows[found.validation], notes, dropped)


def split_groups(
    labels: ArrayLike,
    groups: Sequence[Any],
    class_names: Sequence[str],
    *,
    fraction: float = 0.25,
    seed: int = 0,
    what: str = "group",
) -> Split:
    """Split samples by any grouping (slides, patients), every class on both sides.

    Parameters
    ----------
    labels : (n,) class index of each sample.
    groups : (n,) what must not be parted.
    what : the word for a group in sentences.

    Raises
    ------
    NoTiles : a class has no samples, or lies in one group only.
    """
    label = np.asarray(labels, dtype=np.int64)
    _check_classes(label, class_names)
    _, unit = np.unique(np.asarray([str(group) for group in groups]), return_inverse=True)
    is_validation = assign_groups(label, unit, len(class_names), fraction, seed)
    if is_validation is None:
        lonely = [name for index, name in enumerate(class_names) if len(np.unique(unit[label == index])) < 2]
        which = f"{_listed(lonely)} on one {what} only" if lonely else f"classes on the same {what}s"
        raise NoTiles(
            f"The tiles cannot be split by {what} with every class on both sides: there is {which}; "
            f"add another {what}, or split by something smaller."
        )
    return Split(np.flatnonzero(~is_validation), np.flatnonzero(is_validation))


def assign_groups(label: Indices, group: Indices, classes: int, fraction: float, seed: int) -> NDArray[np.bool_] | None:
    """Choose groups for validation: near `fraction` of every class, every class on both sides.

    Returns
    -------
    (n,) whether each sample is a validation sample, or None where no choice was found with every class on both sides.
    """
    if not 0.05 <= fraction <= 0.9:
        raise UsageError(f"{fraction:g} of the tiles cannot be kept for validation; choose a part from 0.05 to 0.9.")
    count = int(group.max()) + 1 if len(group) else 0
    table = np.zeros((count, classes))  # tiles of each class in each group
    np.add.at(table, (group, label), 1)
    total = table.sum(axis=0)
    present = total > 0
    if ((table > 0).sum(axis=0)[present] < 2).any():
        return None
    table, total = table[:, present], total[present]
    random = np.random.default_rng(seed)
    best, best_cost = None, np.inf
    for _ in range(RESTARTS if count <= 2000 else 1):
        chosen = _choose(table, total, fraction, random.permutation(count))
        if chosen is None:
            continue
        cost = float((((table[chosen].sum(axis=0) / total) - fraction) ** 2).sum())
        if cost < best_cost - 1e-12:
            best, best_cost = chosen, cost
    return None if best is None else np.asarray(best[group])


def _choose(
    table: NDArray[np.float64], total: NDArray[np.float64], fraction: float, order: Indices
) -> NDArray[np.bool_] | None:
    """One greedy choice of groups, rarest classes first, in the given order."""
    chosen = np.zeros(len(table), dtype=bool)
    taken = np.zeros_like(total)
    for column in np.argsort((table > 0).sum(axis=0), kind="stable"):
        for index in order[table[order, column] > 0]:
            more = taken + table[index]
            if chosen[index] or (more >= total)[table[index] > 0].any():
                continue
            gain = np.abs(taken / total - fraction).sum() - np.abs(more / total - fraction).sum()
            if gain > 0 or taken[column] == 0:
                chosen[index] = True
                taken = more
            if taken[column] >= fraction * total[column]:
                break
        if taken[column] == 0:
            return None
    return chosen


def _check_classes(label: Indices, class_names: Sequence[str]) -> None:
    if len(class_names) < 2:
        raise NoTiles(
            f"There {'is one class' if class_names else 'are no classes'} ({_listed(list(class_names)) or 'none'}); "
            "at least two are needed to learn a difference. Draw regions of another class."
        )
    counts = np.bincount(label, minlength=len(class_names))
    without = [name for name, count in zip(class_names, counts, strict=False) if count == 0]
    if without:
        raise NoTiles(f"There are no tiles of {_listed(without)}: draw regions of it, or leave the class out.")


def _by_slide(tiles: LabelledTiles, by: str, fraction: float, seed: int) -> Split:
    names = [str(index) for index in range(int(tiles.slide.max()) + 1)]
    if by == "patient" and tiles.patients:
        names = [patient or f"slide {index}" for index, patient in enumerate(tiles.patients)]
    groups = [names[index] for index in tiles.slide]
    return split_groups(tiles.label, groups, tiles.class_names, fraction=fraction, seed=seed, what=by)


def _scaled_centres(tiles: LabelledTiles) -> NDArray[np.float64]:
    """Centres in tile widths, with slides far apart: two tiles overlap where both distances are below 1."""
    size = np.stack([tiles.width_px0, tiles.height_px0], axis=1)
    centres = tiles.centres_px0() / np.where(size > 0, size, 1)
    far = np.ptp(centres[:, 0]) + 10 if len(centres) else 0
    centres[:, 0] += far * tiles.slide
    return np.asarray(centres)


def _joined(tiles: LabelledTiles, unit: Indices) -> Indices:
    """Units whose tiles overlap, under one number."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import cKDTree

    count = int(unit.max()) + 1
    if not (tiles.width_px0 > 0).all():
        return unit
    tree = cKDTree(_scaled_centres(tiles))
    pairs = unit[tree.query_pairs(1 - 1e-6, p=np.inf, output_type="ndarray")]
    graph = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    _, component = connected_components(graph, directed=False)
    return np.asarray(component[unit], dtype=np.int64)


def _without_overlaps(tiles: LabelledTiles, is_validation: NDArray[np.bool_]) -> Split | None:
    """The two sides with the training tiles dropped that overlap a validation tile; None where a class is then gone."""
    from scipy.spatial import cKDTree

    train, validation = np.flatnonzero(~is_validation), np.flatnonzero(is_validation)
    dropped = 0
    if (tiles.width_px0 > 0).all():
        centres = _scaled_centres(tiles)
        distance, _ = cKDTree(centres[validation]).query(centres[train], p=np.inf, distance_upper_bound=1 - 1e-6)
        dropped = int(np.isfinite(distance).sum())
        train = train[~np.isfinite(distance)]
    if len(np.unique(tiles.label[train])) < len(np.unique(tiles.label)):
        return None
    return Split(train, validation, (), dropped)


def _cut_single_regions(tiles: LabelledTiles, unit: Indices, fraction: float) -> tuple[Indices, list[int]]:
    """Give the far end of a class's only region a unit of its own."""
    unit = unit.copy()
    cut = []
    for label in range(len(tiles.class_names)):
        rows = np.flatnonzero(tiles.label == label)
        if len(np.unique(unit[rows])) != 1 or len(rows) < 2:
            continue
        centres = tiles.centres_px0()[rows]
        along = centres[:, int(np.argmax(np.ptp(centres, axis=0)))]
        # Counted in positions, not tiles, so that a column of the grid is never parted.
        places = np.unique(along)
        if len(places) < 2:
            continue
        border = places[min(len(places) - 1, max(1, round(len(places) * (1 - fraction))))]
        unit[rows[along >= border]] = unit.max() + 1
        cut.append(label)
    return unit, cut


def _thin_notes(tiles: LabelledTiles, validation: Indices, fraction: float) -> list[str]:
    """A sentence for each class of which regions of very different size leave little to judge by."""
    kept = np.bincount(tiles.label[validation], minlength=len(tiles.class_names))
    return [
        f"Only {kept[label]} of the {count} tiles of {name!r} could be kept for validation, as whole regions go to one "
        "side: its scores are rough; draw more regions of it."
        for label, (name, count) in enumerate(tiles.tiles_per_class.items())
        if kept[label] < fraction * count / 3
    ]


def _cut_note(name: str) -> str:
    return (
        f"The class {name!r} has a single region, which was cut in two for training and validation: "
        f"its scores are optimistic; draw a second region of {name!r}."
    )


def _one_sided(tiles: LabelledTiles, unit: Indices) -> str:
    few = [
        name
        for label, name in enumerate(tiles.class_names)
        if len(np.unique(unit[tiles.label == label])) < 2 or (tiles.label == label).sum() < 4
    ]
    if few:
        return (
            f"There are too few separate tiles of {_listed(few)} to have some for training and some for validation: "
            f"draw a second region of {_listed(few)}, away from the first."
        )
    return (
        "The regions overlap so much that no split has every class on both sides: draw a second region of each class, "
        "away from the others."
    )


def _listed(names: list[str]) -> str:
    return ", ".join(repr(name) for name in names)
