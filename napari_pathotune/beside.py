"""Another open slide beside the one that is worked on, with what lies on it; the two views move together. No Qt."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from psygnal import Signal

from napari_pathotune import compat
from napari_pathotune.layers import facts
from napari_pathotune.linked_cameras import LinkedCameras, Offset
from napari_pathotune.mirrored import Mirror
from napari_pathotune.results import same_path
from napari_pathotune.session import Session, session_of

if TYPE_CHECKING:
    from napari_pathotune.second_canvas import SecondCanvas

TOO_FEW = "Side by side takes two open slides: open another one with File ▸ Open or by dropping it."
NO_SIZE = (
    "Two slides move together in micrometres, so both must say how large a pixel is: choose the one that does not "
    "under Slide in the dock, and state it."
)


class SideBySide:
    """What is shown beside the active slide of a session, if anything.

    Where the person goes on to work on the slide beside, the two change places. The offset of two slides is kept as
    long as the window is open.

    Parameters
    ----------
    session : of the viewer that has the slides.
    """

    changed = Signal()

    def __init__(self, session: Session) -> None:
        self.session = session
        self.viewer: Any = None  # the second viewer's model, as long as it is open
        self.layer: Any = None  # the slide that is shown in it, a layer of the first viewer
        self.link: LinkedCameras | None = None
        self._canvas: SecondCanvas | None = None
        self._mirrors: list[Mirror] = []
        self._offsets: dict[tuple[str, str], Offset] = {}
        self._worked_on: Any = None  # the slide in the first view
        self._waiting: list[Callable[[], None]] = []

    @property
    def is_open(self) -> bool:
        """A slide is shown beside."""
        return self.viewer is not None

    @property
    def candidates(self) -> list[Any]:
        """The other open slides that can be shown: their pixel size is known, as the active one's is."""
        active = self.session.active_layer
        if active is None or facts(active)["slide"].mpp is None:
            return []
        found = [layer for layer in self.session.slide_layers if layer is not active]
        return [layer for layer in found if facts(layer)["slide"].mpp is not None]

    @property
    def why_not(self) -> str:
        """The sentence that says why nothing can be shown beside; empty where something can."""
        if len(self.session.slide_layers) < 2:
            return TOO_FEW
        return "" if self.candidates else NO_SIZE

    @property
    def shown_results(self) -> list[Any]:
        """The layers of predictions that are seen in the second view."""
        results = [layer for result in self.session.results for layer in result.layers]
        return [one.layer for one in self._mirrors if one.layer.visible and one.source in results]

    # -- opening and closing

    def open(self, layer: Any) -> None:
        """Show this slide beside the active one; it must be one of the `candidates`."""
        if layer is self.layer or layer not in self.candidates:
            return
        is_apart = self.link is not None and self.link.is_apart
        if self.is_open:
            self._part()
        else:
            self._open_viewer()
        self.layer, self._worked_on = layer, self.session.active_layer
        self._mirror()
        self._link(is_apart)
        self._say_name()
        self.changed.emit()

    def close(self) -> None:
        """Give the window back as it was."""
        if not self.is_open:
            return
        self._disconnect()
        self._part()
        self.layer = self._worked_on = None
        canvas, self.viewer, self._canvas = self._canvas, None, None
        self._waiting.clear()
        if canvas is not None:
            canvas.close()
        self.changed.emit()

    def toggle(self) -> None:
        """Show the next open slide beside, or close what is; says why where it cannot."""
        if self.is_open:
            self.close()
        elif self.why_not:
            compat.show_warning(self.why_not)
        else:
            self.open(self.candidates[-1])

    def _open_viewer(self) -> None:
        from napari.components import ViewerModel

        first = self.session.viewer
        self.viewer = ViewerModel()
        self.viewer.theme = first.theme
        if compat.has_window(first):
            from napari_pathotune.second_canvas import SecondCanvas

            self._canvas = SecondCanvas(first, self.viewer, self.close, self.settle)
        compat.show_slide_view(self.viewer)
        self.session.active_changed.connect(self._on_active_changed)
        self.session.slides_changed.connect(self._on_layers_changed)
        self.session.results_changed.connect(self._on_layers_changed)
        self.session.drawings_changed.connect(self._on_layers_changed)
        self.session.stage_changed.connect(self._on_stage_changed)
        self.session.repainted.connect(self._on_repainted)
        first.layers.events.removing.connect(self._on_layer_removing)

    def _disconnect(self) -> None:
        self.session.active_changed.disconnect(self._on_active_changed)
        self.session.slides_changed.disconnect(self._on_layers_changed)
        self.session.results_changed.disconnect(self._on_layers_changed)
        self.session.drawings_changed.disconnect(self._on_layers_changed)
        self.session.stage_changed.disconnect(self._on_stage_changed)
        self.session.repainted.disconnect(self._on_repainted)
        first = self.session.viewer
        if first is not None:
            first.layers.events.removing.disconnect(self._on_layer_removing)

    def _part(self) -> None:
        """Keep the offset of the two slides, and show nothing."""
        if self.link is not None:
            self._keep_offset()
            self.link.close()
            self.link = None
        for mirror in self._mirrors:
            mirror.close()
        self._mirrors.clear()

    # -- the two views

    @property
    def is_apart(self) -> bool:
        """Each view is moved by itself."""
        return self.link is not None and self.link.is_apart

    def move_apart(self, wanted: bool) -> None:
        """Move each view by itself, to lay the same tissue side by side; or together from here on."""
        if self.link is not None and self.link.is_apart != wanted:
            self.link.is_apart = wanted
            self.changed.emit()

    def start_over(self) -> None:
        """Lay the middle of one slide beside the middle of the other, as at the start."""
        if self.link is not None:
            self.link.offset_um = self._middles_apart()

    def _link(self, is_apart: bool = False) -> None:
        pair = self._pair()
        offset = self._offsets.get(pair)
        if offset is None and pair[::-1] in self._offsets:
            y, x = self._offsets[pair[::-1]]
            offset = -y, -x
        first, second = compat.camera(self.session.viewer), compat.camera(self.viewer)
        self.link = LinkedCameras(first, second, self._middles_apart() if offset is None else offset, self._later)
        self.link.is_apart = is_apart

    def _pair(self) -> tuple[str, str]:
        return facts(self._worked_on)["path"], facts(self.layer)["path"]

    def _keep_offset(self) -> None:
        if self.link is not None:
            pair = self._pair()
            self._offsets.pop(pair[::-1], None)
            self._offsets[pair] = self.link.offset_um

    def _middles_apart(self) -> Offset:
        """(y, x) in micrometres from the middle of the slide worked on to that of the one beside."""
        (y, x), (other_y, other_x) = (_middle_um(layer) for layer in (self._worked_on, self.layer))
        return other_y - y, other_x - x

    # -- what is shown

    def _wanted(self) -> list[Any]:
        path = facts(self.layer)["path"]
        found = [layer for layer in self.session.viewer.layers if same_path(owner_of(layer), path)]
        return sorted(found, key=lambda layer: layer is not self.layer)  # the slide lies below everything

    def _mirror(self) -> None:
        """Show what belongs to the slide, no more and no less."""
        wanted = self._wanted()
        for mirror in [one for one in self._mirrors if one.source not in wanted]:
            self._mirrors.remove(mirror)
            mirror.close()
        known = {id(mirror.source): mirror for mirror in self._mirrors}
        self._mirrors = []
        for place, layer in enumerate(wanted):
            shown = known.get(id(layer))
            if shown is None:
                shown = Mirror(layer, self.viewer, self._put, self._later)
                self.viewer.layers.insert(min(place, len(self.viewer.layers)), shown.layer)
            else:
                shown.show_whether_seen()
            self._mirrors.append(shown)

    def _put(self, layer: Any, levels: Any) -> None:
        if self._canvas is not None and layer.multiscale:
            self._canvas.views.put(layer, levels)
        else:
            layer.data = levels

    def _say_name(self) -> None:
        text = compat.text_overlay(self.viewer)
        text.text, text.visible, text.position = self.layer.name, True, "top_left"
        text.box = True

    # -- soon

    def _later(self, function: Callable[[], None]) -> None:
        """Call a function in the next turn of the window's loop; without a window, `settle` does."""
        self._waiting.append(function)
        if self._canvas is not None:
            self._canvas.later()

    def settle(self) -> None:
        """Do what is due."""
        waiting, self._waiting = self._waiting, []
        for function in waiting:
            function()

    # -- what happens in the first viewer

    def _on_active_changed(self) -> None:
        active = self.session.active_layer
        if active is None or active is self._worked_on:
            return
        if active is self.layer:
            self._change_places()
        elif self.layer not in self.candidates:
            self.close()
        elif self.link is not None:
            self._keep_offset()
            is_apart = self.is_apart
            self.link.close()
            self._worked_on = active
            self._link(is_apart)
            self.changed.emit()

    def _change_places(self) -> None:
        """The slide beside is worked on now: what was worked on lies beside, and both are seen where they were."""
        before = self._worked_on
        if before not in self.session.slide_layers or before not in self.candidates or self.link is None:
            self.close()
            return
        (y, x), is_apart = self.link.offset_um, self.is_apart
        self._part()
        self.layer, self._worked_on = before, self.session.active_layer
        self._offsets.pop(self._pair()[::-1], None)
        self._offsets[self._pair()] = -y, -x
        camera = compat.camera(self.session.viewer)
        camera.center = (*camera.center[:-2], camera.center[-2] + y, camera.center[-1] + x)
        self._mirror()
        self._link(is_apart)
        self._say_name()
        self.changed.emit()

    def _on_layer_removing(self, event: Any) -> None:
        layer = self.session.viewer.layers[event.index]
        if layer is self.layer or layer is self._worked_on:
            self.close()

    def _on_layers_changed(self) -> None:
        self._later(self._refresh)

    def _on_stage_changed(self, job: Any) -> None:
        self._later(self._refresh)

    def _refresh(self) -> None:
        """Show layers that came, went, were shown or hidden."""
        if not self.is_open:
            return
        self._mirror()
        for mirror in self._mirrors:
            if not mirror.is_slide:
                mirror.repaint()

    def _on_repainted(self, result: Any) -> None:
        for mirror in self._mirrors:
            if any(mirror.source is layer for layer in result.layers):
                mirror.repaint()


def owner_of(layer: Any) -> str:
    """The path of the slide that a layer is, or lies on; empty for one that belongs to none."""
    about = facts(layer)
    return str(about.get("path", about.get("slide_path", "")))


def _middle_um(layer: Any) -> Offset:
    slide = facts(layer)["slide"]
    y, x = layer.data_to_world(((slide.height_px0 - 1) / 2, (slide.width_px0 - 1) / 2))
    return float(y), float(x)


def beside_of(session: Session) -> SideBySide:
    """The one of a session."""
    if "beside" not in session.companions:
        session.companions["beside"] = SideBySide(session)
    found: SideBySide = session.companions["beside"]
    return found


def show_beside() -> None:
    """Menu entry and command palette: another open slide beside the first one, or the first one alone again."""
    viewer = compat.current_viewer()
    if viewer is not None:
        beside_of(session_of(viewer)).toggle()
