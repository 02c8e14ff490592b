"""The colours of a heat map from its lowest to its highest value, with what these mean."""

from __future__ import annotations

from typing import Any

import numpy as np
from qtpy.QtCore import QRectF, QSize, Qt
from qtpy.QtGui import QColor, QLinearGradient, QPainter, QPalette, QPen
from qtpy.QtWidgets import QSizePolicy, QWidget

from napari_pathotune.widgets.parts import named

STOPS = 17
BAR_PX = 10


class ColorRange(QWidget):
    """A bar of a layer's colours with a word at each end; hidden where no heat map is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.low = self.high = self.unit = ""
        self._colors: list[QColor] = []
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setVisible(False)

    def sizeHint(self) -> QSize:
        """Qt: the bar and a line of words."""
        return QSize(200, BAR_PX + self.fontMetrics().height() + 6)

    def minimumSizeHint(self) -> QSize:
        """Qt: as tall, and narrower."""
        return QSize(120, self.sizeHint().height())

    def show_layer(self, layer: Any | None, low: str = "", high: str = "", tooltip: str = "", unit: str = "") -> None:
        """Show the colours of a layer, or nothing.

        Parameters
        ----------
        low, high : what its lowest and its highest value mean.
        unit : of the values, between the two.
        """
        self.setVisible(layer is not None)
        if layer is None:
            return
        self.low, self.high, self.unit = low, high, unit
        colors = np.asarray(layer.colormap.map(np.linspace(0, 1, STOPS)))
        self._colors = [QColor.fromRgbF(*(float(part) for part in color[:3])) for color in colors]
        named(self, f"Colours from {low} to {high}{f', {unit}' if unit else ''}", tooltip)
        self.update()

    def paintEvent(self, event: Any) -> None:
        """Qt: paint."""
        painter = QPainter(self)
        bar = QRectF(0.5, 1.5, self.width() - 1, BAR_PX)
        gradient = QLinearGradient(bar.topLeft(), bar.topRight())
        for index, color in enumerate(self._colors):
            gradient.setColorAt(index / (STOPS - 1), color)
        painter.setBrush(gradient)
        painter.setPen(QPen(QColor(128, 128, 128)))
        painter.drawRect(bar)
        painter.setPen(self.palette().color(QPalette.ColorRole.WindowText))
        words = QRectF(0, BAR_PX + 3, self.width(), self.fontMetrics().height() + 2)
        painter.drawText(words, int(Qt.AlignmentFlag.AlignLeft), self.low)
        painter.drawText(words, int(Qt.AlignmentFlag.AlignRight), self.high)
        if self.unit:
            metrics = self.fontMetrics()
            room = self.width() - 2 * max(metrics.horizontalAdvance(end) for end in (self.low, self.high)) - 16
            said = metrics.elidedText(self.unit, Qt.TextElideMode.ElideRight, room)
            painter.drawText(words, int(Qt.AlignmentFlag.AlignHCenter), said)
        painter.end()
