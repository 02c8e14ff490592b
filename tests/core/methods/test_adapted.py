"""Methods that train inside the backbone: what they share with it, what they are by the book, and on which networks."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch
from torch.nn import functional

from pathotune.backbones import backbone_card
from pathotune.backbones.loading import BUILDERS
from pathotune.errors import TuningMismatch
from pathotune.methods import METHODS, load_config
from pathotune.methods.adapted import Changed
from pathotune.methods.base import trained_parameters
from pathotune.methods.lora.method import LowRank
from pathotune.methods.ssf.method import ScaleShift
from pathotune.training.optimizer import optimizer_for, take_step
from pathotune.training.schedule import TrainingConfig

LIGHT = ("lora", "adapter", "ssf", "bitfit")
ALL = (*LIGHT, "full", "scratch")
KINDS = ("plain", "registers", "rotary", "tower", "gated", "hugging", "windowed", "convolutional")
TOKEN_KINDS = KINDS[:6]
CASES = [(name, kind) for name in ALL for kind in KINDS if kind != "convolutional" or name not in ("lora", "adapter")]


def build(method, backbone, **settings):
    torch.manual_seed(0)
    return METHODS.load(method)(load_config(method, settings), backbone, ("a", "b"))


def tiles(backbone, count=6):
    images = np.random.default_rng(0).integers(0, 256, (count, 64, 64, 3), dtype=np.uint8)
    return backbone.normalise(torch.from_numpy(images))


def train(model, pixels, steps=4):
    labels = torch.arange(len(pixels)) % 2
    with torch.no_grad():
        model.start(model(pixels).features, labels.numpy(), model.lower(pixels))
    parameters, training = trained_parameters(model), TrainingConfig()
    optimizer = optimizer_for(parameters, training, training.lr, model.rate_share)
    for _ in range(steps):
        loss = functional.cross_entropy(model(pixels).logits, labels)
        gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True, materialize_grads=True)
        for value, gradient in zip(parameters.values(), gradients, strict=True):
            value.grad = gradient
        take_step(optimizer, float(loss.detach()), training.lr)
    return model.eval()


def shaken(model):
    """The model with noise on all it trains, so that nothing is at its start."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in trained_parameters(model).values():
            value += 0.05 * torch.randn(value.shape, generator=generator)
    return model


# -- on every kind of network -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "kind"), CASES)
def test_it_trains_in_a_copy_that_shares_what_is_frozen(tiny_backbone, method, kind):
    backbone = tiny_backbone(kind)
    pixels = tiles(backbone)
    before, plain = copy.deepcopy(backbone.state_dict()), backbone(pixels).pooled
    model = build(method, backbone)
    started = model(pixels).features
    assert torch.equal(started, plain) == (method != "scratch")
    train(model, pixels)
    after = backbone.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert torch.equal(backbone(pixels).pooled, plain)
    assert not torch.allclose(model(pixels).features, started, atol=1e-6)
    # Only what is trained takes memory of its own.
    of_backbone = {value.data_ptr() for value in (*backbone.parameters(), *backbone.buffers()) if value.numel()}
    own = [value for value in model.backbone.state_dict().values() if value.data_ptr() not in of_backbone]
    tuned = {key: value for key, value in model.trainable_state().items() if key.startswith("tuned.")}
    assert sum(value.numel() for value in own if value.numel()) == sum(value.size for value in tuned.values())
    if method in LIGHT:
        assert all(".change." in key or ".adapter." in key or key.endswith("bias") for key in tuned)
    again = build(method, backbone)
    again.load_trainable_state(model.trainable_state())
    assert torch.equal(again.eval()(pixels).logits, model(pixels).logits)


