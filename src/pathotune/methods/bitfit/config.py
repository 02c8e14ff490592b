"""BitFit's options."""

from __future__ import annotations

from dataclasses import dataclass

from pathotune.methods.base import HeadStart, LateConfig


@dataclass(frozen=True)
class BitFitConfig(LateConfig):
    """Options of BitFit (Ben Zaken et al. 2022)."""

    head_start: HeadStart = "probe"
