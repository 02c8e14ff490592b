"""A start icon: on the desktop, and on Linux in the menu of programs, too."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

import platformdirs

from pathotune.errors import OutputRefused, PathotuneError
from pathotune.resources import resource

NAME = "PathoTune"


def make_shortcut(desktop: Path | None = None, system: str = sys.platform) -> list[Path]:
    """Write the icon that opens napari with the dock; slides dropped on it are opened.

    Parameters
    ----------
    desktop : the folder to put it into; None is the desktop of the person, where she has one.
    system : as `sys.platform` says it.

    Returns
    -------
    The files that were written.

    Raises
    ------
    OutputRefused : none of the places can be written.
    """
    desktop = desktop or Path(platformdirs.user_desktop_dir())
    python = Path(sys.executable)
    if system == "win32":
        files = [(desktop / f"{NAME}.bat", _bat(python))]
    elif system == "darwin":
        files = [(desktop / f"{NAME}.command", _command(python))]
    else:
        entry = _entry(python)
        menu = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "applications"
        files = [(menu / "pathotune.desktop", entry)]
        files += [(desktop / "pathotune.desktop", entry)] if desktop.is_dir() else []
    return [_written(path, text, system) for path, text in files]


def _written(path: Path, text: str, system: str) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Windows' command interpreter wants its own line ends; a Unix shell must not see them.
        path.write_bytes(text.replace("\n", "\r\n" if system == "win32" else "\n").encode("utf-8"))
        if system != "win32":
            path.chmod(0o755)
    except OSError as error:
        raise OutputRefused(f"The icon {path} cannot be written ({error.strerror or error}).") from error
    return path


def _entry(python: Path) -> str:
    """Freedesktop's Desktop Entry Specification 1.5: quoting of Exec, then of the file's own strings."""
    if any(letter in str(python) for letter in "\n\r="):
        raise PathotuneError(f"No icon can start {python}: its path has a character that start files cannot hold.")
    quoted = "".join(f"\\{letter}" if letter in '"`$\\' else letter for letter in str(python)).replace("%", "%%")
    program = '"' + quoted.replace("\\", "\\\\") + '"'
    lines = (
        "[Desktop Entry]",
        "Type=Application",
        f"Name={NAME}",
        "Comment=Tune and predict on whole-slide images (research use only)",
        f"Exec={program} -m pathotune view %F",
        f"Icon={resource('icons', 'pathotune.svg')}",
        "Terminal=false",
        "Categories=Science;Biology;Graphics;",
        "StartupWMClass=napari",
    )
    return "\n".join([*lines, ""])


def _bat(python: Path) -> str:
    windowed = python.with_name("pythonw.exe")
    chosen = windowed if windowed.exists() else python
    program = str(chosen).replace("%", "%%")
    return f'@echo off\nchcp 65001 >nul\nstart "{NAME}" "{program}" -X utf8 -m pathotune view %*\n'


def _command(python: Path) -> str:
    return f'#!/bin/sh\nexec {shlex.quote(str(python))} -m pathotune view "$@"\n'


def shown_after(paths: list[Path], system: str = sys.platform) -> str:
    """What the person has to know once the icon is there."""
    places = " and ".join(str(path) for path in paths)
    trust = system.startswith("linux") and len(paths) > 1 and shutil.which("gnome-shell") is not None
    return f"Start icon: {places}." + (" On GNOME's desktop: right-click it once, Allow Launching." if trust else "")
