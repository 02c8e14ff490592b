"""The drawing tools as a row of buttons, with pictures drawn in the theme's own colour."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qtpy.QtCore import QPointF, QRectF, QSize, Qt, Signal
from qtpy.QtGui import QColor, QIcon, QPainter, QPainterPath, QPalette, QPen, QPixmap, QPolygonF
from qtpy.QtWidgets import QButtonGroup, QHBoxLayout, QLabel, QSlider, QToolButton, QVBoxLayout, QWidget

from napari_pathotune.slide_drawing import LARGEST_BRUSH, SMALLEST_BRUSH
from napari_pathotune.widgets.parts import named

ICON_PX = 20

# name → what it is called, key, what it does
TOOLS: dict[str, tuple[str, str, str]] = {
    "move": ("Move", "M", "Drag the slide. In every tool, hold Space to do so."),
    "select": ("Select", "S", "Click or box regions, drag or resize them; a class or Delete acts on them."),
    "corners": ("Edit corners", "V", "Move the corners of a region."),
    "polygon": ("Polygon", "P", "Click corners; Backspace takes one back, a double-click ends. With Alt it cuts out."),
    "lasso": ("Lasso", "Shift+P", "Draw round tissue with the button held. With Alt it cuts out."),
    "brush": ("Brush", "B", "Paint tissue; strokes join the region of this class they touch. With Alt it erases."),
    "eraser": ("Eraser", "X", "Rub out parts of regions; inside a region it leaves a hole."),
    "rectangle": ("Rectangle", "R", "Drag a rectangle. With Alt it cuts out."),
    "ellipse": ("Ellipse", "E", "Drag an ellipse. With Alt it cuts out."),
    "point": ("Points", ".", "Click places; each is one tile of its class."),
}


class ToolRow(QWidget):
    """One button per tool, and the size of the brush while a brush is in hand."""

    tool_chosen = Signal(str)
    brush_changed = Signal(int)

    def __init__(self) -> None:
        super().__init__()
        self.buttons: dict[str, QToolButton] = {}
        # napari's style shows no difference between a tool that is in hand and one that is not.
        self.setStyleSheet("QToolButton:checked { background-color: rgba(80, 110, 220, 200); border-radius: 3px; }")
        self._group = QButtonGroup(self)
        self._group.setExclusive(True)
        row = QHBoxLayout()
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(0)
        for tool, (title, key, does) in TOOLS.items():
            made = QToolButton()
            made.setCheckable(True)
            made.setAutoRaise(True)
            made.setIconSize(QSize(ICON_PX, ICON_PX))
            named(made, title, f"{title} ({key}): {does}")
            made.clicked.connect(lambda _=False, tool=tool: self.tool_chosen.emit(tool))
            self._group.addButton(made)
            self.buttons[tool] = made
            row.addWidget(made)
        row.addStretch(1)
        self.size = QSlider(Qt.Orientation.Horizontal)
        self.size.setRange(SMALLEST_BRUSH, LARGEST_BRUSH)
        tip = "How wide the brush is on the screen ([ and ] change it, Shift and the wheel too)."
        named(self.size, "Brush size", tip)
        self.size.valueChanged.connect(self.brush_changed.emit)
        self.size_text = QLabel()
        self._size_row = QWidget()
        below = QHBoxLayout(self._size_row)
        below.setContentsMargins(2, 0, 2, 0)
        below.addWidget(QLabel("Brush"))
        below.addWidget(self.size, 1)
        below.addWidget(self.size_text)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        layout.addLayout(row)
        layout.addWidget(self._size_row)
        self._size_row.setVisible(False)
        self._paint_icons()

    def show_tool(self, tool: str, brush_px: int, brush_text: str) -> None:
        """Show which tool is in hand, and the brush's size."""
        if tool in self.buttons:
            self.buttons[tool].setChecked(True)
        self._size_row.setVisible(tool in ("brush", "eraser"))
        if self.size.value() != brush_px:
            self.size.blockSignals(True)
            self.size.setValue(brush_px)
            self.size.blockSignals(False)
        self.size_text.setText(brush_text)

    def changeEvent(self, event: Any) -> None:
        """Qt: the theme may have changed."""
        super().changeEvent(event)
        if event.type() in (event.Type.PaletteChange, event.Type.StyleChange):
            self._paint_icons()

    def showEvent(self, event: Any) -> None:
        """Qt: now the style of the window is known."""
        super().showEvent(event)
        self._paint_icons()

    def _paint_icons(self) -> None:
        color = self.palette().color(QPalette.ColorRole.WindowText)
        ratio = float(self.devicePixelRatioF())
        for tool, made in self.buttons.items():
            made.setIcon(tool_icon(tool, color, ratio))


