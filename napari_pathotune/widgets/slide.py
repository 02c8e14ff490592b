"""The head of the dock: which slide is worked on, what it is, and its pixel size where the file is silent."""

from __future__ import annotations

from html import escape

from qtpy.QtCore import QSignalBlocker
from qtpy.QtWidgets import QCheckBox, QDoubleSpinBox, QFrame, QHBoxLayout, QSizePolicy, QVBoxLayout, QWidget

from napari_pathotune import compat, true_colours
from napari_pathotune.session import Session
from napari_pathotune.widgets.beside import BesidePanel
from napari_pathotune.widgets.parts import button, combo, named, text_label, thousands

COLOURS = (
    "Show the slide in the colours its scanner's profile states. Only the picture changes: predictions and tunings "
    "read the slide as before."
)


class SlidePanel(QWidget):
    """Choice of the open slide, its facts, and the question for a missing pixel size."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session
        self.choice = combo(
            "Slide", "The slide to work on; the others are hidden. Open slides with File ▸ Open or by dropping them."
        )
        self.facts = text_label()
        self.true_colours = QCheckBox("True colours (ICC)")
        self.question = self._make_question()
        self.beside = BesidePanel(session)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(3)
        for widget in (self.choice, self.facts, self.true_colours, self.beside, self.question):
            layout.addWidget(widget)
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Maximum)
        self.choice.activated.connect(self._on_choice_activated)
        self.true_colours.toggled.connect(self._on_true_colours_toggled)
        session.slides_changed.connect(self.refresh)
        session.active_changed.connect(self.refresh)
        self.refresh()

    def _make_question(self) -> QFrame:
        frame = QFrame()
        frame.setObjectName("pathotune_question")
        frame.setStyleSheet("#pathotune_question { border: 2px solid rgb(230, 159, 0); border-radius: 3px; }")
        text = text_label(
            "<b>How large is a pixel?</b> This file does not say. State it once (0.25 is a usual 40× scan, 0.5 a 20× "
            "one); the answer is remembered."
        )
        self.mpp = QDoubleSpinBox()
        self.mpp.setDecimals(4)
        self.mpp.setRange(0.01, 100.0)
        self.mpp.setSingleStep(0.05)
        self.mpp.setValue(0.25)
        self.mpp.setSuffix(" µm")
        named(self.mpp, "Pixel size in micrometres", "Width of one pixel at full resolution, in micrometres.")
        self.state = button("Use this size", "Remember this pixel size for the slide.")
        self.state.clicked.connect(self._on_state_clicked)
        row = QHBoxLayout()
        row.addWidget(self.mpp)
        row.addWidget(self.state)
        layout = QVBoxLayout(frame)
        layout.setContentsMargins(8, 6, 8, 6)
        layout.addWidget(text)
        layout.addLayout(row)
        return frame

    def refresh(self) -> None:
        """Show the session's slides again."""
        layers = self.session.slide_layers
        with QSignalBlocker(self.choice):
            self.choice.clear()
            for layer in layers:
                self.choice.addItem(layer.name)
            if self.session.active_layer in layers:
                self.choice.setCurrentIndex(layers.index(self.session.active_layer))
        self.choice.setVisible(bool(layers))
        slide = self.session.slide
        self._show_colours()
        if slide is None:
            self.facts.setText("No slide is open. Drop one on the canvas, or use File ▸ Open.")
            self.question.setVisible(False)
            return
        size = f"{thousands(slide.width_px0)} × {thousands(slide.height_px0)} px"
        parts = [size]
        if slide.mpp is not None:
            width_mm, height_mm = slide.width_px0 * slide.mpp.x / 1000, slide.height_px0 * slide.mpp.y / 1000
            parts = [f"{width_mm:.1f} × {height_mm:.1f} mm", f"{slide.mpp.mean:.4g} µm per pixel", size]
        if slide.objective_power:
            parts.insert(0, f"{slide.objective_power:g}×")
        # A fact is not broken over two lines.
        self.facts.setText(" · ".join(escape(part).replace(" ", "\u00a0") for part in parts))
        source = slide.mpp.source if slide.mpp is not None else "not known"
        self.facts.setToolTip(f"{slide.path}\nRead by {slide.reader}; pixel size: {source}.")
        self.question.setVisible(slide.mpp is None)

    def _show_colours(self) -> None:
        layer = self.session.active_layer
        self.true_colours.setVisible(layer is not None)
        can = layer is not None and true_colours.can_be_shown(layer)
        self.true_colours.setEnabled(can)
        with QSignalBlocker(self.true_colours):
            self.true_colours.setChecked(can and true_colours.are_shown(layer))
        says = "This file has no colour profile." if not can else COLOURS
        named(self.true_colours, "True colours by the ICC profile", says)

    def _on_true_colours_toggled(self, wanted: bool) -> None:
        from pathotune.errors import PathotuneError

        try:
            true_colours.show(self.session, wanted)
        except PathotuneError as error:
            compat.show_error(str(error))
        self._show_colours()

    def _on_choice_activated(self, index: int) -> None:
        layers = self.session.slide_layers
        if 0 <= index < len(layers):
            self.session.show_alone(layers[index])

    def _on_state_clicked(self) -> None:
        from pathotune.errors import PathotuneError

        try:
            self.session.state_mpp(self.mpp.value())
        except PathotuneError as error:
            compat.show_error(str(error))
