"""Which tiles an epoch draws: every class equally often, every tile of a class before any comes again."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray


class BalancedDraws:
    """An endless draw of tiles in which the classes take turns.

    Parameters
    ----------
    labels : (n,) class of each tile that may be drawn.
    seed : the same seed gives the same draws.

    Attributes
    ----------
    random : the generator behind the draws, for whatever else is drawn for a batch.
    """

    def __init__(self, labels: NDArray[np.integer], seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self._classes = [np.flatnonzero(labels == label) for label in np.unique(labels)]
        self._waiting: list[list[int]] = [[] for _ in self._classes]
        self._turns = self._take_turns()

    def draw(self, count: int) -> NDArray[np.int64]:
        """The next `count` tiles, as indexes into `labels`."""
        return np.fromiter((next(self._turns) for _ in range(count)), dtype=np.int64, count=count)

    def _take_turns(self) -> Iterator[int]:
        while True:
            # The order of the classes changes from turn to turn, so that a short batch favours none.
            for place in self.random.permutation(len(self._classes)):
                if not self._waiting[place]:
                    self._waiting[place] = self.random.permutation(self._classes[place]).tolist()
                yield self._waiting[place].pop()


def batches(draws: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
    """The draws in batches; a last one of less than half the size joins the one before it."""
    if len(draws) <= size:
        return [draws]
    cuts = list(range(size, len(draws), size))
    if len(draws) - cuts[-1] < size / 2:
        cuts.pop()
    return np.split(draws, cuts)


def balanced_part(
    labels: NDArray[np.integer], tiles: NDArray[np.integer], per_class: int, seed: int
) -> NDArray[np.int64]:
    """At most so many of `tiles` for each class, in their order; the same for the same seed."""
    random = np.random.default_rng(seed)
    parts = []
    for label in np.unique(labels[tiles]):
        of_class = tiles[labels[tiles] == label]
        parts.append(of_class if len(of_class) <= per_class else random.choice(of_class, per_class, replace=False))
    return np.sort(np.concatenate(parts)).astype(np.int64)
