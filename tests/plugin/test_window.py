"""In a real window: slides open as a person opens them, a prediction fills in, stops at once and blocks nothing."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("napari")

from napari_pathotune import compat, workers
from napari_pathotune.layers import facts
from napari_pathotune.session import session_of

pytestmark = [pytest.mark.window, pytest.mark.timeout(600)]

CLASSES = ("Tumor", "Stroma", "Other")


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generated slide without margin: 108 tiles of tissue."""
    from pathotune.slides.synthetic import SyntheticSlide, write_pyramid

    folder = tmp_path_factory.mktemp("sample")
    return write_pyramid(SyntheticSlide(2688, 2016, seed=3, margin=0.0, pen=False), folder / "sample.tiff")


# In a process of its own, as in use: torch is never imported into the window's.
MAKE_TUNING = """
import sys
from pathotune.backbones import load_backbone
from pathotune.methods.checkpoint import TRAINED, Tuning
from pathotune.methods.linear_probe.config import LinearProbeConfig
from pathotune.methods.linear_probe.method import LinearProbe

names = sys.argv[2:]
backbone = load_backbone("pathotune-tiny")
card = backbone.card
model = LinearProbe(LinearProbeConfig(), backbone, names)
Tuning(
    method="linear_probe",
    config={},
    task={},
    classes=[{"name": name, "color": [60 * i, 200 - 50 * i, 90]} for i, name in enumerate(names)],
    backbone={"name": card.name, "embed_dim": backbone.embed_dim, "mpp": card.mpp, "sha256": backbone.weights_sha256,
              "licence": card.licence},
    reading=card.reading(),
    tensors={TRAINED + name: value for name, value in model.trainable_state().items()},
).save(sys.argv[1])
"""


