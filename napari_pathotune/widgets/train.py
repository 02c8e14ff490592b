"""The short way to a tuning in four steps: slides, regions, train, result."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QTimer
from qtpy.QtWidgets import (
    QCheckBox,
    QFileDialog,
    QHBoxLayout,
    QLineEdit,
    QScrollArea,
    QVBoxLayout,
    QWidget,
)

from napari_pathotune import compat
from napari_pathotune.drawing_board import board_of
from napari_pathotune.layers import DEFAULT_COLOR, facts, rgb
from napari_pathotune.plan import SUFFIX, TuningPlan
from napari_pathotune.reader import results_folder
from napari_pathotune.session import JobState, Session
from napari_pathotune.widgets.parts import Card, Fold, button, clear, combo, folded, named, text_label, thousands
from napari_pathotune.widgets.regions import RegionsPanel
from napari_pathotune.widgets.regions_preflight import PreflightCounter, PreflightTable, Question, tiles_per_class
from napari_pathotune.widgets.suggest import SuggestPanel
from napari_pathotune.widgets.train_cost import can_probe, cost_text, remember_costs, remembered_costs
from napari_pathotune.widgets.train_curves import Curves
from napari_pathotune.widgets.train_cut_off import CutOffBar
from napari_pathotune.widgets.train_result import ResultPanel
from napari_pathotune.widgets.train_setup import TrainSetup
from napari_pathotune.widgets.train_step import Step, task_lines
from napari_pathotune.workers import JobRunner
from pathotune import events

if TYPE_CHECKING:
    from pathotune.tasks import Task
    from pathotune.training.preflight import Estimate, Preflight

OWN_CLASSES = ""


class TunePanel(QWidget):
    """Four steps, one below the other: which slides, what is drawn, train, and what came of it."""

    def __init__(self, session: Session, runner: JobRunner) -> None:
        super().__init__()
        self.session, self.runner, self.board = session, runner, board_of(session)
        self.plan = TuningPlan(session, self.board)
        self.preflight: Preflight | None = None
        self.out = ""
        self.slides = QVBoxLayout()
        self.regions = RegionsPanel(session, self.board)
        self.task = combo("Task", "What the classes mean: names, colours, and the sentences the model reads.")
        self.task_card = Card("About this task")
        self.make_classes = button("Use its classes", "Add the task's classes to the palette, in its colours.")
        self.setup = TrainSetup()
        self.name = QLineEdit()
        named(self.name, "Name of the tuning", "The tuning file is saved under this name in the results folder.")
        self.words = QLineEdit()
        self.words.setPlaceholderText("tumor: nests of carcinoma cells; stroma; fat")
        named(
            self.words,
            "Classes in words",
            "Classes and what stands for each, as the model reads it: name: sentence; name: sentence. Empty: the "
            "classes of the palette by their names. Nothing need be drawn. To refine the map, draw regions where it is "
            "wrong and tune with CITE, which learns from both.",
        )
        self.go = button("Tune", "Tune on the drawn regions of the chosen slides.")
        self.again = button(
            "Continue", "Go on from the last tuning with the regions as they are now.", "Continue tuning"
        )
        self.cost, self.hint, self.live = text_label(), text_label(), text_label()
        self.save_job = button(
            "Save as job…", "Write this tuning as a YAML file that `pathotune run` reads.", "Save as job"
        )
        self.probe = button("How long?", "Try how fast this machine is, from a few tiles; it takes a few seconds.")
        self._probed = ""
        self.table = PreflightTable()
        self.cut_off = CutOffBar()
        self.curves = Curves()
        self.result = ResultPanel()
        self.suggest = SuggestPanel(session, self.board)
        self.counter = PreflightCounter(self._to_count, self)
        self._height = 0
        # Not more often: a scroll bar that comes and goes changes the height of what wraps.
        self._room = QTimer(self)
        self._room.setSingleShot(True)
        self._room.setInterval(100)
        self._room.timeout.connect(self._make_room)
        self._lay_out()
        self._fill_tasks()
        self._connect()
        self.refresh()

    # -- making

    def _lay_out(self) -> None:
        self.slides.setSpacing(1)
        self.step_slides = Step("1", "Slide", "The open slides to learn from. Several can train together.")
        self.step_regions = Step("2", "Regions", "Outline tissue of each class.")
        self.step_train = Step("3", "Train", "Look what there is to learn from, then tune.")
        self.step_result = Step("4", "Result", "How well it does on regions it was not shown.")
        self.step_slides.body.addLayout(self.slides)
        self.task_fold = Fold("Classes of a task", "Take names, colours and sentences from a task that comes along.")
        inner = QWidget()
        column = QVBoxLayout(inner)
        column.setContentsMargins(0, 0, 0, 0)
        for widget in (self.task, self.task_card, self.make_classes):
            column.addWidget(widget)
        self.task_fold.put(inner)
        self.step_regions.body.addWidget(self.regions)
        self.step_regions.body.addWidget(self.task_fold)
        self.preflight_fold = Fold(
            "What each region gives", "Tiles of each region, training or validation, or why not."
        )
        self.preflight_fold.put(self.table)
        self.advanced = Fold("Advanced", "Backbone, method and training options; what is set works.")
        inside = QWidget()
        stacked = QVBoxLayout(inside)
        stacked.setContentsMargins(0, 0, 0, 0)
        stacked.addWidget(self.setup)
        stacked.addWidget(self.save_job)
        self.advanced.put(inside)
        body = self.step_train.body
        for widget in (self.cut_off, self.cost, self.probe, self.preflight_fold, self.advanced):
            body.addWidget(widget)
        body.addWidget(self.words)
        row = QHBoxLayout()
        row.addWidget(self.name, 1)
        row.addWidget(self.go)
        row.addWidget(self.again)
        body.addLayout(row)
        for widget in (self.hint, self.curves, self.live):
            body.addWidget(widget)
        # First what she does next: the tables below are long.
        self.step_result.body.addWidget(self.suggest)
        self.step_result.body.addWidget(self.result)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(4, 6, 4, 4)
        layout.setSpacing(4)
        for step in (self.step_slides, self.step_regions, self.step_train, self.step_result):
            layout.addWidget(step)
        layout.addStretch(1)
        for widget in (self.words, self.curves, self.live, self.result, self.again, self.probe):
            widget.setVisible(False)
        self._on_suggest_possible(self.suggest.can_suggest)

    def _fill_tasks(self) -> None:
        from pathotune.tasks import load_task, task_names

        self.task.addItem("The classes I draw", OWN_CLASSES)
        for name in task_names():
            self.task.addItem(load_task(name).title, name)

    def _connect(self) -> None:
        self.make_classes.clicked.connect(self._on_make_classes_clicked)
        self.task.currentIndexChanged.connect(self._on_task_changed)
        self.setup.changed.connect(self._on_setup_changed)
        self.go.clicked.connect(self.tune)
        self.again.clicked.connect(lambda: self.tune(go_on=True))
        self.words.textChanged.connect(lambda _: self._say_missing())
        self.probe.clicked.connect(self._on_probe_clicked)
        self.save_job.clicked.connect(self._on_save_job_clicked)
        for signal in (self.session.slides_changed, self.session.active_changed):
            signal.connect(self._on_slides_changed)
        self.session.drawings_changed.connect(self.refresh)
        self.board.changed.connect(self.refresh)
        self.session.tuning_changed.connect(self._on_tuning_changed)
        self.session.job_changed.connect(self._on_job_changed)
        self.session.event_taken.connect(self._on_event)
        self.counter.counted.connect(self._on_counted)
        self.cut_off.kept.connect(self._show_result)
        self.table.region_chosen.connect(self._on_region_chosen)
        self.result.place_chosen.connect(self.go_to)
        self.suggest.place_chosen.connect(self.go_to)
        self.suggest.tune_again_asked.connect(lambda: self.tune(go_on=True))
        self.suggest.possible.connect(self._on_suggest_possible)
        self.destroyed.connect(self.counter.close)
        self.destroyed.connect(self.result.close_reading)
        self._on_task_changed()
        self._on_tuning_changed()
        self._list_slides()

    def event(self, event: Any) -> bool:
        """Qt: a line came or went; tabs and scroll areas around the panel do not ask for its new height themselves."""
        handled = bool(super().event(event))
        if event.type() == event.Type.LayoutRequest and hasattr(self, "_room") and not self._room.isActive():
            self._room.start()
        return handled

    def _make_room(self) -> None:
        height = self.sizeHint().height()
        if height != self._height:
            self._height = height
            parent = self.parentWidget()
            while parent is not None and not isinstance(parent, QScrollArea):
                parent.updateGeometry()
                parent = parent.parentWidget()

    # -- state

    def refresh(self) -> None:
        """Say how much is drawn and what is missing; tiles are counted a moment later."""
        drawn = self.plan.drawn()
        count = sum(number for _, number in drawn.values())
        self.step_regions.say(f"{thousands(count)} in {len(drawn)} classes" if drawn else "")
        self.name.setPlaceholderText(self.suggested_name())
        self.counter.start()
        self._say_missing()

    def _list_slides(self) -> None:
        layers = self.session.slide_layers
        clear(self.slides)
        for layer in layers:
            path, slide = facts(layer)["path"], facts(layer)["slide"]
            box = QCheckBox(slide.name)
            named(box, f"Train on {slide.name}", f"Learn from the regions of {slide.name}.")
            box.setChecked(self.plan.is_chosen(path))
            box.setVisible(True)
            box.toggled.connect(lambda on, path=path: self._on_slide_toggled(path, on))
            self.slides.addWidget(box)
        if not layers:
            self.slides.addWidget(text_label("Open a slide: drop it on the window."))
        chosen = len(self.plan.layers)
        self.step_slides.say(f"{chosen} of {len(layers)} chosen" if len(layers) > 1 else "")

    @property
    def goes_by_words(self) -> bool:
        """Whether the method takes classes by their words, and no regions are drawn that it could be judged on."""
        from pathotune.methods import needs_no_tiles

        return needs_no_tiles(self.setup.method.currentData()) and not self.plan.is_drawn()

    def missing(self) -> str:
        """What a tuning still needs, as a sentence; empty where it can start."""
        from pathotune.errors import TableUnreadable

        if not self.goes_by_words:
            return self.plan.missing() or self.setup.problem
        try:
            self._task_in_words()
        except TableUnreadable as error:
            return str(error)
        return self.setup.problem

    def _say_missing(self) -> None:
        missing = self.missing()
        problem = self.preflight.problem if not missing and self.preflight is not None else ""
        self.hint.setText(missing or problem)
        self.hint.setVisible(bool(missing or problem))
        for control in (self.go, self.again):
            control.setEnabled(not missing and self.runner.is_free)

    # -- before it starts

    def _to_count(self) -> Question:
        """What the counter works on."""
        return Question(self.plan.snapshot(), self.setup.reading, self.setup.training_config())

    def _on_counted(self, preflight: Preflight) -> None:
        if self.session.viewer is None:
            return  # counted when the viewer was closed
        self.preflight = preflight
        self.regions.show_tiles(tiles_per_class(preflight))
        colors = {name: color for name, (color, _) in self.plan.drawn().items()}
        self.table.show_rows(preflight.regions, colors, len(self.plan.layers) > 1)
        unused = sum(not row.tiles for row in preflight.regions)
        self.preflight_fold.setVisible(bool(preflight.regions))
        self.preflight_fold.head.setText("What each region gives" + (f" ({unused} give nothing)" if unused else ""))
        self._say_cost()
        self._say_missing()
        if self.isVisible() and self.session.slide is not None and not self.missing():
            self.runner.warm()  # what can be tuned is tuned soon

    def _say_cost(self) -> None:
        table, reading = self.preflight, self.setup.reading
        text = ""
        if table is not None and reading is not None and any(row.tiles for row in table.regions):
            text = cost_text(table, self._estimate(table), reading.image_px)
        self.cost.setText(text)
        self.cost.setToolTip("\n".join(table.notes) if table is not None else "")
        self.cost.setVisible(bool(text))
        self.probe.setVisible(bool(text) and can_probe() and not remembered_costs(self._speed_key()))
        self.probe.setEnabled(self.runner.is_free)

    def _estimate(self, table: Preflight) -> Estimate | None:
        """What it takes, where this machine has been probed for this backbone and method."""
        from pathotune.training.preflight import Costs, estimate

        costs, reading = remembered_costs(self._speed_key()), self.setup.reading
        if not costs or reading is None or not table.tiles:
            return None
        try:
            known = Costs(**costs)
        except TypeError:  # an earlier version measured something else
            return None
        return estimate(table, known, self.setup.method_config(), self.setup.training_config(), reading.image_px)

    def _speed_key(self) -> str:
        config = self.setup.method_config()
        speed = getattr(config, "speed", "")
        device = self.setup.training_config().device
        return " ".join(
            str(part) for part in (self.setup.backbone.currentData(), self.setup.method.currentData(), speed, device)
        )

    def _on_probe_clicked(self) -> None:
        from pathotune.errors import PathotuneError
        from pathotune.execution.job import Job

        try:
            arguments = {
                "method": self.setup.method.currentData(),
                "config": self.setup.config(),
                "backbone": self.setup.backbone.currentData(),
                "training": self.setup.training(),
            }
        except PathotuneError as error:
            compat.show_error(str(error))
            return
        self._probed = self._speed_key()
        self.runner.submit(Job("probe", arguments), "", "Trying how fast this machine is…")

    def _on_region_chosen(self, slide: int, region: int) -> None:
        layers = self.plan.layers
        if slide >= len(layers):
            return
        regions = self.board.regions_of(layers[slide])
        if region < len(regions):
            left, top, right, bottom = regions[region].geometry.bounds
            self.go_to(facts(layers[slide])["path"], (left, top, right - left, bottom - top))

    def go_to(self, slide_path: str, box_px0: tuple[float, float, float, float]) -> None:
        """Move the view to a box (x, y, width, height in level-0 pixels) of an open slide."""
        if not self.session.look_at_box(slide_path, box_px0):
            compat.show_info(f"{Path(slide_path).name} is not open.")

    # -- tuning

    def tune(self, *_: Any, go_on: bool = False) -> None:
        """Freeze the drawn regions beside the tuning to be, and hand the job to the worker."""
        from pathotune.errors import PathotuneError

        if self.missing():
            self._say_missing()
            return
        try:
            job = self.job(self.out if go_on else "")
        except PathotuneError as error:
            compat.show_error(str(error))
            return
        self.board.save()
        self.runner.submit(job, facts(self.session.active_layer)["path"], "Starting to tune…")

    def job(self, continue_from: str = "") -> Any:
        """The tuning as data, as `TuningPlan.job` makes it.

        Parameters
        ----------
        continue_from : a tuning file to go on from.

        Raises
        ------
        UsageError : an option's field holds no usable value.
        OutputRefused : the results folder cannot be written to.
        """
        arguments = {
            "method": self.setup.method.currentData(),
            "config": self.setup.config(),
            "backbone": self.setup.backbone.currentData(),
            "training": self.setup.training(),
            "task": self.task.currentData() or None,
        }
        task = self._task_in_words() if self.goes_by_words else None
        return self.plan.job(self.wanted_name(), arguments, continue_from, task)

    def _task_in_words(self) -> Task:
        """The chosen task, else the classes that were typed; raises TableUnreadable where they are too few."""
        from pathotune.tasks import load_task

        chosen = self.task.currentData()
        return load_task(chosen) if chosen else self.plan.named(self.words.text().strip())

    def wanted_name(self) -> str:
        """The name that was typed, else one from the task or the drawn classes and the backbone."""
        return self.name.text().strip() or self.suggested_name()

    def suggested_name(self) -> str:
        """A name for who types none."""
        return self.plan.suggested_name(self.task.currentData() or "", self.setup.backbone_name)

    def write_job(self, path: Path) -> None:
        """Write the tuning as it would start now; its regions are frozen beside the tuning to be."""
        missing = self.missing()
        if missing:
            compat.show_warning(missing)
            return
        path = path if path.suffix else path.with_suffix(".yaml")
        if self.board.trying(lambda: self.job().to_yaml(path)):
            compat.show_info(f"The job was written to {path.name}.")

    # -- slots

    def _on_save_job_clicked(self) -> None:
        start = results_folder() / f"{self.wanted_name()}.yaml"
        chosen, _ = QFileDialog.getSaveFileName(self, "Save as job", str(start), "Jobs (*.yaml)")
        if chosen:
            self.write_job(Path(chosen))

    def _on_slides_changed(self) -> None:
        if self.session.viewer is not None and self.session.slide_layers:
            self.cut_off.look()
        self._list_slides()
        self.refresh()

    def _on_slide_toggled(self, path: str, on: bool) -> None:
        self.plan.choose(path, on)
        self.counter.start()
        self._say_missing()

    def _on_setup_changed(self) -> None:
        from pathotune.methods import needs_no_tiles

        self.step_train.say("")
        self.words.setVisible(needs_no_tiles(self.setup.method.currentData()))
        self.advanced.head.setToolTip(self.setup.summary())
        self.name.setPlaceholderText(self.suggested_name())
        self.counter.start()
        self._say_missing()

    def _on_task_changed(self) -> None:
        from pathotune.tasks import load_task

        name = self.task.currentData()
        self.make_classes.setVisible(bool(name))
        self.task_card.show_lines(task_lines(load_task(name)) if name else [])
        self.name.setPlaceholderText(self.suggested_name())

    def _on_make_classes_clicked(self) -> None:
        from pathotune.regions.palette import Palette
        from pathotune.tasks import load_task

        drawing = self.board.active
        if drawing is None:
            return
        document = drawing.document
        base = document.palette if document.is_begun else Palette()
        wanted = {one.name: rgb(one.color or DEFAULT_COLOR) for one in load_task(self.task.currentData()).classes}
        document.set_palette(base.including(wanted), "Classes of the task")

    def _on_event(self, event: Any) -> None:
        if self._is_mine(self.session.job) and isinstance(event, events.EpochEnd):
            accuracy = event.metrics.get("balanced_accuracy")
            self.curves.take(event.epoch, event.epochs, event.train_loss, accuracy, event.best_epoch, event.word)

    def _is_mine(self, job: JobState) -> bool:
        """Whether a job tunes on regions."""
        return job.command == "tune" and not self.session.tunes_on_cohort

    def _on_job_changed(self, job: JobState) -> None:
        if self._is_mine(job):
            if job.stage == "starting":
                self.curves.clear()
                self.curves.setVisible(True)
                self.live.setVisible(True)
                self.live.setText("The regions are as they were when it started: draw on, it does no harm.")
            elif job.stage in ("done", "cancelled", "failed"):
                self._end(job)
        elif job.command == "probe" and job.stage == "done":
            remember_costs(self._probed, job.result)
        if job.stage in ("starting", "done", "cancelled", "failed"):
            self._say_cost()
        self._say_missing()

    def _end(self, job: JobState) -> None:
        self.live.setVisible(False)
        if not job.result.get("out"):
            self.curves.setVisible(bool(self.curves.loss))
            return
        self._show_result(job.result)

    def _go_on_from(self, out: str) -> None:
        """Continue and "Tune again" go on from this file: the last that was made or opened."""
        self.out = out
        self.again.setVisible(bool(out))
        name = Path(out).name.removesuffix(SUFFIX)
        self.again.setToolTip(folded(f"Go on from {name} with the regions as they are now, by its own method."))

    def _on_tuning_changed(self) -> None:
        from pathotune.methods import level_of

        tuning = self.session.tuning
        if tuning is not None and tuning.path is not None and level_of(tuning.method) == "tile":
            self._go_on_from(str(tuning.path))
        elif tuning is None and self.out and not Path(self.out).exists():
            self._go_on_from("")  # its file was put into the trash

    def _show_result(self, result: dict[str, Any]) -> None:
        self._go_on_from(str(result.get("out") or ""))
        colors = {name: color for name, (color, _) in self.plan.drawn().items()}
        self.result.show_result(result, colors)
        self.result.setVisible(True)
        self.step_result.setVisible(True)

    def _on_suggest_possible(self, possible: bool) -> None:
        self.step_result.setVisible(possible or bool(self.result.result))

    # Names that scripts and tests have used since the first version.

    @property
    def backbone(self) -> Any:
        """The combo box of backbones."""
        return self.setup.backbone

    @property
    def backbone_card(self) -> Card:
        """The card of the chosen backbone."""
        return self.setup.backbone_card

    @property
    def method(self) -> Any:
        """The combo box of methods."""
        return self.setup.method

    @property
    def method_form(self) -> Any:
        """The form of the method's options."""
        return self.setup.method_form

    @property
    def training_form(self) -> Any:
        """The form of the training options."""
        return self.setup.training_form
