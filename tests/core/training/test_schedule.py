"""Learning rate, draws and augmentation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from pathotune.training.augment import Augmentation, turned
from pathotune.training.draws import BalancedDraws, balanced_part, batches
from pathotune.training.schedule import TrainingConfig, learning_rate


def test_the_rate_rises_and_falls():
    rates = [learning_rate(step, 100, 10, 1.0) for step in range(100)]
    assert 0 < rates[0] < 0.2
    assert rates.index(max(rates)) == 10 and max(rates) == 1.0
    assert all(one >= two for one, two in itertools.pairwise(rates[10:]))
    assert rates[-1] < 0.01


@pytest.mark.parametrize("warmup", [0, 5, 100])
def test_the_rate_is_positive_and_bounded_whatever_the_warm_up(warmup):
    rates = [learning_rate(step, 20, warmup, 0.1) for step in range(20)]
    assert all(0 <= rate <= 0.1 for rate in rates) and rates[0] > 0


@pytest.mark.parametrize(("tiles", "draws"), [(20, 128), (500, 500), (20_000, 2048)])
def test_an_epoch_has_a_bounded_length(tiles, draws):
    assert TrainingConfig().draws_per_epoch(tiles) == draws
    assert TrainingConfig(tiles_per_epoch=7).draws_per_epoch(tiles) == 7


def test_rare_classes_are_drawn_as_often_as_common_ones():
    labels = np.repeat([0, 1, 2], [500, 20, 3])
    draws = BalancedDraws(labels, 0)
    counts = np.bincount(labels[draws.draw(300)])
    assert counts.tolist() == [100, 100, 100]
    assert (labels[draws.draw(4)].max(), len(draws.draw(1))) == (2, 1)


def test_each_tile_comes_before_any_comes_again():
    labels = np.repeat([0, 1], [10, 30])
    drawn = BalancedDraws(labels, 1).draw(60)
    assert sorted(drawn[labels[drawn] == 1]) == list(range(10, 40))


def test_draws_repeat_by_seed():
    labels = np.repeat([0, 1], 50)
    assert np.array_equal(BalancedDraws(labels, 3).draw(80), BalancedDraws(labels, 3).draw(80))
    assert not np.array_equal(BalancedDraws(labels, 3).draw(80), BalancedDraws(labels, 4).draw(80))


@pytest.mark.parametrize(("count", "sizes"), [(5, [5]), (32, [8] * 4), (33, [8, 8, 8, 9]), (38, [8] * 4 + [6])])
def test_batches_leave_no_crumb(count, sizes):
    assert [len(part) for part in batches(np.arange(count), 8)] == sizes


def test_a_balanced_part():
    labels = np.repeat([0, 1], [100, 4])
    part = balanced_part(labels, np.arange(10, 104), 7, 0)
    assert np.bincount(labels[part]).tolist() == [7, 4] and (np.diff(part) > 0).all() and part.min() >= 10


def test_the_eight_views_are_eight_and_the_first_is_the_tile():
    image = np.random.default_rng(0).integers(0, 256, (1, 6, 6, 3), dtype=np.uint8)
    views = turned(np.repeat(image, 8, axis=0), np.arange(8))
    assert np.array_equal(views[0], image[0])
    assert len({view.tobytes() for view in views}) == 8
    assert all(np.array_equal(np.sort(view, axis=None), np.sort(image, axis=None)) for view in views)


def test_augmentation_changes_stain_only_where_asked_and_repeats_by_seed():
    images = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    plain, again = Augmentation(1, 0.0)(images), Augmentation(1, 0.0)(images)
    assert np.array_equal(plain, again)
    assert np.array_equal(np.sort(plain, axis=None), np.sort(images, axis=None))
    assert not np.array_equal(np.sort(Augmentation(1, 0.1)(images), axis=None), np.sort(images, axis=None))
    white = np.full((2, 4, 4, 3), 255, dtype=np.uint8)
    assert (Augmentation(0, 0.2)(white) >= 254).all()
