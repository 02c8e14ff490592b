"""The canvas: one up-to-date picture for each view, none for what is not seen, a window of its own where that helps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
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


@pytest.fixture
def follows(window: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each time that napari has all layers follow the camera."""
    counted: list[int] = []
    naparis = window.window._qt_viewer.canvas
    corners = type(naparis)._viewbox_corners_in_world
    monkeypatch.setattr(
        type(naparis), "_viewbox_corners_in_world", property(lambda self: counted.append(1) or corners.fget(self))
    )
    return counted


@pytest.mark.window
@pytest.mark.timeout(300)
def test_a_step_of_the_hand_is_one_picture_of_the_new_place(
    window: Any, slide_layer: Any, draws: list[Any], follows: list[int], run_loop: Callable[..., bool]
) -> None:
    for _ in range(4):
        follows.clear()
        before, corner = len(draws), slide_layer.corner_pixels[0][:2].copy()
        y, x = camera(window).center[-2:]
        camera(window).center = (0.0, y + 15.0, x + 20.0)
        assert run_loop(10, until=lambda before=before: len(draws) > before)
        run_loop(0.2)
        assert len(draws) == before + 1
        step = np.subtract(draws[-1], corner)
        assert np.abs(step - (30, 40)).max() <= 1, "the picture that was drawn is cut for the new place"
        assert tuple(slide_layer.corner_pixels[0][:2]) == draws[-1]
        assert len(follows) == 1, "the layers follow once for each picture"


@pytest.mark.window
@pytest.mark.timeout(300)
def test_a_picture_that_qt_asks_for_is_up_to_date_and_the_only_one(
    window: Any, slide_layer: Any, draws: list[Any], run_loop: Callable[..., bool]
) -> None:
    before, corner = len(draws), slide_layer.corner_pixels[0][:2].copy()
    with canvas.held(session_of(window), is_seen=False):
        y, x = camera(window).center[-2:]
        camera(window).center = (0.0, y + 15.0, x + 20.0)
    window.window._qt_viewer.canvas.native.update()  # as when another window uncovers it
    assert run_loop(10, until=lambda: len(draws) > before)
    run_loop(0.3)
    assert len(draws) == before + 1
    assert np.abs(np.subtract(draws[-1], corner) - (30, 40)).max() <= 1


@pytest.mark.window
@pytest.mark.timeout(300)
def test_layers_follow_once_more_where_the_draw_itself_moves_a_view(
    window: Any, slide_layer: Any, run_loop: Callable[..., bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    naparis = window.window._qt_viewer.canvas
    draw, corner, moved = naparis._scene_canvas._draw_scene, slide_layer.corner_pixels[0][:2].copy(), [0]

    def draw_and_move(*arguments: Any, **options: Any) -> None:
        draw(*arguments, **options)
        if not moved[0]:  # as the views of a grid do when it is laid out in its first draw
            moved[0] = 1
            x, y, width, height = (*naparis.view.camera.rect.pos, *naparis.view.camera.rect.size)
            naparis.view.camera.rect = (x + 40.0, y + 30.0, width, height)

    monkeypatch.setattr(naparis._scene_canvas, "_draw_scene", draw_and_move)
    naparis._scene_canvas.update()
    assert run_loop(10, until=lambda: bool(moved[0]))
    assert np.abs(np.subtract(slide_layer.corner_pixels[0][:2], corner) - (60, 80)).max() <= 1


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
    session = session_of(viewer)
    with canvas.held(session, is_seen=True):
        viewer.add_image(np.zeros((4, 4)))
    assert len(viewer.layers) == 1 and "canvas" not in session.companions


def test_a_canvas_of_another_make_is_left_as_it_is(viewer: Any) -> None:
    session = session_of(viewer)
    unknown = SimpleNamespace(native=None, _scene_canvas=None, view=None)
    stand_in = SimpleNamespace(
        viewer=SimpleNamespace(window=SimpleNamespace(_qt_viewer=SimpleNamespace(canvas=unknown))),
        companions=session.companions,
    )
    canvas.attach(stand_in)  # type: ignore[arg-type]
    assert "canvas" not in session.companions
