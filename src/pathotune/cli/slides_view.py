"""A run over many slides in a terminal: how far it is, how fast, what failed; in a log one line for each slide."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pathotune import events
from pathotune.cli.terminal import as_error, say
from pathotune.inference.busy import waiting_sentence

if TYPE_CHECKING:
    from rich.console import RenderableType

BAD = ("failed", "needs_mpp")
SHOWN = 8
REFRESH_PER_S = 4


def follow_slides(stream: Iterable[events.Event], *, live: bool, quiet: bool) -> dict[str, Any]:
    """Draw the events of `execution.batch.predict_many` and return its result.

    Parameters
    ----------
    live : redraw a picture of the run in the terminal; without it every slide is a line on stderr.
    quiet : say nothing but errors.

    Raises
    ------
    PathotuneError : what a `Failed` event names.
    """
    from rich.console import Console

    console = Console(stderr=True)
    if not live or quiet or not console.is_terminal:
        return _told(stream, quiet)
    from rich.live import Live

    view = SlidesView()
    with Live(view.picture(), console=console, refresh_per_second=REFRESH_PER_S, transient=True) as screen:
        for event in stream:
            view.take(event)
            if isinstance(event, events.Note):
                console.print(event.text, style="yellow" if event.level == "warning" else "", highlight=False)
            screen.update(view.picture())
    say(view.sentence())
    return view.result


def _told(stream: Iterable[events.Event], quiet: bool) -> dict[str, Any]:
    """One line per slide."""
    view = SlidesView()
    for event in stream:
        view.take(event)
        if isinstance(event, events.Note):
            say(event.text, quiet)
        elif isinstance(event, events.SlideEnd):
            say_result(event.result, quiet)
    if view.total > 1:
        say(view.sentence(), quiet)
    return view.result


def say_result(result: dict[str, Any], quiet: bool) -> None:
    """What became of one slide, in a line or two."""
    name = Path(result["slide"]).name
    if result["status"] in (*BAD, "elsewhere"):
        say(f"pathotune: {result['error']}", quiet and result["status"] == "elsewhere")
    elif result["status"] == "empty":
        say(f"{name}: no tissue was found where you asked, so nothing was predicted.", quiet)
    else:
        areas = ", ".join(f"{label} {area:.3g} mm²" for label, area in result["classes"].items())
        rate = f", {result['tiles_per_second']:.1f} tiles/s" if result["tiles_per_second"] else ""
        say(f"{name}: {result['status']}, {result['tiles']} tiles in {result['seconds']:.1f} s{rate}. {areas}", quiet)
        if waited := waiting_sentence(result):
            say(f"  {waited}", quiet)
        say(f"  {result['store']}", quiet)


class SlidesView:
    """What is known of a run over slides from its events."""

    def __init__(self) -> None:
        self.result: dict[str, Any] = {}
        self.total, self.done = 0, 0
        self.counts: Counter[str] = Counter()
        self._slide, self._step = "", None
        self._recent: deque[dict[str, Any]] = deque(maxlen=SHOWN)
        self._started = time.monotonic()
        self._worked = 0

    _step: events.Step | None

    def take(self, event: events.Event) -> None:
        """Note one event; raises the error a `Failed` one names."""
        if isinstance(event, events.SlideBegun):
            self._slide, self.total, self._step = event.slide, event.total, None
        elif isinstance(event, events.Step):
            self._step = event
        elif isinstance(event, events.SlideEnd):
            self.done, self.total = event.done, event.total
            self.counts[event.result["status"]] += 1
            # What was finished before says nothing of how long the rest takes.
            self._worked += event.result["seconds"] > 0
            self._recent.append(event.result)
        elif isinstance(event, events.Finished):
            self.result = event.result
        elif isinstance(event, events.Failed):
            raise as_error(event)

    @property
    def slides_per_hour(self) -> float | None:
        """Of those that took work; None before the first."""
        elapsed = time.monotonic() - self._started
        return 3600 * self._worked / elapsed if self._worked and elapsed > 0 else None

    @property
    def seconds_left(self) -> float | None:
        """Of the whole run, by its own speed so far."""
        rate = self.slides_per_hour
        return None if rate is None else 3600 * (self.total - self.done) / rate

    def sentence(self) -> str:
        """How the run stands, in one sentence."""
        bad = sum(self.counts[status] for status in BAD)
        failed = f", {bad} could not be predicted" if bad else ""
        rest = self.total - self.done
        return f"{self.done - bad} of {self.total} slides are done{failed}{f', {rest} are left' if rest else ''}."

    def picture(self) -> RenderableType:
        """The run as rich draws it."""
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        facts = [f"{self.done}/{self.total or '?'} slides"]
        if self.slides_per_hour is not None:
            facts.append(f"{self.slides_per_hour:.1f} slides/h")
        if self.seconds_left is not None:
            facts.append(f"{in_words(self.seconds_left)} left")
        bad = sum(self.counts[status] for status in BAD)
        if bad:
            facts.append(f"{bad} failed")
        rows = Table.grid(padding=(0, 1))
        rows.add_row(ProgressBar(total=self.total or 1, completed=self.done, width=30), Text(" · ".join(facts)))
        if self._step is not None:
            step = self._step
            words = f"{Path(self._slide).name} · {step.phase} {step.done}/{step.total} {step.unit}"
            words += f" · {step.rate:.1f}/s" if step.rate else ""
            rows.add_row(ProgressBar(total=step.total or 1, completed=step.done, width=30), Text(words))
        table = Table(box=None, show_header=False, padding=(0, 1))
        for result in self._recent:
            style = "red" if result["status"] in BAD else ""
            about = result["error"] or f"{result['tiles']} tiles, {result['seconds']:.0f} s"
            line = Text(about, no_wrap=True, overflow="ellipsis")
            table.add_row(Text(Path(result["slide"]).name, style=style), result["status"], line)
        return Group(rows, table)


def in_words(seconds: float) -> str:
    """A duration as people say it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.1f} days"
