"""Drawing with a real mouse in a real window: tools, Alt, dabs and keys do what a person expects."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("napari")
pytest.importorskip("qtpy.QtTest")
from qtpy.QtCore import QEvent, QPoint, QPointF, Qt
from qtpy.QtGui import QMouseEvent, QWheelEvent
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication

from napari_pathotune import compat

pytestmark = pytest.mark.window


class Hand:
    """A hand on the mouse and one on the keyboard; places are parts of the canvas's width and height."""

    def __init__(self, window: Any, run_loop: Callable[..., bool]) -> None:
        self.canvas = window.window._qt_viewer.canvas.native
        self.run_loop = run_loop

    def at(self, x: float, y: float) -> QPoint:
        return QPoint(int(self.canvas.width() * x), int(self.canvas.height() * y))

    def click(self, x: float, y: float, keys: Any = Qt.NoModifier) -> None:
        self._move(self.at(x, y), Qt.NoButton, keys)
        QTest.mouseClick(self.canvas, Qt.LeftButton, keys, self.at(x, y))
        self.run_loop(0.05)

    def drag(self, places: list[tuple[float, float]], keys: Any = Qt.NoModifier) -> None:
        self._move(self.at(*places[0]), Qt.NoButton, keys)
        QTest.mousePress(self.canvas, Qt.LeftButton, keys, self.at(*places[0]))
        for first, second in pairwise(places):
            for part in np.linspace(0, 1, 8)[1:]:
                x, y = (one + (two - one) * part for one, two in zip(first, second, strict=True))
                self._move(self.at(x, y), Qt.LeftButton, keys)
        QTest.mouseRelease(self.canvas, Qt.LeftButton, keys, self.at(*places[-1]))
        self.run_loop(0.05)

    def wheel(self, notches: float, keys: Any = Qt.NoModifier) -> None:
        place = QPointF(self.at(0.5, 0.5))
        turned = QPoint(0, round(120 * notches))
        where = QPointF(self.canvas.mapToGlobal(place.toPoint()))
        event = QWheelEvent(place, where, QPoint(), turned, Qt.NoButton, keys, Qt.NoScrollPhase, False)
        QApplication.sendEvent(self.canvas, event)
        self.run_loop(0.05)

    def _move(self, place: QPoint, buttons: Any, keys: Any) -> None:
        event = QMouseEvent(QEvent.MouseMove, QPointF(place), Qt.NoButton, buttons, keys)
        QApplication.sendEvent(self.canvas, event)
        self.run_loop(0.02)

    def key(self, key: Any, keys: Any = Qt.NoModifier) -> None:
        self.canvas.setFocus()
        QTest.keyClick(self.canvas, key, keys)
        self.run_loop(0.05)


@pytest.fixture
def hand(window: Any, run_loop: Callable[..., bool], tmp_path: Path, make_picture: Callable[..., Path]) -> Any:
    _, dock = window.window.add_plugin_dock_widget("pathotune", "PathoTune")
    window.open(str(make_picture(tmp_path / "slide.tiff", 3000, 2400)), plugin="pathotune")
    dock.tabs.setCurrentWidget(dock.tune)
    run_loop(0.3)
    made = Hand(window, run_loop)
    made.dock, made.drawing = dock, dock.tune.board.active
    yield made
    dock.tune.board.close()
    dock.close()


def test_every_tool_draws_what_the_mouse_does(hand: Any) -> None:
    document, tools = hand.drawing.document, hand.dock.tune.regions.tools.buttons

    def counts() -> dict[Any, int]:
        return {name: count.regions for name, count in document.counts.items()}

    tools["polygon"].click()
    for place in ((0.25, 0.25), (0.4, 0.25), (0.4, 0.4), (0.25, 0.4)):
        hand.click(*place)
    hand.key(Qt.Key_Enter)
    assert counts() == {"Tumor": 1}
    hand.key(Qt.Key_2)
    assert counts() == {"Tumor": 1} and hand.drawing.active_class == "Stroma", "the key is for what comes next"
    tools["lasso"].click()
    angles = np.linspace(0, 2 * np.pi, 10)
    hand.drag([(0.6 + 0.08 * np.cos(angle), 0.4 + 0.08 * np.sin(angle)) for angle in angles])
    tools["rectangle"].click()
    hand.drag([(0.7, 0.6), (0.8, 0.7)])
    tools["ellipse"].click()
    hand.drag([(0.55, 0.6), (0.65, 0.7)])
    assert counts() == {"Tumor": 1, "Stroma": 3}
    tools["point"].click()
    hand.click(0.5, 0.5)
    assert counts() == {"Tumor": 1, "Stroma": 4}
    hand.click(0.5, 0.01)
    assert counts() == {"Tumor": 1, "Stroma": 4}, "off the slide is no region"
    for _ in range(5):
        hand.key(Qt.Key_Z, Qt.ControlModifier)
    assert counts() == {}
    for _ in range(5):
        hand.key(Qt.Key_Z, Qt.ControlModifier | Qt.ShiftModifier)
    assert counts() == {"Tumor": 1, "Stroma": 4}