@pytest.mark.parametrize("kind", TOKEN_KINDS)
@pytest.mark.parametrize("method", LIGHT)
def test_begun_late_it_leaves_the_lower_blocks_alone(tiny_backbone, method, kind):
    backbone = tiny_backbone(kind)
    pixels = tiles(backbone)
    model = shaken(build(method, backbone, speed="interactive")).eval()
    assert model.kept_blocks == 2 and not model.looks_at_pixels
    tokens = backbone.block(1, backbone.block(0, backbone.embed(pixels)))
    assert torch.equal(model.lower(pixels), tokens)
    answer = model.upper(tokens, pixels.new_empty(0), attention=True)
    assert torch.equal(answer.features, model(pixels).features)
    assert not torch.allclose(answer.features, backbone(pixels).pooled, atol=1e-4)
    assert len(trained_parameters(model)) < len(trained_parameters(build(method, backbone)))


def test_a_block_that_is_not_there_is_refused(tiny_backbone):
    with pytest.raises(TuningMismatch, match="first_layer 3 is not a block"):
        build("lora", tiny_backbone(), first_layer=3)


# -- attention --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TOKEN_KINDS)
@pytest.mark.parametrize("method", ALL)
def test_attention_is_that_of_the_changed_network(tiny_backbone, method, kind):
    backbone = tiny_backbone(kind)
    pixels = tiles(backbone)
    model = shaken(build(method, backbone)).eval()
    last = backbone.depth - 1
    with torch.no_grad():
        shown = model(pixels, attention=True).attention["cls"].flatten(1)
        twin = model.backbone
        tokens = twin.embed(pixels)
        for index in range(last):
            tokens = twin.block(index, tokens)
        plain = backbone.attention_row(last, tokens)[..., -shown.shape[1] :].mean(dim=1)
        # The adapters of the last block lie behind its attention, in which they have no part.
        assert torch.allclose(shown, plain, atol=1e-6) == (method == "adapter")
        assert torch.allclose(shown, attention_by_hand(twin, kind, last, tokens)[:, -shown.shape[1] :], atol=1e-5)


def attention_by_hand(backbone, kind, index, tokens):
    """The class token's attention (b, n), mean over heads, from the block's modules as its library calls them."""
    if kind == "tower":
        block = backbone.network.transformer.resblocks[index]
        normed = block.ln_1(tokens)
        return block.attn(normed, normed, normed, need_weights=True)[1][:, 0]
    # What reaches the product of queries and keys, wherever the library forms it.
    seen = []
    original = functional.scaled_dot_product_attention

    def watch(query, key, value, *arguments, **options):
        scale = options.get("scale") or query.shape[-1] ** -0.5
        seen.append((query[:, :, :1] @ key.transpose(-2, -1) * scale).softmax(dim=-1).mean(dim=1)[:, 0])
        return original(query, key, value, *arguments, **options)

    functional.scaled_dot_product_attention = watch
    try:
        backbone.block(index, tokens)
    finally:
        functional.scaled_dot_product_attention = original
    return seen[0]


# -- by the book ------------------------------------------------------------------------------------------------------


def test_low_rank_parts_are_those_of_peft(tiny_backbone):
    peft = pytest.importorskip("peft", reason="the peft library, with which LoRA is compared, is not installed")
    backbone = tiny_backbone()
    model = shaken(build("lora", backbone, rank=4, alpha=6)).eval()
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=["attn.qkv", "attn.proj"])
    theirs = peft.inject_adapter_in_model(config, copy.deepcopy(backbone.network)).eval()
    ours = trained_parameters(model)
    for block in range(backbone.depth):
        for layer in ("qkv", "proj"):
            name = f"tuned.network.blocks.{block}.attn.{layer}.change."
            module = theirs.get_submodule(f"blocks.{block}.attn.{layer}")
            module.lora_A["default"].weight.data.copy_(ours[name + "down_weight"])
            module.lora_B["default"].weight.data.copy_(ours[name + "up_weight"])
    pixels = tiles(backbone)
    assert torch.allclose(model(pixels).features, theirs(pixels), atol=1e-5)


@pytest.mark.parametrize(
    "make", [lambda layer: LowRank(layer, 3, 2.0), ScaleShift], ids=["low rank", "scale and shift"]
)
@pytest.mark.parametrize("bias", [True, False])
def test_a_changed_layer_is_one_with_the_weights_it_shows(make, bias):
    torch.manual_seed(0)
    layer = torch.nn.Linear(8, 5, bias=bias)
    values = torch.randn(4, 8)
    changed = Changed(layer, make(layer))
    assert torch.equal(changed(values), layer(values))
    with torch.no_grad():
        for parameter in changed.change.parameters():
            parameter += torch.randn(parameter.shape)
    assert not torch.allclose(changed(values), layer(values), atol=0.1)
    assert torch.allclose(changed(values), functional.linear(values, changed.weight, changed.bias), atol=1e-5)


