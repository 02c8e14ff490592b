"""Expression learned on the spots of a drawn slide, predicted on a whole slide: it lies where it was measured."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pathotune.backbones.surface import Backbone
from pathotune.backbones.tile.enhanced import enhanced
from pathotune.datasets.cohort import CohortInputs, read_cohort
from pathotune.errors import StoreMismatch, TuningMismatch, UnknownName, UsageError
from pathotune.evaluation.expression import evaluate
from pathotune.events import result_of
from pathotune.features.featureset import FeatureSet
from pathotune.inference.export import export_store
from pathotune.inference.expression import predict_slide
from pathotune.inference.expression_layer import ExpressionLayer
from pathotune.inference.predictions import PredictionStore
from pathotune.methods import load_config
from pathotune.methods.checkpoint import Tuning
from pathotune.methods.transcriptomics.method import restored, tuned_backbone
from pathotune.training.paired import pooled
from pathotune.training.schedule import TrainingConfig
from pathotune.training.transcriptomics import tune

SIDE, PITCH, MPP = 10, 80, 0.5
GENES = ("ERBB2", "GAPDH", "CD3E")
QUICK = {"device": "cpu", "precision": "float32"}


@pytest.fixture(scope="module")
def section(tmp_path_factory: pytest.TempPathFactory) -> CohortInputs:
    """Two slides of 10 by 10 fields of one shade each; ERBB2 follows the shade, the other genes follow nothing."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("section")
    lines = ["slide,split,mpp,spots,expression"]
    for number, split in enumerate(("", "test")):
        random = np.random.default_rng(number)
        shade = random.uniform(0.15, 1.0, size=(SIDE, SIDE))
        fields = np.kron(shade, np.ones((PITCH, PITCH)))[..., None]
        pixels = 255 - fields * np.asarray([60, 150, 90]) + random.normal(0, 6, size=(*fields.shape[:2], 3))
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / f"s{number}.png")
        rows = ["sample,x_px0,y_px0"]
        counts = [",".join(["", *GENES, "FILL"])]
        for y in range(SIDE):
            for x in range(SIDE):
                name = f"{x}x{y}"
                rows.append(f"{name},{(x + 0.5) * PITCH},{(y + 0.5) * PITCH}")
                drawn = [random.poisson(200 * shade[y, x]), random.poisson(60), random.poisson(60), 5000]
                counts.append(",".join([name, *map(str, drawn)]))
        (folder / f"s{number}_spots.csv").write_text("\n".join(rows))
        (folder / f"s{number}.csv").write_text("\n".join(counts))
        lines.append(f"s{number}.png,{split},{MPP},s{number}_spots.csv,s{number}.csv")
    (folder / "cohort.csv").write_text("\n".join(lines))
    return CohortInputs(read_cohort(folder / "cohort.csv"))


def tuned(section: CohortInputs, backbone: Backbone, out: Path, **settings: object) -> Tuning:
    training = TrainingConfig(epochs=3, seed=0)
    config = load_config("transcriptomics", settings)
    result = result_of(tune(section, "transcriptomics", config, backbone, training, None, out))  # type: ignore[arg-type]
    return Tuning.load(str(result["out"]))


@pytest.fixture(scope="module")
def predicted(
    section: CohortInputs, tiny_backbone: Callable[..., Backbone], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Tuning, PredictionStore]:
    """The test slide predicted with a tuning of the other."""
    backbone = tiny_backbone()
    out = tmp_path_factory.mktemp("out")
    tuning = tuned(section, backbone, out / "t")
    slide = section.cohort.slide_path(1)
    found = result_of(predict_slide(slide, tuning, out, backbone=backbone, inputs=section, **QUICK))
    assert found["status"] == "done" and found["genes"] == 4
    return tuning, PredictionStore.open(found["store"])


def test_values_lie_where_they_were_measured(predicted: tuple[Tuning, PredictionStore], section: CohortInputs) -> None:
    tuning, store = predicted
    layer = ExpressionLayer.of(store)
    assert layer is not None and set(layer.genes) == {*GENES, "FILL"} and layer.unit.startswith("log1p of counts")
    counts = np.loadtxt(section.cohort.slide_path(1).with_suffix(".csv"), delimiter=",", skiprows=1, usecols=(1, 2))
    own, turned = [], []
    for index, (measured, _) in enumerate(counts):
        y, x = divmod(index, SIDE)
        value = layer.at((x + 0.5) * PITCH, (y + 0.5) * PITCH, "ERBB2")
        mirrored = layer.at((y + 0.5) * PITCH, (x + 0.5) * PITCH, "ERBB2")
        if value is not None and mirrored is not None:
            own.append((measured, value))
            turned.append((measured, mirrored))
    r = np.corrcoef(np.asarray(own).T)[0, 1]
    assert len(own) > 50 and r > 0.6 and np.corrcoef(np.asarray(turned).T)[0, 1] < r / 2
    assert layer.r[layer.index("ERBB2")] > 0.6  # type: ignore[operator]
    assert tuning.genes is not None and layer.r_of == "test"


