"""Colour statistics of tiles with a logistic regression: what a model must beat to have seen more than colour."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float64]

PERCENTILES = (5, 25, 50, 75, 95)


def colour_statistics(images: Pixels) -> Floats:
    """Numbers that know the colours of a tile and nothing of where they are.

    Parameters
    ----------
    images : (n, h, w, 3) uint8.

    Returns
    -------
    (n, 34): of each channel's optical density mean, standard deviation and five percentiles, the correlations between
    the channels, and the same seven numbers of the whole density and three of the saturation.
    """
    rows = [_one(image) for image in images]
    return np.stack(rows) if rows else np.zeros((0, 34))


def _one(image: Pixels) -> Floats:
    density = -np.log((image.reshape(-1, 3).astype(np.float64) + 1.0) / 256.0)
    total = density.mean(axis=1)
    saturation = density.max(axis=1) - density.min(axis=1)
    spread = density.std(axis=0)
    # A tile of one colour has no correlation; the small number keeps it from being not-a-number.
    correlation = np.cov(density.T) / (np.outer(spread, spread) + 1e-9)
    parts = [
        density.mean(axis=0),
        spread,
        np.percentile(density, PERCENTILES, axis=0).ravel(),
        correlation[np.triu_indices(3, 1)],
        [total.mean(), total.std(), *np.percentile(total, PERCENTILES)],
        [saturation.mean(), saturation.std(), np.percentile(saturation, 95)],
    ]
    return np.concatenate([np.asarray(part, dtype=np.float64) for part in parts])


def colour_baseline(
    train_images: Pixels, train_labels: NDArray[np.integer], test_images: Pixels, classes: int, seed: int = 0
) -> Floats:
    """Probabilities (n, classes) of the test tiles by logistic regression on colour statistics.

    Parameters
    ----------
    train_images, test_images : (n, h, w, 3) uint8.
    train_labels : (n,) class indices; a class without a tile gets probability 0.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(
        StandardScaler(), LogisticRegression(C=1.0, max_iter=2000, class_weight="balanced", random_state=seed)
    )
    model.fit(colour_statistics(train_images), train_labels)
    result = np.zeros((len(test_images), classes))
    result[:, model[-1].classes_] = model.predict_proba(colour_statistics(test_images))
    return result
