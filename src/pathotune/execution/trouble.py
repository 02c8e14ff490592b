"""Troubles that are no slide's own: a folder that went away, a disk that is full. They are waited for."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Generator
from pathlib import Path

from pathotune.errors import OutputRefused
from pathotune.events import Event, Note
from pathotune.execution.ledger import Ledger

PATIENCE_S = 600.0
"""How long a run waits for a folder that went away, or for room on a full disk."""
LOOK_AGAIN_S = 2.0
_NEEDED_BYTES = 8 * 2**20
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class Patience:
    """Tells a slide's own fault from one of the drives, and waits for those.

    Parameters
    ----------
    ledger : of the results folder.
    cancel : asked often; true ends the waiting.
    """

    def __init__(self, ledger: Ledger, cancel: Callable[[], bool]) -> None:
        self._ledger, self._cancel = ledger, cancel
        self._given_up: set[str] = set()
        self.refusal: OutputRefused | None = None
        """Why nothing can be written any more, after waiting in vain."""

    def check_out(self) -> None:
        """Raise `OutputRefused` where the results folder is not there: it is never made anew in mid-run."""
        if self.refusal is not None:
            raise self.refusal
        if not self._ledger.is_there:
            raise OutputRefused(f"The results folder {str(self._ledger.out)!r} is gone. Connect its drive again.")

    def wait(self, slide: Path, error: Exception) -> Generator[Event, None, bool]:
        """Wait where a slide failed for a trouble of the drives; whether it is worth trying again."""
        trouble = self._trouble(slide, error)
        if not trouble or trouble in self._given_up:
            return False
        yield Note(f"{trouble} Waiting up to {PATIENCE_S / 60:.0f} minutes.", "warning")
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until and not self._cancel():
            if not self._trouble(slide, error):
                yield Note("Going on.")
                return True
            time.sleep(min(LOOK_AGAIN_S, 0.1 + PATIENCE_S / 100))
        self._given_up.add(trouble)
        if not self._cancel() and not (self._ledger.is_there and self._has_room()):
            self.refusal = OutputRefused(f"{trouble} What was done is kept: run again to go on.")
        return False

    def _trouble(self, slide: Path, error: Exception) -> str:
        """A sentence, or "" where the fault is the slide's."""
        if not self._ledger.is_there:
            return f"The results folder {str(self._ledger.out)!r} is gone."
        if not slide.parent.is_dir():
            return f"The folder of slides {str(slide.parent)!r} is gone."
        if isinstance(error, OutputRefused) and _is_of_room(error) and not self._has_room():
            return f"The disk of {str(self._ledger.out)!r} is full."
        return ""

    def _has_room(self) -> bool:
        """Whether some megabytes can be written; a quota shows in no other way."""
        probe = self._ledger.folder / f"room-{os.getpid()}"
        try:
            with open(probe, "wb") as file:
                file.write(b"\0" * _NEEDED_BYTES)
                file.flush()
                os.fsync(file.fileno())
            return True
        except OSError:
            return False
        finally:
            probe.unlink(missing_ok=True)


def _is_of_room(error: BaseException | None) -> bool:
    """Whether the disk refused for lack of room, anywhere in what led to this error."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        error = error.__cause__
    return False
