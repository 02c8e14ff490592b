"""The canvas takes a slide's pixels from decoded blocks and never waits for a file; others compute with dask."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_pathotune import canvas, compat
from napari_pathotune.layers import facts

if TYPE_CHECKING:
    from napari_pathotune.session import Session
    from pathotune.slides.glance import Glance
    from pathotune.slides.source import Pixels

# How long a picture may wait for its blocks before it is drawn with coarse ones in their place: decoding a view of a
# local JPEG slide takes about as long, and a picture that is sharp at once is worth it.
PATIENCE_S = 0.012
# Blocks come one by one; drawing the canvas for each would take longer than decoding them.
REDRAW_EVERY_S = 0.1
POLL_MS = 15
LONGEST_WAIT_S = 60.0


class PlanePicture:
    """One plane as the array napari cuts its picture from.

    Parameters
    ----------
    level : the same plane as the layer has it, for any thread that comes upon this one meanwhile.
    """

    dtype = np.dtype(np.uint8)
    ndim = 3
    # napari would take whole chunks: more to send to the canvas, and nothing to gain where blocks are kept anyway.
    chunks = None

    def __init__(self, glance: Glance, plane: int, view: SlideView, level: Any) -> None:
        self._glance, self._plane, self._view, self._level = glance, plane, view, level
        self.shape, self.size = tuple(level.shape), int(level.size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._level, name)

    def __getitem__(self, key: Any) -> Any:
        if threading.current_thread() is not threading.main_thread():
            return self._level[key]
        rows, columns, channels = (tuple(key) + (slice(None),) * 3)[:3]
        (top, bottom, _), (left, right, _) = rows.indices(self.shape[0]), columns.indices(self.shape[1])
        picture = self._glance.region(self._plane, left, top, right - left, bottom - top, self._view.patience_s)
        return picture[..., channels]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Pixels:
        return np.asarray(self[:, :])


class SlideView:
    """One slide layer, drawn through a `Glance`; the layer's data stay the dask pyramid they are.

    napari asks a layer for the picture to draw by `set_view_slice`, and by `_update_draw` whether the view has left
    the picture it has; in these two, and nowhere else, the layer's levels are those of the glance.

    Parameters
    ----------
    layer : a multiscale image layer of a slide.
    glance : of the same slide.
    on_coarse : called when a picture was drawn that lacks blocks; `refine` is to be called until it says no more.
    """

    def __init__(self, layer: Any, glance: Glance, on_coarse: Callable[[], None] = lambda: None) -> None:
        self.glance, self.patience_s, self._on_coarse = glance, PATIENCE_S, on_coarse
        self._layer = weakref.ref(layer)
        self._own = layer._data
        planes = [PlanePicture(glance, index, self, level) for index, level in enumerate(self._own)]
        self._levels = type(self._own)(planes)
        self.is_coarse, self._next_redraw = False, 0.0
        self._told: set[Any] = set()
        for name in ("set_view_slice", "_update_draw"):
            setattr(layer, name, self._looking(name, getattr(type(layer), name)))

    def _looking(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        """The layer's method, with the glance's levels in place of its data while it runs."""
        layer_of, view_of = self._layer, weakref.ref(self)

        def look(*arguments: Any, **options: Any) -> Any:
            layer, view = layer_of(), view_of()
            if layer is None:
                return None
            if view is None or compat.slices_in_threads():
                return method(layer, *arguments, **options)
            view.glance.rest()
            with view.shown(layer) as is_shown:
                if name == "set_view_slice" and is_shown:
                    return view._draw(lambda: method(layer, *arguments, **options))
                return method(layer, *arguments, **options)

        return look

    def _draw(self, take: Callable[[], Any]) -> None:
        """Have napari take its picture, and note what it lacks; the smallest plane it keeps by itself."""
        self.glance.lacking = 0
        take()
        self.is_coarse = self.glance.lacking > 0
        self._next_redraw = time.perf_counter() + REDRAW_EVERY_S
        # Blocks that failed while the picture waited for them are said by the loop too, sharp as the rest may be.
        if self.is_coarse or len(self._told) < len(self.glance.failed):
            self._on_coarse()

    @contextmanager
    def shown(self, layer: Any) -> Iterator[bool]:
        """The glance's levels are the layer's data in here, unless someone has put other data into it."""
        if layer._data is not self._own:
            yield layer._data is self._levels
            return
        layer._data = self._levels
        try:
            yield True
        finally:
            layer._data = self._own

    def refine(self) -> bool:
        """Draw again where sharper blocks have come; whether some are still to come. The window's loop calls it."""
        self._tell()
        layer = self._layer()
        if layer is None or not self.is_coarse:
            return False
        missing = self.glance.missing
        if not missing or time.perf_counter() > self._next_redraw:
            layer.refresh(thumbnail=False, highlight=False, extent=False)
        return self.is_coarse

    def _tell(self) -> None:
        """Say that blocks cannot be decoded, once for the slide."""
        for key, text in list(self.glance.failed.items()):
            if not self._told:
                compat.show_error(text)
            self._told.add(key)

    def sharpen(self) -> None:
        """Draw again what was drawn coarse."""
        layer = self._layer()
        if layer is not None and self.is_coarse:
            layer.refresh(thumbnail=False, highlight=False, extent=False)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """In here, pictures wait for their blocks."""
        self.patience_s = LONGEST_WAIT_S
        try:
            yield
        finally:
            self.patience_s = PATIENCE_S


