"""Every exception a person can meet, each with the sentence that says what happened and what to do next."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path


class PathotuneError(Exception):
    """Base of all errors pathotune raises on purpose; `str(error)` is one sentence for the person.

    `exit_code` is what the command line returns for it (contract: 1 failed, 2 wrong usage).
    """

    exit_code = 1


class UsageError(PathotuneError, ValueError):
    """An option or argument that cannot be used as given."""

    exit_code = 2


class UnknownName(PathotuneError, LookupError):
    """A name that is not in a table; lists the known ones."""

    exit_code = 2

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        self.kind, self.name, self.known = kind, name, sorted(known)
        close = difflib.get_close_matches(name, self.known, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        super().__init__(f"There is no {kind} called {name!r}.{hint} Known: {', '.join(self.known) or 'none'}.")


class FileMissing(PathotuneError, FileNotFoundError):
    """A path that does not exist."""

    def __init__(self, path: str | Path, what: str = "file") -> None:
        self.path = Path(path)
        super().__init__(f"The {what} {str(path)!r} does not exist. Check the path and that its drive is connected.")

    def __str__(self) -> str:
        return str(self.args[0])


class SlideUnreadable(PathotuneError, OSError):
    """A file no reader could open as a slide.

    Parameters
    ----------
    path : path of the file.
    tried : pairs (reader name, why it declined), in the order they were tried.
    advice : what the person can do.
    """

    def __init__(self, path: str | Path, tried: Sequence[tuple[str, str]], advice: str = "") -> None:
        self.path, self.tried, self.advice = Path(path), tuple(tried), advice
        reasons = "; ".join(f"{name}: {reason}" for name, reason in self.tried) or "no reader takes this kind of file"
        tail = f" {advice}" if advice else " Check that it is a brightfield whole-slide image and copied completely."
        super().__init__(f"{self.path.name} cannot be opened as a slide ({reasons}).{tail}")

    def __str__(self) -> str:
        return str(self.args[0])


class MissingPixelSize(PathotuneError, ValueError):
    """A slide whose pixel size is not known, where the work needs micrometres."""

    def __init__(self, path: str | Path, doubted: str = "") -> None:
        self.path = Path(path)
        because = f" ({doubted})" if doubted else ""
        super().__init__(
            f"{self.path.name} does not say how large its pixels are{because}. "
            "State it once with --slide-mpp (micrometres per pixel, for example 0.25 for a 40x scan); "
            "the answer is remembered for this slide."
        )


class MissingPackage(PathotuneError, ImportError):
    """An optional package that is needed for what was asked."""

    def __init__(self, package: str, needed_for: str, install: str) -> None:
        self.package, self.needed_for = package, needed_for
        super().__init__(
            f"{needed_for} needs the package {package}, which is not installed. Install it with: {install}"
        )


class BackboneUnavailable(PathotuneError, RuntimeError):
    """A backbone whose weights are not at hand (gated, offline, no loader); the sentence says where to get them."""


class DownloadFailed(PathotuneError, RuntimeError):
    """Something that could not be fetched; `why` is what the program that fetches said."""

    def __init__(self, what: str, why: str) -> None:
        self.what, self.why = what, why
        super().__init__(
            f"Could not get {what}: {why or 'no reason given'}. Is this computer connected? Then try again."
        )


class WeightsRefused(PathotuneError, ValueError):
    """Weights that do not fit the architecture exactly, or a file of a kind that is never loaded."""


class TuningUnreadable(PathotuneError, ValueError):
    """A file that is not a pathotune tuning, or a damaged one."""


class TuningMismatch(PathotuneError, ValueError):
    """A tuning used with another backbone, pixel size or task than it was made for."""


class RegionsUnreadable(PathotuneError, ValueError):
    """A regions file that cannot be understood."""


class RegionsOffSlide(PathotuneError, ValueError):
    """More regions than tolerable lie outside the slide."""


class NoTiles(PathotuneError, ValueError):
    """Nothing to tune on or predict: the sentence says which of the usual causes it was."""


class TableUnreadable(PathotuneError, ValueError):
    """A CSV, YAML or JSON document that cannot be used; names the row or key."""


class FeaturesUnreadable(PathotuneError, ValueError):
    """A file that holds no tile features, or a damaged one."""


class FeaturesMismatch(PathotuneError, ValueError):
    """Tile features of another backbone, pixel size, tile size or tuning than needed; the difference is named."""


class StoreMismatch(PathotuneError, ValueError):
    """A prediction store that belongs to another slide, tuning, grid or reading; the difference is named."""


class StoreUnreadable(PathotuneError, ValueError):
    """A folder that is not a prediction store, or a damaged one."""


class StoreBusy(PathotuneError, RuntimeError):
    """A prediction store that another process is writing at this moment.

    Parameters
    ----------
    store : its name.
    host, pid : whose process; "" and None where that is not known.
    is_here : whether it runs on this computer.
    """

    def __init__(self, store: str, host: str = "", pid: int | None = None, is_here: bool = False) -> None:
        self.store, self.host, self.pid, self.is_here = store, host, pid, is_here
        who = f" (process {pid} on {host})" if host and pid else ""
        super().__init__(
            f"{store} is being written by another process{who}. Wait for its end and run again: "
            "what it did is taken over."
        )


class OutputRefused(PathotuneError, OSError):
    """A place that cannot be written to (read-only, full, exists with other content)."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class TooLittleMemory(PathotuneError, MemoryError):
    """Memory ran out although the batch was already as small as it can be."""


class NotFinite(PathotuneError, ArithmeticError):
    """A model gave NaN or infinity."""


class WorkerDied(PathotuneError, RuntimeError):
    """The worker process ended without an answer."""


class WorkerNotStarted(PathotuneError, RuntimeError):
    """The worker process could not be started, or ended before its first word; `why` says how, as far as is known."""

    def __init__(self, why: str, log_path: str | Path) -> None:
        self.why = why
        super().__init__(f"The process that does the work could not start ({why}). Details: {log_path}")


class Cancelled(PathotuneError, RuntimeError):
    """The person cancelled.

    Parameters
    ----------
    what : was cancelled.
    kept : what is kept of it, as a half-sentence; nothing is said where nothing is.
    """

    exit_code = 130

    def __init__(self, what: str = "The work", kept: str = "") -> None:
        super().__init__(f"{what} was cancelled{f'; {kept}' if kept else ''}.")
