"""Methods that train inside the backbone, through the loop: kept values, several threads, files, and the plain one."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch

from pathotune.events import Finished
from pathotune.methods import build_model, load_config
from pathotune.methods.checkpoint import Tuning, card_path
from pathotune.prompts.text import SentenceVectors
from pathotune.training.examples import gather
from pathotune.training.loop import Run, tune
from pathotune.training.prefix import forget_prefixes
from pathotune.training.schedule import TrainingConfig

QUICK = TrainingConfig(epochs=2, batch_size=8, tiles_per_epoch=24, warmup_epochs=1, precision="float32", looks=3)
LIGHT = ("lora", "adapter", "ssf", "bitfit")


def drain(generator):
    try:
        while True:
            next(generator)
    except StopIteration as stop:
        return stop.value


def run_on(backbone, source, method, settings, training=QUICK):
    examples = drain(gather([source], backbone.card.reading(), training))
    run = Run(method, load_config(method, settings), backbone, examples, training, SentenceVectors(None, None), "cpu")
    list(run.prepare())
    return run


def tuned(backbone, source, method, settings, out):
    events = list(tune([source], method, settings, backbone, QUICK, out=out))
    assert isinstance(events[-1], Finished)
    return events[-1].result


@pytest.mark.parametrize("method", LIGHT)
def test_begun_late_each_look_of_a_tile_passes_the_frozen_blocks_once(tiny_backbone, source, tmp_path, method):
    backbone = tiny_backbone()
    result = tuned(backbone, source, method, {"speed": "interactive"}, tmp_path / "t")
    assert 0 < result["computed_tiles"] <= 18 * 3 + 6
    again = tuned(backbone, source, method, {"speed": "interactive"}, tmp_path / "u")
    assert again["computed_tiles"] == 0
    # Prompts that enter at the same block need the same values.
    prompted = tuned(backbone, source, "vpt", {"speed": "interactive", "tokens": 2}, tmp_path / "v")
    assert prompted["computed_tiles"] == 0


@pytest.mark.parametrize("method", LIGHT)
def test_gradients_on_kept_values_are_those_of_the_whole_model(tiny_backbone, source, method):
    run = run_on(tiny_backbone(), source, method, {"speed": "interactive"}, dataclasses.replace(QUICK, augment=False))
    batch = run.examples.train[:8]
    for _ in range(2):  # low-rank parts and adapters get their first gradients when their last layer is not zero
        run.step(batch, 1e-3)
    run.step(batch, 0.0)
    labels = torch.as_tensor(run.examples.labels[batch])
    logits = run.model(run.tiles.pixels(run.examples.images[batch])).logits
    whole = torch.autograd.grad(torch.nn.functional.cross_entropy(logits, labels), list(run.parameters.values()))
    norm = torch.cat([value.flatten() for value in whole]).norm().clamp(min=1.0)
    assert all(float(value.abs().max()) > 0 for value in whole)
    for value, expected in zip(run.parameters.values(), whole, strict=True):
        assert torch.allclose(value.grad, expected / norm, atol=1e-5)
    run.tiles.close()


@pytest.mark.parametrize("method", [*LIGHT, "full", "scratch"])
def test_on_several_threads_it_is_repeatable_and_close_to_that_on_one(tiny_backbone, source, method):
    backbone = tiny_backbone()
    before = copy.deepcopy(backbone.state_dict())

    def state(threads):
        forget_prefixes()
        usual = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            run = run_on(backbone, source, method, {})
            assert run.tiles.lanes.count == threads
            for _ in range(3):
                run.step(run.examples.train[:8], 1e-4)
            run.tiles.close()
            return run.model.trainable_state()
        finally:
            torch.set_num_threads(usual)

    one, again, single = state(3), state(3), state(1)
    assert all(np.array_equal(one[key], again[key]) for key in one)
    assert all(np.allclose(one[key], single[key], atol=1e-3) for key in one)
    assert all(torch.equal(before[key], value) for key, value in backbone.state_dict().items())


@pytest.mark.parametrize(("method", "says"), [("lora", "which is not in this file"), ("full", "changed copy")])
def test_the_file_holds_what_was_trained_and_the_card_says_so(tiny_backbone, source, tmp_path, method, says):
    backbone = tiny_backbone()
    result = tuned(backbone, source, method, {}, tmp_path / "t")
    tuning = Tuning.load(result["out"])
    held = sum(value.size for key, value in tuning.trained.items() if key.startswith("tuned."))
    assert (held == sum(value.numel() for value in backbone.parameters())) == (method == "full")
    assert result["trainable_parameters"] == held + 2 * (backbone.output_dim + 1)
    assert says in card_path(result["out"]).read_text()
    model = build_model(tuning, tiny_backbone())
    assert torch.isfinite(model(torch.zeros(1, 3, 64, 64)).logits).all()


@pytest.mark.parametrize(("method", "settings", "share"), [("full", {"rate": 0.5}, 0.5), ("lora", {}, 1.0)])
def test_a_whole_network_takes_smaller_steps_than_the_head(tiny_backbone, source, method, settings, share):
    run = run_on(tiny_backbone(), source, method, settings)
    run.step(run.examples.train[:8], 1e-3)
    rates = {id(value): group["lr"] for group in run.optimizer.param_groups for value in group["params"]}
    for name, value in run.parameters.items():
        assert rates[id(value)] == pytest.approx(1e-3 * (share if name.startswith("tuned.") else 1.0))
    run.tiles.close()
