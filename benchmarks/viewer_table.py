"""How fluid a large slide is in napari: ours beside arrays in memory, zarr, dask and napari-wsi, idle and predicting.

Each kind of data is shown in a process and a window of its own, and the kinds take turns within one run. On Linux
without a screen: xvfb-run -a -s "-screen 0 1400x900x24" python benchmarks/viewer_table.py
"""

from __future__ import annotations

import argparse
import json
import os
import resource as usage
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from viewer_block import TICK_MS, make_slide, make_tuning, run

KINDS = ("numpy", "zarr", "dask", "napari-wsi", "ours", "ours, 10^6 cells", "ours with dock")
COLUMNS = ("first_frame_ms", "sharp_ms", "pan_p50_ms", "pan_p95_ms", "zoom_p95_ms", "block_ms", "memory_mb")
TITLES = ("first frame", "sharp", "pan p50", "pan p95", "zoom p95", "longest block", "memory (MB)")
# Steps of a person who drags and turns the wheel: so many screen pixels, so much nearer or farther.
PAN_PX, PAN_STEPS, ZOOM_BY, STEP_EVERY_S = 60, 40, 1.25, 0.05
ZARR_CHUNK, CELLS_A_SIDE = 512, 1000


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=20000, help="width and height of the generated slide in pixels")
    parser.add_argument("--slide", type=Path, help="a slide of yours instead of a generated one")
    parser.add_argument("--tuning", type=Path, help="a tuning of yours instead of a linear probe made for this")
    parser.add_argument("--rounds", type=int, default=3, help="how often every kind is shown")
    parser.add_argument("--kinds", default=";".join(KINDS), help="which of them, separated by semicolons")
    parser.add_argument("--only", choices=("idle", "predicting"), help="one half of the table")
    parser.add_argument("--keep", type=Path, help="keep slide, zarr store and tuning in this folder for the next time")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--show", nargs=3, help=argparse.SUPPRESS)  # what a process of its own is started with
    options = parser.parse_args()
    if options.show:
        show_one(*options.show, slide=options.slide, tuning=options.tuning)
        return
    with tempfile.TemporaryDirectory() as folder:
        report = measure(options, Path(folder))
    print(json.dumps(report, indent=1)) if options.json else print_table(report)


def measure(options: Any, folder: Path) -> dict[str, Any]:
    """All kinds in turn, idle and while a prediction of the same slide runs."""
    kept = options.keep or folder
    kept.mkdir(parents=True, exist_ok=True)
    slide = options.slide or kept / "sample.tiff"
    if not slide.exists():
        slide = make_slide(kept, options.size)
    tuning = options.tuning or next(kept.glob("head*.safetensors"), None) or make_tuning(kept / "head")
    store = kept / f"{slide.stem}.pyramid.zarr"
    if not store.exists():
        write_zarr(slide, store)
    kinds = [kind for kind in options.kinds.split(";") if kind != "napari-wsi" or find_spec("napari_wsi")]
    states = [options.only] if options.only else ["idle", "predicting"]
    rows: dict[str, dict[str, list[Any]]] = {state: {kind: [] for kind in kinds} for state in states}
    for number in range(options.rounds):
        for state in states:
            turn = number % len(kinds)
            for kind in kinds[turn:] + kinds[:turn]:
                rows[state][kind].append(in_process(kind, state, slide, tuning, store, folder))
                print(state, kind, rows[state][kind][-1], file=sys.stderr, flush=True)
    return {"slide": slide.name, "rounds": options.rounds, "runs": rows, "medians": medians(rows)}


def medians(rows: dict[str, dict[str, list[Any]]]) -> dict[str, Any]:
    """The middle of the rounds for each column."""
    return {
        state: {kind: {key: median(row[key] for row in runs) for key in COLUMNS} for kind, runs in kinds.items()}
        for state, kinds in rows.items()
    }


