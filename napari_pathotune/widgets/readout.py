"""The cursor read-out in the dock and the status bar, and the key that hides the overlay while it is held."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from qtpy.QtWidgets import QLabel, QMainWindow, QWidget

from napari_pathotune.beside import beside_of
from napari_pathotune.changes import comparing_of
from napari_pathotune.doubts import doubts_of
from napari_pathotune.session import Place, Session
from napari_pathotune.widgets.doubts import hint_text
from napari_pathotune.widgets.overlays import HIDE_KEY, reading_text, shorter_readings, where_text
from napari_pathotune.widgets.parts import SteadyLine


class CursorReadout:
    """Follows the mouse over the canvas and says what lies there."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.label = QLabel()
        self.label.setAccessibleName("Under the cursor")
        self.line = SteadyLine("What the prediction says under the cursor: class and probability.")
        # Apart, as both together are wider than the dock.
        self.where = SteadyLine("Place under the cursor: from the upper left corner of the slide, in micrometres.")
        self.hint = SteadyLine("What to doubt under the cursor: unlike the training tiles, or changed since before.")
        self.doubts, self.comparing = doubts_of(session), comparing_of(session)
        self.pointed: Callable[[Place | None], None] = lambda place: None
        self.says: Callable[[Place | None], str] = reading_text
        self.line.show_text("Move over the slide to read it.")
        self._has_bar = False
        session.viewer.mouse_move_callbacks.append(self._on_mouse_moved)
        session.viewer.bind_key(HIDE_KEY, self._hold_to_hide, overwrite=True)

    def attach(self, dock: QWidget) -> None:
        """Put the read-out into the status bar of the window the dock is in."""
        window = dock.window()
        if not self._has_bar and isinstance(window, QMainWindow):
            window.statusBar().addPermanentWidget(self.label)
            self._has_bar = True

    def detach(self) -> None:
        """Give the mouse, the key and the status bar back."""
        viewer = self.session.viewer
        if viewer is not None:
            if self._on_mouse_moved in viewer.mouse_move_callbacks:
                viewer.mouse_move_callbacks.remove(self._on_mouse_moved)
            viewer.bind_key(HIDE_KEY, None, overwrite=True)
        self.label.hide()

    def _on_mouse_moved(self, viewer: Any, event: Any) -> None:
        place = self.session.place_at(event.position)
        said, where = self.says(place), where_text(place)
        self.label.setText(" · ".join(part for part in (said, where) if part))
        nothing = "Nothing is predicted here." if place else "Move over the slide to read it."
        # Numbers of genes are short; only names of classes can be long.
        shorter = shorter_readings(place) if said and said == reading_text(place) else []
        self.line.show_text(said or nothing, *shorter)
        self.where.show_text(where)
        known = self.doubts.unlikeness(self.session.result)
        far = known.far if known is not None else 1.0
        self.hint.show_text(hint_text(self.doubts.distance_at(place), far, self.comparing.at(place)))
        self.pointed(place)

    def _hold_to_hide(self, viewer: Any) -> Iterator[None]:
        """Hide the results while the key is held."""
        shown = [layer for result in self.session.results for layer in result.layers if layer.visible]
        shown += beside_of(self.session).shown_results
        for layer in shown:
            layer.visible = False
        yield
        for layer in shown:
            layer.visible = True
