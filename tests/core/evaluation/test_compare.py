"""Comparisons: the same draws for all, kept cells, paired differences, and what a table must have."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from PIL import Image

from pathotune.cli import main
from pathotune.datasets.tiles import read_tile_table
from pathotune.errors import UnknownName, UsageError
from pathotune.evaluation import compare as compare_module
from pathotune.evaluation.compare import CompareConfig, check_table, compare, read_method, witnesses
from pathotune.evaluation.comparison_report import summarise
from pathotune.evaluation.shots import draw_shots, parse_shots
from pathotune.events import Note, result_of
from pathotune.training.schedule import TrainingConfig

QUICK = TrainingConfig(epochs=1, batch_size=8, tiles_per_epoch=8, warmup_epochs=0, precision="float32", looks=1)
COLORS = {"dark": 60, "pale": 190}


@pytest.fixture
def table(tmp_path):
    """Eight slides of two tissues, three pictures of each on every one; the last two slides are for the test."""
    random = np.random.default_rng(0)
    rows = []
    for slide in range(8):
        for label, color in COLORS.items():
            for number in range(3):
                name = f"{slide}-{label}-{number}.png"
                pixels = random.normal(color, 25, (64, 64, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(tmp_path / name)
                rows.append([name, label, f"slide {slide}", "test" if slide > 5 else "train", 0.5])
    path = tmp_path / "tiles.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["path", "label", "slide", "split", "mpp"], *rows])
    return path


@pytest.fixture
def tiny(tiny_backbone, monkeypatch):
    """The built-in backbone stands for a tiny one."""
    monkeypatch.setattr(
        "pathotune.backbones.load_backbone", lambda name, random_seed=None: tiny_backbone(seed=random_seed or 0)
    )


def config(**changes):
    return CompareConfig(**{"methods": ("linear_probe", "vpt:tokens=2"), "seeds": 2, "training": QUICK, **changes})


def test_every_cell_has_its_row_and_a_broken_off_comparison_goes_on(table, tiny, tmp_path, monkeypatch):
    asked = config(shots=(2, None))
    result = result_of(compare(read_tile_table(table), asked, tmp_path / "out"))
    rows = result["rows"]
    assert len(rows) == len(asked) == 8
    assert {(row["method"], row["shots"], row["seed"]) for row in rows} == {
        (method, shots, seed) for method in asked.methods for shots in (2, "all") for seed in (0, 1)
    }
    assert all(row["balanced_accuracy"] == 1.0 and row["auc"] == 1.0 for row in rows if row["shots"] == "all")
    assert {row["train_tiles"] for row in rows if row["shots"] == 2} == {4}
    probe, prompts = (entry for entry in result["summary"] if entry["shots"] == "all")
    assert "difference" not in probe and prompts["difference"] == 0.0 and prompts["p"] == 1.0
    with open(result["csv"], newline="") as file:
        assert len(list(csv.DictReader(file))) == 8
    page = (tmp_path / "out" / "comparison.html").read_text()
    assert page.count("<polyline") == 2 and "vpt:tokens=2" in page and "Research use only" in page
    json.dumps(result)

    made = []
    real = compare_module.train_and_judge
    monkeypatch.setattr(compare_module, "train_and_judge", lambda cell, *rest: made.append(cell) or real(cell, *rest))
    (sorted((tmp_path / "out" / "cells").glob("vpt*.npy"))[0]).unlink()
    again = result_of(compare(read_tile_table(table), asked, tmp_path / "out"))
    assert len(made) == 1 and made[0].method == "vpt:tokens=2"
    assert [row["balanced_accuracy"] for row in again["rows"]] == [row["balanced_accuracy"] for row in rows]
    result_of(
        compare(
            read_tile_table(table), config(shots=(2,), seeds=1, training=TrainingConfig(epochs=2)), tmp_path / "out"
        )
    )
    assert len(made) == 3, "other options make other cells"


def test_a_method_that_cannot_be_had_leaves_the_others(table, tmp_path, tiny_backbone, monkeypatch):
    monkeypatch.setattr("pathotune.backbones.load_backbone", lambda *args, **options: tiny_backbone("convolutional"))
    events = list(compare(read_tile_table(table), config(seeds=1), tmp_path / "out"))
    assert any(isinstance(event, Note) and "takes no prompt tokens" in event.text for event in events)
    rows = events[-1].result["rows"]
    assert [("error" in row) for row in rows] == [False, True]
    assert [entry["method"] for entry in events[-1].result["summary"]] == ["linear_probe"]


class TestDraws:
    """Draws of shots."""

    labels = np.array([0] * 20 + [1] * 30)
    groups = tuple(f"s{number % 5}" for number in range(50))
    nothing = np.zeros(0, dtype=np.int64)

    def draw(self, shots, unit="tile", seed=0, kept=None):
        return draw_shots(
            self.labels, self.groups, np.arange(40), self.nothing if kept is None else kept, shots, unit, seed
        )

    def test_so_many_of_each_class_and_the_same_for_a_seed(self):
        few = self.draw(2)
        assert np.bincount(self.labels[few.train]).tolist() == [2, 2] and not few.is_held_out
        assert few.train.tolist() == few.validation.tolist() == self.draw(2).train.tolist()
        assert few.train.tolist() != self.draw(2, seed=1).train.tolist()
        many = self.draw(8)
        assert many.is_held_out and not set(many.train) & set(many.validation)
        assert np.bincount(self.labels[np.concatenate([many.train, many.validation])]).tolist() == [8, 8]
        every = self.draw(None)
        assert sorted([*every.train, *every.validation]) == list(range(40)), "test rows are in no draw"

    def test_whole_slides_are_drawn_and_held_out(self):
        drawn = self.draw(4, unit="slide")
        for label in (0, 1):
            sides = [
                {self.groups[i] for i in side if self.labels[i] == label} for side in (drawn.train, drawn.validation)
            ]
            assert len(sides[0]) == 3 and len(sides[1]) == 1 and not sides[0] & sides[1]

    def test_what_the_table_keeps_is_used(self):
        kept = np.array([45, 5])
        drawn = draw_shots(self.labels, self.groups, np.array([0, 1, 2, 3, 21, 22, 23, 24]), kept, 4, "tile", 0)
        assert drawn.is_held_out and drawn.validation.tolist() == [45, 5] and len(drawn.train) == 8

    @pytest.mark.parametrize("text", ["", "0", "one", "4,4", "-1"])
    def test_shots_that_are_none(self, text):
        with pytest.raises(UsageError, match="shots"):
            parse_shots(text)
        assert parse_shots("1, 16,all") == (1, 16, None)


def test_the_difference_is_paired():
    random = np.random.default_rng(0)
    labels = np.arange(60) % 2
    groups = [str(number // 3) for number in range(60)]

    def row(method, wrong):
        said = labels.copy()
        said[wrong] = 1 - said[wrong]
        share = float((said == labels).mean())
        facts = {"backbone": "b", "shots": "all", "trainable_parameters": 1, "seconds": 1.0, "auc": None, "ece": 0.0}
        return {**facts, "method": method, "balanced_accuracy": share, "probabilities": np.eye(2)[said]} | {
            "labels": labels,
            "groups": groups,
        }

    hard = random.choice(60, 20, replace=False)
    probe, better = summarise([row("linear_probe", hard), row("x", hard[:8])], ["a", "b"])
    assert better["difference"] == pytest.approx(0.2) and better["p"] < 0.02
    low, high = better["difference_ci95"]
    assert 0 < low < 0.2 < high and probe["ci95"][0] < probe["balanced_accuracy"] < probe["ci95"][1]


def test_tables_that_cannot_be_compared_on_say_what_they_lack(table):
    whole = read_tile_table(table)
    with pytest.raises(UsageError, match="split test"):
        check_table(whole.take(np.flatnonzero(np.asarray(whole.split) != "test")))
    one_sided = [
        index for index in range(len(whole)) if not (whole.split[index] == "test" and whole.label[index] == "pale")
    ]
    with pytest.raises(UsageError, match="'pale' has no tile among the test rows"):
        check_table(whole.take(one_sided))
    assert len(set(witnesses(whole, np.arange(len(whole))))) == 8


def test_options_behind_a_method_are_its_own():
    name, options = read_method("pathotune:ivp=off:ttp=false")
    assert name == "pathotune" and options.ivp == "off" and not options.ttp
    with pytest.raises(UnknownName):
        CompareConfig(methods=("pathofune",))
    with pytest.raises(UsageError):
        CompareConfig(shot_unit="patient")


def test_from_the_command_line(table, tiny, tmp_path, capsys):
    arguments = ["compare", "--tiles", table, "--methods", "linear_probe", "--shots", "all", "--seeds", "1", "--json"]
    main_ends(0, [*arguments, "--out", tmp_path / "out", "--set", "epochs=1", "--set", "looks=1"])
    rows = json.loads(capsys.readouterr().out)["rows"]
    keys = {"method", "backbone", "shots", "seed", "balanced_accuracy", "auc", "ece", "trainable_parameters"}
    assert keys | {"seconds", "peak_memory_mb"} <= set(rows[0])
    main_ends(2, [*arguments, "--out", tmp_path / "out", "--set", "nonsense=1"])


def main_ends(code, arguments):
    try:
        main([str(argument) for argument in arguments])
        found = 0
    except SystemExit as end:
        found = end.code or 0
    assert found == code
