"""Which places are suggested: apart, not labelled, undecided and typical, the same for the same seed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely

from pathotune.errors import NoTiles, UsageError
from pathotune.inference.cells import uncertainty_of
from pathotune.inference.plan import Grid
from pathotune.inference.predictions import PredictionStore
from pathotune.inference.suggest import choose, covered, suggest_places
from pathotune.inference.tiletable import PredictedTiles
from pathotune.regions.region import Region, correction

SIDE, TILE = 24, 100.0
ONE = np.ones(2)


def table(doubt: np.ndarray, features: np.ndarray | None, stride: float = TILE) -> PredictedTiles:
    """All cells of a square grid; `doubt` (rows, columns) from 0 to 1 is how undecided the model is."""
    row, column = (index.ravel() for index in np.indices(doubt.shape))
    first = 1 - doubt.ravel() / 2
    probabilities = np.stack([first, 1 - first], axis=1).astype(np.float32)
    centres = np.stack([TILE / 2 + column * stride, TILE / 2 + row * stride], axis=1)
    kept = None if features is None else features.astype(np.float16)
    return PredictedTiles(row, column, centres, probabilities, uncertainty_of(probabilities.T), None, kept)


def patches(seed: int = 0, kinds: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Kind of each cell (vertical stripes) and features that tell the kinds apart."""
    random = np.random.default_rng(seed)
    kind = np.repeat(np.arange(SIDE) * kinds // SIDE, SIDE).reshape(SIDE, SIDE).T
    return kind, random.normal(0, 6, (kinds, 16))[kind.ravel()] + random.normal(0, 1, (SIDE * SIDE, 16))


def none() -> np.ndarray:
    return np.zeros(SIDE * SIDE, bool)


def test_places_are_apart_from_each_other_and_from_what_is_labelled_and_repeat_for_a_seed() -> None:
    _, features = patches()
    tiles = table(np.random.default_rng(1).uniform(size=(SIDE, SIDE)), features)
    known = none()
    known[[5, 100, 333]] = True
    for kept in (tiles, table(np.full((SIDE, SIDE), 0.5), None)):
        rows = choose(kept, known, known, 15, ONE)
        assert len(set(rows)) == 15 and rows == choose(kept, known, known, 15, ONE)
        cells = np.stack([kept.row, kept.column], axis=1)
        apart = np.abs(cells[rows][:, None] - cells[rows]).max(axis=2) + 9 * np.eye(15)
        assert apart.min() >= 2 and np.abs(cells[rows][:, None] - cells[known]).max(axis=2).min() >= 2


def test_every_kind_of_tissue_is_asked_about_before_one_comes_twice() -> None:
    kind, features = patches()
    rows = choose(table(np.full((SIDE, SIDE), 0.5), features), none(), none(), 6, ONE)
    assert len({kind.ravel()[row] for row in rows}) == 6
    known = kind.ravel() < 3
    rows = choose(table(np.full((SIDE, SIDE), 0.5), features), known, known, 3, ONE)
    assert {kind.ravel()[row] for row in rows} == {3, 4, 5}, "what is labelled is not asked again"


def test_of_like_tiles_the_undecided_are_asked_about_and_of_undecided_ones_the_typical() -> None:
    random = np.random.default_rng(0)
    features = random.normal(0, 1, (SIDE * SIDE, 16))
    doubt = np.where(np.arange(SIDE) < SIDE // 2, 0.02, 0.9)[:, None] * np.ones((1, SIDE))
    rows = choose(table(doubt, features), none(), none(), 8, ONE)
    assert all(row // SIDE >= SIDE // 2 for row in rows)
    odd = random.permutation(SIDE * SIDE)[:20]
    features[odd] += random.normal(0, 30, (20, 16))
    rows = choose(table(np.full((SIDE, SIDE), 0.9), features), none(), none(), 8, ONE)
    assert not set(rows) & set(odd.tolist()), "a speck of dirt is like nothing else and teaches nothing"


def test_close_places_are_better_than_none_and_there_are_never_more_than_there_is_room() -> None:
    doubt = np.full((4, 4), 0.5)
    assert len(choose(table(doubt, None), np.zeros(16, bool), np.zeros(16, bool), 16, ONE)) == 16
    dense = table(np.full((9, 9), 0.5), None, stride=TILE / 2)
    rows = choose(dense, np.zeros(81, bool), np.zeros(81, bool), 81, np.full(2, 2.0))
    cells = np.stack([dense.row, dense.column], axis=1)[rows]
    assert (np.abs(cells[:, None] - cells).max(axis=2) + 9 * np.eye(len(rows))).min() >= 2, "tiles never overlap"
    drawn = [Region(shapely.box(100, 100, 200, 200), "a")]
    known, touched = covered(dense.centres_px0, np.full(2, TILE), drawn)
    rows = choose(dense, known, touched, 30, np.full(2, 2.0))
    assert len(rows) >= 6 and not touched[rows].any(), "right beside what is drawn, where there is no other room"


def test_a_part_is_looked_at_where_there_are_very_many(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MOST_CANDIDATES", "REFERENCES"):
        monkeypatch.setattr(f"pathotune.inference.suggest.{name}", 60)
    kind, features = patches()
    tiles, known = table(np.full((SIDE, SIDE), 0.5), features), kind.ravel() < 2
    rows = choose(tiles, known, known, 4, ONE)
    assert len({kind.ravel()[row] for row in rows}) == 4 and not known[rows].any()


def test_what_touches_a_drawing_is_not_suggested_and_what_lies_in_it_is_known() -> None:
    centres = np.stack(np.meshgrid(np.arange(5), np.arange(5)), axis=-1).reshape(-1, 2) * TILE + TILE / 2
    regions = [
        Region(shapely.box(0, 0, 2 * TILE, TILE), "A"),
        Region(shapely.Point(451, 451), "B"),
        Region(shapely.box(190, 290, 215, 315), "B"),
        Region(shapely.LineString([(0, 250), (500, 250)]), "B"),
        correction((300.0, 100.0, TILE, TILE), "A"),
    ]
    known, touched = covered(centres, np.full(2, TILE), regions, [(50.0, 450.0)])
    assert np.flatnonzero(known).tolist() == [0, 1, 8, 17, 20, 24]
    assert np.flatnonzero(touched & ~known).tolist() == [11, 12, 16]


@pytest.fixture
def store(tmp_path: Path) -> PredictionStore:
    """6 × 6 tiles of three classes, those of the last row not predicted."""
    grid = Grid(6, 6, (0.0, 0.0), (TILE, TILE), (TILE, TILE), (0.5, 0.5))
    classes = [{"name": name, "color": [1, 2, 3]} for name in "abc"]
    made = PredictionStore.create(tmp_path / "s.pathotune.zarr", grid=grid, classes=classes, identity={}, features=8)
    random = np.random.default_rng(0)
    values = random.dirichlet(np.ones(3), (6, 6)).astype(np.float32)
    values[5] = 0
    unit = next(made.units())
    features = random.normal(size=(6, 6, 8)).astype(np.float16)
    made.write_unit(unit, np.moveaxis(values, -1, 0), None, None, features, state="done", tiles=30, planned=36)
    return made


def test_a_stores_places_say_where_and_what(store: Any) -> None:
    places = suggest_places(store, [Region(shapely.box(0, 0, 600, 150), "a")], 4)
    assert len(places) == 4
    for place in places:
        assert place.row in (2, 3, 4) and place.box_px0 == (place.column * TILE, place.row * TILE, TILE, TILE)
        assert store.at(place.x_px0, place.y_px0) == pytest.approx(place.probabilities)
        assert place.probability == max(place.probabilities.values()) == place.probabilities[place.class_name]
    first = (places[0].x_px0, places[0].y_px0)
    again = suggest_places(store, [Region(shapely.box(0, 0, 600, 150), "a")], 4, skipped_px0=[first])
    assert first not in [(place.x_px0, place.y_px0) for place in again]


def test_where_there_is_nothing_to_suggest_a_sentence_says_why(store: Any, tmp_path: Path) -> None:
    empty = PredictionStore.create(tmp_path / "e.zarr", grid=store.grid, classes=store.classes, identity={})
    with pytest.raises(NoTiles, match="Nothing is predicted"):
        suggest_places(empty)
    with pytest.raises(NoTiles, match="labelled already"):
        suggest_places(store, [Region(shapely.box(0, 0, 600, 600), "a")])
    with pytest.raises(UsageError, match="at least one"):
        suggest_places(store, (), 0)
