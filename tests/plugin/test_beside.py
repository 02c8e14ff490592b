"""Two slides side by side move by the same micrometres, share what they show, and leave nothing behind when closed."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("napari")

from napari_pathotune import compat
from napari_pathotune.beside import NO_SIZE, TOO_FEW, SideBySide, beside_of
from napari_pathotune.drawing_board import board_of
from napari_pathotune.layers import facts, result_layers
from napari_pathotune.opening import open_paths
from napari_pathotune.overlay import ClassGrid
from napari_pathotune.session import session_of


def opened(viewer: Any, make_picture: Callable[..., Path], folder: Path) -> list[Any]:
    """A slide of 1500 × 1000 µm at 0.5 µm per pixel, and one of 500 × 300 µm at 0.25, which is worked on."""
    first = make_picture(folder / "first.tiff", 3000, 2000, 0.5)
    second = make_picture(folder / "second.tiff", 2000, 1200, 0.25)
    return open_paths(viewer, [first, second])


def moved_to(camera: Any, y: float, x: float) -> None:
    camera.center = (*camera.center[:-2], y, x)


def middle(camera: Any) -> tuple[float, float]:
    return float(camera.center[-2]), float(camera.center[-1])


def place_px0(viewer: Any) -> tuple[float, float]:
    """(y, x) of what a viewer's lowest layer, its slide, has in the middle of the view, in its own pixels."""
    return tuple(float(part) for part in viewer.layers[0].world_to_data(compat.camera(viewer).center[-2:]))  # type: ignore[return-value]


@pytest.fixture
def layers(viewer: Any, make_picture: Callable[..., Path], tmp_path: Path) -> list[Any]:
    """Two slides in a viewer without a window."""
    return opened(viewer, make_picture, tmp_path)


@pytest.fixture
def beside(viewer: Any, layers: list[Any]) -> SideBySide:
    """The first slide is beside the second, which is worked on."""
    found = beside_of(session_of(viewer))
    found.toggle()
    return found


def test_moving_one_moves_the_other_by_the_same_micrometres(viewer: Any, beside: SideBySide) -> None:
    here, there = compat.camera(viewer), compat.camera(beside.viewer)
    session_of(viewer).look_at(1000, 600)
    assert place_px0(beside.viewer) == pytest.approx((999.5, 1499.5)), "their middles lie side by side at the start"
    start, other = middle(here), middle(there)
    moved_to(here, start[0] + 40.0, start[1] - 60.0)
    assert np.subtract(middle(there), other) == pytest.approx((40, -60))
    assert place_px0(beside.viewer) == pytest.approx((999.5 + 80, 1499.5 - 120)), "0.5 µm a pixel"
    moved_to(there, other[0] - 10.0, other[1] + 25.0)
    assert np.subtract(middle(here), start) == pytest.approx((-10, 25))
    assert viewer.layers[1].world_to_data(middle(here)) == pytest.approx((599.5 - 40, 999.5 + 100)), "0.25 µm a pixel"
    here.zoom = 3.0
    assert there.zoom == 3.0
    there.zoom = 0.7
    assert here.zoom == 0.7 and np.subtract(middle(there), middle(here)) == pytest.approx(np.subtract(other, start))


def test_moved_apart_they_go_on_together_from_where_they_lie(viewer: Any, beside: SideBySide) -> None:
    here, there = compat.camera(viewer), compat.camera(beside.viewer)
    start, other = middle(here), middle(there)
    beside.move_apart(True)
    moved_to(there, other[0] + 30.0, other[1] + 5.0)
    assert middle(here) == start, "each moves by itself"
    beside.settle()
    # The wheel over the second view: napari tells of its middle and then of the zoom, in one breath.
    moved_to(there, other[0] + 90.0, other[1] - 70.0)
    there.zoom = 2.0
    beside.settle()
    shift = np.add(np.subtract(other, start), (30, 5))
    assert here.zoom == 2.0 and np.subtract(middle(there), middle(here)) == pytest.approx(shift)
    moved_to(here, 0.0, 0.0)
    beside.move_apart(False)
    shift = np.subtract(middle(there), (0, 0))
    moved_to(here, 111.0, 55.0)
    assert np.subtract(middle(there), (111, 55)) == pytest.approx(shift)
    beside.close()
    beside.toggle()
    there = compat.camera(beside.viewer)
    assert np.subtract(middle(there), middle(here)) == pytest.approx(shift), "kept for these two slides"
    beside.start_over()
    assert np.subtract(middle(there), middle(here)) == pytest.approx((499.75 - 149.875, 749.75 - 249.875))


