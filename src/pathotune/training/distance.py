"""How far a tile's features lie from everything a tuning was trained on, from the few numbers its file keeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pathotune.methods.checkpoint import Tuning

Floats = NDArray[np.floating[Any]]

AXES = 32  # directions in which the classes' own spread is told exactly; the others share one number
PROTOTYPES = 256  # training tiles whose features are kept, of all classes together
QUANTILES = (0.5, 0.9, 0.95, 0.99)
FEW = 20  # validation tiles below which the training tiles help to say what is usual
ROWS = 4096  # features compared with the prototypes at a time, which bounds the memory


@dataclass(frozen=True)
class FeatureSpace:
    """Where the training tiles lie in feature space.

    Distances follow Mahalanobis with one covariance for all classes (Lee et al., NeurIPS 2018), here as a few axes and
    one number for the rest, since a tuning has far fewer tiles than a covariance has entries.

    Parameters
    ----------
    mean : (K, D) of each class.
    spread : (D,) within classes.
    axes, axis_spread : (r, D), (r,) orthonormal directions of (feature - mean) / spread and the spread along each.
    rest_spread : along every other direction.
    usual : the distance that 99 % of held-out tiles stay below; `distance` is told in units of it.
    prototypes : (m, D) float16, (feature - centre) / spread of some training tiles.
    centre : (D,) mean of all training tiles.
    prototype_labels : (m,) class of each.
    places : where each prototype lies, ``{"slide", "box_px0"}`` with the slide's pseudonym, or None.
    """

    mean: Floats
    spread: Floats
    axes: Floats
    axis_spread: Floats
    rest_spread: float
    usual: float
    prototypes: Floats
    centre: Floats
    prototype_labels: NDArray[np.int64]
    places: tuple[dict[str, Any] | None, ...] = ()

    @classmethod
    def fit(
        cls,
        features: Floats,
        labels: NDArray[np.integer[Any]],
        held_out: Floats,
        seed: int = 0,
        places: Sequence[dict[str, Any] | None] = (),
    ) -> FeatureSpace:
        """Measure it on training tiles.

        Parameters
        ----------
        features, labels : (n, D), (n,) of training tiles; every class from 0 on occurs.
        held_out : (v, D) of validation tiles, which say what distance is usual.
        places : of the training tiles, or empty.
        """
        features = features.astype(np.float64)
        mean = np.stack([features[labels == label].mean(axis=0) for label in range(int(labels.max()) + 1)])
        spread = np.sqrt(((features - mean[labels]) ** 2).mean(axis=0))
        spread = np.where(spread > 1e-6, spread, 1.0)
        axes, axis_spread, rest = _axes((features - mean[labels]) / spread)
        chosen = _chosen(labels, seed)
        centre = features.mean(axis=0)
        space = cls(
            mean.astype(np.float32),
            spread.astype(np.float32),
            axes,
            axis_spread,
            rest,
            1.0,
            ((features[chosen] - centre) / spread).astype(np.float16),
            centre.astype(np.float32),
            np.asarray(labels[chosen], dtype=np.int64),
            tuple(places[index] for index in chosen) if places else (None,) * len(chosen),
        )
        seen = held_out if len(held_out) >= FEW else np.concatenate([held_out, features])
        usual = float(np.quantile(space.distance(seen), 0.99))
        return cls(**{**vars(space), "usual": max(usual, 1e-6)})

    @classmethod
    def of(cls, tuning: Tuning) -> FeatureSpace | None:
        """What the tuning's file says; None for a file from before these numbers were kept."""
        from pathotune.methods.checkpoint import STATISTICS

        kept = {name.removeprefix(STATISTICS): value for name, value in tuning.tensors.items()}
        facts = tuning.feature_statistics
        needed = ("mean", "spread", "axes", "axis_spread", "rest_spread", "prototypes", "centre", "prototype_labels")
        if any(name not in kept for name in needed) or "usual" not in facts:
            return None
        return cls(
            kept["mean"],
            kept["spread"],
            kept["axes"],
            kept["axis_spread"],
            float(kept["rest_spread"][0]),
            float(facts["usual"]),
            kept["prototypes"],
            kept["centre"],
            kept["prototype_labels"].astype(np.int64),
            tuple(facts.get("prototypes") or (None,) * len(kept["prototypes"])),
        )

    def tensors(self) -> dict[str, NDArray[Any]]:
        """For the tuning file, without the names' common beginning."""
        return {
            "mean": self.mean,
            "spread": self.spread,
            "axes": self.axes,
            "axis_spread": self.axis_spread,
            "rest_spread": np.asarray([self.rest_spread], dtype=np.float32),
            "prototypes": self.prototypes,
            "centre": self.centre,
            "prototype_labels": self.prototype_labels.astype(np.float32),
        }

    def distance(self, features: Floats) -> NDArray[np.float32]:
        """(n,) distance of features (n, D) from the nearest class; 1 is what 99 % of held-out tiles stay below."""
        features = np.asarray(features, dtype=np.float32)
        nearest = np.full(len(features), np.inf, dtype=np.float32)
        for center in self.mean.astype(np.float32):
            scaled = (features - center) / self.spread.astype(np.float32)
            along = scaled @ self.axes.T.astype(np.float32)  # (n, r)
            rest = np.maximum((scaled**2).sum(axis=1) - (along**2).sum(axis=1), 0) / self.rest_spread**2
            squared = (((along / self.axis_spread) ** 2).sum(axis=1) + rest) / scaled.shape[1]
            nearest = np.minimum(nearest, squared)
        return np.asarray(np.sqrt(nearest) / self.usual, dtype=np.float32)

    def nearest(self, features: Floats) -> NDArray[np.int64]:
        """(n,) index of the prototype most like each of the features (n, D)."""
        prototypes = self.prototypes.astype(np.float32)
        lengths = (prototypes**2).sum(axis=1)
        found = []
        for start in range(0, len(features), ROWS):
            scaled = (np.asarray(features[start : start + ROWS], dtype=np.float32) - self.centre) / self.spread
            found.append(np.argmin(lengths - 2 * scaled @ prototypes.T, axis=1))
        return np.concatenate(found) if found else np.zeros(0, dtype=np.int64)


def _axes(scaled: Floats) -> tuple[NDArray[np.float32], NDArray[np.float32], float]:
    """Axes of largest spread (r, D), the spread along each (r,), and that along all others.

    The others' spread is never taken for less than a third of the mean: with few tiles it would come out as nothing.
    """
    count, width = scaled.shape
    rank = int(min(AXES, max(1, (count - 1) // 4), width))
    _, values, rows = np.linalg.svd(scaled, full_matrices=False)
    variance = values**2 / count
    total = float(variance.sum())
    rest = (total - float(variance[:rank].sum())) / max(1, width - rank)
    floor = total / width / 3
    along = np.sqrt(np.maximum(variance[:rank], max(floor, 1e-12)))
    return rows[:rank].astype(np.float32), along.astype(np.float32), float(np.float32(np.sqrt(max(rest, floor, 1e-12))))


def _chosen(labels: NDArray[np.integer[Any]], seed: int) -> NDArray[np.int64]:
    """Tiles kept as prototypes, as many of each class as there is room for."""
    from pathotune.training.draws import balanced_part

    classes = len(np.unique(labels))
    return balanced_part(labels, np.arange(len(labels)), max(1, PROTOTYPES // classes), seed)
