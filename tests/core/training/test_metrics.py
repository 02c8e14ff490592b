"""Scores: equal to scikit-learn's where it has them, and sane where it has none."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.special import softmax
from sklearn import metrics as reference

from pathotune.errors import NotFinite, UsageError
from pathotune.training.metrics import (
    accuracy,
    auc_ovr_macro,
    balanced_accuracy,
    bootstrap_ci,
    calibration_curve,
    classification_report,
    confusion,
    ece,
    f1_macro,
    temperature_fit,
    wilson_interval,
)

NAMES = ["a", "b", "c"]


def sample(n: int = 400, seed: int = 0, scale: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities that mean what they say, and labels drawn from them; some scores tie."""
    random = np.random.default_rng(seed)
    probabilities = softmax(np.round(random.normal(0, 1.5, (n, 3)), 1) * scale, axis=1)
    labels = (probabilities.cumsum(axis=1) > random.random((n, 1))).argmax(axis=1)
    return probabilities, labels


def test_as_scikit_learn() -> None:
    probabilities, labels = sample()
    predicted = probabilities.argmax(axis=1)
    assert accuracy(labels, predicted) == pytest.approx(reference.accuracy_score(labels, predicted))
    assert balanced_accuracy(labels, predicted, 3) == pytest.approx(
        reference.balanced_accuracy_score(labels, predicted)
    )
    assert f1_macro(labels, predicted, 3) == pytest.approx(reference.f1_score(labels, predicted, average="macro"))
    assert auc_ovr_macro(labels, probabilities) == pytest.approx(
        reference.roc_auc_score(labels, probabilities, multi_class="ovr")
    )
    assert (confusion(labels, predicted, 3) == reference.confusion_matrix(labels, predicted)).all()


def test_two_classes_have_the_usual_auc() -> None:
    random = np.random.default_rng(2)
    labels = random.integers(0, 2, 300)
    score = (labels * 8 + random.integers(0, 24, 300)) / 32  # many ties, and 1 - score is exact
    assert auc_ovr_macro(labels, np.stack([1 - score, score], axis=1)) == pytest.approx(
        reference.roc_auc_score(labels, score)
    )


def test_scores_do_not_depend_on_the_order() -> None:
    probabilities, labels = sample()
    order = np.random.default_rng(1).permutation(len(labels))
    first = classification_report(probabilities, labels, NAMES, draws=2)
    second = classification_report(probabilities[order], labels[order], NAMES, draws=2)
    for name in ("accuracy", "balanced_accuracy", "auc", "f1", "ece"):
        assert first[name] == pytest.approx(second[name])


def test_calibration_error() -> None:
    probabilities, labels = sample(20_000)
    sharp, _ = sample(20_000, scale=4)
    assert ece(labels, probabilities) < 0.02 < 0.1 < ece(labels, sharp)
    sure = np.eye(2)[[0, 1, 0, 1]]
    assert ece([0, 1, 0, 1], sure) == 0 and ece([1, 0, 1, 0], sure) == 1


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_a_temperature_is_found_again(temperature: float) -> None:
    probabilities, labels = sample(20_000)
    assert temperature_fit(np.log(probabilities) * temperature, labels) == pytest.approx(temperature, rel=0.05)


def test_calibration_never_changes_the_classes_and_lowers_the_loss() -> None:
    probabilities, labels = sample(300)
    logits = np.log(probabilities) * 5
    cooled = softmax(logits / temperature_fit(logits, labels), axis=1)
    assert (cooled.argmax(axis=1) == logits.argmax(axis=1)).all()
    assert reference.log_loss(labels, cooled) < reference.log_loss(labels, softmax(logits, axis=1))


def test_a_few_right_answers_do_not_make_certainty() -> None:
    logits, labels = np.eye(2)[[0, 1] * 5] * 2.0, np.asarray([0, 1] * 5)
    sure = softmax(logits / temperature_fit(logits, labels), axis=1).max()
    assert 0.8 < sure < 0.95
    assert temperature_fit(np.zeros((0, 2)), []) == 1


def test_a_class_that_is_missing_is_none_and_never_nan() -> None:
    probabilities, labels = sample()
    probabilities, labels = probabilities[labels < 2], labels[labels < 2]
    report = classification_report(probabilities, labels, NAMES, draws=20)
    absent = report["per_class"]["c"]
    assert absent.pop("ci95")["recall"] is None
    assert absent == {"n": 0, "precision": 0.0, "recall": None, "f1": 0.0, "auc": None}
    json.dumps(report, allow_nan=False)
    for name in ("accuracy", "balanced_accuracy", "auc", "f1", "ece"):
        assert 0 <= report[name] <= 1
    one = classification_report([[1.0, 0, 0]], [0], NAMES)
    assert one["auc"] is None and one["ci95"]["accuracy"] is None and one["accuracy"] == 1
    none = classification_report(np.zeros((0, 3)), [], NAMES)
    assert none["n"] == 0 and none["accuracy"] is None
    json.dumps([one, none], allow_nan=False)


