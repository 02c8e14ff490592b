"""Prompts from slide labels alone: a tile tuning in which tiles carry their slide's label, inside the slide's file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pathotune.errors import FeaturesMismatch, TuningMismatch, UsageError
from pathotune.events import Note, result_of
from pathotune.execution.job import Job, run_job
from pathotune.features import header
from pathotune.methods import build_model
from pathotune.methods.checkpoint import Tuning
from pathotune.slides.synthetic import SyntheticSlide

TILE = 224
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Eight slides of four tiles; two kinds of tissue are the two labels."""
    folder = tmp_path_factory.mktemp("weak")
    lines = ["slide,label"]
    for number in range(8):
        tissue = ("Stroma", "Immune cells")[number % 2]
        look = {"margin": 0, "pen": False, "classes": (tissue,), "wallpaper_um": 64.0}
        SyntheticSlide(2 * TILE, 2 * TILE, 0.5, number, **look).write(folder / f"s{number}.tif")
        lines.append(f"s{number}.tif,{tissue}")
    (folder / "cohort.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def tuned(cohort, tmp_path_factory):
    """One command: prompts from weak labels, prompted features, the aggregator; in two rounds."""
    out = tmp_path_factory.mktemp("tuned") / "weak.pathotune.safetensors"
    config = {"prompts": "weak", "rounds": 2, "weak_tiles": 2, "weak_method": "vpt", "hidden": 8}
    config["weak_settings"] = "speed=interactive; tokens=2"
    training = {"epochs": 2, "tiles_per_epoch": 16, "device": "cpu", "precision": "float32"}
    events = list(
        run_job(
            Job(
                "tune",
                {
                    "cohort": str(cohort / "cohort.csv"),
                    "backbone": "pathotune-tiny",
                    "config": config,
                    "training": training,
                    "out": str(out),
                },
            )
        )
    )
    return events[-1].result, [event.text for event in events if isinstance(event, Note)]


def test_two_rounds_of_tiles_with_their_slides_labels(tuned):
    result, notes = tuned
    told = [text for text in notes if "carry the label of their slide" in text]
    assert len(told) == 2 and all("16 tiles" in text for text in told)
    assert result["slides_per_class"] == {"Immune cells": 4, "Stroma": 4}


def test_one_file_holds_all_that_predicts(tuned, cohort, tmp_path):
    result, _ = tuned
    alone = tmp_path / "mailed.pathotune.safetensors"
    alone.write_bytes(Path(result["out"]).read_bytes())
    said = result_of(
        run_job(
            Job(
                "predict",
                {"slide": str(cohort / "s1.tif"), "tuning": str(alone), "out": str(tmp_path), "precision": "float32"},
            )
        )
    )
    assert said["status"] == "done" and said["tiles"] == 4
    judged = result_of(
        run_job(Job("evaluate", {"cohort": str(cohort / "cohort.csv"), "tuning": result["out"], "device": "cpu"}))
    )
    row = next(row for row in judged["slides"] if row["slide"] == "s1.tif")
    assert said["probabilities"]["Stroma"] == pytest.approx(row["probabilities"]["Stroma"], abs=2e-2)


def test_the_embedded_tile_tuning_is_the_one_that_was_made(tuned):
    from pathotune.backbones import load_backbone

    result, _ = tuned
    folder = Path(result["out"]).with_name("weak.session")
    made = Tuning.load(folder / "weak-2.pathotune.safetensors")
    inner = Tuning.load(result["out"]).tile_tuning
    assert inner is not None and inner.fingerprint == made.fingerprint
    assert set(inner.tensors) == set(made.tensors)
    assert all(np.array_equal(inner.tensors[name], made.tensors[name]) for name in made.tensors)
    build_model(inner, load_backbone("pathotune-tiny"))
    assert "which this file holds" in Path(result["out"]).with_name("weak.md").read_text()


def test_a_tile_tuning_of_a_file_gives_its_features(tuned, cohort, tmp_path):
    result, _ = tuned
    tile = Path(result["out"]).with_name("weak.session") / "weak-1.pathotune.safetensors"
    told = {"cohort": str(cohort / "cohort.csv"), "training": {"epochs": 1, "device": "cpu"}}
    other = result_of(run_job(Job("tune", {**told, "config": {"prompts": str(tile)}, "out": str(tmp_path / "a")})))
    inner = Tuning.load(other["out"]).tile_tuning
    assert inner is not None and inner.fingerprint == Tuning.load(tile).fingerprint
    with pytest.raises(TuningMismatch, match="whole slides"):
        list(run_job(Job("tune", {**told, "config": {"prompts": result["out"]}, "out": str(tmp_path / "b")})))


def test_the_stain_is_brought_to_one_reference_without_prompts_too(tuned, cohort, tmp_path):
    told = {"cohort": str(cohort / "cohort.csv"), "out": str(tmp_path / "even"), "config": {"hidden": 8}}
    training = {"epochs": 1, "device": "cpu", "stain": "macenko"}
    even = result_of(run_job(Job("tune", {**told, "training": training})))["out"]
    assert Tuning.load(even).reading.stain == "macenko"
    slide = {"slide": str(cohort / "s1.tif"), "tuning": even, "out": str(tmp_path)}
    result_of(run_job(Job("predict", slide)))
    made = next(path for path in tmp_path.rglob("even.features/*.h5"))
    assert header(made).extra["reading"]["stain"] == "macenko", "as it was learned from, so it predicts"
    result_of(run_job(Job("evaluate", {"cohort": str(cohort / "cohort.csv"), "tuning": even, "device": "cpu"})))
    assert {path.name for path in (tmp_path / "even.session").iterdir()} == {"features-pathotune-tiny-macenko"}
    source = {"slide": str(cohort / "s1.tif"), "backbone": "pathotune-tiny"}
    plain = result_of(run_job(Job("features", {**source, "out": str(tmp_path / "plain")})))
    with pytest.raises(FeaturesMismatch, match="brought to one reference"):
        list(
            run_job(
                Job("predict", {**slide, "features_folder": str(Path(plain["out"]).parent), "out": str(tmp_path / "b")})
            )
        )
    tile = Path(tuned[0]["out"]).with_name("weak.session") / "weak-1.pathotune.safetensors"
    with pytest.raises(UsageError, match="left as it is"):
        list(run_job(Job("tune", {**told, "training": training, "config": {"prompts": str(tile)}})))


def test_a_tile_tuning_votes_for_slides(tuned, cohort):
    result, _ = tuned
    tile = Path(result["out"]).with_name("weak.session") / "weak-1.pathotune.safetensors"
    judged = result_of(run_job(Job("evaluate", {"cohort": str(cohort / "cohort.csv"), "tuning": str(tile)})))
    assert judged["slide"]["n"] == 8 and 0 <= judged["slide"]["auc"] <= 1
