"""How far the job is, in plain words, and the button that stops it."""

from __future__ import annotations

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QHBoxLayout, QLabel, QProgressBar, QSizePolicy, QVBoxLayout, QWidget

from napari_pathotune import compat
from napari_pathotune.jobs import SAVING, word_of
from napari_pathotune.session import JobState, Session
from napari_pathotune.widgets.parts import SteadyLine, button, named, text_label, thousands
from napari_pathotune.workers import JobRunner
from pathotune.inference.busy import waiting_sentence

# What is put as a question beside the Predict button instead of shown as an error.
ASKED = ("StoreMismatch",)
# After these something of the installation is amiss, which is found and named by another program.
BROKEN = ("WorkerNotStarted", "MissingPackage")
DOCTOR = "In a terminal, pathotune doctor says what is amiss and how to mend it."
PAUSE_TIP = "Stand still and leave the processor or graphics card to others; the result will be the same."
HELD = {"pausing": "Pausing…", "paused": "Paused"}
RESUME_TIP = "Go on where it stands still."


class ProgressPanel(QWidget):
    """Progress bar with rate and time left, Cancel, and the job's last sentence."""

    def __init__(self, session: Session, runner: JobRunner) -> None:
        super().__init__()
        self.session, self.runner = session, runner
        self._said: list[str] = []
        self.bar = QProgressBar()
        self.bar.setTextVisible(False)
        self.bar.setMaximumHeight(14)
        named(self.bar, "Progress", "How much of the job is done.")
        self.cancel = button("Cancel", "Stop now. What is done is kept, and a later run goes on from there.")
        self.cancel.clicked.connect(runner.cancel)
        self.pause = button("Pause", PAUSE_TIP)
        self.pause.clicked.connect(lambda: runner.hold(not session.job.hold))
        self.line = SteadyLine("How far the job is: tiles done, tiles per second, time left.")
        self.text = text_label()
        self.note = text_label()
        self.note.setTextFormat(Qt.TextFormat.PlainText)
        row = QHBoxLayout()
        row.addWidget(self.bar, 1)
        row.addWidget(self.pause)
        row.addWidget(self.cancel)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(3)
        layout.addLayout(row)
        layout.addWidget(self.line)
        layout.addWidget(self.text)
        layout.addWidget(self.note)
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Maximum)
        session.job_changed.connect(self._on_job_changed)
        session.noted.connect(self._on_noted)
        session.active_changed.connect(self._on_active_changed)
        self._on_job_changed(session.job)

    def _on_job_changed(self, job: JobState) -> None:
        if job.stage == "starting":
            self._said.clear()
            self._say(self.note, "")
        self._fill_bar(job)
        for control in (self.cancel, self.pause):
            control.setEnabled(job.stage in ("starting", "running"))
        text, tip = ("Resume", RESUME_TIP) if job.hold else ("Pause", PAUSE_TIP)
        if self.pause.text() != text:
            self.pause.setText(text)
            named(self.pause, text, tip)
        for widget in (self.bar, self.pause, self.cancel, self.line):
            if widget.isHidden() == job.is_active:
                widget.setVisible(job.is_active)
        self.line.show_text(progress_text(job) if job.is_active else "")
        self._say(self.text, "" if job.is_active else progress_text(job))
        if not job.is_active:
            # What was said on the way is kept for who wants to know.
            self.text.setToolTip("\n".join(self._said))
            self._say(self.note, "")
        if job.stage == "failed" and job.error not in ASKED:
            compat.show_error(job.text)

    def _fill_bar(self, job: JobState) -> None:
        # Qt repaints a progress bar at once, and with it the whole window beside an OpenGL canvas (up to 0.1 s);
        # with updates off meanwhile it is painted when the window is painted next.
        known = job.stage == "running" and job.total > 0
        self.bar.setUpdatesEnabled(False)
        self.bar.setRange(0, job.total if known else 1)
        self.bar.setValue(job.done if known else 0)
        self.bar.setUpdatesEnabled(True)

    def _say(self, label: QLabel, text: str) -> None:
        """Set a label's text where it differs, and hide it where there is none."""
        if label.text() != text:
            label.setText(text)
        if label.isHidden() == bool(text):
            label.setVisible(bool(text))

    def _on_active_changed(self) -> None:
        if not self.session.job.is_active:
            self._say(self.text, "")  # it was about another slide

    def _on_noted(self, level: str, text: str) -> None:
        self._said.append(text)
        self._say(self.note, text)
        if level == "warning":
            compat.show_warning(text)


