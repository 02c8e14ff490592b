"""`pathotune backbones` and `pathotune methods`: what there is to choose from, as cards."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pathotune.cli.terminal import JsonOption, QuietOption, VerboseOption, print_json, say, set_loudness

MARKS = {True: "yes", False: "no", None: "?"}


def register(app: typer.Typer) -> None:
    """Add the commands of this group."""
    example = "Example: pathotune backbones --check uni --weights models/uni/pytorch_model.bin"
    app.command("backbones", epilog=example)(backbones)
    app.command("methods", epilog="Example: pathotune methods --json")(methods)


def backbones(
    available: Annotated[
        bool, typer.Option("--available", help="Only those that can be used here without a download.")
    ] = False,
    commercial: Annotated[
        bool, typer.Option("--commercial", help="Only those whose licence is known to allow commercial use.")
    ] = False,
    check: Annotated[
        str | None,
        typer.Option("--check", metavar="NAME", help="Load one strictly and compare it with its authors' own way."),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option("--weights", help="With --check: the weights file, or a folder that holds it.")
    ] = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = 0,
    quiet: QuietOption = False,
) -> None:
    """List the backbones, or check one against its authors' own loading path."""
    set_loudness(verbose, quiet)
    if check is not None:
        _show_check(check, weights, as_json, quiet)
        return
    if weights is not None:
        from pathotune.errors import UsageError

        raise UsageError("--weights goes with --check NAME.")
    from pathotune.backbones import all_cards

    facts = [card.facts() for card in all_cards()]
    if available:
        facts = [row for row in facts if row["available"]]
    if commercial:
        facts = [row for row in facts if row["non_commercial"] is False]
    if as_json:
        print_json(facts)
        return
    _draw_backbones(facts)
    if not available:
        say("One card in full: pathotune backbones --json. Those of your own: --backbone CARD.yaml.", quiet)


def methods(as_json: JsonOption = False, verbose: VerboseOption = 0, quiet: QuietOption = False) -> None:
    """List the tuning methods."""
    set_loudness(verbose, quiet)
    from pathotune.methods import METHODS

    rows = [{"name": entry.name, "title": entry.title, **(entry.facts or {})} for entry in METHODS.entries()]
    if as_json:
        print_json(rows)
        return
    table, console = _table("method", "what it does")
    for row in rows:
        table.add_row(str(row["name"]), str(row.get("summary", row["title"])))
    console.print(table)


def _table(*columns: str) -> tuple[Any, Any]:
    """A table for people, and the console that draws it; the first column is never broken."""
    from rich.console import Console
    from rich.table import Table

    console = Console(stderr=True)
    if not console.is_terminal:
        console.width = 140
    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, no_wrap=index == 0, overflow="fold")
    return table, console


def _draw_backbones(facts: list[dict[str, Any]]) -> None:
    table, console = _table("name", "width", "patch", "image", "µm/px", "params", "licence", "gated", "here", "prompts")
    for row in facts:
        params = f"{row['params_m']:g} M" if row["params_m"] else ""
        here, prompts = MARKS[row["available"]], MARKS[row["takes_prompts"]]
        if not row["loadable"]:
            here, prompts = "no loader", ""
        numbers = [str(row[key] or "") for key in ("embed_dim", "patch_size", "image_size", "mpp")]
        table.add_row(row["name"], *numbers, params, row["licence"] or "?", MARKS[row["gated"]], here, prompts)
    console.print(table)


def _show_check(name: str, weights: Path | None, as_json: bool, quiet: bool) -> None:
    from pathotune.backbones import backbone_card
    from pathotune.backbones.reference import check_backbone

    card = backbone_card(name)

    say(f"Loading {card.title} twice: here, and the way its library does it …", quiet)
    result = check_backbone(card, weights)
    if as_json:
        print_json(result)
    else:
        say(result["sentence"], quiet)
    if result["agrees"] is False:
        raise typer.Exit(1)
