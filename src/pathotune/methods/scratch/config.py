"""Options of training from scratch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pathotune.methods.base import MethodConfig


@dataclass(frozen=True)
class ScratchConfig(MethodConfig):
    """Options of training from scratch."""

    rate: Annotated[
        float,
        {
            "min": 1e-5,
            "max": 1.0,
            "step": 1e-3,
            "tooltip": "The network's learning rate as a share of the head's.",
        },
    ] = 0.1
