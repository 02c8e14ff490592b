"""`pathotune compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pathotune.cli.terminal import (
    DeviceOption,
    JsonOption,
    QuietOption,
    VerboseOption,
    follow,
    print_json,
    say,
    set_loudness,
)

EXAMPLE = (
    "Example: pathotune compare --tiles tiles.csv --methods linear_probe,cite,pathotune --shots 4,16,all --out compared"
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("compare", epilog=EXAMPLE)(compare)


def compare(
    tiles: Annotated[
        Path,
        typer.Option(
            "--tiles", help="A table of tiles; rows whose column split is test are judged, the others learned."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for the table, the page and what is done so far.")],
    methods: Annotated[
        str,
        typer.Option(
            "--methods",
            help="Names, separated by commas; settings in brackets: 'pathotune[ivp=off,ttp=off]', 'cite[text=random]' "
            "(text=random and text=permuted take the sentences away); 'pathotune[*]' is every combination of prompts.",
        ),
    ] = "linear_probe,pathotune",
    backbones: Annotated[
        str,
        typer.Option("--backbones", help="Names, separated by commas; NAME@random has random weights."),
    ] = "pathotune-tiny",
    shots: Annotated[str, typer.Option("--shots", help="How many of each class: 1,4,16,all.")] = "all",
    shot_unit: Annotated[
        str, typer.Option("--shot-unit", help="What is counted: tile, slide, or largest-slide (most tiles first).")
    ] = "tile",
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Draws of each.")] = 5,
    task: Annotated[
        str | None,
        typer.Option(
            "--task", help="A task card with the table's classes, for their sentences; see `pathotune tasks`."
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="An option of the training, the same for all, as key=value; repeat it."),
    ] = None,
    device: DeviceOption = "auto",
    json: JsonOption = False,
    verbose: VerboseOption = 0,
    quiet: QuietOption = False,
) -> None:
    """Train and judge methods and backbones under one protocol: the same draws, epochs and early stopping."""
    from pathotune.datasets.tiles import read_tile_table
    from pathotune.evaluation.compare import CompareConfig
    from pathotune.evaluation.compare import compare as run
    from pathotune.evaluation.shots import parse_shots
    from pathotune.evaluation.variants import names_of
    from pathotune.methods.options import parse_settings, with_settings
    from pathotune.training.schedule import TrainingConfig

    set_loudness(verbose, quiet)
    training = with_settings(TrainingConfig(), parse_settings(set_ or []))
    config = CompareConfig(
        names_of([methods]), names_of([backbones]), parse_shots(shots), shot_unit, seeds, training, task
    )
    result = follow(run(read_tile_table(tiles), config, out, device), quiet)
    if json:
        print_json(result)
        return
    for entry in result["summary"]:
        against = f", {100 * entry['difference']:+.1f} points on the probe" if "difference" in entry else ""
        say(
            f"{entry['method']} · {entry['backbone']} · {entry['shots']}: balanced accuracy "
            f"{entry['balanced_accuracy']:.3f}{against}",
            quiet,
        )
    for verdict in result["text"]:
        say(verdict["said"], quiet)
    say(f"Page: {result['html']}", quiet)
