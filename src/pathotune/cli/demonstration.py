"""`pathotune demo`: the main job from nothing, with a report at the end."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from pathotune.cli.terminal import JsonOption, QuietOption, VerboseOption, follow, print_json, say, set_loudness

EXAMPLE = "Example: pathotune demo --out demo --no-show"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("demo", epilog=EXAMPLE)(demo)


def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder for slides, tuning, store, pictures and report.")] = Path(
        "pathotune-demo"
    ),
    show: Annotated[
        bool | None, typer.Option("--show/--no-show", help="Open napari at the end (default: where there is a screen).")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Another seed, another tuning.")] = 0,
    epochs: Annotated[int, typer.Option("--epochs", min=0, help="At most so many epochs; 0: as many as pay.")] = 0,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
    as_json: JsonOption = False,
    verbose: VerboseOption = 0,
    quiet: QuietOption = False,
) -> None:
    """Tune on one generated slide, predict and judge another, and write a report. No download, no GPU needed."""
    from pathotune.demo import DemoConfig, run_demo

    set_loudness(verbose, quiet)
    result = follow(run_demo(out, DemoConfig(seed=seed, epochs=epochs, device=device)), quiet)
    if as_json:
        print_json(result)
    say(
        f"Balanced accuracy {result['balanced_accuracy']:.3f} on the second slide "
        f"(colour statistics alone {result['balanced_accuracy_colour']:.3f}).\nReport: {result['report']}",
        quiet,
    )
    if _has_screen() if show is None else show:
        _open_napari(Path(result["predicted"]["slide"]), quiet)


def _has_screen() -> bool:
    return sys.platform in ("win32", "darwin") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _open_napari(slide: Path, quiet: bool) -> None:
    import importlib.util

    if importlib.util.find_spec("napari") is None:
        say(
            "napari is not installed, so the result is not shown. Install it with: pip install 'pathotune[pyqt5]'",
            quiet,
        )
        return
    from pathotune.cli.viewing import view

    view([slide])
