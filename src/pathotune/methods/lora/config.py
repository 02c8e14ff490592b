"""LoRA's options: how many numbers, how strong, and in which layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pathotune.methods.base import HeadStart, LateConfig


@dataclass(frozen=True)
class LoraConfig(LateConfig):
    """Options of low-rank adaptation (Hu et al. 2022)."""

    rank: Annotated[int, {"min": 1, "max": 256, "tooltip": "Rank of what is added to each weight matrix."}] = 8
    alpha: Annotated[float, {"min": 0.1, "max": 1024.0, "tooltip": "What is added is multiplied by alpha / rank."}] = (
        16.0
    )
    layers: Annotated[
        Literal["attention", "qkv", "all"],
        {
            "tooltip": "attention: queries, keys, values and the projection behind them. qkv: without that projection. "
            "all: the MLPs too."
        },
    ] = "attention"
    head_start: HeadStart = "probe"

    @property
    def roles(self) -> tuple[str, ...]:
        """The layers by the backbone's names for their roles."""
        return {"attention": ("qkv", "proj"), "qkv": ("qkv",), "all": ("qkv", "proj", "mlp")}[self.layers]
