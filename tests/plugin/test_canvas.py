"""The canvas: one up-to-date picture for each view, none for what is not seen, a window of its own where that helps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("napari")

from napari_pathotune import canvas
from napari_pathotune.compat import camera
from napari_pathotune.opening import open_paths
from napari_pathotune.session import session_of


@pytest.fixture
def slide_layer(window: Any, make_picture: Callable[..., Path], tmp_path: Path, run_loop: Callable[..., bool]) -> Any:
    """A slide much larger than the canvas, at full resolution."""
    (layer,) = open_paths(window, [make_picture(tmp_path / "large.tiff", width=3000, height=2400)])
    camera(window).zoom = 2.0
    run_loop(1.5)
    return layer


@pytest.fixture
def draws(window: Any, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Where the slide's picture began (row, column) in each draw of the canvas."""
    drawn: list[Any] = []
    scene = window.window._qt_viewer.canvas._scene_canvas
    draw = scene._draw_scene

    def note(*arguments: Any, **options: Any) -> None:
        if window.layers:
            drawn.append(tuple(int(value) for value in window.layers[0].corner_pixels[0][:2]))
        draw(*arguments, **options)

    monkeypatch.setattr(scene, "_draw_scene", note)
    return drawn


@pytest.mark.window
@pytest.mark.timeout(300)
def test_a_step_of_the_hand_is_one_picture_of_the_new_place(
    window: Any, slide_layer: Any, draws: list[Any], run_loop: Callable[..., bool]
) -> None:
    for _ in range(4):
        before, corner = len(draws), slide_layer.corner_pixels[0][:2].copy()
        y, x = camera(window).center[-2:]
        camera(window).center = (0.0, y + 15.0, x + 20.0)
        assert run_loop(10, until=lambda before=before: len(draws) > before)
        run_loop(0.2)
        assert len(draws) == before + 1
        step = np.subtract(draws[-1], corner)
        assert np.abs(step - (30, 40)).max() <= 1, "the picture that was drawn is cut for the new place"
        assert tuple(slide_layer.corner_pixels[0][:2]) == draws[-1]


@pytest.mark.window
@pytest.mark.timeout(300)
def test_layers_follow_a_canvas_of_another_size(window: Any, slide_layer: Any, run_loop: Callable[..., bool]) -> None:
    def size() -> Any:
        return np.subtract(*slide_layer.corner_pixels[::-1, :2])

    qt_window, canvas_size = window.window._qt_window, window.window._qt_viewer.canvas.native.size
    qt_window.resize(900, 620)
    run_loop(0.5)
    y, x = camera(window).center[-2:]
    camera(window).center = (0.0, y - 400.0, x - 400.0)  # napari cuts no smaller picture from one that holds the view
    run_loop(0.5)
    before, height, width = size(), canvas_size().height(), canvas_size().width()
    qt_window.resize(1200, 800)
    run_loop(0.5)
    grown = (canvas_size().height() - height, canvas_size().width() - width)
    assert min(grown) > 100
    assert np.abs(size() - before - grown).max() <= 2, "one pixel of the slide for each of the screen"


@pytest.mark.window
@pytest.mark.timeout(300)
def test_what_is_not_seen_costs_no_picture_and_what_is_seen_one_in_a_later_turn(
    window: Any, slide_layer: Any, draws: list[Any], run_loop: Callable[..., bool]
) -> None:
    from qtpy.QtCore import QTimer

    session = session_of(window)
    hidden = window.add_image(np.zeros((8, 8), np.float32), visible=False)
    before = -1
    while before < len(draws):  # what the new layer asked for comes first
        before = len(draws)
        run_loop(1.0)
    with canvas.held(session, is_seen=False):
        hidden.data = np.ones((8, 8), np.float32)
        slide_layer.refresh()
    run_loop(0.3)
    assert len(draws) == before
    between: list[int] = []
    QTimer.singleShot(0, lambda: between.append(len(draws)))
    with canvas.held(session, is_seen=True):
        slide_layer.refresh()
    assert run_loop(10, until=lambda: len(draws) > before)
    run_loop(0.2)
    assert len(draws) == before + 1
    assert between == [before], "what waited comes before the picture"
    slide_layer.refresh()
    assert run_loop(10, until=lambda: len(draws) > before + 1), "a change outside is drawn as ever"


@pytest.mark.window
@pytest.mark.timeout(300)
def test_a_picture_asked_for_before_is_still_drawn(
    window: Any, slide_layer: Any, draws: list[Any], run_loop: Callable[..., bool]
) -> None:
    before = len(draws)
    slide_layer.refresh()
    with canvas.held(session_of(window), is_seen=False):
        slide_layer.refresh()
    assert run_loop(10, until=lambda: len(draws) > before)


@pytest.mark.window
@pytest.mark.timeout(300)
def test_the_canvas_has_its_own_window_where_the_processor_draws_for_qt_5(window: Any, slide_layer: Any) -> None:
    from qtpy import QT5
    from qtpy.QtGui import QGuiApplication

    native = window.window._qt_viewer.canvas.native
    helps = QT5 and QGuiApplication.platformName() == "xcb" and canvas.is_drawn_by_processor(canvas.renderer())
    assert (native.windowHandle() is not None) == helps
    assert window.window._qt_viewer.windowHandle() is None, "its parents keep to the window they are in"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("llvmpipe (LLVM 15.0.6, 256 bits)", True),
        ("softpipe", True),
        ("Software Rasterizer", True),
        ("Mesa Intel(R) UHD Graphics 620 (KBL GT2)", False),
        ("NVIDIA GeForce RTX 3060/PCIe/SSE2", False),
        ("", False),
    ],
)
def test_what_draws_is_known_by_its_name(name: str, expected: bool) -> None:
    assert canvas.is_drawn_by_processor(name) is expected


def test_without_a_window_nothing_is_held(viewer: Any) -> None:
    with canvas.held(session_of(viewer), is_seen=True):
        viewer.add_image(np.zeros((4, 4)))