class SlideViews:
    """The slide layers of one viewer as they are drawn; sharper pictures arrive by the window's loop.

    Parameters
    ----------
    viewer : a napari viewer, or the model of one.
    canvas : napari's canvas that draws it.
    """

    def __init__(self, viewer: Any, canvas: Any) -> None:
        from qtpy.QtCore import QTimer

        self._views: dict[int, SlideView] = {}
        self._timer = QTimer()
        self._timer.setInterval(POLL_MS)
        self._timer.timeout.connect(self._on_tick)
        viewer.layers.events.inserted.connect(self._on_layer_inserted)
        viewer.layers.events.removed.connect(self._on_layer_removed)
        for layer in viewer.layers:
            self._add(layer)
        compat.before_screenshots(canvas, self.all_sharp)
        self._viewer = weakref.ref(viewer)

    @property
    def are_sharp(self) -> bool:
        """Whether what is drawn lacks nothing."""
        return not any(view.is_coarse for view in self._views.values())

    @contextmanager
    def all_sharp(self) -> Iterator[None]:
        """In here every slide is drawn with all its blocks, however long they take: for a picture that is kept."""
        with ExitStack() as stack:
            for view in list(self._views.values()):
                stack.enter_context(view.waiting())
                view.sharpen()
            yield

    def put(self, layer: Any, levels: list[Any]) -> None:
        """Give a layer another picture of its slide, of the same size, and draw it without waiting for the file."""
        self._drop(layer)
        with layer._block_refresh():
            layer.data = levels
        self._add(layer, is_new=False)
        layer.refresh(highlight=False, extent=False)

    def close(self) -> None:
        """Let everything go: the canvas closes."""
        self._timer.stop()
        viewer = self._viewer()
        if viewer is not None:
            viewer.layers.events.inserted.disconnect(self._on_layer_inserted)
            viewer.layers.events.removed.disconnect(self._on_layer_removed)
        for view in self._views.values():
            view.glance.close()
        self._views.clear()

    def _on_layer_inserted(self, event: Any) -> None:
        self._add(event.value)

    def _add(self, layer: Any, is_new: bool = True) -> None:
        from pathotune.slides.glance import Glance

        # A slide of one level is small and was read whole when its layer was made.
        about = facts(layer)
        if about.get("kind") == "slide" and layer.multiscale:
            glance = Glance(about.get("picture", about["slide"]))
            if is_new:  # else what napari has is of the picture before
                glance.keep_smallest(compat.coarsest_picture(layer))
            self._views[id(layer)] = SlideView(layer, glance, self._timer.start)

    def _on_layer_removed(self, event: Any) -> None:
        self._drop(event.value)

    def _drop(self, layer: Any) -> None:
        view = self._views.pop(id(layer), None)
        if view is not None:
            view.glance.close()

    def _on_tick(self) -> None:
        waiting = [view.refine() for view in list(self._views.values())]
        if not any(waiting):
            self._timer.stop()


def attach(session: Session) -> None:
    """Draw the slides of a session's viewer without waiting for their files, where there is a window."""
    if "slide views" not in session.companions and compat.has_window(session.viewer):
        canvas.attach(session)
        session.companions["slide views"] = SlideViews(session.viewer, session.viewer.window._qt_viewer.canvas)
