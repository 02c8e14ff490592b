"""The linear probe's options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pathotune.methods.base import MethodConfig


@dataclass(frozen=True)
class LinearProbeConfig(MethodConfig):
    """Options of the linear probe."""

    trains_on_features: ClassVar[bool] = True

    views: Annotated[
        int,
        {"min": 1, "max": 8, "tooltip": "Each training tile is seen in this many turns and mirror images."},
    ] = 1
