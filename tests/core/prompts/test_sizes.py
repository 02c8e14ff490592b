"""The numbers of trained weights that the method's description gives for ViT-B/16."""

from __future__ import annotations

import numpy as np

from pathotune.methods.pathotune.layers import TextPrompts
from pathotune.prompts.instance import InstancePrompts, instance_maker
from pathotune.prompts.visual import LearnedPrompts


def size(module):
    return sum(value.numel() for value in module.parameters())


def test_visual_prompts_of_vit_b():
    prompts = LearnedPrompts(10, 768, 16, layers=12)
    assert size(prompts) == 92_160
    bound = (6 / (3 * 16 * 16 + 768)) ** 0.5
    assert 0.98 * bound < prompts.values.abs().max() <= bound
    assert abs(prompts.values.std() - bound / 3**0.5) < 0.01 * bound


def test_text_projection_of_vit_b():
    prompts = TextPrompts(np.zeros((2, 768), dtype=np.float32), 768)
    assert size(prompts) == 592_128
    assert "vectors" not in prompts.state_dict()


def test_visual_refine_module_of_vit_b():
    prompts = InstancePrompts(instance_maker("vrm", 4, 768, 64), 4, 768)
    assert 0.57e6 < size(prompts) < 0.59e6
    assert not prompts.gate.any()


def test_a_wider_refine_module_reaches_the_share_a_summary_of_the_paper_gives():
    # 5.9 % of ViT-B's 86 M: several million.
    assert size(instance_maker("vrm", 4, 768, 256)) > 5e6
