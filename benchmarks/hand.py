"""A hand on the mouse and one on the keyboard: drives a real window as a person does, in places of the slide."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

import numpy as np
from qtpy.QtCore import QEvent, QPoint, QPointF, Qt
from qtpy.QtGui import QMouseEvent
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication, QScrollArea, QWidget

from napari_pathotune import compat
from napari_pathotune.session import session_of

Place = tuple[float, float]
NONE, LEFT = Qt.MouseButton.NoButton, Qt.MouseButton.LeftButton
NO_KEYS = Qt.KeyboardModifier.NoModifier


def run(seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
    """Let the window's loop run until something holds, and say whether it came to hold."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        if until():
            return True
        QApplication.processEvents()
        time.sleep(0.005)
    return until()


class Hand:
    """Clicks, drags and keys on the canvas and on the dock's controls.

    Parameters
    ----------
    viewer : a napari viewer with a window.
    """

    def __init__(self, viewer: Any) -> None:
        self.viewer = viewer
        self.session = session_of(viewer)
        self.canvas = viewer.window._qt_viewer.canvas.native

    # -- the canvas, in level-0 pixels of the active slide

    def at(self, place: Place) -> QPoint:
        """Where on the canvas a place (x, y) of the slide is seen."""
        world = self.session.active_layer.data_to_world((place[1] - 0.5, place[0] - 0.5))
        camera = compat.camera(self.viewer)
        off = (np.asarray(world[-2:]) - np.asarray(camera.center[-2:])) * camera.zoom
        return QPoint(round(self.canvas.width() / 2 + off[1]), round(self.canvas.height() / 2 + off[0]))

    def look(self, box_px0: tuple[float, float, float, float], share: float = 0.6) -> None:
        """Turn the view to a box (x, y, width, height), which fills this share of the canvas."""
        x, y, width, height = box_px0
        self.session.look_at(x + width / 2, y + height / 2)
        size_um = np.asarray(self.session.active_layer.scale[-2:]) * (height, width)
        room = np.asarray([self.canvas.height(), self.canvas.width()])
        compat.camera(self.viewer).zoom = share * float((room / size_um).min())
        run(0.2)

    def click(self, place: Place, keys: Any = NO_KEYS) -> None:
        """Click on a place."""
        self._move(self.at(place), NONE, keys)
        QTest.mouseClick(self.canvas, LEFT, keys, self.at(place))
        run(0.05)

    def drag(self, places: Iterable[Place], keys: Any = NO_KEYS, steps: int = 6) -> None:
        """Drag from the first place over the others to the last."""
        path = [self.at(place) for place in places]
        self._move(path[0], NONE, keys)
        QTest.mousePress(self.canvas, LEFT, keys, path[0])
        for first, second in pairwise(path):
            for part in np.linspace(0, 1, steps + 1)[1:]:
                self._move(first + (second - first) * float(part), LEFT, keys)
        QTest.mouseRelease(self.canvas, LEFT, keys, path[-1])
        run(0.05)

    def _move(self, place: QPoint, buttons: Any, keys: Any) -> None:
        event = QMouseEvent(QEvent.Type.MouseMove, QPointF(place), NONE, buttons, keys)
        QApplication.sendEvent(self.canvas, event)
        run(0.01)

    def key(self, key: Any, keys: Any = NO_KEYS) -> None:
        """Press a key with the canvas in focus."""
        self.canvas.setFocus()
        QTest.keyClick(self.canvas, key, keys)
        run(0.05)

    # -- the dock

    def press(self, control: QWidget) -> None:
        """Click a control of the dock, which must be seen and enabled as it must for a person.

        Raises
        ------
        RuntimeError : a person could not press it.
        """
        run(5.0, lambda: control.isVisible() and control.isEnabled())
        if not (control.isVisible() and control.isEnabled()):
            raise RuntimeError(f"{control.accessibleName() or control} cannot be pressed")
        parent = control.parentWidget()
        while parent is not None and not isinstance(parent, QScrollArea):
            parent = parent.parentWidget()
        if parent is not None:
            parent.ensureWidgetVisible(control)
        QTest.mouseClick(control, LEFT, NO_KEYS, control.rect().center())
        run(0.1)
