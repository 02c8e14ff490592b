"""Distance from what was trained on: small where tiles are alike, large where they are not, the same after saving."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from pathotune.training.distance import PROTOTYPES, FeatureSpace


@pytest.fixture
def space():
    """Two classes in 30 dimensions whose spread lies along a few axes."""
    random = np.random.default_rng(0)
    mixing = random.normal(size=(30, 30)) * np.geomspace(3, 0.05, 30)

    def draw(count, seed):
        drawn = np.random.default_rng(seed)
        labels = np.arange(count) % 2
        return (drawn.normal(size=(count, 30)) @ mixing.T + labels[:, None] * 5).astype(np.float32), labels

    features, labels = draw(300, 1)
    held_out, _ = draw(100, 2)
    places = [{"slide": "slide-x", "box_px0": [float(row), 0.0, 1.0, 1.0]} for row in range(300)]
    return FeatureSpace.fit(features, labels, held_out, places=places), draw, features


def test_new_tiles_of_the_same_kind_stay_below_one_and_others_do_not(space):
    fitted, draw, _ = space
    alike, _ = draw(500, 3)
    assert 0.94 < (fitted.distance(alike) < 1).mean() <= 1.0
    # As long as the others, but along directions in which the training tiles hardly differ.
    random = np.random.default_rng(4)
    strange = alike.mean(axis=0) + random.normal(size=(200, 30)) * alike.std(axis=0)
    assert (fitted.distance(strange) > 1).mean() > 0.9


def test_the_nearest_prototype_of_a_training_tile_is_that_tile(space):
    fitted, _, features = space
    assert len(fitted.prototypes) <= PROTOTYPES and fitted.prototypes.dtype == np.float16
    rows = [int(place["box_px0"][0]) for place in fitted.places]
    assert np.array_equal(fitted.nearest(features[rows]), np.arange(len(rows)))
    assert set(fitted.prototype_labels.tolist()) == {0, 1}


def test_few_tiles_give_finite_distances():
    features = np.random.default_rng(0).normal(size=(6, 40)).astype(np.float32)
    fitted = FeatureSpace.fit(features, np.arange(6) % 3, features[:2])
    found = fitted.distance(np.concatenate([features, np.zeros((1, 40), np.float32), features + 100]))
    assert np.isfinite(found).all() and found[-1] > 1
    assert fitted.nearest(np.zeros((0, 40), np.float32)).shape == (0,)


def test_a_file_without_these_numbers_has_no_feature_space(space):
    from pathotune.methods.checkpoint import STATISTICS, Tuning
    from pathotune.tiles.tileset import Reading

    fitted, draw, _ = space
    tuning = Tuning("linear_probe", {}, {}, [], {}, Reading(0.5, 224, 224))
    assert FeatureSpace.of(tuning) is None
    tuning.tensors = {STATISTICS + name: value for name, value in fitted.tensors().items()}
    assert FeatureSpace.of(tuning) is None
    tuning.feature_statistics = {"usual": fitted.usual, "prototypes": list(fitted.places)}
    again, alike = FeatureSpace.of(tuning), draw(20, 9)[0]
    assert np.allclose(again.distance(alike), fitted.distance(alike), rtol=1e-5)
    assert again.places == fitted.places
    for field in dataclasses.fields(fitted):
        assert np.array_equal(np.asarray(getattr(again, field.name)), np.asarray(getattr(fitted, field.name)))
