"""What the class names of a file mean here: one line per name, with a suggestion."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from qtpy.QtWidgets import QDialog, QDialogButtonBox, QGridLayout, QLabel, QScrollArea, QVBoxLayout, QWidget

from napari_pathotune.widgets.focus import FocusRing
from napari_pathotune.widgets.parts import combo, swatch, text_label

if TYPE_CHECKING:
    from qtpy.QtWidgets import QComboBox

    from pathotune.regions.palette import Palette

NO_CLASS = ""


class MappingDialog(QDialog):
    """One combo box per class name of a file.

    Parameters
    ----------
    names : the names the palette does not have.
    palette : the classes at hand.
    """

    def __init__(self, names: list[str], palette: Palette, parent: QWidget | None = None) -> None:
        from pathotune.regions.palette import suggest_mapping

        super().__init__(parent)
        self.setWindowTitle("Classes of the file")
        self.choices: dict[str, QComboBox] = {}
        layout = QVBoxLayout(self)
        layout.addWidget(text_label("The file has classes that are not in your palette. What are they here?"))
        inner = QWidget()
        grid = QGridLayout(inner)
        suggested = suggest_mapping(names, palette)
        for row, name in enumerate(names):
            box = combo(f"What {name} is here", "The class its regions get; a new class joins the palette.")
            box.addItem(f"New class “{name}”", name)
            for one in palette:
                box.addItem(swatch(one.color), one.name, one.name)
            box.addItem("No class: do not use", NO_CLASS)
            box.setCurrentIndex(max(0, box.findData(suggested[name])))
            grid.addWidget(QLabel(escape(name)), row, 0)
            grid.addWidget(QLabel("is"), row, 1)
            grid.addWidget(box, row, 2)
            self.choices[name] = box
        grid.setColumnStretch(2, 1)
        scroll = QScrollArea()
        scroll.setWidgetResizable(True)
        scroll.setWidget(inner)
        layout.addWidget(scroll, 1)
        buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Ok | QDialogButtonBox.StandardButton.Cancel)
        buttons.accepted.connect(self.accept)
        buttons.rejected.connect(self.reject)
        layout.addWidget(buttons)
        self.resize(420, min(520, 150 + 34 * len(names)))
        FocusRing(self)

    def mapping(self) -> dict[str, str]:
        """What was chosen: old name → name here, "" for no class; names that stay are left out."""
        chosen = {name: str(box.currentData()) for name, box in self.choices.items()}
        return {name: new for name, new in chosen.items() if new != name}


def ask_mapping(names: list[str], palette: Palette, parent: QWidget | None = None) -> dict[str, str] | None:
    """Ask what the class names of a file mean; None where the person changed her mind."""
    dialog = MappingDialog(names, palette, parent)
    accepted = dialog.exec_() == QDialog.DialogCode.Accepted
    found = dialog.mapping() if accepted else None
    dialog.deleteLater()
    return found
