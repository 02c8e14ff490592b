"""`pathotune replay`: a prediction once more from its own provenance."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pathotune.cli.terminal import (
    DeviceOption,
    JsonOption,
    QuietOption,
    VerboseOption,
    WeightsOption,
    follow,
    print_json,
    say,
    set_loudness,
)

EXAMPLE = "Example: pathotune replay results/a.svs.tumour.pathotune.zarr --out again"


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command(epilog=EXAMPLE)(replay)


def replay(
    store: Annotated[Path, typer.Argument(help="A prediction store.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the second result.")],
    slide: Annotated[Path | None, typer.Option("--slide", help="The slide, where it was moved.")] = None,
    tuning: Annotated[Path | None, typer.Option("--tuning", help="The tuning file, where it was moved.")] = None,
    backbone: Annotated[str | None, typer.Option("--backbone", help="A card or name to load the backbone by.")] = None,
    weights: WeightsOption = None,
    device: DeviceOption = "auto",
    json: JsonOption = False,
    verbose: VerboseOption = 0,
    quiet: QuietOption = False,
) -> None:
    """Predict again what a store holds, from what it says of itself, and say how far the result is from the first.

    Exit code 1 where slide, tuning or backbone are others, or the results differ by more than the backbone's tolerance.
    """
    from pathotune.cli.prediction import cancel_on_interrupt
    from pathotune.execution.replay import Sources
    from pathotune.execution.replay import replay as replayed

    set_loudness(verbose, quiet)
    with cancel_on_interrupt() as cancelled:
        result = follow(
            replayed(store, out, Sources(slide, tuning, backbone, weights), device=device, cancel=cancelled), quiet
        )
    if json:
        print_json(result)
    if result.get("status") == "cancelled":
        raise typer.Exit(130)
    say(result["sentence"], quiet)
    if not result["agrees"]:
        raise typer.Exit(1)
