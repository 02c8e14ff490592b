"""Fixtures of the plugin's tests: a small slide, a viewer model, a real window where there is a screen."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

_KEPT: list[Any] = []


@pytest.fixture
def viewer() -> Any:
    """A viewer model without a window."""
    pytest.importorskip("napari")
    from napari.components import ViewerModel

    return ViewerModel()


def write_picture(path: Path, width: int = 600, height: int = 400, mpp: float | None = 0.5) -> Path:
    """A small pyramidal TIFF with an H&E-like gradient; without resolution where `mpp` is None."""
    import tifffile

    y, x = np.mgrid[:height, :width]
    picture = np.stack([200 - x // 6, 120 + y // 8, 180 - y // 10], axis=-1).clip(0, 255).astype(np.uint8)
    options: dict[str, Any] = {"tile": (128, 128), "photometric": "rgb", "compression": "jpeg"}
    if mpp is not None:
        options |= {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(picture, subifds=0, **options)
        tiff.write(picture[::2, ::2], subfiletype=1, tile=(128, 128), photometric="rgb", compression="jpeg")
    return path


@pytest.fixture
def make_picture() -> Callable[..., Path]:
    """Writes slides of other sizes."""
    return write_picture


@pytest.fixture
def slide_path(tmp_path: Path) -> Path:
    """A 600 × 400 slide at 0.5 µm per pixel, with an umlaut and a space in its name."""
    return write_picture(tmp_path / "Schnitt ä 1.tiff")


@pytest.fixture
def silent_slide_path(tmp_path: Path) -> Path:
    """A slide that does not say its pixel size."""
    return write_picture(tmp_path / "silent.tiff", mpp=None)


@pytest.fixture
def notices(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What would have been shown as notifications."""
    from napari_pathotune import compat

    shown: list[str] = []
    for name in ("show_error", "show_warning", "show_info"):
        monkeypatch.setattr(compat, name, shown.append)
    return shown


@pytest.fixture
def add(viewer: Any) -> Callable[[list[Any]], list[Any]]:
    """Adds layer data tuples to the viewer model as napari does."""
    from napari.layers import Layer

    def add_layers(layer_data: list[Any]) -> list[Any]:
        layers = [Layer.create(*data) for data in layer_data]
        for layer in layers:
            viewer.add_layer(layer)
        return layers

    return add_layers


def has_screen() -> bool:
    """Whether a real window can open here."""
    if os.environ.get("QT_QPA_PLATFORM", "") in ("offscreen", "minimal"):
        return False
    return sys.platform != "linux" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


@pytest.fixture
def qapp() -> Any:
    """The Qt application; off screen where there is none, which is enough for forms and panels."""
    pytest.importorskip("qtpy.QtWidgets")
    if not has_screen():
        os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    from qtpy.QtWidgets import QApplication

    # Kept for all tests: an application that is freed while its widgets are cannot be followed by another.
    _KEPT.append(QApplication.instance() or QApplication([]))
    return _KEPT[0]


@pytest.fixture
def window(qapp: Any) -> Iterator[Any]:
    """A real napari viewer; skips where no window can open."""
    if not has_screen():
        pytest.skip("no screen here: a real napari window needs one (on Linux `xvfb-run -a` gives one)")
    import napari

    viewer = napari.Viewer(show=False)
    viewer.window._qt_window.resize(1400, 900)
    viewer.window._qt_window.show()
    yield viewer
    viewer.close()
    process_events(0.1)


@pytest.fixture
def run_loop(qapp: Any) -> Callable[..., bool]:
    """Lets the Qt loop run until a condition holds, and says whether it came to hold."""

    def run(seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            if until():
                return True
            process_events(0.01)
        return until()

    return run


def process_events(seconds: float) -> None:
    """Let the Qt loop run for a while."""
    from qtpy.QtWidgets import QApplication

    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        QApplication.processEvents()
        time.sleep(0.005)
