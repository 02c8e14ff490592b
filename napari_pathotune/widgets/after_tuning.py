"""What comes by itself when a tuning is done: the view is predicted at once, then the slide outward from it."""

from __future__ import annotations

from pathlib import Path

from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_pathotune.session import JobState, Session
from napari_pathotune.widgets.parts import combo, heading
from napari_pathotune.widgets.predict import SLIDE, VIEW, PredictPanel
from napari_pathotune.workers import JobRunner

NOTHING = "nothing"
CHOICES = (
    ("Predict the view, then the slide", SLIDE),
    ("Predict what is in view", VIEW),
    ("Nothing", NOTHING),
)


class AfterTuning(QWidget):
    """Starts the predictions that follow a tuning, and lets the person choose which.

    What is in view comes first and whole, as that is where she looks. The slide follows outward from there, and gives
    way to whatever she starts next.

    Parameters
    ----------
    panel : makes the jobs, with the options that are set there.
    """

    def __init__(self, session: Session, runner: JobRunner, panel: PredictPanel) -> None:
        super().__init__()
        self.session, self.runner, self.panel = session, runner, panel
        self.choice = combo("After tuning", "What is predicted by itself when a tuning is done.")
        for text, value in CHOICES:
            self.choice.addItem(text, value)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        layout.addWidget(heading("After tuning"))
        layout.addWidget(self.choice)
        self._expects_view = False
        session.stage_changed.connect(self._on_stage_changed)

    def _on_stage_changed(self, job: JobState) -> None:
        # Not from within the event: those who hear of it later must know of this job's end before the next begins.
        if job.command == "tune" and job.stage == "done" and job.result.get("out"):
            QTimer.singleShot(0, lambda: self._begin(Path(job.result["out"])))
        elif self._expects_view and not job.is_active:
            self._expects_view = False
            if job.command == "predict" and job.stage == "done" and self.choice.currentData() == SLIDE:
                QTimer.singleShot(0, self._go_on)

    def _begin(self, out: Path) -> None:
        if self.choice.currentData() == NOTHING or self.panel.missing_tuning_or_slide() or not self.runner.is_free:
            return
        if self.session.tuning is None or self.session.tuning.path != out:
            return  # it could not be opened, which has been said
        if self.session.view_box_px0() is None:
            self._go_on()
        else:
            # A tuning of whole slides has answered for all of the slide then: nothing is left to follow.
            self._expects_view = self.panel.start(VIEW) and not self.panel.is_of_whole_slides

    def _go_on(self) -> None:
        if self.choice.currentData() == SLIDE and not self.panel.missing_tuning_or_slide() and self.runner.is_free:
            self.panel.start(SLIDE, follows=True)
