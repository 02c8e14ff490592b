"""Arithmetic on arrays of one value per grid cell: which part a work unit owns, labels, uncertainty, means of four."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pathotune.inference.plan import Unit


class UnitValues(NamedTuple):
    """The values of one work unit; 0 where nothing is predicted, None what its store does not keep.

    probabilities : (K, rows, columns).
    attention : (S, rows * samples, columns * samples).
    reliability : (M, rows, columns).
    features : (rows, columns, D).
    """

    probabilities: NDArray[np.float32]
    attention: NDArray[np.float16] | None = None
    reliability: NDArray[np.float16] | None = None
    features: NDArray[np.float16] | None = None

    def copy(self) -> UnitValues:
        """The same values in arrays of their own."""
        return UnitValues(*(None if array is None else array.copy() for array in self))  # type: ignore[arg-type]


def unit_part(unit: Unit, per_cell: tuple[int, int] = (1, 1)) -> tuple[slice, slice]:
    """Rows and columns of an array that a unit owns."""
    y, x = per_cell
    return (
        slice(unit.row * y, (unit.row + unit.rows) * y),
        slice(unit.column * x, (unit.column + unit.columns) * x),
    )


def labels_of(probabilities: NDArray[Any]) -> NDArray[np.uint8]:
    """(rows, columns) label of the most probable class, its index + 1; 0 where nothing is predicted."""
    labels = probabilities.argmax(axis=0).astype(np.uint8) + np.uint8(1)
    return np.where(probabilities.sum(axis=0) > 0, labels, np.uint8(0))


def uncertainty_of(probabilities: NDArray[Any]) -> NDArray[np.float32]:
    """1 - the largest probability along the first axis: how often so sure a calibrated model is wrong."""
    return np.asarray(1 - probabilities.max(axis=0), np.float32)


def mean_of_four(values: NDArray[Any]) -> NDArray[Any]:
    """Half as many rows and columns; each the mean of the up to four values that are predicted."""
    channels, rows, columns = values.shape
    padded = np.zeros((channels, rows + rows % 2, columns + columns % 2), np.float32)
    padded[:, :rows, :columns] = values
    quads = padded.reshape(channels, padded.shape[1] // 2, 2, padded.shape[2] // 2, 2)
    predicted = (quads > 0).any(axis=0, keepdims=True)
    count = predicted.sum(axis=(2, 4))
    mean = quads.sum(axis=(2, 4)) / np.maximum(count, 1)
    return np.asarray(mean.astype(values.dtype))


def votes_of(labels: NDArray[np.uint8], classes: int) -> NDArray[np.uint16]:
    """(class, rows, columns) one where a cell has that class, zeros where nothing is predicted."""
    votes: NDArray[np.uint16] = (labels == np.arange(1, classes + 1)[:, None, None]).astype(np.uint16)
    return votes


def sum_of_four(values: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Half as many rows and columns; each the sum of the up to four values."""
    channels, rows, columns = values.shape
    padded = np.zeros((channels, rows + rows % 2, columns + columns % 2), np.uint16)
    padded[:, :rows, :columns] = values
    summed: NDArray[np.uint16] = padded.reshape(channels, padded.shape[1] // 2, 2, padded.shape[2] // 2, 2).sum(
        axis=(2, 4), dtype=np.uint16
    )
    return summed


def majority(votes: NDArray[np.uint16], probabilities: NDArray[Any]) -> NDArray[np.uint8]:
    """(rows, columns) label with the most votes, of several the most probable; 0 where nobody votes.

    The class of the largest mean probability could be one that none of the cells has.
    """
    score = np.where(votes > 0, votes + 0.5 * probabilities, 0)
    return np.where(votes.any(axis=0), score.argmax(axis=0) + 1, 0).astype(np.uint8)
