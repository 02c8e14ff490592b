"""Scores of one row under every draw of its witnesses, computed once per group instead of once per draw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathotune.training.metrics import BINS, DRAWS

SCORES = ("balanced_accuracy", "auc", "f1", "ece")
# Cells of the table that areas under curves are computed with; beyond, probabilities are rounded.
LARGEST_TABLE = 30_000_000

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


def drawn_weights(groups: Sequence[Any], draws: int = DRAWS) -> tuple[Integers, Floats] | None:
    """Which group each sample is of, and how often each group occurs in each draw (draws, groups).

    The same for every row judged by the same samples, so that differences between rows are paired. None with fewer
    than two groups.
    """
    _, group = np.unique(np.asarray([str(one) for one in groups]), return_inverse=True)
    count = int(group.max()) + 1
    if count < 2:
        return None
    weights = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=draws)
    return group.reshape(-1).astype(np.int64), weights.astype(np.float64)


def drawn_scores(probabilities: NDArray[Any], labels: Integers, group: Integers, weights: Floats) -> dict[str, Floats]:
    """Every score of one row, (draws,) each; NaN where a draw does not have it.

    Parameters
    ----------
    probabilities : (n, K).
    labels, group : (n,).
    weights : (draws, groups).
    """
    probabilities = np.asarray(probabilities, dtype=np.float64)
    count, classes = weights.shape[1], probabilities.shape[1]
    said = probabilities.argmax(axis=1)
    tables = np.zeros((count, classes, classes))
    np.add.at(tables, (group, labels, said), 1)
    drawn = np.einsum("dg,gtp->dtp", weights, tables)  # (draws, true, said)
    hits = np.diagonal(drawn, axis1=1, axis2=2)
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = hits / drawn.sum(axis=2)
        f1 = 2 * hits / (drawn.sum(axis=2) + drawn.sum(axis=1))
        areas = np.stack(
            [_areas(probabilities[:, one], labels == one, group, weights) for one in range(classes)], axis=1
        )
        return {
            "balanced_accuracy": _mean(recall),
            "auc": _mean(areas),
            "f1": _mean(f1),
            "ece": _calibration_errors(probabilities, said == labels, group, weights),
        }


def _mean(values: Floats) -> Floats:
    """The mean over the classes that a draw has."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(known, values, 0.0).sum(axis=1) / known.sum(axis=1))


def _areas(scores: Floats, is_positive: NDArray[np.bool_], group: Integers, weights: Floats) -> Floats:
    """(draws,) area under the curve: how often a positive sample scores above a negative one, counted by groups."""
    count = weights.shape[1]
    values, place = np.unique(scores, return_inverse=True)
    if len(values) * count > LARGEST_TABLE:
        values, place = np.unique(np.round(scores, 4), return_inverse=True)
    place = place.reshape(-1)
    negatives = np.zeros((len(values), count))
    np.add.at(negatives, (place[~is_positive], group[~is_positive]), 1)
    below = np.cumsum(negatives, axis=0) - negatives / 2  # ties count half
    wins = np.zeros((count, count))
    np.add.at(wins, group[is_positive], below[place[is_positive]])
    positive = np.bincount(group[is_positive], minlength=count)
    pairs = (weights @ positive) * (weights @ negatives.sum(axis=0))
    return np.asarray(((weights @ wins) * weights).sum(axis=1) / pairs)


def _calibration_errors(probabilities: Floats, is_right: NDArray[np.bool_], group: Integers, weights: Floats) -> Floats:
    """(draws,) expected calibration error over even bins of the highest probability."""
    sure = probabilities.max(axis=1)
    bins = np.clip((sure * BINS).astype(np.int64), 0, BINS - 1)
    gap = np.zeros((weights.shape[1], BINS))
    np.add.at(gap, (group, bins), sure - is_right)
    sizes = weights @ np.bincount(group, minlength=weights.shape[1])
    return np.asarray(np.abs(weights @ gap).sum(axis=1) / sizes)


def interval(values: Floats | None) -> list[float] | None:
    """The middle 95 % of the draws; None without any."""
    if values is None or not (known := values[~np.isnan(values)]).size:
        return None
    return [float(value) for value in np.percentile(known, [2.5, 97.5])]


def both_ways(gaps: Floats) -> float:
    """How often a difference at least as far on the other side of nothing was drawn, twice."""
    return min(1.0, 2 * (1 + min(int((gaps <= 0).sum()), int((gaps >= 0).sum()))) / (len(gaps) + 1))