def test_the_report_has_the_contracts_keys() -> None:
    probabilities, labels = sample()
    report = classification_report(probabilities, labels, NAMES, draws=50)
    assert list(report) == [
        "n",
        "accuracy",
        "balanced_accuracy",
        "auc",
        "f1",
        "per_class",
        "confusion",
        "ece",
        "calibration",
        "ci95",
    ]
    assert list(report["per_class"]) == NAMES and np.sum(report["confusion"]) == report["n"] == 400
    for name, interval in report["ci95"].items():
        assert interval[0] <= report[name] <= interval[1]
    json.dumps(report)


def test_groups_make_intervals_honest() -> None:
    """Forty copies of the same ten tiles say no more than the ten tiles do."""
    probabilities, labels = sample(10)
    many, told = np.tile(probabilities, (40, 1)), np.tile(labels, 40)
    groups = np.tile(np.arange(10), 40)
    alone = classification_report(probabilities, labels, NAMES)["ci95"]["accuracy"]
    grouped = classification_report(many, told, NAMES, groups)["ci95"]["accuracy"]
    naive = classification_report(many, told, NAMES)["ci95"]["accuracy"]
    assert grouped == pytest.approx(alone)
    assert np.ptp(naive) < np.ptp(grouped) / 3


def test_any_score_has_an_interval() -> None:
    values = np.random.default_rng(0).normal(5, 1, 400)
    low, high = bootstrap_ci(lambda rows: float(values[rows].mean()), 400)
    assert low < values.mean() < high and high - low == pytest.approx(2 * 1.96 / 20, rel=0.2)
    assert bootstrap_ci(lambda rows: 1.0, 400, ["one slide"] * 400) is None
    assert bootstrap_ci(lambda rows: None, 10) is None
    assert bootstrap_ci(lambda rows: float(values[rows].mean()), 400) == (low, high), "seeded"


def test_numbers_that_are_none() -> None:
    with pytest.raises(NotFinite):
        classification_report([[np.nan, 1, 0]], [0], NAMES)
    with pytest.raises(NotFinite):
        temperature_fit([[np.inf, 0]], [0])
    with pytest.raises(UsageError, match="1 predictions for 2 labels"):
        classification_report([[1.0, 0, 0]], [0, 1], NAMES)
    with pytest.raises(UsageError, match="0 to 2"):
        classification_report([[1.0, 0, 0]], [3], NAMES)


def test_the_calibration_curve_counts_every_sample_once_and_says_what_came_true() -> None:
    random = np.random.default_rng(0)
    said = random.uniform(0.5, 1.0, 4000)
    labels = (random.uniform(size=4000) > said).astype(int)
    curve = calibration_curve(labels, np.stack([said, 1 - said], axis=1))
    assert sum(part["n"] for part in curve) == 4000
    assert [part["from"] for part in curve] == sorted(part["from"] for part in curve)
    for part in curve:
        assert part["from"] <= part["confidence"] <= part["to"]
        assert abs(part["accuracy"] - part["confidence"]) < 0.06
    sure = calibration_curve(np.zeros(3, dtype=int), np.asarray([[1.0, 0.0]] * 3))
    assert sure == [{"from": 0.9, "to": 1.0, "n": 3, "confidence": 1.0, "accuracy": 1.0, "ci95": sure[0]["ci95"]}]
    assert sure[0]["ci95"] == pytest.approx([0.4385, 1.0], abs=1e-3), "three hits say little"
    assert calibration_curve(np.zeros(0), np.zeros((0, 2))) == []


def test_each_class_has_intervals_around_its_scores() -> None:
    random = np.random.default_rng(0)
    labels = np.arange(300) % 3
    probabilities = random.dirichlet([1, 1, 1], 300) + 0.4 * np.eye(3)[labels]
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    found = classification_report(probabilities, labels, ("a", "b", "c"))["per_class"]
    for scores in found.values():
        for name in ("precision", "recall", "f1"):
            low, high = scores["ci95"][name]
            assert low < scores[name] < high and high - low < 0.35
    alone = classification_report(probabilities[:1], labels[:1], ("a", "b", "c"))["per_class"]["a"]
    assert alone["ci95"] == {"precision": None, "recall": None, "f1": None}


def test_the_interval_of_a_share_holds_it_narrows_with_tiles_and_is_never_a_point() -> None:
    for hits, n in ((0, 3), (3, 3), (1, 2), (70, 100)):
        low, high = wilson_interval(hits, n)
        assert 0 <= low <= hits / n <= high <= 1 and high - low > 0
    few, many = wilson_interval(7, 10), wilson_interval(700, 1000)
    assert many[1] - many[0] < (few[1] - few[0]) / 5
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_the_interval_holds_the_true_share_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    true = random.uniform(0.2, 0.95, 2000)  # at a single share and number it is a little more or less
    intervals = [wilson_interval(int(hits), 25) for hits in random.binomial(25, true)]
    held = [low <= share <= high for share, (low, high) in zip(true, intervals, strict=True)]
    assert 0.93 < np.mean(held) < 0.97
