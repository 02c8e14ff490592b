"""What a start costs: `pathotune --help` beside Python's own start, and what the plugin adds to napari's imports.

    python benchmarks/start_up.py

Every measurement is a fresh interpreter; the kinds take turns, so that a slow minute of the computer falls on all of
them. The first round, which reads files from the disk, is not counted. Medians, and the least and the most.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time

NAPARI = "import napari, magicgui.widgets, npe2, qtpy.QtWidgets, napari.layers, napari.viewer"
PLUGIN = (
    "napari_pathotune",
    "napari_pathotune.reader",
    "napari_pathotune.writer",
    "napari_pathotune.sample_data",
    "napari_pathotune.widgets.dock",
    "napari_pathotune.widgets.overview",
    "napari_pathotune.widgets.slides",
)
TIMED = """
{before}
import sys, time
started = time.perf_counter()
{imports}
print(time.perf_counter() - started, "torch" in sys.modules)
"""
PYTHON, HELP, READER, ALL = "python", "pathotune --help", "plugin: its reader", "plugin: all that napari can ask for"


def wall_s(*arguments: str) -> float:
    """Seconds from the call to the end of a fresh interpreter."""
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    return time.perf_counter() - started


def import_s(modules: tuple[str, ...], before: str) -> float:
    """Seconds that these imports take in a fresh interpreter, after others."""
    code = TIMED.format(before=before, imports="\n".join(f"import {name}" for name in modules))
    environment = {**os.environ, "QT_QPA_PLATFORM": "offscreen"}
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment)
    seconds, torch = done.stdout.split()
    if torch == "True":
        raise SystemExit("The plugin's import has loaded torch: that is not the measurement that is meant.")
    return float(seconds)


def main() -> None:
    """Print the medians of one run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11, help="rounds that count (default 11)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    chosen = parser.parse_args()
    kinds = {
        PYTHON: lambda: wall_s("-c", "pass"),
        HELP: lambda: wall_s("-c", "from pathotune.cli import main; main(['--help'])"),
        READER: lambda: import_s(PLUGIN[:2], NAPARI),
        ALL: lambda: import_s(PLUGIN, NAPARI),
    }
    taken: dict[str, list[float]] = {name: [] for name in kinds}
    for number in range(chosen.rounds + 1):
        for name, measure in kinds.items():
            seconds = measure()
            if number:
                taken[name].append(seconds)
    middle = {name: statistics.median(values) for name, values in taken.items()}
    beside = statistics.median(mine - own for mine, own in zip(taken[HELP], taken[PYTHON], strict=True))
    if chosen.json:
        print(json.dumps({"median_s": middle, "help_beside_python_s": beside, "all_s": taken}, indent=1))
        return
    print(f"Python {platform.python_version()}, {platform.system()} {platform.machine()}, {os.cpu_count()} cores, ")
    print(f"{chosen.rounds} rounds, each a fresh interpreter; seconds, median (least to most)")
    for name, values in taken.items():
        print(f"{name:38s} {middle[name]:.3f} ({min(values):.3f} to {max(values):.3f})")
    print(f"pathotune --help beside Python's own start: {beside:.3f} s")


if __name__ == "__main__":
    main()
