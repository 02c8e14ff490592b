"""A tuning's card in a window of its own, as a pathologist reads it."""

from __future__ import annotations

from pathlib import Path

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QDialog, QTextBrowser, QVBoxLayout, QWidget

from napari_pathotune.widgets.parts import named

SIZE_PX = (720, 760)


class CardWindow(QDialog):
    """Shows Markdown with its pictures; other windows can be worked in meanwhile."""

    def __init__(self, title: str, markdown: str, folder: Path, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.setWindowTitle(f"{title}: card")
        self.text = QTextBrowser()
        named(self.text, "Card", "What the tuning is, what it learned from, how it was judged.")
        self.text.setSearchPaths([str(folder)])
        self.text.setOpenExternalLinks(True)
        self.text.setMarkdown(markdown)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(6, 6, 6, 6)
        layout.addWidget(self.text)
        self.resize(*SIZE_PX)

    @classmethod
    def of(cls, path: Path, parent: QWidget | None = None) -> CardWindow:
        """The card beside a tuning file, or one made from the file where there is none.

        Raises
        ------
        FileMissing, TuningUnreadable : there is no tuning either.
        """
        from pathotune.methods.card import model_card
        from pathotune.methods.checkpoint import Tuning, card_path, tuning_name

        beside = card_path(path)
        try:
            text = beside.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            text = model_card(Tuning.load(path))
        return cls(tuning_name(path), text, path.parent, parent)
