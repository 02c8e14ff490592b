"""Scores of predictions, their uncertainty and calibration; what cannot be computed is None, never NaN."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pathotune.errors import NotFinite, UsageError

BINS = 15  # of the calibration error
DRAWS = 1000  # of the bootstrap
TEMPERATURES = (0.05, 20.0)

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


def confusion(labels: ArrayLike, predicted: ArrayLike, classes: int) -> Integers:
    """(k, k) counts, rows the true class and columns the predicted one."""
    flat = np.asarray(labels, dtype=np.int64) * classes + np.asarray(predicted, dtype=np.int64)
    return np.bincount(flat, minlength=classes * classes).reshape(classes, classes)


def accuracy(labels: ArrayLike, predicted: ArrayLike) -> float | None:
    """Part of the samples that are right."""
    right = np.asarray(labels) == np.asarray(predicted)
    return float(right.mean()) if right.size else None


def balanced_accuracy(labels: ArrayLike, predicted: ArrayLike, classes: int) -> float | None:
    """Mean recall of the classes that occur among the labels."""
    return _balanced(confusion(labels, predicted, classes))


def f1_macro(labels: ArrayLike, predicted: ArrayLike, classes: int) -> float | None:
    """Mean F1 of the classes that occur among labels or predictions."""
    return _f1(confusion(labels, predicted, classes))


def auc_ovr_macro(labels: ArrayLike, probabilities: ArrayLike) -> float | None:
    """Mean over the classes of the area under the one-versus-rest ROC curve.

    Classes without samples, or with nothing else than samples, have no curve and are left out; None where none is left.
    """
    probabilities = np.asarray(probabilities, dtype=np.float64)
    labels = np.asarray(labels, dtype=np.int64)
    curves = [_Curve(probabilities[:, column], labels == column) for column in range(probabilities.shape[1])]
    return _mean([curve.area(np.ones(len(labels))) for curve in curves])


def ece(labels: ArrayLike, probabilities: ArrayLike, bins: int = BINS) -> float | None:
    """Expected calibration error: how far confidence and accuracy are apart, averaged over bins of confidence.

    Source: Guo et al., On Calibration of Modern Neural Networks, ICML 2017, equation 3.
    """
    probabilities = np.asarray(probabilities, dtype=np.float64)
    if not len(probabilities):
        return None
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == np.asarray(labels)
    number = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    gap = np.bincount(number, weights=right - confidence, minlength=bins)
    return float(np.abs(gap).sum() / len(confidence))


def calibration_curve(labels: ArrayLike, probabilities: ArrayLike, bins: int = 10) -> list[dict[str, Any]]:
    """What was said and what came true: for each range of confidence its tiles, their mean confidence and accuracy.

    Ranges without a sample are left out.

    Returns
    -------
    one ``{"from", "to", "n", "confidence", "accuracy", "ci95"}`` per range, from low to high; the interval is that of
    the accuracy (`wilson_interval`), as if the samples had nothing to do with each other.
    """
    probabilities = np.asarray(probabilities, dtype=np.float64)
    if not len(probabilities):
        return []
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == np.asarray(labels)
    number = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    return [
        {
            "from": index / bins,
            "to": (index + 1) / bins,
            "n": int((number == index).sum()),
            "confidence": float(confidence[number == index].mean()),
            "accuracy": float(right[number == index].mean()),
            "ci95": list(wilson_interval(int(right[number == index].sum()), int((number == index).sum()))),
        }
        for index in np.unique(number).tolist()
    ]


def wilson_interval(hits: int, n: int) -> tuple[float, float]:
    """95 % interval of a share of which `hits` out of `n` samples were seen; never empty, also where all were hits.

    Source: Wilson, Probable inference, the law of succession, and statistical inference, JASA 1927.
    """
    if n < 1:
        return 0.0, 1.0
    z, share = 1.959964, hits / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * float(np.sqrt(share * (1 - share) / n + z * z / (4 * n * n)))
    # Rounding shall not keep what was seen out of it.
    return min(max(0.0, middle - half), share), max(min(1.0, middle + half), share)


def per_class(labels: ArrayLike, probabilities: ArrayLike, class_names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Number of samples, precision, recall, F1 and one-versus-rest AUC of each class."""
    probabilities = np.asarray(probabilities, dtype=np.float64)
    labels = np.asarray(labels, dtype=np.int64)
    table = confusion(labels, probabilities.argmax(axis=1), len(class_names))
    scores = {}
    for index, name in enumerate(class_names):
        hit, said, true = table[index, index], table[:, index].sum(), table[index].sum()
        curve = _Curve(probabilities[:, index], labels == index)
        scores[name] = {
            "n": int(true),
            "precision": _ratio(hit, said),
            "recall": _ratio(hit, true),
            "f1": _ratio(2 * hit, said + true),
            "auc": curve.area(np.ones(len(labels))),
        }
    return scores


