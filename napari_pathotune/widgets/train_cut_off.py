"""A bar that offers what a tuning came to that was cut off by a crash: its best epoch, or nothing."""

from __future__ import annotations

from html import escape
from pathlib import Path

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_pathotune import compat
from napari_pathotune.reader import results_folder
from napari_pathotune.widgets.parts import Question

KEEP, DROP = "keep", "drop"
ANSWERS = (
    ("Keep its best epoch", "Make it a tuning, as Cancel would have; it can be continued.", KEEP),
    ("Throw it away", "Delete what it came to. The regions it learned from stay.", DROP),
)


class CutOffBar(QWidget):
    """Asks about each tuning of the results folder that was cut off, one after the other."""

    kept = Signal(dict)

    def __init__(self) -> None:
        super().__init__()
        self.question = Question("A tuning that was cut off", ANSWERS)
        self._left: list[Path] = []
        self._asked: set[Path] = set()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.question)
        self.question.answered.connect(self._on_answered)

    def look(self) -> None:
        """Look what is there to ask about; what a running process trains is not."""
        from pathotune.training.session import left_over

        found = [path for path in left_over(results_folder()) if path not in self._asked]
        self._asked.update(found)
        self._left += found
        if found:
            compat.show_info("A tuning was cut off the last time: see the Tune tab.")
        self._ask()

    def _ask(self) -> None:
        if self._left and self.question.isHidden():
            name = self._left[0].name.removesuffix(".safetensors").removesuffix(".pathotune")
            self.question.ask(f"The tuning <b>{escape(name)}</b> was cut off before it was done.")

    def _on_answered(self, answer: str) -> None:
        from pathotune.errors import PathotuneError
        from pathotune.training.session import Session, session_path, take_best

        if not self._left:
            return
        path = self._left.pop(0)
        try:
            if answer == DROP:
                Session(session_path(path)).drop_best()
            elif (result := take_best(path)) is not None:
                self.kept.emit(result)
        except (PathotuneError, OSError) as error:
            compat.show_error(str(error))
        self._ask()
