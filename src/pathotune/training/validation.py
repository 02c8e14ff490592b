"""How good an epoch is, as the validation tiles see it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pathotune.training.metrics import auc_ovr_macro, balanced_accuracy, temperature_fit


@dataclass(frozen=True)
class Scores:
    """Scores of one epoch.

    Attributes
    ----------
    loss : mean over classes of the mean cross-entropy, at the temperature that suits the logits best. A model that only
        grows too sure of itself, which calibration undoes, is so not taken for a worse one.
    balanced_accuracy, auc : on the same tiles; auc is nan where it does not exist.
    """

    loss: float
    balanced_accuracy: float
    auc: float

    def better_than(self, other: Scores) -> bool:
        """Whether this epoch is to be kept rather than the other: a lower loss by a little more than noise."""
        return self.loss < other.loss - 1e-4

    def metrics(self) -> dict[str, float]:
        """For the event and the history."""
        found = {"loss": self.loss, "balanced_accuracy": self.balanced_accuracy}
        return found if np.isnan(self.auc) else {**found, "auc": self.auc}


def softmax(logits: NDArray[np.floating], temperature: float = 1.0) -> NDArray[np.float64]:
    """(n, K) logits to probabilities that sum to 1."""
    scaled = logits.astype(np.float64) / temperature
    scaled -= scaled.max(axis=1, keepdims=True)
    powers = np.exp(scaled)
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def calibrated(logits: NDArray[np.floating], labels: NDArray[np.integer]) -> NDArray[np.float64]:
    """(n, K) probabilities from logits (n, K), at the temperature that suits them best."""
    return softmax(logits, temperature_fit(logits, labels))


def losses(probabilities: NDArray[np.float64], labels: NDArray[np.integer]) -> NDArray[np.float64]:
    """(n,) cross-entropy of each tile."""
    return np.asarray(-np.log(np.clip(probabilities[np.arange(len(labels)), labels], 1e-12, None)))


def score(logits: NDArray[np.floating], labels: NDArray[np.integer]) -> Scores:
    """Scores of logits (n, K) for tiles of these classes (n,)."""
    return score_of(calibrated(logits, labels), labels)


def score_of(probabilities: NDArray[np.float64], labels: NDArray[np.integer]) -> Scores:
    """Scores of probabilities (n, K)."""
    per_tile = losses(probabilities, labels)
    per_class = [per_tile[labels == label].mean() for label in np.unique(labels)]
    auc = auc_ovr_macro(labels, probabilities)
    return Scores(
        loss=float(np.mean(per_class)),
        balanced_accuracy=balanced_accuracy(labels, probabilities.argmax(axis=1), probabilities.shape[1]) or 0.0,
        auc=float("nan") if auc is None else auc,
    )
