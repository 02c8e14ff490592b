"""Layers of one viewer shown in another: they share their arrays and follow what is changed on the first. No Qt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from napari_pathotune import compat
from napari_pathotune.layers import KEY, facts

# What a picture's mirror takes over as it changes; whether it is seen is the second viewer's own.
FOLLOWED = ("scale", "translate", "units", "opacity", "blending", "contrast_limits", "colormap", "gamma")
# Each of them changes what outlines or points look like; they are made anew, as napari has no cheaper way.
REMADE_FOR = ("data", "edge_color", "face_color", "edge_width", "border_color", "size", "symbol", "scale", "opacity")
# Of the facts of a slide's layer, what another viewer needs to draw it; results and drawings belong to the first one.
SLIDE_FACTS = ("kind", "slide", "path", "picture")


class Mirror:
    """One layer of the first viewer in the second.

    Parameters
    ----------
    source : the layer it mirrors.
    viewer : the second viewer's model.
    put : gives a slide's mirror other levels of pixels.
    later : calls a function in the next turn of the window's loop.
    """

    def __init__(
        self,
        source: Any,
        viewer: Any,
        put: Callable[[Any, list[Any]], None],
        later: Callable[[Callable[[], None]], None],
    ) -> None:
        self.source, self._viewer, self._put, self._later = source, viewer, put, later
        self.is_slide = facts(source).get("kind") == "slide"
        self.is_drawing = type(source).__name__ in ("Shapes", "Points")
        self.layer = self._made()
        self._is_due = self._is_closed = False
        self._connections: list[tuple[Any, Callable[..., None]]] = []
        for name in REMADE_FOR if self.is_drawing else ("data", *FOLLOWED):
            if hasattr(source.events, name):
                self._connect(name)

    def _connect(self, name: str) -> None:
        def follow(event: Any = None) -> None:
            self._on_changed(name)

        emitter = getattr(self.source.events, name)
        emitter.connect(follow)
        self._connections.append((emitter, follow))

    def close(self) -> None:
        """Stop following, and take the layer out of the second viewer."""
        self._is_closed = True
        for emitter, follow in self._connections:
            emitter.disconnect(follow)
        self._connections.clear()
        if self.layer in self._viewer.layers:
            self._viewer.layers.remove(self.layer)

    def show_whether_seen(self) -> None:
        """Be seen where the source is, or was before its slide was hidden behind the other."""
        self.layer.visible = is_seen(self.source)

    def repaint(self) -> None:
        """Show what changed inside the shared arrays."""
        if self.layer.visible and not self.is_drawing:
            self.layer.refresh(thumbnail=False, highlight=False, extent=False)

    def _made(self) -> Any:
        from napari.layers import Layer

        data, options, kind = self.source.as_layer_data_tuple()
        about = facts(self.source)
        coarsest = compat.coarsest_picture(self.source) if self.is_slide and self.source.multiscale else None
        if coarsest is not None and coarsest.shape == data[-1].shape:
            # napari reads it at once, and of a slide of one level it takes the whole slide to make.
            data = [*data[:-1], coarsest]
        known = {name: about[name] for name in SLIDE_FACTS if name in about} if self.is_slide else {}
        options |= {"visible": is_seen(self.source), "metadata": {KEY: known} if known else {}}
        layer = Layer.create(data, options, kind)
        layer.editable = False
        return layer

    def _on_changed(self, name: str) -> None:
        if self.is_drawing:
            if not self._is_due:
                self._is_due = True
                self._later(self._remake)
        elif name == "data":
            self._take_data()
        else:
            setattr(self.layer, name, getattr(self.source, name))

    def _take_data(self) -> None:
        if not self.is_slide:
            self.layer.data = self.source.data
            return
        about, own = facts(self.source), facts(self.layer)
        own.pop("picture", None)
        own |= {name: about[name] for name in SLIDE_FACTS if name in about}
        self._put(self.layer, self.source.data)

    def _remake(self) -> None:
        self._is_due = False
        if self._is_closed:
            return
        place = self._viewer.layers.index(self.layer)
        self._viewer.layers.remove(self.layer)
        self.layer = self._made()
        self._viewer.layers.insert(place, self.layer)


def is_seen(layer: Any) -> bool:
    """Whether a layer is seen when its slide is: `Session.show_alone` hides it with the slide and remembers."""
    if facts(layer).get("kind") == "slide":
        return True
    return bool(facts(layer).get("was_visible", layer.visible))
