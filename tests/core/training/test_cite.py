"""CITE from regions to a tuning that predicts, and going on from it with a class more."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pathotune.events import Note, result_of
from pathotune.methods.checkpoint import Tuning
from pathotune.training.loop import tune
from pathotune.training.schedule import TrainingConfig

QUICK = TrainingConfig(epochs=2, batch_size=8, tiles_per_epoch=24, warmup_epochs=1, precision="float32")
WORDS = {"text_encoder": "hashing", "class_sentences": "tumour: Crowded dark nuclei | Nests of tumour cells"}


def test_tissues_are_told_apart_by_their_sentences(tiny_backbone, source, tmp_path):
    backbone = tiny_backbone()
    result = result_of(tune([source], "cite", WORDS, backbone, QUICK, out=tmp_path / "t"))
    assert result["val"]["balanced_accuracy"] >= 0.9
    tuning = Tuning.load(result["out"])
    assert tuning.texts == ("stroma", "Crowded dark nuclei | Nests of tumour cells")
    assert tuning.text_vectors.shape[0] == 2 and "head.texts" not in tuning.trained
    assert result["trainable_parameters"] == sum(
        value.size for key, value in tuning.trained.items() if key not in ("head.mean", "head.spread")
    )
    again = result_of(tune([source], "cite", WORDS, backbone, QUICK, out=tmp_path / "u", continue_from=result["out"]))
    assert again["val"]["balanced_accuracy"] >= 0.9


def test_a_backbone_without_tokens_is_tuned_with_a_warning(tiny_backbone, source, tmp_path):
    events = list(
        tune([source], "cite", {"text_encoder": "hashing"}, tiny_backbone("convolutional"), QUICK, out=tmp_path / "t")
    )
    warnings = [event.text for event in events if isinstance(event, Note) and event.level == "warning"]
    assert any("takes no tokens" in text for text in warnings)
    assert np.isfinite(events[-1].result["val"]["balanced_accuracy"])


def test_the_published_recipe_can_be_asked_for(tiny_backbone, source, tmp_path):
    published = {**WORDS, "neck_start": "identity", "standardise": "false"}
    training = replace(QUICK, optimizer="sgd", lr=0.03, weight_decay=0.0, epochs=4)
    result = result_of(tune([source], "cite", published, tiny_backbone(), training, out=tmp_path / "t"))
    losses = [epoch["train_loss"] for epoch in result["epochs"]]
    assert losses[-1] < losses[0]
    mean = Tuning.load(result["out"]).trained["head.mean"]
    assert not mean.any(), "the features go in as they are"
