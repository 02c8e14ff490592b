"""The live curves of a tuning: loss and balanced accuracy over the epochs, drawn with the window's own painter."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import QPointF, QRectF, QSize, Qt
from qtpy.QtGui import QColor, QPainter, QPen, QPolygonF
from qtpy.QtWidgets import QSizePolicy, QWidget

from napari_pathotune.widgets.parts import chart_painter, named

# Apart for colour-blind eyes, on dark and light ground alike.
LOSS, ACCURACY = QColor(230, 159, 0), QColor(86, 180, 233)
LEFT, RIGHT, TOP, BOTTOM = 34, 34, 18, 18


class Curves(QWidget):
    """Training loss on the left axis, balanced accuracy of the held-out regions on the right, one point an epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.epochs = 0
        self.best_epoch = 0
        self.word = "epoch"
        self.loss: list[tuple[int, float]] = []
        self.accuracy: list[tuple[int, float]] = []
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        named(self, "Curves", "Loss should fall, balanced accuracy should rise. The dashed line is the best epoch.")

    def sizeHint(self) -> QSize:
        """Qt: wide and low."""
        return QSize(300, 130)

    def minimumSizeHint(self) -> QSize:
        """Qt: as low as it is, and narrower."""
        return QSize(160, 130)

    def clear(self) -> None:
        """Start a new tuning."""
        self.epochs = self.best_epoch = 0
        self.loss.clear()
        self.accuracy.clear()
        self._say()
        self.update()

    def take(
        self, epoch: int, epochs: int, loss: float, accuracy: float | None, best_epoch: int, word: str = "epoch"
    ) -> None:
        """Add one epoch, or what stands for one ("fit"); a number that is not finite is left out."""
        self.epochs, self.best_epoch, self.word = max(epochs, epoch), best_epoch, word
        if abs(loss) != float("inf") and loss == loss:
            self.loss.append((epoch, loss))
        if accuracy is not None and accuracy == accuracy:
            self.accuracy.append((epoch, accuracy))
        self._say()
        self.update()

    def _say(self) -> None:
        """What the picture shows, for those who hear it read out."""
        parts = []
        if self.loss:
            parts.append(f"loss {self.loss[-1][1]:.3f} at {self.word} {self.loss[-1][0]}")
        if self.accuracy:
            parts.append(f"balanced accuracy {self.accuracy[-1][1]:.2f}, best {self.word} {self.best_epoch}")
        self.setAccessibleDescription(", ".join(parts) or "Nothing to draw yet.")

    def paintEvent(self, event: Any) -> None:
        """Qt: paint."""
        painter, ink, faint = chart_painter(self)
        box = QRectF(LEFT, TOP, self.width() - LEFT - RIGHT, self.height() - TOP - BOTTOM)
        painter.setPen(QPen(faint, 1))
        painter.drawRect(box)
        top = max((value for _, value in self.loss), default=1.0) * 1.05 or 1.0
        self._axes(painter, box, ink, faint, top)
        if self.best_epoch and self.epochs:
            x = self._x(box, self.best_epoch)
            painter.setPen(QPen(faint, 1, Qt.PenStyle.DashLine))
            painter.drawLine(QPointF(x, box.top()), QPointF(x, box.bottom()))
        self._curve(painter, box, self.loss, top, LOSS)
        self._curve(painter, box, self.accuracy, 1.0, ACCURACY)
        painter.end()

    def _axes(self, painter: QPainter, box: QRectF, ink: QColor, faint: QColor, top: float) -> None:
        for part in (0.0, 0.5, 1.0):
            y = box.bottom() - part * box.height()
            painter.setPen(QPen(faint, 1))
            painter.drawLine(QPointF(box.left(), y), QPointF(box.right(), y))
            height = QRectF(0, y - 6, LEFT - 4, 12)
            if self.loss:
                painter.setPen(LOSS)
                right = int(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
                painter.drawText(height, right, f"{part * top:.2g}")
            painter.setPen(ACCURACY)
            painter.drawText(
                QRectF(box.right() + 4, y - 6, RIGHT - 4, 12), int(Qt.AlignmentFlag.AlignVCenter), f"{part:g}"
            )
        painter.setPen(LOSS)
        painter.drawText(QRectF(2, 0, 120, TOP - 2), int(Qt.AlignmentFlag.AlignVCenter), "loss")
        painter.setPen(ACCURACY)
        right = int(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        painter.drawText(QRectF(self.width() - 162, 0, 160, TOP - 2), right, "balanced accuracy (held out)")
        painter.setPen(ink)
        text = f"{self.word} {self.loss[-1][0]} of {self.epochs}" if self.loss else "nothing to draw yet"
        if self.best_epoch:
            text += f" · best {self.best_epoch}"
        below = QRectF(box.left(), box.bottom() + 2, box.width(), BOTTOM - 2)
        painter.drawText(below, int(Qt.AlignmentFlag.AlignCenter), text)

    def _x(self, box: QRectF, epoch: float) -> float:
        return float(box.left() + box.width() * (epoch - 1) / max(1, self.epochs - 1))

    def _curve(
        self, painter: QPainter, box: QRectF, points: list[tuple[int, float]], top: float, color: QColor
    ) -> None:
        places = [
            QPointF(self._x(box, epoch), box.bottom() - box.height() * min(max(value / top, 0.0), 1.0))
            for epoch, value in points
        ]
        painter.setPen(QPen(color, 2))
        painter.drawPolyline(QPolygonF(places))
        painter.setBrush(color)
        for place in places[-1:]:
            painter.drawEllipse(place, 3, 3)
        painter.setBrush(Qt.BrushStyle.NoBrush)
