"""Run every check of the project from a bare machine: `python3 tests/everything.py [tox options]`.

Makes its own environment under .venv-test (standard library only until then), brings a virtual screen on Linux where it
may, says plainly what is skipped where it may not, and runs all tox environments.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SCREEN_PACKAGES = (
    "xvfb",
    "xauth",
    "libgl1",
    "libegl1",
    "libglib2.0-0",
    "libfontconfig1",
    "libdbus-1-3",
    "libxkbcommon-x11-0",
    "libxcb-icccm4",
    "libxcb-image0",
    "libxcb-keysyms1",
    "libxcb-cursor0",
    "libxcb-render-util0",
    "libxcb-xinerama0",
    "libxcb-shape0",
    "libxcb-randr0",
)


def say(text: str) -> None:
    """A line that stands out in a long log."""
    print(f"\n== {text}", flush=True)


def is_installed(package: str) -> bool:
    """Whether dpkg knows the package as installed."""
    asked = subprocess.run(["dpkg", "-s", package], capture_output=True, check=False)
    return asked.returncode == 0 and b"Status: install ok installed" in asked.stdout


def bring_screen() -> str:
    """The command prefix that gives tests a screen: xvfb-run on Linux, empty where there is one or none can be had."""
    if not sys.platform.startswith("linux") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        return ""
    may_install = shutil.which("apt-get") and os.geteuid() == 0
    missing = [name for name in SCREEN_PACKAGES if not is_installed(name)] if shutil.which("dpkg") else []
    if missing and may_install:
        say(f"installing a virtual screen and what Qt needs for it: {' '.join(missing)}")
        quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(["apt-get", "update", "-qq"], env=quiet, check=False)
        subprocess.run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing], env=quiet, check=False)
    if shutil.which("xvfb-run"):
        return "xvfb-run -a -s '-screen 0 1400x900x24'"
    say("no screen and no right to install Xvfb: the tests that open a real napari window are SKIPPED")
    return ""


def environment() -> Path:
    """The Python that has tox; made on first use."""
    folder = ROOT / ".venv-test"
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not python.exists():
        say(f"making {folder.name} with tox")
        venv.create(folder, with_pip=True, clear=True)
    subprocess.run([python, "-m", "pip", "install", "-q", "tox>=4.23", "tox-uv>=1.20"], check=True)
    return python


def main() -> int:
    """Run tox and hand its exit code on.

    Every environment with windows gets a screen of its own, so that two of them can run side by side; on the screen of
    a person they would take the focus from each other, and run one after the other.
    """
    python, screen = environment(), bring_screen()
    chosen = sys.argv[1:]
    how = ["run-parallel", "--parallel", "2", "--parallel-live"] if screen and not chosen else ["run", *chosen]
    environ = {**os.environ, "WITH_SCREEN": screen}
    return subprocess.run([python, "-m", "tox", *how], cwd=ROOT, env=environ, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
