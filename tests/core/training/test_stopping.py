"""A training that is paused, cancelled or broken off: its result does not change, and the best epoch is kept."""

from __future__ import annotations

import dataclasses
import threading

import numpy as np
import pytest
import torch

from pathotune.errors import Cancelled
from pathotune.events import EpochEnd, Finished, Step
from pathotune.methods import build_model
from pathotune.methods.checkpoint import Tuning, card_path
from pathotune.training.loop import Run, tune
from pathotune.training.resume import start_from
from pathotune.training.schedule import TrainingConfig
from pathotune.training.session import Session, left_over, session_path, take_best

QUICK = TrainingConfig(epochs=4, batch_size=8, tiles_per_epoch=24, lr=3e-3, warmup_epochs=1, precision="float32")
SMALL = {"tvp_tokens": 2, "vrm_width": 8, "text_encoder": "hashing"}


class Person:
    """Asked by a training; pauses at some questions until another thread lets it go on, and cancels when told."""

    def __init__(self, pause_at=()):
        self.pause_at, self.asked, self.paused, self.wants_end = set(pause_at), 0, 0, False
        self._lock = threading.Lock()

    def __call__(self):
        with self._lock:
            self.asked += 1
            pauses = self.asked in self.pause_at
        if pauses:
            go_on = threading.Event()
            threading.Timer(0.02, go_on.set).start()
            go_on.wait()
            torch.rand(3)  # whatever else the process does meanwhile
            self.paused += 1
        return self.wants_end


def test_paused_or_not_the_tuning_is_the_same_to_the_bit(tiny_backbone, source, tmp_path):
    def trained(name, person):
        *_, last = tune([source], "pathotune", SMALL, tiny_backbone(), QUICK, out=tmp_path / name, cancel=person)
        return Tuning.load(last.result["out"]), last.result

    plain, _ = trained("plain", Person())
    person = Person(range(3, 600, 37))
    paused, result = trained("paused", person)
    assert person.paused > 5 and result["status"] == "done"
    assert plain.tensors.keys() == paused.tensors.keys()
    assert all(np.array_equal(plain.tensors[key], paused.tensors[key]) for key in plain.tensors)
    assert plain.training["metrics"] == paused.training["metrics"]


