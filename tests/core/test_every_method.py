"""What every method in the table promises, on every kind of backbone."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch.nn import functional

from pathotune.errors import TuningMismatch, TuningUnreadable
from pathotune.methods import METHODS, build_model, config_class, load_config
from pathotune.methods.base import is_backbone_key, trained_parameters
from pathotune.methods.checkpoint import TEXT_VECTORS, TRAINED, Tuning
from pathotune.methods.options import as_plain
from pathotune.training.optimizer import optimizer_for, take_step
from pathotune.training.schedule import TrainingConfig

KINDS = ("plain", "registers", "two", "nine", "rotary", "tower", "convolutional")
TEXT = np.random.default_rng(0).normal(size=(3, 24)).astype(np.float32)
FACTS = {name: METHODS[name].facts or {} for name in METHODS}
# Those of tiles; what only compares a tile with words of the same model has nothing to learn (test_zero_shot).
TILE_METHODS = [name for name in METHODS if FACTS[name]["level"] == "tile" and not FACTS[name].get("needs_text_side")]
# A network without linear layers has nothing that these could change.
REFUSED = [("lora", "convolutional"), ("adapter", "convolutional")]
REFUSED += [(name, "convolutional") for name in TILE_METHODS if FACTS[name]["needs_prompts"]]
CASES = [(name, kind) for name in TILE_METHODS for kind in KINDS if (name, kind) not in REFUSED]
# Methods that begin as exactly the plain backbone with a head.
STARTS_PLAIN = ("linear_probe", "class_means", "neighbours", "lora", "adapter", "ssf", "bitfit", "full")
every_case = pytest.mark.parametrize(("method", "kind"), CASES, ids=[f"{name}-{kind}" for name, kind in CASES])


def build(method, backbone, text=TEXT, **settings):
    torch.manual_seed(0)
    return METHODS.load(method)(load_config(method, settings), backbone, ("a", "b", "c"), text)


def tiles(backbone, count=6, seed=0):
    images = np.random.default_rng(seed).integers(0, 256, (count, 64, 64, 3), dtype=np.uint8)
    return backbone.normalise(torch.from_numpy(images))


def train(model, pixels, steps=3):
    """A few steps as the loop takes them; returns the losses."""
    labels = torch.arange(len(pixels)) % 3
    with torch.no_grad():
        model.start(model(pixels).features, labels.numpy(), model.lower(pixels))
    trained, training = trained_parameters(model), TrainingConfig()
    optimizer = optimizer_for(trained, training, training.lr, model.rate_share)
    losses = []
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(pixels).logits, labels)
        if trained:
            loss.backward()
        take_step(optimizer, float(loss.detach()), training.lr)
        losses.append(float(loss.detach()))
    return losses


def as_tuning(model, backbone, method, text=TEXT):
    card = backbone.card
    return Tuning(
        method=method,
        config=as_plain(model.config),
        task={},
        classes=[{"name": name, "color": [1, 2, 3]} for name in model.class_names],
        backbone={
            "name": card.name,
            "sha256": backbone.weights_sha256,
            "embed_dim": backbone.embed_dim,
            "mpp": card.mpp,
        },
        reading=card.reading(),
        tensors={
            **{TRAINED + key: value for key, value in model.trainable_state().items()},
            TEXT_VECTORS: text,
        },
    )


@every_case
def test_training_moves_what_is_listed_and_nothing_else(tiny_backbone, method, kind):
    backbone = tiny_backbone(kind)
    before = copy.deepcopy(backbone.state_dict())
    model = build(method, backbone)
    listed = {key: value.detach().clone() for key, value in trained_parameters(model).items()}
    losses = train(model, tiles(backbone), steps=6)
    assert np.isfinite(losses).all()
    # What only remembers the tiles has learned all of them in its start.
    assert losses[-1] < losses[0] if listed else losses[0] < np.log(3)
    after = backbone.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    with_gradient = {key for key, value in model.named_parameters() if value.grad is not None}
    assert with_gradient == set(listed)
    assert not any(is_backbone_key(key) for key in listed)
    assert all(not torch.equal(value, dict(model.named_parameters())[key]) for key, value in listed.items())


@every_case
def test_the_backbone_stays_in_evaluation_mode(tiny_backbone, method, kind):
    backbone = tiny_backbone(kind)
    model = build(method, backbone).train()
    assert model.training
    assert not any(module.training for module in (*backbone.modules(), *model.backbone.modules()))


@every_case
def test_what_starts_as_the_plain_backbone_does_so_to_the_bit(tiny_backbone, method, kind):
    backbone = tiny_backbone(kind)
    pixels = tiles(backbone)
    same = torch.equal(build(method, backbone).eval()(pixels).features, backbone(pixels).pooled)
    assert same == (method in STARTS_PLAIN or (method == "cite" and kind == "convolutional"))


@pytest.mark.parametrize(("method", "kind"), REFUSED)
def test_a_backbone_that_does_not_fit_is_refused_in_a_sentence(tiny_backbone, method, kind):
    with pytest.raises(TuningMismatch, match=r"Tiny convolutional .*or the method linear_probe"):
        build(method, tiny_backbone(kind))


@every_case
def test_saved_and_loaded_it_gives_the_same_numbers(tiny_backbone, tmp_path, method, kind):
    backbone = tiny_backbone(kind)
    pixels = tiles(backbone)
    model = build(method, backbone)
    train(model, pixels)
    expected = model.eval()(pixels, attention=True)
    path = as_tuning(model, backbone, method).save(tmp_path / "x.pathotune.safetensors")
    loaded = build_model(Tuning.load(path), tiny_backbone(kind))
    answer = loaded(pixels, attention=True)
    assert torch.equal(answer.logits, expected.logits)
    assert torch.equal(answer.features, expected.features)
    assert answer.attention.keys() == expected.attention.keys()
    assert not any(value.requires_grad for value in loaded.parameters())


@every_case
def test_batch_order_and_size_change_nothing(tiny_backbone, method, kind):
    backbone = tiny_backbone(kind)
    pixels = tiles(backbone)
    model = build(method, backbone)
    train(model, pixels)
    model.eval()
    with torch.no_grad():
        whole = model(pixels).logits
        turned = model(pixels.flip(0)).logits.flip(0)
        single = torch.cat([model(pixels[i : i + 1]).logits for i in range(len(pixels))])
    tolerance = 1e-5 * max(10.0, float(whole.abs().max()))
    assert torch.allclose(whole, turned, atol=tolerance)
    assert torch.allclose(whole, single, atol=tolerance)


@every_case
def test_lower_and_upper_make_the_whole(tiny_backbone, method, kind):
    backbone = tiny_backbone(kind)
    model = build(method, backbone).eval()
    pixels = tiles(backbone)
    lower = model.lower(pixels)
    assert not lower.requires_grad
    assert torch.equal(model.upper(lower, pixels).features, model(pixels).features)


@every_case
def test_what_says_it_needs_no_pixels_gets_none(tiny_backbone, method, kind):
    backbone = tiny_backbone(kind)
    for settings in [{}] if method != "pathotune" else [{"ivp": name} for name in ("vrm", "mean_patch", "off")]:
        model = build(method, backbone, **settings).eval()
        pixels = tiles(backbone)
        train(model, pixels)
        lower = model.lower(pixels)
        if model.looks_at_pixels:
            assert not torch.equal(model.upper(lower, pixels.flip(0)).features, model(pixels).features)
        else:
            assert torch.equal(model.upper(lower, pixels.new_empty(0)).features, model(pixels).features)


@every_case
def test_attention_maps_are_those_announced(tiny_backbone, method, kind):
    backbone = tiny_backbone(kind)
    model = build(method, backbone).eval()
    answer = model(tiles(backbone), attention=True)
    assert tuple(answer.attention) == model.attention_sources
    assert all(row.shape == (6, *backbone.grid) for row in answer.attention.values())
    assert model(tiles(backbone)).attention == {}
    assert answer.logits.dtype == answer.features.dtype == torch.float32


@every_case
def test_bfloat16_answers_in_float32(tiny_backbone, method, kind):
    backbone = tiny_backbone(kind)
    model = build(method, backbone).eval()
    with torch.no_grad():
        exact = model(tiles(backbone)).features
        with torch.autocast("cpu", dtype=torch.bfloat16):
            answer = model(tiles(backbone), attention=True)
    assert answer.logits.dtype == answer.features.dtype == torch.float32
    assert all(row.dtype == torch.float32 for row in answer.attention.values())
    assert (answer.features - exact).norm() / exact.norm() < 0.05


@every_case
def test_the_temperature_divides_the_logits(tiny_backbone, method, kind):
    backbone = tiny_backbone(kind)
    model = build(method, backbone)
    train(model, tiles(backbone))
    tuning = as_tuning(model, backbone, method)
    plain = build_model(tuning, backbone)(tiles(backbone)).logits
    tuning.calibration = {"temperature": 2.0}
    assert torch.allclose(build_model(tuning, backbone)(tiles(backbone)).logits, plain / 2)


@every_case
def test_another_backbone_is_refused(tiny_backbone, method, kind):
    backbone = tiny_backbone(kind)
    tuning = as_tuning(build(method, backbone), backbone, method)
    with pytest.raises(TuningMismatch, match=rf"needs the backbone tiny-{kind} with the weights"):
        build_model(tuning, tiny_backbone(kind, seed=1))
    other = "rotary" if kind == "plain" else "plain"
    with pytest.raises(TuningMismatch, match=rf"needs the backbone tiny-{kind}, not tiny-{other}"):
        build_model(tuning, tiny_backbone(other))
    tuning.backbone["mpp"] = 0.25
    with pytest.raises(TuningMismatch, match=r"0\.25 µm per pixel"):
        build_model(tuning, backbone)
    tuning.backbone |= {"mpp": 0.5, "embed_dim": 7}
    with pytest.raises(TuningMismatch, match="7 wide"):
        build_model(tuning, backbone)


@every_case
def test_tensors_that_do_not_fit_are_refused(tiny_backbone, method, kind):
    backbone = tiny_backbone(kind)
    model = build(method, backbone)
    train(model, tiles(backbone))
    tuning = as_tuning(model, backbone, method)
    name = next(key for key, value in tuning.trained.items() if key.startswith("head.") and value.ndim == 2)
    weight = tuning.tensors.pop(TRAINED + name)
    with pytest.raises(TuningUnreadable, match=f"lacks {name}"):
        build_model(tuning, backbone)
    tuning.tensors[TRAINED + name] = weight[:, :-1]
    with pytest.raises(TuningMismatch, match=f"{name} has the shape"):
        build_model(tuning, backbone)
    tuning.tensors[TRAINED + name] = weight * np.nan
    with pytest.raises(TuningUnreadable, match="not finite"):
        build_model(tuning, backbone)
    tuning.tensors[TRAINED + name] = weight
    tuning.tensors[TRAINED + "more"] = weight
    with pytest.raises(TuningUnreadable, match="unknown more"):
        build_model(tuning, backbone)


@pytest.mark.parametrize("method", list(METHODS))
def test_facts_and_config_are_complete(method):
    entry = METHODS[method]
    assert entry.title and {"title", "summary", "config", "level", "needs_prompts"} <= set(entry.facts or {})
    assert load_config(method) == config_class(method)()


# -- PathoTune's groups -----------------------------------------------------------------------------------------------

TOKEN_KINDS = ("plain", "registers", "two", "nine", "rotary", "tower")


@pytest.fixture(params=TOKEN_KINDS)
def tuned(request, tiny_backbone):
    """A trained PathoTune, its backbone and tiles."""
    backbone = tiny_backbone(request.param)
    model = build("pathotune", backbone, vrm_width=16)
    before = {key: value.detach().clone() for key, value in trained_parameters(model).items()}
    pixels = tiles(backbone)
    train(model, pixels, steps=4)
    return model.eval(), before, pixels


def test_every_layer_of_visual_prompts_and_the_whole_refine_module_have_changed(tuned):
    model, before, _ = tuned
    after = trained_parameters(model)
    values = "encoder.prompts.tvp.values"
    assert (after[values] - before[values]).abs().amax(dim=(1, 2)).min() > 1e-4
    refine = [key for key in after if key.startswith("encoder.prompts.ivp.")]
    assert len(refine) > 10
    assert all((after[key] - before[key]).abs().max() > 1e-5 for key in refine)
    assert after["encoder.prompts.ivp.gate"].abs().max() > 1e-3


@pytest.mark.parametrize("group", ["tvp", "ttp", "ivp"])
def test_taking_a_group_away_changes_the_logits(tuned, group):
    model, _, pixels = tuned
    whole = model(pixels).logits
    del model.encoder.prompts[group]
    assert (model(pixels).logits - whole).abs().max() > 1e-3


def test_instance_prompts_differ_between_tiles(tuned):
    from pathotune.prompts.insert import TileView

    model, _, pixels = tuned
    backbone = model.encoder.backbone
    patches = backbone.embed(pixels)[:, backbone.prefix_tokens :]
    tokens = model.encoder.prompts["ivp"].prepare(TileView(pixels, patches, backbone.grid))
    assert (tokens[0] - tokens[1]).abs().max() > 1e-3


def test_another_sentence_changes_the_output(tuned):
    model, _, pixels = tuned
    whole = model(pixels).logits
    model.encoder.prompts["ttp"].vectors.copy_(torch.from_numpy(TEXT[::-1].copy() * 0.5))
    assert (model(pixels).logits - whole).abs().max() > 1e-3


@pytest.mark.parametrize(("depth", "first"), [(12, 8), (3, 2), (7, 4), (1, 0), (24, 16)])
def test_the_interactive_mode_prompts_the_last_third_of_the_blocks(depth, first):
    assert load_config("pathotune", {"speed": "interactive"}).first_block(depth) == first
    assert load_config("pathotune", {}).first_block(depth) == 0
    assert load_config("pathotune", {"speed": "interactive", "first_layer": depth - 1}).first_block(depth) == depth - 1


@pytest.mark.parametrize("kind", TOKEN_KINDS)
def test_an_interactive_tuning_is_predicted_as_it_was_trained(tiny_backbone, tmp_path, kind):
    backbone = tiny_backbone(kind)
    model = build("pathotune", backbone, speed="interactive", vrm_width=16)
    assert model.kept_blocks == 2 and model.encoder.prompts["tvp"].values.shape[0] == 1
    pixels = tiles(backbone)
    train(model, pixels)
    path = as_tuning(model.eval(), backbone, "pathotune").save(tmp_path / "late")
    loaded = build_model(Tuning.load(path), tiny_backbone(kind))
    assert loaded.kept_blocks == 2
    lower = model.lower(pixels)
    assert torch.equal(lower, loaded.lower(pixels)) and not torch.equal(lower, backbone.embed(pixels))
    assert torch.equal(loaded(pixels).logits, model(pixels).logits)


def test_without_sentences_there_are_no_text_prompts(tiny_backbone):
    model = build("pathotune", tiny_backbone(), text=None)
    assert model.attention_sources == ("cls", "tvp", "ivp")
