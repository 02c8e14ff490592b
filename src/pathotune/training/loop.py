"""One training loop for every method: a generator that tells what happens and ends with the saved tuning."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pathotune.backbones.licences import warn_before_tuning
from pathotune.device import pick_device
from pathotune.errors import Cancelled
from pathotune.events import EpochEnd, Event, Finished, Note, Saving
from pathotune.methods import load_config
from pathotune.methods.base import MethodConfig
from pathotune.methods.checkpoint import check_writable
from pathotune.prompts.text import text_for
from pathotune.training.examples import TuneSource, gather
from pathotune.training.record import keep, keep_best
from pathotune.training.resume import Start, start_from
from pathotune.training.run import Run
from pathotune.training.schedule import TrainingConfig
from pathotune.training.session import Session, session_path
from pathotune.training.stopping import Stopping, never

if TYPE_CHECKING:
    from pathotune.backbones.surface import Backbone
    from pathotune.datasets.tiles import TileTable
    from pathotune.tasks import Task

__all__ = ["Run", "tune"]


def tune(
    sources: Sequence[TuneSource] | TileTable,
    method: str = "pathotune",
    method_config: MethodConfig | Mapping[str, Any] | None = None,
    backbone: Backbone | str = "pathotune-tiny",
    training: TrainingConfig | None = None,
    task: Task | str | None = None,
    out: str | Path = "tuning.pathotune.safetensors",
    *,
    class_names: Sequence[str] | None = None,
    map_classes: Mapping[str, str] | None = None,
    continue_from: str | Path | None = None,
    cancel: Callable[[], bool] = never,
) -> Iterator[Event]:
    """Tune a method on regions of slides, or on a table of tiles, and save it.

    Closing the generator, or an interrupt, saves the best epoch so far before it ends.

    Parameters
    ----------
    sources : slides with their regions, or a tile table.
    method, method_config : name in `METHODS`, and its config or the fields that differ from the default.
    backbone : a loaded backbone or the name of one.
    training : how to train.
    task : a task, its name, or None to make one from the classes of the regions.
    out : the tuning file; `.pathotune.safetensors` is added where it has no such ending. Decoded tiles, the split and a
        report go to the folder NAME.session beside it.
    class_names : the classes and their order; None takes the task's, else those of the regions.
    map_classes : other names for classes in the regions; an empty name leaves a class out.
    continue_from : a saved tuning to go on from, with its method and options; what it learned from is never used to
        judge it. Classes may have been added.
    cancel : asked between the layers of the backbone; true ends the training, and the best epoch so far is saved as the
        tuning, with the status "cancelled". As long as it does not answer the training is paused, which changes nothing
        in what comes of it.

    Yields
    ------
    Note, Step, one EpochEnd per epoch, Saving, and Finished with the contract's JSON at the end.

    Raises
    ------
    NoTiles
        A class has too few tiles or regions; the sentence says which and why.
    TuningMismatch
        The backbone cannot carry the method, or is not the one of the tuning to go on from.
    NotFinite
        The training went astray; the sentence says what to lower.
    TooLittleMemory, OutputRefused
        The machine's memory or disk does not do.
    Cancelled
        It was cancelled before the first epoch was done, so that there is nothing to save.
    """
    started = time.monotonic()
    check_writable(out)
    training = training or TrainingConfig()
    loaded = _loaded(backbone)
    yield from warn_before_tuning(loaded.card)
    start = start_from(continue_from, loaded) if continue_from is not None else None
    method, config, training = _plan(start, method, method_config, training)
    device = pick_device(training.device)
    loaded = loaded.to(device)
    reading = training.reading_of(loaded.card)
    sessions = _sessions(out, start)
    stopping = Stopping(cancel, loaded if device == "cpu" else None)
    examples = yield from stopping.passing(
        gather(sources, reading, training, task, class_names, map_classes, sessions, start.sides if start else None)
    )
    with contextlib.closing(examples):
        _, text = text_for(config, examples.task, examples.class_names, reading.mpp, loaded, training.seed)
        if text.note:
            yield Note(text.note, "warning")
        state, note = start.state_for(examples.class_names, text) if start else (None, "")
        if note:
            yield Note(note)
        spill = session_path(out) / "kept"
        run = Run(method, config, loaded, examples, training, text, device, state, spill, stopping)
        run.went_on_from = start.tuning.fingerprint if start is not None and state is not None else ""
        with contextlib.closing(run.tiles), stopping:
            yield from _trained(run, out, started)


def _plan(
    start: Start | None, method: str, config: MethodConfig | Mapping[str, Any] | None, training: TrainingConfig
) -> tuple[str, MethodConfig, TrainingConfig]:
    """Method, its config and the training options: those of the tuning to go on from where there is one."""
    if start is not None:
        # What was learned holds for tiles read that way only.
        return start.method, start.config, replace(training, stain=start.tuning.reading.stain)  # type: ignore[arg-type]
    return method, config if isinstance(config, MethodConfig) else load_config(method, config), training


def _trained(run: Run, out: str | Path, started: float) -> Iterator[Event]:
    """Train, keep every new best epoch, and save the best of all, however it ends."""

    def seconds() -> float:
        return time.monotonic() - started - run.stopping.waited

    try:
        yield from run.prepare()
        for event in run.epochs():
            if isinstance(event, EpochEnd) and event.best_epoch == event.epoch:
                keep_best(run.outcome(quick=True), out, seconds())
            yield event
            run.stopping.look()
        outcome, status = run.outcome(), "done"
    except (GeneratorExit, KeyboardInterrupt):
        if run.best is not None:
            # Whoever cancels does not wait: no tile passes the model any more.
            keep(run.outcome(quick=True), out, seconds(), "cancelled")
        raise
    except Cancelled:
        if run.best is None:
            raise
        outcome, status = run.outcome(quick=True), "cancelled"
    try:
        yield Saving()
    finally:
        result = keep(outcome, out, seconds(), status)
    yield Finished(result)


def _sessions(out: str | Path, start: Start | None) -> list[Session]:
    """Where tiles may lie decoded: beside the tuning to be written, and beside the one gone on from."""
    folders = [session_path(out)] + ([session_path(start.path)] if start else [])
    return [Session(folder) for folder in dict.fromkeys(folders)]


def _loaded(backbone: Backbone | str) -> Backbone:
    from pathotune.backbones import load_backbone

    return load_backbone(backbone) if isinstance(backbone, str) else backbone
