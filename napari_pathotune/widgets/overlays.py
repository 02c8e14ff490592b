"""The result on the slide: legend, opacity, which heat map is shown, and what lies under the cursor."""

from __future__ import annotations

import textwrap
from typing import Any

from qtpy.QtCore import QSignalBlocker, Qt
from qtpy.QtWidgets import QCheckBox, QHBoxLayout, QSlider, QSpinBox, QVBoxLayout, QWidget

from napari_pathotune import compat
from napari_pathotune.changes import CHANGES
from napari_pathotune.doubts import UNCERTAINTY, doubts_of
from napari_pathotune.genes import GENE
from napari_pathotune.layers import (
    attention_levels,
    attention_limits,
    attention_name,
    facts,
    probability_name,
    rgb,
    source_title,
)
from napari_pathotune.overlay import ABSTAINED_DARK_RGB, ABSTAINED_RGB
from napari_pathotune.session import Place, Result, Session
from napari_pathotune.widgets.doubts import DoubtsPanel
from napari_pathotune.widgets.parts import (
    checkered,
    clear,
    combo,
    folded,
    heading,
    named,
    swatch,
    text_label,
    thousands,
)
from napari_pathotune.widgets.ranges import ColorRange

HIDE_KEY = "H"
# What the ends of each heat map's colours mean, and what the map is.
RANGES = {
    "probability": ("0 %", "100 %", "How likely the model takes this class to be."),
    "attention": ("little", "much", "Where the model looked, compared with the rest of the tile."),
    UNCERTAINTY: (
        "0: sure",
        "1: no idea",
        "The entropy of the class probabilities: 0 where one class has everything, 1 where all are equally likely.",
    ),
}


