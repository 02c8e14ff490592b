"""The class palette as a table: colour and number key, name, regions, mm² and usable tiles of each class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from qtpy.QtCore import QPoint, QSignalBlocker, QSize, Qt, Signal
from qtpy.QtGui import QColor, QIcon, QPainter, QPixmap
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QTreeWidget, QTreeWidgetItem

from napari_pathotune.widgets.parts import named, thousands

NAME = 1
MOST_ROWS = 12
ROW_PX = 22
HEADS = ("", "Class", "Regions", "mm²", "Tiles")
TIPS = (
    "Colour of the class, and the number key that chooses it",
    "Double-click to rename",
    "How many regions are drawn",
    "Area of the regions; where two overlap it counts twice",
    "How many tiles the regions can give for training and validation",
)


@dataclass(frozen=True)
class Row:
    """What one row shows; without a name it stands for regions without a class."""

    name: str
    color: tuple[int, int, int] | None
    regions: int
    mm2: float | None
    tiles: int | None


class ClassTable(QTreeWidget):
    """The classes; a click chooses one, a double-click renames it."""

    class_chosen = Signal(str, bool)
    class_renamed = Signal(str, str)
    menu_asked = Signal(QPoint)

    def __init__(self) -> None:
        super().__init__()
        named(self, "Classes", "The classes to draw. Keys 1 to 9 choose one while you draw, 0 none.")
        self.setColumnCount(len(HEADS))
        self.setHeaderLabels(HEADS)
        self.setRootIsDecorated(False)
        self.setUniformRowHeights(True)
        self.setAllColumnsShowFocus(True)
        self.setEditTriggers(QAbstractItemView.EditTrigger.DoubleClicked | QAbstractItemView.EditTrigger.EditKeyPressed)
        self.setContextMenuPolicy(Qt.ContextMenuPolicy.CustomContextMenu)
        self.setIconSize(QSize(26, 16))
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        for column, tip in enumerate(TIPS):
            self.headerItem().setToolTip(column, tip)
            if column > NAME:
                self.headerItem().setTextAlignment(column, int(Qt.AlignmentFlag.AlignRight))
        header = self.header()
        header.setStretchLastSection(False)
        header.setMinimumSectionSize(20)
        for column in range(len(HEADS)):
            stretch = QHeaderView.ResizeMode.Stretch
            header.setSectionResizeMode(column, stretch if column == NAME else QHeaderView.ResizeMode.ResizeToContents)
        self._rows: list[Row] = []
        self._fit(0)
        self.currentItemChanged.connect(self._on_current_changed)
        self.itemClicked.connect(self._on_clicked)
        self.itemChanged.connect(self._on_item_changed)
        self.customContextMenuRequested.connect(lambda place: self.menu_asked.emit(self.viewport().mapToGlobal(place)))

    def show_rows(self, rows: list[Row], chosen: str) -> None:
        """Show these classes, with one chosen."""
        if self.state() == QAbstractItemView.State.EditingState:
            return
        with QSignalBlocker(self):
            if [row.name for row in rows] != [row.name for row in self._rows]:
                self.clear()
                self.addTopLevelItems([QTreeWidgetItem() for _ in rows])
                self._fit(len(rows))
            for number, row in enumerate(rows):
                self._fill(self.topLevelItem(number), row, number, row.name == chosen)
                if row.name == chosen and row.name:
                    self.setCurrentItem(self.topLevelItem(number))
            self._rows = list(rows)
            if not chosen:
                self.setCurrentItem(None)

    def _fill(self, item: QTreeWidgetItem, row: Row, number: int, is_chosen: bool) -> None:
        item.setIcon(0, key_swatch(row.color, str(number + 1) if row.name and number < 9 else ""))
        item.setSizeHint(0, QSize(26, ROW_PX))
        item.setText(NAME, row.name or "no class")
        font = item.font(NAME)
        font.setBold(is_chosen)
        font.setItalic(not row.name)
        item.setFont(NAME, font)
        flags = Qt.ItemFlag.ItemIsEnabled | Qt.ItemFlag.ItemIsSelectable
        item.setFlags(flags | Qt.ItemFlag.ItemIsEditable if row.name else flags)
        tiles = "" if row.tiles is None or row.name.endswith("*") else thousands(row.tiles)
        texts = (thousands(row.regions), "" if row.mm2 is None else mm2_text(row.mm2), tiles)
        for column, text in enumerate(texts, NAME + 1):
            item.setText(column, text)
            item.setTextAlignment(column, int(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter))
        tip = "" if row.name else "These regions have no class and are not used: select them and choose a class."
        if row.name.endswith("*"):
            tip = "Names that end in * are not trained on; Ignore* also takes its area away from other regions."
        key = f"Key {number + 1}. " if number < 9 else ""
        item.setToolTip(NAME, tip or f"{row.name}. {key}Double-click to rename.")
        spoken = f"{row.name or 'no class'}, {row.regions} regions" + (f", {tiles} tiles" if tiles else "")
        item.setData(NAME, Qt.ItemDataRole.AccessibleTextRole, spoken)

    def _fit(self, rows: int) -> None:
        """As tall as its rows, up to a dozen; then it scrolls."""
        self.setFixedHeight(self.header().sizeHint().height() + max(1, min(rows, MOST_ROWS)) * ROW_PX + 6)

    def edit_name(self, name: str) -> None:
        """Let the person type another name."""
        for number, row in enumerate(self._rows):
            if row.name == name:
                self.editItem(self.topLevelItem(number), NAME)

    def _row_of(self, item: QTreeWidgetItem | None) -> Row | None:
        number = -1 if item is None else self.indexOfTopLevelItem(item)
        return self._rows[number] if 0 <= number < len(self._rows) else None

    def _on_current_changed(self, item: QTreeWidgetItem | None, _: Any) -> None:
        # Walking through the list with the arrow keys gives no selected region another class; a click does.
        self._choose(item, False)

    def _on_clicked(self, item: QTreeWidgetItem, _: int) -> None:
        self._choose(item, True)

    def _choose(self, item: QTreeWidgetItem | None, assign: bool) -> None:
        row = self._row_of(item)
        if row is not None and row.name:
            self.class_chosen.emit(row.name, assign)

    def _on_item_changed(self, item: QTreeWidgetItem, column: int) -> None:
        row = self._row_of(item)
        if column == NAME and row is not None and row.name and item.text(NAME) != row.name:
            self.class_renamed.emit(row.name, item.text(NAME))


def key_swatch(color: tuple[int, int, int] | None, key: str) -> QIcon:
    """A square of the class's colour with its number key in it, readable on light and dark colours."""
    pixmap = QPixmap(26, 16)
    pixmap.fill(QColor(0, 0, 0, 0))
    painter = QPainter(pixmap)
    painter.setPen(QColor(128, 128, 128))
    if color is not None:
        painter.setBrush(QColor(*color))
    painter.drawRoundedRect(0, 0, 25, 15, 3, 3)
    if key:
        red, green, blue = color or (255, 255, 255)
        is_light = 0.299 * red + 0.587 * green + 0.114 * blue > 140
        painter.setPen(QColor(0, 0, 0) if is_light else QColor(255, 255, 255))
        font = painter.font()
        font.setPixelSize(12)
        font.setBold(True)
        painter.setFont(font)
        painter.drawText(pixmap.rect(), int(Qt.AlignmentFlag.AlignCenter), key)
    painter.end()
    icon = QIcon(pixmap)
    # Qt tints the picture of a chosen row, which would be another class's colour.
    icon.addPixmap(pixmap, QIcon.Mode.Selected)
    return icon


def mm2_text(mm2: float) -> str:
    """An area with three digits that mean something."""
    if mm2 >= 100:
        return thousands(mm2)
    if mm2 >= 10:
        return f"{mm2:.1f}"
    return f"{mm2:.2f}" if mm2 >= 0.1 or mm2 == 0 else f"{mm2:.3f}" if mm2 >= 0.01 else f"{mm2:.4f}"
