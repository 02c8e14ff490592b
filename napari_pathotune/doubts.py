"""How far predictions can be trusted: what is abstained, how undecided cells are, what no training saw; no Qt."""

from __future__ import annotations

import logging
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from psygnal import Signal

from napari_pathotune import compat
from napari_pathotune.layers import MICROMETRES, LayerData, facts
from napari_pathotune.likeness import Likest, LikestFinder, Unlikeness, read_unlikeness
from napari_pathotune.markings import placed
from napari_pathotune.overlay import ClassGrid, entropy
from napari_pathotune.session import Place, Result, Session, same_path

log = logging.getLogger("pathotune")

UNCERTAINTY, UNLIKE = "uncertainty", "unlike"
UNLIKE_TITLE = "unlike the training tiles"
READ_EVERY_S = 2.0  # while a prediction fills the store


class UncertaintyPicture:
    """The entropy of a grid's cells as an array that follows the grid while it is looked at.

    Parameters
    ----------
    grid : whose cells.
    """

    def __init__(self, grid: ClassGrid) -> None:
        self.grid = grid
        self.layer: Any = None
        self.is_stale = False
        self.values = entropy(grid.probabilities)  # (rows, columns), NaN where nothing is predicted
        grid.watchers.append(self._on_put)

    def _on_put(self, rows: slice, columns: slice) -> None:
        if self.layer is not None and self.layer.visible:
            self.values[rows, columns] = entropy(self.grid.probabilities[:, rows, columns])
        else:
            self.is_stale = True  # nobody looks: nothing is computed

    def catch_up(self) -> None:
        """Compute what was left out while nobody looked."""
        if self.is_stale:
            self.is_stale = False
            self.values[...] = entropy(self.grid.probabilities)

    def release(self) -> None:
        """Follow the grid no longer."""
        if self._on_put in self.grid.watchers:
            self.grid.watchers.remove(self._on_put)


