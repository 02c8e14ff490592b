"""The cells of a comparison, each kept as soon as it is done, whatever is compared: tiles or slides."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pathotune.errors import OutputRefused, PathotuneError
from pathotune.events import Event, Note

FOLDER = "cells"
FORMAT = 2
Floats = NDArray[np.floating[Any]]


class Cell(NamedTuple):
    """One training of a comparison.

    shots : so many of each class; None for all.
    """

    method: str
    backbone: str
    shots: int | None
    seed: int

    def facts(self) -> dict[str, Any]:
        """How a row begins."""
        return {**self._asdict(), "shots": "all" if self.shots is None else self.shots}


def fingerprint(parts: Iterable[bytes | NDArray[Any]], said: Any) -> str:
    """What a kept cell must agree on.

    Parameters
    ----------
    parts : bytes or arrays: what is learned from and judged by, and which of it.
    said : anything JSON can say: method, options, weights.
    """
    digest = hashlib.sha256()
    for part in parts:
        digest.update((part if isinstance(part, bytes) else np.ascontiguousarray(part).tobytes()) + b"|")
    digest.update(json.dumps([FORMAT, said], sort_keys=True, default=str).encode())
    return digest.hexdigest()


@dataclass(frozen=True)
class Cells:
    """The folder of finished cells: a row as JSON and the probabilities it was judged by, two small files each.

    Raises
    ------
    OutputRefused : the folder cannot be made or written to.
    """

    folder: Path

    def __post_init__(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputRefused(
                f"{str(self.folder)!r} cannot be written to ({error.strerror or error}); name another --out."
            ) from error

    def row(
        self, cell: Cell, made_from: str, work: Callable[[], tuple[dict[str, Any], Floats]]
    ) -> Generator[Event, None, dict[str, Any]]:
        """A row, from its file where it is there and agrees; else by `work`, and kept.

        Parameters
        ----------
        made_from : of `fingerprint`.
        work : gives the row and the probabilities (n, K) of what it was judged by.

        Returns
        -------
        The row with "probabilities"; with "error" in the place of all scores where it cannot be had: a method that does
        not go with one backbone does not end the comparison of the others.
        """
        path = self.path(cell, made_from)
        row = _kept(path, made_from)
        if row is not None:
            return row
        try:
            made, probabilities = work()
        except PathotuneError as error:
            yield Note(f"{cell.method} on {cell.backbone}: {error}", "warning")
            return {**cell.facts(), "error": str(error)}
        _write(path, {**made, "made_from": made_from}, probabilities)
        return {**made, "probabilities": probabilities}

    def path(self, cell: Cell, made_from: str) -> Path:
        """Where a cell's files are, without their endings."""
        facts = cell.facts()
        # A long word is cut: its fingerprint tells two of them apart, and some disks take 255 letters at most.
        words = [_plain(str(facts[key]))[:80] for key in ("method", "backbone", "shots", "seed")]
        return self.folder / " ".join([*words, made_from[:8]])


def _plain(text: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_.=@" else "_" for letter in text)


def _kept(path: Path, made_from: str) -> dict[str, Any] | None:
    """A cell from its two files; None where they are not there, not whole, or of something else."""
    try:
        row: dict[str, Any] = json.loads(path.with_name(path.name + ".json").read_text(encoding="utf-8"))
        probabilities = np.load(path.with_name(path.name + ".npy"), allow_pickle=False)
    except (OSError, ValueError):
        return None
    return {**row, "probabilities": probabilities} if row.pop("made_from", "") == made_from else None


def _write(path: Path, row: dict[str, Any], probabilities: Floats) -> None:
    """The probabilities first: a row without them is made again."""
    try:
        np.save(path.with_name(path.name + ".npy"), probabilities.astype(np.float32), allow_pickle=False)
        part = path.with_name(path.name + ".part")
        part.write_text(json.dumps(row), encoding="utf-8")
        part.replace(path.with_name(path.name + ".json"))
    except OSError as error:
        raise OutputRefused(
            f"{str(path.parent)!r} cannot be written to ({error.strerror or error}); free space, or name another --out."
        ) from error
