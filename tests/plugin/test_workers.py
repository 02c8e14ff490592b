"""Jobs run elsewhere: their events reach the session by a timer, their shards are painted as they come."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("qtpy.QtCore")

from napari_pathotune import workers
from napari_pathotune.layers import facts
from napari_pathotune.overlay import ClassGrid
from napari_pathotune.session import session_of
from pathotune import events
from pathotune.tiles import Reading

STORE = "/results/slide.tuning.pathotune.zarr"


class FakeClient:
    """Stands in for the worker process: gives what the test puts into `events`."""

    def __init__(self) -> None:
        self.events: list[events.Event] = []
        self.calls: list[str] = []
        self.alive = False

    def start(self) -> None:
        self.alive = True
        self.calls.append("start")

    def submit(self, job: Any) -> None:
        self.calls.append("submit")

    def poll(self) -> list[events.Event]:
        found, self.events = self.events, []
        return found

    def cancel(self) -> None:
        self.calls.append("cancel")

    def close(self) -> None:
        self.alive = False
        self.calls.append("close")


CLASSES = [("a", (9, 9, 9)), ("b", (1, 2, 3))]
READING = Reading(mpp=0.5, tile_px=100, image_px=100)


class FakeJob:
    command = "predict"


@pytest.fixture
def client() -> FakeClient:
    return FakeClient()


@pytest.fixture
def runner(qapp: Any, viewer: Any, client: FakeClient) -> Any:
    made = workers.JobRunner(session_of(viewer), make_client=lambda: client)
    yield made
    made.close()


def empty_grid() -> ClassGrid:
    probabilities = np.zeros((2, 4, 6), np.float32)
    return ClassGrid(probabilities, ("a", "b"), np.array([[9, 9, 9], [1, 2, 3]]), (50.0, 50.0), (24.75, 24.75))


def test_events_reach_the_session_without_waiting(
    runner: Any, client: FakeClient, run_loop: Callable[..., bool]
) -> None:
    session = runner.session
    start = time.perf_counter()
    runner.submit(FakeJob(), "/s.svs", "Starting…")
    assert time.perf_counter() - start < 0.05 and client.calls == ["start", "submit"]
    client.events = [events.Step("predict", n, 100, rate=50.0) for n in range(0, 100, 5)] + [
        events.Finished({"tiles": 100})
    ]
    seen: list[str] = []
    session.job_changed.connect(lambda job: seen.append(job.stage))
    assert run_loop(2, lambda: session.job.stage == "done")
    assert len(seen) <= 3, "of progress that has piled up only the newest is drawn"


def test_a_second_job_waits_for_the_first(runner: Any, client: FakeClient, notices: list[str]) -> None:
    runner.submit(FakeJob(), "/s.svs", "")
    runner.submit(FakeJob(), "/s.svs", "")
    assert client.calls == ["start", "submit"] and "running" in notices[0]


def test_cancel_asks_at_once_and_ends_as_cancelled(
    runner: Any, client: FakeClient, run_loop: Callable[..., bool]
) -> None:
    runner.submit(FakeJob(), "/s.svs", "")
    runner.cancel()
    assert client.calls[-1] == "cancel" and runner.session.job.stage == "cancelling"
    client.events = [events.Failed("Cancelled", "The work was cancelled.", 130)]
    assert run_loop(2, lambda: runner.session.job.stage == "cancelled")


def test_the_worker_stays_warm_then_gives_its_memory_back(
    runner: Any, client: FakeClient, run_loop: Callable[..., bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    from napari_pathotune import compat

    runner.submit(FakeJob(), "/s.svs", "")
    client.events = [events.Finished({})]
    assert run_loop(2, lambda: runner.session.job.stage == "done")
    runner.submit(FakeJob(), "/s.svs", "")
    assert client.calls.count("start") == 1, "a warm worker is used again"
    monkeypatch.setattr(compat, "preferences", lambda: compat.Preferences(keep_worker_minutes=0))
    client.events = [events.Finished({})]
    assert run_loop(2, lambda: "close" in client.calls) and runner.client is None


@pytest.fixture
def on_disk(monkeypatch: pytest.MonkeyPatch) -> np.ndarray[Any, Any]:
    """A store's probabilities that the filler reads; the test writes them."""
    values = np.zeros((2, 4, 6), np.float32)

    def open_store(path: str) -> workers.Opened:
        grid = empty_grid()
        grid.put(values.copy(), 0, 0)
        return workers.Opened("t", values, (0.5, 0.5), grid)

    monkeypatch.setattr(workers, "_open_store", open_store)
    monkeypatch.setattr(workers, "_read_extras", lambda path, slide: workers.Extras("t", []))
    return values


