"""Nests on generated slides: their number and their area are what was asked for, apart from each other."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from pathotune.errors import UsageError
from pathotune.slides.synthetic import CLASSES, SyntheticSlide, place_nests

SIDE, MPP = 1600, 0.5
AREA = 90_000.0


def map_of(count, seed, area=AREA):
    nests = place_nests(count, area, SIDE, SIDE, MPP, seed)
    slide = SyntheticSlide(SIDE, SIDE, MPP, seed, margin=0, pen=False, classes=("Stroma",), nests=nests)
    return slide.class_map(8.0) == 1


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("seed", [0, 1])
def test_so_many_islands_of_so_much_area(count, seed):
    found = map_of(count, seed)
    assert ndimage.label(found)[1] == count
    area = found.sum() * (8.0 * MPP) ** 2
    assert area == pytest.approx(AREA, rel=0.06)


def test_the_same_seed_gives_the_same_nests_and_another_others():
    assert place_nests(3, AREA, SIDE, SIDE, MPP, 4) == place_nests(3, AREA, SIDE, SIDE, MPP, 4)
    assert place_nests(3, AREA, SIDE, SIDE, MPP, 4) != place_nests(3, AREA, SIDE, SIDE, MPP, 5)


@pytest.mark.slow
def test_what_is_drawn_is_what_the_truth_says():
    look = {"margin": 0, "pen": False, "classes": ("Stroma",), "wallpaper_um": 64.0}
    nests = place_nests(2, 25_000.0, 900, 900, MPP, 1)
    with_nests = SyntheticSlide(900, 900, MPP, 1, nests=nests, **look)
    without = SyntheticSlide(900, 900, MPP, 1, **look)
    changed = (with_nests.render(0, 0, 900, 900) != without.render(0, 0, 900, 900)).any(axis=2)
    places = np.arange(900) + 0.5
    inside = with_nests.classes_at(places[None, :], places[:, None]) == 1
    assert CLASSES[1].name == "Tumor"
    assert changed[inside].mean() > 0.9 and not changed[~inside].any()
    part = with_nests.render(300, 200, 256, 256)
    assert np.array_equal(part, with_nests.render(0, 0, 900, 900)[200:456, 300:556])


def test_nests_without_room_or_number_are_refused():
    with pytest.raises(UsageError, match="no room"):
        place_nests(40, 500_000.0, SIDE, SIDE, MPP, 0)
    with pytest.raises(UsageError, match="at least one nest"):
        place_nests(0, AREA, SIDE, SIDE, MPP, 0)
