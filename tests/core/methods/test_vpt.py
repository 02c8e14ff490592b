"""Visual prompt tuning: PathoTune's first group alone."""

from __future__ import annotations

import pytest
import torch

from pathotune.methods.base import trained_parameters
from pathotune.methods.pathotune.config import PathoTuneConfig
from pathotune.methods.pathotune.method import PathoTune
from pathotune.methods.vpt.config import VptConfig
from pathotune.methods.vpt.method import Vpt

NAMES = ("a", "b", "c")


@pytest.mark.parametrize(("depth", "speed", "layers"), [("deep", "full_depth", 3), ("shallow", "full_depth", 1)])
def test_tokens_at_every_block_or_the_first(tiny_backbone, depth, speed, layers):
    backbone = tiny_backbone()
    model = Vpt(VptConfig(tokens=4, depth=depth, speed=speed), backbone, NAMES)
    assert trained_parameters(model)["encoder.prompts.tvp.values"].shape == (layers, 4, backbone.embed_dim)


def test_it_is_pathotune_without_its_other_groups(tiny_backbone):
    backbone = tiny_backbone()
    vpt = Vpt(VptConfig(tokens=4), backbone, NAMES).eval()
    alone = PathoTune(PathoTuneConfig(tvp_tokens=4, ttp=False, ivp="off"), backbone, NAMES).eval()
    alone.load_trainable_state(vpt.trainable_state())
    pixels = torch.randn(2, 3, 64, 64)
    assert torch.equal(vpt(pixels).features, alone(pixels).features)
