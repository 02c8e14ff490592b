"""What long work yields: small frozen events that any front end can draw, and their JSON form for pipes."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Iterable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Event:
    """Base of all events."""


@dataclass(frozen=True)
class Note(Event):
    """A sentence for the person; `level` is info or warning."""

    text: str
    level: str = "info"


@dataclass(frozen=True)
class Step(Event):
    """Progress inside one phase of the work, counted in `unit`.

    `rate` is units per second and `seconds_left` an estimate; both None while unknown.
    """

    phase: str
    done: int
    total: int
    unit: str = "tiles"
    rate: float | None = None
    seconds_left: float | None = None


@dataclass(frozen=True)
class EpochEnd(Event):
    """One finished epoch of a tuning; `metrics` are those of the validation regions.

    `rate` is training tiles per second, `seconds_left` of all epochs that may still come; None while unknown. `word` is
    what a person reads for it: a head that is solved has fits under several penalties, no epochs.
    """

    epoch: int
    epochs: int
    train_loss: float
    metrics: dict[str, float] = field(default_factory=dict)
    best_epoch: int = 0
    learning_rate: float = 0.0
    rate: float | None = None
    seconds_left: float | None = None
    word: str = "epoch"


@dataclass(frozen=True)
class ShardDone(Event):
    """A part of a prediction store that has just become readable.

    `box_px0` is (x, y, width, height) in level-0 pixels of what it covers.
    """

    store: str
    index: int
    done: int
    total: int
    box_px0: tuple[float, float, float, float]


@dataclass(frozen=True)
class SlideBegun(Event):
    """Of several slides, the next one's turn; `number` counts from 1 in the order of the run."""

    slide: str
    number: int
    total: int


@dataclass(frozen=True)
class SlideEnd(Event):
    """What became of one of several slides: the document `pathotune predict` prints of it, and how many have one."""

    result: dict[str, Any]
    done: int
    total: int


@dataclass(frozen=True)
class Paused(Event):
    """The work stands still as a person asked (`paused`), or goes on again; said by the process that does it."""

    paused: bool = True


@dataclass(frozen=True)
class Saving(Event):
    """The work is over and its result is being written: worth waiting for, also for who asked to stop."""


@dataclass(frozen=True)
class Finished(Event):
    """The end of the work with its result: the JSON document the command prints."""

    result: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Failed(Event):
    """The end of the work by an error; `kind` is the class name in `pathotune.errors`, `text` its sentence."""

    kind: str
    text: str
    exit_code: int = 1


def up_to_the_end(stream: Iterable[Event]) -> Generator[Event, None, dict[str, Any]]:
    """The events of a stage for who goes on after it: all but `Finished`, whose result is the generator's value.

    `result = yield from up_to_the_end(stage)`; the value is {} where the stage ended without a result.
    """
    result: dict[str, Any] = {}
    for event in stream:
        if isinstance(event, Finished):
            result = event.result
        else:
            yield event
    return result


def result_of(stream: Iterable[Event]) -> dict[str, Any]:
    """Run a stage to its end, whatever it says meanwhile, and return its result, {} where it ended without one."""
    stage = up_to_the_end(stream)
    while True:
        try:
            next(stage)
        except StopIteration as end:
            return dict(end.value)


KINDS: dict[str, type[Event]] = {
    cls.__name__: cls
    for cls in (Note, Step, EpochEnd, ShardDone, SlideBegun, SlideEnd, Paused, Saving, Finished, Failed)
}


def to_json(event: Event) -> dict[str, Any]:
    """The event as a JSON-ready dict with its kind under "event"."""
    return {"event": type(event).__name__, **dataclasses.asdict(event)}


def from_json(data: dict[str, Any]) -> Event:
    """The event written by `to_json`; raises KeyError for an unknown kind."""
    fields = dict(data)
    cls = KINDS[fields.pop("event")]
    if "box_px0" in fields:
        fields["box_px0"] = tuple(fields["box_px0"])
    return cls(**fields)
