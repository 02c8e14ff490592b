"""`pathotune export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pathotune.cli.terminal import JsonOption, QuietOption, VerboseOption, print_json, say, set_loudness
from pathotune.errors import PathotuneError, UsageError

EXAMPLE = """Examples:

  pathotune export results/a.svs.tumour.pathotune.zarr --format geojson --out a.geojson

  pathotune export results/*.zarr --format csv --out tables   (a folder)"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("export", epilog=EXAMPLE)(export)


def export(
    stores: Annotated[list[Path], typer.Argument(metavar="STORE…", help="Prediction stores.")],
    out: Annotated[
        Path, typer.Option("--out", help="The file to write; of several stores, or without an ending, a folder.")
    ],
    format_: Annotated[
        str,
        typer.Option(
            "--format",
            help="geojson (QuPath), csv (a row per tile), png, ome-tiff (a pixel per tile) or h5ad (expression).",
        ),
    ] = "geojson",
    slide: Annotated[
        Path | None, typer.Option("--slide", help="The slide, for the picture under a png; found beside the store.")
    ] = None,
    abstain_below: Annotated[
        float,
        typer.Option("--abstain-below", help="Tiles less sure than this (0.6 is 60 %) belong to no class: Abstained*."),
    ] = 0.0,
    json: JsonOption = False,
    verbose: VerboseOption = 0,
    quiet: QuietOption = False,
) -> None:
    """Write predictions as what other programs and people open."""
    from pathotune.backbones.licences import passing_on_warning
    from pathotune.inference.export import EXPORTS, export_store
    from pathotune.inference.locations import read_attributes

    set_loudness(verbose, quiet)
    if format_ not in EXPORTS:
        raise UsageError(f"There is no export format {format_!r}; choose {', '.join(EXPORTS)}.")
    several = len(stores) > 1
    said: list[str] = []
    documents: list[dict[str, Any]] = []
    for store, target in zip(stores, _targets(stores, out, format_), strict=True):
        document: dict[str, Any] = {"store": str(store), "format": format_, "out": None, "error": None}
        documents.append(document)
        try:
            document["out"] = str(export_store(store, format_, target, slide, abstain_below))
        except UsageError:
            raise
        except PathotuneError as error:
            if not several:
                raise
            document["error"] = str(error)
            say(f"{store.name}: {error}")
            continue
        say(f"Wrote {target}.", quiet)
        if (limits := passing_on_warning(read_attributes(store).get("backbone") or {})) and limits not in said:
            said.append(limits)
            say(limits)
    if json:
        print_json(documents if several else documents[0])
    failed = sum(document["error"] is not None for document in documents)
    if failed:
        raise typer.Exit(1 if failed == len(documents) else 3)


def _targets(stores: list[Path], out: Path, format_: str) -> list[Path]:
    """The file of each store: `out` itself, or one in the folder `out`.

    Raises
    ------
    UsageError : two stores of one name would give one file.
    """
    from pathotune.inference.export import ENDINGS

    if len(stores) == 1 and out.suffix and not out.is_dir():
        return [out]
    ending = ENDINGS.get(format_, f".{format_}")
    targets = [out / f"{store.name.removesuffix('.zarr')}{ending}" for store in stores]
    if twice := [one.name for one in targets if targets.count(one) > 1]:
        raise UsageError(
            f"Several stores would be written to {twice[0]}, as they have one name. Export each folder of them to an "
            "--out of its own."
        )
    return targets
