"""What a tuning came to: scores on held-out regions, who is taken for whom, and the tiles it was most wrong on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QBrush, QColor
from qtpy.QtWidgets import (
    QAbstractButton,
    QAbstractItemView,
    QHeaderView,
    QLabel,
    QListWidgetItem,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_pathotune.jobs import word_of
from napari_pathotune.tile_pictures import TILE_PX
from napari_pathotune.widgets.calibration import CalibrationCurve
from napari_pathotune.widgets.parts import heading, named, short, text_label
from napari_pathotune.widgets.pictures import PictureList

MOST_TILES = 24
MOST_NAMED_COLUMNS = 3


class ResultPanel(QWidget):
    """Balanced accuracy, a clickable confusion matrix, scores per class, and pictures of the worst mistakes."""

    place_chosen = Signal(str, object)

    def __init__(self) -> None:
        super().__init__()
        self.result: dict[str, Any] = {}
        self.headline = text_label()
        self.confusion = QTableWidget()
        named(self.confusion, "Who is taken for whom", "Rows: what was drawn. Columns: what the tuning says.")
        self.scores = QTableWidget()
        named(self.scores, "Scores per class", "On regions that were held out, with 95 % confidence intervals.")
        self.calibration_title = heading("Does it know when it is right?")
        self.calibration = CalibrationCurve()
        self.wrong_title = QLabel()
        self.wrong = PictureList(TILE_PX, lines=2)
        named(self.wrong, "Most wrong tiles", "The surest mistakes on held-out regions. Click one to go there.")
        # Counts of two digits have room in many narrow columns only without the theme's padding.
        self.confusion.setStyleSheet("QTableView::item { padding: 0px; }")
        self.confusion.setTextElideMode(Qt.TextElideMode.ElideNone)
        for table in (self.confusion, self.scores):
            table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
            for corner in table.findChildren(QAbstractButton):
                named(corner, "Select all", "Select all cells.")
            table.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAsNeeded)
        self._cell: tuple[str, str] | None = None
        self._lay_out()
        self.confusion.cellClicked.connect(self._on_cell_clicked)
        self.wrong.itemClicked.connect(self._on_tile_clicked)
        self.wrong.itemActivated.connect(self._on_tile_clicked)

    def _lay_out(self) -> None:
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        layout.addWidget(self.headline)
        layout.addWidget(heading("Who is taken for whom"))
        layout.addWidget(self.confusion)
        layout.addWidget(heading("Each class"))
        layout.addWidget(self.scores)
        layout.addWidget(self.calibration_title)
        layout.addWidget(self.calibration)
        layout.addWidget(self.wrong_title)
        layout.addWidget(self.wrong)

    def show_result(self, result: dict[str, Any], colors: dict[str, tuple[int, int, int]]) -> None:
        """Show the JSON document a tuning ends with."""
        self.result, self._cell = result, None
        scores = result.get("val") or {}
        names = [str(name) for name in result.get("classes", ())]
        self.headline.setText(headline(result))
        self._fill_confusion(scores.get("confusion") or [], names, colors)
        self._fill_scores(scores.get("per_class") or {}, names, colors)
        self.calibration.show_scores(scores)
        self.calibration_title.setVisible(bool(self.calibration.columns))
        self._fill_wrong()

    def close_reading(self) -> None:
        """Stop reading pictures."""
        self.wrong.close_reading()

    def _fill_confusion(self, table: list[list[int]], names: list[str], colors: dict[str, Any]) -> None:
        self.confusion.setRowCount(len(table))
        self.confusion.setColumnCount(len(table))
        # More than a few names have no room above columns: the rows' numbers stand for them.
        by_number = len(names) > MOST_NAMED_COLUMNS
        numbers = [f"{number} " if by_number else "" for number in range(1, len(names) + 1)]
        self.confusion.setHorizontalHeaderLabels(
            list(map(str.strip, numbers)) if by_number else [short(name) for name in names]
        )
        self.confusion.setVerticalHeaderLabels(
            [number + short(name, 10 if number else 14) for number, name in zip(numbers, names, strict=True)]
        )
        for column, name in enumerate(names[: len(table)]):
            self.confusion.horizontalHeaderItem(column).setToolTip(f"Taken for {name}")
        for row, counts in enumerate(table):
            total = sum(counts) or 1
            for column, count in enumerate(counts):
                item = QTableWidgetItem(str(count))
                item.setTextAlignment(int(Qt.AlignmentFlag.AlignCenter))
                is_right = row == column
                shade = QColor(0, 158, 115) if is_right else QColor(213, 94, 0)
                shade.setAlpha(int(170 * count / total))
                item.setBackground(QBrush(shade))
                said = "rightly" if is_right else f"as {names[column]}"
                item.setToolTip(
                    f"{count} of {total} tiles drawn as {names[row]} were taken {said} ({count / total:.0%})."
                )
                self.confusion.setItem(row, column, item)
        self.confusion.horizontalHeader().setMinimumSectionSize(18)
        self.confusion.horizontalHeader().setSectionResizeMode(QHeaderView.ResizeMode.Stretch)
        _fit_height(self.confusion)

    def _fill_scores(self, per_class: dict[str, Any], names: list[str], colors: dict[str, Any]) -> None:
        heads = ("found", "right", "F1", "tiles")
        tips = ("Recall: part of its tiles that were found", "Precision: part of what was called so that is so", "", "")
        self.scores.setRowCount(len(names))
        self.scores.setColumnCount(len(heads))
        self.scores.setHorizontalHeaderLabels(heads)
        self.scores.setVerticalHeaderLabels([short(name, 14) for name in names])
        counts = self.result.get("validation_tiles_per_class") or {}
        for row, name in enumerate(names):
            found = per_class.get(name) or {}
            tiles = found.get("n", counts.get(name, ""))
            for column, key in enumerate(("recall", "precision", "f1")):
                text, tip = score_text(found, key)
                item = QTableWidgetItem(text)
                item.setTextAlignment(int(Qt.AlignmentFlag.AlignCenter))
                item.setToolTip(f"{tips[column]} {tip}".strip())
                self.scores.setItem(row, column, item)
            item = QTableWidgetItem(str(tiles))
            item.setTextAlignment(int(Qt.AlignmentFlag.AlignCenter))
            self.scores.setItem(row, 3, item)
        self.scores.horizontalHeader().setSectionResizeMode(QHeaderView.ResizeMode.Stretch)
        _fit_height(self.scores)

    def _fill_wrong(self) -> None:
        wrong = [
            one
            for one in self.result.get("most_wrong") or ()
            if self._cell is None or (one["true"], one["predicted"]) == self._cell
        ][:MOST_TILES]
        which = "" if self._cell is None else f": {self._cell[0]} taken for {self._cell[1]}"
        self.wrong_title.setText(f"<b>Most wrong tiles{which}</b>" if wrong or which else "")
        self.wrong_title.setVisible(bool(wrong or which))
        self.wrong.setVisible(bool(wrong))
        self.wrong.empty()
        for one in wrong:
            item = self.wrong.add_tile(
                f"{short(one['true'], 14)}\n→ {short(one['predicted'], 12)}",
                one.get("slide") or "",
                tuple(one.get("box_px0") or ()),
            )
            item.setToolTip(
                f"Drawn as {one['true']}, taken for {one['predicted']} ({one['probability']:.0%} sure).\n"
                "Click to go there."
            )
            item.setData(Qt.ItemDataRole.UserRole, one)

    def _on_cell_clicked(self, row: int, column: int) -> None:
        """Only the mistakes of one cell; the same cell again, or one on the diagonal, shows all."""
        names = [str(name) for name in self.result.get("classes", ())]
        cell = (names[row], names[column])
        self._cell = None if row == column or cell == self._cell else cell
        self._fill_wrong()

    def _on_tile_clicked(self, item: QListWidgetItem) -> None:
        one = item.data(Qt.ItemDataRole.UserRole)
        if one and one.get("box_px0"):
            self.place_chosen.emit(str(one.get("slide", "")), tuple(one["box_px0"]))


def headline(result: dict[str, Any]) -> str:
    """The result in two sentences, with its confidence interval where there is one."""
    scores = result.get("val") or {}
    accuracy = scores.get("balanced_accuracy")
    if not isinstance(accuracy, int | float):
        return "The tuning is saved; there are no scores on held-out regions."
    cancelled = ""
    if result.get("status") == "cancelled":
        epochs, best = len(result.get("epochs") or ()), result.get("best_epoch")
        word = word_of(result)
        cancelled = f"Cancelled after {word} {epochs}; the best was {word} {best}. " if best else "Cancelled. "
    interval = (scores.get("ci95") or {}).get("balanced_accuracy")
    between = f" (95 % between {interval[0]:.2f} and {interval[1]:.2f})" if interval and None not in interval else ""
    parts = [f"{cancelled}<b>Balanced accuracy {accuracy:.2f}</b>{between} on regions that were held out."]
    ece = scores.get("ece")
    if isinstance(ece, int | float):
        parts.append(f"Its probabilities are off by {ece:.0%} on average.")
    if result.get("out"):
        parts.append(f"Saved as {Path(str(result['out'])).name}.")
    return " ".join(parts)


def score_text(found: dict[str, Any], key: str) -> tuple[str, str]:
    """A score with two digits, and its confidence interval in words."""
    value = found.get(key)
    if not isinstance(value, int | float):
        return "–", ""
    interval = (found.get("ci95") or {}).get(key)
    if not isinstance(interval, list | tuple) or None in interval:
        return f"{value:.2f}", ""
    return f"{value:.2f}", f"(95 % between {interval[0]:.2f} and {interval[1]:.2f})"


def _fit_height(table: QTableWidget) -> None:
    table.resizeRowsToContents()
    rows = sum(table.rowHeight(row) for row in range(table.rowCount()))
    table.setFixedHeight(min(rows + table.horizontalHeader().sizeHint().height() + 6, 300))
