"""Two predictions are compared by class names and by place, and only where both predicted something."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pathotune.inference.changes import compare
from pathotune.inference.plan import Grid

GRID = Grid(4, 6, (0.0, 0.0), (100.0, 100.0), (100.0, 100.0), (0.5, 0.5))
CELL_MM2 = 0.05**2


def one_hot(labels: np.ndarray, classes: int) -> np.ndarray:
    """(classes, rows, columns) with everything in the class of each cell; nothing where it is -1."""
    return np.stack([labels == label for label in range(classes)]).astype(np.float32)


def test_the_same_prediction_has_not_changed() -> None:
    labels = np.random.default_rng(0).integers(-1, 3, (4, 6))
    found = compare(one_hot(labels, 3), GRID, "abc", one_hot(labels, 3), GRID, "abc")
    assert not found.changed.any() and found.by_pair() == []
    assert found.compared_mm2 == pytest.approx((labels >= 0).sum() * CELL_MM2)


def test_classes_are_the_same_by_name_whatever_their_order_and_number() -> None:
    before = np.zeros((4, 6), int)  # all a
    after = np.full((4, 6), 2)  # all a again, which is the third class now
    after[0, 0], after[1, 1], after[1, 2] = 0, 1, 1
    found = compare(one_hot(before, 2), GRID, ["a", "b"], one_hot(after, 3), GRID, ["new", "b", "a"])
    assert found.changed.sum() == 3 and found.at(0, 0) == ("a", "new") and found.at(3, 3) == ("a", "a")
    assert found.by_pair() == [
        ("a", "b", pytest.approx(2 * CELL_MM2)),
        ("a", "new", pytest.approx(CELL_MM2)),
    ]
    assert sum(area for _, _, area in found.by_pair()) == pytest.approx(found.changed_mm2)


def test_what_was_predicted_only_once_is_no_change() -> None:
    before, after = np.zeros((4, 6), int), np.ones((4, 6), int)
    before[:, :3], after[:2] = -1, -1
    found = compare(one_hot(before, 2), GRID, "ab", one_hot(after, 2), GRID, "ab")
    assert found.compared.sum() == found.changed.sum() == 6 and found.changed[2:, 3:].all()
    assert found.at(0, 5) is None and found.at(3, 0) is None


def test_a_denser_grid_is_compared_place_by_place() -> None:
    labels = np.random.default_rng(1).integers(0, 2, (4, 6))
    dense = replace(GRID, rows=8, columns=12, stride_px0=(50.0, 50.0), tile_px0=(50.0, 50.0))
    finer = np.repeat(np.repeat(labels, 2, axis=0), 2, axis=1)
    assert not compare(one_hot(labels, 2), GRID, "ab", one_hot(finer, 2), dense, "ab").changed.any()
    assert not compare(one_hot(finer, 2), dense, "ab", one_hot(labels, 2), GRID, "ab").changed.any()
    finer[0, 0] = 1 - finer[0, 0]
    found = compare(one_hot(labels, 2), GRID, "ab", one_hot(finer, 2), dense, "ab")
    assert found.changed.sum() == 1 and found.changed_mm2 == pytest.approx(CELL_MM2 / 4)


def test_cells_beside_the_earlier_grid_are_not_compared() -> None:
    labels = np.zeros((4, 6), int)
    shifted = replace(GRID, origin_px0=(200.0, -100.0))
    found = compare(one_hot(labels, 1), GRID, "a", one_hot(labels, 1), shifted, "a")
    expected = np.zeros((4, 6), bool)
    expected[1:, :4] = True
    assert (found.compared == expected).all()
