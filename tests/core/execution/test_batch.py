"""Many slides: one bad slide stops nothing, processes share a folder, and the summary is right after every break."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import brightness as scene
import numpy as np
import pytest
from typer.testing import CliRunner

from pathotune.cli import app
from pathotune.cli.slides_view import SlidesView, in_words
from pathotune.errors import PathotuneError, UsageError
from pathotune.events import Event, Failed, Finished, Note, SlideBegun, SlideEnd
from pathotune.execution import batch as batches
from pathotune.execution import summary, trouble
from pathotune.execution.batch import Batch, predict_many
from pathotune.execution.ledger import Ledger
from pathotune.inference import leases
from pathotune.inference.inputs import collect_slides, plan_stores
from pathotune.inference.leases import leased
from pathotune.inference.predictions import PredictionStore

model, tuning, make_slide = scene.model, scene.tuning, scene.make_slide
OPTIONS = {"device": "cpu", "precision": "float32", "deterministic": True, "batch_size": 8}


@pytest.fixture
def slides(tmp_path: Path) -> Path:
    """Three slides in two folders, one that is none, and one without a pixel size."""
    from PIL import Image

    folder = tmp_path / "slides"
    (folder / "b").mkdir(parents=True)
    for name, boundary in (("a.tiff", 100), ("b/c.tiff", 300), ("b/d.tiff", 200)):
        scene.two_halves(folder / name, size=(500, 400), boundary_px0=boundary)
    (folder / "broken.svs").write_bytes(b"no slide")
    Image.new("RGB", (300, 300), (150, 60, 140)).save(folder / "photo.png")
    return folder


@pytest.fixture
def batch(slides: Path, tuning: Any, model: Any, tmp_path: Path) -> Batch:
    out = tmp_path / "out"
    planned = plan_stores(collect_slides([slides], recursive=True), tuning.name, out)
    return Batch(planned, tuning, tuning.path, out, OPTIONS)


def run(batch: Batch, **options: Any) -> tuple[dict[str, str], list[Event]]:
    """Predict all; the status by the slide's name, and the events."""
    events = list(predict_many(batch, **options))
    assert isinstance(events[-1], Finished)
    return {Path(row["slide"]).name: row["status"] for row in events[-1].result["slides"]}, events


def table(out: Path) -> dict[str, dict[str, str]]:
    with (out / "slides.csv").open() as file:
        return {Path(row["slide"]).name: row for row in csv.DictReader(file)}


def contents(out: Path) -> dict[str, np.ndarray]:
    """Every array of every store."""
    found = {}
    for path in sorted(out.rglob("*.pathotune.zarr")):
        store = PredictionStore.open(path)
        for kind in store.kinds:
            for level, array in enumerate(store.pyramid(kind)):
                found[f"{path.relative_to(out)}/{kind}/{level}"] = array[:]
    return found


GOOD, ALL = {"a.tiff", "c.tiff", "d.tiff"}, {"a.tiff", "c.tiff", "d.tiff", "broken.svs", "photo.png"}
DONE = {**dict.fromkeys(GOOD, "done"), "broken.svs": "failed", "photo.png": "needs_mpp"}


def test_each_slide_gets_its_end_and_the_summary_says_so(batch: Batch) -> None:
    statuses, events = run(batch)
    assert statuses == DONE
    assert sum(isinstance(event, SlideBegun) for event in events) == len(ALL)
    assert [event.done for event in events if isinstance(event, SlideEnd)] == [1, 2, 3, 4, 5]
    warned = " ".join(event.text for event in events if isinstance(event, Note))
    assert "1 of 5 slides cannot be opened: broken.svs" in warned and "photo.png" in warned
    assert (batch.out / "b" / "c.tiff.brightness.pathotune.zarr").is_dir(), "subfolders are mirrored"
    rows = table(batch.out)
    assert {name: row["status"] for name, row in rows.items()} == DONE
    assert "no slide reader" in rows["broken.svs"]["error"] or "broken.svs" in rows["broken.svs"]["error"]
    page = (batch.out / "slides.html").read_text()
    assert page.count("<img") == 3 and "broken.svs" in page and "needs_mpp" in page
    assert all((batch.out / part).exists() for part in page.split('src="')[1:] for part in [part.split('"')[0]])


