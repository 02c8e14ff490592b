"""Whole slides learned from their labels: tune, evaluate and predict as jobs, on features made up for the purpose."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from pathotune.backbones import backbone_card
from pathotune.errors import FeaturesMismatch, FileMissing, NoTiles, UsageError
from pathotune.events import EpochEnd, result_of
from pathotune.execution.job import Job, run_job
from pathotune.features import FeatureSet
from pathotune.inference.predictions import PredictionStore
from pathotune.methods.checkpoint import TRAINED, Tuning
from pathotune.methods.mil.method import Mil
from pathotune.slides.synthetic import SyntheticSlide
from pathotune.training.bags import cells_of

WIDTH, TILE = backbone_card("pathotune-tiny").output_dim, 224
SIDE = 5  # tiles
LABELS = ("calm", "sick")


def feature_set(number, label, tuning="", backbone="pathotune-tiny"):
    """A slide of 5 x 5 tiles; three tiles of a sick one are unlike the others."""
    random = np.random.default_rng(number)
    features = random.normal(size=(SIDE * SIDE, WIDTH)).astype(np.float32)
    if label == "sick":
        features[[6, 7, 18], :60] += 3
    rows, columns = np.divmod(np.arange(SIDE * SIDE), SIDE)
    return FeatureSet(
        features=features,
        coords_px0=np.stack([columns, rows], axis=1) * float(TILE),
        backbone=backbone,
        mpp=0.5,
        tile_px=TILE,
        image_px=TILE,
        tile_px0=(TILE, TILE),
        slide=f"s{number:02d}.tif",
        slide_fingerprint="",
        tuning=tuning,
    )


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """40 slides of 20 patients, 8 of them for testing, with their features."""
    folder = tmp_path_factory.mktemp("cohort")
    lines = ["slide,patient,label,split"]
    for number in range(40):
        label = LABELS[number // 2 % 2]
        feature_set(number, label).save(folder / "features" / f"s{number:02d}.h5")
        lines.append(f"s{number:02d}.tif,p{number // 2},{label},{'test' if number >= 32 else ''}")
    (folder / "cohort.csv").write_text("\n".join(lines) + "\n")
    return folder


def job(command, cohort, **arguments):
    return run_job(
        Job(command, {"cohort": str(cohort / "cohort.csv"), "features": str(cohort / "features"), **arguments})
    )


def tuned(cohort, out, epochs=8, **arguments):
    training = {"epochs": epochs, "batch_size": 8, "tiles_per_epoch": 64, "device": "cpu"}
    config = {"hidden": 16, "dropout": 0.0, "k": 3, **arguments.pop("config", {})}
    return result_of(job("tune", cohort, out=str(out), config=config, training=training, **arguments))


@pytest.fixture(scope="module")
def tuning(cohort, tmp_path_factory):
    """A tuning, and what its job said."""
    out = tmp_path_factory.mktemp("tuned") / "sick.pathotune.safetensors"
    return tuned(cohort, out)


def test_a_tuning_from_slide_labels_tells_slides_apart(tuning):
    assert tuning["classes"] == list(LABELS)
    assert tuning["val"]["auc"] > 0.9
    assert sum(tuning["slides_per_class"].values()) == 32  # never the test rows
    assert tuning["trainable_parameters"] > 0 and Path(tuning["out"]).is_file()
    card = Path(tuning["out"]).parent / "sick.md"
    assert "whole slides of calm and sick" in card.read_text()


def test_the_file_holds_pseudonyms_and_no_slide_names(tuning, cohort):
    with safe_open(tuning["out"], "np") as file:
        text = file.metadata()["pathotune"]
    assert "s00" not in text and str(cohort) not in text and "p1" not in json.loads(text)["training"]["slides"]


def test_saved_is_loaded(tuning, cohort):
    import torch

    loaded = Tuning.load(tuning["out"])
    model, again = Mil.from_tuning(loaded), Mil.from_tuning(Tuning.load(tuning["out"]))
    bag = feature_set(3, "sick")
    features = torch.from_numpy(bag.features)
    cells = torch.from_numpy(cells_of(bag.coords_px0, bag.tile_px0))
    with torch.no_grad():
        assert torch.equal(model(features, cells).logits, again(features, cells).logits)
    assert set(loaded.trained) == set(model.trainable_state())
    assert all(np.array_equal(loaded.tensors[TRAINED + key], value) for key, value in model.trainable_state().items())


def test_the_same_seed_gives_the_same_tuning(cohort, tmp_path):
    first, again = (tuned(cohort, tmp_path / name, epochs=2) for name in ("a", "b"))
    one, other = (Tuning.load(result["out"]).trained for result in (first, again))
    assert all(np.array_equal(one[name], other[name]) for name in one)


def test_evaluation_judges_the_test_rows_by_patient(tuning, cohort):
    found = result_of(job("evaluate", cohort, tuning=tuning["out"]))
    assert found["n"] == 8 and found["patients"] == 4
    assert found["slide"]["auc"] == found["auc"] > 0.9
    assert found["slide"]["ci95"]["auc"] is not None
    assert {row["slide"] for row in found["slides"]} == {f"s{number}.tif" for number in range(32, 40)}


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    """A generated slide whose features are those of a sick one."""
    path = tmp_path_factory.mktemp("slides") / "s34.tif"
    look = {"margin": 0, "pen": False, "classes": ("Stroma",), "wallpaper_um": 64.0}
    return SyntheticSlide(SIDE * TILE, SIDE * TILE, 0.5, 1, **look).write(path)


def predicted(slide, tuning, cohort, out, **arguments):
    told = {"slide": str(slide), "tuning": tuning["out"], "out": str(out), "features_folder": str(cohort / "features")}
    return result_of(run_job(Job("predict", {**told, **arguments})))


def test_prediction_says_the_score_and_where_it_looked(tuning, cohort, slide, tmp_path):
    result = predicted(slide, tuning, cohort, tmp_path)
    judged = {row["slide"]: row for row in result_of(job("evaluate", cohort, tuning=tuning["out"]))["slides"]}
    assert result["score_of"] == "sick" and result["predicted"] == judged["s34.tif"]["predicted"]
    assert result["score"] == pytest.approx(judged["s34.tif"]["probabilities"]["sick"], abs=1e-5)
    assert result["classes"] == {} and result["tiles"] == SIDE * SIDE and result["status"] == "done"
    store = PredictionStore.open(result["store"])
    assert store.is_complete and store.attrs["score"] == result["score"]
    attention = np.asarray(store.attention[0]).astype(float)
    assert attention.shape == (SIDE, SIDE) and attention.mean() == pytest.approx(1, abs=1e-2)
    assert np.allclose(np.asarray(store.probabilities[...]).sum(axis=0), 1, atol=1e-5)
    assert store.sources == ["attention", "attention for calm", "attention for sick"]
    sick = {6, 7, 18} if number_is_sick(34) else set()
    if sick:
        for number in (0, 2):
            looked = np.asarray(store.attention[number]).astype(float).ravel()
            assert set(np.argsort(-looked)[:3].tolist()) == sick
    scale, translate = store.placement_um("attention")
    assert scale == pytest.approx((TILE * 0.5, TILE * 0.5)) and translate == pytest.approx(((TILE - 1) / 4,) * 2)
    assert Path(result["picture"]).is_file() and len(result["attended"]) == 12
    assert predicted(slide, tuning, cohort, tmp_path)["status"] == "resumed"


def number_is_sick(number):
    return LABELS[number // 2 % 2] == "sick"


@pytest.mark.parametrize("aggregator", ["clam_sb", "transmil", "topk", "soft_vote", "mean"])
def test_every_aggregator_goes_from_cohort_to_store(aggregator, cohort, slide, tmp_path):
    result = tuned(cohort, tmp_path / aggregator, epochs=4, config={"aggregator": aggregator})
    assert 0 <= result["val"]["auc"] <= 1
    store = PredictionStore.open(predicted(slide, result, cohort, tmp_path)["store"])
    assert store.sources[0] == "attention"
    assert len(store.sources) == (1 if aggregator == "transmil" else 3)


@pytest.mark.slow
def test_folds_say_of_every_slide_what_those_say_that_never_saw_it(cohort, tmp_path):
    result = tuned(cohort, tmp_path / "folded", epochs=3, folds=4)
    with open(result["folds_csv"], newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["slide"] for row in rows] == [f"s{number:02d}.tif" for number in range(32)]
    assert {row["fold"] for row in rows} == {"1", "2", "3", "4"}
    for patient in {row["patient"] for row in rows}:
        assert len({row["fold"] for row in rows if row["patient"] == patient}) == 1
    assert result["folds"]["n"] == 32 and result["folds"]["auc"] > 0.7
    assert float(rows[0]["probability calm"]) + float(rows[0]["probability sick"]) == pytest.approx(1, abs=1e-5)


def test_features_of_another_backbone_or_tuning_are_refused(tuning, cohort, slide, tmp_path):
    other = tmp_path / "cohort"
    for number in range(8):
        feature_set(number, "calm", backbone="uni").save(other / "features" / f"s{number:02d}.h5")
    (other / "cohort.csv").write_text((cohort / "cohort.csv").read_text())
    with pytest.raises(FeaturesMismatch, match="uni"):
        tuned(other, tmp_path / "t")
    feature_set(34, "sick", tuning="ab" * 32).save(tmp_path / "tuned" / "s34.h5")
    with pytest.raises(FeaturesMismatch, match="tuning"):
        predicted(slide, tuning, cohort, tmp_path, features_folder=str(tmp_path / "tuned"))
    with pytest.raises(FeaturesMismatch, match="stain was left as it is"):
        list(job("tune", cohort, out=str(tmp_path / "t"), training={"stain": "macenko", "device": "cpu"}))


def test_slides_without_features_are_left_out_and_named(cohort, tmp_path):
    few = tmp_path / "features"
    for number in range(2, 40):
        feature_set(number, LABELS[number // 2 % 2]).save(few / f"s{number:02d}.h5")
    events = list(
        job("tune", cohort, features=str(few), out=str(tmp_path / "t"), training={"epochs": 1, "device": "cpu"})
    )
    notes = [event.text for event in events if hasattr(event, "level")]
    assert any("2 of 32 slides are left out" in text and "s00.tif" in text for text in notes)
    with pytest.raises(FileMissing):
        list(job("tune", cohort, features=str(tmp_path / "nowhere"), out=str(tmp_path / "t")))


def test_what_cannot_be_learned_is_said(cohort, tmp_path):
    (tmp_path / "cohort.csv").write_text("slide,label\na.tif,calm\nb.tif,calm\n")
    with pytest.raises(NoTiles, match="one label only"):
        tuned(tmp_path, tmp_path / "t")
    with pytest.raises(UsageError, match="learns from tiles"):
        tuned(cohort, tmp_path / "t", method="vpt")
    with pytest.raises(UsageError, match="--features"):
        tuned(cohort, tmp_path / "t", config={"prompts": "weak"})


def test_a_cancelled_training_keeps_its_best_epoch(cohort, tmp_path):
    ended = []
    stream = run_job(
        Job(
            "tune",
            {
                "cohort": str(cohort / "cohort.csv"),
                "features": str(cohort / "features"),
                "out": str(tmp_path / "t"),
                "training": {"epochs": 30, "device": "cpu"},
            },
        ),
        cancel=lambda: bool(ended),
    )
    for event in stream:
        if isinstance(event, EpochEnd):
            ended.append(event.epoch)
        last = event
    assert last.result["status"] == "cancelled" and len(last.result["epochs"]) <= 2
    assert Tuning.load(last.result["out"]).training["ended"] == "cancelled"


def test_a_tile_tuning_takes_no_features_of_slides(monkeypatch, tmp_path):
    from types import SimpleNamespace

    tile = SimpleNamespace(method="linear_probe", name="tiles", backbone={"name": "b"})
    monkeypatch.setattr("pathotune.methods.checkpoint.Tuning.load", lambda path: tile)
    told = {"slide": "a.svs", "tuning": "t", "out": str(tmp_path), "features_folder": str(tmp_path)}
    with pytest.raises(UsageError, match="--features"):
        list(run_job(Job("predict", told)))


def test_cells_follow_the_distance_from_tile_to_tile():
    corners = np.asarray([[100.0, 50.0], [156.0, 50.0], [212.0, 106.0]])
    assert cells_of(corners, (112.0, 112.0)).tolist() == [[0, 0], [1, 0], [2, 1]]  # tiles that overlap by half
    assert cells_of(np.zeros((0, 2)), (112.0, 112.0)).shape == (0, 2)


def test_aggregators_are_compared_under_one_protocol(cohort, tmp_path):
    from pathotune.datasets.cohort import CohortInputs, read_cohort
    from pathotune.evaluation.compare_slides import SlideCompareConfig, compare_slides
    from pathotune.training.schedule import TrainingConfig

    inputs = CohortInputs(read_cohort(cohort / "cohort.csv"), cohort / "features")
    training = TrainingConfig(epochs=2, tiles_per_epoch=32, batch_size=8, device="cpu")
    words = ("mil[aggregator=mean,hidden=8]", "mil[hidden=8]")
    config = SlideCompareConfig(words, shots=(2, None), seeds=1, training=training)
    result = result_of(compare_slides(inputs, config, tmp_path, "cpu"))
    assert [(row["method"], row["shots"]) for row in result["rows"]] == [
        (word, shots) for shots in (2, "all") for word in words
    ]
    assert all(0 <= row["auc"] <= 1 for row in result["rows"])
    assert "slides" in Path(result["html"]).read_text()
    again = result_of(compare_slides(inputs, config, tmp_path, "cpu"))
    assert [row["seconds"] for row in again["rows"]] == [row["seconds"] for row in result["rows"]]  # kept, not redone
    with pytest.raises(UsageError, match="prompts=FILE"):
        SlideCompareConfig(("mil[prompts=weak]",))
    with pytest.raises(UsageError):
        SlideCompareConfig(("vpt",))
