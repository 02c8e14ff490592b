"""A table of what was predicted: mm² and percent of each class on the slide and inside each drawn region."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtGui import QGuiApplication, QKeySequence
from qtpy.QtWidgets import (
    QAbstractButton,
    QAbstractItemView,
    QFileDialog,
    QHBoxLayout,
    QHeaderView,
    QShortcut,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_pathotune import compat
from napari_pathotune.areas import areas_of, rows_of, table_text
from napari_pathotune.doubts import doubts_of
from napari_pathotune.layers import facts, rgb
from napari_pathotune.session import Session, same_path
from napari_pathotune.widgets.parts import button, named, swatch, text_label

# A table of many thousand rows would hold the window up; the file and the clipboard hold all of them.
MOST_PLACES = 100


class AreaPanel(QWidget):
    """Rows of class, mm² and percent under the name of each place; copied or saved whole."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session
        self._areas: list[Any] = []
        self.table = QTableWidget(0, 3)
        named(self.table, "Areas per class", "Area of each class on the slide and inside each drawn region.")
        named(self.table.findChild(QAbstractButton), "Select the whole table", "Select all rows.")
        self.table.setHorizontalHeaderLabels(["Class", "mm²", "%"])
        self.table.verticalHeader().setVisible(False)
        self.table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.table.setMinimumHeight(220)
        header = self.table.horizontalHeader()
        header.setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
        for column in (1, 2):
            header.setSectionResizeMode(column, QHeaderView.ResizeMode.ResizeToContents)
        self.again = button("Count again", "Count what is predicted and drawn now.", "Count the areas again")
        self.copy = button("Copy", "Copy the whole table for a spreadsheet (Ctrl+C).", "Copy the areas")
        self.save_as = button("Save…", "Save the whole table as a CSV file.", "Save the areas")
        self.hint = text_label()
        self._lay_out()
        self.again.clicked.connect(self.refresh)
        self.copy.clicked.connect(self.copy_table)
        self.save_as.clicked.connect(self._on_save_clicked)
        QShortcut(QKeySequence(QKeySequence.StandardKey.Copy), self.table, self.copy_table)
        for signal in (session.results_changed, session.active_changed, session.stage_changed):
            signal.connect(self._on_changed)
        doubts_of(session).changed.connect(self._on_changed)
        self.refresh()

    def _lay_out(self) -> None:
        row = QHBoxLayout()
        for widget in (self.again, self.copy, self.save_as):
            row.addWidget(widget)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(4, 6, 4, 4)
        layout.setSpacing(4)
        layout.addWidget(self.hint)
        layout.addWidget(self.table, 1)
        layout.addLayout(row)

    def showEvent(self, event: Any) -> None:
        """Qt: the page comes to the front; it counts what there is now."""
        super().showEvent(event)
        self.refresh()

    def refresh(self) -> None:
        """Count again and fill the table."""
        result, slide = self.session.result, self.session.slide
        self._areas = []
        colors: dict[str, Any] = {}
        if result is not None and slide is not None and slide.mpp is not None and not result.is_empty:
            colors = {name: rgb(result.grid.colors[index]) for index, name in enumerate(result.grid.class_names)}
            self._areas = areas_of(result.grid, (slide.mpp.x, slide.mpp.y), self.regions())
        self._fill(colors)
        for control in (self.copy, self.save_as):
            control.setEnabled(bool(self._areas))
        self.hint.setText(self._hint())

    def regions(self) -> list[Any]:
        """What is drawn on the active slide."""
        from napari_pathotune.drawings import regions_from_layer

        slide_layer = self.session.active_layer
        if slide_layer is None:
            return []
        path, found = facts(slide_layer)["path"], []
        for layer in self.session.drawing_layers():
            drawn_on = facts(layer).get("slide_path", "")
            if not drawn_on or same_path(drawn_on, path):
                found += regions_from_layer(layer, slide_layer)
        return found

    def copy_table(self) -> None:
        """Put the whole table on the clipboard, tabs between its columns."""
        if self._areas:
            QGuiApplication.clipboard().setText(table_text(self._areas, self._comments(), "\t"))

    def save(self, path: Path) -> Path | None:
        """Write the whole table; None where that failed (the person is told)."""
        try:
            path.write_text(table_text(self._areas, self._comments()), encoding="utf-8")
        except OSError as error:
            compat.show_error(f"{path.name} could not be written ({error.strerror or error}). Choose another folder.")
            return None
        return path

    def _comments(self) -> list[str]:
        slide, result = self.session.slide, self.session.result
        made_by = result.classes.name.partition(" · ")[2] if result is not None and result.classes is not None else ""
        comments = [f"slide: {slide.name}" if slide is not None else "", f"tuning: {made_by}"]
        below = doubts_of(self.session).abstain_below
        if below:  # without it nobody gets the same numbers again
            comments.append(f"abstained: the likeliest class is less likely than {100 * below:g} %")
        return comments

    def _hint(self) -> str:
        if not self._areas:
            return "Nothing is predicted on this slide yet."
        drawn = len(self._areas) - 1
        if drawn > MOST_PLACES:
            return f"Shown are the slide and the first {MOST_PLACES} of {drawn} regions; the file holds all."
        return "" if drawn else "Draw regions to see the areas inside them too."

    def _fill(self, colors: dict[str, Any]) -> None:
        shown = self._areas[: MOST_PLACES + 1]
        self.table.clearSpans()
        self.table.setRowCount(sum(len(rows_of([place])) + 1 for place in shown))
        at = 0
        for place in shown:
            whole = place.predicted_mm2 + place.unpredicted_mm2
            head = QTableWidgetItem(f"{place.name} ({whole:.3g} mm²)")
            font = head.font()
            font.setBold(True)
            head.setFont(font)
            self.table.setItem(at, 0, head)
            self.table.setSpan(at, 0, 1, 3)
            for name, area, percent in ((row[1], row[2], row[3]) for row in rows_of([place])):
                at += 1
                cells = (name, f"{area:.3f}", "" if percent is None else f"{percent:.1f}")
                for column, text in enumerate(cells):
                    item = QTableWidgetItem(text)
                    if column:
                        item.setTextAlignment(int(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter))
                    elif name in colors:
                        item.setIcon(swatch(colors[name]))
                    self.table.setItem(at, column, item)
            at += 1

    def _on_changed(self, *state: Any) -> None:
        # Counting takes time, and while a job runs the numbers change all the time.
        if self.isVisible() and not self.session.job.is_active:
            self.refresh()

    def _on_save_clicked(self) -> None:
        from napari_pathotune.reader import results_folder

        slide = self.session.slide
        proposed = results_folder() / f"{slide.name if slide is not None else 'slide'}.areas.csv"
        chosen, _ = QFileDialog.getSaveFileName(self, "Save the areas", str(proposed), "Tables (*.csv)")
        if chosen:
            self.save(Path(chosen))