def test_time_paused_counts_neither_as_work_nor_as_time_left(tiny_backbone, source, tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("pathotune.waiting.time.monotonic", lambda: now[0])

    def wait_an_hour():
        now[0] += 3600.0
        return False

    last = None
    for last in tune([source], "linear_probe", {}, tiny_backbone(), QUICK, out=tmp_path / "t", cancel=wait_an_hour):
        if isinstance(last, Step | EpochEnd) and last.seconds_left is not None:
            assert last.seconds_left < 1
    assert last.result["seconds"] < 1


def test_cancel_in_mid_epoch_saves_the_best_epoch_as_a_tuning(tiny_backbone, source, tmp_path):
    person, last = Person(), None
    backbone = tiny_backbone()
    for last in tune([source], "pathotune", SMALL, backbone, QUICK, out=tmp_path / "t", cancel=person):
        if isinstance(last, Step) and last.phase == "epoch 3":
            person.wants_end = True
    assert isinstance(last, Finished) and last.result["status"] == "cancelled"
    assert len(last.result["epochs"]) == 2 and last.result["best_epoch"] in (1, 2)
    assert {"confusion", "ci95"} <= set(last.result["val"]) and "most_wrong" in last.result
    tuning = Tuning.load(last.result["out"])
    assert tuning.training["epochs"] == 2 and tuning.training["ended"] == "cancelled"
    assert "cancelled" in card_path(tuning.path).read_text()
    build_model(tuning, backbone)
    assert not left_over(tmp_path) and not backbone._forward_pre_hooks
    assert not any(part._forward_pre_hooks for part in backbone.modules()), "the backbone is used again"
    *_, on = tune([source], backbone=backbone, training=QUICK, out=tmp_path / "on", continue_from=tuning.path)
    assert on.result["status"] == "done" and Tuning.load(on.result["out"]).training["went_on_from"]


def test_cancel_does_not_wait_for_the_end_of_a_step(tiny_backbone, source, tmp_path, monkeypatch):
    person, backbone, calls = Person(), tiny_backbone(), []
    original, steps = Run.step, []

    def step(self, *arguments):
        loss = original(self, *arguments)
        steps.append(loss)
        return loss

    monkeypatch.setattr(Run, "step", step)
    linear = [part for part in backbone.modules() if isinstance(part, torch.nn.Linear)]

    def look(*_):
        if len(steps) == 4:
            calls.append(1)
            person.wants_end = True

    for part in linear:
        part.register_forward_hook(look)
    *_, last = tune([source], "pathotune", SMALL, backbone, QUICK, out=tmp_path / "t", cancel=person)
    assert last.result["status"] == "cancelled" and len(steps) == 4
    assert 0 < len(calls) < len(linear), "it stopped between two layers"


def test_cancel_before_the_first_epoch_leaves_nothing(tiny_backbone, source, tmp_path):
    person = Person()
    with pytest.raises(Cancelled):
        for event in tune([source], "linear_probe", {}, tiny_backbone(), QUICK, out=tmp_path / "t", cancel=person):
            person.wants_end = person.wants_end or isinstance(event, Step)
    assert not list(tmp_path.glob("t*"))


def test_going_on_and_cancelled_at_once_keeps_what_it_started_from(tiny_backbone, source, tmp_path):
    backbone = tiny_backbone()
    *_, first = tune([source], "linear_probe", {"solver": "steps"}, backbone, QUICK, out=tmp_path / "a")
    person, last = Person(), None
    stream = tune(
        [source],
        backbone=backbone,
        training=QUICK,
        out=tmp_path / "b",
        continue_from=first.result["out"],
        cancel=person,
    )
    for last in stream:
        person.wants_end = person.wants_end or (isinstance(last, Step) and last.phase == "epoch 1")
    assert last.result["status"] == "cancelled" and last.result["best_epoch"] == 0
    before, after = Tuning.load(first.result["out"]).trained, Tuning.load(last.result["out"]).trained
    assert all(np.array_equal(before[key], after[key]) for key in before)


def test_the_best_epoch_of_a_killed_training_becomes_its_tuning(tiny_backbone, source, tmp_path, monkeypatch):
    backbone, out = tiny_backbone(), tmp_path / "t.pathotune.safetensors"
    assert take_best(out) is None
    stream = tune([source], "pathotune", SMALL, backbone, dataclasses.replace(QUICK, patience=9), out=out)
    ended = 0
    while ended < 3:  # left where a kill would leave it
        ended += isinstance(next(stream), EpochEnd)
    assert not out.exists() and left_over(tmp_path) == [], "it still runs"
    monkeypatch.setattr("pathotune.training.session.still_runs", lambda facts, changed: not facts["pid"])
    assert left_over(tmp_path) == [out]
    result = take_best(out)
    assert result is not None and result["status"] == "cancelled" and result["out"] == str(out)
    assert result["val"]["confusion"] and 1 <= result["best_epoch"] <= 3 and "most_wrong" in result
    assert start_from(out, backbone).sides, "what it learned from will not judge the next"
    assert not left_over(tmp_path) and card_path(out).is_file() and take_best(out) is None
    folder = session_path(out)
    assert not list(folder.glob("best*")) and Session(folder).sides()
    assert "Doe" not in card_path(out).read_text()
    stream.close()


def test_the_card_has_pictures_of_every_class_and_names_nobody(tiny_backbone, source, tmp_path):
    from PIL import Image

    *_, last = tune([source], "linear_probe", {}, tiny_backbone(), QUICK, out=tmp_path / "t")
    path = tmp_path / "t.pathotune.safetensors"
    text = card_path(path).read_text()
    means = []
    for label, name in enumerate(last.result["classes"]):
        place = tmp_path / "t.card" / f"class-{label + 1}.jpg"
        assert f"(t.card/{place.name})" in text and name in text
        with Image.open(place) as picture:
            assert picture.height == 96 and picture.width > 96 and not picture.getexif()
            means.append(np.asarray(picture).mean())
    assert means[0] > means[1] + 30, "stroma is the pale one"
    assert "Doe" not in text and "slide-" in text
