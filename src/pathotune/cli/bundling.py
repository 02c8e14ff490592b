"""`pathotune bundle`: a backbone as one file, or the whole program as a folder, for a place without internet."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pathotune.cli.terminal import (
    Commands,
    JsonOption,
    QuietOption,
    VerboseOption,
    WeightsOption,
    follow,
    print_json,
    say,
    set_loudness,
)

CREATE_EXAMPLE = "Example: pathotune bundle create dinov2-vit-s-14 --out stick/"
INSTALL_EXAMPLE = "Example: pathotune bundle install stick/dinov2-vit-s-14.pathotune-backbone.zip"
OFFLINE_EXAMPLE = """
Examples:

  pathotune bundle offline --out stick/pathotune --backbone dinov2-vit-s-14

  pathotune bundle offline --out stick/pathotune --platform windows --python 3.12
"""


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    group = typer.Typer(
        cls=Commands,
        rich_markup_mode=None,
        help="Take a backbone, or the whole program, to a place without internet.",
        no_args_is_help=True,
    )
    group.command("create", epilog=CREATE_EXAMPLE)(create)
    group.command("install", epilog=INSTALL_EXAMPLE)(install)
    group.command("offline", epilog=OFFLINE_EXAMPLE)(offline)
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


def offline(
    out: Annotated[Path, typer.Option("--out", help="The folder to fill; copy it to the other computer afterwards.")],
    backbone: Annotated[
        list[str] | None, typer.Option("--backbone", help="A backbone to take along; repeat it. Ours comes anyway.")
    ] = None,
    platform: Annotated[
        str | None, typer.Option("--platform", help="linux, linux-arm, windows or macos (default: as here).")
    ] = None,
    python: Annotated[
        str | None, typer.Option("--python", help="The other computer's Python, such as 3.12 (default: as here).")
    ] = None,
    extras: Annotated[
        str | None, typer.Option("--extras", help="Of pathotune, with commas; none for the command line alone.")
    ] = None,
    cpu_torch: Annotated[
        bool, typer.Option("--cpu-torch", help="On Linux, torch without CUDA: some 3 GB less, no graphics card used.")
    ] = False,
    source: Annotated[
        Path | None, typer.Option("--source", help="pathotune itself, a wheel or its sources, where it is not found.")
    ] = None,
    json: JsonOption = False,
    verbose: VerboseOption = 0,
    quiet: QuietOption = False,
) -> None:
    """Make a folder that installs everything on a computer without internet and without admin rights."""
    from pathotune.installing.wheelhouse import OfflineConfig, create_offline_folder

    set_loudness(verbose, quiet)
    chosen = None if extras is None else tuple(filter(None, extras.replace("none", "").split(",")))
    config = OfflineConfig(tuple(backbone or ()), platform, python, chosen, source, cpu_torch)
    say("Fetching all packages; with a fast connection this takes minutes.", quiet)
    result = follow(create_offline_folder(out, config), quiet)
    if json:
        print_json(result)
    say(
        f"{result['out']}: pathotune {result['pathotune']} for {result['platform']} with Python {result['python']}, "
        f"{result['wheels']} packages, {result['bytes'] / 1e9:.1f} GB. Copy the folder, and there: sh install.sh "
        "(Windows: install.bat)",
        quiet,
    )