@pytest.fixture(scope="module")
def tuning_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained linear head on the built-in backbone: what it says does not matter here."""
    path = tmp_path_factory.mktemp("tuning") / "head.pathotune.safetensors"
    subprocess.run([sys.executable, "-c", MAKE_TUNING, str(path), *CLASSES], check=True)
    return path


@pytest.fixture
def dock(window: Any) -> Any:
    _, widget = window.window.add_plugin_dock_widget("pathotune", "PathoTune")
    yield widget
    widget.close()


def test_a_slide_opens_by_the_plugins_name_with_scale_bar_and_stays_when_broken(
    window: Any, slide_path: Path, tmp_path: Path, run_loop: Callable[..., bool], notices: list[str]
) -> None:
    (layer,) = window.open(str(slide_path), plugin="pathotune")
    assert layer.source.reader_plugin == "pathotune" and layer.name == slide_path.name
    assert compat.scale_bar(window).visible and all("micro" in str(unit) for unit in layer.units)
    broken = tmp_path / "broken.svs"
    broken.write_bytes(b"no slide")
    window.open(str(broken), plugin="pathotune")
    run_loop(0.1)
    assert len(window.layers) == 1 and "broken.svs" in notices[-1] and "\n" not in notices[-1]


def test_two_slides_are_two_layers(window: Any, slide_path: Path, silent_slide_path: Path) -> None:
    window.open([str(slide_path), str(silent_slide_path)], plugin="pathotune", stack=False)
    assert [layer.name for layer in window.layers] == [slide_path.name, silent_slide_path.name]


def test_no_text_is_cut_off(
    window: Any, dock: Any, slide_path: Path, tuning_path: Path, run_loop: Callable[..., bool]
) -> None:
    from qtpy.QtWidgets import QAbstractButton, QLabel

    window.open(str(slide_path), plugin="pathotune")
    dock.predict.tuning.load(tuning_path)
    for tab in range(dock.tabs.count()):
        dock.tabs.setCurrentIndex(tab)
        run_loop(0.3)
        for kind in (QLabel, QAbstractButton):
            for control in dock.findChildren(kind):
                if control.isVisible() and control.text() and not control.objectName().startswith("qt_"):
                    needed = control.heightForWidth(control.width()) if control.hasHeightForWidth() else 0
                    assert control.height() >= needed, control.text()
                    if not getattr(control, "wordWrap", lambda: False)():
                        assert control.width() >= control.minimumSizeHint().width(), control.text()


def test_prediction_fills_in_cancels_at_once_goes_on_and_the_worker_dies_with_the_dock(
    window: Any,
    dock: Any,
    sample: Path,
    tuning_path: Path,
    run_loop: Callable[..., bool],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    threads: set[str] = set()
    read_parts = workers._read_parts

    def watched(*arguments: Any) -> Any:
        threads.add(threading.current_thread().name)
        return read_parts(*arguments)

    monkeypatch.setattr(workers, "_read_parts", watched)
    window.open(str(sample), plugin="pathotune")
    session = session_of(window)
    dock.predict.tuning.load(tuning_path)
    dock.predict.place.setCurrentIndex(dock.predict.place.findData("slide"))
    dock.predict.form["batch_size"].value = 4
    ticks: list[float] = []
    from qtpy.QtCore import QTimer

    timer = QTimer()
    timer.timeout.connect(lambda: ticks.append(time.perf_counter()))
    timer.start(20)

    dock.predict.go.click()
    assert session.job.is_active and not dock.predict.go.isEnabled()
    pid = dock.runner.client.pid
    assert run_loop(180, lambda: session.job.done >= 8), session.job
    assert session.job.rate is None or session.job.rate > 0
    start = time.perf_counter()
    dock.progress.cancel.click()
    assert run_loop(5, lambda: not session.job.is_active)
    stopped = time.perf_counter() - start
    assert session.job.stage == "cancelled" and stopped < 1.5, f"{stopped:.2f} s (the aim is one second)"
    assert len(ticks) > 20, "the window went on while the worker worked"

    dock.predict.go.click()
    assert run_loop(300, lambda: not session.job.is_active) and session.job.stage == "done", session.job
    assert run_loop(20, lambda: session.result is not None and session.result.grid.predicted_cells >= 80)
    assert run_loop(20, lambda: not dock.runner._filler.is_busy)
    result = session.result
    assert {facts(layer)["kind"] for layer in result.layers} == {"classes", "probability", "attention"}
    assert result.classes.visible and (result.classes.data[..., 3] > 0).any()
    assert np.allclose(result.grid.probabilities.sum(axis=0)[result.grid.probabilities.sum(axis=0) > 0], 1, atol=1e-3)
    assert threads and all("overlay" in name for name in threads), "the store is never read in the window's thread"
    place = session.place_at((500.0, 600.0))
    assert place.reading is not None and place.reading.class_name in CLASSES

    window.layers.clear()
    window.open(str(sample), plugin="pathotune")
    assert session.result is not None, "what was predicted opens with its slide"
    (store,) = {result.store for result in session.results}
    window.layers.clear()
    window.open(store, plugin="pathotune")
    assert len(window.layers) == 3, "and by itself"

    pid = dock.runner.client.pid or pid
    dock.close()
    assert run_loop(10, lambda: not _alive(pid)), "the worker gives its memory back"


def _alive(pid: int) -> bool:
    import psutil

    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_folder_is_stepped_through(window: Any, slide_path: Path, tmp_path: Path) -> None:
    import shutil

    from napari_pathotune.widgets.slides import slides_in

    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("a.tiff", "b.tiff"):
        shutil.copy(slide_path, folder / name)
    (folder / "notes.txt").write_text("x")
    _, slides = window.window.add_plugin_dock_widget("pathotune", "Slide list")
    slides.set_paths(slides_in(folder))
    assert [path.name for path in slides.paths] == ["a.tiff", "b.tiff"]
    (folder / "b.tiff.mine.pathotune.zarr").mkdir()
    slides.mark_predicted()
    assert [slides.list.item(row).text().endswith("predicted") for row in (0, 1)] == [False, True]
    assert [layer.name for layer in window.layers] == ["a.tiff"]
    slides.step(1)
    assert [layer.name for layer in window.layers] == ["b.tiff"] and not slides.forward.isEnabled()
    slides.step(1)
    assert [layer.name for layer in window.layers] == ["b.tiff"], "the end is the end"


def test_the_dock_is_in_front_when_the_window_opens(window: Any, run_loop: Callable[..., bool]) -> None:
    from napari_pathotune.window import open_window

    viewer, dock = open_window([])  # shown, as `pathotune view` has it
    try:
        assert run_loop(10, until=lambda: not dock.visibleRegion().isEmpty()), "not behind Overview"
    finally:
        viewer.close()
        run_loop(0.1)
