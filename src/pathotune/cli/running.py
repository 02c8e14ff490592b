"""The command `run`: a job that was written as a file, done as the command it stands for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pathotune.cli.terminal import JsonOption, QuietOption, VerboseOption, follow, print_json, say, set_loudness

EXAMPLE = "Example: pathotune run tumour.yaml --json"


def run(
    job: Annotated[Path, typer.Argument(help="A job as YAML, as `Save as job` in the viewer writes it.")],
    json: JsonOption = False,
    verbose: VerboseOption = 0,
    quiet: QuietOption = False,
) -> None:
    """Do a job that was written as a file; paths in it count from the working folder, as on the command line."""
    from pathotune.execution.job import Job, run_job

    set_loudness(verbose, quiet)
    asked = Job.from_yaml(job)
    result = follow(run_job(asked), quiet)
    if json:
        print_json(result)
    else:
        made = result.get("out") or result.get("store")
        say(f"Done: {asked.command}" + (f", {made}" if made else "") + ".", quiet)


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command(epilog=EXAMPLE)(run)