def test_levels_are_means_of_predicted_tiles_and_few_files(predicted: tuple[Tuning, PredictionStore]) -> None:
    _, store = predicted
    layer = ExpressionLayer.of(store)
    assert layer is not None
    full, half = layer.gene("ERBB2"), layer.gene("ERBB2", 1)
    assert np.nanmin(half) >= np.nanmin(full) - 1e-2 and np.nanmax(half) <= np.nanmax(full) + 1e-2
    rows, columns = (side + side % 2 for side in full.shape)
    padded = np.full((rows, columns), np.nan)
    padded[: full.shape[0], : full.shape[1]] = full
    first = padded[:2, :2]
    assert np.isclose(half[0, 0], np.nanmean(first), atol=0.01) or not np.isfinite(first).any()
    assert sum(path.is_file() for path in store.path.rglob("*")) <= 50
    assert np.isfinite(np.asarray(layer.array()[:])).all(), "float values are finite"
    with pytest.raises(UnknownName, match="ERBB2"):
        layer.gene("ERBB")


def test_exports(predicted: tuple[Tuning, PredictionStore], tmp_path: Path) -> None:
    anndata = pytest.importorskip("anndata")
    _, store = predicted
    layer = ExpressionLayer.of(store)
    assert layer is not None
    data = anndata.read_h5ad(export_store(store.path, "h5ad", tmp_path / "x.h5ad"))
    values, centres, _ = layer.table()
    assert data.shape == values.shape and np.allclose(data.X, values) and list(data.var_names) == list(layer.genes)
    assert np.allclose(data.obsm["spatial"], centres * MPP)
    lines = export_store(store.path, "csv", tmp_path / "x.csv").read_text().splitlines()
    assert lines[0] == ",".join(["x_px0", "y_px0", *layer.genes]) and len(lines) == 1 + len(values)
    assert np.allclose([float(cell) for cell in lines[1].split(",")[2:]], values[0], atol=1e-3)


def test_a_second_run_keeps_what_is_there(
    predicted: tuple[Tuning, PredictionStore], section: CohortInputs, tiny_backbone: Callable[..., Backbone]
) -> None:
    tuning, store = predicted
    slide, backbone = section.cohort.slide_path(1), tiny_backbone()
    again = result_of(predict_slide(slide, tuning, store.path.parent, backbone=backbone, inputs=section, **QUICK))
    assert again["status"] == "resumed"


@pytest.mark.parametrize(("objective", "kind"), [("direct", "prompts"), ("contrastive", "lora"), ("joint", "full")])
def test_the_encoder_itself_is_tuned_saved_and_used(
    section: CohortInputs, tiny_backbone: Callable[..., Backbone], tmp_path: Path, objective: str, kind: str
) -> None:
    import torch

    backbone = tiny_backbone()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    settings = {"objective": objective, "mode": "encoder", "tuned": kind, "rank": 2, "encoder_rate": 1.0}
    tuning = tuned(section, backbone, tmp_path / "e", **settings)
    assert all(torch.equal(before[name], value) for name, value in backbone.state_dict().items()), "a copy is tuned"
    changed = tuned_backbone(tuning, backbone)
    pixels = backbone.normalise(torch.randint(0, 255, (2, 64, 64, 3), dtype=torch.uint8))
    with torch.inference_mode():
        assert not torch.allclose(changed(pixels).pooled, backbone(pixels).pooled)
        model, _ = restored(tuning)
        whole = enhanced(backbone, tuning.tensors, "x", "X")
        assert torch.allclose(whole(pixels).pooled, model.adapter(changed(pixels).pooled), atol=1e-5)
    judged = result_of(evaluate(tuning, section, backbone=backbone, device="cpu"))
    wanted = tuning.genes["r"][tuning.genes["names"].index("ERBB2")]  # type: ignore[index]
    assert judged["genes"]["ERBB2"]["r"] == pytest.approx(wanted, abs=1e-3)
    slide = section.cohort.slide_path(1)
    found = result_of(predict_slide(slide, tuning, tmp_path, backbone=backbone, inputs=section, **QUICK))
    assert found["status"] == "done"


