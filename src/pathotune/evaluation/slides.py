"""A tuning judged on the whole slides of a cohort."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from pathotune.errors import UsageError

if TYPE_CHECKING:
    from pathotune.backbones.surface import Backbone
    from pathotune.datasets.cohort import CohortInputs
    from pathotune.events import Event
    from pathotune.methods.checkpoint import Tuning


def evaluate_votes(
    tuning: Tuning,
    inputs: CohortInputs,
    *,
    backbone: Backbone | None = None,
    device: str = "auto",
    cancel: Callable[[], bool] | None = None,
) -> Iterator[Event]:
    """Judge a tuning that answers tile by tile on whole slides."""
    raise UsageError(f"The method {tuning.method} answers for tiles; judge it on tiles or regions.")
    yield
