"""Contrast of two sides of the same samples (symmetric InfoNCE), and how well one side finds the other."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

HIGHEST_SCALE = 100.0  # of a learned temperature, as in CLIP: the gradient dies above it


class InfoNCE(nn.Module):
    """Symmetric InfoNCE: each sample's two sides shall be more alike than either is to any other sample's.

    ``S = U Vᵀ / temperature`` with unit vectors; the loss is the mean of the cross entropies of its rows and of its
    columns against the diagonal (Radford et al. 2021).

    Parameters
    ----------
    temperature : at the start, or fixed.
    learned : train its logarithm.
    """

    log_scale: Tensor

    def __init__(self, temperature: float = 0.07, learned: bool = False) -> None:
        super().__init__()
        value = torch.tensor(-math.log(temperature))
        if learned:
            self.log_scale = nn.Parameter(value)
        else:
            self.register_buffer("log_scale", value, persistent=False)

    @property
    def scale(self) -> Tensor:
        """1 / temperature."""
        return self.log_scale.exp().clamp(max=HIGHEST_SCALE)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Loss of (b, d) and (b, d), row i of both from the same sample; a scalar."""
        scores = self.scale * functional.normalize(first, dim=1) @ functional.normalize(second, dim=1).T  # (b, b)
        own = torch.arange(len(scores), device=scores.device)
        return 0.5 * (functional.cross_entropy(scores, own) + functional.cross_entropy(scores.T, own))


def recall_at(
    queries: NDArray[np.float32], keys: NDArray[np.float32], counts: Sequence[int] = (1, 5, 10)
) -> dict[str, float]:
    """Share of queries whose own partner is among the most similar keys.

    Parameters
    ----------
    queries, keys : (n, d), row i of both from the same sample; compared by their cosine. Ties count against it.
    counts : how many keys are looked at; those of n or more are left out, as they are always met.

    Returns
    -------
    {"recall@1": …, …} and "chance@1", … what guessing gives.
    """
    one, two = (part / np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-12) for part in (queries, keys))
    scores = one @ two.T
    own = np.diagonal(scores)[:, None]
    better = (scores >= own).sum(axis=1) - 1  # how many others are at least as similar
    found: dict[str, float] = {}
    for count in counts:
        if count < len(scores):
            found[f"recall@{count}"] = float((better < count).mean())
            found[f"chance@{count}"] = count / len(scores)
    return found
