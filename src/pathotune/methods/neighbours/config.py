"""Options of the nearest neighbours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pathotune.methods.base import MethodConfig


@dataclass(frozen=True)
class NeighboursConfig(MethodConfig):
    """Options of the nearest neighbours."""

    trains_on_features: ClassVar[bool] = True

    neighbours: Annotated[int, {"min": 1, "max": 100, "tooltip": "How many training tiles are asked."}] = 5
