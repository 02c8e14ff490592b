"""Measuring on a slide: buttons for a distance and an area, and what the last one was."""

from __future__ import annotations

from typing import Any

from qtpy.QtWidgets import QHBoxLayout, QVBoxLayout, QWidget

from napari_pathotune.layers import facts
from napari_pathotune.measuring import measure_layer, sizes_of
from napari_pathotune.session import Session, same_path
from napari_pathotune.widgets.parts import SteadyLine, button


class MeasurePanel(QWidget):
    """Draws on a layer of its own, so that a measurement is never taken for a region to tune on."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session
        self._followed: list[Any] = []
        self.distance = button("Distance", "Drag a line on the slide to read its length.", "Measure a distance")
        self.area = button("Area", "Click the corners of an outline, double-click to close it.", "Measure an area")
        self.clear = button("Clear", "Remove all measurements of this slide.", "Clear the measurements")
        self.last = SteadyLine("Last measurement: the length of a line or the area of an outline.")
        row = QHBoxLayout()
        for widget in (self.distance, self.area, self.clear):
            row.addWidget(widget)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(3)
        layout.addLayout(row)
        layout.addWidget(self.last)
        self.distance.clicked.connect(lambda: self.draw("add_line"))
        self.area.clicked.connect(lambda: self.draw("add_polygon"))
        self.clear.clicked.connect(self.remove)
        session.active_changed.connect(self.refresh)
        session.slides_changed.connect(self.refresh)
        session.viewer.layers.events.removed.connect(self._on_layer_removed)
        self.refresh()

    @property
    def layer(self) -> Any | None:
        """The active slide's measurements, or None."""
        slide_layer = self.session.active_layer
        if slide_layer is None:
            return None
        path = facts(slide_layer)["path"]
        return next(
            (
                layer
                for layer in self.session.viewer.layers
                if facts(layer).get("kind") == "measurement" and same_path(facts(layer)["slide_path"], path)
            ),
            None,
        )

    def refresh(self) -> None:
        """Offer measuring where the pixel size is known."""
        slide = self.session.slide
        can = slide is not None and slide.mpp is not None
        self.distance.setEnabled(can)
        self.area.setEnabled(can)
        self._show(self.layer)

    def draw(self, mode: str) -> Any | None:
        """Let the person draw a line ("add_line") or an outline ("add_polygon")."""
        from napari.layers import Layer

        slide = self.session.slide
        if slide is None or slide.mpp is None:
            return None
        layer = self.layer
        if layer is None:
            layer = Layer.create(*measure_layer(slide))
            self.session.viewer.layers.append(layer)
        if layer not in self._followed:
            self._followed.append(layer)
            layer.events.data.connect(self._on_data_changed)
        self.session.viewer.layers.selection.active = layer
        layer.mode = mode
        return layer

    def remove(self) -> None:
        """Remove the active slide's measurements."""
        layer = self.layer
        if layer is not None:
            self.session.viewer.layers.remove(layer)
        self.refresh()

    def _on_data_changed(self, event: Any) -> None:
        # "adding" and "changing" come before the shape is as it will be.
        if str(getattr(event.action, "value", event.action)) not in ("adding", "changing", "removing"):
            layer = event.source
            layer.features = {"size": sizes_of(layer)}
            self._show(layer)

    def _on_layer_removed(self, event: Any) -> None:
        if event.value in self._followed:
            self._followed.remove(event.value)
            self._show(self.layer)

    def _show(self, layer: Any | None) -> None:
        sizes = list(layer.features["size"]) if layer is not None and len(layer.data) else []
        self.clear.setEnabled(layer is not None)
        self.last.show_text(f"Last: {sizes[-1]}" if sizes else "")
