"""The stages from a terminal: `pathotune …`, one file of this room per group of commands."""

from __future__ import annotations

import importlib
import logging
import sys
from typing import Annotated

import typer

from pathotune.cli.terminal import Commands
from pathotune.errors import PathotuneError

# Each module has `register(app)`; none imports anything heavy at its top, so `--help` stays quick.
GROUPS: tuple[str, ...] = (
    "demonstration",
    "viewing",
    "slides",
    "tuning",
    "prediction",
    "exporting",
    "comparing",
    "classes",
    "features",
    "cohort",
    "running",
    "replaying",
    "doctor",
    "bundling",
    "catalogue",
    "tasks",
)


# Plain help pages: those drawn with rich cost half of all the time that `--help` takes.
app = typer.Typer(
    name="pathotune",
    cls=Commands,
    help="Tune prompts of frozen pathology models on a few regions and lay the predictions on the slide.",
    epilog="Examples:\n\n  pathotune demo --out demo\n\n  pathotune view slide.svs\n\n  pathotune tune --help",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        print(version("pathotune"))
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and end.")
    ] = False,
) -> None:
    """Options before any command."""


for _group in GROUPS:
    importlib.import_module(f"pathotune.cli.{_group}").register(app)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and end the process with the contract's exit codes.

    Exit codes: 0 done, 1 failed, 2 wrong usage, 3 some of several inputs failed, 130 cancelled.
    """
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s", stream=sys.stderr)
    try:
        app(arguments)
    except PathotuneError as error:
        print(f"pathotune: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        print("pathotune: cancelled; files that were written by then are kept.", file=sys.stderr)
        raise SystemExit(130) from None
    except BrokenPipeError:
        raise SystemExit(0) from None
