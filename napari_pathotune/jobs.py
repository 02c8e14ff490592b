"""Where a job stands, and what its next event makes of that: pure, no viewer and no Qt."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from pathotune import events

SAVING = "saving"


@dataclass(frozen=True)
class JobState:
    """Where the running job stands.

    `stage` is idle, starting, running, cancelling, done, cancelled or failed; `error` names the class of what failed.
    `hold` is "pausing" from the press of the button until the work stands still, then "paused".
    """

    stage: str = "idle"
    command: str = ""
    phase: str = ""
    done: int = 0
    total: int = 0
    unit: str = "tiles"
    rate: float | None = None
    seconds_left: float | None = None
    text: str = ""
    hold: str = ""
    error: str = ""
    result: dict[str, Any] = field(default_factory=dict)

    @property
    def is_active(self) -> bool:
        """A job is running or about to end."""
        return self.stage in ("starting", "running", "cancelling")


def job_after(job: JobState, event: events.Event) -> JobState:
    """The state of a job after an event; the same object where the event changes nothing.

    Once the person has asked to stop, progress that was on its way no longer counts.
    """
    if isinstance(event, events.Finished):
        stage = "cancelled" if event.result.get("status") == "cancelled" else "done"
        return replace(job, stage=stage, result=event.result, seconds_left=None, hold="")
    if isinstance(event, events.Failed):
        stage = "cancelled" if event.kind == "Cancelled" or job.stage == "cancelling" else "failed"
        return replace(job, stage=stage, text=event.text, error=event.kind, seconds_left=None, hold="")
    if isinstance(event, events.Saving):
        return replace(job, phase=SAVING, text="Saving…", seconds_left=None)
    if job.stage == "cancelling":
        return job
    if isinstance(event, events.Paused):
        return replace(job, hold="paused" if event.paused else "")
    if isinstance(event, events.Step):
        return replace(
            job,
            stage="running",
            phase=event.phase,
            done=event.done,
            total=event.total,
            unit=event.unit,
            rate=event.rate,
            seconds_left=event.seconds_left,
            text="",
        )
    if isinstance(event, events.EpochEnd):
        return replace(
            job,
            stage="running",
            phase=f"{event.word}s",
            done=event.epoch,
            total=event.epochs,
            unit=f"{event.word}s",
            rate=None,
            seconds_left=event.seconds_left,
            text=epoch_text(event),
        )
    return job


def epoch_text(event: events.EpochEnd) -> str:
    """The end of the line on a finished epoch, short enough for the dock; the curves say the rest."""
    accuracy = event.metrics.get("balanced_accuracy")
    judged = f"loss {event.train_loss:.3f}" if accuracy is None else f"accuracy {accuracy:.2f}"
    return f"{judged}, best {event.word} {event.best_epoch}"


def word_of(result: dict[str, Any]) -> str:
    """What a person reads for an epoch of a tuning's result: "fit" where its head was solved."""
    return "fit" if any("inverse_penalty" in epoch for epoch in result.get("epochs") or ()) else "epoch"
