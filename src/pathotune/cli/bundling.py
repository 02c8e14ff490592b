"""`pathotune bundle`: a backbone as one file for a place without internet."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pathotune.cli.terminal import JsonOption, QuietOption, VerboseOption, WeightsOption, print_json, say, set_loudness

CREATE_EXAMPLE = "Example: pathotune bundle create dinov2-vit-s-14 --out stick/"
INSTALL_EXAMPLE = "Example: pathotune bundle install stick/dinov2-vit-s-14.pathotune-backbone.zip"


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    group = typer.Typer(help="Take a backbone to a place without internet, as one file.", no_args_is_help=True)
    group.command("create", epilog=CREATE_EXAMPLE)(create)
    group.command("install", epilog=INSTALL_EXAMPLE)(install)
    app.add_typer(group, name="bundle")


def create(
    backbone: Annotated[str, typer.Argument(help="A name of `pathotune backbones`, or a card of your own (YAML).")],
    out: Annotated[Path, typer.Option("--out", help="The file to write, or a folder for it.")],
    weights: WeightsOption = None,
    json: JsonOption = False,
    verbose: VerboseOption = 0,
    quiet: QuietOption = False,
) -> None:
    """Write a backbone with its card and licence as one file."""
    from pathotune.backbones.bundle import create_bundle

    set_loudness(verbose, quiet)
    result = create_bundle(backbone, out, weights)
    if json:
        print_json(result)
    size = sum(facts["bytes"] for facts in result["files"].values()) / 1e6
    say(f"Wrote {result['out']} ({size:.0f} MB). On the other computer: pathotune bundle install FILE", quiet)
    if result["warning"]:
        say(result["warning"])


def install(
    bundle: Annotated[Path, typer.Argument(help="The file that `bundle create` wrote.")],
    json: JsonOption = False,
    verbose: VerboseOption = 0,
    quiet: QuietOption = False,
) -> None:
    """Install a backbone from such a file; every byte is checked, and nothing of it is run."""
    from pathotune.backbones.bundle import install_bundle

    set_loudness(verbose, quiet)
    result = install_bundle(bundle)
    if json:
        print_json(result)
    say(f"{result['name']} is installed in {result['folder']}. Use it with --backbone {result['use']}", quiet)
    if result["warning"]:
        say(result["warning"])
