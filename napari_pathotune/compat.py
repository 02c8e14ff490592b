"""Where napari 0.8 and 0.9 differ: overlays, camera, canvas background and the plugin's own preferences."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WHITE = "white"


@dataclass(frozen=True)
class Preferences:
    """What the person set under Preferences ▸ PathoTune; the defaults where napari has no such page (before 0.9)."""

    results_folder: str = ""
    device: str = "auto"
    precision: str = "auto"
    keep_worker_minutes: int = 10
    white_background: bool = True
    opacity: float = 0.5
    abstain_below: int = 0
    field_mm2: float = 0.0


def preferences() -> Preferences:
    """Read the plugin's preferences now."""
    if _are_untouched():
        return Preferences()
    try:
        from napari.settings import get_plugin_settings

        page = get_plugin_settings("pathotune")
        groups = (page.predictions, page.display)
    except (ImportError, KeyError, AttributeError, ValueError):  # napari 0.8, or the plugin is not registered
        return Preferences()
    known = Preferences.__dataclass_fields__
    values = {name: getattr(group, name) for group in groups for name in known if hasattr(group, name)}
    return Preferences(**values)


def _are_untouched() -> bool:
    """Whether nobody has ever changed a preference, as far as can be told at once.

    napari reads the manifests of all plugins before it gives the first preference, a sixth of the time in which a slide
    is opened. It keeps those that were changed in a file, and all of them in memory once anybody has asked.
    """
    from napari import settings

    asked, own = getattr(settings, "_PLUGIN_SETTINGS", None), getattr(settings, "_CFG_PATH", None)
    return asked == {} and bool(own) and not (Path(str(own)).parent / "pathotune.yaml").exists()


def plain_viewer(viewer: Any) -> Any:
    """The viewer behind the proxy that napari hands to a plugin's widget."""
    return getattr(viewer, "__wrapped__", viewer)


def current_viewer() -> Any | None:
    """The viewer in front, or None where there is no window."""
    import napari

    viewer = napari.current_viewer()
    return None if viewer is None else plain_viewer(viewer)


def scale_bar(viewer: Any) -> Any:
    """The scale bar overlay."""
    overlays = getattr(getattr(viewer, "canvas", None), "overlays", None)
    return viewer.scale_bar if overlays is None else overlays.scale_bar


def camera(viewer: Any) -> Any:
    """The camera."""
    scene = getattr(viewer, "scene", None)
    return viewer.camera if scene is None else scene.camera


def canvas_size(viewer: Any) -> tuple[int, int]:
    """Height and width of the canvas in screen pixels."""
    canvas: Any = getattr(viewer, "canvas", None)
    size = viewer._canvas_size if canvas is None else canvas.size
    return int(size[0]), int(size[1])


def show_slide_view(viewer: Any) -> None:
    """Scale bar on, and the white canvas of a microscope where the person wants it."""
    bar = scale_bar(viewer)
    bar.visible = True
    # A box behind the bar keeps it readable on white canvas and dark tissue alike.
    bar.box = True
    bar.position = "bottom_left"
    canvas: Any = getattr(viewer, "canvas", None)
    if preferences().white_background and hasattr(canvas, "background_color_override"):
        canvas.background_color_override = WHITE


@contextmanager
def computing_here() -> Iterator[None]:
    """In here dask computes in this process, without a look for a cluster first.

    Before it computes anything dask imports the whole of `distributed`, where that is installed, to ask whether there
    is a client: most of a second before the first picture. Where nobody has imported it there is none.
    """
    import dask
    from dask.threaded import get

    if "distributed" in sys.modules or dask.config.get("scheduler", None):
        yield
        return
    with dask.config.set(scheduler=get):
        yield


def until_next_turn(context: AbstractContextManager[Any]) -> None:
    """Enter a context until the next turn of the loop: in this one napari makes layers of what a reader gives."""
    from qtpy.QtCore import QTimer

    stack = ExitStack()
    stack.enter_context(context)
    QTimer.singleShot(0, lambda: stack.close())  # PyQt would not keep the stack of a bound method


def restore_view(viewer: Any) -> None:
    """The theme's own background again, once no slide is left."""
    canvas: Any = getattr(viewer, "canvas", None)
    if hasattr(canvas, "background_color_override"):
        canvas.background_color_override = None


def has_window(viewer: Any) -> bool:
    """Whether the viewer has a window, and so a loop of Qt; a plain viewer model has none."""
    return getattr(getattr(viewer, "window", None), "_qt_viewer", None) is not None


def slices_in_threads() -> bool:
    """Whether the person has switched on napari's own asynchronous slicing."""
    from napari.settings import get_settings

    return bool(get_settings().experimental.async_)


def coarsest_picture(layer: Any) -> Any | None:
    """The pixels of a multiscale layer's last level, which napari keeps for its thumbnail; None where it does not."""
    kept = getattr(getattr(getattr(layer, "_slicing_state", None), "_slice", None), "thumbnail", None)
    return getattr(kept, "raw", None)


def text_overlay(viewer: Any) -> Any:
    """The text that lies on the canvas."""
    overlays = getattr(getattr(viewer, "canvas", None), "overlays", None)
    return viewer.text_overlay if overlays is None else overlays.text


def before_screenshots(canvas: Any, ready: Callable[[], AbstractContextManager[None]]) -> None:
    """Have napari's canvas enter `ready()` for every picture that is taken of it."""
    take = canvas.screenshot

    def take_ready() -> Any:
        with ready():
            return take()

    canvas.screenshot = take_ready


def show_warning(text: str) -> None:
    """A sentence as napari's notification; logged where there is no window."""
    from napari.utils.notifications import show_warning as show

    show(text)


def show_error(text: str) -> None:
    """An error's sentence as napari's notification, without a traceback."""
    from napari.utils.notifications import show_error as show

    show(text)


def show_info(text: str) -> None:
    """A short message as napari's notification."""
    from napari.utils.notifications import show_info as show

    show(text)


def agrees(title: str, text: str) -> bool:
    """Ask the person; no without a window to ask in."""
    from qtpy.QtWidgets import QApplication, QMainWindow, QMessageBox

    if QApplication.instance() is None:
        return False
    windows = [widget for widget in QApplication.topLevelWidgets() if isinstance(widget, QMainWindow)]
    answer = QMessageBox.question(windows[0] if windows else None, title, text)
    return bool(answer == QMessageBox.StandardButton.Yes)
