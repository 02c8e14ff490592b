"""Kill -9 of napari while she draws and while it tunes: the next start restores all but the last second."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("napari")
pytest.importorskip("qtpy.QtTest")
psutil = pytest.importorskip("psutil")

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = Path(__file__).with_name("window_to_kill.py")
pytestmark = [
    pytest.mark.window,
    pytest.mark.slow,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(
        sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")),
        reason="no screen here: a real napari window needs one (on Linux `xvfb-run -a` gives one)",
    ),
]


class Window:
    """A window in a process of its own, and what it says."""

    def __init__(self, part: str, slide: Path) -> None:
        paths = [str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "NAPARI_CONFIG": str(slide.with_name("napari.yaml")),
        }
        environment.pop("QT_QPA_PLATFORM", None)
        line = [sys.executable, str(SCRIPT), part, str(slide)]
        self.process = subprocess.Popen(line, stdout=subprocess.PIPE, text=True, env=environment)

    def until(self, what: str) -> list[dict[str, Any]]:
        """Everything it says up to this."""
        said: list[dict[str, Any]] = []
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                said.append(json.loads(line))
                if said[-1]["what"] == what:
                    return said
        raise AssertionError(f"it ended before {what!r}; it said {said}")

    def kill(self) -> None:
        """SIGKILL: nothing of the program runs any more."""
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def windows() -> Iterator[list[Window]]:
    opened: list[Window] = []
    yield opened
    for window in opened:
        if window.process.poll() is None:
            window.kill()


@pytest.fixture
def slide(tmp_path: Path) -> Path:
    """2400 × 1800 pixels at 0.5 µm: coarse noise above, fine noise below, so that there is something to learn."""
    import tifffile

    rng = np.random.default_rng(0)
    coarse = np.kron(rng.integers(90, 200, (18, 48, 3)), np.ones((50, 50, 1)))
    fine = np.kron(rng.integers(90, 200, (225, 600, 3)), np.ones((4, 4, 1)))
    pixels = np.concatenate([coarse, fine]).astype(np.uint8)
    path = tmp_path / "slide ä.tiff"
    options: dict[str, Any] = {"resolution": (2e4, 2e4), "resolutionunit": "CENTIMETER", "photometric": "rgb"}
    tifffile.imwrite(path, pixels, tile=(256, 256), **options)
    return path


def has_ended(pid: int, seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.05)
    return False


def test_nothing_is_lost_but_the_last_second(slide: Path, windows: list[Window]) -> None:
    import shapely

    # In the middle of drawing: six regions are there, and a polygon whose last corner is not set.
    windows.append(Window("draw", slide))
    drawn = windows[0].until("half drawn")[-2]["regions"]
    windows[0].kill()
    assert [name for name, _ in drawn] == ["Tumor"] * 3 + ["Stroma"] * 3

    # The next start offers them; the half-drawn one is there as far as it went. Then in the middle of tuning.
    windows.append(Window("tune", slide))
    asked, restored, tuning = windows[1].until("tuning")
    assert asked["regions"] and "7 regions" in asked["text"]
    assert restored["regions"][:6] == drawn and restored["regions"][6][0] == "Stroma"
    half = shapely.from_wkt(restored["regions"][6][1])
    assert half.bounds == pytest.approx((300, 1500, 700, 1640), abs=8)
    assert tuning["stage"] == "running", tuning
    assert psutil.pid_exists(tuning["worker"])
    windows[1].kill()
    assert has_ended(tuning["worker"]), "the worker goes with its window"

    # What it came to can be kept, the regions are as they were, and the next tuning works.
    windows.append(Window("again", slide))
    asked, found, kept, tuned = windows[2].until("tuned")
    assert asked["tuning"], "the best epoch is offered"
    assert found["regions"] == restored["regions"]
    assert Path(kept["out"]).is_file() and kept["can_go_on"]
    assert tuned["stage"] == "done" and Path(tuned["out"]).is_file() and tuned["out"] != kept["out"], tuned
    assert windows[2].process.wait(60) == 0
