"""Linear models on vectors of patients: logistic regression for classes and Cox regression for survival."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pathotune.errors import MissingPackage, NoTiles

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
# Penalty of the Cox regression and inverse penalty of the logistic regression, on vectors whose numbers vary by 1 in
# the mean. The published inverse penalty of 1 is on vectors of length 1, whose numbers vary by 0.05 or so: in the units
# here that is 0.0025, near to what stands here. The published ridge of 0.1 leaves a Cox regression on hundreds of
# numbers next to free, and a hundred events are learned by heart.
RIDGE = 10.0
STRENGTH = 0.01
ITERATIONS = 200


def c_index(time: Floats, event: Integers, risk: Floats) -> float | None:
    """Harrell's concordance index: of pairs whose order is known, how many have the higher risk on the earlier event.

    Parameters
    ----------
    time : (n,) to the event or to the last sight.
    event : (n,) 1 where it happened, 0 where not; others are left out.
    risk : (n,) higher is worse; equal risks count half.

    Returns
    -------
    Between 0 and 1, or None without any comparable pair.
    """
    known = np.isfinite(time) & (event >= 0) & np.isfinite(risk)
    time, event, risk = time[known], event[known], risk[known]
    earlier = (time[:, None] < time[None, :]) | (
        (time[:, None] == time[None, :]) & (event[:, None] == 1) & (event[None, :] == 0)
    )
    pairs = earlier & (event[:, None] == 1)
    if not pairs.any():
        return None
    higher = (risk[:, None] > risk[None, :]) + 0.5 * (risk[:, None] == risk[None, :])
    return float((higher * pairs).sum() / pairs.sum())


def c_index_interval(
    time: Floats, event: Integers, risk: Floats, draws: int = 1000, seed: int = 0
) -> tuple[float, float] | None:
    """95 % interval of the concordance index over patients drawn with replacement; None where there is none."""
    random = np.random.default_rng(seed)
    found = []
    for _ in range(draws):
        drawn = random.integers(0, len(time), len(time))
        value = c_index(time[drawn], event[drawn], risk[drawn])
        if value is not None:
            found.append(value)
    if not found:
        return None
    low, high = np.quantile(found, (0.025, 0.975)).tolist()
    return float(low), float(high)


@dataclass(frozen=True)
class Standard:
    """Mean and spread of the training patients' vectors, (d,) each.

    The spread is one for all numbers of a vector. Training makes those vary most that say most of the targets; each
    brought to its own spread, what hardly varies would count as much, and that is chance.
    """

    mean: Floats
    spread: Floats

    @classmethod
    def fit(cls, vectors: NDArray[np.floating]) -> Standard:
        """Of (n, d) vectors; where none of the numbers varies the spread is 1."""
        values = vectors.astype(np.float64)
        spread = float(np.sqrt(values.var(axis=0).mean()))
        return cls(values.mean(axis=0), np.full(values.shape[1], spread if spread > 1e-9 else 1.0))

    def __call__(self, vectors: NDArray[np.floating]) -> Floats:
        """(n, d) standardised."""
        return np.asarray((vectors - self.mean) / self.spread, dtype=np.float64)


@dataclass(frozen=True)
class ClassModel:
    """Logistic regression on standardised vectors: (K, d) weights and (K,) biases before a softmax."""

    standard: Standard
    weights: Floats
    bias: Floats

    @classmethod
    def fit(
        cls, vectors: NDArray[np.floating], labels: Integers, classes: int, strength: float = STRENGTH
    ) -> ClassModel:
        """Learn from (n, d) vectors and their (n,) class indexes.

        Parameters
        ----------
        strength : inverse of the L2 penalty.

        Raises
        ------
        NoTiles : patients of one class only.
        """
        from sklearn.linear_model import LogisticRegression

        there = np.unique(labels)
        if len(there) < 2:
            raise NoTiles("The patients to learn from are all of one class; add patients of another.")
        standard = Standard.fit(vectors)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a fit that is not quite at its end serves as well
            model = LogisticRegression(C=strength, max_iter=ITERATIONS, class_weight="balanced")
            model.fit(standard(vectors), labels)
        weights = np.zeros((classes, vectors.shape[1]))
        bias = np.full(classes, -50.0)  # a class nobody has is never said
        rows, values = model.coef_, model.intercept_
        if len(there) == 2:
            rows, values = np.concatenate([-rows, rows]) / 2, np.concatenate([-values, values]) / 2
        weights[there], bias[there] = rows, values
        return cls(standard, weights, bias)

    def probabilities(self, vectors: NDArray[np.floating]) -> Floats:
        """(n, K)."""
        logits = self.standard(vectors) @ self.weights.T + self.bias
        logits -= logits.max(axis=1, keepdims=True)
        return np.asarray(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True))

    def tensors(self, prefix: str) -> dict[str, NDArray[np.float32]]:
        """The numbers by name, for a tuning file."""
        return _single(prefix, self.standard, weights=self.weights, bias=self.bias)

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, NDArray[np.floating]], prefix: str) -> ClassModel | None:
        """Made again; None where the file has none of that name."""
        if f"{prefix}weights" not in tensors:
            return None
        return cls(_standard(tensors, prefix), _double(tensors, prefix, "weights"), _double(tensors, prefix, "bias"))


@dataclass(frozen=True)
class CoxModel:
    """Cox's proportional hazards on standardised vectors: (d,) coefficients."""

    standard: Standard
    weights: Floats

    @classmethod
    def fit(cls, vectors: NDArray[np.floating], time: Floats, event: Integers, ridge: float = RIDGE) -> CoxModel:
        """Learn from (n, d) vectors, (n,) times and (n,) events.

        Parameters
        ----------
        ridge : penalty on the squares of the coefficients, against the mean of the likelihood over the patients.

        Raises
        ------
        MissingPackage : scikit-survival is not installed.
        NoTiles : fewer than two events.
        """
        if importlib.util.find_spec("sksurv") is None:
            raise MissingPackage("scikit-survival", "Cox regression", "pip install 'pathotune[survival]'")
        if int((event > 0).sum()) < 2:
            raise NoTiles("A survival model needs at least two patients with an event to learn from.")
        from sksurv.linear_model import CoxPHSurvivalAnalysis

        standard = Standard.fit(vectors)
        outcome = np.empty(len(time), dtype=[("event", bool), ("time", np.float64)])
        outcome["event"], outcome["time"] = event > 0, time
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a fit that is not quite at its end serves as well
            model = CoxPHSurvivalAnalysis(alpha=ridge * len(time), tol=1e-6)
            model.fit(standard(vectors), outcome)
        return cls(standard, np.asarray(model.coef_, dtype=np.float64))

    def risk(self, vectors: NDArray[np.floating]) -> Floats:
        """(n,) log-hazards against the mean of the training patients."""
        return np.asarray(self.standard(vectors) @ self.weights)

    def tensors(self, prefix: str) -> dict[str, NDArray[np.float32]]:
        """The numbers by name, for a tuning file."""
        return _single(prefix, self.standard, weights=self.weights)

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, NDArray[np.floating]], prefix: str) -> CoxModel | None:
        """Made again; None where the file has none of that name."""
        if f"{prefix}weights" not in tensors:
            return None
        return cls(_standard(tensors, prefix), _double(tensors, prefix, "weights"))


def has_cox() -> bool:
    """Whether Cox regression can be fitted here."""
    return importlib.util.find_spec("sksurv") is not None


def _single(prefix: str, standard: Standard, **values: Floats) -> dict[str, NDArray[np.float32]]:
    numbers = {"mean": standard.mean, "spread": standard.spread, **values}
    return {prefix + name: np.asarray(value, dtype=np.float32) for name, value in numbers.items()}


def _double(tensors: Mapping[str, NDArray[np.floating]], prefix: str, name: str) -> Floats:
    return np.asarray(tensors[prefix + name], dtype=np.float64)


def _standard(tensors: Mapping[str, NDArray[np.floating]], prefix: str) -> Standard:
    return Standard(_double(tensors, prefix, "mean"), _double(tensors, prefix, "spread"))