def test_a_second_run_needs_neither_model_nor_tissue(batch: Batch, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run(batch)
    seen = len(model.seen)

    def none(*_: Any, **__: Any) -> None:
        raise AssertionError("looked for tissue")

    monkeypatch.setattr("pathotune.tiles.tissue.tissue_mask", none)
    statuses, _ = run(batch)
    assert statuses == {**DONE, **dict.fromkeys(GOOD, "resumed")} and len(model.seen) == seen
    assert {name: row["status"] for name, row in table(batch.out).items()} == DONE, "the table says who did it"


def test_a_file_cut_short_is_noticed_at_a_glance(batch: Batch, model: Any) -> None:
    run(batch)
    before, seen = contents(batch.out), len(model.seen)
    shard = next((batch.out / "a.tiff.brightness.pathotune.zarr" / "probabilities" / "0").rglob("c/*/*/*"))
    shard.write_bytes(shard.read_bytes()[:-20])
    run(batch)
    assert len(model.seen) > seen
    after = contents(batch.out)
    assert all(np.array_equal(before[key], after[key]) for key in before)


def test_another_tuning_or_stride_is_not_taken_for_done(batch: Batch, model: Any) -> None:
    run(batch)
    batch.options = {**OPTIONS, "stride_px": 16}
    statuses, _ = run(batch)
    assert {statuses[name] for name in GOOD} == {"failed"}
    assert "differs in its tile grid" in table(batch.out)["a.tiff"]["error"]


def test_an_error_of_the_program_costs_one_slide(batch: Batch, model: Any) -> None:
    def fail(size: int) -> None:
        if len(model.seen) == 2:
            raise ZeroDivisionError("by hand")

    model.hook = fail
    statuses, _ = run(batch)
    assert sorted(statuses[name] for name in GOOD) == ["done", "done", "failed"]
    assert any("ZeroDivisionError" in row["error"] for row in table(batch.out).values())


def test_what_is_wrong_with_all_stops_at_once(batch: Batch) -> None:
    batch.options = {**OPTIONS, "device": "tpu"}
    with pytest.raises(UsageError, match="tpu"):
        run(batch)


def test_not_a_number_costs_one_slide(batch: Batch, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    calm, spoilt = model.forward, threading.Lock()

    def forward(pixels: Any, attention: bool = False) -> Any:
        answer = calm(pixels, attention)
        if spoilt.acquire(blocking=False):
            answer.logits[:] = torch.nan
        return answer

    monkeypatch.setattr(model, "forward", forward)
    statuses, _ = run(batch)
    assert sorted(statuses[name] for name in GOOD) == ["done", "done", "failed"]
    errors = [row["error"] for row in table(batch.out).values() if "no finite number" in row["error"]]
    assert len(errors) == 1
    statuses, _ = run(batch)
    assert {statuses[name] for name in GOOD} <= {"done", "resumed"}, "the next run makes it good"


# ---- several processes ---------------------------------------------------------------------------------------------


def test_two_runs_share_a_folder(batch: Batch, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "ASK_AGAIN_S", 0.05)
    model.hook = lambda size: time.sleep(0.02)
    found: list[dict[str, Any]] = []

    def work() -> None:
        found.extend(events.result for events in predict_many(batch) if isinstance(events, SlideEnd))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    tiles = sum(int(row["tiles"]) for row in table(batch.out).values())
    assert sum(model.seen) == tiles, "no tile is predicted twice"
    # Who comes to a slide just when the other has ended it finds it whole, and says so.
    said = {name: row["status"].replace("resumed", "done") for name, row in table(batch.out).items()}
    assert said == DONE
    assert not list(batch.out.rglob(leases.FOLDER))


def test_of_two_that_write_the_summary_at_once_the_last_knows_all(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(batch)
    ledgers, write = [Ledger(batch.out), Ledger(batch.out)], summary.write_table

    def late(*args: Any) -> Path:
        """While this process has its rows ready, the other ends a slide and writes."""
        monkeypatch.setattr(summary, "write_table", write)
        ledgers[1].end("a.tiff.brightness.pathotune.zarr", {"status": "failed", "error": "by hand", "slide": "a.tiff"})
        summary.write_summary(ledgers[1], batch.planned, {}, None, batch.tuning)
        return write(*args)

    monkeypatch.setattr(summary, "write_table", late)
    summary.write_summary(ledgers[0], batch.planned, {}, None, batch.tuning)
    assert table(batch.out)["a.tiff"]["error"] == "by hand"
    assert "by hand" in (batch.out / "slides.html").read_text()


def test_a_slide_that_stays_with_another_process_is_left_to_it(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "ASK_AGAIN_S", 0.05)
    monkeypatch.setattr(leases, "STALE_S", 0.2)
    with leased(batch.out / "a.tiff.brightness.pathotune.zarr"):
        statuses, _ = run(batch)
    assert statuses == {**DONE, "a.tiff": "elsewhere"}
    assert table(batch.out)["a.tiff"]["status"] == "waiting"


def test_what_processes_died_at_comes_last(batch: Batch) -> None:
    for _ in range(2):
        Ledger(batch.out).begin("a.tiff.brightness.pathotune.zarr")
    _, events = run(batch)
    begun = [Path(event.slide).name for event in events if isinstance(event, SlideBegun)]
    assert begun[-1] == "a.tiff" and len(begun) == len(ALL)


def test_half_a_line_in_a_ledger_is_passed_over(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.end("a", {"status": "done"})
    (ledger.folder / "zz.jsonl").write_text('{"ended": "b", "time": "9", "result": {"status"\n[1]\nnull\n{"ended": "c')
    assert Ledger(tmp_path).ends() == {"a": {"status": "done"}}


# ---- faults --------------------------------------------------------------------------------------------------------


@pytest.fixture
def whole(batch: Batch, model: Any) -> Iterator[dict[str, np.ndarray]]:
    """What an undisturbed run writes."""
    run(batch)
    found = contents(batch.out)
    shutil.rmtree(batch.out)
    model.seen.clear()
    yield found


def check_equal(found: dict[str, np.ndarray], whole: dict[str, np.ndarray]) -> None:
    assert found.keys() == whole.keys()
    assert all(np.array_equal(found[key], whole[key]) for key in whole)


@pytest.mark.parametrize("which", ["out", "slides"])
def test_a_folder_that_vanishes_and_returns(
    batch: Batch, whole: Any, model: Any, slides: Path, which: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trouble, "LOOK_AGAIN_S", 0.05)
    folder = batch.out if which == "out" else slides
    away = folder.with_name("away")
    texts, gone = [], False
    for event in predict_many(batch):
        if isinstance(event, SlideEnd) and event.result["status"] == "done" and not gone:
            folder.rename(away)
            gone = True
        if isinstance(event, Note) and "is gone" in event.text:
            texts.append(event.text)
            assert not folder.exists(), "it is not made anew"
            away.rename(folder)
    assert len(texts) == 1 and "Waiting" in texts[0]
    check_equal(contents(batch.out), whole)
    assert {name: row["status"] for name, row in table(batch.out).items()} == DONE


def test_a_folder_that_stays_away_fails_the_rest_at_once(
    batch: Batch, slides: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trouble, "PATIENCE_S", 0.1)
    away = batch.out.with_name("away")
    results = []
    for event in predict_many(batch):
        if isinstance(event, SlideEnd):
            results.append(event.result)
            if event.result["status"] == "done" and batch.out.exists():
                batch.out.rename(away)
    assert [row["status"] for row in results].count("done") == 1
    assert all("is gone" in row["error"] for row in results if row["status"] == "failed" and row["slide"] != "")
    assert not batch.out.exists()


@pytest.mark.skipif(os.name != "posix", reason="a limit of the file size is a POSIX thing")
def test_a_disk_that_refuses_is_waited_for(
    batch: Batch, whole: Any, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import resource
    import signal

    monkeypatch.setattr(trouble, "LOOK_AGAIN_S", 0.05)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    texts = []
    try:
        for event in predict_many(batch):
            if isinstance(event, SlideBegun) and event.slide.endswith("a.tiff"):
                resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
            if isinstance(event, Note) and "full" in event.text:
                texts.append(event.text)
                resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert len(texts) == 1
    check_equal(contents(batch.out), whole)
    assert all(table(batch.out)[name]["status"] in ("done", "resumed") for name in GOOD)
    assert not list(batch.out.rglob("*.tmp")) and not list(batch.out.rglob("*.partial"))


def test_cancelled_and_gone_on_with_equals_undisturbed(batch: Batch, whole: Any, model: Any) -> None:
    stop = threading.Event()
    model.hook = lambda size: stop.set() if len(model.seen) == 6 else None
    statuses, _ = run(batch, cancel=stop.is_set)
    assert "cancelled" in statuses.values() and len(statuses) < len(ALL)
    assert "waiting" in {row["status"] for row in table(batch.out).values()}
    model.hook = None
    run(batch)
    check_equal(contents(batch.out), whole)


def test_a_slide_swapped_under_its_name_is_refused_with_the_reason(batch: Batch, slides: Path) -> None:
    run(batch)
    scene.two_halves(slides / "a.tiff", size=(520, 400), boundary_px0=250)
    statuses, _ = run(batch)
    assert statuses["a.tiff"] == "failed" and "slide (fingerprint)" in table(batch.out)["a.tiff"]["error"]


def test_a_store_of_an_earlier_version_is_gone_on_with(batch: Batch, model: Any) -> None:
    run(batch)
    before, seen = contents(batch.out), len(model.seen)
    for path in batch.out.rglob("*.pathotune.zarr"):
        store = PredictionStore.open(path)
        for name in ("files", "reliability", "features", "replaces", "polygon_px0"):
            store.attrs.pop(name, None)
        store.save_attributes()
    statuses, _ = run(batch)
    assert {statuses[name] for name in GOOD} == {"resumed"} and len(model.seen) == seen
    check_equal(contents(batch.out), before)


def test_a_slide_cut_short_since_is_said_and_its_store_kept(batch: Batch, slides: Path) -> None:
    run(batch)
    before = contents(batch.out)
    data = (slides / "a.tiff").read_bytes()
    (slides / "a.tiff").write_bytes(data[:-1000])
    statuses, _ = run(batch)
    assert statuses["a.tiff"] == "failed" and "truncated" in table(batch.out)["a.tiff"]["error"]
    (slides / "a.tiff").write_bytes(data)
    assert run(batch)[0]["a.tiff"] == "resumed"
    check_equal(contents(batch.out), before)


# ---- the command ---------------------------------------------------------------------------------------------------


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tuning: Any, model: Any) -> Callable[..., Any]:
    monkeypatch.setattr("pathotune.methods.checkpoint.Tuning.load", lambda path: tuning)

    def invoke(*words: Any) -> Any:
        return CliRunner().invoke(app, ["predict", *map(str, words), "--tuning", "t", "--device", "cpu"])

    return invoke


def test_a_preflight_says_what_a_run_would_meet(command: Any, slides: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    answer = command(slides, "--recursive", "--out", out, "--preflight", "--json")
    document = json.loads(answer.stdout)
    assert answer.exit_code == 3 and not out.exists()
    rows = {Path(row["slide"]).name: row for row in document["slides"]}
    assert {name: row["status"] for name, row in rows.items()} == {**DONE, **dict.fromkeys(GOOD, "ready")}
    assert rows["a.tiff"]["tiles"] > 0 and rows["a.tiff"]["seconds"] >= 0 and rows["a.tiff"]["megabytes"] > 0
    assert document["tiles"] == sum(row["tiles"] for row in rows.values()) and document["free_megabytes"] > 0
    command(slides, "--recursive", "--out", out)
    again = json.loads(command(slides, "--recursive", "--out", out, "--dry-run", "--json").stdout)
    assert again["tiles"] == 0 and {row["status"] for row in again["slides"]} == {"done", "failed", "needs_mpp"}


def test_a_preflight_says_where_the_disk_is_too_small(
    command: Any, slides: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pathotune.execution.preflight._free_megabytes", lambda out: 0.01)
    answer = command(slides / "a.tiff", "--out", tmp_path / "out", "--preflight")
    assert "has 0 MB free" in answer.stderr and "--no-attention" in answer.stderr


def test_no_file_name_survives_pseudonyms(command: Any, slides: Path, tmp_path: Path) -> None:
    (slides / "a.tiff").rename(slides / "Mustermann.tiff")
    (slides / "broken.svs").rename(slides / "Mustermann.svs")
    out = tmp_path / "out"
    answer = command(slides, "--recursive", "--out", out, "--pseudonymise", "--json")
    assert answer.exit_code == 3
    assert "mustermann" not in answer.stdout.lower()
    for path in out.rglob("*"):
        assert "mustermann" not in path.name.lower()
        assert path.is_dir() or b"mustermann" not in path.read_bytes().lower()
    assert {path.name[:6] for path in out.glob("*.zarr")} == {"slide-"}
    again = command(slides, "--recursive", "--out", out, "--pseudonymise", "--json")
    assert [row["status"] for row in json.loads(again.stdout)].count("resumed") == 3


def test_parts_make_one_common_summary(command: Any, slides: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert command(slides, "--recursive", "--out", out, "--part", "1/2").exit_code in (0, 1, 3)
    assert sorted({row["status"] for row in table(out).values()} & {"waiting"}) == ["waiting"]
    command(slides, "--recursive", "--out", out, "--part", "2/2")
    assert {name: row["status"] for name, row in table(out).items()} == DONE
    assert (out / "slides-1-of-2.csv").exists() and (out / "slides-2-of-2.csv").exists()


def test_two_inputs_of_one_store_are_refused_before_work(command: Any, slides: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(slides, other)
    answer = command(slides, other, "--out", tmp_path / "out", "--part", "1/2")
    assert isinstance(answer.exception, UsageError) and answer.exception.exit_code == 2
    assert not (tmp_path / "out").exists()


def test_errors_are_one_sentence(command: Any, slides: Path, tmp_path: Path) -> None:
    answer = command(slides, "--recursive", "--out", tmp_path / "out")
    assert "Traceback" not in answer.output and not isinstance(answer.exception, PathotuneError)
    assert answer.stderr.count("pathotune: ") == 2
    assert "3 of 5 slides are done, 2 could not be predicted." in answer.stderr


def test_the_live_view_says_how_far_the_run_is(batch: Batch) -> None:
    from rich.console import Console

    view = SlidesView()
    console = Console(width=160, record=True, file=io.StringIO())
    for event in predict_many(batch):
        view.take(event)
        console.print(view.picture())
    text = console.export_text()
    assert "5/5 slides" in text and "slides/h" in text and "2 failed" in text and "predict" in text
    assert view.result["slides"] and view.sentence() == "3 of 5 slides are done, 2 could not be predicted."
    with pytest.raises(UsageError, match="by hand"):
        view.take(Failed("UsageError", "by hand", 2))


@pytest.mark.parametrize(("seconds", "words"), [(5, "5 s"), (600, "10 min"), (7200, "2.0 h"), (4 * 86400, "4.0 days")])
def test_durations_in_words(seconds: float, words: str) -> None:
    assert in_words(seconds) == words
