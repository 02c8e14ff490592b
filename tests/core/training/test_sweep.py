"""The short trial of a few settings: fair, cheap, off by default, and told on the card."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from pathotune.errors import NotFinite
from pathotune.events import Note, Step
from pathotune.methods.checkpoint import Tuning, card_path
from pathotune.training import sweep as sweep_module
from pathotune.training.loop import Run, tune
from pathotune.training.schedule import TrainingConfig
from pathotune.training.sweep import Trial, best_of, draws_of, said
from pathotune.training.validation import Scores

QUICK = TrainingConfig(
    epochs=1, batch_size=8, tiles_per_epoch=24, lr=1e-3, warmup_epochs=1, precision="float32", looks=2, sweep="short"
)
STEPS = {"solver": "steps"}
LATE = {"tvp_tokens": 2, "vrm_width": 8, "text_encoder": "hashing", "speed": "interactive"}


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(sweep_module, "DRAWS", 16)


def test_the_best_of_the_rates_is_gone_on_with_and_stands_on_the_card(tiny_backbone, source, tmp_path, monkeypatch):
    tried = []
    losses = {1e-3: 0.5, 1e-3 / 3: 0.9, 3e-3: 0.2}
    original, starts = sweep_module._tried, []

    def judge(run, lr, jitter, start, *rest):
        starts.append(run.model.trainable_state())
        trial = yield from original(run, lr, jitter, start, *rest)
        tried.append((lr, jitter))
        return dataclasses.replace(trial, scores=Scores(losses[min(losses, key=lambda one: abs(one - lr))], 0.5, 0.5))

    monkeypatch.setattr(sweep_module, "_tried", judge)
    events = list(tune([source], "pathotune", LATE, tiny_backbone(), QUICK, out=tmp_path / "t"))
    assert len(tried) == 3 and {jitter for _, jitter in tried} == {QUICK.stain_jitter}, "looks that are kept stay"
    assert all(np.array_equal(starts[0][key], one[key]) for one in starts for key in one), "each from the same start"
    tuning = Tuning.load(events[-1].result["out"])
    assert tuning.training["options"]["lr"] == pytest.approx(3e-3)
    assert "0.003" in tuning.training["sweep"] and tuning.training["sweep"] in card_path(tuning.path).read_text()
    assert any(isinstance(event, Note) and "Tried a few settings" in event.text for event in events)
    steps = [event for event in events if isinstance(event, Step) and event.phase == "trying settings"]
    assert steps[-1].done == steps[-1].total == 3 * 2


def test_what_was_tried_leaves_no_trace_in_the_training_that_follows(tiny_backbone, source, tmp_path, monkeypatch):
    """The winner's own training is the one that would have come without a trial."""
    monkeypatch.setattr(sweep_module, "best_of", lambda trials: trials[0] if trials else None)
    swept, plain = (
        list(tune([source], "linear_probe", STEPS, tiny_backbone(), training, out=tmp_path / name))[-1].result["out"]
        for training, name in ((QUICK, "a"), (dataclasses.replace(QUICK, sweep="off"), "b"))
    )
    one, other = Tuning.load(swept), Tuning.load(plain)
    assert all(np.array_equal(one.trained[key], other.trained[key]) for key in one.trained)
    assert one.training["sweep"] and other.training["sweep"] is None
    assert "trial" not in card_path(other.path).read_text()


def test_stain_jitter_is_tried_where_looks_are_drawn_anew(tiny_backbone, source, tmp_path):
    full = {**LATE, "speed": "full_depth"}
    events = list(tune([source], "pathotune", full, tiny_backbone(), QUICK, out=tmp_path / "t"))
    sentence = Tuning.load(events[-1].result["out"]).training["sweep"]
    assert "stain jitter" in sentence and "best of 5 trials" in sentence


def test_a_rate_that_goes_astray_loses_and_all_of_them_are_an_error(tiny_backbone, source, tmp_path, monkeypatch):
    original = Run.step

    def step(self, batch, rate):
        if self.training.lr > limit:
            raise NotFinite("astray")
        return original(self, batch, rate)

    monkeypatch.setattr(Run, "step", step)
    limit = 2e-3
    *_, last = tune([source], "linear_probe", STEPS, tiny_backbone(), QUICK, out=tmp_path / "t")
    assert Tuning.load(last.result["out"]).training["options"]["lr"] < limit
    limit = 0.0
    with pytest.raises(NotFinite, match="--lr"):
        list(tune([source], "linear_probe", STEPS, tiny_backbone(), QUICK, out=tmp_path / "u"))


def test_off_by_default_and_its_cost_is_known():
    assert TrainingConfig().sweep == "off" and draws_of(TrainingConfig()) == 0
    assert draws_of(QUICK) == 3 * 16


def test_alike_trials_leave_what_was_set():
    trials = [Trial(lr, 0.05, Scores(loss, 0.9, 0.9)) for lr, loss in ((1e-3, 0.30000), (3e-3, 0.29999))]
    assert best_of(trials) is trials[0] and best_of([Trial(1.0, 0.1)]) is None
    assert "0.001, 0.003" in said(trials[0], trials) and "jitter" not in said(trials[0], trials)
