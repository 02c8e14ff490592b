"""The same slides on a cluster: the same bytes, the same ends, and the same summary."""

from __future__ import annotations

import csv
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import brightness as scene
import numpy as np
import pytest

from pathotune.errors import UsageError
from pathotune.events import Event, Finished, SlideEnd, Step
from pathotune.execution import cluster, cluster_tasks
from pathotune.execution.batch import Batch, predict_many
from pathotune.execution.cluster import predict_on_cluster
from pathotune.execution.cluster_tasks import PARTS
from pathotune.inference.inputs import collect_slides, plan_stores
from pathotune.inference.predictions import PredictionStore

distributed = pytest.importorskip("distributed", reason="the extra `cluster` is not installed")
model, tuning = scene.model, scene.tuning
OPTIONS: dict[str, Any] = {"device": "cpu", "precision": "float32", "deterministic": True, "batch_size": 8}
OPTIONS |= {"reliability": True, "features": True, "stride_px": 24}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A scheduler and two workers in this very process, where the test's model is known."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None, protocol="tcp"
        ) as running:
            yield running.scheduler_address


@pytest.fixture
def slides(tmp_path: Path) -> Path:
    folder = tmp_path / "slides"
    (folder / "b").mkdir(parents=True)
    scene.two_halves(folder / "a.tiff", size=(1500, 1200), boundary_px0=500)
    scene.two_halves(folder / "b" / "c.tiff", size=(400, 300), boundary_px0=100)
    (folder / "broken.svs").write_bytes(b"no slide")
    return folder


@pytest.fixture
def batch(slides: Path, tuning: Any, model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Batch:
    monkeypatch.setattr("pathotune.methods.checkpoint.Tuning.load", lambda path: tuning)
    monkeypatch.setattr("pathotune.execution.cluster_tasks._BACKBONES", {})
    return of(slides, tuning, tmp_path / "out")


def of(slides: Path, tuning: Any, out: Path) -> Batch:
    planned = plan_stores(collect_slides([slides], recursive=True), tuning.name, out)
    return Batch(planned, tuning, tuning.path, out, OPTIONS)


def values(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*/c/**/*")) if path.is_file()}


def run(stream: Iterator[Event]) -> tuple[dict[str, str], list[Event]]:
    events = list(stream)
    assert isinstance(events[-1], Finished)
    return {Path(row["slide"]).name: row["status"] for row in events[-1].result["slides"]}, events


def test_the_same_bytes_as_one_process(batch: Batch, tuning: Any, slides: Path, address: str, tmp_path: Path) -> None:
    whole = of(slides, tuning, tmp_path / "whole")
    run(predict_many(whole))
    statuses, events = run(predict_on_cluster(batch, address, split_above=200))
    assert statuses == {"a.tiff": "done", "c.tiff": "done", "broken.svs": "failed"}
    parts = [event for event in events if isinstance(event, Step)]
    assert len(parts) > 1 and parts[-1].done == parts[-1].total, "the large slide went in parts"
    assert values(batch.out) == values(whole.out)
    store = PredictionStore.open(batch.out / "a.tiff.brightness.pathotune.zarr")
    other = PredictionStore.open(whole.out / store.path.name)
    assert store.is_complete and store.attrs["tiles_done"] == other.attrs["tiles_done"]
    assert store.attrs["shards"] == other.attrs["shards"]
    assert not list(batch.out.rglob(PARTS + "/*")), "nothing is left of the parts"
    planned = next(path for path in batch.planned if path.name == store.path.name)
    again = cluster_tasks.fill(cluster._task(batch, planned, 200), str(planned), 0, "float32")
    assert again["tiles"] > 0 and values(batch.out) == values(whole.out), "done once more when all was over: no harm"
    with (batch.out / "slides.csv").open() as file:
        rows = {Path(row["slide"]).name: row for row in csv.DictReader(file)}
    assert {name: row["status"] for name, row in rows.items()} == statuses
    assert (batch.out / "slides.html").read_text().count("<img") == 2


def test_again_finds_all_done_and_one_process_goes_on(batch: Batch, address: str, model: Any) -> None:
    run(predict_on_cluster(batch, address, split_above=200))
    seen = len(model.seen)
    for stream in (predict_on_cluster(batch, address, split_above=200), predict_many(batch)):
        statuses, _ = run(stream)
        assert statuses == {"a.tiff": "resumed", "c.tiff": "resumed", "broken.svs": "failed"}
    assert len(model.seen) == seen


def test_cancelled_in_mid_run_and_gone_on_with(
    batch: Batch, tuning: Any, slides: Path, address: str, tmp_path: Path
) -> None:
    whole = of(slides, tuning, tmp_path / "whole")
    run(predict_many(whole))
    stopped: list[int] = []
    for event in predict_on_cluster(batch, address, split_above=200, cancel=lambda: bool(stopped)):
        if isinstance(event, Step):
            stopped.append(event.done)
    assert stopped
    statuses, _ = run(predict_on_cluster(batch, address, split_above=200))
    assert {statuses["a.tiff"], statuses["c.tiff"]} <= {"done", "resumed"}
    assert values(batch.out) == values(whole.out)


def test_what_is_wrong_with_all_ends_the_run(batch: Batch, address: str) -> None:
    batch.options = {**OPTIONS, "device": "tpu"}
    with pytest.raises(UsageError, match="tpu"):
        run(predict_on_cluster(batch, address))


def test_nobody_there(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "CONNECT_S", 0.3)
    with pytest.raises(UsageError, match="No cluster with workers answers"):
        run(predict_on_cluster(batch, "tcp://127.0.0.1:9"))


def test_a_failed_slide_keeps_its_sentence(batch: Batch, address: str, model: Any) -> None:
    def spoil(size: int) -> None:
        raise ZeroDivisionError("on a worker")

    model.hook = spoil
    statuses, events = run(predict_on_cluster(batch, address, split_above=10**9))
    assert set(statuses.values()) == {"failed"}
    errors = [event.result["error"] for event in events if isinstance(event, SlideEnd)]
    assert sum("ZeroDivisionError" in text for text in errors) == 2
    assert np.all([len(text) < 600 for text in errors])
