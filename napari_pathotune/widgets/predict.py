"""The short way to a prediction: which tuning, where, go."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any, Literal

from qtpy.QtWidgets import QHBoxLayout, QVBoxLayout, QWidget

from napari_pathotune import compat
from napari_pathotune.forms import config_from, form_of
from napari_pathotune.layers import facts
from napari_pathotune.reader import results_folder
from napari_pathotune.session import JobState, Session
from napari_pathotune.widgets.parts import Fold, Question, button, combo, heading, text_label
from napari_pathotune.widgets.tuning import TuningPanel
from napari_pathotune.workers import JobRunner

VIEW, DRAWN, SLIDE = "view", "drawn", "slide"
PLACES = (
    ("What is in view", VIEW),
    ("The drawn region", DRAWN),
    ("The whole slide", SLIDE),
)


@dataclass(frozen=True)
class PredictOptions:
    """What a person may want to change about a prediction; the defaults need no look."""

    density: Annotated[
        Literal["one value per tile", "twice as dense", "four times as dense"],
        {"label": "Detail", "tooltip": "Denser gives finer borders and takes four times as long each step."},
    ] = "one value per tile"
    attention: Annotated[
        bool, {"label": "Keep attention", "tooltip": "Also keep where the model looked; costs a little time and space."}
    ] = True
    attention_kind: Annotated[
        Literal["last", "rollout"],
        {
            "label": "Attention is",
            "tooltip": "last: where the last block looked. rollout: where all blocks together did (Abnar and Zuidema "
            "2020), which takes some more time.",
        },
    ] = "last"
    attention_tokens: Annotated[
        bool,
        {
            "label": "Attention of each prompt",
            "tooltip": "Also keep where every single prompt looked, beside the mean of its group; attention takes as "
            "many times more space.",
        },
    ] = False
    doubts: Annotated[
        bool,
        {
            "label": "Keep what tiles are like",
            "tooltip": "Also keep how unlike each tile is to all the tuning was trained on, and what the model sees in "
            "it: for the marks of unlike tiles and for suggestions. Takes one to three kilobytes a tile.",
        },
    ] = True
    resume: Annotated[
        bool, {"label": "Go on where stopped", "tooltip": "Off: predict again what was predicted before."}
    ] = True
    batch_size: Annotated[
        int | None, {"label": "Tiles at once", "tooltip": "Empty: as many as suits this machine. Halves by itself."}
    ] = None
    device: Annotated[
        Literal["auto", "cpu", "cuda", "mps"],
        {"tooltip": "What computes; auto takes a graphics card where there is one."},
    ] = "auto"
    precision: Annotated[
        Literal["auto", "float32", "bfloat16"],
        {"label": "Number format", "tooltip": "auto takes the faster one only where the results agree."},
    ] = "auto"


RESTART, BESIDE, LEAVE = "restart", "beside", "leave"
ANSWERS = (
    ("Replace it", "Predict anew; the old result is deleted when the new one is complete.", RESTART),
    ("Keep both", "Predict into a result of its own beside the old one.", BESIDE),
    ("Cancel", "Leave everything as it is.", LEAVE),
)
DENSITY = {"one value per tile": 1, "twice as dense": 2, "four times as dense": 4}


class PredictPanel(QWidget):
    """Tuning, place, button; the rest is folded away."""

    def __init__(self, session: Session, runner: JobRunner) -> None:
        super().__init__()
        self.session, self.runner = session, runner
        wanted = compat.preferences()
        self.options = PredictOptions(device=wanted.device, precision=wanted.precision)  # type: ignore[arg-type]
        self.tuning = TuningPanel(session)
        self.place = combo("Where to predict", "What is predicted; it starts with what is in view.")
        for text, value in PLACES:
            self.place.addItem(text, value)
        self.go = button("Predict", "Predict with the chosen tuning; the overlay fills in while you look around.")
        self.go.setDefault(True)
        self.hint = text_label()
        self.question = Question("A result with other settings", ANSWERS)
        self._asked_job: Any = None
        self.form = form_of(self.options)
        self.fold = Fold("More options", "Detail, attention, device and number format.")
        self.fold.put(self.form.native)
        self._lay_out()
        self.go.clicked.connect(self.predict)
        self.question.answered.connect(self._on_question_answered)
        self.tuning.choice.activated.connect(self._on_tuning_chosen)
        for signal in (
            session.slides_changed,
            session.active_changed,
            session.tuning_changed,
            session.drawings_changed,
        ):
            signal.connect(self.refresh)
        session.stage_changed.connect(self._on_stage_changed)
        for name in ("active_changed", "tuning_changed"):
            getattr(session, name).connect(self._on_subject_changed)
        self.place.activated.connect(lambda _: self.refresh())
        self.refresh()

    def _lay_out(self) -> None:
        row = QHBoxLayout()
        row.addWidget(self.place, 1)
        row.addWidget(self.go)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(4, 6, 4, 4)
        layout.setSpacing(4)
        layout.addWidget(heading("Tuning"))
        layout.addWidget(self.tuning)
        layout.addWidget(heading("Where"))
        layout.addLayout(row)
        layout.addWidget(self.hint)
        layout.addWidget(self.question)
        layout.addWidget(self.fold)
        layout.addStretch(1)

    @property
    def is_of_whole_slides(self) -> bool:
        """Whether the tuning learned from whole slides: it then answers for a whole slide, never for a part of it."""
        from pathotune.methods import METHODS, level_of

        tuning = self.session.tuning
        return tuning is not None and tuning.method in METHODS and level_of(tuning.method) in ("slide", "patient")

    def refresh(self) -> None:
        """Say what is missing, and let the button be pressed only when nothing is."""
        whole = self.is_of_whole_slides
        self.place.setEnabled(not whole)
        if whole:
            self.place.setCurrentIndex(self.place.findData(SLIDE))
        for name in ("density", "attention", "attention_kind", "attention_tokens", "doubts"):
            self.form[name].enabled = not whole
        missing = self.missing()
        self.hint.setText(missing)
        self.hint.setVisible(bool(missing))
        self.go.setEnabled(not missing and self.runner.is_free)

    def _on_subject_changed(self) -> None:
        self.question.setVisible(False)  # it was about another slide or tuning
        self._prepare()

    def _prepare(self, at_once: bool = False, replace_it: bool = False) -> None:
        """Have the overlay's layer before the job: making one in mid-run would hold the window up.

        A store that is on disk already comes with its slide by the reader; only when a job starts (`at_once`) and its
        layers are not there is one made for it too.
        """
        slide, tuning = self.session.slide, self.session.tuning
        if slide is None or slide.mpp is None or tuning is None or self.is_of_whole_slides:
            return
        from pathotune.inference.predictions import store_path

        store = store_path(slide.path, tuning.name, results_folder())
        if store.exists() and not at_once:
            return
        classes = [(str(entry["name"]), entry.get("color")) for entry in tuning.classes]
        self.session.shown.prepare(
            str(store), tuning.name, classes, tuning.reading, self.stride_px(), replace_it, self._keeps_attention()
        )

    def _keeps_attention(self) -> bool:
        """Whether the prediction will have attention: wanted, and the backbone has patches to look at."""
        tuning = self.session.tuning
        return tuning is not None and bool(self.form["attention"].value) and bool(tuning.backbone.get("patch_size"))

    def missing(self) -> str:
        """What a prediction still needs, as a sentence; empty where it can start."""
        missing = self.missing_tuning_or_slide()
        if missing:
            return missing
        if self.place.currentData() == DRAWN and self._drawing() is None:
            return "Draw a region with the tools of a Shapes layer (rectangle, polygon) and select its layer."
        return ""

    def missing_tuning_or_slide(self) -> str:
        """What a prediction of any place still needs, as a sentence."""
        from pathotune.errors import TuningMismatch
        from pathotune.methods.fitting import check_slide

        slide = self.session.slide
        if slide is None:
            return "Open a slide first."
        if slide.mpp is None:
            return "State the slide's pixel size above first."
        if self.session.tuning is None:
            return "Choose a tuning, or make one under Tune."
        try:
            check_slide(self.session.tuning, slide)
        except TuningMismatch as error:
            return str(error)
        return ""

    def predict(self) -> None:
        """Hand the job to the worker."""
        if self.missing():
            self.refresh()
            return
        self.start(self.place.currentData())

    def start(self, place: str, follows: bool = False) -> bool:
        """Predict a place with what is chosen, and say whether it started; where it could not, the reason is shown.

        Parameters
        ----------
        place : one of those in `PLACES`.
        follows : it goes on from what was just predicted, and gives way to whatever the person starts.
        """
        from pathotune.errors import PathotuneError

        try:
            job = self.job(config_from(self.form, self.options), place)
        except PathotuneError as error:
            compat.show_error(str(error))
            return False
        if follows:
            job.arguments["resume"] = True
        elif self._differs_from_what_is_there(job):
            if not self._is_kept_beside(job):
                self._ask(job)
                return False
            job.arguments["on_mismatch"] = BESIDE  # as it was answered before
        self._submit(job, follows)
        return True

    def _submit(self, job: Any, gives_way: bool = False) -> None:
        self.question.setVisible(False)
        self._asked_job = job
        if job.arguments.get("on_mismatch") != BESIDE:  # whose store gets a name that the worker chooses
            self._prepare(at_once=True, replace_it=job.arguments.get("on_mismatch") == RESTART)
        path = facts(self.session.active_layer)["path"]
        self.runner.submit(job, path, f"Starting: {_words_of(job)}…", gives_way)

    def _differs_from_what_is_there(self, job: Any) -> bool:
        """Whether a result of this tuning lies on this slide with another stride; asked before the worker has to."""
        from pathotune.inference.predictions import store_path

        slide, tuning = self.session.slide, self.session.tuning
        if slide is None or tuning is None:
            return False
        return self._has_its_stride(store_path(slide.path, tuning.name, results_folder()), job) is False

    def _is_kept_beside(self, job: Any) -> bool:
        """Whether a result beside the first one, NAME~2 or ~3, has this job's stride: the run goes on with that."""
        from pathotune.inference.locations import further_paths
        from pathotune.inference.predictions import store_path

        slide, tuning = self.session.slide, self.session.tuning
        if slide is None or tuning is None:
            return False
        first = store_path(slide.path, tuning.name, results_folder())
        return any(self._has_its_stride(path, job) for path in takewhile(Path.exists, further_paths(first)))

    def _has_its_stride(self, store: Path, job: Any) -> bool | None:
        """Whether a store on disk has the job's stride; None where there is no store."""
        from pathotune.inference.predictions import read_attributes

        slide, tuning = self.session.slide, self.session.tuning
        there = read_attributes(store).get("grid", {}).get("stride_px0")
        if there is None or slide is None or tuning is None or slide.mpp is None or self.is_of_whole_slides:
            return None
        stride = job.arguments["stride_px"] * tuning.reading.mpp / slide.mpp.x
        return bool(abs(float(there[0]) - stride) <= 1e-6 * stride)

    def _ask(self, job: Any, details: str = "") -> None:
        self._asked_job = job
        self.question.ask(
            "<b>There is a result of this tuning on this slide, made with other settings.</b> Replace or keep it?",
            details,
        )

    def _on_question_answered(self, answer: str) -> None:
        from pathotune.execution.job import Job

        if answer != LEAVE and self._asked_job is not None and not self.missing():
            arguments = {**self._asked_job.arguments, "on_mismatch": answer}
            self._submit(Job(self._asked_job.command, arguments))

    def job(self, options: PredictOptions, place: str = "") -> Any:
        """The prediction as data: what the worker, the command line and a YAML file share.

        Parameters
        ----------
        place : one of those in `PLACES`; "" is the one that is chosen.
        """
        from pathotune.errors import NoTiles
        from pathotune.execution.job import Job

        slide, tuning = self.session.slide, self.session.tuning
        if slide is None or tuning is None or slide.mpp is None:
            raise RuntimeError("predict was called although something is missing")
        place, view = place or self.place.currentData(), self.session.view_box_px0()
        arguments: dict[str, Any] = {
            "slide": str(slide.path),
            "tuning": str(tuning.path),
            "out": str(results_folder()),
            "slide_mpp": slide.mpp.mean if slide.mpp.source == "stated" else None,
            "batch_size": options.batch_size,
            "device": options.device,
            "precision": options.precision,
            "resume": options.resume,
        }
        if self.is_of_whole_slides:
            return Job("predict", {key: value for key, value in arguments.items() if value is not None})
        arguments |= {
            "stride_px": stride_of(tuning.reading.tile_px, options.density),
            "attention": options.attention,
            "attention_kind": options.attention_kind,
            "attention_tokens": options.attention_tokens,
            "reliability": options.doubts,
            "features": options.doubts,
        }
        if place == VIEW and view is not None:
            arguments["box_px0"] = list(view)
        if place == DRAWN:
            arguments["polygon_px0"] = self.drawn_area()
            if arguments["polygon_px0"] is None:
                raise NoTiles("The drawn region has no area. Draw a rectangle, an ellipse or a polygon.")
        if view is not None:
            # Also a whole slide starts in the middle of what the person looks at.
            arguments["start_point_px0"] = [view[0] + view[2] / 2, view[1] + view[3] / 2]
        return Job("predict", {key: value for key, value in arguments.items() if value is not None})

    def stride_px(self) -> int:
        """From one tile to the next as the form says now, in pixels of the tuning's reading."""
        tuning = self.session.tuning
        return stride_of(tuning.reading.tile_px if tuning else 1, str(self.form["density"].value))

    def drawn_area(self) -> dict[str, Any] | None:
        """The selected shapes of the drawn layer, or all of them, as a GeoJSON geometry in level-0 pixels."""
        import shapely

        from napari_pathotune.drawings import regions_from_layer

        layer, slide_layer = self._drawing(), self.session.active_layer
        if layer is None or slide_layer is None:
            return None
        chosen = sorted(layer.selected_data) or range(len(layer.data))
        drawn = regions_from_layer(layer, slide_layer, chosen)
        areas = [region.geometry for region in drawn if region.geometry.area > 0]
        return dict(shapely.geometry.mapping(shapely.union_all(areas))) if areas else None

    def _drawing(self) -> Any | None:
        """The Shapes layer whose shapes say where: the selected one, or the topmost with something in it."""
        layers = [layer for layer in self.session.drawing_layers() if hasattr(layer, "shape_type") and len(layer.data)]
        chosen = [layer for layer in layers if layer in self.session.viewer.layers.selection]
        return (chosen or layers or [None])[-1]

    def _on_tuning_chosen(self) -> None:
        if self.session.tuning is not None and self.session.slide is not None:
            self.runner.warm()

    def _on_stage_changed(self, job: JobState) -> None:
        self.go.setEnabled(self.runner.is_free and not self.missing())
        if job.stage == "failed" and job.command == "predict" and job.error == "StoreMismatch":
            self._ask(self._asked_job, job.text)
        if job.stage in ("done", "cancelled") and job.command == "tune" and job.result.get("out"):
            self.tuning.load(Path(job.result["out"]))


def _words_of(job: Any) -> str:
    """Where a job predicts, as the middle of a sentence."""
    place = VIEW if "box_px0" in job.arguments else DRAWN if "polygon_px0" in job.arguments else SLIDE
    text = next(text for text, value in PLACES if value == place)
    return text[:1].lower() + text[1:]


def stride_of(tile_px: int, density: str) -> int:
    """How far from one tile to the next, in pixels of the reading, for one of `DENSITY`."""
    return max(1, tile_px // DENSITY[density])
