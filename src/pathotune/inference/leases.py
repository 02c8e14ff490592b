"""Who works on a store: a small file beside it that its process renews, so that no two ever write into one store."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pathotune.errors import OutputRefused, StoreBusy
from pathotune.processes import still_runs, this_process

FOLDER = ".leases"
HEARTBEAT_S = 15.0
"""How often a lease is renewed."""
STALE_S = 120.0
"""A lease that somebody watched for so long without a renewal has lost its process. Network drives may show a change
up to a minute late."""
FORGOTTEN_S = 3600.0
"""A lease that is so much older than a file made now, by the drive's clocks, needs no watching."""
_GRACE_S = 2.0  # a process of this computer that was just killed may take a moment to go
_NO_LINKS = {errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK}

# Lease → what it was when first seen so, and when that was by this process's own steady clock. The clocks of computers
# that share a drive may differ by hours, so nothing is concluded from what another one wrote.
_SEEN: dict[Path, tuple[tuple[str, int], float]] = {}
_SEEN_LOCK = threading.Lock()


@dataclass(frozen=True)
class _Found:
    """A lease that is there."""

    path: Path
    number: int
    token: str
    mtime_ns: int
    document: dict[str, Any]


class Lease:
    """The right to write one store, renewed by a thread of its own until `release`.

    Parameters
    ----------
    path : its file.
    token : what tells it from every other lease.
    """

    def __init__(self, path: Path, token: str) -> None:
        self._path, self._token = path, token
        self._lost, self._over = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._renew, name="pathotune-lease", daemon=True)
        self._thread.start()

    @property
    def is_lost(self) -> bool:
        """Whether another process took over, as this one stood still too long: it must not write any more."""
        return self._lost.is_set()

    def _renew(self) -> None:
        while not self._over.wait(HEARTBEAT_S):
            self.renew()

    def renew(self) -> None:
        """Say that this process still works; a drive that does not answer for a while is no loss."""
        with contextlib.suppress(OSError):
            found = _read(self._path, 0)
            if found is not None and found.token == self._token:
                os.utime(self._path)  # without a time of ours: the drive's own clock
            elif self._path.parent.is_dir():
                self._lost.set()

    def release(self) -> None:
        """Give it back; safe to call twice."""
        if self._over.is_set():
            return
        self._over.set()
        self._thread.join()
        with contextlib.suppress(OSError):
            found = _read(self._path, 0)
            if found is not None and found.token == self._token:
                self._path.unlink()
            _tidy(self._path.parent)


def _tidy(folder: Path) -> None:
    """Take the folder away where nobody works in it any more.

    A process that died between the end of a slide and giving its lease back leaves one that nobody supersedes, as the
    slide is done. Removing a dead one under the hands of somebody who is superseding it is no more than its owner's
    own giving back at that moment: `_try` looks again after it made its own.
    """
    for name in os.listdir(folder):
        found = _read(folder / name, 0)
        if found is not None and _is_dead_here(found):
            found.path.unlink(missing_ok=True)
    folder.rmdir()  # where nobody else is in it


@contextlib.contextmanager
def leased(store: Path) -> Iterator[Lease]:
    """Inside, this process alone writes the store of this path.

    Raises
    ------
    StoreBusy : another process works on it.
    OutputRefused : the folder cannot be written.
    """
    lease = take_lease(store)
    try:
        yield lease
    finally:
        lease.release()


def take_lease(store: Path) -> Lease:
    """Begin a lease of the store of this path, over one whose process is gone if need be.

    Leases are numbered. A new one is made under the next number by a hard link, which only one process can succeed in
    on any file system that has links, network drives included; so an old one is never removed before it is superseded.

    Raises
    ------
    StoreBusy : another process works on it.
    OutputRefused : the folder cannot be written.
    """
    folder, digest = store.parent / FOLDER, hashlib.sha256(store.name.encode()).hexdigest()[:16]
    until = time.monotonic() + _GRACE_S
    while True:
        try:
            return _try(store, folder, digest)
        except StoreBusy as error:
            if not error.is_here or error.pid == os.getpid() or time.monotonic() > until:
                raise
            time.sleep(0.05)
        except (FileNotFoundError, FileExistsError) as error:  # the last lease's owner took the empty folder away
            if time.monotonic() > until:
                raise _refused(store, error) from error
        except OSError as error:
            raise _refused(store, error) from error


