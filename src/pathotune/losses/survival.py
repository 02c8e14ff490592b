"""Learning from times to an event of which some are not known: Cox's partial likelihood."""

from __future__ import annotations

import torch
from torch import Tensor


def cox_loss(risk: Tensor, time: Tensor, event: Tensor) -> Tensor:
    """Negative logarithm of Cox's partial likelihood, mean over the events (ties as Breslow has them).

    Parameters
    ----------
    risk : (n,) log-hazards.
    time : (n,) times to the event or to the last sight.
    event : (n,) 1 where it happened.

    Returns
    -------
    A scalar; 0 without any event, so that such a batch gives no gradient.
    """
    happened = event > 0
    if not bool(happened.any()):
        return risk.sum() * 0.0
    order = torch.argsort(time, descending=True, stable=True)
    sorted_risk, sorted_time = risk[order].float(), time[order]
    # Whoever has the same time is at risk as well: the last place of each time counts.
    last = torch.searchsorted(-sorted_time.contiguous(), -sorted_time.contiguous(), right=True) - 1
    at_risk = torch.logcumsumexp(sorted_risk, dim=0)[last]
    return (at_risk - sorted_risk)[happened[order]].mean()
