"""Prompts stand where they should, and a backbone without them is the backbone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pathotune.errors import TuningMismatch
from pathotune.methods.pathotune.config import PathoTuneConfig
from pathotune.methods.pathotune.layers import prompt_groups
from pathotune.prompts.insert import PromptedEncoder
from pathotune.prompts.spec import PromptLayout, near_square

TOKEN_KINDS = ("plain", "registers", "rotary")
TEXT = np.random.default_rng(0).normal(size=(2, 24)).astype(np.float32)


def pixels(backbone, count=3, seed=0):
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (count, 64, 64, 3), dtype=np.uint8)
    return backbone.normalise(torch.from_numpy(images))


def watch_blocks(backbone, seen):
    """Keep a copy of every block's input in `seen`."""
    block = type(backbone).block

    def watch(index, tokens, extra=0):
        assert tokens.shape[1] == backbone.prefix_tokens + extra + 16
        seen.append(tokens.detach().clone())
        return block(backbone, index, tokens, extra=extra)

    backbone.block = watch


def encoder(backbone, config, text=TEXT):
    torch.manual_seed(0)
    return PromptedEncoder(backbone, prompt_groups(config, backbone, text), config.first_layer)


@pytest.mark.parametrize("kind", TOKEN_KINDS)
@pytest.mark.parametrize("first_layer", [0, 2])
def test_without_prompts_it_is_the_plain_backbone_to_the_bit(tiny_backbone, kind, first_layer):
    backbone = tiny_backbone(kind)
    tiles = pixels(backbone)
    plain, prompted = backbone(tiles), PromptedEncoder(backbone, {}, first_layer)(tiles).features
    for name in ("pooled", "cls", "patches"):
        assert torch.equal(getattr(plain, name), getattr(prompted, name))


@pytest.mark.parametrize("kind", TOKEN_KINDS)
def test_groups_stand_behind_the_prefix_in_order(tiny_backbone, kind):
    backbone = tiny_backbone(kind)
    made = encoder(backbone, PathoTuneConfig(tvp_tokens=3, ivp_tokens=4))
    seen = []
    watch_blocks(backbone, seen)
    tiles = pixels(backbone)
    made(tiles)
    prefix = backbone.prefix_tokens
    embedded = backbone.embed(tiles)
    for index, tokens in enumerate(seen):
        extra = 3 + 2 + 4
        assert tokens.shape[1] == prefix + extra + 16
        # Visual prompts are new before every block.
        assert torch.equal(tokens[:, prefix : prefix + 3], made.prompts["tvp"].values[index].expand(3, -1, -1))
    first = seen[0]
    text = made.prompts["ttp"].norm(made.prompts["ttp"].projection(torch.from_numpy(TEXT)))
    assert torch.equal(first[:, prefix + 3 : prefix + 5], text.expand(3, -1, -1))
    assert torch.equal(first[:, :prefix], embedded[:, :prefix])
    assert torch.equal(first[:, prefix + 9 :], embedded[:, prefix:])


def test_deep_text_and_instance_prompts_enter_again_and_shallow_ones_pass_on(tiny_backbone):
    backbone = tiny_backbone()
    for depth, again in (("deep", True), ("shallow", False)):
        made = encoder(backbone, PathoTuneConfig(tvp_tokens=2, ttp_depth=depth, ivp_depth=depth))
        seen = []
        watch_blocks(backbone, seen)
        made(pixels(backbone))
        for place in (slice(3, 5), slice(5, 9)):
            assert torch.equal(seen[0][:, place], seen[1][:, place]) is again


def test_shallow_visual_prompts_have_one_layer_and_pass_on(tiny_backbone):
    backbone = tiny_backbone()
    made = encoder(backbone, PathoTuneConfig(tvp_depth="shallow", ttp=False, ivp="off"), None)
    assert made.prompts["tvp"].values.shape == (1, 10, 48)
    assert not torch.equal(made(pixels(backbone)).features.cls, backbone(pixels(backbone)).cls)


@pytest.mark.parametrize("kind", TOKEN_KINDS)
def test_late_prompts_leave_the_lower_blocks_to_be_computed_once(tiny_backbone, kind):
    backbone = tiny_backbone(kind)
    made = encoder(backbone, PathoTuneConfig(first_layer=2, ttp_depth="deep"))
    assert made.prompts["tvp"].values.shape[0] == 1
    tiles = pixels(backbone)
    kept = made.lower(tiles)
    expected = backbone.block(1, backbone.block(0, backbone.embed(tiles)))
    assert torch.equal(kept, expected)
    assert not kept.requires_grad
    assert torch.equal(made.upper(kept, tiles).features.cls, made(tiles).features.cls)
    assert not torch.equal(made(tiles).features.cls, backbone(tiles).cls)


@pytest.mark.parametrize("kind", TOKEN_KINDS)
def test_attention_maps_are_the_shares_that_reach_the_patches(tiny_backbone, kind):
    backbone = tiny_backbone(kind)
    made = encoder(backbone, PathoTuneConfig())
    encoded = made(pixels(backbone), attention=True)
    assert tuple(encoded.attention) == made.attention_sources == ("cls", "tvp", "ttp", "ivp")
    for row in encoded.attention.values():
        assert row.shape == (3, 4, 4) and row.dtype == torch.float32
        assert (row >= 0).all() and (row.sum((1, 2)) <= 1 + 1e-5).all() and (row.sum((1, 2)) > 0.05).all()
    assert not torch.allclose(encoded.attention["cls"], encoded.attention["tvp"])
    assert torch.equal(encoded.features.cls, made(pixels(backbone)).features.cls)


