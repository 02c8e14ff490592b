"""ModalTune from the tables of a cohort to a file that predicts, and its judgement, on a small generated cohort."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from pathotune.cli import app
from pathotune.errors import FeaturesMismatch, NoTiles, TuningMismatch, UsageError
from pathotune.evaluation.patients import evaluate
from pathotune.events import EpochEnd, Note, result_of
from pathotune.execution.compare_patients import PatientCompareConfig, by_patient, compare_patients
from pathotune.execution.job import Job, run_job
from pathotune.execution.patient_tuning import settled, tune
from pathotune.features import FeatureSet
from pathotune.inference.pathway_attribution import pathway_attribution
from pathotune.inference.patient_score import answer, load_patient_model, patients_of
from pathotune.inference.slide_vectors import SlideVectors
from pathotune.methods import load_config
from pathotune.methods.checkpoint import Tuning
from pathotune.training.schedule import TrainingConfig

FOLDER = Path(__file__).resolve().parents[3] / "benchmarks"
if str(FOLDER) not in sys.path:
    sys.path.append(str(FOLDER))  # its scripts are run from there and are in no wheel

import modaltune_cohort as generated  # noqa: E402

pytest.importorskip("sksurv")
BACKBONE = generated.BACKBONE
QUICK = TrainingConfig(epochs=2, lr=1e-3, warmup_epochs=0)
SMALL = {**generated.METHOD, "gene_width": 8, "gene_tokens": 3, "output_dim": 16, "text_encoder": "hashing"}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return generated.make(tmp_path_factory.mktemp("cohort"), 40, 0, ("breast", "lung"), tiles=6)


def tuned(folder, out, training=QUICK, expression=True, inputs=None, **settings):
    config = load_config("modaltune", {**SMALL, **settings})
    inputs = inputs or generated.inputs_of(folder, expression=expression)
    return result_of(tune(inputs, "modaltune", config, generated.BACKBONE, training, None, out))


@pytest.fixture(scope="module")
def tuning(cohort, tmp_path_factory):
    result = tuned(cohort, tmp_path_factory.mktemp("tuned") / "both.pathotune.safetensors", clinical_token=True)
    return Tuning.load(result["out"]), result


def test_the_document_is_that_of_the_contract(tuning):
    _, result = tuning
    assert result["classes"] == ["breast ductal", "breast lobular", "lung ductal", "lung lobular"]
    assert len(result["epochs"]) == 2 and result["status"] == "done" and result["with_expression"] == 22
    val = result["val"]
    assert set(val["prompts"]) == {"general", "diagnosis", "survival"} and set(val["sites"]) == {"breast", "lung"}
    assert 0 <= val["balanced_accuracy"] <= 1 and 0 <= val["c_index"] <= 1 and val["site_accuracy"] is not None
    json.dumps(result)


def test_one_file_holds_all_that_is_needed(tuning):
    saved, _ = tuning
    assert saved.genes["pathways"] and len(saved.pathways_sha256) == 64
    assert {"genes.mean", "genes.sd", "pathways.genes", "pathways.sizes"} <= set(saved.tensors)
    assert {"trained.projector.first.weight", "trained.place"} <= set(saved.tensors)
    assert {"linear.general.cox.weights", "linear.diagnosis.site1.weights"} <= set(saved.tensors)
    assert saved.text_encoder == {"name": "hashing", "dim": 64} and len(saved.texts) == 3
    assert not any("backbone" in name for name in saved.tensors)
    assert saved.backbone["slide_encoder"]["name"] == "small-slide"
    assert "P0001" not in json.dumps(saved.metadata())  # names of patients stay where they are
    assert saved.path.with_name("both.md").is_file()


def test_saved_and_loaded_it_says_what_it_said(cohort, tuning):
    """The same patients judged from the file have the scores that the training ended with."""
    saved, result = tuning
    inputs = generated.inputs_of(cohort)
    held = [row for row, split in enumerate(inputs.cohort.split) if split == "val"]
    of_held = replace(inputs, cohort=replace(inputs.cohort.take(held), split=("",) * len(held)))
    again = result_of(evaluate(saved, of_held))
    assert again["linear_models"] == "the tuning's" and again["patients"] == result["validation_patients"]
    for name in ("balanced_accuracy", "c_index"):
        assert again[name] == pytest.approx(result["val"][name], abs=1e-6)
    assert again["slide"]["balanced_accuracy"] == again["balanced_accuracy"]


def test_patients_without_expression_get_an_answer(cohort, tuning):
    saved, _ = tuning
    full = result_of(evaluate(saved, generated.inputs_of(cohort)))
    assert full["patients"] == 18 and full["with_expression"] == 18
    bare = result_of(evaluate(saved, generated.inputs_of(cohort, expression=False)))
    assert bare["with_expression"] == 0 and np.isfinite(bare["balanced_accuracy"])
    assert bare["c_index"] == pytest.approx(full["without_expression"]["c_index"], abs=1e-6)


def test_a_site_never_seen_needs_no_step_of_the_network(tmp_path, tuning):
    saved, _ = tuning
    before = {name: value.copy() for name, value in saved.tensors.items()}
    other = generated.inputs_of(generated.make(tmp_path / "new", 30, 5, ("kidney",), tiles=6))
    result = result_of(evaluate(saved, other))
    assert result["linear_models"] == "learned on this cohort" and result["classes"] == [
        "kidney ductal",
        "kidney lobular",
    ]
    assert all(np.array_equal(value, saved.tensors[name]) for name, value in before.items())
    alone = replace(other, cohort=replace(other.cohort, split=("",) * len(other.cohort)))
    with pytest.raises(NoTiles, match=r"does not know kidney ductal.*column split"):
        result_of(evaluate(saved, alone))


def test_test_patients_change_nothing(cohort, tmp_path):
    """Scaler, survival bins and linear models come from the training patients: other test patients, the same file."""
    inputs = generated.inputs_of(cohort)
    kept = [row for row, split in enumerate(inputs.cohort.split) if split != "test"]
    without = replace(inputs, cohort=inputs.cohort.take(kept))
    one = tuned(cohort, tmp_path / "a.safetensors", inputs=inputs)
    other = tuned(cohort, tmp_path / "b.safetensors", inputs=without)
    first, second = (Tuning.load(result["out"]) for result in (one, other))
    assert first.training["survival_edges"] == second.training["survival_edges"]
    assert all(np.array_equal(value, second.tensors[name]) for name, value in first.tensors.items())


@pytest.mark.slow
def test_the_same_seed_gives_the_same_file_and_another_another(cohort, tmp_path):
    files = [
        Tuning.load(tuned(cohort, tmp_path / f"{number}.safetensors", replace(QUICK, seed=seed))["out"])
        for number, seed in enumerate((3, 3, 4))
    ]
    same = [np.array_equal(value, files[1].tensors[name]) for name, value in files[0].tensors.items()]
    assert all(same)
    assert not np.array_equal(
        files[0].tensors["trained.projector.first.weight"], files[2].tensors["trained.projector.first.weight"]
    )


def test_prompt_by_prompt_is_all_at_once(cohort, tmp_path, monkeypatch):
    """Large patients pass one prompt at a time; without dropout the file is the same."""
    settings = {"gene_dropout": 0.0, "drop_path": 0.0, "modality_dropout": 0.0}
    whole = Tuning.load(tuned(cohort, tmp_path / "a.safetensors", **settings)["out"])
    monkeypatch.setattr("pathotune.training.modaltune.TOGETHER", 1)
    parts = Tuning.load(tuned(cohort, tmp_path / "b.safetensors", **settings)["out"])
    for name, value in whole.trained.items():
        assert np.allclose(value, parts.trained[name], atol=2e-3), name


def test_steps_in_bfloat16_learn_what_exact_ones_do(cohort, tmp_path):
    """Rounded steps, but exact vectors for the linear models: the file says the same in float32."""
    exact, rounded = (
        tuned(cohort, tmp_path / f"{name}.pathotune.safetensors", replace(QUICK, precision=name))
        for name in ("float32", "bfloat16")
    )
    assert (exact["precision"], rounded["precision"]) == ("float32", "bfloat16")
    saved, right = Tuning.load(rounded["out"]), Tuning.load(exact["out"])
    assert saved.training["precision"] == "bfloat16"
    assert rounded["epochs"][0]["train_loss"] != exact["epochs"][0]["train_loss"]
    assert rounded["epochs"][-1]["train_loss"] == pytest.approx(exact["epochs"][-1]["train_loss"], rel=0.05)
    name = "trained.fuse.weight"
    assert saved.tensors[name].dtype == np.float32
    assert np.corrcoef(saved.tensors[name].ravel(), right.tensors[name].ravel())[0, 1] > 0.99
    held = [row for row, split in enumerate(generated.inputs_of(cohort).cohort.split) if split == "val"]
    inputs = generated.inputs_of(cohort)
    again = result_of(
        evaluate(saved, replace(inputs, cohort=replace(inputs.cohort.take(held), split=("",) * len(held))))
    )
    assert again["c_index"] == pytest.approx(rounded["val"]["c_index"], abs=1e-6)


def test_image_alone_and_survival_alone(cohort, tmp_path):
    image = tuned(cohort, tmp_path / "image.safetensors", expression=False, prompts="survival", target="one_hot")
    assert image["with_expression"] == 0 and Tuning.load(image["out"]).genes is None
    inputs = generated.inputs_of(cohort)
    nameless = replace(inputs.cohort, labels=(None,) * len(inputs.cohort))
    result = tuned(cohort, tmp_path / "risk.safetensors", inputs=replace(inputs, cohort=nameless))
    assert result["classes"] == [] and result["val"]["c_index"] is not None
    assert "balanced_accuracy" not in result["val"]


def test_what_does_not_go_together_is_said(cohort, tmp_path):
    inputs = generated.inputs_of(cohort)
    with pytest.raises(UsageError, match="--expression needs --pathways"):
        tuned(cohort, tmp_path / "x", inputs=replace(inputs, pathways=None))
    with pytest.raises(UsageError, match=f"fed with features of prov-gigapath, not of {generated.BACKBONE}"):
        tuned(cohort, tmp_path / "x", slide_encoder="gigapath-slide")
    with pytest.raises(UsageError, match="no --folds yet"):
        tuned(cohort, tmp_path / "x", inputs=replace(inputs, folds=3))
    config = load_config("modaltune", SMALL)
    with pytest.raises(FeaturesMismatch, match=f"features of {generated.BACKBONE}, and uni is needed"):
        result_of(tune(inputs, "modaltune", config, "uni", QUICK, None, tmp_path / "x"))


def test_options_left_alone_are_those_of_the_paper():
    plain = settled(TrainingConfig())
    assert (plain.epochs, plain.lr, plain.weight_decay, plain.warmup_epochs) == (15, 1e-4, 5e-4, 10)
    own = settled(TrainingConfig(epochs=3, lr=0.01, weight_decay=0.1, warmup_epochs=1))
    assert (own.epochs, own.lr, own.weight_decay, own.warmup_epochs) == (3, 0.01, 0.1, 1)


def test_every_epoch_passes_every_training_patient(cohort, tmp_path):
    config = load_config("modaltune", SMALL)
    stream = tune(generated.inputs_of(cohort), "modaltune", config, generated.BACKBONE, QUICK, None, tmp_path / "x")
    events = list(stream)
    last = [event for event in events if getattr(event, "phase", "") == "epoch 2"][-1]
    assert (last.done, last.total, last.unit) == (16, 16, "patients")
    assert sum(isinstance(event, EpochEnd) for event in events) == 2
    assert any(
        isinstance(event, Note) and "different sentences stand for 16 training patients" in event.text
        for event in events
    )


def test_a_slide_gets_class_risk_attention_and_pathways(cohort, tuning):
    from pathotune.features import FeatureSet

    saved, _ = tuning
    loaded = load_patient_model(saved)
    inputs = generated.inputs_of(cohort)
    one = replace(inputs, cohort=inputs.cohort.take([0]))
    table = patients_of(loaded, one, saved.class_names)
    features = FeatureSet.load(cohort / "features" / f"{Path(inputs.cohort.slides[0]).stem}.h5")
    attributions: dict[str, np.ndarray] = {}
    said = answer(loaded, features, table, attributions)
    assert said.probabilities.sum() == pytest.approx(1) and np.isfinite(said.facts["risk"])
    assert set(said.attention) == {"attention", "attention to genes"}
    assert all(
        values.shape == (6,) and values.mean() == pytest.approx(1, abs=1e-5) for values in said.attention.values()
    )
    assert said.facts["with_expression"] and set(said.facts["vectors"]) == {"general", "diagnosis", "survival"}
    assert len(attributions) == 2 and all(len(values) == 16 for values in attributions.values())
    bare = answer(loaded, features)
    assert set(bare.attention) == {"attention"} and not bare.facts["with_expression"]


def test_pathways_add_up_to_the_change_of_the_score(cohort, tuning):
    from pathotune.features import FeatureSet
    from pathotune.inference.patient_score import _given

    saved, _ = tuning
    loaded = load_patient_model(saved)
    inputs = generated.inputs_of(cohort)
    table = patients_of(loaded, replace(inputs, cohort=inputs.cohort.take([0])), saved.class_names)
    features = FeatureSet.load(cohort / "features" / f"{Path(inputs.cohort.slides[0]).stem}.h5")
    direction = torch.randn(16, generator=torch.Generator().manual_seed(0))
    given = _given(loaded, features, table)
    values, change = pathway_attribution(loaded.model, given, "general", lambda vector: vector @ direction, steps=64)
    assert abs(change) > 1e-4 and values.sum() == pytest.approx(change, rel=0.02, abs=1e-5)
    with pytest.raises(UsageError, match="one patient with expression"):
        pathway_attribution(loaded.model, given._replace(genes=None), "general", lambda vector: vector @ direction)


def test_a_slide_is_predicted_into_a_store(cohort, tuning, tmp_path):
    """From the command line's own job: class and risk, two layers of attention, and the pathways beside the store."""
    from pathotune.execution.job import Job, run_job
    from pathotune.features import FeatureSet
    from pathotune.inference.predictions import PredictionStore
    from pathotune.slides.synthetic import SyntheticSlide

    saved, _ = tuning
    name = Path(generated.inputs_of(cohort).cohort.slides[0]).stem
    slide = tmp_path / f"{name}.tif"
    SyntheticSlide(896, 672, 0.5, 3, margin=0.0, pen=False).write(slide)
    kept = FeatureSet.load(cohort / "features" / f"{name}.h5")
    places = np.stack([np.arange(6) % 3, np.arange(6) // 3], axis=1) * 224.0
    moved = replace(kept, coords_px0=places, tile_px0=(224.0, 224.0), slide_fingerprint="")
    moved.save(tmp_path / "features" / f"{name}.h5")
    arguments = {"slide": str(slide), "tuning": str(saved.path), "out": str(tmp_path / "out"), "device": "cpu"}
    arguments |= {"features_folder": str(tmp_path / "features"), "expression": str(cohort / "expression.csv")}
    result = result_of(run_job(Job("predict", arguments)))
    assert result["status"] == "done" and result["with_expression"] and np.isfinite(result["risk"])
    assert result["predicted"] in saved.class_names
    store = PredictionStore.open(result["store"])
    assert list(store.sources) == ["attention", "attention to genes"]
    rows = Path(result["pathways"]).read_text().splitlines()
    assert rows[0] == f"pathway,for {result['predicted']},for a higher risk" and len(rows) == 17


def test_centred_targets_are_what_differs_between_patients():
    from pathotune.training.modaltune import _centred

    targets = torch.randn(6, 2, 5, generator=torch.Generator().manual_seed(0))
    known = torch.ones(6, 2, dtype=torch.bool)
    known[1, 0] = False
    centred = _centred(targets, known, torch.arange(4))
    unit = torch.nn.functional.normalize(targets, dim=-1)
    assert torch.allclose(centred[[0, 2, 3], 0].mean(dim=0), torch.zeros(5), atol=1e-6)
    assert torch.allclose(centred[5, 1], unit[5, 1] - unit[:4, 1].mean(dim=0), atol=1e-6)


def test_its_slide_vectors_are_features_of_slide_level_tunings(cohort, tuning, tmp_path):
    """A tuning of whole slides takes them by the same option as features of a tile tuning, and holds what it needs."""
    saved, _ = tuning

    def job(command, **arguments):
        given = {"cohort": str(cohort / "cohort.csv"), "features": str(cohort / "features")}
        return result_of(run_job(Job(command, {**given, **arguments})))

    options = {"epochs": 2, "device": "cpu"}
    config = {"prompts": str(saved.path), "hidden": 8}
    result = job(
        "tune", method="mil", backbone=BACKBONE, config=config, training=options, out=str(tmp_path / "m.safetensors")
    )
    slide_level = Tuning.load(result["out"])
    width = generated.WIDTH + 3 * SMALL["output_dim"]
    assert slide_level.training["features"]["width"] == width
    assert slide_level.tile_tuning.fingerprint == saved.fingerprint
    made = sorted(tmp_path.rglob("features-*/*.h5"))
    plain = FeatureSet.load(cohort / "features" / made[0].name)
    found, loaded = FeatureSet.load(made[0]), load_patient_model(saved)
    assert np.array_equal(found.features[:, : generated.WIDTH], plain.features)
    facts = answer(loaded, plain).facts
    assert not facts["with_expression"]
    expected = np.concatenate([facts["vectors"][name] for name in loaded.prompts])
    assert np.allclose(found.features[:, generated.WIDTH :], expected, atol=1e-5)
    judged = job("evaluate", tuning=result["out"])
    assert 0 <= judged["balanced_accuracy"] <= 1
    with pytest.raises(TuningMismatch, match=f"takes features of {BACKBONE}, not of"):
        SlideVectors(saved, "pathotune-tiny")


def on_the_command_line(*arguments):
    """What a command prints as JSON, and how it ended."""
    done = CliRunner().invoke(app, [str(argument) for argument in (*arguments, "--json", "--device", "cpu")])
    return json.loads(done.stdout) if done.exit_code == 0 else {"failed": done.output}, done


def test_tuned_judged_and_compared_on_the_command_line(cohort, tmp_path):
    """Patients of a cohort: the options of the contract, all commands."""
    files = {"expression": "expression.csv", "pathways": "pathways.gmt", "clinical": "clinical.csv"}
    tables = [f"--{name}={cohort / file}" for name, file in files.items()]
    given = ["--cohort", cohort / "cohort.csv", "--features", cohort / "features"]
    settings = [f"{name}={value}" for name, value in SMALL.items()]
    sets = [word for setting in (*settings, "lr=1e-3") for word in ("--set", setting)]
    out = tmp_path / "study ä.pathotune.safetensors"
    tuned, _ = on_the_command_line(
        "tune", "--method", "modaltune", "--backbone", BACKBONE, *given, *tables, *sets, "--epochs", 2, "--out", out
    )
    assert tuned["out"] == str(out) and len(tuned["epochs"]) == 2 and tuned["with_expression"] > 0
    judged, _ = on_the_command_line("evaluate", "--tuning", out, *given, tables[0], tables[2])
    assert judged["slide"]["balanced_accuracy"] == judged["balanced_accuracy"] and judged["c_index"] is not None
    word = f"modaltune[{','.join(settings)}]"
    words = f"mil[aggregator=mean,hidden=8],{word}"
    options = ["compare", "--methods", words, "--backbones", BACKBONE, "--shots", "3,all", "--seeds", 1]
    options += ["--set", "epochs=2", "--set", "lr=1e-3", "--out", tmp_path / "compared"]
    compared, _ = on_the_command_line(*options, *given, *tables)
    assert [(row["shots"], row["method"][:4]) for row in compared["rows"]] == [
        (shots, name) for shots in (3, "all") for name in ("mil[", "moda")
    ]
    own = [row for row in compared["rows"] if row["method"] == word]
    assert all(row["c_index"] is not None and Path(row["tuning"]).is_file() for row in own)
    assert all(0 <= row["auc"] <= 1 for row in compared["rows"])
    assert "patients" in Path(compared["html"]).read_text(encoding="utf-8")
    again, _ = on_the_command_line(*options, *given, *tables)
    assert [row["seconds"] for row in again["rows"]] == [row["seconds"] for row in compared["rows"]], "kept, not redone"
    _, refused = on_the_command_line("compare", "--methods", "mil", "--out", tmp_path / "x", *given, tables[0])
    assert isinstance(refused.exception, UsageError) and "--expression is for modaltune" in str(refused.exception)
    _, refused = on_the_command_line(*options, *given, tables[0])
    assert isinstance(refused.exception, UsageError) and "--expression needs --pathways" in str(refused.exception)


def test_all_that_is_compared_learns_from_the_same_patients_and_is_judged_by_them(cohort, tmp_path):
    """The cell on all patients is the tuning of the same options; an aggregator's patients are means of slides."""
    inputs = generated.inputs_of(cohort)
    word = f"modaltune[{','.join(f'{name}={value}' for name, value in SMALL.items())}]"
    config = PatientCompareConfig((word,), (BACKBONE,), seeds=1, training=replace(QUICK, device="cpu"))
    result = result_of(compare_patients(inputs, config, tmp_path, "cpu"))
    saved = Tuning.load(result["rows"][0]["tuning"])
    right = result_of(evaluate(saved, inputs))
    assert result["rows"][0]["balanced_accuracy"] == pytest.approx(right["balanced_accuracy"], abs=1e-9)
    assert result["rows"][0]["c_index"] == pytest.approx(right["c_index"], abs=1e-9)
    said = np.asarray([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6]])
    row = {"probabilities": said, "labels": np.asarray([0, 0, 1]), "groups": ["a", "a", "b"], "method": "mil"}
    of_patients = by_patient(row)
    assert np.allclose(of_patients["probabilities"], [[0.55, 0.45], [0.4, 0.6]])
    assert of_patients["balanced_accuracy"] == 1.0 and of_patients["groups"] == ["a", "b"]
    odd = replace(
        inputs.cohort, labels=("breast ductal", *inputs.cohort.labels[1:]), patients=("one",) * len(inputs.cohort)
    )
    with pytest.raises(UsageError, match="have different"):
        result_of(compare_patients(replace(inputs, cohort=odd), config, tmp_path / "odd", "cpu"))
    with pytest.raises(UsageError, match="learns from a tile"):
        PatientCompareConfig(("vpt", word), (BACKBONE,))
