"""Drawing on the open slides of a viewer: one document of regions each, kept on disk, with undo; no Qt."""

from __future__ import annotations

import atexit
import weakref
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from psygnal import Signal

from napari_pathotune import compat
from napari_pathotune.layers import facts, pixel_um, units_of
from napari_pathotune.session import Session
from napari_pathotune.slide_drawing import SlideDrawing

if TYPE_CHECKING:
    from pathotune.regions.journal import Unsaved
    from pathotune.regions.region import Region, Regions

_BOARDS: weakref.WeakKeyDictionary[Session, DrawingBoard] = weakref.WeakKeyDictionary()


class DrawingBoard:
    """What is drawn on the slides of one session.

    Parameters
    ----------
    session : the viewer's session.
    later : calls a function soon; the window's loop, where there is one. Without, `settle` does it.
    """

    changed = Signal()
    tool_changed = Signal(str)
    class_changed = Signal()
    noted = Signal(str, str)
    crash_found = Signal(object, object)

    def __init__(self, session: Session) -> None:
        self.session = session
        self.drawings: dict[str, SlideDrawing] = {}
        self._later: Callable[[Callable[[], None]], None] | None = None
        self._waiting: list[Callable[[], None]] = []
        self._said: set[str] = set()
        self._asked: set[Path] = set()
        viewer = session.viewer
        self.zoom = float(compat.camera(viewer).zoom)
        compat.camera(viewer).events.zoom.connect(self._on_zoom)
        viewer.layers.events.inserted.connect(self._on_layer_inserted)
        viewer.layers.events.removed.connect(self._on_layer_removed)
        session.active_changed.connect(self._on_active_changed)
        atexit.register(self.close)
        for layer in list(viewer.layers):
            self.later(partial(self._take_in_file, layer))
        for key in ("Control-Z",):
            viewer.bind_key(key, lambda _: self.undo(), overwrite=True)
        for key in ("Control-Shift-Z", "Control-Y"):
            viewer.bind_key(key, lambda _: self.redo(), overwrite=True)

    @property
    def active(self) -> SlideDrawing | None:
        """The drawings of the slide that is worked on; None where no slide is open."""
        layer = None if self.session.viewer is None else self.session.active_layer
        return None if layer is None else self.of(layer)

    def of(self, slide_layer: Any) -> SlideDrawing:
        """The drawings of a slide, opened (with what was saved of it) where they are not."""
        path = facts(slide_layer)["path"]
        if path not in self.drawings:
            drawing = self.drawings[path] = self._opened(slide_layer)
            if len(drawing.document):
                drawing.show()
            self.later(lambda: self._offer(drawing))
        return self.drawings[path]

    def _opened(self, slide_layer: Any) -> SlideDrawing:
        from pathotune.errors import PathotuneError

        drawing = SlideDrawing(self, slide_layer)
        try:
            notes = [drawing.keeper.note, drawing.begin()]
        except PathotuneError as error:
            notes = [drawing.keeper.note, str(error)]
        for note in notes:
            if note and note not in self._said:
                self._said.add(note)
                self.noted.emit("warning", note)
        return drawing

    def _offer(self, drawing: SlideDrawing) -> None:
        """Ask about what a crash left of this slide; each time once."""
        for unsaved in drawing.keeper.unsaved():
            if unsaved.path not in self._asked:
                self._asked.add(unsaved.path)
                self.crash_found.emit(drawing, unsaved)

    def answer(self, drawing: SlideDrawing, unsaved: Unsaved, restore: bool) -> None:
        """What the person said about what a crash left."""
        if not restore:
            unsaved.set_aside()
            return
        drawing.keeper.restore(unsaved)
        drawing.show()
        if unsaved.state.skipped:
            self.noted.emit("warning", "The last line of what was drawn before the crash was cut off and left out.")

    # -- soon

    def run_later_by(self, later: Callable[[Callable[[], None]], None] | None) -> None:
        """Have a window's loop call what is due."""
        self._later = later

    def later(self, function: Callable[[], None]) -> None:
        """Call a function soon, but once however often it is asked for."""
        if function not in self._waiting:
            self._waiting.append(function)
            if self._later is not None:
                self._later(self.settle)

    def settle(self) -> None:
        """Do what is due; nothing is once the viewer is closed."""
        if self.session.viewer is None:
            self._waiting.clear()
        while self._waiting:
            self._waiting.pop(0)()

    def trying(self, step: Callable[[], Any]) -> bool:
        """Do something a person asked for; an error she can cause is said, and False returned."""
        from pathotune.errors import PathotuneError

        try:
            step()
        except PathotuneError as error:
            self.noted.emit("error", str(error))
            return False
        return True

    # -- the viewer's side

    def undo(self) -> None:
        """Take the last step on the active slide back."""
        if self.active is not None:
            self.active.undo()

    def redo(self) -> None:
        """Do it again."""
        if self.active is not None:
            self.active.redo()

    def bound_layers(self) -> list[Any]:
        """The layers that show documents."""
        return [bound.layer for drawing in self.drawings.values() for bound in drawing.bound.values()]

    def other_layers(self, slide_layer: Any) -> list[Any]:
        """Shapes and Points layers people made by hand, which count for a slide as well.

        A layer says in its metadata which slide it belongs to; one that does not belongs to the active slide.
        """
        bound = self.bound_layers()
        path = facts(slide_layer)["path"]
        is_active = slide_layer is self.session.active_layer
        return [
            layer
            for layer in self.session.drawing_layers()
            if layer not in bound
            and len(layer.data)
            and (facts(layer).get("slide_path") or (is_active and path)) == path
        ]

    def regions_of(self, slide_layer: Any) -> Regions:
        """Everything drawn on a slide, frozen: the document's regions and those of layers made by hand."""
        from napari_pathotune.drawings import regions_from_layer
        from pathotune.regions.region import Regions

        own = self.of(slide_layer).document.regions()
        others: list[Region] = []
        for layer in self.other_layers(slide_layer):
            others += regions_from_layer(layer, slide_layer)
        return Regions([*own, *others])

    def adopt(self, layers: Iterable[Any]) -> None:
        """Take the regions of hand-made layers into the active slide's document, and close those layers."""
        if self.active is not None:
            self._adopt(list(layers), self.active)

    def _adopt(self, layers: list[Any], drawing: SlideDrawing) -> None:
        from pathotune.regions.region import Regions

        regions = [region for layer in layers for region in self._unknown(layer, drawing)]
        if regions:
            drawing.document.import_regions(Regions(regions))
        for layer in layers:
            if layer in self.session.viewer.layers:
                self.session.viewer.layers.remove(layer)

    def _unknown(self, layer: Any, drawing: SlideDrawing) -> list[Region]:
        """The regions of a layer that the document does not have."""
        from napari_pathotune.drawings import regions_from_layer

        return drawing.document.unknown(regions_from_layer(layer, drawing.slide_layer))

    def _on_layer_inserted(self, event: Any) -> None:
        self.later(partial(self._take_in_file, event.value))

    def _take_in_file(self, layer: Any) -> None:
        """A regions file was opened on a slide nobody has drawn on: its regions are what is drawn.

        Where something is drawn, the person decides; a file that has nothing new is closed again.
        """
        about, viewer = facts(layer), self.session.viewer
        if about.get("kind") != "regions" or about.get("bound") or not about.get("source") or viewer is None:
            return
        slides = [one for one in self.session.slide_layers if facts(one)["path"] == about.get("slide_path")]
        if not slides or layer not in viewer.layers:
            return
        drawing = self.of(slides[0])
        # A file's shapes and points are two layers.
        of_file = [one for one in self.other_layers(slides[0]) if facts(one).get("source") == about["source"]]
        if not drawing.document.is_begun:
            self._adopt(of_file, drawing)
        elif not self._unknown(layer, drawing):
            self._adopt([layer], drawing)

    def _on_zoom(self, event: Any = None) -> None:
        self.zoom = float(compat.camera(self.session.viewer).zoom)
        self.later(self._fit_widths)

    def _fit_widths(self) -> None:
        for drawing in self.drawings.values():
            for bound in drawing.bound.values():
                bound.set_zoom(self.zoom)
            drawing._set_pens()
        self.tool_changed.emit(self.active.tool if self.active is not None else "move")

    def _on_active_changed(self) -> None:
        for drawing in self.drawings.values():
            for bound in drawing.bound.values():
                scale, units = pixel_um(drawing.slide), units_of(drawing.slide)
                if tuple(bound.layer.scale) != tuple(scale):
                    bound.layer.scale, bound.layer.units = scale, units
        self.changed.emit()

    def _on_layer_removed(self, event: Any) -> None:
        layer = event.value
        if facts(layer).get("kind") == "slide":
            drawing = self.drawings.pop(facts(layer)["path"], None)
            if drawing is not None:
                drawing.close()
                self.later(partial(self._remove_layers, drawing))
            return
        for drawing in self.drawings.values():
            drawing.part_from(layer)

    def _remove_layers(self, drawing: SlideDrawing) -> None:
        """A slide's regions go with it: they are saved, and come back with it."""
        viewer = self.session.viewer
        for bound in drawing.bound.values():
            bound.close()
            if viewer is not None and bound.layer in viewer.layers:
                viewer.layers.remove(bound.layer)

    def keep_drafts(self) -> None:
        """Keep what is being drawn at this moment; to be called about every second."""
        if self.session.viewer is not None:
            for drawing in self.drawings.values():
                drawing.keep_draft()

    def save(self) -> None:
        """Write every slide's regions file."""
        for drawing in self.drawings.values():
            self.trying(drawing.keeper.save)

    def close(self) -> None:
        """Save and end all journals; the window closes."""
        atexit.unregister(self.close)
        for drawing in self.drawings.values():
            drawing.close()
        self.drawings.clear()


def board_of(session: Session) -> DrawingBoard:
    """The one board of a session."""
    if session not in _BOARDS:
        _BOARDS[session] = DrawingBoard(session)
    return _BOARDS[session]