def predicted(session: Any) -> int:
    return session.results[0].grid.predicted_cells if session.results else 0


def test_shards_are_painted_as_they_come_and_the_other_layers_wait_for_the_end(
    runner: Any, client: FakeClient, run_loop: Callable[..., bool], on_disk: np.ndarray[Any, Any], viewer: Any
) -> None:
    session = runner.session
    runner.submit(FakeJob(), "/s.svs", "")
    on_disk[0, :2] = 1
    client.events = [events.ShardDone(STORE, 0, 1, 2, (0, 0, 600, 200))] * 2
    assert run_loop(3, lambda: predicted(session) == 12 and session.results[0].classes is not None)
    overlay = session.results[0].classes
    assert overlay.data[0, 0, 3] > 0 and overlay.data[3, 0, 3] == 0
    on_disk[1, 2:] = 1
    client.events = [events.ShardDone(STORE, 1, 2, 2, (0, 200, 600, 200))]
    assert run_loop(3, lambda: predicted(session) == 24)
    assert tuple(overlay.data[3, 0, :3]) == (1, 2, 3) and len(viewer.layers) == 1
    client.events = [events.Finished({"store": STORE})]
    assert run_loop(3, lambda: session.results[0].probability is not None)
    assert np.shares_memory(session.results[0].probability.data, session.results[0].grid.shown)


def test_a_prepared_overlay_is_filled_and_no_layer_is_made_while_the_job_runs(
    runner: Any,
    client: FakeClient,
    run_loop: Callable[..., bool],
    on_disk: np.ndarray[Any, Any],
    viewer: Any,
    add: Any,
    slide_path: Any,
) -> None:
    from napari_pathotune.layers import slide_layer
    from pathotune.slides import open_slide

    session = runner.session
    add([slide_layer(open_slide(slide_path))])
    session.prepare("/other/store.zarr", "other", [("x", None)], READING, 50)
    session.prepare(STORE, "t", CLASSES, READING, 100)
    assert len(viewer.layers) == 3, "unused layers are taken over"
    overlay, shown = session.results[0].classes, session.results[0].grid
    assert overlay.name == "classes · t" and shown.is_like(empty_grid())
    changed: list[Any] = []
    for layer in session.results[0].layers:
        layer.events.data.connect(changed.append)
        layer.events.scale.connect(changed.append)
    runner.submit(FakeJob(), str(slide_path), "")
    on_disk[0, :2] = 1
    client.events = [events.ShardDone(STORE, 0, 1, 2, (0, 0, 600, 200))]
    assert run_loop(3, lambda: predicted(session) == 12)
    assert len(viewer.layers) == 3 and session.results[0].classes is overlay and overlay.data[0, 0, 3] > 0
    assert tuple(overlay.scale) == (50.0, 50.0) and facts(overlay)["store"] == STORE
    assert not changed and session.results[0].grid is shown, "painted into what is there: no new texture, no new layout"


def test_the_window_changes_twice_a_second_at_most_however_fast_the_worker_tells(
    runner: Any, client: FakeClient, run_loop: Callable[..., bool], on_disk: np.ndarray[Any, Any], viewer: Any
) -> None:
    session = runner.session
    runner.submit(FakeJob(), "/s.svs", "")
    on_disk[0] = 1
    client.events = [events.ShardDone(STORE, 0, 0, 1, (0, 0, 600, 400))]
    assert run_loop(3, lambda: predicted(session) == 24)
    steps: list[Any] = []
    refreshes: list[Any] = []
    session.job_changed.connect(steps.append)
    session.results[0].classes.events.set_data.connect(refreshes.append)
    start = time.perf_counter()
    while time.perf_counter() - start < 2.0:
        client.events += [
            events.Step("predict", len(steps), 100),
            events.ShardDone(STORE, 0, 0, 1, (0, 0, 600, 400)),
        ]
        run_loop(0.02)
    allowed = (time.perf_counter() - start) / workers.SHOW_EVERY_S + 1
    assert 2 <= len(steps) <= allowed and 1 <= len(refreshes) <= allowed
    client.events = [events.Finished({"store": STORE})]
    start = time.perf_counter()
    assert run_loop(3, lambda: not session.job.is_active)
    assert time.perf_counter() - start < workers.SHOW_EVERY_S, "the end is not held back"