def in_process(kind: str, state: str, slide: Path, tuning: Path, store: Path, folder: Path) -> dict[str, float]:
    """One kind in a process of its own."""
    command = [sys.executable, __file__, "--slide", str(slide), "--tuning", str(tuning), "--show", kind, state]
    fresh = tempfile.mkdtemp(dir=folder)
    env = os.environ | {
        "PATHOTUNE_RESULTS": f"{fresh}/results",
        "PATHOTUNE_CACHE": f"{fresh}/cache",
        "NAPARI_CONFIG": f"{fresh}/napari.yaml",
    }
    done = subprocess.run([*command, str(store)], env=env, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def print_table(report: dict[str, Any]) -> None:
    """The medians, with their ratios to arrays in memory."""
    for state, kinds in report["medians"].items():
        print(f"\n{state} (milliseconds; in brackets times numpy), {report['slide']}, median of {report['rounds']}\n")
        print("| " + " | ".join(("data", *TITLES)) + " |")
        print("| --- " * (len(TITLES) + 1) + "|")
        for kind, row in kinds.items():
            base = kinds.get("numpy")
            cells = [
                f"{row[key]:.0f}" + (f" ({row[key] / base[key]:.2f})" if base and base[key] else "") for key in COLUMNS
            ]
            print("| " + " | ".join((kind, *cells)) + " |")


def write_zarr(slide: Path, store: Path) -> None:
    """The slide's levels as plain zarr arrays."""
    import zarr

    from pathotune import open_slide

    with open_slide(slide) as opened:
        group = zarr.open_group(str(store), mode="w")
        for index, level in enumerate(opened.pyramid):
            chunks = (*(min(ZARR_CHUNK, side) for side in level.shape[:2]), 3)
            array = group.create_array(str(index), shape=level.shape, chunks=chunks, dtype="uint8")
            for top in range(0, level.shape[0], ZARR_CHUNK):
                array[top : top + ZARR_CHUNK] = level[top : top + ZARR_CHUNK].compute()


# -- in the process of one kind


def show_one(kind: str, state: str, store: str, slide: Path, tuning: Path) -> None:
    """Open a window, put the slide into it, move about, and print what it took as one line of JSON."""
    import napari

    # What is measured is the slide's way to the screen, not Python's to its libraries.
    ours = (f"napari_pathotune.{name}" for name in ("canvas", "opening", "overlay", "session", "slide_view"))
    slides = ("pathotune.slides.glance", "pathotune.slides.tiff", "pathotune.inference.predictions")
    for name in ("dask.array", "imagecodecs", "tifffile", "tiffslide", "zarr", "scipy.ndimage", *ours, *slides):
        import_module(name)

    prepare = {"numpy": as_numpy, "zarr": as_zarr, "dask": as_dask, "napari-wsi": as_napari_wsi}.get(kind, as_ours)
    add = prepare(slide, Path(store))
    viewer = napari.Viewer(show=False)
    dock = viewer.window.add_plugin_dock_widget("pathotune", "PathoTune")[1] if kind == "ours with dock" else None
    window = viewer.window._qt_window
    window.resize(1400, 900)
    window.show()
    run(1.5)
    frames = Frames(viewer)
    start = time.perf_counter()
    layer = add(viewer)
    first = (frames.next() - start) * 1000
    run(20.0, until=lambda: is_sharp(viewer))
    sharp = max(first, (frames.last - start) * 1000)
    run(1.0)
    if kind == "ours, 10^6 cells":
        add_cells(viewer, layer)
        run(1.0)
    stop = start_prediction(dock, slide, tuning) if state == "predicting" else lambda: None
    pans, zooms, longest = move_about(viewer, layer, frames)
    peak = usage.getrusage(usage.RUSAGE_SELF).ru_maxrss / 1024
    stop()
    report = {
        "first_frame_ms": first,
        "sharp_ms": sharp,
        "pan_p50_ms": float(np.percentile(pans, 50)),
        "pan_p95_ms": float(np.percentile(pans, 95)),
        "zoom_p95_ms": float(np.percentile(zooms, 95)),
        "block_ms": longest,
        "memory_mb": peak,
    }
    viewer.close()
    run(0.3)
    print(json.dumps({key: round(value, 1) for key, value in report.items()}), flush=True)


def as_numpy(slide: Path, store: Path) -> Callable[[Any], Any]:
    """The levels in memory, read before the clock starts."""
    import zarr

    group = zarr.open_group(str(store), mode="r")
    levels = [group[name][...] for name in sorted(group.array_keys(), key=int)]
    return lambda viewer: viewer.add_image(levels, rgb=True, multiscale=True)


def as_zarr(slide: Path, store: Path) -> Callable[[Any], Any]:
    """zarr arrays as they are."""
    import zarr

    def add(viewer: Any) -> Any:
        group = zarr.open_group(str(store), mode="r")
        levels = [group[name] for name in sorted(group.array_keys(), key=int)]
        return viewer.add_image(levels, rgb=True, multiscale=True)

    return add


def as_dask(slide: Path, store: Path) -> Callable[[Any], Any]:
    """dask over the same zarr arrays."""
    import dask.array as da
    import zarr

    def add(viewer: Any) -> Any:
        names = sorted(zarr.open_group(str(store), mode="r").array_keys(), key=int)
        levels = [da.from_zarr(str(store), component=name) for name in names]
        return viewer.add_image(levels, rgb=True, multiscale=True)

    return add


def as_napari_wsi(slide: Path, store: Path) -> Callable[[Any], Any]:
    """What napari-wsi makes of the slide file, with openslide."""
    from napari_wsi.backends.openslide import OpenSlideStore

    return lambda viewer: OpenSlideStore(slide).to_viewer(viewer)[0]


def as_ours(slide: Path, store: Path) -> Callable[[Any], Any]:
    """The slide file through this project's reader."""
    from napari_pathotune.opening import open_paths

    return lambda viewer: open_paths(viewer, [slide])[0]


def add_cells(viewer: Any, layer: Any) -> None:
    """A prediction of a million cells over the whole slide, as it is shown."""
    from napari.layers import Layer

    from napari_pathotune.layers import pixel_um, result_layers
    from napari_pathotune.overlay import ClassGrid

    slide = layer.metadata["pathotune"]["slide"]
    probabilities = np.random.default_rng(0).dirichlet(np.full(4, 0.3), CELLS_A_SIDE**2).T.astype(np.float32)
    height, width = slide.height_px0 / CELLS_A_SIDE, slide.width_px0 / CELLS_A_SIDE
    y, x = pixel_um(slide)
    grid = ClassGrid(
        probabilities.reshape(4, CELLS_A_SIDE, CELLS_A_SIDE),
        ("a", "b", "c", "d"),
        np.array([(230, 159, 0), (0, 114, 178), (0, 158, 115), (204, 121, 167)]),
        (height * y, width * x),
        ((height - 1) / 2 * y, (width - 1) / 2 * x),
    )
    for data in result_layers(grid, "cells.pathotune.zarr", "cells", slide.path):
        viewer.layers.append(Layer.create(*data))


def is_sharp(viewer: Any) -> bool:
    """Whether the picture on the screen is the final one; only ours shows another before."""
    from napari_pathotune.session import session_of

    if not any("pathotune" in layer.metadata for layer in viewer.layers):
        return True
    views = session_of(viewer).companions.get("slide views")
    return views is None or views.are_sharp


class Frames:
    """When pictures have reached the screen."""

    def __init__(self, viewer: Any) -> None:
        self.last, self.count, self._is_drawn = 0.0, 0, False
        canvas = viewer.window._qt_viewer.canvas
        canvas._scene_canvas.events.draw.connect(self._on_draw)
        canvas.native.frameSwapped.connect(self._on_frame)

    def _on_draw(self, event: Any) -> None:
        self._is_drawn = True

    def _on_frame(self) -> None:
        # A button that changes has the window put together again, too: only pictures of the canvas count.
        if self._is_drawn:
            self.last, self.count, self._is_drawn = time.perf_counter(), self.count + 1, False

    def next(self, seconds: float = 30.0) -> float:
        """Let the loop run until the next picture; when it came."""
        from qtpy.QtWidgets import QApplication

        before, end = self.count, time.perf_counter() + seconds
        while self.count == before and time.perf_counter() < end:
            QApplication.processEvents()
            time.sleep(0.0005)
        return self.last


def start_prediction(dock: Any, slide: Path, tuning: Path) -> Callable[[], None]:
    """Predict the whole slide: by the dock, which shows it, or by a worker beside the window; how to stop it."""
    if dock is not None:
        dock.predict.tuning.load(tuning)
        dock.predict.place.setCurrentIndex(dock.predict.place.findData("slide"))
        dock.predict.go.click()
        run(120.0, until=lambda: dock.session.job.done > 0)
        run(2.0)
        return dock.runner.cancel
    from pathotune import events
    from pathotune.execution.client import WorkerClient
    from pathotune.execution.job import Job

    client = WorkerClient()
    client.start()
    out = os.environ["PATHOTUNE_RESULTS"]
    client.submit(Job("predict", {"slide": str(slide), "tuning": str(tuning), "out": out}))
    seen: list[Any] = []

    def has_begun() -> bool:
        seen.extend(client.poll())
        failed = [event for event in seen if isinstance(event, events.Failed)]
        if failed:
            raise SystemExit(failed[0].text)
        return any(isinstance(event, events.Step) and event.done for event in seen)

    run(120.0, until=has_begun)
    return client.close


def move_about(viewer: Any, layer: Any, frames: Frames) -> tuple[list[float], list[float], float]:
    """Drag at full resolution and at a quarter of it, turn the wheel in and out; milliseconds of each step, and the
    longest time the window's loop stood still."""
    from qtpy.QtCore import QTimer

    from napari_pathotune.compat import camera

    view, size = camera(viewer), float(layer.scale[-1])
    ticks: list[float] = []
    timer = QTimer()
    timer.setInterval(TICK_MS)
    timer.timeout.connect(lambda: ticks.append(time.perf_counter()))
    height, width = layer.level_shapes[0][:2]
    timer.start()
    pans: list[float] = []
    for zoom in (1.0, 0.25):
        view.zoom = zoom / size
        view.center = (*view.center[:-2], height * size * 0.3, width * size * 0.3)
        frames.next()
        run(1.0)
        for _ in range(PAN_STEPS):
            offset = PAN_PX / view.zoom
            step(frames, pans, lambda offset=offset: _move(view, offset))
    zooms: list[float] = []
    for factor in (ZOOM_BY,) * 10 + (1 / ZOOM_BY,) * 20 + (ZOOM_BY,) * 10:
        step(frames, zooms, lambda factor=factor: setattr(view, "zoom", view.zoom * factor))
    run(0.5)
    timer.stop()
    return pans, zooms, float((np.diff(ticks) * 1000 - TICK_MS).max())


def _move(view: Any, offset: float) -> None:
    view.center = (*view.center[:-2], view.center[-2] + offset / 2, view.center[-1] + offset)


def step(frames: Frames, times: list[float], change: Callable[[], None]) -> None:
    """One step of the hand, until it is seen; the next comes no sooner than a hand's."""
    start = time.perf_counter()
    change()
    times.append((frames.next() - start) * 1000)
    run(max(0.005, STEP_EVERY_S - (time.perf_counter() - start)))


if __name__ == "__main__":
    main()
