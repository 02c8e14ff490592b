"""A question that is answered late while the work is paused, and a clock that stands still until the answer comes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Asking:
    """Asks whether to stop, from any thread, and keeps the time that passed until the answers came.

    Parameters
    ----------
    cancel : true ends the work. As long as it does not answer, the work stands still.

    Attributes
    ----------
    waited : seconds in which at least one thread waited for an answer, all in all.
    """

    def __init__(self, cancel: Callable[[], bool]) -> None:
        self._cancel = cancel
        self._lock = threading.Lock()
        self._inside, self._since = 0, 0.0
        self.waited = 0.0

    def __call__(self) -> bool:
        """Whether the work shall end."""
        with self._lock:
            if not self._inside:
                self._since = time.monotonic()
            self._inside += 1
        try:
            return self._cancel()
        finally:
            with self._lock:
                self._inside -= 1
                if not self._inside:
                    self.waited += time.monotonic() - self._since

    def worked(self) -> float:
        """A clock, in seconds, that stands still while a thread waits for an answer."""
        with self._lock:
            now = self._since if self._inside else time.monotonic()
            return now - self.waited
