"""A numbered step of the Tune tab, and the lines of a task's card."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QHBoxLayout, QLabel, QSizePolicy, QToolButton, QVBoxLayout, QWidget

from napari_pathotune.layers import DEFAULT_COLOR, rgb
from napari_pathotune.widgets.parts import classes_html, named

if TYPE_CHECKING:
    from pathotune.tasks import Task


class Step(QWidget):
    """A numbered step: a head that says where it stands, and a body that can be closed."""

    def __init__(self, number: str, title: str, tooltip: str) -> None:
        super().__init__()
        # Room that is left belongs to nobody's step.
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Maximum)
        self.head = QToolButton()
        self.head.setText(f"{number}  {title}")
        self.head.setCheckable(True)
        self.head.setChecked(True)
        self.head.setAutoRaise(True)
        self.head.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self.head.setArrowType(Qt.ArrowType.DownArrow)
        font = self.head.font()
        font.setBold(True)
        self.head.setFont(font)
        named(self.head, f"Step {number}: {title}", tooltip)
        self.summary = QLabel()
        self._inner = QWidget()
        self.body = QVBoxLayout(self._inner)
        self.body.setContentsMargins(8, 0, 0, 4)
        self.body.setSpacing(4)
        row = QHBoxLayout()
        row.addWidget(self.head)
        row.addStretch(1)
        row.addWidget(self.summary)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        layout.addLayout(row)
        layout.addWidget(self._inner)
        self.head.toggled.connect(self._on_head_toggled)

    def say(self, text: str) -> None:
        """Where the step stands, in two or three words."""
        if self.summary.text() != text:
            self.summary.setText(text)

    def _on_head_toggled(self, opened: bool) -> None:
        self.head.setArrowType(Qt.ArrowType.DownArrow if opened else Qt.ArrowType.RightArrow)
        self._inner.setVisible(opened)


def task_lines(task: Task) -> list[str]:
    """A task's card: its classes with colours, and the sentences the model reads."""
    classes = classes_html((entry.name, rgb(entry.color or DEFAULT_COLOR)) for entry in task.classes)
    sentences = [f"“{escape(sentence)}”" for sentence in task.sentences]
    facts_line = " · ".join(
        part for part in (task.organ, task.stain, f"{task.mpp:g} µm per pixel" if task.mpp else "") if part
    )
    return [classes, escape(facts_line), *sentences]
