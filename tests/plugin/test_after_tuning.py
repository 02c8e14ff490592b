"""When a tuning is done the view is predicted, then the slide, which gives way to whatever the person starts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("qtpy.QtWidgets")
pytest.importorskip("napari")

from napari_pathotune import compat, workers
from napari_pathotune.layers import slide_layer
from napari_pathotune.widgets.after_tuning import NOTHING
from pathotune import events
from pathotune.execution.job import Job
from pathotune.methods.checkpoint import Tuning
from pathotune.tiles import Reading

TUNE = Job("tune", {"out": "x"})


class FakeClient:
    """Stands in for the worker process: keeps the jobs, and gives what the test puts into `events`."""

    def __init__(self) -> None:
        self.events: list[events.Event] = []
        self.jobs: list[Any] = []
        self.cancelled = 0
        self.alive = False

    def start(self) -> None:
        self.alive = True

    def submit(self, job: Any) -> None:
        self.jobs.append(job)

    def poll(self) -> list[events.Event]:
        found, self.events = self.events, []
        return found

    def cancel(self) -> None:
        self.cancelled += 1

    def close(self) -> None:
        self.alive = False


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> FakeClient:
    made = FakeClient()
    monkeypatch.setattr(workers, "_worker_client", lambda: made)
    return made


@pytest.fixture
def dock(qapp: Any, viewer: Any, add: Any, slide_path: Path, client: FakeClient, tmp_path: Path) -> Any:
    from napari_pathotune.widgets.dock import PathoTuneDock
    from pathotune.slides import open_slide

    made = PathoTuneDock(viewer)
    add([slide_layer(open_slide(slide_path))])
    made.tuned = Tuning(
        method="linear_probe",
        config={},
        task={},
        classes=[{"name": "Tumor", "color": [200, 0, 0]}, {"name": "Stroma", "color": [0, 160, 0]}],
        backbone={"name": "pathotune-tiny", "embed_dim": 192, "mpp": 0.5, "licence": "BSD-3-Clause"},
        reading=Reading(mpp=0.5, tile_px=64, image_px=64),
    ).save(tmp_path / "mine.pathotune.safetensors")
    compat.camera(viewer).zoom = 10.0
    yield made
    made.close()


def ended(dock: Any, client: FakeClient, run_loop: Callable[..., bool], event: events.Event, jobs: int) -> None:
    """The running job ends with this event; then so many jobs have been handed over in all."""
    client.events = [event]
    assert run_loop(3, lambda: not client.events and dock.session.job.stage in ("done", "cancelled", "starting"))
    run_loop(0.2)
    assert len(client.jobs) == jobs, [job.command for job in client.jobs]


def test_the_view_comes_first_then_the_slide_which_gives_way(
    dock: Any, client: FakeClient, run_loop: Callable[..., bool]
) -> None:
    dock.runner.submit(TUNE, "", "")
    ended(dock, client, run_loop, events.Finished({"out": str(dock.tuned)}), 2)
    view, tuning = client.jobs[1], str(dock.tuned)
    assert view.command == "predict" and view.arguments["tuning"] == tuning and len(view.arguments["box_px0"]) == 4
    assert not dock.runner.is_free, "what she looks at is not broken off"
    ended(dock, client, run_loop, events.Finished({"tiles": 4}), 3)
    slide = client.jobs[2].arguments
    assert "box_px0" not in slide and slide["resume"] is True
    x, y, width, height = view.arguments["box_px0"]
    assert slide["start_point_px0"] == [x + width / 2, y + height / 2]
    assert dock.runner.is_free and dock.predict.go.isEnabled()
    dock.runner.submit(TUNE, "", "")
    assert client.cancelled == 1 and not dock.runner.is_free and not dock.predict.go.isEnabled()
    ended(dock, client, run_loop, events.Failed("Cancelled", "The work was cancelled.", 130), 4)
    assert client.jobs[3] is TUNE and dock.session.job.command == "tune" and not dock.runner.is_free


@pytest.mark.parametrize("stage", ["off", "view only", "cancelled"])
def test_nothing_follows_that_nobody_wants(
    dock: Any, client: FakeClient, run_loop: Callable[..., bool], stage: str
) -> None:
    choice = dock.after_tuning.choice
    if stage != "cancelled":
        choice.setCurrentIndex(choice.findData(NOTHING if stage == "off" else "view"))
    dock.runner.submit(TUNE, "", "")
    ended(dock, client, run_loop, events.Finished({"out": str(dock.tuned)}), 1 if stage == "off" else 2)
    if stage == "view only":
        ended(dock, client, run_loop, events.Finished({"tiles": 4}), 2)
    elif stage == "cancelled":
        ended(dock, client, run_loop, events.Failed("Cancelled", "The work was cancelled.", 130), 2)
    assert [job.command for job in client.jobs] == (["tune"] if stage == "off" else ["tune", "predict"])


def test_a_tuning_that_cannot_be_opened_predicts_nothing(
    dock: Any, client: FakeClient, run_loop: Callable[..., bool], notices: list[str], tmp_path: Path
) -> None:
    dock.predict.tuning.load(dock.tuned)
    dock.runner.submit(TUNE, "", "")
    ended(dock, client, run_loop, events.Finished({"out": str(tmp_path / "gone.pathotune.safetensors")}), 1)
    assert "gone" in notices[-1]
