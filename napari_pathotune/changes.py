"""What changed since the prediction before: which two predictions are compared, their layer and their words; no Qt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from psygnal import Signal

from napari_pathotune.areas import cells_of
from napari_pathotune.doubts import doubts_of, made_for, title_of
from napari_pathotune.layers import LayerData, facts
from napari_pathotune.markings import placed, split_cells
from napari_pathotune.overlay import ClassGrid
from napari_pathotune.session import Place, Result, Session, same_path

if TYPE_CHECKING:
    from pathotune.inference.changes import Changes

Array = np.ndarray[Any, Any]
CHANGES, TITLE = "changes", "what changed"
MOST_PAIRS = 3
ONLY_ONE = (
    "There is only one prediction of this slide to look at. Tune again, predict again, and ask again: what changed is "
    "shown between the last two."
)
NOTHING_SHARED = "The last two predictions have no place in common. Predict the same part of the slide twice."
# Places are compared in micrometres, so a pixel of any size does.
MICROMETRE = (1.0, 1.0)


@dataclass(frozen=True)
class Earlier:
    """A prediction as it was: its own grid's copy, or another result's grid as it is."""

    title: str
    grid: ClassGrid


@dataclass(frozen=True)
class Compared:
    """Two predictions, laid on the cells of the later one.

    result : the later one.
    before : what the earlier one is called.
    """

    result: Result
    before: str
    changes: Changes


class Comparing:
    """The comparison of the last two predictions of the slide that is worked on; use `comparing_of`.

    Nothing is compared before it is asked for. What another run replaces in a result is kept until the next one.
    """

    changed = Signal()

    def __init__(self, session: Session) -> None:
        self.session, self.doubts = session, doubts_of(session)
        self.compared: Compared | None = None
        self._replaced: dict[str, Earlier] = {}  # by the store that took its place
        session.adopting.connect(self._on_adopting)
        session.stage_changed.connect(self._on_stage_changed)
        session.viewer.layers.events.removed.connect(self._on_layer_removed)

    def ask(self) -> str:
        """Compare the last two predictions of the active slide; makes or fills the layer, and says what it shows."""
        from pathotune.inference.changes import compare

        pair = self._last_two()
        if pair is None:
            return ONLY_ONE
        before, result = pair
        grids = before.grid, result.grid
        changes = compare(
            grids[0].probabilities,
            cells_of(grids[0], MICROMETRE),
            grids[0].class_names,
            grids[1].probabilities,
            cells_of(grids[1], MICROMETRE),
            grids[1].class_names,
        )
        if not changes.compared.any():
            return NOTHING_SHARED
        self.compared = Compared(result, before.title, changes)
        self._show(self.compared, grids)
        self.changed.emit()
        return self.text()

    def forget(self) -> None:
        """Give the comparison up; its layer goes."""
        compared, self.compared = self.compared, None
        layer = None if compared is None else compared.result.others.get(CHANGES)
        if layer is not None and layer in self.session.viewer.layers:
            self.session.viewer.layers.remove(layer)
        if compared is not None:
            self.changed.emit()

    def text(self) -> str:
        """How much changed, and mostly from what to what; empty where nothing was asked for."""
        if self.compared is None:
            return ""
        changes = self.compared.changes
        names = f"from {self.compared.before} to {title_of(self.compared.result)}"
        whole, part = changes.compared_mm2, changes.changed_mm2
        if not part:
            return f"Nothing changed on the {whole:.2f} mm² that were predicted both times ({names})."
        pairs = changes.by_pair()
        listed = ", ".join(f"{first} → {second} {area:.2f}" for first, second, area in pairs[:MOST_PAIRS])
        rest = sum(area for _, _, area in pairs[MOST_PAIRS:])
        more = f", others {rest:.2f}" if rest else ""
        return f"{part:.2f} of {whole:.2f} mm² changed ({part / whole:.0%}) {names}: {listed}{more} mm²."

    def at(self, place: Place | None) -> tuple[str, str] | None:
        """Class before and after of the place under the cursor, where the comparison is shown."""
        compared = self.compared
        layer = None if compared is None else compared.result.others.get(CHANGES)
        if place is None or compared is None or layer is None or not layer.visible:
            return None
        cell = compared.result.grid.cell_at(place.y_um, place.x_um)
        return None if cell is None or cell_outside(cell, compared.changes.after) else compared.changes.at(*cell)

    def _last_two(self) -> tuple[Earlier, Result] | None:
        """The prediction before the one that is shown, and that one; where it is the first, the newest two."""
        found = self._in_time()
        if not found:
            return None
        shown = self.session.result
        place = next((number for number, result in enumerate(found) if result is shown), len(found) - 1)
        if place == 0 and found[0].store not in self._replaced and len(found) > 1:
            place = len(found) - 1
        result = found[place]
        if result.store in self._replaced:
            return self._replaced[result.store], result
        return (Earlier(title_of(found[place - 1]), found[place - 1].grid), result) if place else None

    def _in_time(self) -> list[Result]:
        """The active slide's results that hold something, the oldest first."""
        from pathotune.inference.predictions import read_attributes

        layer = self.session.active_layer
        found = [result for result in self.session.results_of(layer) if not result.is_empty]
        # Results that were made in this window come in the order they were made; those from the disk say when.
        return sorted(found, key=lambda result: str(read_attributes(result.store).get("created", "")))

    def _show(self, compared: Compared, grids: tuple[ClassGrid, ClassGrid]) -> None:
        colors = {}
        for grid in grids:
            colors.update(dict(zip(grid.class_names, grid.colors.tolist(), strict=True)))
        palette = np.asarray([colors[name] for name in compared.changes.names], dtype=np.uint8)
        changes = compared.changes
        picture, fineness = split_cells(changes.changed, palette[changes.before], palette[changes.after])
        result = compared.result
        layer = result.others.get(CHANGES)
        if layer is None:
            self.doubts.add(result, changes_layer(result, picture, fineness))
            return
        layer.data = picture
        layer.scale, layer.translate = placed(result.grid.scale_um, result.grid.translate_um, fineness)

    def _on_adopting(self, result: Result, grid: ClassGrid) -> None:
        """Keep what is given up for another prediction of the same name: it is the one before."""
        if is_replaced(result.grid, grid):
            self._replaced[result.store] = Earlier(f"{title_of(result)} (before)", copy_of(result.grid))
            if self.compared is not None and self.compared.result is result:
                self.forget()

    def _on_stage_changed(self, job: Any) -> None:
        compared = self.compared
        if job.command != "predict" or job.stage != "starting" or compared is None:
            return
        if same_path(compared.result.slide_path, self.session.job_slide_path):
            self.forget()  # what is about to be predicted makes it untrue

    def _on_layer_removed(self, event: Any) -> None:
        compared = self.compared
        if compared is not None and facts(event.value).get("kind") == CHANGES and CHANGES not in compared.result.others:
            self.compared = None
            self.changed.emit()


