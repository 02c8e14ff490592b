"""The dock "Overview": a map of the slide with the view's box, magnification and jumps, measuring, and a picture."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QPointF, QRectF, QSize, Qt, QTimer, Signal
from qtpy.QtGui import QColor, QImage, QPainter, QPen, QPixmap
from qtpy.QtWidgets import QCheckBox, QHBoxLayout, QLabel, QPushButton, QSizePolicy, QVBoxLayout, QWidget

from napari_pathotune import compat
from napari_pathotune.navigation import (
    MAGNIFICATIONS,
    Box,
    box_on_map,
    fitted,
    magnification_of,
    magnification_text,
    place_on_slide,
    zoom_of,
)
from napari_pathotune.session import Session, session_of
from napari_pathotune.widgets.focus import FocusRing
from napari_pathotune.widgets.measure import MeasurePanel
from napari_pathotune.widgets.parts import SteadyLine, button, heading, named
from napari_pathotune.widgets.snapshot import SnapshotPanel

if TYPE_CHECKING:
    import napari

    from pathotune.slides.slide import Slide

log = logging.getLogger("pathotune")

THUMBNAIL_PX = 512
LABEL_HEIGHT_PX = 160
# How soon the box follows the view: often enough to guide the hand, seldom enough not to slow the canvas.
FOLLOW_MS = 60
STEP = 0.5


class SlideMap(QWidget):
    """A small picture of the whole slide with the view's box; click, drag or arrow keys move the view."""

    moved = Signal(float, float)
    stepped = Signal(int, int)

    def __init__(self) -> None:
        super().__init__()
        named(self, "Map of the slide", "Click or drag to move the view there; the arrow keys move it by half a view.")
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self.setMinimumHeight(120)
        self._picture: QPixmap | None = None
        self.slide_px0: tuple[float, float] | None = None
        self.view_px0: Box | None = None

    def sizeHint(self) -> QSize:
        """Qt: room enough to find one's way."""
        return QSize(280, 200)

    def show_slide(self, slide_px0: tuple[float, float] | None) -> None:
        """Show another slide, its picture not read yet."""
        self._picture, self.slide_px0, self.view_px0 = None, slide_px0, None
        self.update()

    def show_picture(self, pixels: Any) -> None:
        """Show the slide's picture: uint8 (height, width, 3)."""
        height, width, _ = pixels.shape
        self._picture = QPixmap.fromImage(
            QImage(pixels.tobytes(), width, height, 3 * width, QImage.Format.Format_RGB888).copy()
        )
        self.update()

    def show_view(self, box_px0: Box | None) -> None:
        """Draw the view's box elsewhere, if it has moved."""
        if box_px0 != self.view_px0:
            self.view_px0 = box_px0
            self.update()

    def map_rect(self) -> QRectF:
        """Where in this widget the slide is drawn."""
        if self.slide_px0 is None:
            return QRectF()
        width, height = fitted(self.slide_px0, (self.width() - 2.0, self.height() - 2.0))
        return QRectF((self.width() - width) / 2, 1.0, width, height)

    def paintEvent(self, event: Any) -> None:
        """Qt: draw the slide and the box."""
        if self.slide_px0 is None:
            return
        painter, area = QPainter(self), self.map_rect()
        painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform)
        painter.fillRect(area, QColor(255, 255, 255))
        if self._picture is not None:
            painter.drawPixmap(area, self._picture, QRectF(self._picture.rect()))
        if self.view_px0 is not None:
            x, y, width, height = box_on_map(self.view_px0, self.slide_px0, (area.width(), area.height()))
            box = QRectF(area.x() + x, area.y() + y, width, height)
            # Two lines, so that the box is seen on white glass and on dark tissue.
            for color, thickness in ((QColor(255, 255, 255), 4.0), (QColor(200, 30, 30), 2.0)):
                painter.setPen(QPen(color, thickness))
                painter.drawRect(box)
        if self.hasFocus():
            painter.setPen(QPen(QColor(74, 144, 217), 1.0))
            painter.drawRect(QRectF(self.rect()).adjusted(0.5, 0.5, -0.5, -0.5))
        painter.end()

    def mousePressEvent(self, event: Any) -> None:
        """Qt: go there."""
        self._go(event)

    def mouseMoveEvent(self, event: Any) -> None:
        """Qt: go there while a button is held."""
        if event.buttons() & Qt.MouseButton.LeftButton:
            self._go(event)

    def keyPressEvent(self, event: Any) -> None:
        """Qt: the arrow keys."""
        steps = {
            Qt.Key.Key_Left: (-1, 0),
            Qt.Key.Key_Right: (1, 0),
            Qt.Key.Key_Up: (0, -1),
            Qt.Key.Key_Down: (0, 1),
        }
        if event.key() in steps:
            self.stepped.emit(*steps[event.key()])
        else:
            super().keyPressEvent(event)

    def _go(self, event: Any) -> None:
        if self.slide_px0 is None:
            return
        place = QPointF(event.position() if hasattr(event, "position") else event.localPos())
        area = self.map_rect()
        self.moved.emit(
            *place_on_slide(place.x() - area.x(), place.y() - area.y(), self.slide_px0, (area.width(), area.height()))
        )


