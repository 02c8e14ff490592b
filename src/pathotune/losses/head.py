"""A linear head on standardised features: what both the probe and the prompted methods end in."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn


class StandardisedHead(nn.Module):
    """Base of the heads: features are first brought to zero mean and unit spread.

    Backbones differ by orders of magnitude in the scale of their features; standardised, one learning rate fits all.
    Heads compute in full precision also under autocast: a probability map in steps of 1/256 shows as bands on the
    slide.

    Parameters
    ----------
    width : D, the features' width.

    Attributes
    ----------
    temperature : logits are divided by it (calibration; 1 while training). It is kept by the tuning, not in the state.
    """

    mean: Tensor
    spread: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("spread", torch.ones(width))
        self.temperature = 1.0

    def scaled(self, features: Tensor) -> Tensor:
        """The features as the head sees them, float32."""
        return (features.float() - self.mean) / self.spread

    def begin(self, features: Tensor, labels: np.ndarray) -> None:
        """Look once at the training tiles before the first step: take over the features' scale.

        Parameters
        ----------
        features : (n, D).
        labels : (n,) class indexes.
        """
        self.standardise(features)

    def standardise(self, features: Tensor) -> None:
        """Take mean and spread from the training tiles' features (n, D)."""
        features = features.float()
        self.mean.copy_(features.mean(dim=0))
        spread = features.std(dim=0, unbiased=False)
        # A channel that never changes keeps its scale instead of being blown up.
        self.spread.copy_(torch.where(spread > 1e-6, spread, torch.ones_like(spread)))


class LinearHead(StandardisedHead):
    """Class logits by one linear layer on standardised features.

    Parameters
    ----------
    width : D, the features' width.
    classes : K.
    first_fit : inverse of the L2 penalty of a logistic regression that it begins with; 0 begins from nothing.
    """

    def __init__(self, width: int, classes: int, first_fit: float = 0.0) -> None:
        super().__init__(width)
        self.first_fit = first_fit
        self.linear = nn.Linear(width, classes)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, features: Tensor) -> Tensor:
        """(b, D) float32 → (b, K)."""
        with torch.autocast(features.device.type, enabled=False):
            logits = self.linear(self.scaled(features))
        return logits / self.temperature  # type: ignore[no-any-return]

    def begin(self, features: Tensor, labels: np.ndarray) -> None:
        """Standardise and, where that is wanted, fit."""
        super().begin(features, labels)
        if self.first_fit:
            self.fit(features, labels, self.first_fit)

    def fit(self, features: Tensor, labels: np.ndarray, strength: float) -> None:
        """Start from a logistic regression on the training tiles' features.

        Parameters
        ----------
        features : (n, D).
        labels : (n,) class indexes; each class occurs.
        strength : inverse of the L2 penalty (scikit-learn's C). Small values leave the loss far from zero, so that
            what lies before the head still gets gradients.
        """
        from scipy.optimize import minimize
        from scipy.special import log_softmax

        scaled = self.scaled(features).cpu().numpy().astype(np.float64)
        rows, (tiles, width) = self.linear.out_features, scaled.shape
        counts = np.bincount(labels, minlength=rows)
        shares = (tiles / ((counts > 0).sum() * np.maximum(counts, 1)))[labels]  # every class counts alike
        truth = np.eye(rows)[labels]
        # Of two classes scikit-learn penalises the difference of the rows, whose square is twice the rows' sum.
        penalty = (2.0 if rows == 2 else 1.0) / strength

        def loss(numbers: np.ndarray) -> tuple[float, np.ndarray]:
            weight, bias = numbers[:-rows].reshape(rows, width), numbers[-rows:]
            logs = log_softmax(scaled @ weight.T + bias, axis=1)
            errors = (np.exp(logs) - truth) * shares[:, None]
            value = -float(shares @ logs[np.arange(tiles), labels]) + 0.5 * penalty * float((weight**2).sum())
            return value, np.concatenate([(errors.T @ scaled + penalty * weight).ravel(), errors.sum(axis=0)])

        # By scipy, which is loaded anyway: to import scikit-learn alone takes longer than a tuning's fits.
        found = minimize(loss, np.zeros(rows * (width + 1)), jac=True, method="L-BFGS-B", options={"maxiter": 300}).x
        with torch.no_grad():
            self.linear.weight.copy_(torch.as_tensor(found[:-rows].reshape(rows, width), dtype=torch.float32))
            self.linear.bias.copy_(torch.as_tensor(found[-rows:], dtype=torch.float32))
