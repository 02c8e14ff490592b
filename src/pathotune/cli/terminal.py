"""What a command shows: events as progress on stderr, the result as one JSON document on stdout."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from pathotune import errors, events

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else there.")]
VerboseOption = Annotated[int, typer.Option("--verbose", "-v", count=True, help="Say more (twice: everything).")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")]
SlideMppOption = Annotated[
    float | None,
    typer.Option(
        "--slide-mpp", help="The slide's own pixel size in µm per pixel, where the file lacks it or is wrong."
    ),
]

TuningOption = Annotated[Path, typer.Option("--tuning", help="The tuning file; it says how tiles are read.")]
WeightsOption = Annotated[
    Path | None, typer.Option("--weights", help="A file with the backbone's weights, where it is not found.")
]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1 or mps.")]


class Commands(TyperGroup):
    """The list of commands with whole sentences, where click would cut each at its column."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write each command with the first sentence of its docstring."""
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl([(name, one.get_short_help_str(limit=400)) for name, one in commands if one is not None])


def set_loudness(verbose: int, quiet: bool) -> None:
    """Set what the logs show from -v and -q."""
    level = logging.ERROR if quiet else (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)]
    logging.getLogger("pathotune").setLevel(level)


def say(text: str, quiet: bool = False) -> None:
    """A line for people, on stderr."""
    if not quiet:
        print(text, file=sys.stderr)


def print_json(document: Any) -> None:
    """The result as JSON on stdout; not-a-number becomes null, as JSON has none."""
    print(json.dumps(_finite(document), indent=1, ensure_ascii=False))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value


def follow(stream: Iterable[events.Event], quiet: bool = False) -> dict[str, Any]:
    """Draw events as they come and return the result of the last `Finished`.

    Raises the error a `Failed` event names. Without a terminal, only notes and epochs are printed.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

    # In a log every sentence stays one line; only a terminal's own width is worth breaking for.
    console = Console(stderr=True, quiet=quiet)
    console.soft_wrap = not console.is_terminal
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[facts]}"))
    result: dict[str, Any] = {}
    bars: dict[str, TaskID] = {}
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as progress:
        for event in stream:
            if isinstance(event, events.Finished):
                result = event.result
            elif isinstance(event, events.Failed):
                raise as_error(event)
            else:
                _draw(event, progress, console, bars)
    return result


def _draw(event: events.Event, progress: Progress, console: Any, bars: dict[str, TaskID]) -> None:
    if isinstance(event, events.Step):
        facts = f"{event.done}/{event.total} {event.unit}"
        if event.rate:
            facts += f" · {event.rate:.1f}/s"
        if event.seconds_left is not None:
            facts += f" · {event.seconds_left:.0f} s left"
        if event.phase not in bars:
            bars[event.phase] = progress.add_task(event.phase, total=event.total, facts=facts)
        progress.update(bars[event.phase], completed=event.done, total=event.total, facts=facts)
    elif isinstance(event, events.EpochEnd):
        scores = ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in event.metrics.items())
        epoch = f"{event.word} {event.epoch}/{event.epochs} · training loss {event.train_loss:.4f}"
        console.print(f"{epoch} · held out: {scores}" if scores else epoch, highlight=False)
    elif isinstance(event, events.Note):
        console.print(event.text, style="yellow" if event.level == "warning" else "", highlight=False)


def as_error(event: events.Failed) -> errors.PathotuneError:
    """The error that a `Failed` event stands for."""
    cls = getattr(errors, event.kind, errors.PathotuneError)
    error: errors.PathotuneError = cls.__new__(cls)
    Exception.__init__(error, event.text)
    error.exit_code = event.exit_code
    return error