def test_channels_are_scaled_where_a_convolution_has_them():
    norm = torch.nn.BatchNorm2d(3).eval()
    change = ScaleShift(norm)
    with torch.no_grad():
        change.factor.copy_(torch.tensor([1.0, 2.0, 3.0]))
        change.shift[1] = 10.0
    values = torch.ones(1, 3, 3, 3)
    assert Changed(norm, change)(values)[0].mean(dim=(1, 2)).round().tolist() == [1.0, 12.0, 3.0]


BLOCK_BIASES = 768 + 2304 + 768 + 768 + 3072 + 768  # norm, qkv, proj, norm and the two layers of the MLP
IN_VIT_B = {
    # rank x (in + out) of qkv (768 to 2304) and proj (768 to 768), in 12 blocks
    ("lora", "rank=1"): 12 * 1 * (768 + 2304 + 768 + 768),
    ("lora", "rank=8"): 442_368,
    ("lora", "rank=8 layers=qkv"): 12 * 8 * (768 + 2304),
    ("lora", "rank=8 layers=all"): 442_368 + 12 * 8 * 2 * (768 + 3072),
    # two adapters in a block, each 768 to 64 and back with biases
    ("adapter", "width=64"): 24 * (768 * 64 + 64 + 64 * 768 + 768),
    ("adapter", "width=64 places=mlp"): 12 * (768 * 64 + 64 + 64 * 768 + 768),
    ("bitfit", ""): 768 + 12 * BLOCK_BIASES + 768,
    ("ssf", ""): 2 * (12 * BLOCK_BIASES + 768),
    ("full", ""): 85_798_656,
}


@pytest.mark.parametrize(("method", "settings"), IN_VIT_B)
def test_the_numbers_trained_in_vit_b(method, settings):
    card = backbone_card("dino-base-p16")
    with torch.device("meta"):
        backbone = BUILDERS.load(card.loader)(card, None)
        model = build(method, backbone, **dict(pair.split("=") for pair in settings.split()))
    tuned = [value.numel() for key, value in trained_parameters(model).items() if key.startswith("tuned.")]
    assert sum(tuned) == IN_VIT_B[method, settings]


# -- from scratch, and whose weights these are ------------------------------------------------------------------------


def test_from_scratch_nothing_of_the_backbone_is_used(tiny_backbone):
    one, other = (build("scratch", tiny_backbone("convolutional", seed=seed)) for seed in (0, 1))
    assert torch.equal(one(tiles(one.backbone)).features, other(tiles(one.backbone)).features)


def test_batch_norms_from_scratch_count_the_first_tiles_and_then_stay(tiny_backbone):
    backbone = tiny_backbone("convolutional")
    pixels = tiles(backbone)
    model = build("scratch", backbone)
    model.start(model(pixels).features.detach(), np.arange(6) % 2, model.lower(pixels))
    (norm, *_) = [part for part in model.backbone.modules() if isinstance(part, torch.nn.BatchNorm2d)]
    seen = []
    norm.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    first = model(pixels).features
    assert torch.allclose(norm.running_mean, seen[0].mean(dim=(0, 2, 3)), atol=1e-5)
    model.train()
    model(pixels[:1])
    assert torch.equal(model(pixels).features, first)
    assert any(key.endswith("running_mean") for key in model.trainable_state())


def test_full_fine_tuning_says_whose_licence_is_on_its_file(tiny_backbone):
    backbone = tiny_backbone()
    assert build("full", backbone).notes == ()
    backbone.card = dataclasses.replace(backbone.card, non_commercial=True, licence="CC-BY-NC-ND-4.0")
    (note,) = build("full", backbone).notes
    assert "CC-BY-NC-ND-4.0" in note and "all weights of Tiny plain" in note
