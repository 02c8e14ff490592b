"""The systems a folder can be made for: what uv and pip call them, and how the other computer is recognised."""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass

from pathotune.errors import UnknownName

_GLIBC = 28  # manylinux_2_28: what the wheels of torch and of the slide readers ask for


@dataclass(frozen=True)
class Target:
    """One system.

    name : what the person calls it. system, machine : `sys.platform` and `platform.machine()` there.
    uv : uv's name for resolving. tags : pip's wheel tags, best first. extras : of pathotune, where nothing is said.
    """

    name: str
    system: str
    machine: str
    uv: str
    tags: tuple[str, ...]
    extras: tuple[str, ...] = ("all",)


def _manylinux(machine: str) -> tuple[str, ...]:
    newer = tuple(f"manylinux_2_{minor}_{machine}" for minor in range(_GLIBC, 4, -1))
    return (*newer, f"manylinux2014_{machine}", f"manylinux2010_{machine}", f"manylinux1_{machine}")


# PyQt5 and what Cox regression needs have no wheels there: the viewer comes with PyQt6, survival not at all.
_WITH_QT6 = ("pyqt6", "text", "openclip", "omics")
TARGETS = {
    target.name: target
    for target in (
        Target("linux", "linux", "x86_64", f"x86_64-manylinux_2_{_GLIBC}", _manylinux("x86_64")),
        Target("linux-arm", "linux", "aarch64", f"aarch64-manylinux_2_{_GLIBC}", _manylinux("aarch64"), _WITH_QT6),
        Target("windows", "win32", "AMD64", "x86_64-pc-windows-msvc", ("win_amd64",)),
        Target("macos", "darwin", "arm64", "aarch64-apple-darwin", ("macosx_14_0_arm64",), _WITH_QT6),
    )
}


def target_called(name: str | None = None) -> Target:
    """The system of that name, or this computer's own; raises UnknownName."""
    if name is None:
        here = (sys.platform, platform.machine().lower())
        for target in TARGETS.values():
            if (target.system, target.machine.lower()) == here:
                return target
        name = "-".join(here)
    if name not in TARGETS:
        raise UnknownName("platform", name, list(TARGETS))
    return TARGETS[name]
