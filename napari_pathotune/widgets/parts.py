"""Small pieces several panels are made of: a named combo box, a card of facts, a fold, a colour swatch."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from html import escape
from textwrap import wrap
from typing import Any

from qtpy.QtCore import QBuffer, QIODevice, QSize, Qt, Signal
from qtpy.QtGui import QColor, QIcon, QPainter, QPalette, QPixmap
from qtpy.QtWidgets import (
    QComboBox,
    QFrame,
    QHBoxLayout,
    QLabel,
    QLayout,
    QLineEdit,
    QPushButton,
    QSizePolicy,
    QStyle,
    QStyleOptionButton,
    QStyleOptionComboBox,
    QStylePainter,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

SWATCH_PX = 14
TOOLTIP_LETTERS = 90
# Readable on dark and light themes alike, unlike Qt's own dark blue.
LINK_COLOR = "#4a90d9"


def named(widget: Any, name: str, tooltip: str) -> Any:
    """Give a control its accessible name and its tooltip, and return it."""
    widget.setAccessibleName(name)
    widget.setAccessibleDescription(tooltip)
    widget.setToolTip(folded(tooltip))
    return widget


def folded(text: str) -> str:
    """A text in lines that fit on a screen: Qt breaks plain tooltips nowhere by itself."""
    return "\n".join(wrap(text, TOOLTIP_LETTERS)) if len(text) > TOOLTIP_LETTERS and "\n" not in text else text


class WrappedLabel(QLabel):
    """A label that wraps, takes any width, and is exactly as tall as its text at that width.

    Qt's own height-for-width is lost in tabs, frames and scroll areas, which leaves gaps or cuts lines off.
    """

    def __init__(self, text: str = "") -> None:
        super().__init__()
        self.setWordWrap(True)
        self.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self.setText(text)

    def setText(self, text: str) -> None:
        """Qt: show this text."""
        super().setText(text)
        self._fit()

    def hasHeightForWidth(self) -> bool:
        """Qt: no, the height is set here."""
        return False

    def resizeEvent(self, event: Any) -> None:
        """Qt: the width may have changed."""
        super().resizeEvent(event)
        self._fit()

    def _fit(self) -> None:
        height = self.heightForWidth(max(self.width(), 40))
        if height > 0 and height != self.height():
            self.setFixedHeight(height)


class SteadyLine(QLineEdit):
    """A line of text that changes often: unlike a label's, its change lays nothing out again (30 ms in a dock)."""

    def __init__(self, tooltip: str) -> None:
        super().__init__()
        self.setReadOnly(True)
        self.setFrame(False)
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.setStyleSheet("QLineEdit { background: transparent; border: none; padding: 0px; }")
        named(self, tooltip.partition(":")[0], tooltip)

    def show_text(self, text: str, *shorter: str) -> None:
        """Show this text from its beginning, or the first of the shorter ones that there is room for."""
        room, measure = self.contentsRect().width() - 6, self.fontMetrics().horizontalAdvance
        for one in (text, *shorter):
            if measure(one) <= room or one == (text, *shorter)[-1]:
                text = one
                break
        if text != self.text():
            self.setText(text)
            self.setCursorPosition(0)


def text_label(text: str = "", tooltip: str = "") -> WrappedLabel:
    """A label that wraps and whose text can be copied."""
    label = WrappedLabel(text)
    label.setToolTip(tooltip)
    return label


def heading(text: str) -> QLabel:
    """The title of a group of controls."""
    label = QLabel(f"<b>{escape(text)}</b>")
    label.setContentsMargins(0, 6, 0, 0)
    return label


class ElidedCombo(QComboBox):
    """A combo box that ends a text it has no room for with …, and shows all of it as its tooltip."""

    def paintEvent(self, event: Any) -> None:
        """Qt: paint, with the text cut to what fits."""
        painter = QStylePainter(self)
        option = QStyleOptionComboBox()
        self.initStyleOption(option)
        style = QStyle.ComplexControl.CC_ComboBox
        field = self.style().subControlRect(style, option, QStyle.SubControl.SC_ComboBoxEditField, self)
        room = min(field.width(), self.width() - 30) - 8
        option.currentText = self.fontMetrics().elidedText(option.currentText, Qt.TextElideMode.ElideMiddle, room)
        painter.drawComplexControl(style, option)
        painter.drawControl(QStyle.ControlElement.CE_ComboBoxLabel, option)


