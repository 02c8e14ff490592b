"""The dock's switch for two slides side by side: which one lies beside, and moving one against the other."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import QSignalBlocker
from qtpy.QtWidgets import QCheckBox, QHBoxLayout, QSizePolicy, QVBoxLayout, QWidget

from napari_pathotune.beside import beside_of
from napari_pathotune.session import Session
from napari_pathotune.widgets.parts import button, combo, named

SAYS = (
    "Show another open slide beside this one, with what lies on it. Both move by the same micrometres, at the same "
    "magnification."
)
APART = (
    "While this is on, each slide is moved by itself: lay the same tissue side by side, then switch it off. From then "
    "on they move together as they lie."
)


class BesidePanel(QWidget):
    """Shown where more than one slide is open."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session, self.beside = session, beside_of(session)
        self.switch = QCheckBox("Side by side")
        named(self.switch, "Two slides side by side", SAYS)
        self.choice = combo("Slide beside", "The slide to show beside the one you work on.")
        self.apart = QCheckBox("Move apart")
        named(self.apart, "Move the two slides apart", APART)
        self.again = button("Start over", "Lay the middle of one slide beside the middle of the other.")
        self.controls = QWidget()
        row = QHBoxLayout(self.controls)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.apart)
        row.addStretch(1)
        row.addWidget(self.again)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(3)
        for widget in (self.switch, self.choice, self.controls):
            layout.addWidget(widget)
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Maximum)
        self.switch.toggled.connect(self._on_switch_toggled)
        self.choice.activated.connect(self._on_choice_activated)
        self.apart.toggled.connect(self.beside.move_apart)
        self.again.clicked.connect(self._on_again_clicked)
        for signal in (session.slides_changed, session.active_changed, self.beside.changed):
            signal.connect(self.refresh)
        self.refresh()

    def refresh(self) -> None:
        """Show what is open and what can be."""
        if self.session.viewer is None:
            return
        is_open, why_not = self.beside.is_open, self.beside.why_not
        self._candidates: list[Any] = self.beside.candidates
        self.setVisible(len(self.session.slide_layers) > 1)
        self.switch.setEnabled(is_open or not why_not)
        named(self.switch, "Two slides side by side", why_not or SAYS)
        with QSignalBlocker(self.switch), QSignalBlocker(self.apart), QSignalBlocker(self.choice):
            self.switch.setChecked(is_open)
            self.apart.setChecked(self.beside.is_apart)
            self.choice.clear()
            for layer in self._candidates:
                self.choice.addItem(layer.name)
            if self.beside.layer in self._candidates:
                self.choice.setCurrentIndex(self._candidates.index(self.beside.layer))
        self.choice.setVisible(is_open)
        self.controls.setVisible(is_open)

    def _on_switch_toggled(self, wanted: bool) -> None:
        if wanted != self.beside.is_open:
            self.beside.toggle()
        self.refresh()

    def _on_again_clicked(self) -> None:
        self.beside.start_over()

    def _on_choice_activated(self, index: int) -> None:
        if 0 <= index < len(self._candidates):
            self.beside.open(self._candidates[index])
