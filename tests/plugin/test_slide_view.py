"""A slide is drawn without waiting for its file, ends up as sharp as it is, and stays a dask pyramid."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("napari")

from napari_pathotune import compat, slide_view
from napari_pathotune.layers import facts
from napari_pathotune.opening import open_paths
from napari_pathotune.session import session_of

pytestmark = [pytest.mark.window, pytest.mark.timeout(300)]


class Gate:
    """Lets no block of a slide through while it is shut, and notes which threads ask."""

    def __init__(self, slide: Any) -> None:
        self.threads: list[threading.Thread] = []
        self.open = threading.Event()
        self.open.set()
        self.read = slide._source.block
        slide._source.block = self.block

    def block(self, level: int, row: int, column: int) -> Any:
        self.threads.append(threading.current_thread())
        assert self.open.wait(60)
        return self.read(level, row, column)


@pytest.fixture
def layer(window: Any, make_picture: Callable[..., Path], tmp_path: Path, run_loop: Callable[..., bool]) -> Any:
    """A slide of 4000 × 3000 pixels, shown whole."""
    (found,) = open_paths(window, [make_picture(tmp_path / "large.tiff", 4000, 3000)])
    run_loop(0.3)
    return found


@pytest.fixture
def gate(layer: Any) -> Iterator[Gate]:
    found = Gate(facts(layer)["slide"])
    yield found
    found.open.set()


def views_of(window: Any) -> Any:
    return session_of(window).companions["slide views"]


def drawn(layer: Any) -> np.ndarray:
    return np.asarray(layer._slicing_state._slice.image.raw)


def own_pixels(layer: Any) -> np.ndarray:
    """The same part of the same level, as anyone who computes with the layer's data gets it."""
    (top, left), (bottom, right) = layer.corner_pixels
    return np.asarray(layer.data[layer.data_level][top : bottom + 1, left : right + 1])


def look_at(window: Any, layer: Any, zoom: float, y: float, x: float) -> None:
    camera, size = compat.camera(window), layer.scale[-1]
    camera.zoom, camera.center = zoom / size, (*camera.center[:-2], y * size, x * size)


def test_no_pixel_is_read_by_the_windows_thread_and_the_picture_is_the_slides_own(
    window: Any, layer: Any, gate: Gate, run_loop: Callable[..., bool]
) -> None:
    for zoom, y, x in ((1.0, 800, 900), (1.0, 900, 1300), (0.5, 1500, 1500), (2.0, 2500, 3500), (0.2, 1500, 2000)):
        look_at(window, layer, zoom, y, x)
        run_loop(0.05)
        assert run_loop(30, until=lambda: views_of(window).are_sharp)
        assert np.array_equal(drawn(layer), own_pixels(layer))
    seen = {thread for thread in gate.threads if thread.name.startswith("pathotune-glance")}
    assert seen and threading.main_thread() not in gate.threads


def test_while_the_file_is_slow_the_picture_is_coarse_and_nowhere_empty(
    window: Any, layer: Any, gate: Gate, run_loop: Callable[..., bool]
) -> None:
    gate.open.clear()
    pictures = []
    for y, x in ((1700, 2900), (1200, 2000)):
        look_at(window, layer, 1.0, y, x)
        before = drawn(layer)
        assert run_loop(30, until=lambda before=before: drawn(layer) is not before)
        assert layer.data_level == 0 and not views_of(window).are_sharp
        pictures.append((drawn(layer), layer.corner_pixels.copy()))
    gate.open.set()
    assert run_loop(30, until=lambda: views_of(window).are_sharp)
    assert np.array_equal(drawn(layer), own_pixels(layer))
    for coarse, ((top, left), (bottom, right)) in pictures:
        own = np.asarray(layer.data[0][top : bottom + 1, left : right + 1])
        # A gradient enlarged by 4 differs from itself by a step or two; white would by more than 200.
        assert coarse.shape == own.shape and np.abs(coarse.astype(int) - own).max() < 20


def test_blocks_that_come_one_by_one_do_not_each_draw_the_canvas(
    window: Any, layer: Any, gate: Gate, run_loop: Callable[..., bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slide_view, "REDRAW_EVERY_S", 1000.0)
    gate.open.clear()
    look_at(window, layer, 1.0, 1700, 2900)
    assert run_loop(30, until=lambda: not views_of(window).are_sharp)
    pictures: list[int] = []
    layer.events.set_data.connect(lambda: pictures.append(1))
    gate.threads.clear()
    gate.open.set()
    assert run_loop(30, until=lambda: views_of(window).are_sharp)
    run_loop(0.5)
    assert len(gate.threads) > 10 and len(pictures) == 1


def test_a_kept_picture_waits_for_its_blocks(
    window: Any, layer: Any, monkeypatch: pytest.MonkeyPatch, run_loop: Callable[..., bool]
) -> None:
    monkeypatch.setattr(slide_view, "PATIENCE_S", 0.0)
    for view in views_of(window)._views.values():
        view.patience_s = 0.0
    look_at(window, layer, 1.0, 2100, 1000)
    taken = window.screenshot(canvas_only=True, flash=False)
    assert np.array_equal(drawn(layer), own_pixels(layer)) and layer.data_level == 0
    run_loop(0.5)
    assert np.array_equal(taken, window.screenshot(canvas_only=True, flash=False))


def test_the_layer_stays_a_dask_pyramid_for_whoever_computes(
    window: Any, layer: Any, run_loop: Callable[..., bool]
) -> None:
    import dask.array as da

    look_at(window, layer, 1.0, 1000, 1000)
    run_loop(0.2)
    assert all(isinstance(level, da.Array) for level in layer.data)
    assert layer.data[0][:10, :10].compute().shape == (10, 10, 3)
    other = type(layer).create(*layer.as_layer_data_tuple())
    assert isinstance(other.data[0], da.Array)


def test_other_data_put_into_the_layer_are_shown_as_they_are(
    window: Any, layer: Any, run_loop: Callable[..., bool]
) -> None:
    layer.data = [np.full((400, 300, 3), 7, np.uint8), np.full((200, 150, 3), 7, np.uint8)]
    look_at(window, layer, 1.0, 200, 150)
    run_loop(0.3)
    assert (drawn(layer) == 7).all()


def test_a_damaged_tile_is_said_once_and_the_rest_is_shown(
    window: Any, layer: Any, notices: list[str], run_loop: Callable[..., bool]
) -> None:
    source = facts(layer)["slide"]._source
    read = source.block

    def block(level: int, row: int, column: int) -> Any:
        if level == 0 and (row + column) % 2:
            raise ValueError("not a tile")
        return read(level, row, column)

    source.block = block
    for x in (2900, 2000):
        look_at(window, layer, 1.0, 1700, x)
        run_loop(0.3)
        assert run_loop(30, until=lambda: layer.data_level == 0 and views_of(window).are_sharp)
    assert len([text for text in notices if "not a tile" in text]) == 1


def test_a_closed_slide_leaves_nothing_running(window: Any, layer: Any, run_loop: Callable[..., bool]) -> None:
    look_at(window, layer, 1.0, 1700, 2900)
    run_loop(0.1)
    views = views_of(window)
    window.layers.remove(layer)
    assert run_loop(10, until=lambda: not any(t.name == "pathotune-glance" for t in threading.enumerate()))
    assert not views._views and run_loop(1, until=lambda: not views._timer.isActive())


def test_without_a_window_nothing_is_put_between(viewer: Any, slide_path: Path) -> None:
    open_paths(viewer, [slide_path])
    assert "slide views" not in session_of(viewer).companions
