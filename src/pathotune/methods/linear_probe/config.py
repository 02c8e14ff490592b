"""The linear probe's options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pathotune.methods.base import MethodConfig


@dataclass(frozen=True)
class LinearProbeConfig(MethodConfig):
    """Options of the linear probe."""

    trains_on_features: ClassVar[bool] = True

    views: Annotated[
        int,
        {"min": 1, "max": 8, "tooltip": "Each training tile is seen in this many turns and mirror images."},
    ] = 1
    solver: Annotated[
        Literal["regression", "steps"],
        {
            "tooltip": "regression: a logistic regression; each epoch is one fit, under a weaker penalty than the "
            "one before, and the held-out tiles choose. steps: by "
            "gradient descent as the other methods are trained, which learning rate and epochs are for."
        },
    ] = "regression"

    @property
    def is_solved(self) -> bool:
        """Whether it is a logistic regression."""
        return self.solver == "regression"
