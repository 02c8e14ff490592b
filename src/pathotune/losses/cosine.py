"""A head of cosines: features projected into a text model's space and compared with the classes' sentences."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from pathotune.losses.head import StandardisedHead

# The projection's first values (CITE's ProjectionNeck): an identity in the upper left corner, and noise.
NOISE = 0.02
# Weight of the features' size in the regression that the projection may start from, in units of their mean square.
RIDGE = 10.0


class CosineHead(StandardisedHead):
    """Scaled cosines between projected features and one fixed vector per class (CITE, MICCAI 2023).

    Parameters
    ----------
    width : D, the features' width.
    texts : (K, D_t) the classes' vectors.
    scale : the cosines are multiplied by it.
    learn_scale : train its logarithm.
    standardised : features are first brought to zero mean and unit spread.
    fitted : the projection begins with a regression on the training tiles; else with the published start.
    noise : spread of the published start's noise; with none, features of an image–text model begin as they are.
    """

    texts: Tensor
    log_scale: Tensor

    def __init__(
        self,
        width: int,
        texts: np.ndarray,
        scale: float = 100.0,
        learn_scale: bool = False,
        standardised: bool = True,
        fitted: bool = True,
        noise: float = NOISE,
    ) -> None:
        super().__init__(width)
        self.standardised, self.fitted = standardised, fitted
        # Not in the state: the tuning file keeps the sentences' vectors once, under their own name.
        vectors = functional.normalize(torch.as_tensor(texts, dtype=torch.float32), dim=1)
        self.register_buffer("texts", vectors, persistent=False)
        self.neck = nn.Linear(width, vectors.shape[1])
        value = torch.tensor([math.log(scale)])  # one number, but a row: files of tensors know no bare numbers
        if learn_scale:
            self.log_scale = nn.Parameter(value)
        else:
            self.register_buffer("log_scale", value, persistent=False)
        self._start_at_identity(noise)

    def forward(self, features: Tensor) -> Tensor:
        """(b, D) float32 → (b, K)."""
        with torch.autocast(features.device.type, enabled=False):
            projected = functional.normalize(self.neck(self.scaled(features)), dim=1)
            logits: Tensor = self.log_scale.exp() * projected @ self.texts.T
        return logits / self.temperature

    def begin(self, features: Tensor, labels: np.ndarray) -> None:
        """Standardise and fit, each where it is wanted."""
        if self.standardised:
            super().begin(features, labels)
        if self.fitted:
            self.fit(features, labels)

    def _start_at_identity(self, noise: float) -> None:
        """The published start: the features as they are, as far as the widths go, and a little noise."""
        with torch.no_grad():
            nn.init.normal_(self.neck.weight, std=noise)
            nn.init.zeros_(self.neck.bias)
            self.neck.weight += torch.eye(*self.neck.weight.shape, device=self.neck.weight.device)

    def fit(self, features: Tensor, labels: np.ndarray) -> None:
        """Start from a ridge regression of the training tiles' features onto their classes' vectors.

        Parameters
        ----------
        features : (n, D).
        labels : (n,) class indexes; every class counts the same, however many tiles it has.
        """
        inputs = self.scaled(features).double()
        kinds = torch.as_tensor(np.asarray(labels), device=inputs.device)
        counts = torch.bincount(kinds, minlength=len(self.texts)).clamp_min(1)
        weights = (len(kinds) / counts[kinds] / int((counts > 0).sum())).double()[:, None]
        targets = self.texts.double()[kinds]
        total = weights.sum()
        centre, middle = (weights * inputs).sum(0) / total, (weights * targets).sum(0) / total
        inputs, targets = inputs - centre, targets - middle
        gram = inputs.T @ (weights * inputs)
        # As strong as so many tiles: with few tiles the regression only says in which direction a class lies.
        size = gram.diagonal().mean().clamp_min(1e-12) / total
        gram += RIDGE * size * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        solved = torch.linalg.solve(gram, inputs.T @ (weights * targets))  # (D, D_t)
        # Equally far from every class: where the mean lies, one class is nearer than another.
        even = torch.linalg.pinv(self.texts.double()).sum(dim=1)
        even *= middle.norm() / even.norm().clamp_min(1e-12)
        gentle = self._gentle(inputs @ solved, even, middle, kinds, weights[:, 0])
        with torch.no_grad():
            self.neck.weight.copy_(gentle * solved.T)
            self.neck.bias.copy_(torch.lerp(even, middle, gentle) - gentle * centre @ solved)

    def _gentle(self, inputs: Tensor, even: Tensor, middle: Tensor, labels: Tensor, weights: Tensor) -> float:
        """The share of a regression that leaves half the loss of a guess.

        Cosines times a hundred are soon so sure that nothing is left to learn from: what lies before the head would
        get no gradients.
        """
        least, most, texts = 0.0, 1.0, self.texts.double().T
        for _ in range(20):
            share = (least + most) / 2
            cosines = functional.normalize(torch.lerp(even, middle, share) + share * inputs, dim=1) @ texts
            losses = functional.cross_entropy(self.log_scale.detach().exp() * cosines, labels, reduction="none")
            loss = float((weights * losses).sum() / weights.sum())
            least, most = (share, most) if loss > math.log(len(self.texts)) / 2 else (least, share)
        return most


class WordingHead(StandardisedHead):
    """Scaled cosines between features and one vector per class, both of one image–text model; nothing is trained.

    Parameters
    ----------
    width : D, the features' width.
    texts : (K, D) the classes' vectors.
    scale : the cosines are multiplied by it.
    """

    texts: Tensor
    scale: Tensor

    def __init__(self, width: int, texts: np.ndarray, scale: float) -> None:
        super().__init__(width)
        vectors = functional.normalize(torch.as_tensor(texts, dtype=torch.float32), dim=1)
        # The file keeps the sentences' vectors once, under their own name; the scale is the model's own.
        self.register_buffer("texts", vectors, persistent=False)
        self.register_buffer("scale", torch.tensor([scale], dtype=torch.float32))

    def forward(self, features: Tensor) -> Tensor:
        """(b, D) float32 → (b, K)."""
        with torch.autocast(features.device.type, enabled=False):
            logits: Tensor = self.scale * functional.normalize(features.float(), dim=1) @ self.texts.T
        return logits / self.temperature

    def begin(self, features: Tensor, labels: np.ndarray) -> None:
        """Nothing: features and sentences lie in one space as they are."""
