"""A napari window with the dock open: what `pathotune view` and the demo show."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from napari_pathotune.reader_choice import OurReaderPreferred


def check_napari() -> None:
    """Raise ImportError where napari or its Qt is missing."""
    import napari
    import qtpy.QtWidgets  # noqa: F401  (raises where no Qt binding is installed)

    if not hasattr(napari, "Viewer"):
        raise ImportError("napari is not complete")


def view(paths: Sequence[Path]) -> None:
    """Open the window on slides, stores, region files or one folder of slides, and run until it is closed."""
    import napari

    with OurReaderPreferred():
        open_window(paths)
        napari.run()


def open_window(paths: Sequence[Path], show: bool = True) -> tuple[Any, Any]:
    """A viewer with the dock open on these paths.

    Parameters
    ----------
    paths : slides, prediction stores, GeoJSON files, or one folder of slides.

    Returns
    -------
    The viewer and the dock's widget.
    """
    import napari
    from qtpy.QtCore import QTimer

    from napari_pathotune.opening import open_paths

    viewer = napari.Viewer(show=show, title="pathotune")
    place, dock = viewer.window.add_plugin_dock_widget("pathotune", "PathoTune")
    viewer.window.add_plugin_dock_widget("pathotune", "Overview", tabify=True)
    # A shown window has the newer tab in front until it has laid itself out.
    QTimer.singleShot(0, place.raise_)
    folder = folder_of_slides(paths)
    if folder is not None:
        from napari_pathotune.widgets.slides import slides_in

        _, slide_list = viewer.window.add_plugin_dock_widget("pathotune", "Slide list", tabify=False)
        slide_list.set_paths(slides_in(folder))
    else:
        open_paths(viewer, paths)
    return viewer, dock


def folder_of_slides(paths: Iterable[Path]) -> Path | None:
    """The one folder among the paths that is no slide or store itself."""
    from napari_pathotune.reader import is_ours

    found = list(paths)
    if len(found) == 1 and found[0].is_dir() and not is_ours(found[0]):
        return found[0]
    return None
