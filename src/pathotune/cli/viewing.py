"""`pathotune view`: napari with our dock open, and our reader for what is dropped on it."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated

import typer

from pathotune.cli.terminal import QuietOption, SlideMppOption, VerboseOption, say, set_loudness
from pathotune.errors import FileMissing, MissingPackage, UsageError

EXAMPLE = """
Examples:

  pathotune view slide.svs

  pathotune view slide.svs slide.geojson

  pathotune view folder-of-slides/   (PageUp and PageDown step through it)

  pathotune view --shortcut   (a start icon on the desktop)
"""


def register(app: typer.Typer) -> None:
    """Add `view` to the command line."""
    app.command(epilog=EXAMPLE)(view)


def view(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(help="Slides, prediction stores, GeoJSON regions, or one folder of slides.", metavar="PATH…"),
    ] = None,
    slide_mpp: SlideMppOption = None,
    shortcut: Annotated[
        bool, typer.Option("--shortcut", help="Put a start icon on your desktop (and into the menu), and end.")
    ] = False,
    verbose: VerboseOption = 0,
    quiet: QuietOption = False,
) -> None:
    """Open napari with the PathoTune dock on slides, on prediction stores, or on a folder of slides."""
    set_loudness(verbose, quiet)
    if shortcut:
        from pathotune.installing.shortcut import make_shortcut, shown_after

        say(shown_after(make_shortcut()), quiet)
        return
    wanted = [path.expanduser() for path in paths or []]
    for path in wanted:
        if not path.exists():
            raise FileMissing(path, "slide or store")
    if slide_mpp is not None:
        if not 0.01 <= slide_mpp <= 100:
            raise UsageError(f"--slide-mpp is in micrometres per pixel, between 0.01 and 100, not {slide_mpp:g}.")
        _remember_mpp(wanted, slide_mpp)
    # Imported by name: the core knows no viewer, this command only hands over to the one that is installed.
    try:
        window = importlib.import_module("napari_pathotune.window")
        window.check_napari()
    except ImportError as error:
        raise MissingPackage("napari", "pathotune view", 'pip install "pathotune[pyqt5]"') from error
    window.view(wanted)


def _remember_mpp(paths: list[Path], mpp: float) -> None:
    """State the pixel size of the slides among the paths; it is remembered where they are opened again."""
    from pathotune.slides import open_slide

    for path in paths:
        if path.suffix.lower() not in (".geojson",) and not path.name.endswith(".pathotune.zarr"):
            open_slide(path, mpp=mpp).close()
