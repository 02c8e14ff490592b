"""Predicted genes: a search box over their names, one shown at a time, and what was measured beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from qtpy.QtCore import QSignalBlocker, Qt
from qtpy.QtWidgets import QComboBox, QCompleter, QFileDialog, QVBoxLayout, QWidget

from napari_pathotune import compat
from napari_pathotune.doubts import doubts_of
from napari_pathotune.genes import GENE, MEASURED, Genes, MeasuredSpots, gene_layer, limits_of, read_measured
from napari_pathotune.layers import facts, pixel_um
from napari_pathotune.session import JobState, Place, Result, Session
from napari_pathotune.widgets.parts import button, combo, heading, text_label
from napari_pathotune.widgets.ranges import ColorRange


class GenePanel(QWidget):
    """Shown where the result in front predicts expression."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session, self.doubts = session, doubts_of(session)
        self.genes: Genes | None = None
        self.spots: MeasuredSpots | None = None
        self._store = ""
        self.name = combo(
            "Gene or pathway", "Type a part of a gene's or pathway's name; the best predicted come first."
        )
        self.name.setEditable(True)
        self.name.setInsertPolicy(QComboBox.InsertPolicy.NoInsert)
        finder = QCompleter(self.name.model(), self.name)
        finder.setFilterMode(Qt.MatchFlag.MatchContains)
        finder.setCaseSensitivity(Qt.CaseSensitivity.CaseInsensitive)
        finder.setCompletionMode(QCompleter.CompletionMode.PopupCompletion)
        self.name.setCompleter(finder)
        self.range, self.text = ColorRange(), text_label()
        self.measured = button(
            "Measured spots…", "Lay the spots on the slide on which expression was measured, in the same colours."
        )
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        for widget in (heading("Gene expression"), self.name, self.range, self.text, self.measured):
            layout.addWidget(widget)
        self.name.activated.connect(lambda row: self.show_gene(str(self.name.itemData(row))))
        self.name.lineEdit().returnPressed.connect(self._on_typed)
        self.measured.clicked.connect(self._on_measured_clicked)
        session.results_changed.connect(self.refresh)
        session.active_changed.connect(self.refresh)
        session.stage_changed.connect(self._on_stage_changed)
        self.refresh()

    @property
    def gene(self) -> str:
        """The gene or pathway that is chosen."""
        return str(self.name.currentData() or "")

    def refresh(self) -> None:
        """Offer the genes of the result in front; hide where it predicts none."""
        result = self.session.result if self.session.viewer is not None else None
        store = "" if result is None else result.store
        if store != self._store and (result is None or result.classes is not None):
            self._store = store
            self.genes = Genes.of(store) if store else None
            self._fill()
            if self.genes is not None:
                self.show_gene(self.genes.names[0])
        self.setVisible(self.genes is not None)

    def _on_stage_changed(self, job: JobState) -> None:
        if job.command == "predict" and not job.is_active:
            self._store = ""  # expression is written at the end
            self.refresh()

    def _fill(self) -> None:
        with QSignalBlocker(self.name):
            self.name.clear()
            for name in self.genes.names if self.genes is not None else ():
                self.name.addItem(self.genes.label(name), name)  # type: ignore[union-attr]
        # The list of what fits is a window of its own, which the viewer's colours do not reach by themselves.
        self.name.completer().popup().setStyleSheet(self.window().styleSheet())

    # -- the prediction

    def show_gene(self, name: str) -> None:
        """Show the prediction of a gene or pathway on the slide, and on the spots where there are some."""
        result = self.session.result
        if result is None or self.genes is None or name not in self.genes.names:
            return
        with QSignalBlocker(self.name):
            self.name.setCurrentIndex(self.name.findData(name))
        layer = result.others.get(GENE)
        if layer is None:
            layer = self.doubts.add(result, gene_layer(result, self.genes, name))
        else:
            facts(layer)["label"] = self.genes.label(name)
            layer.data = self.genes.values(name)
            layer.name = f"{self.genes.label(name)} · {layer.name.rpartition(' · ')[2]}"
        layer.contrast_limits = limits_of(layer.data)
        self._bring_forward(result, layer)
        beside = self._show_measured(name, layer)
        low, high = layer.contrast_limits
        unit = self.genes.unit(name)
        self.range.show_layer(layer, f"{low:.2f}", f"{high:.2f}", f"{name}: {unit}", unit)
        self.text.setText(f"{self.genes.judged(name)} {beside}".strip())

    def reading_at(self, place: Place | None) -> str:
        """The gene that is shown and its value under the cursor; empty where none is shown or predicted."""
        result = self.session.result
        layer = None if result is None else result.others.get(GENE)
        if place is None or result is None or layer is None or not layer.visible:
            return ""
        cell = result.grid.cell_at(place.y_um, place.x_um)
        value = float(layer.data[cell]) if cell is not None else float("nan")
        return f"{self.gene}\u00a0{value:.2f} (predicted)" if value == value else ""

    def _bring_forward(self, result: Result, layer: Any) -> None:
        for other in result.layers:
            if other is not layer:
                other.visible = False
        layer.visible = True

    def _on_typed(self) -> None:
        """Enter in the search box: the name that was typed, else the first that holds it."""
        typed = self.name.lineEdit().text().strip()
        names = self.genes.names if self.genes is not None else []
        exact = [name for name in names if typed.casefold() in (name.casefold(), self.genes.label(name).casefold())]  # type: ignore[union-attr]
        found = exact or [name for name in names if typed and typed.casefold() in name.casefold()]
        if found:
            self.show_gene(found[0])
        else:
            compat.show_info(f"No predicted gene or pathway is called {typed!r}.")

    # -- what was measured

    def _on_measured_clicked(self) -> None:
        chosen, _ = QFileDialog.getOpenFileName(
            self, "Places of the spots (table, or a file in a Visium folder)", "", "Tables (*.csv *.tsv *.gz *.h5)"
        )
        if not chosen:
            return
        path = Path(chosen)
        folder = next((one for one in (path.parent, path.parent.parent) if (one / "spatial").is_dir()), None)
        table = ""
        if folder is None:
            table, _ = QFileDialog.getOpenFileName(
                self, "What was measured on them", str(path.parent), "Expression (*.csv *.tsv *.gz *.h5ad)"
            )
            if not table:
                return
        self.load_measured(folder or path, Path(table) if table else None)

    def load_measured(self, path: Path, table: Path | None = None) -> None:
        """Lay measured spots on the slide that is worked on; what cannot be read is said."""
        from pathotune.errors import PathotuneError

        layer = self.session.active_layer
        if layer is None or self.genes is None:
            return
        try:
            about = facts(layer)
            self.spots = read_measured(path, table, about["path"], pixel_um(about["slide"]))
            self.show_gene(self.gene)
        except PathotuneError as error:
            self.spots = None
            compat.show_error(str(error))

    def _show_measured(self, name: str, layer: Any) -> str:
        """Spots and prediction share one range of colours, so that they can be compared by eye; in a sentence, how far
        they agree."""
        from pathotune.errors import TableUnreadable

        viewer = self.session.viewer
        shown = next((one for one in viewer.layers if facts(one).get("kind") == MEASURED), None)
        if self.spots is None or self.genes is None:
            return ""
        try:
            values = self.genes.measured(self.spots.spots, name)
        except TableUnreadable as error:
            if shown is not None:
                shown.visible = False
            compat.show_info(str(error))
            return ""
        limits = limits_of(np.asarray(layer.data), values)
        layer.contrast_limits = limits
        beside = self.genes.beside(self.spots.spots, values, np.asarray(layer.data))
        data, options, _ = self.spots.layer(values, limits, name)
        if shown is None:
            selected = set(viewer.layers.selection)
            viewer.add_points(data, **options)
            viewer.layers.selection = selected
            return beside
        shown.features = options["features"]
        shown.face_contrast_limits = limits
        shown.face_color = "value"
        shown.name, shown.visible = options["name"], True
        return beside