def test_what_was_closed_stays_closed(
    runner: Any, client: FakeClient, run_loop: Callable[..., bool], on_disk: np.ndarray[Any, Any], viewer: Any
) -> None:
    runner.submit(FakeJob(), "/s.svs", "")
    on_disk[0] = 1
    client.events = [events.ShardDone(STORE, 0, 1, 1, (0, 0, 600, 400))]
    assert run_loop(3, lambda: predicted(runner.session) == 24)
    viewer.layers.clear()
    client.events = [events.Finished({"store": STORE})]
    assert run_loop(3, lambda: not runner.session.job.is_active and not runner._filler.is_busy)
    run_loop(0.3)
    assert len(viewer.layers) == 0


def test_a_result_kept_beside_another_hides_it(
    runner: Any,
    client: FakeClient,
    run_loop: Callable[..., bool],
    on_disk: np.ndarray[Any, Any],
    add: Any,
    slide_path: Any,
) -> None:
    from napari_pathotune.layers import result_layers, slide_layer
    from pathotune.slides import open_slide

    add([slide_layer(open_slide(slide_path))])
    earlier = add(result_layers(empty_grid(), "/r/one.zarr", "t", str(slide_path)))
    runner.submit(FakeJob(), str(slide_path), "")
    on_disk[0] = 1
    client.events = [events.ShardDone(STORE, 0, 1, 1, (0, 0, 600, 400))]
    assert run_loop(3, lambda: len(runner.session.results) == 2)
    assert not any(layer.visible for layer in earlier) and runner.session.result.store == STORE


def test_a_slide_closed_in_mid_run_stays_closed_and_the_job_goes_on(
    runner: Any,
    client: FakeClient,
    run_loop: Callable[..., bool],
    on_disk: np.ndarray[Any, Any],
    viewer: Any,
    add: Any,
    slide_path: Any,
) -> None:
    from napari_pathotune.layers import slide_layer
    from pathotune.slides import open_slide

    (layer,) = add([slide_layer(open_slide(slide_path))])
    runner.submit(FakeJob(), str(slide_path), "")
    viewer.layers.remove(layer)
    on_disk[0] = 1
    client.events = [events.ShardDone(STORE, 0, 1, 1, (0, 0, 600, 400)), events.Step("predict", 3, 9)]
    assert run_loop(3, lambda: runner.session.job.done == 3) and runner.session.job.is_active
    client.events = [events.Finished({"store": STORE})]
    assert run_loop(3, lambda: not runner.session.job.is_active and not runner._filler.is_busy)
    assert len(viewer.layers) == 0


def test_a_part_that_cannot_be_read_is_read_at_the_end(
    runner: Any,
    client: FakeClient,
    run_loop: Callable[..., bool],
    on_disk: np.ndarray[Any, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read_whole = workers._read_parts

    def read(opened: Any, boxes: Any) -> Any:
        if boxes is not None:
            raise OSError("still being written")
        return read_whole(opened, boxes)

    monkeypatch.setattr(workers, "_read_parts", read)
    runner.submit(FakeJob(), "/s.svs", "")
    client.events = [events.ShardDone(STORE, n, n, 2, (0, 0, 600, 400)) for n in range(3)]
    assert run_loop(3, lambda: len(runner.session.results) == 1)
    on_disk[0] = 1
    client.events = [events.Finished({"store": STORE})]
    assert run_loop(3, lambda: predicted(runner.session) == 24)


def test_closing_ends_the_worker(runner: Any, client: FakeClient, run_loop: Callable[..., bool]) -> None:
    runner.submit(FakeJob(), "/s.svs", "")
    runner.close()
    assert runner.client is None and run_loop(2, lambda: client.calls[-1] == "close")
