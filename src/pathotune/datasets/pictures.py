"""Pictures as files, also inside a zip archive that nobody wants to unpack: ARCHIVE.zip/FOLDER/NAME.jpg."""

from __future__ import annotations

import contextlib
import threading
import zipfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import IO

from pathotune.errors import FileMissing, TableUnreadable

# Opening an archive reads its whole list of names, which takes a second for a quarter of a million.
_LOCK = threading.Lock()


@contextlib.contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """A picture's bytes, wherever it lies; several threads may read one archive.

    Raises
    ------
    FileMissing : neither the file nor the archive on its way is there, or the archive has no such member.
    TableUnreadable : the archive is damaged.
    """
    archive = archive_of(path)
    if archive is None:
        if not path.is_file():
            raise FileMissing(path, "picture")
        with path.open("rb") as stream:
            yield stream
        return
    member = path.relative_to(archive).as_posix()
    try:
        inside = open_archive(archive).open(member)
    except KeyError:
        raise FileMissing(path, "picture") from None
    except (zipfile.BadZipFile, OSError, RuntimeError) as error:
        raise TableUnreadable(f"{member} in {archive.name} cannot be read ({error}); download it again.") from None
    with inside:
        yield inside


def archive_of(path: Path) -> Path | None:
    """The zip archive that a path leads into, or None for a path of the disk's own."""
    for parent in path.parents:
        if parent.suffix.lower() == ".zip" and parent.is_file():
            return parent
    return None


def open_archive(path: Path) -> zipfile.ZipFile:
    """The archive, opened once for all of its members.

    Raises
    ------
    TableUnreadable : it is damaged.
    """
    try:
        stat = path.stat()
        with _LOCK:
            return _kept(str(path), stat.st_size, stat.st_mtime_ns)
    except (zipfile.BadZipFile, OSError) as error:
        raise TableUnreadable(f"{path.name} is no whole zip archive ({error}); download it again.") from None


@lru_cache(maxsize=2)
def _kept(path: str, size: int, changed_ns: int) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)
