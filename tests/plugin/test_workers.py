"""Jobs run elsewhere: their events reach the session by a timer, their shards are painted as they come."""

from __future__ import annotations

import gc
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


def test_a_full_garbage_collection_does_not_hold_the_window_up_while_a_job_runs(
    runner: Any, client: FakeClient, run_loop: Callable[..., bool]
) -> None:
    assert not gc.get_freeze_count()
    runner.submit(FakeJob(), "/s.svs", "")
    assert gc.get_freeze_count() > 10_000, "what napari has loaded is not looked through"
    client.events = [events.Finished({"tiles": 1})]
    assert run_loop(2, lambda: not gc.get_freeze_count()), "afterwards it is, so that closed windows are freed"
    runner.submit(FakeJob(), "/s.svs", "")
    runner.close()
    assert not gc.get_freeze_count()


def test_what_was_told_and_the_overlay_change_in_turns_of_their_own(
    runner: Any, client: FakeClient, run_loop: Callable[..., bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    turns: list[str] = []
    filler = runner._filler
    monkeypatch.setattr(filler, "advance", lambda end: turns.append("overlay"))
    monkeypatch.setattr(runner.session, "take", lambda event: turns.append("event"))
    runner.submit(FakeJob(), "/s.svs", "")
    client.events = [events.Note("info", "x")]
    runner._on_tick()
    assert turns == ["event"], "both at once would be felt"
    runner._on_tick()
    assert turns == ["event", "overlay"]


def test_where_the_worker_cannot_start_a_line_in_the_dock_leads_to_the_doctor(
    qapp: Any, viewer: Any, notices: list[str], run_loop: Callable[..., bool]
) -> None:
    from napari_pathotune.widgets.progress import ProgressPanel
    from pathotune.errors import WorkerNotStarted

    class Unstartable(FakeClient):
        def start(self) -> None:
            raise WorkerNotStarted("No such file or directory", "worker.log")

    clients: list[FakeClient] = [Unstartable(), Unstartable(), FakeClient()]
    runner = workers.JobRunner(session_of(viewer), make_client=lambda: clients.pop(0))
    session, panel = runner.session, ProgressPanel(session_of(viewer), runner)
    runner.warm()
    assert session.job.stage == "idle" and not notices, "nobody has asked for anything yet"
    runner.submit(FakeJob(), "/s.svs", "Starting…")
    assert session.job.stage == "failed" and runner.is_free and not runner._timer.isActive()
    assert "could not start (No such file" in panel.text.text() and "pathotune doctor" in panel.text.text()
    assert "could not start" in notices[-1] and not gc.get_freeze_count()
    runner.submit(FakeJob(), "/s.svs", "Starting…")
    runner.client.events = [events.Failed("MissingPackage", "A package is missing (zarr).")]
    assert run_loop(2, lambda: session.job.stage == "failed")
    assert panel.text.text().startswith("A package is missing (zarr).") and "pathotune doctor" in panel.text.text()
    runner.submit(FakeJob(), "/s.svs", "Starting…")
    runner.client.events = [events.Failed("NoTiles", "There is no tissue here.")]
    assert run_loop(2, lambda: session.job.text == "There is no tissue here.")
    assert panel.text.text() == "There is no tissue here.", "of the slide the doctor knows nothing"
    runner.close()
    panel.close()


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


WHOLE = (0.0, 0.0, 600.0, 400.0)


class Prediction:
    """A prediction of a slide of 4 × 6 cells as the window sees it; the test writes `values`, as the worker would."""

    def __init__(self, runner: Any, client: FakeClient, run_loop: Callable[..., bool]) -> None:
        self.runner, self.client, self.run_loop = runner, client, run_loop
        self.session = runner.session
        self.values = np.zeros((2, 4, 6), np.float32)
        self.attention: list[Any] = []

    def open_store(self, path: str, slide_path: str) -> workers.Opened:
        grid = empty_grid()
        grid.put(self.values.copy(), 0, 0)
        return workers.Opened("t", self.values, (0.5, 0.5), grid, self.attention)

    def start(self, slide_path: Any = "/s.svs") -> None:
        self.runner.submit(FakeJob(), str(slide_path), "")

    def shard(self, box: tuple[float, float, float, float] = WHOLE) -> None:
        self.client.events.append(events.ShardDone(STORE, 0, 1, 2, box))

    def finish(self) -> None:
        self.client.events.append(events.Finished({"store": STORE}))

    def has_painted(self, cells: int) -> bool:
        return self.run_loop(3, lambda: bool(self.session.results) and self.painted == cells)

    @property
    def painted(self) -> int:
        return int(self.session.results[0].grid.predicted_cells)

    def has_ended(self) -> bool:
        return self.run_loop(3, lambda: not self.session.job.is_active and not self.runner._filler.is_busy)


@pytest.fixture
def prediction(
    runner: Any, client: FakeClient, run_loop: Callable[..., bool], monkeypatch: pytest.MonkeyPatch
) -> Prediction:
    made = Prediction(runner, client, run_loop)
    monkeypatch.setattr(workers, "_open_store", made.open_store)
    monkeypatch.setattr(workers, "_read_extras", lambda path, slide: workers.Extras("t", made.attention))
    return made


@pytest.fixture
def slide_on_view(add: Any, slide_path: Any) -> Any:
    from napari_pathotune.layers import slide_layer
    from pathotune.slides import open_slide

    return add([slide_layer(open_slide(slide_path))])[0]


def test_shards_are_painted_as_they_come_and_the_other_layers_wait_for_the_end(
    prediction: Prediction, viewer: Any
) -> None:
    session, values = prediction.session, prediction.values
    prediction.start()
    values[0, :2] = 1
    for _ in range(2):
        prediction.shard((0, 0, 600, 200))
    assert prediction.has_painted(12)
    assert prediction.run_loop(3, lambda: session.results[0].classes is not None)
    overlay = session.results[0].classes
    assert overlay.data[0, 0, 3] > 0 and overlay.data[3, 0, 3] == 0
    values[1, 2:] = 1
    prediction.shard((0, 200, 600, 200))
    assert prediction.has_painted(24)
    assert tuple(overlay.data[3, 0, :3]) == (1, 2, 3) and len(viewer.layers) == 1
    prediction.finish()
    assert prediction.run_loop(3, lambda: session.results[0].probability is not None)
    assert np.shares_memory(session.results[0].probability.data, session.results[0].grid.shown)


def test_after_a_cancelled_job_the_legend_says_what_is_seen(
    prediction: Prediction, slide_on_view: Any, slide_path: Any
) -> None:
    from napari_pathotune.widgets.overlays import OverlayPanel

    session = prediction.session
    panel = OverlayPanel(session)
    session.shown.prepare(STORE, "t", CLASSES, READING, 100)
    prediction.start(slide_path)
    prediction.values[0, :2] = 1
    prediction.shard((0, 0, 600, 200))
    assert prediction.has_painted(12)
    prediction.values[0] = 1  # written, and told of by the end alone
    prediction.client.events.append(events.Failed("Cancelled", "The work was cancelled.", 130))
    assert prediction.has_ended() and prediction.painted == 24
    said = panel.legend.itemAt(0).widget().text()
    assert said == f"a   {session.results[0].grid.areas_mm2()['a']:.2f} mm²"
    panel.deleteLater()


def test_a_prepared_overlay_is_filled_and_no_layer_is_made_while_the_job_runs(
    prediction: Prediction, viewer: Any, slide_on_view: Any, slide_path: Any
) -> None:
    from napari_pathotune.layers import attention_layer

    session = prediction.session
    session.shown.prepare("/other/store.zarr", "other", [("x", None)], READING, 50, with_attention=True)
    session.shown.prepare(STORE, "t", CLASSES, READING, 100, with_attention=True)
    assert len(viewer.layers) == 4, "unused layers are taken over"
    result, shown = session.results[0], session.results[0].grid
    overlay, attention = result.classes, result.attention
    assert overlay.name == "classes · t" and shown.is_like(empty_grid())
    levels, place = [np.ones((8, 12), np.float32), np.ones((4, 6), np.float32)], ((25.0, 25.0), (12.25, 12.25))
    prediction.attention = [attention_layer(levels, place, STORE, ("cls",), "t", slide_path)]
    changed: list[Any] = []
    for layer in (overlay, result.probability):
        layer.events.data.connect(changed.append)
        layer.events.scale.connect(changed.append)
    prediction.start(slide_path)
    prediction.values[0, :2] = 1
    prediction.shard((0, 0, 600, 200))
    assert prediction.has_painted(12)
    assert session.results[0].classes is overlay and overlay.data[0, 0, 3] > 0
    assert tuple(overlay.scale) == (50.0, 50.0) and facts(overlay)["store"] == STORE
    assert not changed and session.results[0].grid is shown, "painted into what is there: no new texture, no new layout"
    prediction.finish()
    assert prediction.has_ended() and len(viewer.layers) == 4
    assert session.results[0].attention is attention and facts(attention)["sources"] == ("cls",)
    assert tuple(attention.data[0].shape) == (8, 12)


def test_the_attention_of_a_store_that_opens_comes_in_other_turns_than_its_first_cells(
    prediction: Prediction, slide_on_view: Any, slide_path: Any
) -> None:
    """Each of these has the window drawn again: together they would be felt."""
    from napari_pathotune.layers import attention_layer

    session = prediction.session
    session.shown.prepare(STORE, "t", CLASSES, READING, 100, with_attention=True)
    layer = session.results[0].attention
    levels, place = [np.ones((8, 12), np.float32), np.ones((4, 6), np.float32)], ((25.0, 25.0), (12.25, 12.25))
    prediction.attention = [attention_layer(levels, place, STORE, ("cls",), "t", slide_path)]
    turns: list[set[str]] = []
    lies: list[Any] = []
    advance = prediction.runner._filler.advance

    def turn(end: float) -> None:
        turns.append(set())
        advance(end)
        if "data" in turns[-1]:
            lies.append((tuple(layer.scale), tuple(layer.translate)))

    prediction.runner._filler.advance = turn
    layer.events.data.connect(lambda: turns[-1].add("data"))
    layer.events.name.connect(lambda: turns[-1].add("name"))
    session.repainted.connect(lambda result: turns[-1].add("cells"))
    session.results_changed.connect(lambda: turns[-1].add("panels"))
    prediction.start(slide_path)
    prediction.values[0, :2] = 1
    prediction.shard((0, 0, 600, 200))
    assert prediction.has_painted(12)
    assert prediction.run_loop(5, lambda: any("name" in turn for turn in turns) and "panels" in turns[-1])
    made = [turn for turn in turns if turn & {"data", "name", "cells"}]
    assert all(len(turn & {"data", "name", "cells"}) == 1 for turn in made) and len(made) >= 3
    assert lies == [place], "new data never lies where the old did"
    assert not any({"panels", "cells"} <= turn for turn in turns), "the legend changes before the picture does"


def test_the_window_changes_twice_a_second_at_most_however_fast_the_worker_tells(prediction: Prediction) -> None:
    session = prediction.session
    prediction.start()
    prediction.values[0] = 1
    prediction.shard()
    assert prediction.has_painted(24)
    steps: list[Any] = []
    refreshes: list[Any] = []
    session.job_changed.connect(steps.append)
    session.results[0].classes.events.set_data.connect(refreshes.append)
    start = time.perf_counter()
    while time.perf_counter() - start < 2.0:
        prediction.client.events.append(events.Step("predict", len(steps), 100))
        prediction.shard()
        prediction.run_loop(0.02)
    allowed = (time.perf_counter() - start) / workers.SHOW_EVERY_S + 1
    assert 2 <= len(steps) <= allowed and 1 <= len(refreshes) <= allowed
    prediction.finish()
    start = time.perf_counter()
    assert prediction.run_loop(3, lambda: not session.job.is_active)
    assert time.perf_counter() - start < workers.SHOW_EVERY_S, "the end is not held back"


def test_what_was_closed_stays_closed(prediction: Prediction, viewer: Any) -> None:
    prediction.start()
    prediction.values[0] = 1
    prediction.shard()
    assert prediction.has_painted(24)
    viewer.layers.clear()
    prediction.finish()
    assert prediction.has_ended()
    prediction.run_loop(0.3)
    assert len(viewer.layers) == 0


def test_a_result_kept_beside_another_hides_it(
    prediction: Prediction, add: Any, slide_on_view: Any, slide_path: Any
) -> None:
    from napari_pathotune.layers import result_layers

    session = prediction.session
    earlier = add(result_layers(empty_grid(), "/r/one.zarr", "t", str(slide_path)))
    prediction.start(slide_path)
    prediction.values[0] = 1
    prediction.shard()
    assert prediction.run_loop(3, lambda: len(session.results) == 2)
    assert not any(layer.visible for layer in earlier) and session.result.store == STORE


def test_a_slide_closed_in_mid_run_stays_closed_and_the_job_goes_on(
    prediction: Prediction, viewer: Any, slide_on_view: Any, slide_path: Any
) -> None:
    session = prediction.session
    prediction.start(slide_path)
    viewer.layers.remove(slide_on_view)
    prediction.values[0] = 1
    prediction.shard()
    prediction.client.events.append(events.Step("predict", 3, 9))
    assert prediction.run_loop(3, lambda: session.job.done == 3) and session.job.is_active
    prediction.finish()
    assert prediction.has_ended() and len(viewer.layers) == 0


def test_a_part_that_cannot_be_read_is_read_at_the_end(prediction: Prediction, monkeypatch: pytest.MonkeyPatch) -> None:
    read_whole = workers._read_parts

    def read(opened: Any, boxes: Any) -> Any:
        if boxes is not None:
            raise OSError("still being written")
        return read_whole(opened, boxes)

    monkeypatch.setattr(workers, "_read_parts", read)
    prediction.start()
    for _ in range(3):
        prediction.shard()
    assert prediction.run_loop(3, lambda: len(prediction.session.results) == 1)
    prediction.values[0] = 1
    prediction.finish()
    assert prediction.has_painted(24)


def test_closing_ends_the_worker(runner: Any, client: FakeClient, run_loop: Callable[..., bool]) -> None:
    runner.submit(FakeJob(), "/s.svs", "")
    runner.close()
    assert runner.client is None and run_loop(2, lambda: client.calls[-1] == "close")
