"""A backbone with tokens of its own gives what the same prompts give in it, and takes further prompts as any other."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from pathotune.backbones.surface import Backbone
from pathotune.backbones.tile.own_tokens import WithTokens
from pathotune.errors import TuningMismatch
from pathotune.prompts.insert import PromptedEncoder
from pathotune.prompts.visual import LearnedPrompts

torch.manual_seed(0)
PIXELS = torch.randn(2, 3, 64, 64)


@pytest.mark.parametrize("kind", ["plain", "registers", "rotary", "hugging", "tower"])
@pytest.mark.parametrize("layers", [1, 3])
def test_own_tokens_are_what_prompts_are(tiny_backbone: Callable[..., Backbone], kind: str, layers: int) -> None:
    base = tiny_backbone(kind)
    prompts = LearnedPrompts(4, base.embed_dim or 0, 16, layers)
    made = WithTokens(base, prompts.values)
    more = LearnedPrompts(2, base.embed_dim or 0, 16, 1)
    with torch.inference_mode():
        wanted = PromptedEncoder(base, {"tvp": prompts})(PIXELS).features
        found = made(PIXELS)
        assert torch.allclose(found.pooled, wanted.pooled, atol=1e-5)
        assert torch.allclose(found.patches, wanted.patches, atol=1e-5)
        assert not torch.allclose(found.pooled, base(PIXELS).pooled, atol=1e-3)
        encoded = PromptedEncoder(made, {"tvp": more})(PIXELS, attention=True)
    assert encoded.features.patches.shape == wanted.patches.shape
    assert all(tuple(value.shape[1:]) == base.grid for value in encoded.attention.values())
    assert not any(parameter.requires_grad for parameter in made.parameters())


def test_what_does_not_fit_is_refused(tiny_backbone: Callable[..., Backbone]) -> None:
    with pytest.raises(TuningMismatch, match="tuned=full"):
        WithTokens(tiny_backbone("convolutional"), torch.zeros(1, 2, 96))
    with pytest.raises(TuningMismatch, match="do not fit"):
        WithTokens(tiny_backbone(), torch.zeros(1, 2, 32))