def combo(name: str, tooltip: str) -> QComboBox:
    """A combo box that shrinks with the dock instead of widening it."""
    box = ElidedCombo()
    box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    box.setMinimumContentsLength(12)
    box.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
    named(box, name, tooltip)
    box.currentTextChanged.connect(lambda text: box.setToolTip(f"{text}\n\n{tooltip}" if text else tooltip))
    return box


class ElidedButton(QPushButton):
    """A push button that takes the width of its text where there is room, and ends it with … where there is not."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Fixed)

    def minimumSizeHint(self) -> QSize:
        """Qt: two letters wide, so that a row of buttons never widens the dock."""
        hint: QSize = super().sizeHint()
        room = 2 * SWATCH_PX + self.fontMetrics().horizontalAdvance("mm") + (0 if self.icon().isNull() else SWATCH_PX)
        return QSize(min(hint.width(), room), hint.height())

    def paintEvent(self, event: Any) -> None:
        """Qt: paint, with the text cut to what fits."""
        painter = QStylePainter(self)
        option = QStyleOptionButton()
        self.initStyleOption(option)
        room = self.style().subElementRect(QStyle.SubElement.SE_PushButtonContents, option, self).width()
        if not option.icon.isNull():
            room -= option.iconSize.width() + 4
        option.text = self.fontMetrics().elidedText(option.text, Qt.TextElideMode.ElideRight, room)
        painter.drawControl(QStyle.ControlElement.CE_PushButton, option)


def button(text: str, tooltip: str, name: str = "") -> QPushButton:
    """A push button with tooltip and accessible name, which shrinks with the dock."""
    made = ElidedButton(text)
    named(made, name or text.rstrip("…"), tooltip)
    return made


class Card(QFrame):
    """A framed piece of text that says what something is."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.setObjectName("pathotune_card")
        # A grey that is seen on dark and light themes; napari's own style draws no frame.
        self.setStyleSheet("#pathotune_card { border: 1px solid rgba(128, 128, 128, 140); border-radius: 3px; }")
        self.setAccessibleName(name)
        self._label = text_label()
        self._label.setTextFormat(Qt.TextFormat.RichText)
        self._label.setOpenExternalLinks(True)
        self._label.setTextInteractionFlags(
            Qt.TextInteractionFlag.TextSelectableByMouse | Qt.TextInteractionFlag.LinksAccessibleByMouse
        )
        layout = QVBoxLayout(self)
        layout.setContentsMargins(8, 6, 8, 6)
        layout.addWidget(self._label)

    def show_lines(self, lines: Iterable[str]) -> None:
        """Show lines of rich text; a card with none hides."""
        html = "<br>".join(line for line in lines if line).replace("</table><br>", "</table>")
        self._label.setText(html)
        self.setVisible(bool(html))

    @property
    def text(self) -> str:
        """The text shown, with its markup."""
        return str(self._label.text())


class Question(QFrame):
    """A question in the place it arises, with its answers as buttons; it hides once it is answered.

    Parameters
    ----------
    name : what it is about, for screen readers.
    answers : text, tooltip and value of each button.
    """

    answered = Signal(str)

    def __init__(self, name: str, answers: Iterable[tuple[str, str, str]]) -> None:
        super().__init__()
        self.setObjectName("pathotune_question")
        self.setStyleSheet("#pathotune_question { border: 2px solid rgb(230, 159, 0); border-radius: 3px; }")
        self.setAccessibleName(name)
        self.text = text_label()
        # What is asked is HTML, with names escaped; left to itself, Qt takes a sentence without a tag for plain text.
        self.text.setTextFormat(Qt.TextFormat.RichText)
        self.buttons: dict[str, QPushButton] = {}
        row = QHBoxLayout()
        for text, tooltip, value in answers:
            self.buttons[value] = button(text, tooltip)
            self.buttons[value].clicked.connect(lambda _=False, value=value: self._on_answer_clicked(value))
            row.addWidget(self.buttons[value])
        layout = QVBoxLayout(self)
        layout.setContentsMargins(8, 6, 8, 6)
        layout.addWidget(self.text)
        layout.addLayout(row)
        self.setVisible(False)

    def ask(self, text: str, details: str = "") -> None:
        """Put the question, in HTML; the answer comes by the signal `answered`."""
        self.text.setText(text)
        self.text.setToolTip(details)
        self.setVisible(True)

    def _on_answer_clicked(self, value: str) -> None:
        self.setVisible(False)
        self.answered.emit(value)


