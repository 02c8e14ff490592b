"""`pathotune zero-shot` and `pathotune classes`: tunings whose classes are sentences."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pathotune.cli.terminal import (
    JsonOption,
    QuietOption,
    VerboseOption,
    WeightsOption,
    follow,
    print_json,
    say,
    set_loudness,
)
from pathotune.errors import UsageError

ZERO_SHOT_EXAMPLE = (
    "Example: pathotune zero-shot --backbone plip --classes 'tumor: nests of carcinoma cells; stroma; fat' --out words"
)
CLASSES_EXAMPLE = (
    "Example: pathotune classes words.pathotune.safetensors --add 'necrosis=ghosts of cells and debris' --out more"
)


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("zero-shot", epilog=ZERO_SHOT_EXAMPLE)(zero_shot)
    app.command("classes", epilog=CLASSES_EXAMPLE)(classes)


def zero_shot(
    out: Annotated[Path, typer.Option("--out", help="The tuning file to write.")],
    backbone: Annotated[
        str, typer.Option("--backbone", help="A model of images and sentences: plip, conch, quiltnet-b32, keep, …")
    ],
    classes_: Annotated[
        str, typer.Option("--classes", help="Class names, with a sentence where you like: 'tumor: nests of …; stroma'.")
    ] = "",
    task: Annotated[
        str | None, typer.Option("--task", help="A task card by name or file instead; see `pathotune tasks`.")
    ] = None,
    stain: Annotated[
        str, typer.Option("--stain", help="Of the slides, with --classes: H&E, IHC, trichrome, …")
    ] = "H&E",
    organ: Annotated[str, typer.Option("--organ", help="Of the slides, with --classes.")] = "",
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="An option of the method zero_shot, as key=value; repeat it.")
    ] = None,
    weights: WeightsOption = None,
    json: JsonOption = False,
    verbose: VerboseOption = 0,
    quiet: QuietOption = False,
) -> None:
    """Make a tuning from class names alone, for models that compare images with sentences; nothing is trained."""
    from pathotune.methods.options import parse_settings
    from pathotune.tasks import load_task, task_from_words
    from pathotune.training.wording import tune_by_wording

    set_loudness(verbose, quiet)
    if bool(classes_) == (task is not None):
        raise UsageError("Give either --classes 'name: sentence; name' or --task.")
    card = load_task(task) if task is not None else task_from_words(classes_, stain=stain, organ=organ)
    result = follow(tune_by_wording(card, backbone, out, parse_settings(set_ or []), weights=weights), quiet)
    if json:
        print_json(result)
        return
    _show_texts(result["text"], quiet)
    say(f"Saved {result['out']} ({', '.join(result['classes'])}; {result['seconds']} s).", quiet)


def classes(
    tuning: Annotated[Path, typer.Argument(metavar="TUNING", help="A tuning whose classes are sentences.")],
    add: Annotated[
        list[str] | None,
        typer.Option("--add", metavar="NAME=SENTENCE", help="A class more, told by its sentence; repeat it."),
    ] = None,
    remove: Annotated[
        list[str] | None, typer.Option("--remove", metavar="NAME", help="A class less; repeat it.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Where the changed tuning is written.")] = None,
    weights: WeightsOption = None,
    json: JsonOption = False,
    verbose: VerboseOption = 0,
    quiet: QuietOption = False,
) -> None:
    """Show the sentences of a tuning's classes and how alike they are; add or take out classes without training."""
    from pathotune.methods.checkpoint import Tuning
    from pathotune.methods.classes import class_texts, with_class, without_class

    set_loudness(verbose, quiet)
    changed = Tuning.load(tuning)
    if bool(add or remove) != (out is not None):
        raise UsageError("--out goes with --add or --remove: it names the changed tuning, and the old one stays.")
    wanted, there = [_added(text) for text in add or []], set(changed.class_names)
    # Those first that are not there: of two classes none can go before another has come.
    for name, sentence in (one for one in wanted if one[0] not in there):
        changed = with_class(changed, name, sentence, weights=weights)
    for name in remove or []:
        changed = without_class(changed, name)
    for name, sentence in (one for one in wanted if one[0] in there):
        changed = with_class(changed, name, sentence, weights=weights)
    found: dict[str, Any] = {**class_texts(changed), "out": None if out is None else str(changed.save(out))}
    if json:
        print_json(found)
        return
    _show_texts({"sentences": found["classes"], "cosines": found["cosines"], "alike": found["alike"]}, quiet)
    if out is not None:
        say(f"Saved {found['out']}.", quiet)


def _added(text: str) -> tuple[str, str]:
    """A class's name and sentence."""
    name, equals, sentence = (part.strip() for part in text.partition("="))
    if not equals:
        raise UsageError(f"--add takes NAME=SENTENCE, not {text!r}.")
    return name, sentence


def show_cosines(names: list[str], cosines: list[list[float]], quiet: bool) -> None:
    """The cosine of every two texts, as a table for people."""
    if quiet:
        return
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    table = Table("cosine", *(Column(Text(name), justify="right") for name in names))
    for name, row in zip(names, cosines, strict=True):
        table.add_row(Text(name), *(f"{value:.2f}" for value in row))
    Console(stderr=True).print(table)


def _show_texts(found: dict[str, Any] | None, quiet: bool) -> None:
    if found is None:
        return
    for name, sentence in found["sentences"].items():
        say(f"{name}: {sentence}", quiet)
    show_cosines(list(found["sentences"]), found["cosines"], quiet)
    for sentence in found["alike"]:
        say(sentence, quiet)
