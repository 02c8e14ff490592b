"""Full fine-tuning's options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pathotune.methods.base import HeadStart, MethodConfig


@dataclass(frozen=True)
class FullConfig(MethodConfig):
    """Options of full fine-tuning."""

    rate: Annotated[
        float,
        {
            "min": 1e-5,
            "max": 1.0,
            "step": 1e-3,
            "tooltip": "The backbone's learning rate as a share of the head's: its weights are good already.",
        },
    ] = 0.01
    head_start: HeadStart = "probe"