@pytest.mark.parametrize("kind", TOKEN_KINDS)
def test_the_groups_map_is_the_mean_of_its_tokens_maps(tiny_backbone, kind):
    backbone = tiny_backbone(kind)
    made, tiles = encoder(backbone, PathoTuneConfig(tvp_tokens=3, ivp_tokens=2)), pixels(backbone)
    groups = made(tiles, attention=True)
    made.reads_tokens = True
    both = made(tiles, attention=True)
    counts = dict(made.layout.counts)
    names = [f"{name} {number}" for name in ("tvp", "ttp", "ivp") for number in range(1, counts[name] + 1)]
    assert {"tvp 1", "tvp 2", "tvp 3", "ivp 2"} < set(names)
    assert tuple(both.attention) == made.attention_sources == ("cls", "tvp", "ttp", "ivp", *names)
    assert torch.equal(both.features.cls, groups.features.cls)
    for name, row in groups.attention.items():
        assert torch.allclose(both.attention[name], row, atol=1e-6)
    for name, count in counts.items():
        tokens = torch.stack([both.attention[f"{name} {number}"] for number in range(1, count + 1)])
        assert torch.allclose(tokens.mean(dim=0), groups.attention[name], atol=1e-6)
    assert not torch.allclose(both.attention["tvp 1"], both.attention["tvp 2"], atol=1e-4)


def test_a_tokens_map_is_that_of_its_own_place(tiny_backbone):
    backbone = tiny_backbone()
    made, tiles = encoder(backbone, PathoTuneConfig(tvp_tokens=3, ttp=False, ivp="off")), pixels(backbone)
    made.reads_tokens, seen = True, []
    made.upper(made.lower(tiles), tiles, watch=lambda index, tokens, entered: seen.append(tokens))
    last, maps = backbone.depth - 1, made(tiles, attention=True).attention
    for number in (1, 2, 3):
        place = slice(backbone.prefix_tokens + number - 1, backbone.prefix_tokens + number)
        row = backbone.attention_row(last, seen[-1], 3, place).mean(dim=1)[:, -16:].reshape(3, 4, 4)
        assert torch.allclose(maps[f"tvp {number}"], row, atol=1e-6)


def test_reading_attention_without_prompts_gives_the_class_token_alone(tiny_backbone):
    backbone = tiny_backbone()
    assert tuple(PromptedEncoder(backbone, {})(pixels(backbone), attention=True).attention) == ("cls",)


def test_gradients_pass_the_frozen_blocks(tiny_backbone):
    backbone = tiny_backbone()
    made = encoder(backbone, PathoTuneConfig(ttp_depth="deep"))
    made(pixels(backbone)).features.cls.square().sum().backward()
    values = made.prompts["tvp"].values.grad
    # Before the last block only its own tokens reach the class token; all layers do.
    assert all(values[layer].abs().sum() > 0 for layer in range(backbone.depth))
    assert made.prompts["ttp"].projection.weight.grad.abs().sum() > 0
    assert made.prompts["ivp"].gate.grad.abs().sum() > 0
    assert all(value.grad is None for value in backbone.parameters())


@pytest.mark.parametrize("count", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("kind", ["vrm", "mean_patch", "attn_pool"])
def test_each_instance_module_gives_its_tokens_and_looks_at_the_tile(tiny_backbone, kind, count):
    backbone = tiny_backbone()
    config = PathoTuneConfig(tvp_tokens=0, ttp=False, ivp=kind, ivp_tokens=count, vrm_width=8)
    made = encoder(backbone, config, None)
    source = made.prompts["ivp"]
    with torch.no_grad():
        source.gate.fill_(1.0)
    from pathotune.prompts.insert import TileView

    tiles = pixels(backbone)
    tokens = source.prepare(TileView(tiles, backbone.embed(tiles)[:, 1:], backbone.grid))
    assert tokens.shape == (3, count, 48)
    assert not torch.allclose(tokens[0], tokens[1], atol=1e-4)


def test_a_closed_gate_hides_the_tile_and_still_gets_a_gradient_of_ordinary_size(tiny_backbone):
    backbone = tiny_backbone()
    made = encoder(backbone, PathoTuneConfig(tvp_tokens=0, ttp=False), None)
    one, two = pixels(backbone, 1, seed=1), pixels(backbone, 1, seed=2)
    from pathotune.prompts.insert import TileView

    source = made.prompts["ivp"]
    tokens = [source.prepare(TileView(tile, backbone.embed(tile)[:, 1:], backbone.grid)) for tile in (one, two)]
    assert torch.equal(*tokens)
    made(one).features.cls.sum().backward()
    # Exactly zero tokens would put the next block's norm on its singular point: gradients a thousandfold.
    assert 0 < source.gate.grad.abs().max() < 100 * source.slot.grad.abs().max()


def test_a_convolutional_backbone_is_refused_with_a_way_out(tiny_backbone):
    backbone = tiny_backbone("convolutional")
    with pytest.raises(TuningMismatch, match="linear_probe"):
        encoder(backbone, PathoTuneConfig())


def test_a_block_that_is_not_there_is_refused(tiny_backbone):
    with pytest.raises(TuningMismatch, match=r"first_layer 3 .*0 to 2"):
        encoder(tiny_backbone(), PathoTuneConfig(first_layer=3))


def test_layout_places():
    layout = PromptLayout((("tvp", 10), ("ivp", 4)))
    assert layout.total == 14
    assert layout.places(5) == {"tvp": slice(5, 15), "ivp": slice(15, 19)}
    assert [near_square(count) for count in (1, 4, 5, 6, 9)] == [(1, 1), (2, 2), (1, 5), (2, 3), (3, 3)]
