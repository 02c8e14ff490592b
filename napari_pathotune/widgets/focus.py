"""A ring round the control that has the keyboard: napari's own style shows no difference."""

from __future__ import annotations

import contextlib
from typing import Any

from qtpy.QtCore import QEvent, QObject, QRect, Qt
from qtpy.QtGui import QColor, QPainter, QPen
from qtpy.QtWidgets import QApplication, QWidget

# Blue outside, white inside: on a light ground the one is seen, on a dark ground the other.
OUTER, INNER = QColor(0, 114, 178), QColor(255, 255, 255)
ROOM_PX = 3


class Ring(QWidget):
    """The ring itself, beside the control in the same parent, so that it scrolls and is clipped with it."""

    def __init__(self, around: QWidget) -> None:
        super().__init__(around.parentWidget())
        self.around = around
        self.setObjectName("pathotune_focus_ring")
        self.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)
        self.setAttribute(Qt.WidgetAttribute.WA_NoSystemBackground)
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        around.installEventFilter(self)
        self._follow()
        self.show()
        self.raise_()

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Qt: the control moves, changes its size, hides or shows."""
        if event.type() in (QEvent.Type.Move, QEvent.Type.Resize, QEvent.Type.Show, QEvent.Type.Hide):
            self._follow()
        return False

    def _follow(self) -> None:
        box: QRect = self.around.geometry().adjusted(-ROOM_PX, -ROOM_PX, ROOM_PX, ROOM_PX)
        self.setGeometry(box.intersected(self.parentWidget().rect()))
        self.setVisible(not self.around.isHidden())

    def paintEvent(self, event: Any) -> None:
        """Qt: draw two thin frames."""
        painter = QPainter(self)
        for color, width, inset in ((OUTER, 2, 1), (INNER, 1, 2)):
            painter.setPen(QPen(color, width))
            painter.drawRect(self.rect().adjusted(inset, inset, -inset - 1, -inset - 1))
        painter.end()


class FocusRing(QObject):
    """Keeps a ring round whatever has the keyboard inside one widget, and scrolls it into view."""

    def __init__(self, inside: QWidget) -> None:
        super().__init__(inside)
        self._inside = inside
        self._ring: Ring | None = None
        application = QApplication.instance()
        if application is not None:
            application.focusChanged.connect(self._on_focus_changed)

    def _on_focus_changed(self, old: QWidget | None, new: QWidget | None) -> None:
        # What the ring lay in may be gone already, and the ring with it.
        with contextlib.suppress(RuntimeError):
            if self._ring is not None:
                ring, self._ring = self._ring, None
                ring.around.removeEventFilter(ring)
                ring.hide()
                ring.deleteLater()
        with contextlib.suppress(RuntimeError):
            if new is not None and new.parentWidget() is not None and self._inside.isAncestorOf(new):
                self._ring = Ring(new)
