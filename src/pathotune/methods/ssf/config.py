"""SSF's options."""

from __future__ import annotations

from dataclasses import dataclass

from pathotune.methods.base import HeadStart, LateConfig


@dataclass(frozen=True)
class SsfConfig(LateConfig):
    """Options of scaling and shifting features (Lian et al. 2022)."""

    head_start: HeadStart = "probe"
