"""CITE from regions to a tuning that predicts, and going on from it with a class more."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from pathotune.events import Note, result_of
from pathotune.methods import load_config
from pathotune.methods.checkpoint import Tuning
from pathotune.prompts.text import text_for
from pathotune.training.loop import tune
from pathotune.training.optimizer import take_step
from pathotune.training.run import START_TILES, Run
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
    training = replace(QUICK, optimizer="sgd", lr=0.03, weight_decay=0.0, clip_norm=0.0, epochs=4)
    result = result_of(tune([source], "cite", published, tiny_backbone(), training, out=tmp_path / "t"))
    losses = [epoch["train_loss"] for epoch in result["epochs"]]
    assert losses[-1] < losses[0]
    mean = Tuning.load(result["out"]).trained["head.mean"]
    assert not mean.any(), "the features go in as they are"


@pytest.fixture
def prepared(examples_of):
    return partial(_prepared, examples_of)


def _prepared(examples_of, backbone, source, training, **settings):
    """A training of CITE before its first step."""
    config = load_config("cite", {**WORDS, **settings})
    examples = examples_of(source, backbone, training)
    _, text = text_for(config, examples.task, examples.class_names, 0.5)
    run = Run("cite", config, backbone, examples, training, text, "cpu")
    list(run.prepare())
    return run


def test_the_tokens_start_at_the_mean_of_the_training_tiles_own(tiny_backbone, source, prepared):
    run = prepared(tiny_backbone(), source, QUICK)
    values = run.model.encoder.prompts["tvp"].values.detach()
    train = run.examples.train
    own = run.tiles.lower(train).float().mean(dim=(0, 1))
    assert values.abs().max() > 0.01, "they were given the tiles to look at"
    assert torch.nn.functional.cosine_similarity(values[0, 0], own, dim=0) > 0.95
    assert len(train) > 4 and START_TILES >= 16
    zero = prepared(tiny_backbone(), source, QUICK, token_start="zero")
    assert not zero.model.encoder.prompts["tvp"].values.any()


def test_sgd_takes_plain_steps_and_no_gradient_is_cut_where_that_is_asked(tiny_backbone, source, prepared):
    training = replace(QUICK, optimizer="sgd", lr=0.03, weight_decay=0.0, clip_norm=0.0)
    run = prepared(tiny_backbone(), source, training, neck_start="identity", standardise="false")
    assert type(run.optimizer) is torch.optim.SGD and run.optimizer.defaults["momentum"] == 0
    before = {name: value.detach().clone() for name, value in run.parameters.items()}
    batch = run.examples.train[:8]
    run.step(batch, 0.03)
    for name, value in run.parameters.items():
        assert value.grad is not None and value.grad.abs().max() > 0
        torch.testing.assert_close(value.detach(), before[name] - 0.03 * value.grad, atol=1e-7, rtol=1e-5)
    adam = prepared(tiny_backbone(), source, QUICK)
    assert type(adam.optimizer) is torch.optim.AdamW


@pytest.mark.parametrize(("most", "moved"), [(0.0, 50.0), (1.0, 1.0), (5.0, 5.0)])
def test_gradients_are_cut_at_the_norm_that_is_set(most, moved):
    weight = torch.nn.Parameter(torch.zeros(4))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    weight.grad = torch.tensor([30.0, 40.0, 0.0, 0.0])
    take_step(optimizer, 1.0, 1.0, most)
    assert float(weight.detach().norm()) == pytest.approx(moved, rel=1e-3)