def is_replaced(there: ClassGrid, new: ClassGrid) -> bool:
    """Whether another prediction takes the place of one: one that goes on keeps every cell that was predicted."""
    predicted = there.probabilities.sum(axis=0) > 0
    if not predicted.any():
        return False
    if not there.is_like(new):
        return True
    return not np.allclose(there.probabilities[:, predicted], new.probabilities[:, predicted], atol=1e-5)


def copy_of(grid: ClassGrid) -> ClassGrid:
    """A grid of its own with the same values."""
    return ClassGrid(grid.probabilities.copy(), grid.class_names, grid.colors, grid.scale_um, grid.translate_um)


def cell_outside(cell: tuple[int, int], values: Array) -> bool:
    """Whether an array has no such row or column."""
    return bool(cell[0] >= values.shape[0] or cell[1] >= values.shape[1])


def changes_layer(result: Result, picture: Array, fineness: int) -> LayerData:
    """Changed cells, the class before in their upper left and the class after in their lower right half."""
    return picture, {**made_for(result, CHANGES, TITLE, fineness), "rgb": True, "opacity": 0.9}, "image"


def comparing_of(session: Session) -> Comparing:
    """The one `Comparing` of a session."""
    if "comparing" not in session.companions:
        session.companions["comparing"] = Comparing(session)
    found: Comparing = session.companions["comparing"]
    return found
