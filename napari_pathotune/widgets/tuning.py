"""Choice of a tuning file, the card that says what it does, and why one cannot be used."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QSignalBlocker
from qtpy.QtWidgets import QFileDialog, QHBoxLayout, QVBoxLayout, QWidget

from napari_pathotune import compat
from napari_pathotune.layers import DEFAULT_COLOR, rgb
from napari_pathotune.reader import results_folder
from napari_pathotune.session import JobState, Session
from napari_pathotune.widgets.library import LibraryPanel
from napari_pathotune.widgets.parts import Card, Fold, Question, button, classes_html, combo

if TYPE_CHECKING:
    from pathotune.methods.checkpoint import Tuning

SUFFIX = ".pathotune.safetensors"
# What a prediction fails with where it is the tuning or its backbone that does not do.
REFUSALS = (
    *("TuningMismatch", "TuningUnreadable", "BackboneUnavailable", "WeightsRefused", "MissingPackage", "UnknownName"),
)


class TuningPanel(QWidget):
    """Combo box of the tunings at hand, a button for others, and the chosen one's card."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session
        self._others: list[Path] = []
        self.choice = combo(
            "Tuning", "What was learned from drawn regions. The tunings of the results folder are listed."
        )
        self.other = button("Open…", "Choose a tuning file from another folder.", "Open a tuning file")
        self.card = Card("About this tuning")
        self.refusal = Question("A tuning that cannot be used", (("Close", "Hide this.", "close"),))
        self.library = LibraryPanel()
        self.fold = Fold("Library", "All tunings by backbone: search, use, rename, read their cards, delete.")
        self.fold.put(self.library)
        self._earlier: Tuning | None = None
        row = QHBoxLayout()
        row.addWidget(self.choice, 1)
        row.addWidget(self.other)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(3)
        layout.addLayout(row)
        for widget in (self.refusal, self.card, self.fold):
            layout.addWidget(widget)
        self.fold.head.toggled.connect(lambda opened: self.library.refresh() if opened else None)
        self.library.used.connect(self.load)
        self.library.moved.connect(self._on_file_moved)
        session.stage_changed.connect(self._on_stage_changed)
        self.choice.activated.connect(self._on_choice_activated)
        self.other.clicked.connect(self._on_other_clicked)
        session.tuning_changed.connect(self._on_tuning_changed)
        self.refresh()

    def refresh(self) -> None:
        """List the tunings of the results folder again, newest first."""
        folder = results_folder()
        found = sorted(folder.glob(f"*{SUFFIX}"), key=lambda path: path.stat().st_mtime, reverse=True)
        paths = list(dict.fromkeys([*self._others, *found]))
        with QSignalBlocker(self.choice):
            self.choice.clear()
            self.choice.addItem("Choose a tuning…" if paths else "None yet", "")
            for path in paths:
                self.choice.addItem(path.name.removesuffix(".safetensors").removesuffix(".pathotune"), str(path))
            tuning = self.session.tuning
            row = self.choice.findData(str(tuning.path)) if tuning is not None else 0
            self.choice.setCurrentIndex(max(0, row))
        self._show_card()
        self.library.set_current(tuning.path if tuning is not None else None)
        if self.fold.head.isChecked():
            self.library.refresh()

    def load(self, path: Path) -> None:
        """Choose a tuning file; one that cannot be used here or on the open slide is said, and nothing changes."""
        from pathotune.errors import PathotuneError
        from pathotune.methods.checkpoint import Tuning
        from pathotune.methods.fitting import check_here, check_slide, what_is_to_come

        try:
            tuning = Tuning.load(path)
            check_here(tuning)
            if self.session.slide is not None:
                check_slide(tuning, self.session.slide)
        except PathotuneError as error:
            compat.show_error(str(error))  # seen from the other tabs too
            self.refuse(str(error))
            return
        self.refusal.setVisible(False)
        note = what_is_to_come(tuning)
        if note:
            compat.show_info(note)
        if self.session.tuning is not None and self.session.tuning.path != path:
            self._earlier = self.session.tuning
        if path.parent != results_folder() and path not in self._others:
            self._others.insert(0, path)
        self.session.set_tuning(tuning)

    def refuse(self, sentence: str) -> None:
        """Say why a tuning cannot be used, and which one is in use as before."""
        tuning = self.session.tuning
        still = f" <b>{escape(tuning.name)}</b> stays in use." if tuning is not None else ""
        self.refresh()
        self.refusal.ask(escape(sentence) + still)

    def _on_stage_changed(self, job: JobState) -> None:
        """A prediction that the tuning was to blame for: back to the one before."""
        if job.command != "predict":
            return
        if job.stage == "failed" and job.error in REFUSALS:
            if self._earlier is not None:
                self.session.set_tuning(self._earlier)
            self.refuse(job.text)
        if job.stage in ("done", "failed"):
            self._earlier = None
        tuning = self.session.tuning
        if job.stage == "done" and tuning is not None and tuning.path is not None and job.result.get("store"):
            self.library.illustrate(tuning.path, self.session.job_slide_path, str(job.result["store"]))

    def _on_file_moved(self, path: Path, target: Path | None) -> None:
        """A tuning was renamed or deleted; the one in use goes with its file."""
        from pathotune.errors import PathotuneError
        from pathotune.methods.checkpoint import Tuning

        if path in self._others:
            place = self._others.index(path)
            self._others[place : place + 1] = [target] if target is not None else []
        tuning = self.session.tuning
        if tuning is None or tuning.path != path:
            self.refresh()
            return
        try:
            self.session.set_tuning(Tuning.load(target) if target is not None else None)
        except PathotuneError as error:
            self.refuse(str(error))

    def _on_choice_activated(self, index: int) -> None:
        path = self.choice.itemData(index)
        if path:
            self.load(Path(path))
        else:
            self.session.set_tuning(None)

    def _on_other_clicked(self) -> None:
        chosen, _ = QFileDialog.getOpenFileName(
            self, "Open a tuning file", str(results_folder()), "Tuning files (*.safetensors)"
        )
        if chosen:
            self.load(Path(chosen))

    def _on_tuning_changed(self) -> None:
        self.refresh()

    def _show_card(self) -> None:
        tuning = self.session.tuning
        self.card.show_lines(tuning_lines(tuning) if tuning is not None else [])


def tuning_lines(tuning: Tuning) -> list[str]:
    """A tuning's card: classes with colours, backbone, pixel size, how it was judged."""
    classes = classes_html((str(entry["name"]), rgb(entry["color"] or DEFAULT_COLOR)) for entry in tuning.classes)
    method = escape(_title_of(tuning.method))
    lines = [
        classes,
        f"{method} on {escape(str(tuning.backbone['name']))}, reads tissue at {tuning.reading.mpp:g} µm per pixel",
    ]
    judged = _judged(tuning.training.get("metrics") or {})
    made = str(tuning.created)[:10]
    lines.append(" · ".join(part for part in (judged, f"made {made}" if made else "") if part))
    if tuning.backbone.get("licence"):
        lines.append(f"Backbone licence: {escape(str(tuning.backbone['licence']))}")
    return lines


def _judged(metrics: dict[str, Any]) -> str:
    accuracy = metrics.get("balanced_accuracy")
    return f"balanced accuracy {accuracy:.2f} on held-out regions" if isinstance(accuracy, int | float) else ""


def _title_of(method: str) -> str:
    from pathotune.methods import METHODS

    return METHODS[method].title if method in METHODS else method