class OverlayPanel(QWidget):
    """Legend with a switch per class, opacity of the overlay, and the choice of a heat map."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session, self.doubts = session, doubts_of(session)
        self._result: Result | None = None
        self._legend_of: tuple[Any, ...] = ()
        self._class_boxes: list[QCheckBox] = []
        self._abstained_box: QCheckBox | None = None
        self.title = heading("Prediction")
        self.legend = QVBoxLayout()
        self.legend.setSpacing(1)
        self.opacity = QSlider(Qt.Orientation.Horizontal)
        self.opacity.setRange(0, 100)
        named(
            self.opacity,
            "Overlay opacity",
            f"How strongly the classes cover the tissue. {HIDE_KEY} hides them while held.",
        )
        self.opacity.valueChanged.connect(self._on_opacity_changed)
        self.fade = QCheckBox("Fainter where less certain")
        named(self.fade, "Fainter where less certain", "Faint where two classes are close to each other.")
        self.fade.toggled.connect(self._on_fade_toggled)
        self.abstain = QSpinBox()
        self.abstain.setRange(0, 100)
        self.abstain.setSingleStep(5)
        self.abstain.setSuffix(" %")
        self.abstain.setSpecialValueText("off")
        self.abstain.setValue(round(self.doubts.abstain_below * 100))
        named(
            self.abstain,
            "Abstain below",
            "Places whose likeliest class is less likely than this belong to no class: they are shown in grey, and "
            "counted as abstained in the table of areas. Nothing is predicted again.",
        )
        self.abstain.valueChanged.connect(self._on_abstain_changed)
        self.heat = combo(
            "Heat map",
            "Show one class's probability, the model's uncertainty or its attention instead of the classes.",
        )
        self.heat.activated.connect(self._on_heat_activated)
        self.range = ColorRange()
        self.more = DoubtsPanel(session, self._on_picture_asked)
        self._lay_out()
        session.results_changed.connect(self.refresh)
        session.active_changed.connect(self.refresh)
        session.job_changed.connect(self._on_job_changed)
        session.repainted.connect(self._on_repainted)
        self.doubts.changed.connect(self.refresh)
        self.refresh()

    def _lay_out(self) -> None:
        opacity_row = QHBoxLayout()
        opacity_row.addWidget(text_label("Opacity"))
        opacity_row.addWidget(self.opacity, 3)
        opacity_row.setStretch(0, 1)
        abstain_row = QHBoxLayout()
        abstain_row.addWidget(text_label("Abstain below"))
        abstain_row.addWidget(self.abstain, 3)
        abstain_row.setStretch(0, 2)
        heat_row = QHBoxLayout()
        heat_row.addWidget(text_label("Show"))
        heat_row.addWidget(self.heat, 3)
        heat_row.setStretch(0, 1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        layout.addWidget(self.title)
        layout.addLayout(self.legend)
        layout.addLayout(opacity_row)
        layout.addWidget(self.fade)
        layout.addLayout(abstain_row)
        layout.addLayout(heat_row)
        layout.addWidget(self.range)
        layout.addWidget(self.more)
        layout.addWidget(text_label(f"Hold <b>{HIDE_KEY}</b> over the slide to hide the overlay."))

    def refresh(self) -> None:
        """Show the active slide's result, or hide where there is none."""
        result = self.session.result
        # Where there is one class there is none to tell apart: predicted expression has its own panel.
        self.setVisible(result is not None and result.classes is not None and len(result.grid.class_names) > 1)
        if result is None or result.classes is None:
            self._result = None
            return
        if result is not self._result:
            self._result, self._legend_of = result, ()
            result.classes.events.opacity.connect(self._on_layer_opacity_changed)
        self._fill_legend(result)
        with QSignalBlocker(self.opacity):
            self.opacity.setValue(round(result.classes.opacity * 100))
        with QSignalBlocker(self.fade):
            self.fade.setChecked(result.grid.fade)
        with QSignalBlocker(self.abstain):
            self.abstain.setValue(round(self.doubts.abstain_below * 100))
        self._fill_heat(result)

    def _fill_legend(self, result: Result) -> None:
        areas = {} if result.is_empty else result.grid.areas_mm2()
        names, below = result.grid.class_names, self.doubts.abstain_below
        of = (tuple(names), result.grid.colors.tobytes(), below)
        if of != self._legend_of:  # new boxes have the whole dock laid out again, so only where they differ
            self._legend_of = of
            self._make_legend(result)
        for index, (box, name) in enumerate(zip(self._class_boxes, names, strict=True)):
            area = areas.get(name)
            box.setText(f"{name}   {area:.2f} mm²" if area is not None else name)
            with QSignalBlocker(box):
                box.setChecked(bool(result.grid.visible[index]))
        if self._abstained_box is not None:
            much = f"   {result.grid.abstained_mm2:.2f} mm²" if areas else ""
            self._abstained_box.setText(f"abstained (below {below:.0%}){much}")
            with QSignalBlocker(self._abstained_box):
                self._abstained_box.setChecked(result.grid.shows_abstained)

    def _make_legend(self, result: Result) -> None:
        clear(self.legend)
        self._class_boxes, self._abstained_box = [], None
        for index, name in enumerate(result.grid.class_names):
            box = QCheckBox(name)
            box.setIcon(swatch(rgb(result.grid.colors[index])))
            named(box, f"Show {name}", f"Show or hide {name} on the slide. The area is what was predicted so far.")
            box.toggled.connect(lambda on, index=index: self._on_class_toggled(index, on))
            self.legend.addWidget(box)
            self._class_boxes.append(box)
        if self.doubts.abstain_below:
            box = self._abstained_box = QCheckBox()
            box.setIcon(checkered(ABSTAINED_RGB, ABSTAINED_DARK_RGB))
            named(box, "Show abstained", "Show or hide what is predicted, but not surely enough to count for a class.")
            box.toggled.connect(lambda on: self.doubts.show_abstained(result, on))
            self.legend.addWidget(box)

    def _fill_heat(self, result: Result) -> None:
        rows: list[tuple[str, tuple[str, Any]]] = [("Classes", ("classes", ""))]
        if result.probability is not None:
            names = result.grid.class_names
            rows += [(f"Probability of {name}", ("probability", index)) for index, name in enumerate(names)]
        rows.append(("Uncertainty", (UNCERTAINTY, "")))
        if result.attention is not None:
            sources = facts(result.attention)["sources"]
            rows += [(f"Attention: {source_title(source)}", ("attention", source)) for source in sources]
        if CHANGES in result.others:
            rows.append(("What changed", (CHANGES, "")))
        shown = shown_kind(result)
        wanted = {
            "probability": result.grid.shown_class,
            "attention": facts(result.attention).get("source") if result.attention is not None else "",
        }.get(shown, "")
        with QSignalBlocker(self.heat):
            if rows != [(self.heat.itemText(row), tuple(self.heat.itemData(row))) for row in range(self.heat.count())]:
                self.heat.clear()
                for text, what in rows:
                    self.heat.addItem(text, what)
                self.heat.setItemData(
                    self.heat.findText("Uncertainty"), folded(RANGES[UNCERTAINTY][2]), Qt.ItemDataRole.ToolTipRole
                )
            self.heat.setCurrentIndex(next((i for i, (_, row) in enumerate(rows) if row == (shown, wanted)), 0))
        self._show_range(result, shown)

    def _show_range(self, result: Result, kind: str) -> None:
        self.range.show_layer(layer_of(result, kind) if kind in RANGES else None, *RANGES.get(kind, ()))

    def _on_picture_asked(self, result: Result, kind: str) -> None:
        for other in self.session.results_of(self.session.active_layer):
            if other is not result:
                for layer in other.layers:
                    layer.visible = False
        show_kind(result, kind, "")
        self.refresh()

    def _on_abstain_changed(self, percent: int) -> None:
        self.doubts.abstain_below = percent / 100

    def _on_class_toggled(self, index: int, on: bool) -> None:
        if self._result is not None:
            self._result.grid.visible[index] = on
            self._result.grid.paint()
            self.session.shown.repaint(self._result)

    def _on_fade_toggled(self, on: bool) -> None:
        if self._result is not None:
            self._result.grid.fade = on
            self._result.grid.paint()
            self.session.shown.repaint(self._result)

    def _on_opacity_changed(self, value: int) -> None:
        if self._result is None:
            return
        for layer in self._result.layers:
            layer.opacity = value / 100

    def _on_layer_opacity_changed(self, event: Any) -> None:
        if self._result is not None and self._result.classes is event.source:
            with QSignalBlocker(self.opacity):
                self.opacity.setValue(round(event.source.opacity * 100))

    def _on_heat_activated(self, index: int) -> None:
        if self._result is None:
            return
        kind, which = self.heat.itemData(index)
        if kind == UNCERTAINTY:
            self.doubts.uncertainty(self._result)
        show_kind(self._result, kind, which)
        self._show_range(self._result, kind)

    def _on_job_changed(self, job: Any) -> None:
        if job.stage in ("done", "cancelled") and self._result is not None:
            self.refresh()

    def _on_repainted(self, result: Result) -> None:
        """The last cells come after a job's end: the areas are those of what is seen. While it runs they wait."""
        if result is self._result and not self.session.job.is_active:
            self._fill_legend(result)


