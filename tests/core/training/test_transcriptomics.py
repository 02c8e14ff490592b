"""Transcriptomics tuning end to end on generated spots and patients: what the image knows of expression is learned."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pathotune.backbones import backbone_card, load_backbone
from pathotune.backbones.tile.enhanced import Enhanced, enhanced
from pathotune.datasets.cohort import CohortInputs, read_cohort
from pathotune.errors import FeaturesMismatch, TableUnreadable, UsageError
from pathotune.evaluation.expression import evaluate, labels_of
from pathotune.events import result_of
from pathotune.features.featureset import FeatureSet
from pathotune.methods import load_config
from pathotune.methods.checkpoint import Tuning
from pathotune.methods.transcriptomics.method import restored
from pathotune.training.paired import Paired
from pathotune.training.schedule import TrainingConfig
from pathotune.training.transcriptomics import tune

CARD = backbone_card("pathotune-tiny")
WIDTH = CARD.output_dim or 0
# So many numbers of a tile go their own way; the others repeat them, as a network's features do too. How hard the spots
# are to learn from is then the same whatever the width.
FREE = 192
READING = CARD.reading()
SHA = "a" * 64
GENES = ("ERBB2", "GAPDH", "KRT19", "CD3E", "ESR1", "NOISE1", "NOISE2")
random = np.random.default_rng(7)
LOADS = np.tile(random.normal(size=(5, FREE)), WIDTH // FREE).astype(np.float32) * (FREE**0.5 / WIDTH)


def counts_of(hidden: np.ndarray, seed: int) -> np.ndarray:
    """Counts whose first five genes follow what the image shows, and two that follow nothing."""
    drawn = np.random.default_rng(seed)
    rates = np.exp(2.5 + 0.8 * hidden @ LOADS.T)
    noise = np.exp(2.5 + drawn.normal(size=(len(hidden), 2)))
    fill = np.full((len(hidden), 1), 4000.0)  # so that the size factors hardly follow the signal
    return drawn.poisson(np.concatenate([rates, noise, fill], axis=1)).astype(np.float32)


def write_expression(path: Path, samples: list[str], counts: np.ndarray) -> Path:
    lines = [",".join(["", *GENES, "FILL"])]
    lines += [",".join([name, *(f"{value:g}" for value in row)]) for name, row in zip(samples, counts, strict=True)]
    path.write_text("\n".join(lines))
    return path


def save_features(folder: Path, slide: str, features: np.ndarray, corners: np.ndarray) -> None:
    FeatureSet(
        features.astype(np.float32),
        corners.astype(np.float64),
        CARD.name,
        READING.mpp,
        READING.tile_px,
        READING.image_px,
        (float(READING.tile_px), float(READING.tile_px)),
        slide,
        "f" * 32,
        extra={"backbone_sha256": SHA, "reading": READING.to_dict()},
    ).save(folder / f"{Path(slide).stem}.h5")


@pytest.fixture(scope="module")
def spots(tmp_path_factory: pytest.TempPathFactory) -> CohortInputs:
    """Three sections of 64 spots, each spot on its own tile; the third is the test."""
    folder = tmp_path_factory.mktemp("spots")
    pitch_px = 200.0 / READING.mpp
    lines = ["slide,split,spots,expression"]
    for section in range(3):
        drawn = np.random.default_rng(section)
        places = np.asarray([(x, y) for y in range(8) for x in range(8)]) * pitch_px + 500
        hidden = np.tile(drawn.normal(size=(64, FREE)), WIDTH // FREE).astype(np.float32)
        save_features(folder / "features", f"s{section}.svs", hidden, places - READING.tile_px / 2)
        names = [f"{x}x{y}" for y in range(8) for x in range(8)]
        rows = [f"{name},{x},{y}" for name, (x, y) in zip(names, places, strict=True)]
        (folder / f"s{section}_spots.csv").write_text("spot,x_px0,y_px0\n" + "\n".join(rows))
        write_expression(folder / f"s{section}.csv", names, counts_of(hidden, section + 50))
        lines.append(f"s{section}.svs,{'test' if section == 2 else ''},s{section}_spots.csv,s{section}.csv")
    (folder / "cohort.csv").write_text("\n".join(lines))
    return CohortInputs(read_cohort(folder / "cohort.csv"), features=folder / "features")


@pytest.fixture(scope="module")
def patients(tmp_path_factory: pytest.TempPathFactory) -> CohortInputs:
    """150 patients with one or two slides of tiles; a third of the tiles carry what expression follows."""
    folder = tmp_path_factory.mktemp("patients")
    drawn = np.random.default_rng(3)
    lines, samples, hidden = ["slide,patient,split,grade,report"], [], []
    for patient in range(150):
        signal = np.tile(drawn.normal(size=FREE), WIDTH // FREE)
        for slide in range(1 + patient % 2):
            tiles = np.tile(drawn.normal(size=(12, FREE)), WIDTH // FREE) * 0.3
            tiles[:4] += signal
            name = f"p{patient}_{slide}.svs"
            save_features(folder / "features", name, tiles, np.arange(24).reshape(12, 2) * 500.0)
            split = "test" if patient >= 100 else ""
            lines.append(f"{name},P{patient},{split},{float(signal @ LOADS[0]):.4f},grade {patient % 3}")
        samples.append(f"P{patient}")
        hidden.append(signal)
    (folder / "cohort.csv").write_text("\n".join(lines))
    expression = write_expression(folder / "x.csv", samples, counts_of(np.asarray(hidden, np.float32), 9))
    return CohortInputs(read_cohort(folder / "cohort.csv"), folder / "features", expression)


def run(inputs: CohortInputs, out: Path, epochs: int = 12, **settings: object) -> dict[str, object]:
    config = load_config("transcriptomics", settings)
    training = TrainingConfig(epochs=epochs, seed=1)
    return result_of(tune(inputs, "transcriptomics", config, CARD.name, training, None, out))  # type: ignore[arg-type]


@pytest.mark.parametrize("objective", ["direct", "contrastive", "joint"])
def test_spots_are_learned_and_judged_alike_after_saving(spots: CohortInputs, tmp_path: Path, objective: str) -> None:
    result = run(spots, tmp_path / objective, 24, objective=objective, genes=8)
    genes = result["genes"]
    assert result["judged_on"] == "test" and result["samples"]["test"] == 64  # type: ignore[index]
    assert np.mean([genes[name]["r"] for name in GENES[:5]]) > 0.45, "what the image shows is predicted"
    assert abs(np.mean([genes[name]["r"] for name in GENES[5:]])) < 0.35, "what it does not is not"
    tuning = Tuning.load(str(result["out"]))
    again = result_of(evaluate(tuning, spots, device="cpu"))
    assert again["n"] == 64 and np.isclose(again["mean_r"], result["mean_r"], atol=1e-5)
    assert Path(again["embedding"]).is_file()
    if objective == "direct":
        assert labels_of(spots, *_samples_of(spots)) == ["s0", "s1", "s2"], "sections, where nothing is labelled"
        assert labels_of(replace(spots, colour_by="Split"), *_samples_of(spots)) == ["", "", "test"]
        assert labels_of(replace(spots, colour_by="x_px0"), *_samples_of(spots)) == ["500.0"] * 3
        with pytest.raises(UsageError, match="no column 'nose'"):
            labels_of(replace(spots, colour_by="nose"), *_samples_of(spots))
    assert tuning.genes is not None and tuning.genes["r_of"] == "test"
    assert tuning.genes["r"][tuning.genes["names"].index("ERBB2")] == pytest.approx(genes["ERBB2"]["r"])
    assert ("retrieval" in again) == (objective != "direct")
    if objective != "direct":
        assert again["retrieval"]["recall@5"] > 2 * again["retrieval"]["chance@5"]
    assert not re.search(r"s[012](_spots|\.svs|\.csv|\")", json.dumps(tuning.metadata())), "pseudonyms only"
    assert "| ERBB2 |" in Path(str(result["out"])).with_name(f"{objective}.md").read_text()


def _samples_of(spots: CohortInputs) -> tuple[Any, np.ndarray]:
    """The first spot of each section."""
    names = tuple("0x0" for _ in range(3))
    sections, row = ("s0", "s1", "s2"), np.arange(3)
    return Paired("spot", names, sections, sections, ("",) * 3, row, None), row  # type: ignore[arg-type]


def test_shuffled_pairs_teach_nothing(spots: CohortInputs, tmp_path: Path) -> None:
    folder = tmp_path / "shuffled"
    folder.mkdir()
    lines = ["slide,split,spots,expression"]
    cohort = spots.cohort
    for section in range(3):
        source = cohort.path.parent / f"s{section}.csv"  # type: ignore[union-attr]
        rows = source.read_text().splitlines()
        if section < 2:
            order = np.random.default_rng(section).permutation(64)
            names = [row.partition(",")[0] for row in rows[1:]]
            cells = [rows[1:][index].partition(",")[2] for index in order]
            rows = [rows[0], *(f"{name},{cell}" for name, cell in zip(names, cells, strict=True))]
        (folder / f"s{section}.csv").write_text("\n".join(rows))
        where = cohort.path.parent / f"s{section}_spots.csv"  # type: ignore[union-attr]
        lines.append(f"s{section}.svs,{'test' if section == 2 else ''},{where},s{section}.csv")
    (folder / "cohort.csv").write_text("\n".join(lines))
    shuffled = replace(spots, cohort=read_cohort(folder / "cohort.csv"))
    result = run(shuffled, tmp_path / "control", epochs=4, genes=8)
    assert abs(np.mean([result["genes"][name]["r"] for name in GENES[:5]])) < 0.3  # type: ignore[index]


@pytest.mark.parametrize(("objective", "aggregator"), [("direct", "abmil"), ("direct", "topk"), ("joint", "mean")])
def test_patients_are_learned(patients: CohortInputs, tmp_path: Path, objective: str, aggregator: str) -> None:
    result = run(patients, tmp_path / "p", 25, objective=objective, aggregator=aggregator, genes=8, rate=1.0)
    assert result["level"] == "patient" and result["samples"]["test"] == 50  # type: ignore[index]
    found = np.mean([result["genes"][name]["r"] for name in GENES[:5]])  # type: ignore[index]
    assert found > 0.2, "what the slides show is predicted"
    again = result_of(evaluate(Tuning.load(str(result["out"])), patients, device="cpu"))
    assert np.isclose(again["mean_r"], result["mean_r"], atol=1e-4)


def test_other_partners_of_the_contrast(patients: CohortInputs, tmp_path: Path) -> None:
    result = run(patients, tmp_path / "t", 6, objective="contrastive", partner="table", genes=8, aggregator="mean")
    tuning = Tuning.load(str(result["out"]))
    assert tuning.training["partner"]["columns"] == ["grade"] and "partner.mean" in tuning.tensors
    assert "retrieval" in result_of(evaluate(tuning, patients, device="cpu"))
    with pytest.raises(UsageError, match="aggregator=abmil"):
        run(patients, tmp_path / "no", 1, objective="contrastive", aggregator="topk")


def test_the_adapter_begins_as_the_identity_and_stays_small(spots: CohortInputs, tmp_path: Path) -> None:
    result = run(spots, tmp_path / "d", 3, genes=8)
    tuning = Tuning.load(str(result["out"]))
    base = load_backbone(CARD.name)
    tensors = dict(tuning.tensors)
    pixels = base.normalise(torch.randint(0, 255, (2, READING.image_px, READING.image_px, 3), dtype=torch.uint8))
    for name in ("trained.adapter.up.weight", "trained.adapter.up.bias"):
        tensors[name] = np.zeros_like(tensors[name])
    same = enhanced(base, tensors, "x", "X")
    with torch.inference_mode():
        assert torch.equal(same(pixels).pooled, base(pixels).pooled), "nothing learned changes nothing"
        changed = enhanced(base, tuning.tensors, "x", "X")
        model, _ = restored(tuning)
        expected = model.adapter(base(pixels).pooled)
        assert torch.allclose(changed(pixels).pooled, expected, atol=1e-5)
        assert not torch.equal(changed(pixels).pooled, base(pixels).pooled)
        assert torch.equal(changed(pixels).patches, base(pixels).patches)
        tokens = changed.embed(pixels)
        for block in range(changed.depth):
            tokens = changed.block(block, tokens)
        assert torch.allclose(changed.finish(tokens).pooled, expected, atol=1e-5)
    assert isinstance(changed, Enhanced) and changed.weights_sha256 != base.weights_sha256
    assert not any(parameter.requires_grad for parameter in changed.parameters())


def test_a_tuning_is_loaded_as_a_backbone_by_its_file(spots: CohortInputs, tmp_path: Path) -> None:
    result = run(spots, tmp_path / "as_backbone", 2, genes=8)
    tuning = Tuning.load(str(result["out"]))
    base = load_backbone(CARD.name)
    tuning.backbone["sha256"] = base.weights_sha256  # the generated features name no real weights
    tuning._fingerprint = ""
    path = tuning.save(tmp_path / "real")
    loaded = load_backbone(str(path))
    assert loaded.card.name == path.name and loaded.output_dim == base.output_dim and loaded.takes_prompts
    from pathotune.errors import BackboneUnavailable, WeightsRefused

    with pytest.raises(WeightsRefused, match="made on other weights"):
        load_backbone(str(result["out"]))
    with pytest.raises(BackboneUnavailable, match="not here"):
        load_backbone("gone.pathotune.safetensors")


def test_what_does_not_fit_is_said(spots: CohortInputs, patients: CohortInputs, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no folds"):
        run(replace(spots, folds=3), tmp_path / "a")
    with pytest.raises(UsageError, match="Give --expression"):
        run(replace(patients, expression=None), tmp_path / "b")
    with pytest.raises(UsageError, match="--features DIR"):
        run(replace(patients, features=None), tmp_path / "c")
    with pytest.raises(TableUnreadable, match="None of the 1 genes"):
        run(spots, tmp_path / "d", gene_names="NOSUCH")
    result = run(spots, tmp_path / "e", 1, gene_names="ERBB2,NOSUCH")
    assert list(result["genes"]) == ["ERBB2"]  # type: ignore[call-overload]
    tuning = Tuning.load(str(result["out"]))
    tuning.backbone["sha256"] = "b" * 64
    with pytest.raises(FeaturesMismatch, match="other weights"):
        result_of(evaluate(tuning, spots))


def test_pathways_are_scored(spots: CohortInputs, tmp_path: Path) -> None:
    (tmp_path / "p.gmt").write_text("SEEN\t\tERBB2\tKRT19\tCD3E\nUNSEEN\t\tNOISE1\tNOISE2\nOTHER\t\tABCD\n")
    result = run(replace(spots, pathways=tmp_path / "p.gmt"), tmp_path / "x", 2, genes=8)
    assert set(result["pathways"]) == {"SEEN", "UNSEEN"} and result["pathways"]["SEEN"]["r"] > 0.4  # type: ignore
    tuning = Tuning.load(str(result["out"]))
    assert tuning.pathways_sha256 and set(tuning.genes["pathways"]) == {"SEEN", "UNSEEN"}  # type: ignore[index]


def test_the_command_line(spots: CohortInputs, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from pathotune.cli import app

    given = ["--cohort", str(spots.cohort.path), "--features", str(spots.features), "--json"]
    out = str(tmp_path / "cli")
    line = ["tune", *given, "--method", "transcriptomics", "--epochs", "1", "--out", out, "--set", "objective=joint"]
    done = CliRunner().invoke(app, line)
    assert done.exit_code == 0, done.output
    judged = CliRunner().invoke(app, ["evaluate", "--tuning", f"{out}.pathotune.safetensors", *given])
    assert judged.exit_code == 0 and json.loads(judged.stdout)["mean_r"] is not None