def test_the_brush_paints_dabs_and_with_alt_rubs_out(hand: Any) -> None:
    document = hand.drawing.document
    hand.dock.tune.regions.tools.buttons["brush"].click()
    hand.drag([(0.3, 0.5), (0.5, 0.5)])
    (stroke,) = document.regions()
    left, top, right, bottom = stroke.geometry.bounds
    assert bottom - top == pytest.approx(hand.drawing.brush_diameter_px0, rel=0.05)
    assert right - left > 3 * (bottom - top), "a drag is a stroke, not a dab"
    hand.drag([(0.4, 0.45), (0.4, 0.6)])
    assert len(document) == 1 and document.regions()[0].geometry.area > stroke.geometry.area
    hand.click(0.7, 0.7)
    dab = document.regions()[1].geometry
    assert len(document) == 2
    assert dab.area == pytest.approx(np.pi / 4 * hand.drawing.brush_diameter_px0**2, rel=0.1)
    before = document.regions()[0].geometry.area
    hand.drag([(0.32, 0.5), (0.36, 0.5)], Qt.AltModifier)
    assert document.regions()[0].geometry.area < before
    hand.key(Qt.Key_Z, Qt.ControlModifier)
    assert document.regions()[0].geometry.area == before


def test_shift_and_the_wheel_change_the_brush_and_move_nothing(hand: Any) -> None:
    drawing, tools = hand.drawing, hand.dock.tune.regions.tools
    tools.buttons["brush"].click()
    camera, before_um = compat.camera(hand.dock.session.viewer), drawing.brush_um
    view = camera.zoom, camera.center
    hand.wheel(2, Qt.ShiftModifier)
    assert (drawing.brush_px, view) == (62, (camera.zoom, camera.center))
    assert drawing.brush_um == pytest.approx(before_um * 62 / 40)
    assert tools.size_text.text() == f"{drawing.brush_um:,.0f} µm" and tools.size.value() == 62
    hand.drag([(0.3, 0.5), (0.5, 0.5)])
    _, top, _, bottom = drawing.document.regions()[0].geometry.bounds
    assert bottom - top == pytest.approx(drawing.brush_diameter_px0, rel=0.05), "the next stroke is as wide as said"
    for _ in range(4):
        hand.wheel(-0.25, Qt.ShiftModifier)
    assert drawing.brush_px == 50, "a touch pad's parts of a notch add up"
    for keys in (Qt.ControlModifier, Qt.ControlModifier | Qt.ShiftModifier, Qt.AltModifier):
        hand.wheel(1, keys)
    assert drawing.brush_px == 50, "what is napari's stays napari's"
    tools.buttons["select"].click()
    hand.wheel(1, Qt.ShiftModifier)
    assert drawing.brush_px == 50
    tools.buttons["brush"].click()
    hand.wheel(1)
    assert drawing.brush_px == 50 and camera.zoom > view[0], "the wheel alone zooms"


def test_selected_regions_are_moved_reclassed_and_deleted(hand: Any) -> None:
    document, tools = hand.drawing.document, hand.dock.tune.regions.tools.buttons
    tools["rectangle"].click()
    hand.drag([(0.4, 0.4), (0.6, 0.6)])
    (before,) = document.regions()
    tools["select"].click()
    hand.click(0.5, 0.5)
    assert hand.drawing.selected_keys == document.keys
    hand.key(Qt.Key_3)
    assert document.regions()[0].class_name == document.palette.names[2]
    hand.drag([(0.5, 0.5), (0.6, 0.55)])
    after = document.regions()[0].geometry
    assert after.area == pytest.approx(before.geometry.area) and after.centroid.x > before.geometry.centroid.x + 100
    hand.key(Qt.Key_Delete)
    assert len(document) == 0
    for _ in range(3):
        hand.key(Qt.Key_Z, Qt.ControlModifier)
    assert document.regions()[0].geometry.equals(before.geometry) and document.regions()[0].class_name == "Tumor"


def test_undo_while_a_polygon_is_drawn_drops_that_polygon_only(hand: Any) -> None:
    document, tools = hand.drawing.document, hand.dock.tune.regions.tools.buttons
    tools["rectangle"].click()
    hand.drag([(0.4, 0.4), (0.6, 0.6)])
    tools["polygon"].click()
    for number, place in enumerate(((0.2, 0.2), (0.3, 0.2), (0.3, 0.3), (0.2, 0.3)), 1):
        hand.click(*place)
        if number in (1, 4):
            hand.key(Qt.Key_Z, Qt.ControlModifier)
            assert len(document) == 1, f"after {number} corners"
    hand.key(Qt.Key_Z, Qt.ControlModifier)
    assert len(document) == 0