def layer_of(result: Result, kind: str) -> Any | None:
    """The layer that shows this of a result, None where there is none."""
    return result.others.get(kind) if kind in (UNCERTAINTY, CHANGES, GENE) else getattr(result, kind)


def shown_kind(result: Result) -> str:
    """Which of a result's pictures is seen: "classes", "probability", "uncertainty", "attention" or "changes"."""
    for kind in (CHANGES, "attention", UNCERTAINTY, "probability"):
        layer = layer_of(result, kind)
        if layer is not None and layer.visible:
            return kind
    return "classes"


def show_kind(result: Result, kind: str, which: Any) -> None:
    """Show one picture of a result and hide the others.

    Parameters
    ----------
    kind : "classes", "probability", "uncertainty", "attention" or "changes".
    which : number of the class, or name of the attention's source.
    """
    title = result.classes.name.partition(" · ")[2] if result.classes is not None else ""
    if kind == "probability":
        result.grid.show_class(int(which))
        result.probability.name = probability_name(result.grid.class_names[int(which)], title)
    if kind == "attention":
        show_source(result, str(which), title)
    for name in ("classes", "probability", UNCERTAINTY, "attention", CHANGES, GENE):
        layer = layer_of(result, name)
        if layer is not None:
            layer.visible = name == kind
    if kind == "probability":
        result.probability.refresh()


def show_source(result: Result, source: str, title: str) -> None:
    """Let the attention layer show another source of the same store."""
    from pathlib import Path

    from pathotune.inference.predictions import PredictionStore

    about = facts(result.attention)
    store = PredictionStore.open(Path(about["store"]))
    if source not in store.sources:
        compat.show_warning(f"This prediction keeps no attention of {source_title(source)}.")
        return
    levels = attention_levels(store, source)
    result.attention.data = levels if result.attention.multiscale else levels[0]
    result.attention.contrast_limits = attention_limits(levels[-1])
    result.attention.name = attention_name(source, title)
    about["source"] = source


def where_text(place: Place | None) -> str:
    """The place under the cursor on its slide, in micrometres."""
    return f"x\u00a0{thousands(place.x_um)}\u00a0µm, y\u00a0{thousands(place.y_um)}\u00a0µm" if place else ""


def reading_text(place: Place | None, name_length: int = 0) -> str:
    """What is predicted under the cursor: the likeliest class and the next; empty where nothing is.

    Parameters
    ----------
    name_length : of the likeliest class's name at most so many letters, and nothing of the next; 0 says both in full.
    """
    if place is None or place.reading is None:
        return ""
    reading, second = place.reading, ""
    if name_length:
        name = textwrap.shorten(reading.class_name, name_length, placeholder="…")
        name = name if len(name) > 1 else f"{reading.class_name[: name_length - 1]}…"
    else:
        name = reading.class_name
        if reading.second_class != reading.class_name:
            second = f" ({reading.second_class} {reading.second_probability:.2f})"
    said = f"{name}\u00a0{reading.probability:.2f}{second}"
    return f"abstained: {said}" if reading.is_abstained else said


def shorter_readings(place: Place | None) -> list[str]:
    """The same for a line with less room, ever shorter: the number is never cut."""
    return [reading_text(place, length) for length in (200, 40, 28, 20, 14)]
