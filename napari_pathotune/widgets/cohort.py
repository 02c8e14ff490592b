"""Tune on a cohort: a table of slides with labels, expression or survival, in place of drawn regions."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QFileDialog, QGridLayout, QHBoxLayout, QLabel, QLineEdit, QVBoxLayout, QWidget

from napari_pathotune import compat
from napari_pathotune.cohort import COMPANIONS, CohortPlan, said_of
from napari_pathotune.reader import results_folder
from napari_pathotune.session import JobState, Session
from napari_pathotune.widgets.parts import Fold, button, heading, named, text_label
from napari_pathotune.widgets.train_curves import Curves
from napari_pathotune.widgets.train_setup import TrainSetup
from napari_pathotune.workers import JobRunner
from pathotune import events

LEVELS = ("slide", "patient", "spot")
TABLE_TIP = "A table with a row a slide: slide, patient, label (or time and event), and a split if it has one."


class PathField(QWidget):
    """A path that is typed or chosen."""

    changed = Signal()

    def __init__(self, name: str, tooltip: str, is_folder: bool) -> None:
        super().__init__()
        self._is_folder, self._name = is_folder, name
        self.text = QLineEdit()
        named(self.text, name, tooltip)
        self.browse = button("…", f"Choose: {tooltip}", f"Choose {name}")
        self.browse.setFixedWidth(30)
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.text, 1)
        row.addWidget(self.browse)
        self.text.editingFinished.connect(self.changed)
        self.browse.clicked.connect(self._on_browse_clicked)

    @property
    def path(self) -> Path | None:
        """The path; None where the field is empty."""
        typed = self.text.text().strip()
        return Path(typed).expanduser() if typed else None

    def set_path(self, path: Path) -> None:
        """Fill it in."""
        self.text.setText(str(path))
        self.changed.emit()

    def _on_browse_clicked(self) -> None:
        if self._is_folder:
            chosen = QFileDialog.getExistingDirectory(self, self._name)
        else:
            chosen, _ = QFileDialog.getOpenFileName(self, self._name)
        if chosen:
            self.set_path(Path(chosen))


class CohortPanel(QWidget):
    """Which table, which method, go; the tuning is then chosen under Predict like any other."""

    def __init__(self, session: Session, runner: JobRunner) -> None:
        super().__init__()
        self.session, self.runner = session, runner
        self.plan: CohortPlan | None = None
        self._problem = "Choose the table of the cohort."
        self.table = PathField("Table of slides", TABLE_TIP, is_folder=False)
        self.companions = {key: PathField(name, tip, folder) for key, name, tip, folder in COMPANIONS}
        self.summary, self.hint, self.said = text_label(), text_label(), text_label()
        self.setup = TrainSetup(LEVELS)
        self.name = QLineEdit()
        named(self.name, "Name of the tuning", "The tuning file is saved under this name in the results folder.")
        self.go = button("Tune", "Tune on the slides of the table.", "Tune on the cohort")
        self.save_job = button("Save as job…", "Write this as a YAML file that `pathotune run` reads.", "Save as job")
        self.curves = Curves()
        self._lay_out()
        self.table.changed.connect(self.read)
        for one in self.companions.values():
            one.changed.connect(self.refresh)
        self.setup.changed.connect(self.refresh)
        self.go.clicked.connect(self.tune)
        self.save_job.clicked.connect(self._on_save_job_clicked)
        session.stage_changed.connect(self._on_stage_changed)
        session.event_taken.connect(self._on_event)
        self.refresh()

    def _lay_out(self) -> None:
        beside = QWidget()
        grid = QGridLayout(beside)
        grid.setContentsMargins(0, 0, 0, 0)
        for row, (key, name, _, _) in enumerate(COMPANIONS):
            grid.addWidget(QLabel(name), row, 0)
            grid.addWidget(self.companions[key], row, 1)
        self.beside = Fold("What belongs to it", "Features that are there, expression, pathways, clinical columns.")
        self.beside.put(beside)
        inside = QWidget()
        stacked = QVBoxLayout(inside)
        stacked.setContentsMargins(0, 0, 0, 0)
        stacked.addWidget(self.setup)
        stacked.addWidget(self.save_job)
        self.advanced = Fold("Method and backbone", "How slides are learned from, and the model their tiles pass.")
        self.advanced.put(inside)
        row = QHBoxLayout()
        row.addWidget(self.name, 1)
        row.addWidget(self.go)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(4, 6, 4, 4)
        layout.setSpacing(4)
        for widget in (heading("Table of slides"), self.table, self.summary, self.beside, self.advanced):
            layout.addWidget(widget)
        layout.addLayout(row)
        for widget in (self.hint, self.curves, self.said):
            layout.addWidget(widget)
        layout.addStretch(1)
        self.curves.setVisible(False)

    # -- state

    def read(self) -> None:
        """Read the table that was named, and say what it holds or why it cannot be used."""
        from pathotune.datasets.cohort import read_cohort
        from pathotune.errors import PathotuneError

        path = self.table.path
        self.plan, self._problem = None, "Choose the table of the cohort."
        if path is not None:
            try:
                self.plan, self._problem = CohortPlan(read_cohort(path)), ""
            except PathotuneError as error:
                self._problem = str(error)
        self.summary.setText(escape(self.plan.summary()) if self.plan is not None else "")
        self.refresh()

    def refresh(self) -> None:
        """Say what is missing, and let the button be pressed only when nothing is."""
        missing = self.missing()
        self.summary.setVisible(self.plan is not None)
        self.hint.setText(escape(missing))
        self.hint.setVisible(bool(missing))
        self.said.setVisible(bool(self.said.text()))
        self.name.setPlaceholderText(self._suggested_name())
        for control in (self.go, self.save_job):
            control.setEnabled(not missing and (control is self.save_job or self.runner.is_free))

    def missing(self) -> str:
        """What a tuning still needs, as a sentence; empty where it can start."""
        absent = [one.path for one in self.companions.values() if one.path is not None and not one.path.exists()]
        if absent:
            return f"There is no {absent[0]}."
        return self._problem or self.setup.problem

    def _suggested_name(self) -> str:
        if self.plan is None:
            return ""
        return self.plan.suggested_name(str(self.setup.method.currentData()), self.setup.backbone_name)

    # -- tuning

    def job(self) -> Any:
        """The tuning as data; raises UsageError where an option's field holds no usable value."""
        if self.plan is None:
            raise RuntimeError("there is no table")
        companions = {key: one.path for key, one in self.companions.items() if one.path is not None}
        arguments = {
            "method": self.setup.method.currentData(),
            "config": self.setup.config(),
            "backbone": self.setup.backbone.currentData(),
            "training": self.setup.training(),
        }
        return CohortPlan(self.plan.cohort, companions).job(
            self.name.text().strip() or self._suggested_name(), arguments
        )

    def tune(self) -> None:
        """Hand the job to the worker."""
        from pathotune.errors import PathotuneError

        if self.missing():
            self.refresh()
            return
        try:
            job = self.job()
        except PathotuneError as error:
            compat.show_error(str(error))
            return
        self.said.setText("")
        self.curves.clear()
        self.curves.setVisible(True)
        self.runner.submit(job, "", "Starting to tune on the cohort…")

    def _on_save_job_clicked(self) -> None:
        start = results_folder() / f"{self.name.text().strip() or self._suggested_name()}.yaml"
        chosen, _ = QFileDialog.getSaveFileName(self, "Save as job", str(start), "Jobs (*.yaml)")
        if chosen:
            self.write_job(Path(chosen))

    def write_job(self, path: Path) -> None:
        """Write the tuning as it would start now."""
        from pathotune.errors import PathotuneError

        try:
            written = self.job().to_yaml(path if path.suffix else path.with_suffix(".yaml"))
        except PathotuneError as error:
            compat.show_error(str(error))
            return
        compat.show_info(f"The job was written to {written.name}.")

    def _on_event(self, event: Any) -> None:
        if self.session.tunes_on_cohort and isinstance(event, events.EpochEnd):
            accuracy = event.metrics.get("balanced_accuracy")
            self.curves.take(event.epoch, event.epochs, event.train_loss, accuracy, event.best_epoch, event.word)

    def _on_stage_changed(self, job: JobState) -> None:
        if self.session.tunes_on_cohort and job.stage in ("done", "cancelled", "failed"):
            self.curves.setVisible(bool(self.curves.loss))
            self.said.setText("<br>".join(escape(line) for line in said_of(job.result)))
            if job.stage == "done" and (job.result or {}).get("method") == "transcriptomics":
                self.setup.offer(Path(job.result["out"]))  # from now on a backbone too
        self.refresh()
