"""The optimiser of a training and one step of it, the same for every loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pathotune.errors import NotFinite

if TYPE_CHECKING:
    from torch import nn, optim

    from pathotune.training.schedule import TrainingConfig

GRADIENT_NORM = 1.0


def optimizer_for(
    parameters: Mapping[str, nn.Parameter],
    training: TrainingConfig,
    lr: float,
    share: Callable[[str], float] = lambda name: 1.0,
) -> optim.Optimizer:
    """AdamW or plain SGD over parameters by name.

    Weight decay is for matrices and kernels; none for norms, gates, biases and the prompt tokens themselves.

    Parameters
    ----------
    share : of the learning rate, at which a parameter of that name is trained.
    """
    import torch

    found: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, value in parameters.items():
        decay = training.weight_decay if value.ndim >= 2 and name.endswith("weight") else 0.0
        found.setdefault((decay, share(name)), []).append(value)
    groups: list[dict[str, Any]] = [
        {"params": values, "weight_decay": decay, "share": part} for (decay, part), values in found.items()
    ] or [{"params": []}]
    kind = torch.optim.SGD if training.optimizer == "sgd" else torch.optim.AdamW
    return kind(groups, lr=lr)


def take_step(optimizer: optim.Optimizer, loss: float, rate: float, most: float = GRADIENT_NORM) -> None:
    """One step at this learning rate with the gradients that lie in the parameters.

    Parameters
    ----------
    most : their norm is cut at it; 0 leaves it as it is.

    Raises
    ------
    NotFinite
        The loss or a gradient is no number; nothing was changed.
    """
    import torch

    parameters = []
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("share", 1.0)
        parameters += group["params"]
    norm = torch.nn.utils.clip_grad_norm_(parameters, most or math.inf)
    if not (math.isfinite(loss) and bool(torch.isfinite(norm))):
        raise NotFinite(
            f"The training went astray (loss {loss:g}, gradient {float(norm):g}). "
            "Lower the learning rate with --lr, or use --set precision=float32."
        )
    optimizer.step()