def tool_icon(tool: str, color: QColor, ratio: float = 1.0) -> QIcon:
    """A tool's picture in one colour, sharp at the screen's scaling."""
    pixmap = QPixmap(int(ICON_PX * ratio), int(ICON_PX * ratio))
    pixmap.setDevicePixelRatio(ratio)
    pixmap.fill(QColor(0, 0, 0, 0))
    painter = QPainter(pixmap)
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    painter.setPen(QPen(color, 1.6))
    PICTURES[tool](painter, color)
    painter.end()
    return QIcon(pixmap)


def _polygon(*corners: tuple[float, float]) -> QPolygonF:
    return QPolygonF([QPointF(x, y) for x, y in corners])


def _dots(painter: QPainter, color: QColor, *places: tuple[float, float]) -> None:
    painter.save()
    painter.setBrush(color)
    painter.setPen(Qt.PenStyle.NoPen)
    for x, y in places:
        painter.drawEllipse(QPointF(x, y), 2.0, 2.0)
    painter.restore()


def _move(painter: QPainter, color: QColor) -> None:
    painter.drawLine(QPointF(10, 3), QPointF(10, 17))
    painter.drawLine(QPointF(3, 10), QPointF(17, 10))
    for corners in (
        ((7.5, 5), (10, 2), (12.5, 5)),
        ((7.5, 15), (10, 18), (12.5, 15)),
        ((5, 7.5), (2, 10), (5, 12.5)),
        ((15, 7.5), (18, 10), (15, 12.5)),
    ):
        painter.drawPolyline(_polygon(*corners))


def _select(painter: QPainter, color: QColor) -> None:
    painter.setBrush(color)
    painter.drawPolygon(_polygon((5, 2), (5, 16), (8.6, 12.6), (11, 18), (13, 17), (10.6, 11.8), (15, 11.5)))


def _corners(painter: QPainter, color: QColor) -> None:
    painter.drawPolygon(_polygon((4, 6), (14, 4), (16, 15), (6, 16)))
    _dots(painter, color, (4, 6), (14, 4), (16, 15), (6, 16))


def _polygon_tool(painter: QPainter, color: QColor) -> None:
    painter.drawPolygon(_polygon((3, 9), (9, 3), (17, 7), (14, 16), (6, 16)))


def _lasso(painter: QPainter, color: QColor) -> None:
    path = QPainterPath(QPointF(6, 13))
    path.cubicTo(0, 8, 6, 2, 12, 3)
    path.cubicTo(20, 4, 19, 12, 12, 13)
    path.cubicTo(8, 14, 5, 12, 6, 16)
    path.cubicTo(6, 18, 9, 18, 9, 16)
    painter.drawPath(path)


def _brush(painter: QPainter, color: QColor) -> None:
    painter.setPen(QPen(color, 2.4, Qt.PenStyle.SolidLine, Qt.PenCapStyle.RoundCap))
    painter.drawLine(QPointF(16.5, 3), QPointF(10, 10))
    painter.setPen(QPen(color, 1.2))
    painter.setBrush(color)
    path = QPainterPath(QPointF(9.5, 9.5))
    path.cubicTo(5, 9, 6, 14, 3, 16)
    path.cubicTo(8, 18, 12, 15, 10.8, 10.8)
    painter.drawPath(path)


def _eraser(painter: QPainter, color: QColor) -> None:
    painter.drawPolygon(_polygon((3, 13), (11, 4), (17, 9), (9, 17), (6, 17)))
    painter.drawLine(QPointF(6.5, 9), QPointF(13, 14))


def _rectangle(painter: QPainter, color: QColor) -> None:
    painter.drawRect(QRectF(3, 5, 14, 10))


def _ellipse(painter: QPainter, color: QColor) -> None:
    painter.drawEllipse(QRectF(2.5, 5, 15, 10))


def _point(painter: QPainter, color: QColor) -> None:
    _dots(painter, color, (5, 6), (14, 5), (9, 14), (16, 14))


PICTURES: dict[str, Callable[[QPainter, QColor], None]] = {
    "move": _move,
    "select": _select,
    "corners": _corners,
    "polygon": _polygon_tool,
    "lasso": _lasso,
    "brush": _brush,
    "eraser": _eraser,
    "rectangle": _rectangle,
    "ellipse": _ellipse,
    "point": _point,
}
