"""Every combination of PathoTune's prompt groups, their depths and instance modules: what the switches switch."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from torch.nn import functional

from pathotune.evaluation.variants import expanded, groups_on, read_method
from pathotune.methods.base import trained_parameters
from pathotune.methods.pathotune.method import PathoTune

TEXT = np.random.default_rng(0).normal(size=(2, 24)).astype(np.float32)
NAMES = ("a", "b", "c")
COUNTS = {"tvp": 10, "ttp": 2, "ivp": 4}


def model(backbone, word):
    torch.manual_seed(0)
    return PathoTune(read_method(word).config, backbone, NAMES, TEXT)


def tiles(backbone, count=6):
    images = np.random.default_rng(0).integers(0, 256, (count, 64, 64, 3), dtype=np.uint8)
    return backbone.normalise(torch.from_numpy(images))


def learned(built, pixels, steps=2):
    """Two plain steps; the parameters before them."""
    labels = torch.arange(len(pixels)) % 3
    with torch.no_grad():
        built.start(built(pixels).features, labels.numpy(), built.lower(pixels))
    parameters = trained_parameters(built)
    before = {name: value.detach().clone() for name, value in parameters.items()}
    optimizer = torch.optim.AdamW(parameters.values(), lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        functional.cross_entropy(built(pixels).logits, labels).backward()
        optimizer.step()
    return before


@pytest.mark.parametrize("word", expanded(["pathotune[*,vrm_width=16]"]))
def test_each_combination_has_its_groups_and_trains_them_all(tiny_backbone, word):
    backbone = tiny_backbone()
    built, pixels = model(backbone, word), tiles(backbone)
    on = groups_on(read_method(word).config)
    assert built.encoder.layout.counts == tuple((group, COUNTS[group]) for group in on)
    assert built.attention_sources == ("cls", *on)
    for group in COUNTS:
        has = any(name.startswith(f"encoder.prompts.{group}.") for name in trained_parameters(built))
        assert has == (group in on)
    if not on:
        assert torch.equal(built(pixels).features, backbone(pixels).pooled), "without prompts it is the plain backbone"
    before = learned(built, pixels)
    after = trained_parameters(built)
    assert all(not torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(("ttp", "ivp", "tvp"), list(product(("shallow", "deep"), repeat=3)))
def test_each_group_enters_once_or_before_every_block(tiny_backbone, ttp, ivp, tvp):
    backbone = tiny_backbone()
    built = model(backbone, f"pathotune[ttp_depth={ttp},ivp_depth={ivp},tvp_depth={tvp},vrm_width=16]").eval()
    pixels, seen = tiles(backbone), []
    block = type(backbone).block
    backbone.block = lambda index, tokens, extra=0: (
        seen.append(tokens.detach().clone()) or block(backbone, index, tokens, extra=extra)
    )
    built(pixels)
    places = built.encoder.layout.places(backbone.prefix_tokens)
    for group, depth in (("ttp", ttp), ("ivp", ivp)):
        again = torch.equal(seen[0][:, places[group]], seen[2][:, places[group]])
        assert again == (depth == "deep"), group
    assert built.encoder.prompts["tvp"].values.shape[0] == (3 if tvp == "deep" else 1)


@pytest.mark.parametrize("ivp", ["vrm", "mean_patch", "attn_pool"])
def test_each_instance_module_makes_tokens_of_the_tile_itself(tiny_backbone, ivp):
    backbone = tiny_backbone()
    built, pixels = model(backbone, f"pathotune[ivp={ivp},tvp_tokens=off,ttp=off,vrm_width=16]"), tiles(backbone)
    learned(built, pixels, steps=4)
    assert built.encoder.layout.counts == (("ivp", 4),) and built.looks_at_pixels == (ivp == "vrm")
    lower = built.lower(pixels)
    from pathotune.prompts.insert import TileView

    view = TileView(pixels, lower[:, backbone.prefix_tokens :], backbone.grid)
    tokens = built.encoder.prompts["ivp"].prepare(view)
    assert tokens.shape == (6, 4, 48) and (tokens[0] - tokens[1]).abs().max() > 1e-4
