"""Another stain than H&E from end to end: a tuning on generated immunohistochemistry, and a trichrome slide."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pathotune.backbones import load_backbone
from pathotune.backbones.card import BackboneCard
from pathotune.events import Note, result_of
from pathotune.inference.predict import predict_slide
from pathotune.inference.predictions import PredictionStore
from pathotune.methods.checkpoint import Tuning
from pathotune.regions import read_regions
from pathotune.slides import open_slide
from pathotune.slides.synthetic import STAINS, SyntheticSlide
from pathotune.tasks import task_from_regions
from pathotune.training.examples import TuneSource
from pathotune.training.loop import tune
from pathotune.training.schedule import TrainingConfig

CARD = BackboneCard(
    name="tiny-stain",
    title="Tiny",
    kind="tile",
    loader="timm",
    architecture="vit_tiny_patch16_224",
    arguments={"img_size": 64, "embed_dim": 48, "depth": 3, "num_heads": 3},
    embed_dim=48,
    output_dim=48,
    depth=3,
    num_heads=3,
    prefix_tokens=1,
    patch_size=16,
    image_size=64,
    tile_px=64,
    mpp=1.0,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    pooling="cls",
    takes_prompts=True,
)
pytestmark = pytest.mark.slow
QUICK = TrainingConfig(epochs=2, batch_size=16, tiles_per_epoch=64, warmup_epochs=0, precision="float32")
WORDS = {"text_encoder": "hashing", "stained_with": "IHC", "vrm_width": 16}


@pytest.fixture(scope="module")
def brown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A generated slide in brown and blue, and a tuning on its drawn regions."""
    folder = tmp_path_factory.mktemp("brown")
    kinds = ("Tumor", "Stroma", "Immune cells")
    slide = SyntheticSlide(2048, 1536, seed=3, stain=STAINS["brown"], patch_um=200.0, classes=kinds)
    path = slide.write(folder / "brown.tiff")
    drawn = folder / "brown.geojson"
    drawn.write_text(json.dumps(slide.regions(per_class=3)))
    task = task_from_regions(list(read_regions(drawn)), stain="IHC")
    source = TuneSource(path, drawn)
    events = list(tune([source], "pathotune", WORDS, load_backbone(CARD, random_seed=0), QUICK, task, folder / "brown"))
    assert not [event.text for event in events if isinstance(event, Note) and "stain" in event.text.lower()]
    return path, Path(events[-1].result["out"])


def predicted(slide_path: Path, tuning: Path, out: Path) -> PredictionStore:
    backbone = load_backbone(CARD, random_seed=0)
    with open_slide(slide_path) as slide:
        result = result_of(predict_slide(slide, Tuning.load(tuning), out, backbone=backbone, precision="float32"))
    assert result["status"] == "done"
    return PredictionStore.open(result["store"])


def test_sentences_and_card_speak_of_the_stain(brown: tuple[Path, Path]) -> None:
    _, file = brown
    tuning = Tuning.load(file)
    assert any("immunohistochemistry" in text and "brown" in text for text in tuning.texts)
    assert not any("eosin" in text for text in tuning.texts) and tuning.task["stain"] == "IHC"
    assert "IHC" in file.with_name("brown.md").read_text()


def test_the_brown_slide_is_predicted_where_there_is_tissue(brown: tuple[Path, Path], tmp_path: Path) -> None:
    path, file = brown
    store = predicted(path, file, tmp_path)
    values = np.asarray(store.probabilities[:])
    filled = values.sum(axis=0) > 0.5
    assert 0.1 < filled.mean() < 1.0
    np.testing.assert_allclose(values[:, filled].sum(axis=0), 1.0, atol=1e-3)


@pytest.mark.parametrize("name", ["kidney_biopsy_generic_pyramid.tiff", "dicom_kidney_biopsy"])
def test_the_trichrome_slide_is_opened_tiled_and_predicted(
    brown: tuple[Path, Path], tmp_path: Path, shared_data: Path, name: str
) -> None:
    if name.startswith("dicom"):
        pytest.importorskip("pydicom")
    store = predicted(shared_data / "wsi" / name, brown[1], tmp_path)
    values = np.asarray(store.probabilities[:])
    filled = values.sum(axis=0) > 0.5
    assert filled.sum() > 50 and filled.mean() < 0.6, "thin biopsies on much glass"
    assert np.isfinite(values).all()
