"""The split that keeps training and validation apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import shapely

from pathotune.errors import NoTiles, UsageError
from pathotune.regions import LabelledTiles, Region, label_tiles, merge_tiles, read_regions, split_groups, split_tiles
from pathotune.regions.region import correction

TILE = (100.0, 100.0)
SPOTS = [(x, y, name) for y, name in ((200, "A"), (700, "B")) for x in (200, 600, 1000, 1400)]


def spots(places: list[tuple[float, float, str]], radius: float = 20) -> LabelledTiles:
    regions = [Region(shapely.Point(x, y).buffer(radius), name) for x, y, name in places]
    return label_tiles(regions, (1e5, 1e5), TILE, sorted({name for *_, name in places}))[0]


def scattered(count: int, classes: str = "AB", seed: int = 0) -> LabelledTiles:
    places = np.random.default_rng(seed).permutation(count * 3)[:count]
    return spots(
        [(200 + 300 * (p % 300), 200 + 300 * (p // 300), classes[i % len(classes)]) for i, p in enumerate(places)]
    )


def overlapping(tiles: LabelledTiles, train: np.ndarray, validation: np.ndarray) -> int:
    """How many pairs of tiles of the two sides share area."""
    boxes = shapely.box(tiles.x_px0, tiles.y_px0, tiles.x_px0 + tiles.width_px0, tiles.y_px0 + tiles.height_px0)
    slides = [(tiles.slide[side], boxes[side]) for side in (train, validation)]
    return sum(
        shapely.area(shapely.intersection(box, slides[1][1][slides[1][0] == slide])).astype(bool).sum()
        for slide, box in zip(*slides[0], strict=True)
    )


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5])
def test_classes_are_balanced_on_both_sides(fraction: float) -> None:
    tiles = scattered(200)
    train, validation = split_tiles(tiles, fraction=fraction)
    assert not set(train) & set(validation) and len(train) + len(validation) == len(tiles)
    for label in (0, 1):
        assert (tiles.label[validation] == label).sum() == pytest.approx(100 * fraction, abs=1)


def test_the_same_seed_gives_the_same_split_and_another_another() -> None:
    tiles = scattered(100)
    assert np.array_equal(split_tiles(tiles, seed=3)[1], split_tiles(tiles, seed=3)[1])
    assert not np.array_equal(split_tiles(tiles, seed=3)[1], split_tiles(tiles, seed=4)[1])


def test_a_region_is_never_parted() -> None:
    regions = [
        Region(shapely.box(x, y, x + 350, y + 350), name)
        for x, y, name in [(1000 * (i + 1), 1000 * (1 + i % 3), "AB"[i % 2]) for i in range(10)]
    ]
    tiles, _ = label_tiles(regions, (2e4, 2e4), TILE, ["A", "B"])
    split = split_tiles(tiles)
    assert not set(tiles.region[split.train]) & set(tiles.region[split.validation])
    assert set(tiles.label[split.train]) == set(tiles.label[split.validation]) == {0, 1}
    assert not split.notes and not split.dropped


def test_regions_whose_tiles_overlap_stay_together() -> None:
    # Pairs of neighbours 60 apart share tile area (the tile is 100 wide), pairs are far from each other.
    places = [(500 + 1000 * i + 60 * k, 500.0, "AB"[i % 2]) for i in range(12) for k in range(2)]
    tiles = spots(places)
    for seed in range(5):
        train, validation = split_tiles(tiles, seed=seed)
        assert len(train) + len(validation) == len(tiles)
        assert overlapping(tiles, train, validation) == 0


def test_neighbours_in_one_chain_are_split_with_a_gap() -> None:
    places = [(500 + 60.0 * i, 500.0, "AB"[(i // 5) % 2]) for i in range(40)]
    tiles = spots(places)
    split = split_tiles(tiles)
    assert overlapping(tiles, split.train, split.validation) == 0
    assert set(tiles.label[split.train]) == set(tiles.label[split.validation]) == {0, 1}
    assert split.dropped > 0 and any(str(split.dropped) in note for note in split.notes)
    assert len(split.train) + len(split.validation) + split.dropped == len(tiles)


def test_a_class_with_one_region_is_cut_in_two_with_a_note() -> None:
    regions = [Region(shapely.box(1000, 1000, 3000, 1500), "A")]
    regions += [Region(shapely.box(x, 4000, x + 300, 4300), "B") for x in (1000, 2000, 3000, 4000)]
    tiles, _ = label_tiles(regions, (1e4, 1e4), TILE, ["A", "B"])
    split = split_tiles(tiles)
    assert any("'A'" in note and "single region" in note for note in split.notes)
    assert overlapping(tiles, split.train, split.validation) == 0
    kept = [tiles.x_px0[side][tiles.label[side] == 0] for side in split]
    assert kept[0].max() + 100 <= kept[1].min() or kept[1].max() + 100 <= kept[0].min(), "the halves lie apart"
    share = len(kept[1]) / (len(kept[0]) + len(kept[1]))
    assert 0.1 < share < 0.5
    assert not set(tiles.region[split.train][tiles.label[split.train] == 1]) & set(
        tiles.region[split.validation][tiles.label[split.validation] == 1]
    )


def test_a_single_small_region_asks_for_a_second() -> None:
    with pytest.raises(NoTiles, match="draw a second region of 'A'"):
        split_tiles(spots([(500, 500, "A"), (900, 900, "B"), (2000, 900, "B")]))


def test_classes_that_are_missing_are_named() -> None:
    tiles, _ = label_tiles([Region(shapely.Point(500, 500), "A")], (1e4, 1e4), TILE, ["A", "B"])
    with pytest.raises(NoTiles, match="no tiles of 'B'"):
        split_tiles(tiles)
    alone, _ = label_tiles([Region(shapely.Point(500, 500), "A")], (1e4, 1e4), TILE, ["A"])
    with pytest.raises(NoTiles, match="at least two"):
        split_tiles(alone)


def test_uneven_regions_are_said() -> None:
    regions = [Region(shapely.box(1000, 1000, 3000, 2000), "A"), Region(shapely.Point(8000, 8000), "A")]
    regions += [Region(shapely.Point(x, 5000), "B") for x in range(1000, 9000, 500)]
    tiles, _ = label_tiles(regions, (1e4, 1e4), TILE, ["A", "B"])
    assert any("Only 1 of" in note and "'A'" in note for note in split_tiles(tiles).notes)


def test_slides_and_patients_are_never_parted() -> None:
    parts = [scattered(20, seed=seed) for seed in range(6)]
    tiles = merge_tiles(parts, ["p", "p", "q", "q", "r", "r"])
    train, validation = split_tiles(tiles, by="slide", fraction=0.3)
    assert not set(tiles.slide[train]) & set(tiles.slide[validation])
    train, validation = split_tiles(tiles, by="patient", fraction=0.3)
    patients = np.asarray(tiles.patients)
    assert not set(patients[tiles.slide[train]]) & set(patients[tiles.slide[validation]])
    assert len(train) and len(validation)


def test_missing_patients_are_their_slides() -> None:
    tiles = merge_tiles([scattered(10, seed=seed) for seed in range(4)], ["", "", "", ""])
    train, validation = split_tiles(tiles, by="patient")
    assert not set(tiles.slide[train]) & set(tiles.slide[validation])


def test_a_class_on_one_slide_only_cannot_be_split_by_slide() -> None:
    tiles = merge_tiles([scattered(10), scattered(10)])
    tiles = tiles.take((tiles.slide == 0) | (tiles.label == 0))
    with pytest.raises(NoTiles, match="'B' on one slide only"):
        split_tiles(tiles, by="slide")


def test_the_same_place_on_two_slides_is_no_overlap() -> None:
    tiles = merge_tiles([spots([(500, 500, "A"), (900, 500, "B")]) for _ in range(4)])
    split = split_tiles(tiles)
    assert not split.dropped and len(split.train) + len(split.validation) == 8


def test_groups_of_any_name() -> None:
    labels = np.tile([0, 1], 50)
    groups = [f"patient {number // 10}" for number in range(100)]
    train, validation = split_groups(labels, groups, ["A", "B"], fraction=0.2)
    assert len(validation) == 20 and not {groups[i] for i in train} & {groups[i] for i in validation}


def test_options_that_cannot_be() -> None:
    with pytest.raises(UsageError, match="region, slide, patient"):
        split_tiles(scattered(10), by="tile")
    with pytest.raises(UsageError, match="validation"):
        split_tiles(scattered(10), fraction=0.99)


def test_the_camelyon_mosaic_splits_without_leak(annotations: Path) -> None:
    regions = read_regions(annotations / "camelyon16_tumor001_mosaic.geojson")
    side = 112 / 0.243
    tiles, _ = label_tiles(regions, (2986, 3200), (side, side), regions.class_names())
    split = split_tiles(tiles)
    assert overlapping(tiles, split.train, split.validation) == 0
    assert set(tiles.label[split.train]) == set(tiles.label[split.validation]) == {0, 1}


def with_corrections(places: list[tuple[float, float, str]], drawn: list[tuple[float, float, str]]) -> LabelledTiles:
    regions = [Region(shapely.Point(x, y).buffer(20), name) for x, y, name in drawn]
    regions += [correction((x - 50, y - 50, 100, 100), name) for x, y, name in places]
    return label_tiles(regions, (1e5, 1e5), TILE, sorted({region.class_name for region in regions}))[0]


def test_corrections_are_learned_from_and_the_drawn_regions_judge() -> None:
    places = [(200 + 150 * i, 2000 + 300 * (i % 3), "AB"[i % 2]) for i in range(20)]
    tiles = with_corrections(places, SPOTS)
    for seed in range(5):
        split = split_tiles(tiles, seed=seed)
        assert set(np.flatnonzero(tiles.is_correction)) <= set(split.train)
        assert not tiles.is_correction[split.validation].any() and split.dropped == 0
        assert set(tiles.label[split.validation]) == {0, 1}
        before = split_tiles(spots(SPOTS), seed=seed)
        assert np.array_equal(before.validation, split.validation), "what judges does not change with the rounds"


def test_a_correction_on_a_judged_tile_judges_and_one_across_both_sides_is_left_out() -> None:
    split = split_tiles(spots(SPOTS))
    judged, learned = (next(SPOTS[i] for i in side if SPOTS[i][2] == "A") for side in (split.validation, split.train))
    tiles = with_corrections([(judged[0] + 60, judged[1], "B"), (learned[0], learned[1] + 80, "B")], SPOTS)
    found = split_tiles(tiles)
    assert 8 in found.validation and 9 in found.train and not overlapping(tiles, *found)
    near = [(200, 200, "A"), (380, 200, "A"), *SPOTS[2:]]
    for seed in range(20):
        split = split_tiles(spots(near), seed=seed)
        if {0, 1} & set(split.validation) and {0, 1} & set(split.train):
            break
    tiles = with_corrections([(290, 200, "B")], near)
    found = split_tiles(tiles, seed=seed)
    assert 8 not in {*found.train, *found.validation} and found.dropped == 1 and "left out" in found.notes[-1]


def test_a_class_known_by_corrections_alone_is_on_both_sides_but_mostly_learned() -> None:
    places = [(200 + 300 * i, 3000, "C") for i in range(8)] + [(200 + 300 * i, 4000, "A") for i in range(6)]
    tiles = with_corrections(places, SPOTS)
    split = split_tiles(tiles)
    learned, judged = (np.bincount(tiles.label[side], minlength=3) for side in split)
    assert judged[2] == 2 and learned[2] == 6
    assert (tiles.label[split.validation][tiles.is_correction[split.validation]] == 2).all()


def test_with_nothing_but_corrections_they_are_split_like_regions() -> None:
    tiles = with_corrections([(200 + 300 * i, 200, "AB"[i % 2]) for i in range(16)], [])
    train, validation = split_tiles(tiles)
    assert len(validation) == 4 and len(train) == 12
