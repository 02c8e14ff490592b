"""The tunings on this machine: found in folders, told by their headers alone, renamed, taken in and put aside."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pathotune.errors import OutputRefused, PathotuneError, UsageError
from pathotune.methods.card import model_card, pictures_folder
from pathotune.methods.checkpoint import (
    SUFFIX,
    Tuning,
    card_path,
    described,
    tuning_name,
    tuning_path,
)

ASIDE = "Deleted tunings"
SESSION_SUFFIX = ".session"
FORBIDDEN = '<>:"/\\|?*'


@dataclass(frozen=True)
class Listed:
    """What a list shows of a tuning file.

    Attributes
    ----------
    path, name : the file, and its name without endings.
    backbone : the name of the one it needs; "" where the file cannot be read.
    classes : name and colour of each class.
    method : its name in `METHODS`.
    mpp : pixel size of the pictures it learned from.
    created : when it was made, ISO 8601.
    balanced_accuracy : on held-out regions, where known.
    slides : how many it learned from.
    was_cancelled : its training was stopped by a person.
    problem : why it cannot be read, as a sentence; "" where it can.
    """

    path: Path
    name: str
    backbone: str = ""
    classes: tuple[tuple[str, tuple[int, int, int]], ...] = ()
    method: str = ""
    mpp: float | None = None
    created: str = ""
    balanced_accuracy: float | None = None
    slides: int = 0
    was_cancelled: bool = False
    problem: str = ""

    def matches(self, words: str) -> bool:
        """Whether each of these words stands in its name, backbone, method, date or one of its classes."""
        parts = (self.name, self.backbone, self.method, self.created[:10], *(name for name, _ in self.classes))
        text = " ".join(parts).casefold()
        return all(word in text for word in words.casefold().split())


def listed(path: Path) -> Listed:
    """A tuning file as a list shows it; what cannot be read is told in `problem` and never raised."""
    name = tuning_name(path)
    try:
        data = described(path)
        training = dict(data.get("training") or {})
        accuracy = (training.get("metrics") or {}).get("balanced_accuracy")
        return Listed(
            path=path,
            name=name,
            backbone=str(data["backbone"]["name"]),
            classes=tuple((str(one["name"]), _color(one.get("color"))) for one in data["classes"]),
            method=str(data["method"]),
            mpp=float(data["reading"]["mpp"]),
            created=str(data.get("created", "")),
            balanced_accuracy=float(accuracy) if isinstance(accuracy, int | float) else None,
            slides=len(training.get("slides") or ()),
            was_cancelled=training.get("ended") == "cancelled",
        )
    except PathotuneError as error:
        return Listed(path, name, problem=str(error))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        return Listed(path, name, problem=f"{path.name} is no complete tuning of pathotune ({error!r}).")


def _color(value: Any) -> tuple[int, int, int]:
    red, green, blue = value or (128, 128, 128)
    return int(red), int(green), int(blue)


class Library:
    """The tunings of some folders; a file is read again only where it has changed.

    Safe to be asked by one thread at a time.
    """

    def __init__(self) -> None:
        self._known: dict[Path, tuple[tuple[int, int], Listed]] = {}

    def list(self, folders: Iterable[Path]) -> list[Listed]:
        """The tunings that lie directly in these folders, newest first; a folder that is gone has none.

        Nothing that stands in a file is followed: neither paths nor names of other files.
        """
        found: dict[Path, Listed] = {}
        for folder in folders:
            with contextlib.suppress(OSError):
                for path in folder.glob(f"*{SUFFIX}"):
                    one = self._listed(path)
                    if one is not None and not path.name.startswith("."):
                        found[path] = one
        self._known = {path: self._known[path] for path in found}
        return sorted(found.values(), key=lambda one: (one.created, one.name), reverse=True)

    def _listed(self, path: Path) -> Listed | None:
        try:
            about = path.stat()
        except OSError:
            return None
        state = about.st_mtime_ns, about.st_size
        if path not in self._known or self._known[path][0] != state:
            self._known[path] = state, listed(path)
        return self._known[path][1]


def belongings(path: Path) -> list[Path]:
    """The tuning file with what lies beside it under its name: card, its pictures, and session folder."""
    return [one for one in _places(path) if one.exists()]


def _places(path: Path) -> tuple[Path, ...]:
    """The tuning file, its card, the card's pictures and the session folder, whether they are there or not."""
    return path, card_path(path), pictures_folder(path), path.with_name(tuning_name(path) + SESSION_SUFFIX)