@pytest.fixture(scope="module")
def patients(tiny_backbone: Callable[..., Backbone], tmp_path_factory: pytest.TempPathFactory) -> CohortInputs:
    """Fourteen patients with a small slide each, of two shades in a mixture of their own that ERBB2 follows."""
    from PIL import Image

    folder, backbone, random = tmp_path_factory.mktemp("patients"), tiny_backbone(), np.random.default_rng(4)
    reading = backbone.card.reading()
    lines, counts = ["slide,patient,split,mpp"], [",".join(["", *GENES, "FILL"])]
    corners = np.asarray([(x, y) for y in range(4) for x in range(4)]) * 64.0
    for patient in range(14):
        dark = random.permutation(np.arange(16) < patient + 1).reshape(4, 4)
        shade = np.kron(np.where(dark, 1.0, 0.3), np.ones((64, 64)))[..., None]
        pixels = 255 - shade * np.asarray([60, 150, 90]) + random.normal(0, 6, size=(256, 256, 3))
        tiles = np.clip(pixels, 0, 255).astype(np.uint8)
        Image.fromarray(tiles).save(folder / f"p{patient}.png")
        cut = np.stack([tiles[int(y) : int(y) + 64, int(x) : int(x) + 64] for x, y in corners])
        size, side = (64.0, 64.0), reading.tile_px
        about = {"backbone_sha256": backbone.weights_sha256, "reading": reading.to_dict()}
        FeatureSet(
            pooled(backbone, cut),
            corners,
            backbone.card.name,
            MPP,
            side,
            reading.image_px,
            size,
            f"p{patient}.png",
            f"{patient:032d}",
            extra=about,
        ).save(folder / "features" / f"p{patient}.h5")
        lines.append(f"p{patient}.png,P{patient},{'test' if patient % 4 == 3 else ''},{MPP}")
        row = [random.poisson(40 * (patient + 1)), random.poisson(60), random.poisson(60), 5000]
        counts.append(",".join([f"P{patient}", *map(str, row)]))
    (folder / "cohort.csv").write_text("\n".join(lines))
    (folder / "x.csv").write_text("\n".join(counts))
    return CohortInputs(read_cohort(folder / "cohort.csv"), folder / "features", folder / "x.csv")


@pytest.mark.parametrize(("objective", "kind"), [("direct", "lora"), ("contrastive", "prompts")])
def test_the_encoder_is_tuned_on_patients(
    patients: CohortInputs, tiny_backbone: Callable[..., Backbone], tmp_path: Path, objective: str, kind: str
) -> None:
    backbone, slide = tiny_backbone(), patients.cohort.slide_path(3)
    settings = {"objective": objective, "mode": "encoder", "tuned": kind, "encoder_tiles": 2, "rank": 2}
    tuning = tuned(patients, backbone, tmp_path / "e", aggregator="mean", encoder_rate=1.0, **settings)
    pool = json.loads((tmp_path / "e.session" / "spots" / "pool.json").read_text())
    assert pool["shape"] == [14 * 8, 64, 64, 3], "four times two tiles of each"
    trained = {name: value for name, value in tuning.trained.items() if name.startswith("encoder.")}
    assert trained and any(
        np.abs(value).max() > 0 for name, value in trained.items() if "up" in name or "prompts" in name
    )
    judged = result_of(evaluate(tuning, patients, backbone=backbone, device="cpu"))
    wanted = tuning.genes["r"][tuning.genes["names"].index("ERBB2")]  # type: ignore[index]
    assert judged["genes"]["ERBB2"]["r"] == pytest.approx(wanted, abs=1e-3)
    found = result_of(predict_slide(slide, tuning, tmp_path, backbone=backbone, inputs=patients, **QUICK))
    assert found["status"] == "done" and found["tiles"] == 16


def test_slides_that_are_not_there_are_said_before_the_encoder_is_tuned(
    patients: CohortInputs, tiny_backbone: Callable[..., Backbone], tmp_path: Path
) -> None:
    away = replace(patients, cohort=replace(patients.cohort, path=tmp_path / "cohort.csv"))
    with pytest.raises(UsageError, match=r"p0\.png is not in"):
        tuned(away, tiny_backbone(), tmp_path / "e", mode="encoder")


def test_gradients_go_through_all_tiles_of_a_step(tiny_backbone: Callable[..., Backbone], monkeypatch: Any) -> None:
    import torch

    from pathotune.methods.transcriptomics import encoder

    images, rows = np.random.default_rng(0).integers(0, 255, (6, 64, 64, 3), dtype=np.uint8), np.arange(6)
    config = load_config("transcriptomics", {"mode": "encoder", "tuned": "lora", "rank": 2})
    found = []
    for size in (64, 2):  # at once, and in parts that are computed once more
        monkeypatch.setattr(encoder, "PASS", size)
        torch.manual_seed(0)
        made = encoder.TunedEncoder(config, tiny_backbone(), "cpu", images[:2], "float32", augment=False)  # type: ignore[arg-type]
        loss = (made(images, rows) * torch.arange(1, 7)[:, None]).square().sum()
        found.append(torch.autograd.grad(loss, list(made.parameters.values()), materialize_grads=True))
    assert all(torch.allclose(one, two, rtol=1e-4, atol=1e-5) for one, two in zip(*found, strict=True))
    assert any(float(value.abs().max()) > 0 for value in found[0])


def test_what_cannot_be_done_is_said(predicted: tuple[Tuning, PredictionStore], tmp_path: Path) -> None:
    tuning, store = predicted
    without = Tuning.load(str(tuning.path))
    without.genes = None
    with pytest.raises(TuningMismatch, match="predicts no genes"):
        result_of(predict_slide("x.svs", without, tmp_path))
    store.attrs.pop("expression")
    with pytest.raises(StoreMismatch, match="no predicted expression"):
        from pathotune.inference.expression_layer import export_h5ad

        export_h5ad(store, tmp_path / "x.h5ad")