def test_who_works_on_the_slide_beside_finds_both_where_they_were(viewer: Any, beside: SideBySide) -> None:
    session, (first, second) = session_of(viewer), session_of(viewer).slide_layers
    session.look_at(1000, 600)
    beside.link.offset_um = (300.0, 200.0)  # type: ignore[union-attr]
    seen_first = first.world_to_data(compat.camera(beside.viewer).center[-2:])
    session.show_alone(first)
    assert beside.layer is second and facts(beside.viewer.layers[0])["path"] == facts(second)["path"]
    assert first.world_to_data(compat.camera(viewer).center[-2:]) == pytest.approx(seen_first)
    assert place_px0(beside.viewer) == pytest.approx((599.5, 999.5))
    session.show_alone(second)
    assert beside.layer is first and beside.link.offset_um == pytest.approx((300, 200))  # type: ignore[union-attr]
    assert first.visible is False and beside.viewer.layers[0].visible


def test_what_cannot_be_shown_is_said(
    viewer: Any, silent_slide_path: Path, slide_path: Path, make_picture: Any, tmp_path: Path, notices: list[str]
) -> None:
    beside = beside_of(session_of(viewer))
    beside.toggle()
    open_paths(viewer, [slide_path])
    beside.toggle()
    assert notices == [TOO_FEW, TOO_FEW]
    open_paths(viewer, [silent_slide_path])
    beside.toggle()
    assert notices[-1] == NO_SIZE and not beside.is_open
    session_of(viewer).state_mpp(0.25)
    beside.toggle()
    assert beside.is_open
    (third,) = open_paths(viewer, [make_picture(tmp_path / "also silent.tiff", 500, 300, mpp=None)])
    assert session_of(viewer).active_layer is third and not beside.is_open, "no micrometres to move by"


@pytest.mark.parametrize("which", [0, 1])
def test_closing_either_slide_closes_the_second_view(viewer: Any, beside: SideBySide, layers: Any, which: int) -> None:
    model = beside.viewer
    viewer.layers.remove(layers[which])
    assert not beside.is_open and beside.link is None and not model.layers


def test_a_third_slide_is_worked_on_beside_the_same_one(
    viewer: Any, beside: SideBySide, layers: list[Any], make_picture: Callable[..., Path], tmp_path: Path
) -> None:
    beside.link.offset_um = (5.0, 6.0)  # type: ignore[union-attr]
    (third,) = open_paths(viewer, [make_picture(tmp_path / "third.tiff", 800, 600, 1.0)])
    assert beside.layer is layers[0] and session_of(viewer).active_layer is third
    assert beside.link.offset_um == pytest.approx((499.75 - 299.5, 749.75 - 399.5))  # type: ignore[union-attr]
    session_of(viewer).show_alone(layers[1])
    assert beside.link.offset_um == (5.0, 6.0), "each pair has its own"  # type: ignore[union-attr]
    beside.open(third)
    assert beside.layer is third and len(beside.viewer.layers) == 1


