"""How long napari's main thread is blocked at worst: idle and while a prediction runs, measured in one window.

On Linux without a screen: xvfb-run -a -s "-screen 0 1400x900x24" python benchmarks/viewer_block.py
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

TICK_MS = 5
PAN_EVERY_S = 0.1


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="length of the idle and of the predicting part")
    parser.add_argument("--size", type=int, default=4096, help="width and height of the generated slide in pixels")
    parser.add_argument("--still", action="store_true", help="do not pan while measuring")
    parser.add_argument("--slide", type=Path, help="a slide of yours instead of a generated one")
    parser.add_argument("--tuning", type=Path, help="a tuning of yours instead of a linear probe made for this")
    parser.add_argument("--stacks", action="store_true", help="also print where the main thread was in long blocks")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PATHOTUNE_RESULTS"] = str(Path(folder) / "results")
        os.environ["PATHOTUNE_CACHE"] = str(Path(folder) / "cache")
        os.environ["NAPARI_CONFIG"] = str(Path(folder) / "napari.yaml")
        report = measure(Path(folder), options)
    if options.json:
        print(json.dumps(report, indent=1))
        return
    for part in ("idle", "predicting"):
        row = report[part]
        print(
            f"{part:>10}: longest block {row['longest_ms']:6.1f} ms, 99th percentile {row['p99_ms']:5.1f} ms, "
            f"median {row['median_ms']:4.1f} ms of {row['ticks']} ticks"
        )
        for block in row.get("blocks", []):
            print(f"      {block['ms']:6.1f} ms: {block['where']}")
    print(f"     added: {report['added_ms']:.1f} ms to the longest block (aim: 50 ms or less)")
    print(f"pictures of the canvas while idle: {report['pictures']} for {report['steps']} steps of the view")
    print(f"tiles predicted meanwhile: {report['tiles']}, overlay cells painted: {report['cells']}")


def measure(folder: Path, options: Any) -> dict[str, Any]:
    """Idle, then predicting, in one window that is panned in the same way both times."""
    slide, tuning = options.slide or make_slide(folder, options.size), options.tuning or make_tuning(folder / "head")

    from napari_pathotune.window import open_window

    viewer, dock = open_window([slide], show=False)
    window = viewer.window._qt_window
    window.resize(1400, 900)
    window.show()
    run(3.0)
    dock.predict.tuning.load(tuning)
    dock.predict.place.setCurrentIndex(dock.predict.place.findData("slide"))
    session = dock.session
    pan = Panner(viewer, still=options.still)
    run(3.0, pan)  # what is read for the first time is in the cache for both parts

    pictures: list[float] = []
    window._qt_viewer.canvas._scene_canvas.events.draw.connect(lambda event: pictures.append(time.perf_counter()))
    first_step = pan.step
    idle = watch(options.seconds, pan, stacks=options.stacks)
    drawn, steps = len(pictures), pan.step - first_step
    dock.predict.go.click()
    # Until after the overlay's layers were made and painted: the heaviest moments of all.
    painted = PaintedSince(session, options.seconds / 2)
    predicting = watch(options.seconds, pan, more=lambda: not painted(), stacks=options.stacks)
    tiles, result = session.job.done, session.result
    cells = result.grid.predicted_cells if result is not None else 0
    dock.runner.cancel()
    run(2.0, until=lambda: not session.job.is_active)
    viewer.close()
    run(0.5)
    return {
        "idle": idle,
        "predicting": predicting,
        "added_ms": round(predicting["longest_ms"] - idle["longest_ms"], 1),
        "pictures": drawn,
        "steps": steps,
        "tiles": tiles,
        "cells": cells,
        "slide": slide.name,
        "panning": not options.still,
    }


def make_slide(folder: Path, size: int) -> Path:
    """A generated slide of so many pixels each way."""
    from pathotune.slides.synthetic import write_sample

    return write_sample(folder, 5, width_px0=size, height_px0=size, name="sample")[0]


def make_tuning(out: Path) -> Path:
    """A linear probe on the built-in backbone, tuned on the shipped sample in a process of its own."""
    from pathotune import events
    from pathotune.execution.client import WorkerClient
    from pathotune.execution.job import Job
    from pathotune.resources import resource

    slide, regions = (resource("samples", f"generated-slide{suffix}") for suffix in (".tiff", ".geojson"))
    arguments = {
        "sources": [{"slide": str(slide), "regions": str(regions)}],
        "method": "linear_probe",
        "backbone": "pathotune-tiny",
        "training": {"epochs": 2},
        "out": str(out),
    }
    with WorkerClient() as client:
        client.start()
        client.submit(Job("tune", arguments))
        while True:
            for event in client.poll():
                if isinstance(event, events.Failed):
                    raise SystemExit(event.text)
                if isinstance(event, events.Finished):
                    return Path(event.result["out"])
            time.sleep(0.05)


class PaintedSince:
    """Whether the overlay has shown something for so many seconds."""

    def __init__(self, session: Any, seconds: float) -> None:
        self.session, self.seconds, self.since = session, seconds, 0.0

    def __call__(self) -> bool:
        """Ask now."""
        result = self.session.result
        if not self.since and result is not None and len(result.layers) >= 3 and result.grid.predicted_cells:
            self.since = time.perf_counter()
        return bool(self.since) and time.perf_counter() - self.since > self.seconds


class Panner:
    """Moves the view in a small circle at full resolution, so that the canvas has its usual work to do."""

    def __init__(self, viewer: Any, still: bool) -> None:
        from napari_pathotune.compat import camera

        self.camera, self.still = camera(viewer), still
        self.camera.zoom = 1.0
        self.centre = tuple(self.camera.center)
        self.next, self.step = 0.0, 0

    def __call__(self) -> None:
        """Move a little, if it is time."""
        now = time.perf_counter()
        if self.still or now < self.next:
            return
        self.next, self.step = now + PAN_EVERY_S, self.step + 1
        offset = 40.0 * (self.step % 8)
        self.camera.center = (*self.centre[:-2], self.centre[-2] + offset, self.centre[-1] + offset)


class StackWatch(threading.Thread):
    """Notes where the main thread is while a tick is late; it takes time itself, so measure without it too."""

    LATE_S, EVERY_S = 0.04, 0.01

    def __init__(self, ticks: list[float]) -> None:
        super().__init__(daemon=True)
        self.ticks, self.main, self.over = ticks, threading.get_ident(), threading.Event()
        self.seen: dict[float, Counter[str]] = {}

    def run(self) -> None:
        """Thread: look every few milliseconds."""
        while not self.over.wait(self.EVERY_S):
            last = self.ticks[-1] if self.ticks else time.perf_counter()
            frame = sys._current_frames().get(self.main)
            if frame is not None and time.perf_counter() - last > self.LATE_S:
                calls = traceback.extract_stack(frame)
                inner = [f"{Path(call.filename).stem}.{call.name}:{call.lineno}" for call in calls[2:]]
                self.seen.setdefault(last, Counter())[" > ".join(inner[-14:])] += 1

    def longest(self, number: int = 6) -> list[dict[str, Any]]:
        """The longest blocks and the stack each was seen in most."""
        gaps = dict(zip(self.ticks, [b - a for a, b in zip(self.ticks, self.ticks[1:], strict=False)], strict=False))
        chosen = sorted((last for last in self.seen if last in gaps), key=lambda last: -gaps[last])[:number]
        return [{"ms": round(gaps[last] * 1000, 1), "where": self.seen[last].most_common(1)[0][0]} for last in chosen]


def watch(
    seconds: float, pan: Callable[[], None], more: Callable[[], bool] = lambda: False, stacks: bool = False
) -> dict[str, Any]:
    """Time between the ticks of a timer in the main thread; longer than the timer's own interval is a block.

    `more` prolongs the watch (by twenty times at most) while it says so.
    """
    import numpy as np
    from qtpy.QtCore import QTimer

    ticks: list[float] = []
    watcher = StackWatch(ticks)
    if stacks:
        watcher.start()
    timer = QTimer()
    timer.setInterval(TICK_MS)
    timer.timeout.connect(lambda: ticks.append(time.perf_counter()))
    timer.timeout.connect(pan)
    timer.start()
    run(seconds)
    run(seconds * 19, until=lambda: not more())
    timer.stop()
    watcher.over.set()
    gaps = np.diff(ticks) * 1000 - TICK_MS
    found = {"blocks": watcher.longest()} if stacks else {}
    return found | {
        "longest_ms": round(float(gaps.max()), 1),
        "p99_ms": round(float(np.percentile(gaps, 99)), 1),
        "median_ms": round(float(np.median(gaps)), 1),
        "ticks": len(ticks),
    }


def run(seconds: float, each: Callable[[], None] = lambda: None, until: Callable[[], bool] = lambda: False) -> None:
    """Let the window's loop run."""
    from qtpy.QtCore import QEventLoop, QTimer

    loop, end = QEventLoop(), time.perf_counter() + seconds
    timer = QTimer()
    timer.setInterval(20)

    def check() -> None:
        each()
        if time.perf_counter() > end or until():
            loop.quit()

    timer.timeout.connect(check)
    timer.start()
    (loop.exec if hasattr(loop, "exec") else loop.exec_)()
    timer.stop()


if __name__ == "__main__":
    main()