def progress_text(job: JobState) -> str:
    """The state of a job as one line."""
    if job.stage == "idle":
        return ""
    if job.stage == "failed" and job.error in ASKED:
        return ""
    if job.stage == "failed" and job.error in BROKEN:
        return f"{job.text.removesuffix('.')}. {DOCTOR}"
    if job.stage == "starting" and job.hold:
        return HELD[job.hold]
    if job.stage in ("starting", "cancelling", "failed"):
        return job.text
    if job.stage == "cancelled":
        return cancelled_text(job)
    if job.stage == "done":
        return done_text(job)
    if job.phase == SAVING:
        return job.text
    parts = [
        HELD.get(job.hold, ""),
        f"{job.phase[:1].upper()}{job.phase[1:]}" if job.phase != job.unit else "",
        f"{thousands(job.done)} of {thousands(job.total)} {job.unit}",
    ]
    if job.hold:
        return " · ".join(part for part in parts if part)
    if job.rate:
        parts.append(f"{thousands(job.rate)} {job.unit}/s" if job.rate >= 10 else f"{job.rate:.1f} {job.unit}/s")
    if job.seconds_left is not None:
        parts.append(f"{duration(job.seconds_left)} left")
    if job.text:
        parts.append(job.text)
    return " · ".join(part for part in parts if part)


def cancelled_text(job: JobState) -> str:
    """What a cancelled job says: of a tuning, which epoch is kept."""
    epochs, best = len(job.result.get("epochs") or ()), job.result.get("best_epoch")
    if job.command != "tune":
        return "Cancelled. What was done is kept." if job.done else "Cancelled before anything was done."
    if not job.result.get("out"):
        return "Cancelled before there was anything to keep."
    if not best:
        return "Cancelled; no epoch was better than the tuning it went on from, which is kept as it was."
    word = word_of(job.result)
    many = f"Cancelled after {word} {epochs}" if epochs else "Cancelled"
    return f"{many}; the best was {word} {best} and is kept. Ready to predict."


def done_text(job: JobState) -> str:
    """What a finished job says."""
    result = job.result
    seconds = result.get("seconds")
    took = f" in {duration(seconds)}" if isinstance(seconds, int | float) else ""
    if job.command == "tune":
        scores = result.get("val") or {}
        if result.get("said"):
            return f"Tuned{took}. {result['said'][0]}"
        accuracy = scores.get("balanced_accuracy")
        judged = f" Balanced accuracy on held-out regions: {accuracy:.2f}." if isinstance(accuracy, int | float) else ""
        return f"Tuned{took}.{judged} Ready to predict."
    tiles = result.get("tiles")
    if result.get("predicted"):
        return f"The whole slide: {result['predicted']} ({result['probabilities'][result['predicted']]:.0%}){took}."
    if tiles == 0:
        return "There is no tissue in what was chosen, so nothing was predicted."
    many = f"{thousands(tiles)} tiles predicted" if isinstance(tiles, int) else "Predicted"
    # Of a run that went on the seconds are those of its last part, the tiles all there are.
    said = f"{many}." if result.get("status") == "resumed" else f"{many}{took}."
    return f"{said} {waiting_sentence(result)}".rstrip()


def duration(seconds: float) -> str:
    """A length of time in plain words."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
