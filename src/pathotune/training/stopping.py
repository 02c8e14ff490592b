"""Whether a person wants a training to wait or to end, asked often enough that she need not wait for it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from pathotune.errors import Cancelled
from pathotune.waiting import Asking

if TYPE_CHECKING:
    from pathotune.backbones.surface import Backbone
    from pathotune.events import Event

Found = TypeVar("Found")


def never() -> bool:
    """Nobody wants it to end."""
    return False


class Stopping:
    """Asks between the layers of a backbone, so that a step of minutes stops within one layer.

    Use it as a context manager around the work.

    Parameters
    ----------
    cancel : asked often and from several threads; true ends the work. As long as it does not answer, the work stands
        still, which changes nothing in its result.
    backbone : is asked between the layers of; None asks only where `look` is called.
    """

    def __init__(self, cancel: Callable[[], bool] = never, backbone: Backbone | None = None) -> None:
        self._asking, self._backbone = Asking(cancel), backbone
        self._is_asked = cancel is not never
        self._hooks: list[Any] = []
        self._is_timing = False

    @property
    def waited(self) -> float:
        """Seconds that `cancel` took to answer, all in all."""
        return self._asking.waited

    def __enter__(self) -> Stopping:
        if self._backbone is not None and self._is_asked:
            import torch

            linear = [part for part in self._backbone.modules() if isinstance(part, torch.nn.Linear)]
            self._hooks = [part.register_forward_pre_hook(self.look) for part in linear]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    @contextlib.contextmanager
    def undisturbed(self) -> Iterator[None]:
        """For work whose time is taken: a pause in it would count as slowness."""
        self._is_timing = True
        try:
            yield
        finally:
            self._is_timing = False

    def asked(self) -> bool:
        """Whether it shall end, for stages that ask themselves; answers late while the work is paused."""
        return self._asking()

    def look(self, *_: object) -> None:
        """Wait as long as the work is paused.

        Raises
        ------
        Cancelled : it shall end.
        """
        if self._is_timing:
            return
        if self._asking():
            raise Cancelled("The tuning")  # who has an epoch to keep catches it and says so

    def passing(self, stream: Generator[Event, None, Found]) -> Generator[Event, None, Found]:
        """Pass on the events of a generator and look after each; gives what it gives."""
        with contextlib.closing(stream):
            while True:
                try:
                    event = next(stream)
                except StopIteration as end:
                    found: Found = end.value
                    return found
                yield event
                self.look()
