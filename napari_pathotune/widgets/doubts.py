"""What to doubt on the slide: tiles unlike the training's, the most similar training tile, and what changed since."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qtpy.QtCore import QSignalBlocker, Qt, QTimer
from qtpy.QtGui import QImage, QPixmap
from qtpy.QtWidgets import QCheckBox, QHBoxLayout, QLabel, QVBoxLayout, QWidget

from napari_pathotune.changes import comparing_of
from napari_pathotune.doubts import doubts_of
from napari_pathotune.likeness import Likest, Unlikeness
from napari_pathotune.session import Place, Result, Session
from napari_pathotune.widgets.parts import button, named, text_label

PICTURE_PX = 72
POLL_MS = 60
# The cursor rests this long before a training tile is looked for.
REST_MS = 120
POINT = "Point at the slide to see the most similar training tile."


class DoubtsPanel(QWidget):
    """Marks on unlike tiles with the most similar training tile under the cursor, and the button "What changed?".

    Parameters
    ----------
    show : shows one picture of a result and hides the others: "changes" or "classes".
    """

    def __init__(self, session: Session, show: Callable[[Result, str], None]) -> None:
        super().__init__()
        self.session, self.doubts, self.comparing = session, doubts_of(session), comparing_of(session)
        self._show = show
        self._place: Place | None = None
        self.mark = QCheckBox("Mark tiles unlike the training")
        named(
            self.mark,
            "Mark tiles unlike the training",
            "A dashed line goes around tiles that look unlike everything the tuning was trained on: what it says there "
            "is a guess. 99 % of its own held-out tiles are more like the training tiles than these.",
        )
        self.says = text_label()
        self.picture = QLabel()
        self.picture.setFixedSize(PICTURE_PX, PICTURE_PX)
        self.picture.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.picture.setStyleSheet("QLabel { border: 1px solid rgba(128, 128, 128, 140); }")
        named(self.picture, "Most similar training tile", "The training tile most like the tile under the cursor.")
        self.likest = text_label(POINT)
        self.likest_row = QWidget()
        self.what_changed = button(
            "What changed?",
            "Show where the last two predictions of this slide differ: each such place has the colour of its class "
            "before in the upper left, and of its class after in the lower right. Press again to go back.",
        )
        self.what_changed.setCheckable(True)
        self.changed = text_label()
        self._lay_out()
        self._poll, self._rest = QTimer(self), QTimer(self)
        self._poll.setInterval(POLL_MS)
        self._poll.timeout.connect(self._on_time)
        self._rest.setInterval(REST_MS)
        self._rest.setSingleShot(True)
        self._rest.timeout.connect(self._on_cursor_rests)
        self.mark.toggled.connect(self._on_mark_toggled)
        self.what_changed.clicked.connect(self._on_what_changed_clicked)
        self.doubts.waiting.connect(self._poll.start)
        self.doubts.changed.connect(self.refresh)
        self.doubts.likest_found.connect(self._on_likest_found)
        self.comparing.changed.connect(self.refresh)
        for signal in (session.results_changed, session.active_changed):
            signal.connect(self.refresh)
        if self.doubts.is_busy:  # it began before anybody listened
            self._poll.start()
        self.refresh()

    def _lay_out(self) -> None:
        row = QHBoxLayout(self.likest_row)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.picture)
        row.addWidget(self.likest, 1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        layout.addWidget(self.mark)
        layout.addWidget(self.says)
        layout.addWidget(self.likest_row)
        layout.addWidget(self.what_changed)
        layout.addWidget(self.changed)

    def refresh(self) -> None:
        """Say what is known of the shown result."""
        known = self.doubts.unlikeness(self.session.result)
        is_marked = self.doubts.marks_unlike
        with QSignalBlocker(self.mark):
            self.mark.setChecked(is_marked)
        text = unlike_text(known) if is_marked else ""
        self.says.setText(text)
        self.says.setVisible(bool(text))
        self.likest_row.setVisible(is_marked and known is not None and known.distance is not None)
        compared = self.comparing.compared
        with QSignalBlocker(self.what_changed):
            self.what_changed.setChecked(compared is not None)
        if compared is not None or self.changed.text():
            self.changed.setText(self.comparing.text())
        self.changed.setVisible(bool(self.changed.text()))

    def point_at(self, place: Place | None) -> None:
        """The cursor is here: look for the most similar training tile once it rests."""
        self._place = place
        if place is not None and not self.likest_row.isHidden():
            self._rest.start()

    def _on_cursor_rests(self) -> None:
        self.doubts.seek_likest(self._place)

    def _on_time(self) -> None:
        self.doubts.advance()
        if not self.doubts.is_busy:
            self._poll.stop()

    def _on_mark_toggled(self, on: bool) -> None:
        self.doubts.mark_unlike(on)
        self.refresh()

    def _on_likest_found(self, found: Likest) -> None:
        self.likest.setText(found.text)
        self.picture.setPixmap(pixmap_of(found.picture) if found.picture is not None else QPixmap())

    def _on_what_changed_clicked(self, on: bool) -> None:
        shown = self.comparing.compared
        if not on:
            self.comparing.forget()
            if shown is not None:
                self._show(shown.result, "classes")
            return
        sentence = self.comparing.ask()
        compared = self.comparing.compared
        if compared is not None:
            self._show(compared.result, "changes")
        self.refresh()
        self.changed.setText(sentence)
        self.changed.setVisible(True)


def unlike_text(known: Unlikeness | None) -> str:
    """How much is unlike the training tiles, or why that is not known."""
    if known is None:
        return "Nothing is predicted here yet."
    if known.distance is None:
        return known.reason
    share = known.far_share
    if not share:
        return "No predicted tile is unlike the training tiles."
    much = f"{share:.0%}" if share >= 0.01 else "less than 1 %"
    return f"{much} of the predicted tiles are unlike the training tiles."


def hint_text(distance: float | None, far: float, changed: tuple[str, str] | None) -> str:
    """What to doubt under the cursor, in one line; empty where there is nothing."""
    parts = []
    if changed is not None:
        parts.append(f"changed: {changed[0]} → {changed[1]}" if changed[0] != changed[1] else "not changed")
    if distance is not None and distance > far:
        parts.append(f"unlike the training tiles ({distance / far:.1f} × the limit)")
    return " · ".join(parts)


def pixmap_of(picture: Any) -> QPixmap:
    """A picture (height, width, 3) uint8 as large as there is room for."""
    height, width = picture.shape[:2]
    image = QImage(picture.tobytes(), width, height, 3 * width, QImage.Format.Format_RGB888)
    smooth = Qt.TransformationMode.SmoothTransformation
    return QPixmap.fromImage(image.copy()).scaled(
        PICTURE_PX - 2, PICTURE_PX - 2, Qt.AspectRatioMode.KeepAspectRatio, smooth
    )