def test_predictions_and_regions_lie_beside_too_and_follow(
    viewer: Any, layers: list[Any], add: Callable[[list[Any]], list[Any]], tmp_path: Path
) -> None:
    from shapely import box

    from pathotune.regions.region import Region

    first, second = layers
    session = session_of(viewer)
    session.show_alone(first)
    probabilities = np.zeros((2, 6, 8), dtype=np.float32)
    probabilities[0] = 1.0
    grid = ClassGrid(
        probabilities, ("A", "B"), np.array([[9, 9, 250], [250, 9, 9]], np.uint8), (64.0, 64.0), (31.5, 31.5)
    )
    hidden, classes = add(result_layers(grid, tmp_path / "s.pathotune.zarr", "t", facts(first)["path"]))
    document = board_of(session).of(first).document
    document.add([Region(box(10, 10, 500, 400), "A")])
    session.show_alone(second)
    beside = beside_of(session)
    beside.toggle()
    shown = {layer.name: layer for layer in beside.viewer.layers}
    regions = next(layer for name, layer in shown.items() if name.startswith("Regions"))
    assert not classes.visible and shown[classes.name].visible and not shown[hidden.name].visible
    assert shown[classes.name].data is grid.rgba, "no copy"
    assert np.array_equal(shown[classes.name].scale, (64, 64)) and not regions.editable
    assert np.max(regions.data[0] * regions.scale, axis=0) == pytest.approx(first.data_to_world((399.5, 499.5)))
    assert beside.shown_results == [shown[classes.name]]
    classes.opacity = 0.25
    assert shown[classes.name].opacity == 0.25
    painted = []
    shown[classes.name].events.set_data.connect(lambda event: painted.append(1))
    session.shown.repaint(session.results[0])
    assert painted, "what is predicted meanwhile is drawn"
    document.add([Region(box(600, 600, 900, 900), "B")])
    beside.settle()
    regions = next(layer for layer in beside.viewer.layers if layer.name.startswith("Regions"))
    assert len(regions.data) == 2
    viewer.layers.remove(classes)
    beside.settle()
    assert classes.name not in [layer.name for layer in beside.viewer.layers]


def callbacks(viewer: Any, layers: list[Any]) -> dict[str, int]:
    """How many listen to each event that the second view listens to."""
    session, camera = session_of(viewer), compat.camera(viewer)
    emitters = {f"camera {name}": camera.events[name] for name in ("center", "zoom")}
    emitters |= {f"layers {name}": viewer.layers.events[name] for name in ("inserted", "removed", "removing")}
    emitters |= {f"{layer.name} {name}": layer.events[name] for layer in layers for name in layer.events.emitters}
    found = {name: len(emitter.callbacks) for name, emitter in emitters.items()}
    signals = ("slides_changed", "active_changed", "results_changed", "drawings_changed", "stage_changed", "repainted")
    return found | {name: len(getattr(session, name)) for name in signals}


def drag(native: Any, run_loop: Callable[..., bool]) -> None:
    """The left button held, from (150, 200) to (200, 230)."""
    from qtpy.QtCore import QEvent, QPoint, QPointF, Qt
    from qtpy.QtGui import QMouseEvent
    from qtpy.QtTest import QTest
    from qtpy.QtWidgets import QApplication

    def move(x: int, y: int, buttons: Any) -> None:
        event = QMouseEvent(QEvent.MouseMove, QPointF(x, y), Qt.NoButton, buttons, Qt.NoModifier)
        QApplication.sendEvent(native, event)
        run_loop(0.05)

    move(150, 200, Qt.NoButton)
    QTest.mousePress(native, Qt.LeftButton, Qt.NoModifier, QPoint(150, 200))
    for step in range(1, 6):
        move(150 + 10 * step, 200 + 6 * step, Qt.LeftButton)
    QTest.mouseRelease(native, Qt.LeftButton, Qt.NoModifier, QPoint(200, 230))
    run_loop(0.3)


def wheel(native: Any, run_loop: Callable[..., bool]) -> None:
    """One notch, at (100, 100)."""
    from qtpy.QtCore import QPoint, QPointF, Qt
    from qtpy.QtGui import QWheelEvent
    from qtpy.QtWidgets import QApplication

    place, where = QPointF(100, 100), QPointF(native.mapToGlobal(QPoint(100, 100)))
    event = QWheelEvent(place, where, QPoint(), QPoint(0, 120), Qt.NoButton, Qt.NoModifier, Qt.NoScrollPhase, False)
    QApplication.sendEvent(native, event)
    run_loop(0.3)


