"""Arithmetic on grid cells: a label image shrinks by majority and never shows a class that is not there."""

from __future__ import annotations

import numpy as np

from pathotune.inference.cells import labels_of, majority, mean_of_four, sum_of_four, votes_of


def test_labels_shrink_by_majority() -> None:
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(4), (23, 17)).transpose(2, 0, 1).astype(np.float32)
    probabilities[:, rng.random((23, 17)) < 0.3] = 0
    full = labels_of(probabilities)
    votes, smaller = votes_of(full, 4), probabilities
    for level in (1, 2):
        smaller, votes = mean_of_four(smaller), sum_of_four(votes)
        labels, side = majority(votes, smaller), 2**level
        for row, column in np.ndindex(labels.shape):
            under = full[row * side : (row + 1) * side, column * side : (column + 1) * side]
            counts = np.bincount(under.ravel(), minlength=5)[1:]
            found = int(labels[row, column])
            assert (counts[found - 1] == counts.max() > 0) if found else not counts.any()


def test_the_second_choice_of_all_is_no_class_of_any() -> None:
    probabilities = np.array([[0.6, 0, 0, 0], [0, 0.6, 0, 0], [0, 0, 0.6, 0], [0.4, 0.4, 0.4, 1]], np.float32)
    probabilities[3, 3], probabilities[0, 3] = 0.45, 0.55
    cells = probabilities.reshape(4, 2, 2)
    votes = sum_of_four(votes_of(labels_of(cells), 4))
    assert mean_of_four(cells).argmax(axis=0) == 3
    assert majority(votes, mean_of_four(cells)) == 1
