"""Visual prompt tuning's options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pathotune.methods.base import HeadStart, LateConfig


@dataclass(frozen=True)
class VptConfig(LateConfig):
    """Options of visual prompt tuning (Jia et al. 2022)."""

    tokens: Annotated[int, {"min": 1, "max": 200, "tooltip": "Learned tokens per block."}] = 10
    depth: Annotated[
        Literal["deep", "shallow"],
        {"tooltip": "deep: tokens of their own at every block. shallow: only at the first."},
    ] = "deep"
    head_start: HeadStart = "probe"
