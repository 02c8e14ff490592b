"""The start icon starts this very installation, whatever its path holds."""

from __future__ import annotations

import configparser
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pathotune.cli import app
from pathotune.installing import shortcut


def words_of(line: str) -> list[str]:
    """An Exec line as a desktop reads it: the string's own escapes, then its quotes, then the percent codes."""
    words = shlex.split(line.replace("\\\\", "\\"))
    # Python's shlex leaves these two escapes in double quotes alone, which shells and desktops do not.
    return [word.replace("\\$", "$").replace("\\`", "`").replace("%%", "%") for word in words]


@pytest.fixture
def python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An interpreter with a difficult path that writes down what it is called with."""
    path = tmp_path / 'Jörg "J" & $HOME 100%' / "python"
    path.parent.mkdir()
    path.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > "{tmp_path}/called"\n')
    path.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(path))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    return path


@pytest.mark.skipif(os.name == "nt", reason="a desktop entry is of Linux")
def test_linux(python: Path, tmp_path: Path) -> None:
    desktop = tmp_path / "Schreibtisch"
    desktop.mkdir()
    written = shortcut.make_shortcut(desktop, "linux")
    assert written == [tmp_path / "share" / "applications" / "pathotune.desktop", desktop / "pathotune.desktop"]
    entry = configparser.ConfigParser(interpolation=None)
    entry.optionxform = str  # type: ignore[assignment, method-assign]
    entry.read(written[1], encoding="utf-8")
    facts = entry["Desktop Entry"]
    assert facts["Type"] == "Application" and Path(facts["Icon"]).is_file()
    assert os.access(written[1], os.X_OK)
    words = words_of(facts["Exec"])
    assert words == [str(python), "-m", "pathotune", "view", "%F"]
    subprocess.run([*words[:-1], "a slide.svs"], check=True)
    assert (tmp_path / "called").read_text().splitlines() == ["-m", "pathotune", "view", "a slide.svs"]


def test_without_a_desktop_the_menu_has_it(python: Path, tmp_path: Path) -> None:
    assert len(shortcut.make_shortcut(tmp_path / "none", "linux")) == 1


@pytest.mark.skipif(os.name == "nt", reason="a shell script is no program there")
def test_mac(python: Path, tmp_path: Path) -> None:
    (path,) = shortcut.make_shortcut(tmp_path, "darwin")
    subprocess.run([path, "a slide.svs"], check=True)
    assert (tmp_path / "called").read_text().splitlines() == ["-m", "pathotune", "view", "a slide.svs"]


def test_windows(python: Path, tmp_path: Path) -> None:
    (path,) = shortcut.make_shortcut(tmp_path, "win32")
    lines = path.read_bytes().decode("utf-8").split("\r\n")
    assert path.suffix == ".bat" and str(python).replace("%", "%%") in lines[2] and lines[2].endswith("view %*")


def test_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("platformdirs.user_desktop_dir", lambda: str(tmp_path / "Desktop"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    answer = CliRunner().invoke(app, ["view", "--shortcut"])
    assert answer.exit_code == 0 and "pathotune.desktop" in answer.stderr


def test_a_place_that_cannot_be_written(python: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(shortcut.OutputRefused, match="cannot be written"):
        shortcut.make_shortcut(tmp_path / "file" / "x", "win32")