class Doubts:
    """The doubts about the predictions of one session; use `doubts_of`.

    A layer is made only when it is asked for, and costs nothing while it is hidden.
    """

    changed = Signal()
    waiting = Signal()  # something is being read: call `advance` until `is_busy` is over
    likest_found = Signal(object)

    def __init__(self, session: Session) -> None:
        self.session = session
        self.marks_unlike = False
        self._unlikeness: dict[str, Unlikeness] = {}
        self._reading: dict[str, Future[Unlikeness]] = {}
        self._seeking: Future[Likest] | None = None
        self._next_seek: tuple[str, tuple[int, int]] | None = None
        self._sought: tuple[str, tuple[int, int]] | None = None
        self._finder, self._next_read = LikestFinder(), 0.0
        self._pool: ThreadPoolExecutor | None = None
        self._abstain_below = compat.preferences().abstain_below / 100
        self._pictures: dict[int, UncertaintyPicture] = {}  # by the id of their layer
        session.results_changed.connect(self._on_results_changed)
        session.repainted.connect(self._on_repainted)
        session.adopting.connect(self._on_adopting)
        session.active_changed.connect(self._look_for_unlike)
        session.shard_done.connect(self._on_shard_done)
        session.stage_changed.connect(self._on_stage_changed)
        session.viewer.layers.events.removed.connect(self._on_layer_removed)
        self._on_results_changed()

    # -- abstaining

    @property
    def abstain_below(self) -> float:
        """Cells whose largest probability is smaller belong to no class; 0 where nothing is abstained."""
        return self._abstain_below

    @abstain_below.setter
    def abstain_below(self, value: float) -> None:
        self._abstain_below = min(max(value, 0.0), 1.0)
        self._abstain()
        self.changed.emit()

    def show_abstained(self, result: Result, on: bool) -> None:
        """Show or hide what is abstained, as classes are."""
        result.grid.shows_abstained = on
        result.grid.paint()
        self.session.shown.repaint(result)

    def _abstain(self) -> None:
        for result in self.session.results:
            if result.grid.abstain_below != self._abstain_below:
                result.grid.abstain_below = self._abstain_below
                result.grid.paint()
                self.session.shown.repaint(result)

    # -- uncertainty

    def uncertainty(self, result: Result) -> Any:
        """The uncertainty layer of a result, made where there is none."""
        layer = result.others.get(UNCERTAINTY)
        if layer is None:
            picture = UncertaintyPicture(result.grid)
            layer = self.add(result, uncertainty_layer(picture, result))
            picture.layer = layer
            self._pictures[id(layer)] = picture
            layer.events.visible.connect(lambda: self._follow(result))
        return layer

    def add(self, result: Result, data: LayerData) -> Any:
        """Make a layer of a result, hidden, below its classes; it belongs to the result from now on."""
        kind = data[1]["metadata"]["pathotune"]["kind"]
        add_next = self.session.shown.show_result(result.store, [data])
        while add_next():
            pass
        for layer in self.session.viewer.layers:
            if facts(layer).get("kind") == kind and facts(layer).get("store") == result.store:
                result.others[kind] = layer
        return result.others[kind]

    def _follow(self, result: Result) -> None:
        """Bring the layer to what its result holds now."""
        layer = result.others.get(UNCERTAINTY)
        if layer is None or not layer.visible:
            return
        picture = self._pictures[id(layer)]
        if picture.grid is not result.grid:
            picture.release()
            picture = self._pictures[id(layer)] = UncertaintyPicture(result.grid)
            picture.layer = layer
            layer.data = picture.values
            layer.scale, layer.translate = result.grid.scale_um, result.grid.translate_um
        picture.catch_up()
        layer.refresh(thumbnail=False, highlight=False, extent=False)

    # -- unlike the training tiles

    def mark_unlike(self, on: bool) -> None:
        """Mark, or mark no longer, the tiles of the shown result that are unlike everything the tuning learned from."""
        self.marks_unlike = on
        self._look_for_unlike()

    def unlikeness(self, result: Result | None) -> Unlikeness | None:
        """What is known of a result's distances from the training tiles; None where nothing is read yet."""
        return None if result is None else self._unlikeness.get(result.store)

    def distance_at(self, place: Place | None) -> float | None:
        """How far the tile under the cursor is from the training tiles, in units of what is usual."""
        result = self.session.result
        known = self.unlikeness(result)
        if place is None or result is None or known is None or known.distance is None:
            return None
        cell = result.grid.cell_at(place.y_um, place.x_um)
        if cell is None or known.distance.shape != result.grid.shape:
            return None
        value = float(known.distance[cell])
        return value if value == value else None

    def seek_likest(self, place: Place | None) -> None:
        """Have the training tile found that the tile under the cursor is most like; `likest_found` tells it."""
        result = self.session.result
        cell = None if place is None or result is None else result.grid.cell_at(place.y_um, place.x_um)
        if result is None or cell is None or not result.grid.probabilities[:, cell[0], cell[1]].any():
            return
        if (result.store, cell) != self._sought:
            self._sought = self._next_seek = result.store, cell
            self._seek()
            self.waiting.emit()

    def _seek(self) -> None:
        if self._seeking is not None or self._next_seek is None:
            return  # of places passed over meanwhile only the last one counts
        (store, cell), self._next_seek = self._next_seek, None
        tuning = self.session.tuning
        tunings = [str(tuning.path)] if tuning is not None and tuning.path is not None else []
        slides = [facts(layer)["path"] for layer in self.session.slide_layers]
        self._seeking = self._submit(self._finder.find, store, cell, tunings, slides)

    def _look_for_unlike(self) -> None:
        """Have the shown result's distances read where they are not known, and show its marks and no others."""
        shown = self.session.result
        for result in self.session.results:
            layer = result.others.get(UNLIKE)
            wanted = self.marks_unlike and result is shown
            if layer is not None and layer.visible != wanted:  # napari draws again also where nothing changed
                layer.visible = wanted
        if shown is None or shown.is_empty:
            return
        known = self._unlikeness.get(shown.store)
        if known is None or (self.marks_unlike and known.distance is not None and known.marks is None):
            self._read(shown.store)
        elif self.marks_unlike and known.marks is not None:
            self._show_marks(shown, known)

    def _read(self, store: str) -> None:
        if store not in self._reading:
            self._reading[store] = self._submit(read_unlikeness, store, self.marks_unlike)
            self.waiting.emit()

    def _show_marks(self, result: Result, known: Unlikeness) -> None:
        if known.marks is None or known.distance is None or known.distance.shape != result.grid.shape:
            return
        layer = result.others.get(UNLIKE)
        if layer is None:
            layer = self.add(result, marks_layer(result, known))
        elif facts(layer).get("shown") is not known:
            layer.data = known.marks
            layer.scale, layer.translate = placed(result.grid.scale_um, result.grid.translate_um, known.fineness)
        facts(layer)["shown"] = known
        layer.visible = True

    # -- what threads have read

    @property
    def is_busy(self) -> bool:
        """Something is being read."""
        return bool(self._reading or self._seeking is not None)

    def advance(self) -> None:
        """Take in what has been read; the window's loop calls it."""
        if self.session.viewer is None:  # it was closed meanwhile: nobody waits for the answers
            self._reading.clear()
            self._seeking = self._next_seek = None
            return
        for store, reading in [item for item in self._reading.items() if item[1].done()]:
            del self._reading[store]
            try:
                self._unlikeness[store] = reading.result()
            except Exception as error:  # a store that is being written or was deleted: read again when it has changed
                log.info("distances of %s cannot be read now: %s", store, error)
                continue
            self._look_for_unlike()
            self.changed.emit()
        if self._seeking is not None and self._seeking.done():
            found, self._seeking = self._seeking, None
            try:
                self.likest_found.emit(found.result())
            except Exception as error:  # as above
                log.info("the most similar training tile cannot be found now: %s", error)
            self._seek()

    def _submit(self, work: Any, *arguments: Any) -> Future[Any]:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="pathotune-doubts")
        return self._pool.submit(work, *arguments)

    def _on_shard_done(self, event: Any) -> None:
        now = time.monotonic()
        if self.marks_unlike and now > self._next_read:
            self._next_read = now + READ_EVERY_S
            shown = self.session.result
            if shown is not None and same_path(shown.store, event.store):
                self._read(shown.store)

    def _on_adopting(self, result: Result, grid: ClassGrid) -> None:
        """What is known of a store that is begun anew is true no longer."""
        if not grid.predicted_cells:
            self._unlikeness.pop(result.store, None)
            if UNLIKE in result.others:
                result.others[UNLIKE].visible = False

    def _on_stage_changed(self, job: Any) -> None:
        if job.command != "predict" or job.stage not in ("done", "cancelled", "failed"):
            return
        for result in self.session.results:
            if same_path(result.slide_path, self.session.job_slide_path):
                self._unlikeness.pop(result.store, None)
        if self._pool is not None:
            self._submit(self._finder.forget)
        self._sought = None
        self._look_for_unlike()

    # -- what comes and goes

    def _on_repainted(self, result: Result) -> None:
        self._follow(result)

    def _on_results_changed(self) -> None:
        self._abstain()
        for result in self.session.results:
            for kind, layer in result.others.items():
                # An empty result is taken over by the next tuning, and its layers go with it.
                facts(layer)["store"] = result.store
                name = f"{facts(layer).get('label', kind)} · {title_of(result)}"
                if layer.name != name:
                    layer.name = name
            self._follow(result)
        self._look_for_unlike()

    def _on_layer_removed(self, event: Any) -> None:
        layer = event.value
        picture = self._pictures.pop(id(layer), None)
        if picture is not None:
            picture.release()
        for result in self.session.results:
            for kind in [kind for kind, other in result.others.items() if other is layer]:
                del result.others[kind]
                self.changed.emit()
        if facts(layer).get("kind") in ("classes", "probability"):
            self._remove_orphans()

    def _remove_orphans(self) -> None:
        """A result that was closed takes along what was made for it."""
        stores = {result.store for result in self.session.results}
        for layer in list(self.session.viewer.layers):
            if facts(layer).get("made_for_result") and facts(layer)["store"] not in stores:
                self.session.viewer.layers.remove(layer)


