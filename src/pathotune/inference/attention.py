"""From a method's attention maps to the values of the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

_LARGEST = 65504.0  # of float16


def relative_attention(maps: Mapping[str, Tensor], sources: Sequence[str]) -> Tensor:
    """Attention maps in one tensor, each patch's share relative to an even share of the tile.

    A share of 1 / patches becomes 1, so that the numbers mean the same for every backbone and keep their digits in
    float16.

    Parameters
    ----------
    maps : source → (batch, rows, columns), shares of attention.
    sources : which, in this order.

    Returns
    -------
    (batch, source, rows, columns) float16, finite where the input is.
    """
    stacked = torch.stack([maps[name] for name in sources], dim=1).float()  # (batch, source, rows, columns)
    patches = stacked.shape[-2] * stacked.shape[-1]
    return (stacked * patches).clamp(max=_LARGEST).half()
