"""The linear probe as a logistic regression: what is solved, and which penalty is kept."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from pathotune.events import EpochEnd, Note, result_of
from pathotune.losses.head import LinearHead
from pathotune.methods import load_config
from pathotune.methods.checkpoint import Tuning
from pathotune.prompts.text import SentenceVectors
from pathotune.training import penalties
from pathotune.training.loop import Run, tune
from pathotune.training.penalties import STRENGTHS, chosen
from pathotune.training.resplit import relearned
from pathotune.training.schedule import TrainingConfig
from pathotune.training.session import Session, session_path

QUICK = TrainingConfig(precision="float32", augment=False)
LABELS = np.repeat([0, 1], 50)


def gone_on(first, source, backbone, training, folder):
    return tune([source], backbone=backbone, training=training, out=folder / "b", continue_from=first["out"])


def noisy(mean, spread, seed):
    drawn = np.random.default_rng(seed).normal(size=len(LABELS))
    return mean + spread * (drawn - drawn.mean())


def test_of_fits_that_are_alike_the_strongest_penalty_is_kept():
    fits = [noisy(0.500, 0.1, 0), noisy(0.495, 0.1, 1), noisy(0.490, 0.1, 2)]
    assert chosen(fits, LABELS) == 0
    assert chosen([fits[2], fits[2]], LABELS) == 0


def test_a_weaker_penalty_is_kept_where_it_is_better_on_nearly_every_tile():
    first = noisy(0.5, 0.1, 0)
    assert chosen([first, first - 0.05, first - 0.051], LABELS) == 2
    assert chosen([first, first - noisy(0.05, 0.1, 1), first + 0.2], LABELS) == 1


def test_every_class_counts_alike_however_few_its_tiles():
    labels = np.array([0] * 96 + [1] * 4)
    worse_for_many = np.where(labels == 0, 0.52, 0.1) + 0.001 * np.random.default_rng(0).normal(size=100)
    worse_for_few = np.where(labels == 0, 0.50, 0.5)
    assert chosen([worse_for_few, worse_for_many], labels) == 1


@pytest.fixture
def solved(tiny_backbone, source, examples_of, monkeypatch):
    """A run of the linear probe to its end, in which the third penalty is kept."""
    monkeypatch.setattr(penalties, "chosen", lambda fits, labels: min(2, len(fits) - 1))
    backbone = tiny_backbone()
    examples = examples_of(source, backbone, QUICK)
    text = SentenceVectors(None, None)
    run = Run("linear_probe", load_config("linear_probe"), backbone, examples, QUICK, text, "cpu")
    events = [*run.prepare(), *run.epochs()]
    yield run, events
    run.tiles.close()


def test_it_is_scikit_learns_regression_on_the_standardised_features(solved):
    run, events = solved
    ends = [event for event in events if isinstance(event, EpochEnd)]
    assert [end.epoch for end in ends] == [1, 2, 3, 4, 5] and {end.epochs for end in ends} == {5}
    losses = [end.train_loss for end in ends]
    assert all(later < earlier for earlier, later in pairwise(losses)), "a weaker penalty fits closer"
    features = run.tiles.answers(run.examples.train)[1].numpy().astype(np.float64)
    scaled = (features - features.mean(axis=0)) / features.std(axis=0)
    assert run.best_epoch == 3
    strength = STRENGTHS[2] / features.shape[1]
    oracle = LogisticRegression(C=strength, class_weight="balanced", max_iter=1000, tol=1e-8)
    oracle.fit(scaled, run.examples.labels[run.examples.train])
    weight = run.best_state["head.linear.weight"]
    assert np.allclose(weight[1] - weight[0], oracle.coef_[0], rtol=1e-2, atol=1e-4)
    told = run.outcome(quick=True).logits
    run.model.load_trainable_state(run.best_state)
    assert np.allclose(told, run.tiles.answers(run.watched)[0].numpy(), atol=1e-5), "what it is judged by is its own"
    assert [row["inverse_penalty"] for row in run.history] == [c / features.shape[1] for c in STRENGTHS]


@pytest.mark.parametrize("counts", [(40, 10), (30, 20, 5)])
def test_a_fit_is_scikit_learns_for_any_number_of_classes(counts):
    random = np.random.default_rng(len(counts))
    labels = np.repeat(np.arange(len(counts)), counts)
    features = torch.as_tensor(random.normal(3.0, 5.0, (len(labels), 12)) + labels[:, None], dtype=torch.float32)
    head = LinearHead(12, len(counts))
    head.standardise(features)
    head.fit(features, labels, 0.05)
    oracle = LogisticRegression(C=0.05, class_weight="balanced", max_iter=1000, tol=1e-10)
    oracle.fit(head.scaled(features).numpy().astype(np.float64), labels)
    with torch.no_grad():
        found = head(features).softmax(dim=1).numpy()
    assert np.abs(found - oracle.predict_proba(head.scaled(features).numpy())).max() < 1e-3


def test_every_look_of_a_tile_takes_part_and_passes_once(tiny_backbone, source, tmp_path):
    training = dataclasses.replace(QUICK, augment=True)
    result = result_of(tune([source], "linear_probe", {"views": 3}, tiny_backbone(), training, out=tmp_path / "t"))
    learned = sum(result["tiles_per_class"].values()) - sum(result["validation_tiles_per_class"].values())
    assert result["computed_tiles"] == 3 * learned + sum(result["validation_tiles_per_class"].values())


def test_options_that_play_no_part_are_named(tiny_backbone, source, tmp_path):
    def warned(training, **options):
        stream = tune([source], "linear_probe", options, tiny_backbone(), training, out=tmp_path / "t")
        return [event.text for event in stream if isinstance(event, Note) and "played no part" in event.text]

    odd = dataclasses.replace(QUICK, lr=1e-4, batch_size=8, epochs=1)
    (said,) = warned(odd)
    assert "lr, batch_size played" in said and "epochs" not in said
    assert not warned(QUICK) and not warned(odd, solver="steps")


def test_by_steps_where_that_is_asked(tiny_backbone, source, tmp_path):
    training = dataclasses.replace(QUICK, epochs=2, tiles_per_epoch=16)
    options = {"solver": "steps"}
    result = result_of(tune([source], "linear_probe", options, tiny_backbone(), training, out=tmp_path / "t"))
    assert len(result["epochs"]) == 2 and "learning_rate" in result["epochs"][0]


def test_tuned_again_on_the_same_and_more_it_is_as_if_begun_with_all(tiny_backbone, source, tmp_path):
    backbone = tiny_backbone()
    first = result_of(tune([source], "linear_probe", {}, backbone, QUICK, out=tmp_path / "a"))
    again = result_of(gone_on(first, source, backbone, QUICK, tmp_path))
    one, other = Tuning.load(first["out"]), Tuning.load(again["out"])
    assert other.training["went_on_from"] == one.fingerprint
    assert all(np.allclose(one.trained[name], other.trained[name], atol=1e-5) for name in one.trained)


def test_a_tuning_of_other_tiles_is_gone_on_from_by_steps(tiny_backbone, source, tmp_path):
    backbone = tiny_backbone()
    first = result_of(tune([source], "linear_probe", {}, backbone, QUICK, out=tmp_path / "a"))
    for file in session_path(tmp_path / "a").glob("*"):
        file.unlink()  # as a colleague's tuning comes: without what it learned from
    slow = dataclasses.replace(QUICK, lr=1e-7, epochs=1)
    again = result_of(gone_on(first, source, backbone, slow, tmp_path))
    assert "learning_rate" in again["epochs"][0]
    one, other = Tuning.load(first["out"]).trained, Tuning.load(again["out"]).trained
    assert all(np.allclose(one[name], other[name], atol=1e-4) for name in one), "it begins where the other ended"


def test_how_much_of_what_was_learned_is_here_again(tiny_backbone, source, tmp_path):
    from pathotune.regions import label_tiles
    from pathotune.slides import open_slide

    backbone = tiny_backbone()
    result_of(tune([source], "linear_probe", {}, backbone, QUICK, out=tmp_path / "a"))
    before = Session(session_path(tmp_path / "a")).sides()
    ((name, boxes),) = before.training.items()
    with open_slide(source.slide_path) as slide:
        side = backbone.card.reading().tile_um / source.slide_mpp
        size = (float(slide.width_px0), float(slide.height_px0))
    tiles, _ = label_tiles(source.regions, size, (side, side), ("stroma", "tumour"))
    every = np.arange(len(tiles))
    assert relearned(tiles, [name], every, before) == 1.0
    assert relearned(tiles, ["another slide"], every, before) == 0.0
    x, y = tiles.x_px0, tiles.y_px0
    half = every[[any(np.allclose(box[:2], place) for box in boxes[::2]) for place in zip(x, y, strict=True)]]
    assert 0.3 < relearned(tiles, [name], half, before) < 0.7
