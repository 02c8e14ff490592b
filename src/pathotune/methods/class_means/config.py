"""Options of the nearest class mean: there are none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pathotune.methods.base import MethodConfig


@dataclass(frozen=True)
class ClassMeansConfig(MethodConfig):
    """Options of the nearest class mean."""

    trains_on_features: ClassVar[bool] = True
