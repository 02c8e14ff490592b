"""The short way to a tuning: the drawn regions, a task, a backbone, go."""

from __future__ import annotations

import re
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QFileDialog, QHBoxLayout, QInputDialog, QLabel, QLineEdit, QVBoxLayout, QWidget

from napari_pathotune import compat
from napari_pathotune.forms import config_from, form_of
from napari_pathotune.layers import DEFAULT_COLOR, facts, rgb
from napari_pathotune.reader import results_folder
from napari_pathotune.session import JobState, Session
from napari_pathotune.widgets.parts import (
    LINK_COLOR,
    Card,
    Fold,
    button,
    clear,
    combo,
    heading,
    named,
    swatch,
    swatch_html,
    text_label,
)
from napari_pathotune.workers import JobRunner

if TYPE_CHECKING:
    from pathotune.backbones import BackboneCard
    from pathotune.tasks import Task

OWN_CLASSES = ""


class TunePanel(QWidget):
    """Drawn classes, task, backbone, method and a name; options are folded away."""

    def __init__(self, session: Session, runner: JobRunner) -> None:
        super().__init__()
        self.session, self.runner = session, runner
        self.classes = QVBoxLayout()
        self.classes.setSpacing(1)
        self.add_class = button("Add class…", "Make a layer to draw regions of one class in.", "Add a class")
        self.load_regions = button("Load regions…", "Open regions of QuPath (GeoJSON), ASAP or ImageScope (XML).")
        self.task = combo("Task", "What the classes mean: names, colours, and the sentences the model reads.")
        self.task_card = Card("About this task")
        self.make_layers = button("Make its layers", "Make one empty layer per class of the task, in its colours.")
        self.backbone = combo("Backbone", "The frozen model the prompts are tuned in.")
        self.backbone_card = Card("About this backbone")
        self.method = combo("Method", "How the backbone is adapted.")
        self.name = QLineEdit()
        named(self.name, "Name of the tuning", "The tuning file is saved under this name in the results folder.")
        self.name.setPlaceholderText("Name of the tuning")
        self.go = button("Tune", "Tune on the drawn regions of this slide.")
        self.hint = text_label()
        self.method_fold = Fold("Options of the method", "How many prompts, where they enter, which sentences.")
        self.training_fold = Fold("Training", "Epochs, learning rate, seed.")
        self.method_form: Any = None
        self._method_config: Any = None
        self._training_config, self.training_form = self._training()
        self._lay_out()
        self._fill()
        self._connect()
        self.refresh()

    # -- making

    def _lay_out(self) -> None:
        layout = QVBoxLayout(self)
        layout.setContentsMargins(4, 6, 4, 4)
        layout.setSpacing(4)
        layout.addWidget(heading("Regions"))
        layout.addLayout(self.classes)
        layout.addLayout(_row(self.add_class, self.load_regions))
        layout.addWidget(heading("Task"))
        layout.addWidget(self.task)
        layout.addWidget(self.task_card)
        layout.addWidget(self.make_layers)
        layout.addWidget(heading("Backbone"))
        layout.addWidget(self.backbone)
        layout.addWidget(self.backbone_card)
        layout.addWidget(heading("Method"))
        layout.addWidget(self.method)
        layout.addWidget(self.method_fold)
        layout.addWidget(self.training_fold)
        layout.addLayout(_row(self.name, self.go, first_grows=True))
        layout.addWidget(self.hint)
        layout.addStretch(1)

    def _training(self) -> tuple[Any, Any]:
        from pathotune.training.schedule import TrainingConfig

        wanted = compat.preferences()
        config = TrainingConfig(device=wanted.device, precision=wanted.precision)  # type: ignore[arg-type]
        form = form_of(config)
        self.training_fold.put(form.native)
        return config, form

    def _fill(self) -> None:
        from pathotune.backbones import all_cards
        from pathotune.methods import METHODS
        from pathotune.tasks import load_task, task_names

        self.task.addItem("The classes I draw", OWN_CLASSES)
        for name in task_names():
            self.task.addItem(load_task(name).title, name)
        for card in all_cards():
            if card.kind == "tile":
                self.backbone.addItem(card.title, card.name)
        for entry in METHODS.entries():
            self.method.addItem(entry.title, entry.name)
            row = self.method.count() - 1
            self.method.setItemData(row, str((entry.facts or {}).get("summary", "")), Qt.ItemDataRole.ToolTipRole)

    def _connect(self) -> None:
        self.add_class.clicked.connect(self._on_add_class_clicked)
        self.load_regions.clicked.connect(self._on_load_regions_clicked)
        self.make_layers.clicked.connect(self._on_make_layers_clicked)
        self.task.currentIndexChanged.connect(self._on_task_changed)
        self.backbone.currentIndexChanged.connect(self._on_backbone_changed)
        self.method.currentIndexChanged.connect(self._on_method_changed)
        self.go.clicked.connect(self.tune)
        for signal in (self.session.slides_changed, self.session.active_changed, self.session.drawings_changed):
            signal.connect(self.refresh)
        self.session.job_changed.connect(self._on_job_changed)
        self._on_task_changed()
        self._on_backbone_changed()
        self._on_method_changed()

    # -- state

    def refresh(self) -> None:
        """Show the drawn classes again, and say what is missing."""
        clear(self.classes)
        for name, (color, count) in self.drawn().items():
            row = QHBoxLayout()
            icon = QLabel()
            icon.setPixmap(swatch(color).pixmap(14, 14))
            text = text_label(f"{escape(name)} · {count} {'region' if count == 1 else 'regions'}")
            line = QWidget()
            row.setContentsMargins(0, 0, 0, 0)
            row.addWidget(icon)
            row.addWidget(text, 1)
            line.setLayout(row)
            self.classes.addWidget(line)
        if not self.classes.count():
            self.classes.addWidget(text_label("Nothing is drawn yet. Add a class and outline some tissue of it."))
        self._suggest()
        self._say_missing()

    def _say_missing(self) -> None:
        missing = self.missing()
        self.hint.setText(missing)
        self.hint.setVisible(bool(missing))
        self.go.setEnabled(not missing and not self.session.job.is_active)

    def drawn(self) -> dict[str, tuple[tuple[int, int, int], int]]:
        """Colour and number of regions of each drawn class; classes that end in * are not trained."""
        found: dict[str, tuple[tuple[int, int, int], int]] = {}
        for layer in self.session.drawing_layers():
            for name, color in class_of_shapes(layer):
                if not name.endswith("*"):
                    earlier = found.get(name, (color, 0))
                    found[name] = (earlier[0], earlier[1] + 1)
        return found

    def missing(self) -> str:
        """What a tuning still needs, as a sentence; empty where it can start."""
        slide = self.session.slide
        if slide is None:
            return "Open a slide first."
        if slide.mpp is None:
            return "State the slide's pixel size above first."
        if len(self.drawn()) < 2:
            return "Draw regions of at least two classes."
        card = self._card()
        if card is not None and not card.loadable:
            return f"{card.title} cannot be loaded yet: {card.reason}"
        return ""

    def _card(self) -> BackboneCard | None:
        from pathotune.backbones import backbone_card

        name = self.backbone.currentData()
        return backbone_card(name) if name else None

    # -- tuning

    def tune(self) -> None:
        """Write the drawn regions beside the tuning to be, and hand the job to the worker."""
        from pathotune.errors import PathotuneError

        if self.missing():
            self._say_missing()
            return
        try:
            job = self.job()
        except PathotuneError as error:
            compat.show_error(str(error))
            return
        self.runner.submit(job, facts(self.session.active_layer)["path"], "Starting to tune…")

    def job(self) -> Any:
        """The tuning as data; writes the drawn regions into NAME.session beside the file to come.

        Raises
        ------
        UsageError : an option's field holds no usable value.
        OutputRefused : the results folder cannot be written to.
        """
        from napari_pathotune.drawings import regions_from_layer
        from pathotune.execution.job import Job
        from pathotune.methods.options import as_plain
        from pathotune.regions import Regions, write_regions

        slide, slide_layer = self.session.slide, self.session.active_layer
        if slide is None or slide_layer is None or slide.mpp is None:
            raise RuntimeError("tune was called although something is missing")
        out = free_path(self.name.text().strip() or self.suggested_name())
        regions = [
            region for layer in self.session.drawing_layers() for region in regions_from_layer(layer, slide_layer)
        ]
        session_folder = out.with_name(f"{out.name.removesuffix('.pathotune.safetensors')}.session")
        session_folder.mkdir(parents=True, exist_ok=True)
        regions_path = write_regions(Regions(regions), session_folder / f"{slide.path.name}.geojson", slide)
        source: dict[str, Any] = {"slide": str(slide.path), "regions": str(regions_path)}
        if slide.mpp.source == "stated":
            source["slide_mpp"] = slide.mpp.mean
        return Job(
            "tune",
            {
                "sources": [source],
                "method": self.method.currentData(),
                "config": as_plain(config_from(self.method_form, self._method_config)),
                "backbone": self.backbone.currentData(),
                "training": as_plain(config_from(self.training_form, self._training_config)),
                "task": self.task.currentData() or None,
                "out": str(out),
            },
        )

    def suggested_name(self) -> str:
        """A name for the tuning from the task or the drawn classes and the backbone."""
        task = self.task.currentData() or "-".join(list(self.drawn())[:3]).lower()
        return re.sub(r"[^\w.-]+", "-", f"{task} {self.backbone.currentData()}").strip("-")

    # -- slots

    def _on_task_changed(self) -> None:
        from pathotune.tasks import load_task

        name = self.task.currentData()
        self.make_layers.setVisible(bool(name))
        self.task_card.show_lines(task_lines(load_task(name)) if name else [])
        self._suggest()

    def _on_backbone_changed(self) -> None:
        card = self._card()
        self.backbone_card.show_lines(backbone_lines(card) if card is not None else [])
        self._suggest()
        self._say_missing()

    def _on_method_changed(self) -> None:
        from pathotune.methods import load_config

        self._method_config = load_config(self.method.currentData())
        self.method_form = form_of(self._method_config)
        self.method_fold.put(self.method_form.native)
        self.method_fold.setVisible(len(self.method_form) > 0)

    def _suggest(self) -> None:
        self.name.setPlaceholderText(self.suggested_name())

    def _on_add_class_clicked(self) -> None:
        name, accepted = QInputDialog.getText(self, "Add a class", "Name of the class, for example Tumor:")
        if accepted and name.strip():
            self.new_class_layer(name.strip(), next_color(len(self.drawn())))

    def _on_make_layers_clicked(self) -> None:
        from pathotune.tasks import load_task

        present = {layer.name for layer in self.session.drawing_layers()}
        for entry in load_task(self.task.currentData()).classes:
            if entry.name not in present:
                self.new_class_layer(entry.name, rgb(entry.color or DEFAULT_COLOR))

    def new_class_layer(self, name: str, color: tuple[int, int, int]) -> Any:
        """An empty Shapes layer for one class, on the active slide and ready to draw polygons in."""
        from napari.layers import Layer

        from napari_pathotune.drawings import empty_class_layer

        layer = Layer.create(*empty_class_layer(name, color, self.session.slide))
        self.session.viewer.layers.append(layer)
        layer.mode = "add_polygon"
        return layer

    def _on_load_regions_clicked(self) -> None:
        kinds = "Regions (*.geojson *.json *.xml);;All files (*)"
        chosen, _ = QFileDialog.getOpenFileName(self, "Load regions", "", kinds)
        if chosen:
            self.open_regions(Path(chosen))

    def open_regions(self, path: Path) -> None:
        """Lay the regions of a file on the active slide, one layer per class."""
        from napari.layers import Layer

        from napari_pathotune.drawings import layers_from_regions
        from pathotune.errors import PathotuneError
        from pathotune.regions import read_regions

        slide = self.session.slide
        try:
            regions = read_regions(path, slide)
        except PathotuneError as error:
            compat.show_error(str(error))
            return
        for sentence in regions.warnings:
            compat.show_warning(sentence)
        for data in layers_from_regions(regions, slide, str(path)):
            self.session.viewer.layers.append(Layer.create(*data))

    def _on_job_changed(self, job: JobState) -> None:
        self._say_missing()


