"""What transcriptomics tuning adds: encoders of the two sides, and a head to genes that can be fitted at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

# Strengths of the ridge penalty that are tried, in units of the number of samples.
RIDGES = (1e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 10.0)


class ImageProjection(nn.Module):
    """(b, D) standardised features → (b, d), into the space both sides meet in."""

    def __init__(self, width: int, projection: int, dropout: float) -> None:
        super().__init__()
        self.inner = nn.Linear(width, projection)
        self.outer = nn.Linear(projection, projection)
        self.norm = nn.LayerNorm(projection)
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Tensor) -> Tensor:
        """Projected, with a residual around the second layer as in BLEEP's and CLIP-like heads."""
        projected = self.inner(features)
        result: Tensor = self.norm(projected + self.dropout(self.outer(nn.functional.gelu(projected))))
        return result


class ModalityEncoder(nn.Module):
    """Any row of numbers (expression, a sentence's vector, clinical values) → (b, d).

    Linear, LayerNorm, GELU, dropout, Linear. What is not known is 0, the mean, as the numbers are standardised.
    """

    def __init__(self, width: int, hidden: int, projection: int, dropout: float) -> None:
        super().__init__()
        self.first = nn.Linear(width, hidden)
        self.norm = nn.LayerNorm(hidden)
        self.dropout = nn.Dropout(dropout)
        self.last = nn.Linear(hidden, projection)

    def forward(self, values: Tensor) -> Tensor:
        """(b, p) → (b, d)."""
        hidden = self.norm(self.first(torch.nan_to_num(values)))
        result: Tensor = self.last(self.dropout(nn.functional.gelu(hidden)))
        return result


def squared_error(predicted: Tensor, wanted: Tensor) -> Tensor:
    """Mean squared error of (b, G) over what was measured."""
    known = torch.isfinite(wanted)
    error = torch.where(known, predicted - torch.nan_to_num(wanted), torch.zeros_like(predicted))
    return error.square().sum() / known.sum().clamp(min=1)


def correlation_loss(predicted: Tensor, wanted: Tensor) -> Tensor:
    """1 minus the mean over genes of the correlation within the batch; 0 for fewer than three samples."""
    if len(predicted) < 3:
        return predicted.sum() * 0
    known = torch.isfinite(wanted).all(dim=0)
    one, two = (part[:, known] - part[:, known].mean(dim=0) for part in (predicted, torch.nan_to_num(wanted)))
    norms = one.norm(dim=0) * two.norm(dim=0)
    correlations: Tensor = (one * two).sum(dim=0) / norms.clamp(min=1e-6)
    return 1 - correlations.mean()


class LinearMap(nn.Module):
    """(b, D) → (b, G)."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, outputs)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Z-scores of the genes."""
        result: Tensor = self.linear(features)
        return result

    @torch.no_grad()
    def fit(self, features: Tensor, wanted: Tensor, held_features: Tensor, held_wanted: Tensor) -> float:
        """Become the ridge regression that predicts the held-out samples best.

        Parameters
        ----------
        features, wanted : (n, D), (n, G) to learn from; missing values count as the mean.
        held_features, held_wanted : (m, D), (m, G) to choose the strength by; the weakest error wins.

        Returns
        -------
        The strength of the penalty, in units of the number of samples.
        """
        center, aim = features.mean(dim=0), torch.nan_to_num(wanted)
        base = aim.mean(dim=0)
        solutions = ridge_solutions(features - center, aim - base)
        errors = [float(squared_error((held_features - center) @ w + base, held_wanted)) for w in solutions]
        best = min(range(len(RIDGES)), key=errors.__getitem__)
        weight = solutions[best]
        self.linear.weight.copy_(weight.T)
        self.linear.bias.copy_(base - center @ weight)
        return RIDGES[best]


def ridge_solutions(features: Tensor, wanted: Tensor, strengths: Sequence[float] = RIDGES) -> list[Tensor]:
    """(D, G) of each strength, from one decomposition; features and aims are centred."""
    left, singular, right = torch.linalg.svd(features.double(), full_matrices=False)
    inner = left.T @ wanted.double()  # (k, G)
    return [
        (right.T @ ((singular / (singular**2 + strength * len(features)))[:, None] * inner)).float()
        for strength in strengths
    ]