def _try(store: Path, folder: Path, digest: str) -> Lease:
    folder.mkdir(parents=True, exist_ok=True)
    token = uuid.uuid4().hex
    temporary = folder / f"{digest}.{token}.tmp"
    document = {"store": store.name, "token": token, "process": this_process(), "machine": machine()}
    temporary.write_text(json.dumps(document), encoding="utf-8")
    try:
        now_ns = temporary.stat().st_mtime_ns
        before = _leases(folder, digest)
        for found in before:
            if not _is_stale(found, now_ns):
                raise _busy(store, found)
        path = folder / f"{digest}-{max((found.number for found in before), default=0) + 1}"
        if not _link(temporary, path):
            raise _busy(store, _read(path, 0))
        gone = {found.token for found in before}
        # Who listed before the last owner left may have come by another number.
        others = [found for found in _leases(folder, digest) if found.token not in gone and found.token != token]
        if others:
            path.unlink(missing_ok=True)
            raise _busy(store, others[0])
        for found in before:
            found.path.unlink(missing_ok=True)
        return Lease(path, token)
    finally:
        temporary.unlink(missing_ok=True)


def _link(temporary: Path, path: Path) -> bool:
    """Whether the file is now also there under this name, which nobody had before."""
    try:
        os.link(temporary, path)
        return True
    except FileExistsError:
        return False
    except OSError as error:
        # The answer of a network drive may have been lost on its way though the link was made.
        with contextlib.suppress(OSError):
            if os.path.samefile(temporary, path):
                return True
        if error.errno not in _NO_LINKS:
            raise
    try:  # drives without links (FAT, some SMB servers) make a file exclusively
        with open(path, "x", encoding="utf-8") as file:
            file.write(temporary.read_text(encoding="utf-8"))
        return True
    except FileExistsError:
        return False


def _leases(folder: Path, digest: str) -> list[_Found]:
    """The leases of one store that are there."""
    found = []
    for name in os.listdir(folder):
        stem, _, number = name.rpartition("-")
        if stem == digest and number.isdecimal():
            one = _read(folder / name, int(number))
            found += [one] if one is not None else []
    return found


def _read(path: Path, number: int) -> _Found | None:
    """A lease; opened, so that a network drive looks again at how old it is. None where there is none."""
    try:
        with open(path, encoding="utf-8") as file:
            text, mtime_ns = file.read(), os.fstat(file.fileno()).st_mtime_ns
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        document = json.loads(text)
    except ValueError:
        document = {}  # being written on a drive without links, or damaged
    document = document if isinstance(document, dict) else {}
    return _Found(path, number, str(document.get("token", "")), mtime_ns, document)


def _is_stale(found: _Found, now_ns: int) -> bool:
    """Whether the process of a lease is gone."""
    if found.document.get("machine") == machine():
        return _is_dead_here(found)
    if now_ns - found.mtime_ns > FORGOTTEN_S * 1e9:
        return True
    state, now = (found.token, found.mtime_ns), time.monotonic()
    with _SEEN_LOCK:
        known, since = _SEEN.get(found.path, (None, now))
        if known != state:
            since = now
        _SEEN[found.path] = (state, since)
    return now - since > STALE_S


def _is_dead_here(found: _Found) -> bool:
    """Whether it is a lease of this computer whose process is gone."""
    here = found.document.get("machine") == machine()
    return here and not still_runs(found.document.get("process") or {}, found.mtime_ns / 1e9)


def machine() -> str:
    """What tells this computer, and on Linux the container on it, from all others: there a process id means something.

    Two containers may have one host name, and then the process ids of one say nothing about the other.
    """
    parts = [str(this_process()["host"])]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return "|".join(parts)


def _busy(store: Path, found: _Found | None) -> StoreBusy:
    document = {} if found is None else found.document
    process = document.get("process") or {}
    return StoreBusy(store.name, str(process.get("host", "")), process.get("pid"), document.get("machine") == machine())


def _refused(store: Path, error: OSError) -> OutputRefused:
    return OutputRefused(
        f"The folder {str(store.parent)!r} cannot be written ({error.strerror or error}). Choose another --out."
    )