def _row(*widgets: QWidget, first_grows: bool = False) -> QHBoxLayout:
    row = QHBoxLayout()
    for number, widget in enumerate(widgets):
        row.addWidget(widget, 0 if first_grows and number else 1)
    return row


def class_of_shapes(layer: Any) -> list[tuple[str, tuple[int, int, int]]]:
    """Class and colour of each drawn shape or point of a layer, without any geometry."""
    from napari_pathotune.drawings import class_names_of, color_of

    return [(name, color_of(layer, index)) for index, name in enumerate(class_names_of(layer))]


def next_color(number: int) -> tuple[int, int, int]:
    """A colour for the next class, easy to tell from the others."""
    from pathotune.tasks import colour_blind_palette

    return rgb(colour_blind_palette(number + 1)[number])


def free_path(name: str) -> Path:
    """The path of a new tuning file in the results folder; a number is added where the name is taken."""
    folder = results_folder()
    stem = name.removesuffix(".safetensors").removesuffix(".pathotune")
    path, number = folder / f"{stem}.pathotune.safetensors", 2
    while path.exists():
        path, number = folder / f"{stem}-{number}.pathotune.safetensors", number + 1
    return path


def task_lines(task: Task) -> list[str]:
    """A task's card: its classes with colours, and the sentences the model reads."""
    classes = " &nbsp; ".join(
        f"{swatch_html(rgb(entry.color or DEFAULT_COLOR))}&nbsp;{escape(entry.name)}" for entry in task.classes
    )
    sentences = [f"“{escape(sentence)}”" for sentence in task.sentences]
    facts_line = " · ".join(
        part for part in (task.organ, task.stain, f"{task.mpp:g} µm per pixel" if task.mpp else "") if part
    )
    return [classes, escape(facts_line), *sentences]


def backbone_lines(card: BackboneCard) -> list[str]:
    """A backbone's card: size, licence, gate, and whether it is on this machine."""
    known = card.facts()
    size = f"{card.params_m:g} M parameters" if card.params_m else ""
    reads = f"reads at {card.mpp:g} µm per pixel" if card.mpp else ""
    lines = [", ".join(escape(part).replace(" ", "\u00a0") for part in (size, reads) if part)]
    limits = [card.licence or "licence not stated"]
    if card.non_commercial:
        limits.append("no commercial use")
    if card.no_derivatives:
        limits.append("no derivatives")
    lines.append(escape("Licence: " + ", ".join(limits)))
    if not card.loadable:
        lines.append(f"<b>Cannot be loaded yet:</b> {escape(card.reason)}")
    elif known["available"]:
        lines.append("On this machine: yes")
    else:
        gate = "asks for an agreement first" if card.gated else "downloaded on first use"
        page = f' · <a href="{card.where_to_ask}" style="color: {LINK_COLOR}">its page</a>' if card.where_to_ask else ""
        lines.append(f"On this machine: no ({gate}){page}")
    if not card.takes_prompts:
        lines.append("Takes no prompts: use the linear probe.")
    return lines
