"""napari's canvas as slides need it: a view is drawn once and up to date, and what is not seen costs no picture.

This matters most where OpenGL is computed by the processor: on a remote desktop, in a virtual machine. A picture of the
canvas is the longest thing the main thread does there, and every change of a layer or a label asks for one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari_pathotune.session import Session

# What is used of napari's canvas and is no public part of it; seen in napari 0.8.0 and 0.9.2.
PARTS = ("on_draw", "view", "grid_views", "native", "_scene_canvas")
# What OpenGL calls its renderer where the processor draws.
DRAWN_BY_PROCESSOR = ("llvmpipe", "softpipe", "swrast", "swr ", "software rasterizer")


class Canvas:
    """The canvas of a viewer that has a window.

    Parameters
    ----------
    naparis : napari's own canvas; the layers follow the camera before each of its draws from now on.
    """

    def __init__(self, naparis: Any) -> None:
        from qtpy.QtCore import QTimer

        self._naparis = naparis
        self._scene = self._naparis._scene_canvas
        self._next_turn = QTimer(self._naparis.native)
        self._next_turn.setSingleShot(True)
        self._next_turn.timeout.connect(self._scene.update)
        self._drawn_for: Any = None
        self._scene.events.draw.disconnect(self._naparis.on_draw)
        self._scene.events.draw.connect(self._follow, position="first")
        self._scene.events.draw.connect(self._follow_again, position="last")
        give_own_window(self._naparis.native)

    def close(self) -> None:
        """Let go of napari's canvas, which is about to be closed."""
        self._next_turn.stop()
        self._scene.events.draw.disconnect(self._follow)
        self._scene.events.draw.disconnect(self._follow_again)

    def _follow(self, event: Any) -> None:
        """Have the layers follow the camera before they are drawn.

        napari draws the layers as they were, then has them follow and draws once more: each step of the hand costs two
        pictures, of which the first shows the view before.
        """
        # What changes from here on is in the draw that this precedes: it must not ask for another one.
        self._scene._update_pending = True
        self._naparis.on_draw(event)
        self._drawn_for = self._views()

    def _follow_again(self, event: Any) -> None:
        """What napari does after a draw, where the draw itself has moved a view: the first one of a new size does."""
        if self._views() != self._drawn_for:
            self._naparis.on_draw(event)

    def _views(self) -> list[Any]:
        """Place, size and camera of each view."""
        views = [self._naparis.view, *self._naparis.grid_views]
        return [(view.rect, view.camera.get_state()) for view in views]

    @contextmanager
    def held(self, is_seen: bool) -> Iterator[None]:
        """In here changes of layers ask for no picture.

        Parameters
        ----------
        is_seen : what changes is seen: the picture comes in the loop's next turn, apart from the change itself, so
            that what the person does comes between the two.
        """
        is_asked_for = self._scene._update_pending
        self._scene._update_pending = True
        try:
            yield
        finally:
            self._scene._update_pending = is_asked_for
            if is_seen and not is_asked_for:
                self._next_turn.start(0)


def attach(session: Session) -> None:
    """Prepare the canvas of a session's viewer, which has a window; a napari with another canvas draws as it does."""
    made = prepared(session.viewer.window._qt_viewer.canvas)
    if made is not None:
        session.companions["canvas"] = made


def prepared(naparis: Any) -> Canvas | None:
    """napari's canvas prepared; None for one of another make, which is left as it is."""
    if all(hasattr(naparis, name) for name in PARTS) and hasattr(naparis._scene_canvas, "_update_pending"):
        return Canvas(naparis)
    return None


def held(session: Session, is_seen: bool) -> AbstractContextManager[None]:
    """`Canvas.held` where the session's viewer has a window; else nothing."""
    canvas = session.companions.get("canvas")
    return nullcontext() if canvas is None else canvas.held(is_seen)


def give_own_window(native: Any) -> bool:
    """Have a canvas drawn in a native window of its own inside napari's, where that is known to help.

    Qt 5 puts a window that has an OpenGL canvas together by OpenGL: a changed number in the dock has the whole window
    composed anew, canvas included. Qt 6 composes cheaper, and gains nothing by this.

    Returns
    -------
    Whether it has one now: with Qt 5 on X11, drawn by the processor. Elsewhere nothing is changed.
    """
    from qtpy import QT5
    from qtpy.QtCore import QCoreApplication, Qt
    from qtpy.QtGui import QGuiApplication

    if not QT5 or QGuiApplication.platformName() != "xcb" or not is_drawn_by_processor(renderer()):
        return False
    # Without these two the parents and neighbours would get windows too, and pay for being composed.
    QCoreApplication.setAttribute(Qt.ApplicationAttribute.AA_DontCreateNativeWidgetSiblings)
    native.setAttribute(Qt.WidgetAttribute.WA_DontCreateNativeAncestors)
    native.setAttribute(Qt.WidgetAttribute.WA_NativeWindow)
    return True


def is_drawn_by_processor(renderer: str) -> bool:
    """Whether OpenGL's renderer of this name computes on the processor."""
    return any(word in renderer.lower() for word in DRAWN_BY_PROCESSOR)


@cache
def renderer() -> str:
    """OpenGL's own name for what draws here; "" where it does not say."""
    from napari._vispy.utils.gl import _opengl_context
    from vispy.gloo import gl

    with _opengl_context():
        return str(gl.glGetParameter(gl.GL_RENDERER) or "")