@pytest.mark.window
@pytest.mark.timeout(300)
def test_in_a_window_the_mouse_moves_both_and_closing_gives_all_back(
    window: Any, make_picture: Callable[..., Path], tmp_path: Path, run_loop: Callable[..., bool]
) -> None:
    layers = opened(window, make_picture, tmp_path)
    session = session_of(window)
    beside, here = beside_of(session), compat.camera(window)
    session.look_at_all()
    run_loop(0.5)
    before, size, listeners = (middle(here), here.zoom), compat.canvas_size(window), callbacks(window, layers)
    beside.toggle()
    run_loop(0.5)
    there = compat.camera(beside.viewer)
    sizes = [compat.canvas_size(one) for one in (window, beside.viewer)]
    assert np.abs(np.subtract(*sizes)).max() <= 1, "two pictures of one size"
    assert compat.canvas_size(window)[1] < 0.6 * size[1] and here.zoom == there.zoom == before[1]
    native = beside._canvas.widget.canvas.native  # type: ignore[union-attr]
    start, other = middle(here), middle(there)
    drag(native, run_loop)
    step = np.subtract(middle(there), other)
    assert np.abs(step * there.zoom).max() > 25, "the hand moved the second view"
    assert np.subtract(middle(here), start) == pytest.approx(step, abs=0.5 / here.zoom)
    start = middle(there)
    drag(window.window._qt_viewer.canvas.native, run_loop)
    assert np.subtract(middle(there), start) == pytest.approx(step, abs=0.5 / here.zoom), "and the first one the second"
    beside.move_apart(True)
    start, shift = middle(here), np.subtract(middle(there), middle(here))
    drag(native, run_loop)
    assert middle(here) == start and np.subtract(beside.link.offset_um, shift) == pytest.approx(step, abs=0.5)  # type: ignore[union-attr]
    shift, zoom = beside.link.offset_um, here.zoom  # type: ignore[union-attr]
    wheel(native, run_loop)
    assert there.zoom > 1.05 * zoom and here.zoom == there.zoom and middle(here) != start
    assert beside.link.offset_um == shift, "the wheel shifts neither against the other"  # type: ignore[union-attr]
    assert np.subtract(middle(there), middle(here)) == pytest.approx(shift, abs=0.5 / here.zoom)
    beside.move_apart(False)
    here.zoom = 2.0
    run_loop(0.3)
    assert run_loop(30, until=lambda: session.companions["slide views"].are_sharp and beside._canvas.views.are_sharp)  # type: ignore[union-attr]
    mirror = beside.viewer.layers[0]
    (top, left), (bottom, right) = mirror.corner_pixels
    own = np.asarray(layers[0].data[mirror.data_level][top : bottom + 1, left : right + 1])
    assert np.array_equal(np.asarray(mirror._slicing_state._slice.image.raw), own), "sharp, and of the slide itself"
    assert facts(mirror)["slide"] is facts(layers[0])["slide"], "one reader, and so one store of decoded blocks"
    gone = [weakref.ref(one) for one in (beside.viewer, beside._canvas, beside._canvas.widget, mirror, beside.link)]  # type: ignore[union-attr]
    now = middle(here)
    beside.close()
    del native, there, mirror
    run_loop(0.5)
    gc.collect()
    assert [one() for one in gone] == [None] * len(gone)
    assert callbacks(window, layers) == listeners
    assert compat.canvas_size(window) == size and middle(here) == pytest.approx(now) and here.zoom == 2.0
    moved_to(here, 100.0, 100.0)
    run_loop(0.3)


@pytest.mark.window
@pytest.mark.timeout(300)
def test_the_docks_switch_and_a_window_that_closes_meanwhile(
    window: Any, make_picture: Callable[..., Path], tmp_path: Path, run_loop: Callable[..., bool]
) -> None:
    from napari_pathotune.widgets.slide import SlidePanel

    layers = opened(window, make_picture, tmp_path)
    head, beside = SlidePanel(session_of(window)), beside_of(session_of(window))
    panel = head.beside
    assert not panel.isHidden() and panel.controls.isHidden()
    panel.switch.click()
    run_loop(0.3)
    assert beside.is_open and panel.choice.currentText() == layers[0].name and not panel.controls.isHidden()
    panel.apart.click()
    assert beside.is_apart
    panel.switch.click()
    assert not beside.is_open and panel.controls.isHidden()
    panel.switch.click()
    run_loop(0.3)
    assert not panel.apart.isChecked(), "what is opened moves together"
    window.close()
    assert not beside.is_open and not panel.switch.isChecked()
    head.close()
