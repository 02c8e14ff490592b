"""Tiny frozen backbones with random weights, one of each kind, for every stage's tests."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tiny import tiny_card

from pathotune.backbones import load_backbone
from pathotune.backbones.surface import Backbone


@pytest.fixture(scope="session")
def tiny_backbone() -> Callable[..., Backbone]:
    """A function that gives a fresh tiny backbone: `tiny_backbone("rotary", seed=1)`."""

    def make(kind: str = "plain", seed: int = 0) -> Backbone:
        return load_backbone(tiny_card(kind), random_seed=seed)

    return make
