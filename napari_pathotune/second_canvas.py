"""A second canvas in napari's window, to the right of the first; it goes with the window or before it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from napari.qt import QtViewer
from qtpy.QtCore import QEvent, QObject, QTimer

from napari_pathotune import canvas
from napari_pathotune.slide_view import SlideViews


class SecondCanvas(QObject):
    """The canvas of a viewer model that has no window of its own.

    Parameters
    ----------
    first : the napari viewer in whose window it is put.
    model : what it shows.
    on_window_closed : called when the window closes; it is to call `close`.
    settle : called in the turn of the loop after `later`.
    """

    def __init__(
        self, first: Any, model: Any, on_window_closed: Callable[[], None], settle: Callable[[], None]
    ) -> None:
        super().__init__()
        self._first, self._on_window_closed = first.window._qt_viewer, on_window_closed
        self.widget = _Canvas(self._first, model)
        # Their layout gives each the same room: the two pictures are of one size.
        self._layout = first.window._qt_window.centralWidget().layout()
        self._stretch = self._layout.stretch(self._layout.indexOf(self._first))
        self._layout.setStretchFactor(self._first, 1)
        self._layout.addWidget(self.widget, 1)
        self._made = canvas.prepared(self.widget.canvas)
        # Tools, keys and the map are the first one's: what is typed while looking here goes there.
        self.widget.canvas.native.setFocusProxy(self._first.canvas.native)
        self.views = SlideViews(model, self.widget.canvas)
        self._first.installEventFilter(self)
        self._turn = QTimer(self)
        self._turn.setSingleShot(True)
        self._turn.setInterval(0)
        self._turn.timeout.connect(settle)

    def later(self) -> None:
        """Have `settle` called in the next turn of the loop."""
        self._turn.start()

    def close(self) -> None:
        """Take the canvas out of the window and end all that draws it."""
        self._first.removeEventFilter(self)
        self._turn.stop()
        self.views.close()
        if self._made is not None:
            self._made.close()
        self._layout.removeWidget(self.widget)
        self._layout.setStretchFactor(self._first, self._stretch)
        self.widget.close()  # napari deletes it with what it holds

    def eventFilter(self, watched: Any, event: Any) -> bool:
        """Qt: napari closes the first canvas when its window closes."""
        if event.type() == QEvent.Type.Close:
            self._on_window_closed()
        return False


class _Canvas(QtViewer):
    """napari's own canvas; what is dropped on it is opened in the first one's viewer."""

    def __init__(self, first: Any, model: Any) -> None:
        super().__init__(model)
        self._first_canvas = first

    def dropEvent(self, event: Any) -> None:
        """Qt: files were dropped."""
        self._first_canvas.dropEvent(event)
