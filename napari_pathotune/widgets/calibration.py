"""The calibration curve of a tuning: how often it is right where it is how sure, drawn with Qt's painter."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import QPointF, QRectF, QSize, Qt
from qtpy.QtGui import QColor, QPainter, QPen
from qtpy.QtWidgets import QSizePolicy, QWidget

from napari_pathotune.widgets.parts import chart_painter, folded, named

BAR, GAP = QColor(86, 180, 233), QColor(213, 94, 0)  # apart for colour-blind eyes, on dark and light ground alike
LEFT, RIGHT, TOP, BOTTOM = 38, 8, 18, 40
COUNTS_PX = 14
TOOLTIP = (
    "Each column stands for held-out tiles of which the tuning was about equally sure; its height is the share it got "
    "right, the orange line how sure it was. Columns below their line: too sure of itself; above: too modest. "
    "The thin line spans what the true share may be for so few tiles (95 %, and rather more, as a region's tiles are "
    "alike). The numbers below count the tiles. These very tiles also set how sure the tuning may be, so on other "
    "slides it does rather worse. ECE, the expected calibration error, is how far the columns miss on average."
)


class CalibrationCurve(QWidget):
    """Accuracy over confidence on held-out tiles, with its intervals, tiles per column and the calibration error."""

    def __init__(self) -> None:
        super().__init__()
        self.columns: list[dict[str, Any]] = []
        self.error: float | None = None
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setMouseTracking(True)
        named(self, "Calibration curve", TOOLTIP)
        self.setVisible(False)

    def sizeHint(self) -> QSize:
        """Qt: wide and low."""
        return QSize(300, 190)

    def minimumSizeHint(self) -> QSize:
        """Qt: as low as it is, and narrower."""
        return QSize(200, 190)

    def show_scores(self, scores: dict[str, Any]) -> None:
        """Show `calibration` and `ece` of a result's scores; hides where there are none.

        Parameters
        ----------
        scores : `val` of the document a tuning ends with.
        """
        self.columns = [one for one in scores.get("calibration") or () if one.get("n")]
        error = scores.get("ece")
        self.error = float(error) if isinstance(error, int | float) else None
        self.setAccessibleDescription(f"{' '.join(map(column_text, self.columns))} {self.headline()} {TOOLTIP}")
        self.setVisible(bool(self.columns))
        self.update()

    def headline(self) -> str:
        """The expected calibration error and how many tiles it comes from."""
        tiles = sum(int(one["n"]) for one in self.columns)
        counted = f"{tiles} held-out tile{'' if tiles == 1 else 's'}"
        return counted if self.error is None else f"ECE {self.error:.3f} · {counted}"

    def column_at(self, x: float) -> dict[str, Any] | None:
        """The column at a place across the widget, in its pixels."""
        box = self._box()
        sure = (x - box.left()) / box.width()
        return next((one for one in self.columns if one["from"] <= sure < one["to"] + 1e-9), None)

    def mouseMoveEvent(self, event: Any) -> None:
        """Qt: the cursor moved; the tooltip is that of the column below it."""
        column = self.column_at(event.pos().x())
        self.setToolTip(folded(TOOLTIP if column is None else column_text(column)))

    def paintEvent(self, event: Any) -> None:
        """Qt: paint."""
        painter, ink, faint = chart_painter(self)
        box = self._box()
        self._axes(painter, box, ink, faint)
        for column in self.columns:
            self._column(painter, box, column, ink)
        painter.setPen(QPen(ink, 1, Qt.PenStyle.DashLine))
        painter.drawLine(box.bottomLeft(), box.topRight())
        painter.end()

    def _box(self) -> QRectF:
        return QRectF(LEFT, TOP, self.width() - LEFT - RIGHT, self.height() - TOP - BOTTOM)

    def _axes(self, painter: QPainter, box: QRectF, ink: QColor, faint: QColor) -> None:
        middle = int(Qt.AlignmentFlag.AlignCenter)
        right = int(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        painter.setPen(QPen(faint, 1))
        painter.drawRect(box)
        for part in (0.0, 0.5, 1.0):
            y, x = box.bottom() - part * box.height(), box.left() + part * box.width()
            painter.setPen(QPen(faint, 1))
            painter.drawLine(QPointF(box.left(), y), QPointF(box.right(), y))
            painter.setPen(ink)
            painter.drawText(QRectF(0, y - 6, LEFT - 4, 12), right, f"{part:.0%}")
            edge = min(max(x - 20, 0.0), self.width() - 40.0)
            at_end = right if part == 1 else middle
            painter.drawText(QRectF(edge, box.bottom() + COUNTS_PX, 40, 12), at_end, f"{part:.0%}")
        painter.setPen(ink)
        painter.drawText(QRectF(0, 0, self.width(), TOP - 2), int(Qt.AlignmentFlag.AlignVCenter), "right")
        painter.drawText(QRectF(LEFT, 0, self.width() - LEFT - RIGHT, TOP - 2), right, self.headline())
        below = QRectF(0, box.bottom() + COUNTS_PX + 12, self.width() - RIGHT, 12)
        painter.drawText(below, middle, "how sure it said it was")

    def _column(self, painter: QPainter, box: QRectF, column: dict[str, Any], ink: QColor) -> None:
        left = box.left() + column["from"] * box.width()
        width = (column["to"] - column["from"]) * box.width()
        right_share, sure = float(column["accuracy"]), float(column["confidence"])
        height = right_share * box.height()
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(BAR)
        painter.drawRect(QRectF(left + 1, box.bottom() - height, width - 2, height))
        # From where it is to where an honest column would end.
        painter.setBrush(Qt.BrushStyle.NoBrush)
        painter.setPen(QPen(GAP, 2))
        level = box.bottom() - sure * box.height()
        painter.drawLine(QPointF(left + 1, level), QPointF(left + width - 1, level))
        painter.setPen(QPen(ink, 1))
        interval = column.get("ci95")
        if interval:
            middle = left + width / 2
            low, high = (box.bottom() - float(part) * box.height() for part in interval)
            painter.drawLine(QPointF(middle, low), QPointF(middle, high))
            for level in (low, high):
                painter.drawLine(QPointF(middle - 3, level), QPointF(middle + 3, level))
        counts = QRectF(left - 4, box.bottom() + 1, width + 8, COUNTS_PX - 2)
        painter.drawText(counts, int(Qt.AlignmentFlag.AlignCenter), str(column["n"]))


def column_text(column: dict[str, Any]) -> str:
    """One column in a sentence."""
    interval = column.get("ci95")
    between = f" (95 % between {interval[0]:.0%} and {interval[1]:.0%})" if interval else ""
    tiles = "tile" if column["n"] == 1 else "tiles"
    return (
        f"Where it was {column['from']:.0%} to {column['to']:.0%} sure, {column['confidence']:.0%} on average, it was "
        f"right in {column['accuracy']:.0%} of {column['n']} {tiles}{between}."
    )