def temperature_fit(logits: ArrayLike, labels: ArrayLike) -> float:
    """The temperature by which logits are divided so that probabilities mean what they say.

    Minimises the log-likelihood loss over one number (Guo et al. 2017). We depart from it in one place: targets are
    softened by the counts of their class, (n + 1) / (n + 2) as Platt (1999) does, so that a small validation set
    without a single error does not end in certainty.

    Parameters
    ----------
    logits : (n, k) before the softmax.
    labels : (n,) class index.

    Returns
    -------
    temperature between 0.05 and 20; 1 where there is nothing to fit.

    Raises
    ------
    NotFinite : a logit is NaN or infinite.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    logits = np.asarray(logits, dtype=np.float64)
    labels = np.asarray(labels, dtype=np.int64)
    if not np.isfinite(logits).all():
        raise NotFinite("The model gave numbers that are not finite, so its probabilities cannot be calibrated.")
    if not len(logits) or logits.shape[1] < 2:
        return 1.0
    counts = np.bincount(labels, minlength=logits.shape[1])[labels]
    sure = (counts + 1) / (counts + 2)
    targets = np.repeat((1 - sure)[:, None] / (logits.shape[1] - 1), logits.shape[1], axis=1)
    targets[np.arange(len(labels)), labels] = sure

    def loss(log_temperature: float) -> float:
        return float(-(targets * log_softmax(logits / np.exp(log_temperature), axis=1)).sum(axis=1).mean())

    found = minimize_scalar(loss, bounds=tuple(np.log(TEMPERATURES)), method="bounded", options={"xatol": 1e-4})
    return float(np.exp(found.x))


def bootstrap_ci(
    score: Callable[[Integers], float | None],
    n: int,
    groups: Sequence[Any] | None = None,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> tuple[float, float] | None:
    """95 % interval of any score by drawing samples, or whole groups, with replacement.

    Parameters
    ----------
    score : takes the indices of the drawn samples (with repeats) and gives the score, or None where there is none.
    n : number of samples.
    groups : (n,) what belongs together (region, slide, patient): tiles of one region are no independent witnesses.

    Returns
    -------
    (low, high), or None with fewer than two groups.
    """
    values = [
        value
        for weights in _draws(n, groups, draws, seed)
        if (value := score(np.repeat(np.arange(n), weights.astype(np.int64)))) is not None
    ]
    return _interval(values)


def classification_report(
    probabilities: ArrayLike,
    labels: ArrayLike,
    class_names: Sequence[str],
    groups: Sequence[Any] | None = None,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, Any]:
    """All scores of one evaluation, as `pathotune evaluate` prints them.

    Parameters
    ----------
    probabilities : (n, k), rows sum to 1.
    labels : (n,) class index.
    groups : (n,) what is drawn together for the intervals (regions, slides or patients); None draws samples.

    Returns
    -------
    n, accuracy, balanced_accuracy, auc, f1, per_class (each with its own ci95 of precision, recall and f1), confusion,
    ece, calibration (the curve), ci95 (of accuracy, balanced_accuracy, auc and f1); None where a score cannot be
    computed.

    Raises
    ------
    NotFinite : a probability is NaN or infinite.
    UsageError : the numbers of probabilities, labels, groups and classes do not agree.
    """
    probabilities = np.asarray(probabilities, dtype=np.float64).reshape(-1, len(class_names))
    labels = np.asarray(labels, dtype=np.int64)
    if len(labels) != len(probabilities) or (groups is not None and len(groups) != len(labels)):
        raise UsageError(f"There are {len(probabilities)} predictions for {len(labels)} labels; give one each.")
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(class_names):
        raise UsageError(f"A label lies outside 0 to {len(class_names) - 1}, the classes there are.")
    if not np.isfinite(probabilities).all():
        raise NotFinite("The model gave probabilities that are not finite, so they cannot be scored.")
    scorer = _Scorer(probabilities, labels)
    scores = scorer.scores(np.ones(len(labels)))
    weighted = _draws(len(labels), groups, draws, seed)
    drawn = [scorer.scores(weights) for weights in weighted]
    single = per_class(labels, probabilities, class_names)
    for name, intervals in zip(class_names, scorer.class_intervals(weighted), strict=True):
        single[name]["ci95"] = intervals
    return {
        "n": len(labels),
        **{name: scores[name] for name in ("accuracy", "balanced_accuracy", "auc", "f1")},
        "per_class": single,
        "confusion": confusion(labels, probabilities.argmax(axis=1), len(class_names)).tolist(),
        "ece": ece(labels, probabilities),
        "calibration": calibration_curve(labels, probabilities),
        "ci95": {name: _as_list(_interval([row[name] for row in drawn if row[name] is not None])) for name in scores},
    }


class _Curve:
    """The ROC curve of one class, sorted once, so that weighted areas cost only a few sums."""

    def __init__(self, scores: Floats, is_positive: NDArray[np.bool_]) -> None:
        self.is_positive = is_positive.astype(np.float64)
        values, self.place = np.unique(scores, return_inverse=True)
        self.places = len(values)

    def area(self, weights: Floats) -> float | None:
        """Probability that a positive sample scores higher than a negative one, ties half; None without both kinds."""
        positive = np.bincount(self.place, weights * self.is_positive, minlength=self.places)
        negative = np.bincount(self.place, weights * (1 - self.is_positive), minlength=self.places)
        pairs = positive.sum() * negative.sum()
        if pairs == 0:
            return None
        below = np.cumsum(negative) - negative
        return float((positive * (below + negative / 2)).sum() / pairs)


class _Scorer:
    """The scores of one evaluation under any weights of its samples."""

    def __init__(self, probabilities: Floats, labels: Integers) -> None:
        self.classes = probabilities.shape[1]
        self.cell = labels * self.classes + probabilities.argmax(axis=1)
        self.curves = [_Curve(probabilities[:, column], labels == column) for column in range(self.classes)]

    def _counted(self, weights: Floats) -> Floats:
        counted = np.bincount(self.cell, weights, minlength=self.classes**2).astype(np.float64)
        return counted.reshape(self.classes, self.classes)

    def class_intervals(self, draws: Sequence[Floats]) -> list[dict[str, list[float] | None]]:
        """For each class the 95 % intervals of precision, recall and F1."""
        if not draws:
            return [{"precision": None, "recall": None, "f1": None} for _ in range(self.classes)]
        tables = np.stack([self._counted(weights) for weights in draws])  # (draws, k, k)
        hit = np.diagonal(tables, axis1=1, axis2=2)
        said, true = tables.sum(axis=1), tables.sum(axis=2)
        scores = {"precision": (hit, said), "recall": (hit, true), "f1": (2 * hit, said + true)}
        return [
            {
                name: _as_list(_interval((part[known, one] / whole[known, one]).tolist()))
                for name, (part, whole) in scores.items()
                for known in [whole[:, one] > 0]
            }
            for one in range(self.classes)
        ]

    def scores(self, weights: Floats) -> dict[str, float | None]:
        counted = self._counted(weights)
        return {
            "accuracy": _ratio(np.trace(counted), counted.sum()),
            "balanced_accuracy": _balanced(counted),
            "auc": _mean([curve.area(weights) for curve in self.curves]),
            "f1": _f1(counted),
        }


def _draws(n: int, groups: Sequence[Any] | None, draws: int, seed: int) -> list[Floats]:
    """How often each sample occurs in each bootstrap draw; none with fewer than two groups."""
    names = np.arange(n) if groups is None else np.asarray([str(group) for group in groups])
    _, group = np.unique(names, return_inverse=True)
    count = int(group.max()) + 1 if n else 0
    if count < 2:
        return []
    random = np.random.default_rng(seed)
    return [random.multinomial(count, np.full(count, 1 / count))[group].astype(np.float64) for _ in range(draws)]


def _interval(values: Sequence[float | None]) -> tuple[float, float] | None:
    if not values:
        return None
    low, high = np.percentile(np.asarray(values, dtype=np.float64), [2.5, 97.5])
    return float(low), float(high)


def _as_list(interval: tuple[float, float] | None) -> list[float] | None:
    return None if interval is None else list(interval)


def _ratio(part: float, whole: float) -> float | None:
    return float(part / whole) if whole else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _balanced(table: NDArray[Any]) -> float | None:
    return _mean([_ratio(row[index], row.sum()) for index, row in enumerate(table)])


def _f1(table: NDArray[Any]) -> float | None:
    return _mean(
        [_ratio(2 * table[index, index], table[index].sum() + table[:, index].sum()) for index in range(len(table))]
    )