def uncertainty_layer(picture: UncertaintyPicture, result: Result) -> LayerData:
    """The entropy of a result's cells as a hidden heat map."""
    options = {
        **made_for(result, UNCERTAINTY, UNCERTAINTY),
        "colormap": "magma",
        "contrast_limits": (0.0, 1.0),
        "opacity": 0.7,
    }
    return picture.values, options, "image"


def marks_layer(result: Result, known: Unlikeness) -> LayerData:
    """Outlines of the cells that are unlike the training tiles."""
    return known.marks, {**made_for(result, UNLIKE, UNLIKE_TITLE, known.fineness), "rgb": True}, "image"


def made_for(result: Result, kind: str, label: str, fineness: int = 1) -> dict[str, Any]:
    """Options of a hidden layer over a result's cells, with that many pixels a cell, named by its label."""
    scale, translate = placed(result.grid.scale_um, result.grid.translate_um, fineness)
    about = {
        "kind": kind,
        "label": label,
        "store": result.store,
        "slide_path": result.slide_path,
        "made_for_result": True,
        "is_mark": kind == UNLIKE,
    }
    return {
        "name": f"{label} · {title_of(result)}",
        "scale": scale,
        "translate": translate,
        "units": MICROMETRES,
        "interpolation2d": "nearest",
        "visible": False,
        "metadata": {"pathotune": about},
    }


def title_of(result: Result) -> str:
    """What a result is called in the names of its layers: its tuning."""
    layer = result.classes if result.classes is not None else result.probability
    return "" if layer is None else str(layer.name.partition(" · ")[2])


def doubts_of(session: Session) -> Doubts:
    """The one `Doubts` of a session."""
    if "doubts" not in session.companions:
        session.companions["doubts"] = Doubts(session)
    found: Doubts = session.companions["doubts"]
    return found
