"""The adapters' options: how wide, and where."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pathotune.methods.base import HeadStart, LateConfig


@dataclass(frozen=True)
class AdapterConfig(LateConfig):
    """Options of bottleneck adapters (Houlsby et al. 2019)."""

    width: Annotated[int, {"min": 1, "max": 1024, "tooltip": "Channels inside each adapter."}] = 64
    places: Annotated[
        Literal["both", "mlp"],
        {"tooltip": "both: adapters behind the attention and the MLP of each block. mlp: behind the MLP only."},
    ] = "both"
    head_start: HeadStart = "probe"