def corners_of(drawing: Any) -> int:
    """How many corners are set of the outline being drawn; the one that goes with the mouse is none."""
    bound = drawing.bound["shapes"]
    return len(bound.layer.data[-1]) - 1 if bound.is_drawing else 0


@pytest.mark.parametrize("key", [Qt.Key_Backspace, Qt.Key_Delete])
def test_the_last_corner_of_a_polygon_is_taken_back(hand: Any, key: Any) -> None:
    document, tools = hand.drawing.document, hand.dock.tune.regions.tools.buttons
    tools["rectangle"].click()
    hand.drag([(0.4, 0.4), (0.6, 0.6)])
    (rectangle,) = document.regions()
    tools["polygon"].click()
    places = [(0.2, 0.2), (0.3, 0.2), (0.3, 0.3), (0.35, 0.45)]
    for place in places:
        hand.click(*place)
    hand.key(key)
    assert corners_of(hand.drawing) == 3
    # The same place once more, without a move of the mouse in between, is a corner; and is taken back again.
    QTest.mouseClick(hand.canvas, Qt.LeftButton, Qt.NoModifier, hand.at(*places[-1]))
    assert corners_of(hand.drawing) == 4
    hand.key(key)
    hand.click(0.2, 0.3)
    hand.key(Qt.Key_Enter)
    (_, drawn) = document.regions()
    left, top, right, bottom = drawn.geometry.bounds
    assert len(drawn.geometry.exterior.coords) == 5
    assert drawn.geometry.area == pytest.approx((right - left) * (bottom - top), rel=0.01), "a square, as was clicked"
    hand.key(Qt.Key_Z, Qt.ControlModifier)
    assert [region.id for region in document.regions()] == [rectangle.id]


@pytest.mark.parametrize("key", [Qt.Key_Backspace, Qt.Key_Delete])
def test_the_only_corner_taken_back_drops_the_outline_and_no_region(hand: Any, key: Any) -> None:
    document, tools = hand.drawing.document, hand.dock.tune.regions.tools.buttons
    tools["rectangle"].click()
    hand.drag([(0.4, 0.4), (0.6, 0.6)])
    tools["polygon"].click()
    for place in ((0.2, 0.2), (0.3, 0.2), (0.3, 0.3)):
        hand.click(*place)
    seen = []
    for _ in range(5):
        hand.key(key)
        seen.append(corners_of(hand.drawing))
    assert seen == [2, 1, 0, 0, 0] and len(document) == 1, "one key press too many removes no region"
    assert hand.drawing.tool == "polygon"
    for place in ((0.2, 0.2), (0.3, 0.2)):
        hand.click(*place)
    hand.key(key)
    hand.click(0.3, 0.3)
    hand.click(0.2, 0.3)
    QTest.mouseDClick(hand.canvas, Qt.LeftButton, Qt.NoModifier, hand.at(0.2, 0.3))
    hand.run_loop(0.05)
    assert len(document) == 2 and len(document.regions()[1].geometry.exterior.coords) == 4, "a triangle"
    tools["select"].click()
    hand.click(0.5, 0.5)
    hand.key(key)
    assert len(document) == 1, "with no outline begun the key is napari's: it deletes what is selected"


def test_corners_of_napari_s_polyline_are_taken_back_and_of_a_lasso_none(hand: Any) -> None:
    document = hand.drawing.document
    hand.dock.tune.regions.tools.buttons["polygon"].click()
    layer = hand.drawing.bound["shapes"].layer
    layer.mode = "add_polyline"
    for place in ((0.2, 0.2), (0.3, 0.2), (0.3, 0.3), (0.2, 0.3)):
        hand.click(*place)
    hand.key(Qt.Key_Backspace)
    assert corners_of(hand.drawing) == 3
    for _ in range(3):
        hand.key(Qt.Key_Backspace)
    assert corners_of(hand.drawing) == 0 and len(layer.data) == len(document) == 0
    hand.dock.tune.regions.tools.buttons["lasso"].click()
    hand.click(0.5, 0.3)
    for place in ((0.6, 0.3), (0.6, 0.4), (0.5, 0.4)):
        hand._move(hand.at(*place), Qt.NoButton, Qt.NoModifier)
    before = len(layer.data[-1])
    hand.key(Qt.Key_Backspace)
    assert hand.drawing.bound["shapes"].is_drawing and len(layer.data[-1]) == before > 3
