"""Pause and Resume beside Cancel, and what a cancelled tuning shows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("qtpy.QtWidgets")
pytest.importorskip("napari")

from napari_pathotune.jobs import JobState, job_after
from napari_pathotune.widgets.train_result import headline
from pathotune import events


class FakeClient:
    """Stands in for the worker: notes what it is told, gives what the test puts into `events`."""

    def __init__(self) -> None:
        self.events: list[events.Event] = []
        self.calls: list[str] = []
        self.alive = True

    def poll(self) -> list[events.Event]:
        found, self.events = self.events, []
        return found

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: self.calls.append(name)


@pytest.fixture
def client() -> FakeClient:
    return FakeClient()


@pytest.fixture
def dock(qapp: Any, viewer: Any, client: FakeClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    from napari_pathotune import workers
    from napari_pathotune.widgets.dock import PathoTuneDock

    monkeypatch.setenv("PATHOTUNE_RESULTS", str(tmp_path))
    monkeypatch.setattr(workers, "_worker_client", lambda: client)
    made = PathoTuneDock(viewer)
    yield made
    made.close()


JOB: Any = SimpleNamespace(command="tune", arguments={})


def test_pause_and_resume(dock: Any, client: FakeClient, run_loop: Callable[..., bool]) -> None:
    progress, session = dock.progress, dock.session
    assert progress.pause.isHidden()
    dock.runner.submit(JOB, "", "Starting…")
    client.events = [events.Step("epoch 3", 40, 128)]
    assert run_loop(3, lambda: session.job.stage == "running")
    assert not progress.pause.isHidden() and progress.pause.text() == "Pause"
    progress.pause.click()
    assert client.calls[-1] == "pause" and session.job.hold == "pausing" and progress.pause.text() == "Resume"
    client.events = [events.Paused(True)]
    assert run_loop(3, lambda: session.job.hold == "paused")
    assert progress.line.text().startswith("Paused · Epoch 3 · 40 of 128") and session.job.is_active
    progress.pause.click()
    assert client.calls[-1] == "resume" and session.job.hold == ""
    client.events = [events.Paused(False), events.Step("epoch 3", 41, 128)]
    assert run_loop(3, lambda: session.job.done == 41)
    progress.pause.click()
    progress.cancel.click()
    assert client.calls[-1] == "cancel" and session.job.stage == "cancelling" and not progress.pause.isEnabled()
    client.events = [events.Paused(True), events.Failed("Cancelled", "", 130)]
    assert run_loop(3, lambda: session.job.stage == "cancelled")
    assert session.job.hold == "" and progress.pause.isHidden()


RESULT = {
    "status": "cancelled",
    "classes": ["a", "b"],
    "epochs": [{}] * 7,
    "best_epoch": 5,
    "val": {"balanced_accuracy": 0.9, "confusion": [[1, 0], [0, 1]], "per_class": {}},
    "out": "/nowhere/mine.pathotune.safetensors",
}


def test_a_cancelled_tuning_shows_its_best_epoch_and_can_be_continued(
    dock: Any, client: FakeClient, run_loop: Callable[..., bool], notices: list[str]
) -> None:
    dock.runner.submit(JOB, "", "Starting…")
    client.events = [events.Saving()]
    dock.runner.cancel()
    client.events = [events.Saving(), events.Finished(RESULT)]
    assert run_loop(3, lambda: dock.session.job.stage == "cancelled")
    assert "after epoch 7; the best was epoch 5" in dock.progress.text.text()
    assert not dock.tune.step_result.isHidden() and "best was epoch 5" in dock.tune.result.headline.text()
    assert dock.tune.out == RESULT["out"] and not dock.tune.again.isHidden()
    assert "nowhere" in notices[-1] or "mine" in notices[-1], "it was to be used at once; here its file is not there"


def test_cancelled_before_there_was_anything(dock: Any, client: FakeClient, run_loop: Callable[..., bool]) -> None:
    dock.runner.submit(JOB, "", "Starting…")
    dock.runner.cancel()
    client.events = [events.Failed("Cancelled", "The tuning was cancelled.", 130)]
    assert run_loop(3, lambda: dock.session.job.stage == "cancelled")
    assert "before there was anything to keep" in dock.progress.text.text() and dock.tune.step_result.isHidden()


def test_progress_on_its_way_does_not_undo_a_pause() -> None:
    job = job_after(JobState("running", "tune", hold="paused"), events.Step("epoch 1", 2, 9))
    assert job.hold == "paused" and job.done == 2
    assert job_after(job, events.Finished()).hold == ""
    assert "best" not in headline({**RESULT, "status": "done"})


def test_a_pause_is_said_before_the_work_has_begun() -> None:
    from napari_pathotune.widgets.progress import progress_text

    assert progress_text(JobState("starting", "tune", text="Starting to tune…")) == "Starting to tune…"
    assert progress_text(JobState("starting", "tune", text="Starting to tune…", hold="pausing")) == "Pausing…"
    assert progress_text(JobState("starting", "tune", text="Starting to tune…", hold="paused")) == "Paused"
