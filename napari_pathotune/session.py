"""What is open and computed in one viewer, and the job that runs: plain state with psygnal events, no Qt."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from psygnal import Signal

from napari_pathotune import compat
from napari_pathotune.jobs import JobState, job_after
from napari_pathotune.layers import facts
from napari_pathotune.overlay import Reading
from napari_pathotune.results import Result, ResultLayers, same_path
from pathotune import events

if TYPE_CHECKING:
    from pathotune.execution.job import Job
    from pathotune.methods.checkpoint import Tuning
    from pathotune.slides.slide import Slide

__all__ = ["Box", "JobState", "Place", "Result", "Session", "same_path", "session_of"]

Box = tuple[float, float, float, float]
_SESSIONS: weakref.WeakKeyDictionary[Any, Session] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class Place:
    """What lies under the cursor."""

    x_um: float
    y_um: float
    x_px0: float
    y_px0: float
    slide: str
    reading: Reading | None


class Session:
    """The open slides and results of one viewer.

    Use `session_of(viewer)`: there is one per viewer, whatever proxy napari hands out.
    """

    slides_changed = Signal()
    active_changed = Signal()
    results_changed = Signal()
    job_changed = Signal(object)
    stage_changed = Signal(object)
    tuning_changed = Signal()
    drawings_changed = Signal()
    noted = Signal(str, str)
    event_taken = Signal(object)
    shard_done = Signal(object)
    adopting = Signal(object, object)
    repainted = Signal(object)

    def __init__(self, viewer: Any) -> None:
        self._viewer = weakref.ref(viewer)
        self.job = JobState()
        self.job_slide_path = ""
        self.tunes_on_cohort = False
        self.tuning: Tuning | None = None
        self.results: list[Result] = []
        self.shown = ResultLayers(self)
        self.companions: dict[str, Any] = {}  # what other files keep for this session, freed with it
        self._active: Any = None
        viewer.layers.events.inserted.connect(self._on_layer_inserted)
        viewer.layers.events.removed.connect(self._on_layer_removed)
        viewer.layers.selection.events.active.connect(self._on_layer_selected)
        for layer in list(viewer.layers):
            self._take_in(layer)
        self._keep_apart()

    @property
    def viewer(self) -> Any:
        """The viewer model; held weakly, so that a closed one is freed."""
        return self._viewer()

    # -- slides

    @property
    def slide_layers(self) -> list[Any]:
        """The layers that show slides, in the viewer's order."""
        return [layer for layer in self.viewer.layers if facts(layer).get("kind") == "slide"]

    @property
    def active_layer(self) -> Any | None:
        """The slide layer that is worked on: the one chosen, or the topmost."""
        layers = self.slide_layers
        if self._active in layers:
            return self._active
        return layers[-1] if layers else None

    @property
    def slide(self) -> Slide | None:
        """The slide that is worked on."""
        layer = self.active_layer
        return None if layer is None else facts(layer)["slide"]

    @property
    def picture(self) -> Slide | None:
        """The same slide as it is shown: its colours may be converted, which is for the eye alone."""
        layer = self.active_layer
        return None if layer is None else facts(layer).get("picture", facts(layer)["slide"])

    def has_slide(self, path: str) -> bool:
        """Whether this slide is open."""
        return any(same_path(facts(layer)["path"], path) for layer in self.slide_layers)

    def activate(self, layer: Any) -> None:
        """Choose the slide that is worked on."""
        if layer is not self._active:
            self._active = layer
            self.active_changed.emit()

    def show_alone(self, layer: Any) -> None:
        """Work on a slide and show it without the others: slides all begin at the same place and hide each other.

        What belongs to another slide is hidden with it, and comes back as it was when that one is shown again.
        """
        path = facts(layer)["path"]
        for other in self.viewer.layers:
            about = facts(other)
            owner = about.get("path", about.get("slide_path", ""))
            if not owner:
                continue
            if not same_path(owner, path):
                about.setdefault("was_visible", other.visible)
                other.visible = False
            elif "was_visible" in about:
                other.visible = about.pop("was_visible")
        layer.visible = True
        self.activate(layer)
        if self.view_box_px0() is None:
            self.look_at_all()

    def state_mpp(self, mpp: float) -> None:
        """Give the active slide the pixel size the person states; it is remembered for this file.

        Parameters
        ----------
        mpp : micrometres per level-0 pixel.
        """
        from napari_pathotune.layers import pixel_um, units_of
        from pathotune.slides import open_slide

        layer = self.active_layer
        if layer is None:
            return
        slide = open_slide(facts(layer)["path"], mpp=mpp)
        facts(layer)["slide"] = slide
        camera = compat.camera(self.viewer)
        place, before = layer.world_to_data(camera.center[-2:]), layer.scale[-1]
        layer.scale, layer.units = pixel_um(slide), units_of(slide)
        # The person goes on seeing what she saw: it has another size now, not another place in the window.
        camera.center = (*camera.center[:-2], *layer.data_to_world(place))
        camera.zoom *= before / layer.scale[-1]
        self.active_changed.emit()

    def view_box_px0(self) -> Box | None:
        """(x, y, width, height) of the active slide that the canvas shows, in level-0 pixels; None where it shows none.

        From the camera: a layer's own `corner_pixels` reach to the borders of its chunks and stay wide when the person
        zooms in.
        """
        layer = self.active_layer
        if layer is None:
            return None
        camera, size = compat.camera(self.viewer), compat.canvas_size(self.viewer)
        centre, half = np.asarray(camera.center[-2:], dtype=float), np.asarray(size) / 2 / camera.zoom
        corners = [layer.world_to_data(centre + half * sign) for sign in ((-1, -1), (-1, 1), (1, -1), (1, 1))]
        # The centre of level-0 pixel (0, 0) lies at 0 in napari and at (0.5, 0.5) in level-0 pixels.
        places = np.asarray(corners)[:, -2:] + 0.5
        slide: Slide = facts(layer)["slide"]
        (top, left), (bottom, right) = places.min(axis=0), places.max(axis=0)
        left, top = max(float(left), 0.0), max(float(top), 0.0)
        right, bottom = min(float(right), slide.width_px0), min(float(bottom), slide.height_px0)
        return (left, top, right - left, bottom - top) if right > left and bottom > top else None

    def look_at(self, x_px0: float, y_px0: float) -> None:
        """Move the view so that this place of the active slide, in level-0 pixels, lies in its middle."""
        layer = self.active_layer
        if layer is not None:
            centre = layer.data_to_world((y_px0 - 0.5, x_px0 - 0.5))
            camera = compat.camera(self.viewer)
            camera.center = (*camera.center[:-2], float(centre[-2]), float(centre[-1]))

    def look_at_box(self, slide_path: str, box_px0: Box) -> bool:
        """Move the view to a box of a slide, with some of what lies around it, and say whether the slide is open.

        Parameters
        ----------
        box_px0 : (x, y, width, height) in level-0 pixels; a point still has a view.
        """
        layer = next((one for one in self.slide_layers if same_path(facts(one)["path"], slide_path)), None)
        if layer is None:
            return False
        self.activate(layer)
        x, y, width, height = box_px0
        self.look_at(x + width / 2, y + height / 2)
        extent_um = max(abs(part) * side for part, side in zip(layer.scale[-2:], (height, width), strict=True))
        compat.camera(self.viewer).zoom = min(min(compat.canvas_size(self.viewer)) / max(4 * extent_um, 200.0), 4.0)
        return True

    def look_at_all(self) -> None:
        """Show the whole active slide, with a little glass around it."""
        layer = self.active_layer
        if layer is None:
            return
        slide: Slide = facts(layer)["slide"]
        size = np.asarray(layer.scale[-2:]) * (slide.height_px0, slide.width_px0)
        self.look_at(slide.width_px0 / 2, slide.height_px0 / 2)
        compat.camera(self.viewer).zoom = 0.95 * float((np.asarray(compat.canvas_size(self.viewer)) / size).min())

    def drawing_layers(self) -> list[Any]:
        """Shapes and Points layers the person drew regions on; measurements are none."""
        return [
            layer
            for layer in self.viewer.layers
            if type(layer).__name__ in ("Shapes", "Points")
            and facts(layer).get("kind") not in ("measurement", "measured")
        ]

    # -- results

    def results_of(self, layer: Any | None) -> list[Result]:
        """The results that belong to a slide layer."""
        path = "" if layer is None else facts(layer)["path"]
        return [result for result in self.results if same_path(result.slide_path, path)]

    @property
    def result(self) -> Result | None:
        """The topmost result of the active slide, or of all where no slide is open."""
        found = self.results_of(self.active_layer) or ([] if self.slide_layers else self.results)
        visible = [result for result in found if result.is_seen]
        # One that waits for its prediction does not stand before one that holds something.
        shown = [result for result in visible if not result.is_empty] or visible or found
        return shown[-1] if shown else None

    def result_at(self, store: str) -> Result | None:
        """The result that shows this store."""
        return next((result for result in self.results if same_path(result.store, store)), None)

    def place_at(self, position: Any) -> Place | None:
        """What lies under a world position (y, x): coordinates and the visible result there."""
        layer = self.active_layer
        if layer is None or len(position) < 2:
            return None
        y_um, x_um = (float(part) for part in position[-2:])
        y, x = (float(part) + 0.5 for part in layer.world_to_data(position))
        slide: Slide = facts(layer)["slide"]
        if not (0 <= x < slide.width_px0 and 0 <= y < slide.height_px0):
            return None
        result = self.result
        reading = result.grid.at(y_um, x_um) if result is not None else None
        return Place(x_um, y_um, x, y, slide.name, reading)

    # -- the job

    def set_tuning(self, tuning: Tuning | None) -> None:
        """Choose the tuning to predict with."""
        self.tuning = tuning
        self.tuning_changed.emit()

    def start(self, job: Job, slide_path: str, text: str) -> None:
        """Note that a job was handed to the worker."""
        self.job_slide_path = slide_path
        self.tunes_on_cohort = job.command == "tune" and bool(job.arguments.get("cohort"))
        self._set_job(JobState("starting", job.command, text=text))

    def cancelling(self) -> None:
        """Note that the person asked to stop."""
        if self.job.is_active:
            self._set_job(replace(self.job, stage="cancelling", text="Stopping…", hold=""))

    def holding(self, wanted: bool) -> None:
        """Note that the person asked the job to stand still, or to go on."""
        if self.job.stage in ("starting", "running"):
            self._set_job(replace(self.job, hold="pausing" if wanted else ""))

    def take(self, event: events.Event) -> None:
        """Take in one event of the running job; `event_taken` passes it on as it is."""
        self.event_taken.emit(event)
        if isinstance(event, events.Note):
            self.noted.emit(event.level, event.text)
        elif isinstance(event, events.ShardDone):
            self.shard_done.emit(event)
        else:
            self._set_job(job_after(self.job, event))

    def _set_job(self, state: JobState) -> None:
        """Take the new state; `stage_changed` is for panels that need not look at every step."""
        if state is self.job:
            return
        is_new_stage = state.stage != self.job.stage
        self.job = state
        self.job_changed.emit(state)
        if is_new_stage:
            self.stage_changed.emit(state)

    # -- layers coming and going

    def _on_layer_inserted(self, event: Any) -> None:
        self._take_in(event.value)
        if facts(event.value).get("kind") == "slide":
            self._keep_apart()

    def _keep_apart(self) -> None:
        """Show the slide that is worked on without the others, and say so: slides lie on each other."""
        shown, layer = [other for other in self.slide_layers if other.visible], self.active_layer
        if layer is None or len(shown) < 2:
            return
        self.show_alone(layer)
        name = facts(layer)["slide"].name
        compat.show_info(f"{name} is shown, the other open slides are hidden: choose one under Slide in the dock.")

    def _take_in(self, layer: Any) -> None:
        about = facts(layer)
        kind = about.get("kind")
        if kind == "slide":
            self.slides_changed.emit()
            self.activate(layer)
        elif kind in ("classes", "probability", "attention"):
            self._join(layer, kind, about)
            self.results_changed.emit()
        elif type(layer).__name__ in ("Shapes", "Points"):
            self._lay_on_slide(layer)
            layer.events.name.connect(self._on_drawing_changed)
            layer.events.data.connect(self._on_drawing_changed)
            self.drawings_changed.emit()

    def _lay_on_slide(self, layer: Any) -> None:
        """A layer made by napari's own button gets the slide's units: one without switches them off for all.

        What it holds stays where it is, as the world is in micrometres already.
        """
        slide_layer = self.active_layer
        if slide_layer is None or facts(layer) or layer.ndim != 2:
            return
        if all(str(unit) == "pixel" for unit in layer.units):
            layer.units = slide_layer.units
        if not len(layer.data):
            layer.metadata["pathotune"] = {"kind": "regions", "slide_path": facts(slide_layer)["path"], "source": ""}

    def _join(self, layer: Any, kind: str, about: dict[str, Any]) -> None:
        result = self.result_at(about["store"])
        if result is None:
            if "grid" not in about:
                return  # attention lies below and so comes first: joined when its result's grid arrives
            result = Result(about["store"], about["slide_path"], about["grid"])
            self.results.append(result)
            for other in self.viewer.layers:
                if facts(other).get("kind") == "attention" and same_path(facts(other)["store"], result.store):
                    result.attention = other
        setattr(result, kind, layer)

    def _on_layer_removed(self, event: Any) -> None:
        layer = event.value
        about = facts(layer)
        if about.get("kind") == "slide":
            if self._active is layer:
                self._active = None
            for name in {"slide", "picture"} & about.keys():
                about[name].close()
            if not self.slide_layers:
                compat.restore_view(self.viewer)
            self.slides_changed.emit()
            self.active_changed.emit()
        elif about.get("kind") in ("classes", "probability", "attention"):
            self._part(layer, about["kind"])
        elif type(layer).__name__ in ("Shapes", "Points"):
            self.drawings_changed.emit()

    def _part(self, layer: Any, kind: str) -> None:
        for result in list(self.results):
            if getattr(result, kind) is layer:
                setattr(result, kind, None)
                if result.classes is None and result.probability is None:
                    self.results.remove(result)
        self.results_changed.emit()

    def _on_layer_selected(self, event: Any) -> None:
        if event.value is not None and facts(event.value).get("kind") == "slide":
            self.activate(event.value)

    def _on_drawing_changed(self, event: Any = None) -> None:
        self.drawings_changed.emit()


def session_of(viewer: Any) -> Session:
    """The one session of a viewer."""
    model = compat.plain_viewer(viewer)
    if model not in _SESSIONS:
        from napari_pathotune.slide_view import attach

        _SESSIONS[model] = Session(model)
        attach(_SESSIONS[model])
    return _SESSIONS[model]
