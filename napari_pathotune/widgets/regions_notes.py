"""A region's own name, and notes about it."""

from __future__ import annotations

from qtpy.QtWidgets import QDialog, QDialogButtonBox, QFormLayout, QLineEdit, QTextEdit, QVBoxLayout, QWidget

from napari_pathotune.widgets.focus import FocusRing
from napari_pathotune.widgets.parts import named


class DescriptionDialog(QDialog):
    """One line for the name, several for the notes.

    Parameters
    ----------
    name, notes : what there is; "" for none.
    """

    def __init__(self, name: str, notes: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setWindowTitle("Name and notes")
        self.name, self.notes = QLineEdit(name), QTextEdit()
        self.notes.setAcceptRichText(False)
        self.notes.setPlainText(notes)
        named(self.name, "Name of the region", "What QuPath shows as the annotation's name.")
        named(self.notes, "Notes on the region", "What QuPath shows as the annotation's description.")
        self.notes.setTabChangesFocus(True)
        fields = QFormLayout()
        fields.addRow("Name", self.name)
        fields.addRow("Notes", self.notes)
        buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Ok | QDialogButtonBox.StandardButton.Cancel)
        buttons.accepted.connect(self.accept)
        buttons.rejected.connect(self.reject)
        layout = QVBoxLayout(self)
        layout.addLayout(fields)
        layout.addWidget(buttons)
        self.resize(420, 240)
        FocusRing(self)

    def description(self) -> tuple[str, str]:
        """Name and notes as they stand now."""
        return self.name.text(), self.notes.toPlainText()


def ask_description(name: str, notes: str, parent: QWidget | None = None) -> tuple[str, str] | None:
    """Ask for a region's name and notes; None where the person changed her mind."""
    dialog = DescriptionDialog(name, notes, parent)
    accepted = dialog.exec_() == QDialog.DialogCode.Accepted
    found = dialog.description() if accepted else None
    dialog.deleteLater()
    return found