class Overview(QWidget):
    """Where the view lies, how strongly it magnifies, what a line or outline measures, and a picture to keep."""

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self.session = session_of(napari_viewer)
        self.map = SlideMap()
        self.read_out = SteadyLine("Magnification: what objective the view corresponds to.")
        self.jumps = self._make_jumps()
        self.label_switch = QCheckBox("Show the slide's label")
        named(
            self.label_switch, "Show the slide's label", "The glass slide's own label; it may carry a patient's name."
        )
        self.label = QLabel()
        self.label.setAccessibleName("The slide's label")
        self.measure = MeasurePanel(self.session)
        self.snapshot = SnapshotPanel(self.session)
        self._lay_out()
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="pathotune-map")
        self._reading: tuple[Slide, Future[Any]] | None = None
        self._follow = QTimer(self)
        self._follow.setSingleShot(True)
        self._follow.setInterval(FOLLOW_MS)
        self._follow.timeout.connect(self._on_follow)
        self._wait = QTimer(self)
        self._wait.setInterval(100)
        self._wait.timeout.connect(self._on_wait)
        self._connect()
        FocusRing(self)
        self.refresh()

    def _make_jumps(self) -> list[QPushButton]:
        entries: list[tuple[str, str, Callable[[], None]]] = [("Fit", "The whole slide", self.session.look_at_all)]
        for value in MAGNIFICATIONS:
            text = magnification_text(value)
            entries.append((text, f"Magnify {text}", lambda value=value: self.magnify(value)))  # type: ignore[misc]
        made = []
        for number, (text, tooltip, go) in enumerate(entries):
            jump = button(text, f"{tooltip} (Ctrl+{number}).", tooltip)
            jump.setMinimumWidth(20)
            jump.setStyleSheet("QPushButton { padding: 3px 2px; }")
            jump.clicked.connect(lambda _=False, go=go: go())
            self.session.viewer.bind_key(f"Control-{number}", lambda _, go=go: go(), overwrite=True)
            made.append(jump)
        return made

    def _lay_out(self) -> None:
        row = QHBoxLayout()
        row.setSpacing(2)
        for jump in self.jumps:
            row.addWidget(jump, 1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(8, 4, 8, 6)
        layout.setSpacing(4)
        layout.addWidget(self.map, 1)
        layout.addWidget(self.read_out)
        layout.addLayout(row)
        layout.addWidget(self.label_switch)
        layout.addWidget(self.label)
        layout.addWidget(heading("Measure"))
        layout.addWidget(self.measure)
        layout.addWidget(heading("Picture"))
        layout.addWidget(self.snapshot)

    def _connect(self) -> None:
        self.map.moved.connect(self.session.look_at)
        self.map.stepped.connect(self._on_map_stepped)
        self.label_switch.toggled.connect(self._on_label_toggled)
        events = compat.camera(self.session.viewer).events
        events.center.connect(self._on_camera_moved)
        events.zoom.connect(self._on_camera_moved)
        self.session.active_changed.connect(self.refresh)
        self.session.slides_changed.connect(self.refresh)

    def refresh(self) -> None:
        """Show the active slide, its label hidden again."""
        slide = self.session.slide
        self.label_switch.setChecked(False)
        self.label_switch.setVisible(slide is not None and "label" in slide.associated_images)
        self.label.setVisible(False)
        size = (float(slide.width_px0), float(slide.height_px0)) if slide is not None else None
        self.map.show_slide(size)
        for jump in self.jumps[1:]:
            jump.setEnabled(slide is not None and slide.mpp is not None)
        self.jumps[0].setEnabled(slide is not None)
        if slide is not None:
            picture = self.session.picture or slide
            self._reading = (picture, self._pool.submit(picture.thumbnail, THUMBNAIL_PX))
            self._wait.start()
        self._on_follow()

    def magnify(self, magnification: float) -> None:
        """Show the middle of the view as an objective of this magnification would."""
        slide = self.session.slide
        if slide is not None and slide.mpp is not None:
            compat.camera(self.session.viewer).zoom = zoom_of(magnification)

    def _on_camera_moved(self, event: Any = None) -> None:
        if not self._follow.isActive():
            self._follow.start()

    def _on_follow(self) -> None:
        if self.session.viewer is None:
            return
        self.map.show_view(self.session.view_box_px0())
        self.read_out.show_text(view_text(self.session))

    def _on_wait(self) -> None:
        if self._reading is None or not self._reading[1].done():
            return
        slide, future = self._reading
        self._reading = None
        self._wait.stop()
        if slide is not self.session.picture:
            return
        try:
            self.map.show_picture(future.result())
        except Exception as error:  # the readers have many; the map stays white, the slide itself says what is wrong
            log.warning("no overview of %s: %s", slide.name, error)

    def _on_map_stepped(self, right: int, down: int) -> None:
        box = self.session.view_box_px0()
        if box is not None:
            x, y, width, height = box
            self.session.look_at(x + width * (0.5 + STEP * right), y + height * (0.5 + STEP * down))

    def _on_label_toggled(self, shown: bool) -> None:
        slide = self.session.slide
        self.label.setVisible(shown and slide is not None)
        if shown and slide is not None:
            pixels = slide.associated_image("label")
            height, width, _ = pixels.shape
            image = QImage(pixels.tobytes(), width, height, 3 * width, QImage.Format.Format_RGB888).copy()
            self.label.setPixmap(
                QPixmap.fromImage(image).scaledToHeight(
                    min(height, LABEL_HEIGHT_PX), Qt.TransformationMode.SmoothTransformation
                )
            )

    def closeEvent(self, event: Any) -> None:
        """Qt: the dock is closed; give the keys back and let the thread end."""
        self._wait.stop()
        self._pool.shutdown(wait=False, cancel_futures=True)
        viewer = self.session.viewer
        if viewer is not None:
            for number in range(len(self.jumps)):
                viewer.bind_key(f"Control-{number}", None, overwrite=True)
            events = compat.camera(viewer).events
            events.center.disconnect(self._on_camera_moved)
            events.zoom.disconnect(self._on_camera_moved)
        super().closeEvent(event)


def view_text(session: Session) -> str:
    """How strongly the view magnifies and how much of the slide it shows; empty without a slide."""
    slide = session.slide
    if slide is None:
        return ""
    zoom = float(compat.camera(session.viewer).zoom)
    if slide.mpp is None:
        return f"{100 * zoom:.3g} % of the scan; its pixel size is not known"
    height, width = (size / zoom / 1000 for size in compat.canvas_size(session.viewer))
    return f"{magnification_text(magnification_of(zoom))} · view {width:.2f} × {height:.2f} mm"