def rename(path: Path, name: str) -> Path:
    """Give a tuning another name, with its card and its session folder.

    Returns
    -------
    The new path.

    Raises
    ------
    UsageError : the name is empty, has signs that file names cannot have, or is taken.
    OutputRefused : the folder cannot be written to.
    """
    name = name.strip().removesuffix(".safetensors").removesuffix(".pathotune")
    if not name or name.startswith(".") or any(sign in name for sign in FORBIDDEN):
        raise UsageError(f"A tuning cannot be called {name!r}: use letters, digits, spaces, hyphens and points.")
    target = tuning_path(path.with_name(name))
    if target == path:
        return path
    if belongings(target):
        raise UsageError(f"There is something called {name} in {path.parent.name} already. Choose another name.")
    _move(_moves(path, target))
    with contextlib.suppress(PathotuneError, OSError):  # the card says the name; the file itself does not
        tuning = Tuning.load(target)
        card_path(target).write_text(model_card(tuning), encoding="utf-8")
    return target


def _moves(path: Path, target: Path) -> list[tuple[Path, Path]]:
    """From where to where, when the tuning is to lie at `target`."""
    return [(one, there) for one, there in zip(_places(path), _places(target), strict=True) if one.exists()]


def put_aside(path: Path) -> Path:
    """Move a tuning with what belongs to it into the subfolder `ASIDE`, where no list shows it; returns its new path.

    Raises
    ------
    OutputRefused : the folder cannot be written to.
    """
    target = free_place(path.parent / ASIDE, tuning_name(path))
    try:
        target.parent.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputRefused(f"{target.parent} cannot be made ({error.strerror or error}).") from None
    _move(_moves(path, target))
    return target


def take_in(path: Path, folder: Path) -> Path:
    """Copy a tuning file, with its card where one lies beside it, into a folder of the library.

    Returns
    -------
    Where it lies now; a number is added to a name that is taken.

    Raises
    ------
    FileMissing, TuningUnreadable : it is no tuning.
    OutputRefused : the folder cannot be written to.
    """
    Tuning.load(path)
    if path.parent == folder and path.name.endswith(SUFFIX):
        return path
    target = free_place(folder, tuning_name(path))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.tmp")
        shutil.copyfile(path, temporary)
        temporary.replace(target)
        if pictures_folder(path).is_dir():
            shutil.copytree(pictures_folder(path), pictures_folder(target))
        card_path(target).write_text(model_card(Tuning.load(target)), encoding="utf-8")
    except OSError as error:
        raise OutputRefused(f"{path.name} cannot be copied to {folder} ({error.strerror or error}).") from None
    return target


def free_place(folder: Path, name: str) -> Path:
    """Where a tuning of that name can lie in a folder; a number is added where the name is taken."""
    target, number = tuning_path(folder / name), 2
    while belongings(target):
        target, number = tuning_path(folder / f"{name}-{number}"), number + 1
    return target


def _move(moves: list[tuple[Path, Path]]) -> None:
    """Rename all or none."""
    done: list[tuple[Path, Path]] = []
    try:
        for source, target in moves:
            source.rename(target)
            done.append((source, target))
    except OSError as error:
        for source, target in reversed(done):
            with contextlib.suppress(OSError):
                target.rename(source)
        raise OutputRefused(f"{moves[0][0].name} cannot be renamed ({error.strerror or error}).") from None
