"""How busy the model is: how long it has nothing to compute because the tiles are not there yet."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Future
from typing import Any, Protocol, TypeVar

WORTH_SAYING = 0.15  # share of the time
WORTH_SAYING_S = 5.0

T = TypeVar("T")


class Computed(Protocol):
    """A batch on its way; `ended` is what the clock said when its answer was there, None before."""

    @property
    def ended(self) -> float | None: ...


class End:
    """When an answer was there: `at` is what the clock said, None before.

    An answer keeps whom it told for as long as it lives. That is this and not the batch, which would keep its answer
    and so itself, with all its pictures, until garbage is collected.
    """

    def __init__(self, answer: Future[Any], clock: Callable[[], float]) -> None:
        self.at: float | None = None
        self._clock = clock
        answer.add_done_callback(self._note)

    def _note(self, _: Future[Any]) -> None:
        self.at = self._clock()


class Waiting:
    """Adds up how long the model waited for tiles.

    Looked at is only the moment in which the loop that feeds the model wants the next tiles: as long as batches handed
    over before are being computed, the model is busy; from then on it waits. So it is right on a graphics card too,
    whose forward pass returns before it is done, and costs two looks at the clock per batch.

    Parameters
    ----------
    lanes : how many batches are computed at a time; one that has none, of four, is a quarter of the model.
    clock : in seconds.

    Attributes
    ----------
    seconds : in which the model waited, so far.
    """

    def __init__(self, lanes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._lanes, self._clock = lanes, clock
        self.seconds = 0.0

    def over(self, tiles: Iterator[T], running: Collection[Computed]) -> Iterator[T]:
        """The same tiles; `running` are the batches that are being computed when the next tiles are asked for."""
        while True:
            asked = self._clock()
            try:
                some = next(tiles)
            except StopIteration:
                return  # the end is nothing to wait for
            self._count(asked, self._clock(), running)
            yield some

    def _count(self, asked: float, came: float, running: Collection[Computed]) -> None:
        ends = [came if batch.ended is None else min(batch.ended, came) for batch in running]
        busy = sum(max(0.0, end - asked) for end in ends) / self._lanes
        self.seconds += max(0.0, came - asked - busy)


def busy_share(waited: float, seconds: float) -> float | None:
    """The share of the time in which the model did not wait for tiles, 0 to 1; None where no time passed."""
    return None if seconds <= 0 else round(min(max(1 - waited / seconds, 0.0), 1.0), 3)


def waiting_sentence(result: Mapping[str, Any]) -> str:
    """What a person should know of a slide's document; "" where the model hardly waited, or it is of no matter."""
    busy = result.get("model_busy")
    if busy is None or 1 - busy < WORTH_SAYING or (1 - busy) * result["seconds"] < WORTH_SAYING_S:
        return ""
    return f"The model waited for tiles {100 * (1 - busy):.0f} % of the time: a faster disk or more cores would help."