class Fold(QWidget):
    """A titled part that is folded away until it is asked for."""

    def __init__(self, title: str, tooltip: str) -> None:
        super().__init__()
        self.head = QToolButton()
        self.head.setText(title)
        self.head.setCheckable(True)
        self.head.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self.head.setArrowType(Qt.ArrowType.RightArrow)
        self.head.setAutoRaise(True)
        named(self.head, title, tooltip)
        self._body = QWidget()
        self._body_layout = QVBoxLayout(self._body)
        self._body_layout.setContentsMargins(8, 0, 0, 0)
        self._body.setVisible(False)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        layout.addWidget(self.head)
        layout.addWidget(self._body)
        self.head.toggled.connect(self._on_head_toggled)

    def put(self, widget: QWidget | None) -> None:
        """Replace what is folded away."""
        clear(self._body_layout)
        if widget is not None:
            self._body_layout.addWidget(widget)

    def _on_head_toggled(self, opened: bool) -> None:
        self.head.setArrowType(Qt.ArrowType.DownArrow if opened else Qt.ArrowType.RightArrow)
        self._body.setVisible(opened)


def clear(layout: QLayout) -> None:
    """Take everything out of a layout."""
    while layout.count():
        item = layout.takeAt(0)
        widget = item.widget()
        if widget is not None:
            widget.hide()
            widget.deleteLater()


def swatch_pixmap(color: tuple[int, int, int]) -> QPixmap:
    """A small square of a class's colour, with a grey edge: a dark one is seen on a dark ground by it alone."""
    pixmap = QPixmap(QSize(SWATCH_PX, SWATCH_PX))
    pixmap.fill(QColor(*color))
    painter = QPainter(pixmap)
    painter.setPen(QColor(128, 128, 128))
    painter.drawRect(0, 0, SWATCH_PX - 1, SWATCH_PX - 1)
    painter.end()
    return pixmap


def swatch(color: tuple[int, int, int]) -> QIcon:
    """The square as an icon."""
    return QIcon(swatch_pixmap(color))


def checkered(light: tuple[int, int, int], dark: tuple[int, int, int]) -> QIcon:
    """A small square of two colours that take turns, as cells do that belong to no class."""
    pixmap = QPixmap(QSize(SWATCH_PX, SWATCH_PX))
    pixmap.fill(QColor(*light))
    painter = QPainter(pixmap)
    half = SWATCH_PX // 2
    for corner in (0, half):
        painter.fillRect(half - corner, corner, half, half, QColor(*dark))
    painter.setPen(QColor(128, 128, 128))
    painter.drawRect(0, 0, SWATCH_PX - 1, SWATCH_PX - 1)
    painter.end()
    return QIcon(pixmap)


def classes_html(classes: Iterable[tuple[str, tuple[int, int, int]]]) -> str:
    """Classes (name, colour) in two columns of rich text, each with its square."""
    cells = [f"<td>{_swatch_html(color)}&nbsp;{escape(name)}&nbsp;&nbsp;</td>" for name, color in classes]
    rows = ("".join(cells[at : at + 2]) for at in range(0, len(cells), 2))
    return f"<table>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>" if cells else ""


@cache
def _swatch_html(color: tuple[int, int, int]) -> str:
    content = QBuffer()
    content.open(QIODevice.OpenModeFlag.WriteOnly)
    swatch_pixmap(color).save(content, "PNG")
    return f'<img src="data:image/png;base64,{bytes(content.data().toBase64()).decode("ascii")}">'


def chart_painter(widget: QWidget) -> tuple[QPainter, QColor, QColor]:
    """A painter for a small chart in a widget, the theme's ink and a faint one for lines behind it."""
    painter = QPainter(widget)
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    ink = widget.palette().color(QPalette.ColorRole.WindowText)
    faint = QColor(ink)
    faint.setAlpha(70)
    font = painter.font()
    font.setPixelSize(10)
    painter.setFont(font)
    return painter, ink, faint


def short(name: str, letters: int = 9) -> str:
    """A name that fits under a picture or beside a row."""
    return name if len(name) <= letters else name[: letters - 1] + "…"


def thousands(number: float) -> str:
    """A whole number with narrow spaces between thousands."""
    return f"{number:,.0f}".replace(",", "\u202f")
