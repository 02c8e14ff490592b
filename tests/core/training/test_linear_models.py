"""Linear models on vectors of patients: concordance, Cox and logistic regression against their own libraries."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pathotune.errors import NoTiles
from pathotune.losses.survival import cox_loss
from pathotune.training.linear_models import ClassModel, CoxModel, c_index, c_index_interval


def outcomes(count=80, seed=0):
    random = np.random.default_rng(seed)
    risk = random.normal(size=count)
    time = np.ceil(random.exponential(20 * np.exp(-risk)))  # with ties
    last = random.uniform(2, 40, count)
    return np.minimum(time, last), (time <= last).astype(np.int64), risk


def test_concordance_is_that_of_the_library():
    metrics = pytest.importorskip("sksurv.metrics")
    time, event, risk = outcomes()
    risk = np.round(risk, 1)  # ties here too
    expected = metrics.concordance_index_censored(event > 0, time, risk)[0]
    assert c_index(time, event, risk) == pytest.approx(expected, abs=1e-9)
    assert c_index(time, event, -time) == 1.0
    low, high = c_index_interval(time, event, risk, draws=50)
    assert 0 <= low < c_index(time, event, risk) < high <= 1


def test_concordance_leaves_out_what_is_not_known():
    time, event, risk = outcomes(20)
    more = (np.append(time, [np.nan, 5]), np.append(event, [-1, -1]), np.append(risk, [9, 9]))
    assert c_index(*more) == c_index(time, event, risk)
    assert c_index(np.array([1.0, 2.0]), np.array([0, 0]), np.array([1.0, 2.0])) is None


def test_coxs_loss_is_the_partial_likelihood():
    time, event, risk = outcomes(30)
    expected = 0.0
    for one in np.flatnonzero(event):
        expected += np.log(np.exp(risk[time >= time[one]]).sum()) - risk[one]
    given = [torch.from_numpy(part) for part in (risk, time, event)]
    assert float(cox_loss(*given)) == pytest.approx(expected / event.sum(), rel=1e-5)
    turned = torch.randperm(30)
    assert torch.allclose(cox_loss(*(part[turned] for part in given)), cox_loss(*given))
    nobody = torch.zeros(30, dtype=torch.int64)
    assert float(cox_loss(given[0], given[1], nobody)) == 0.0


def test_cox_regression_finds_the_direction_of_the_hazard():
    pytest.importorskip("sksurv")
    time, event, risk = outcomes(300)
    vectors = np.random.default_rng(1).normal(size=(300, 6))
    vectors[:, 2] = 3 + risk
    model = CoxModel.fit(vectors, time, event)
    assert np.abs(model.weights).argmax() == 2 and model.weights[2] > 0
    assert c_index(time, event, model.risk(vectors)) > 0.65
    again = CoxModel.from_tensors(model.tensors("x."), "x.")
    assert np.allclose(again.risk(vectors), model.risk(vectors), atol=1e-5)
    assert CoxModel.from_tensors({}, "x.") is None
    with pytest.raises(NoTiles, match="two patients with an event"):
        CoxModel.fit(vectors, time, np.zeros(300, dtype=np.int64))


@pytest.mark.parametrize("classes", [2, 3])
def test_logistic_regression_gives_probabilities_of_all_classes(classes):
    random = np.random.default_rng(0)
    labels = np.arange(120) % classes
    vectors = random.normal(size=(120, 5)) + np.eye(classes, 5)[labels] * 4
    model = ClassModel.fit(vectors, labels, classes + 1, strength=1.0)  # one class nobody has
    said = model.probabilities(vectors)
    assert said.shape == (120, classes + 1) and np.allclose(said.sum(axis=1), 1)
    assert (said.argmax(axis=1) == labels).mean() > 0.9 and said[:, classes].max() < 1e-9
    again = ClassModel.from_tensors(model.tensors("x."), "x.")
    assert np.allclose(again.probabilities(vectors), said, atol=1e-5)
    with pytest.raises(NoTiles, match="all of one class"):
        ClassModel.fit(vectors, np.zeros(120, dtype=np.int64), 2)


def test_two_classes_are_those_of_the_library():
    from sklearn.linear_model import LogisticRegression

    random = np.random.default_rng(0)
    vectors, labels = random.normal(size=(60, 4)), np.arange(60) % 2
    model = ClassModel.fit(vectors, labels, 2, strength=1.0)
    standard = (vectors - vectors.mean(axis=0)) / np.sqrt(vectors.var(axis=0).mean())
    plain = LogisticRegression(max_iter=200, class_weight="balanced").fit(standard, labels)
    assert np.allclose(model.probabilities(vectors), plain.predict_proba(standard), atol=1e-6)


def test_what_hardly_varies_counts_little():
    # Two numbers follow the labels of the patients to learn from, one of them varies ten thousand times as much.
    labels = np.arange(60) % 2
    vectors = np.stack([labels * 2.0 - 1.0, (labels * 2.0 - 1.0) * 1e-4], axis=1)
    model = ClassModel.fit(vectors, labels, 2)
    assert abs(model.weights[1, 1]) < 1e-3 * abs(model.weights[1, 0])
    # Those who have it the other way round are told by the first number alone, in any unit of both.
    for unit in (1.0, 1e-3):
        said = ClassModel.fit(vectors * unit, labels, 2).probabilities(vectors * (1.0, -1.0) * unit)
        assert (said.argmax(axis=1) == labels).all()
        assert np.allclose(said, model.probabilities(vectors * (1.0, -1.0)), atol=1e-6)
    assert np.isfinite(ClassModel.fit(np.ones((4, 3)), np.arange(4) % 2, 2).probabilities(np.ones((4, 3)))).all()
