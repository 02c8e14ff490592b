"""The worker process: it answers, it stops when told, and nothing of it outlives its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from pathotune.errors import UsageError, WorkerNotStarted
from pathotune.events import Failed, Finished, Note, Paused, Saving, Step
from pathotune.execution.client import KILL_AFTER_S, WorkerClient
from pathotune.execution.job import Job

Until = Callable[..., list[Any]]


def job_of(kind: str) -> Job:
    return Job("test", {"kind": kind})


def test_events_come_in_order_and_the_worker_stays_warm(client: WorkerClient, until: Until) -> None:
    client.submit(job_of("count"))
    first = until(client)
    assert [event.done for event in first if isinstance(event, Step)] == list(range(1, 1001))
    client.submit(job_of("quick"))
    second = until(client)
    assert second[-1].result["pid"] == first[-1].result["pid"] and second[-1].result["jobs"] == 2
    assert client.alive and not client.busy


def test_one_job_at_a_time(client: WorkerClient, until: Until) -> None:
    client.submit(job_of("patient"))
    with pytest.raises(UsageError, match="running"):
        client.submit(job_of("quick"))


def test_errors_come_as_sentences(client: WorkerClient, until: Until) -> None:
    client.submit(job_of("wrong"))
    assert until(client)[-1] == Failed("UsageError", "a sentence", 2)
    client.submit(job_of("bug"))
    failed = until(client)[-1]
    assert isinstance(failed, Failed) and "ZeroDivisionError" in failed.text
    assert "one by zero" in client.log_path.read_text(), "the traceback is kept"
    client.submit(job_of("quick"))
    assert isinstance(until(client)[-1], Finished)


def test_prints_do_not_reach_the_events(client: WorkerClient, until: Until) -> None:
    client.submit(job_of("print"))
    assert [type(event) for event in until(client)] == [Note, Finished]
    assert "not an event" in client.log_path.read_text()


def test_cancel_of_a_willing_job_keeps_the_worker(
    client: WorkerClient, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On a busy machine the willing may need longer than a person would wait.
    monkeypatch.setattr("pathotune.execution.client.KILL_AFTER_S", 60.0)
    client.submit(job_of("patient"))
    until(client, lambda event: isinstance(event, Note))
    pid, generation = client.pid, client._generation
    client.cancel()
    assert until(client)[-1].result["status"] == "cancelled"
    client._kill_cancelled(generation)  # as a timer does that fires all the same
    assert client.alive and client.pid == pid


def test_cancel_of_a_stubborn_job_kills_within_a_second(client: WorkerClient, until: Until) -> None:
    client.submit(job_of("stubborn"))
    until(client, lambda event: isinstance(event, Note))
    process = psutil.Process(client.pid)
    client.cancel()
    last = until(client)[-1]
    assert isinstance(last, Failed) and last.kind == "Cancelled" and last.exit_code == 130
    assert last.text == "The work was cancelled.", "nothing was kept, and nothing is said of it"
    # The job itself would go on for a minute; how long the timer waits is all that is ours.
    process.wait(timeout=30)
    assert KILL_AFTER_S < 1
    client.submit(job_of("quick"))
    again = until(client)
    assert isinstance(again[-1], Finished) and again[-1].result["pid"] != process.pid


@pytest.mark.slow
def test_a_paused_job_stands_still_and_goes_on_where_it_was(client: WorkerClient, until: Until) -> None:
    client.submit(job_of("steady"))
    until(client, lambda event: isinstance(event, Step))
    client.pause()
    before = until(client, lambda event: event == Paused(True))
    time.sleep(0.2)
    assert not client.poll() and client.busy
    client.resume()
    after = until(client)
    done = [event.done for event in [*before, *after] if isinstance(event, Step)]
    assert after[0] == Paused(False) and done == list(range(done[0], 101))
    assert after[-1].result["status"] == "done"


def test_a_paused_job_can_be_cancelled_and_the_next_is_not_paused(
    client: WorkerClient, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pathotune.execution.client.KILL_AFTER_S", 60.0)
    client.submit(job_of("patient"))
    until(client, lambda event: isinstance(event, Note))
    client.pause()
    until(client, lambda event: event == Paused(True))
    client.cancel()
    assert until(client)[-1].result["status"] == "cancelled"
    client.submit(job_of("steady"))
    client.pause()
    until(client, lambda event: event == Paused(True))
    client.resume()
    assert until(client)[-1].result["status"] == "done"


def test_a_job_that_says_it_is_saving_is_waited_for(
    client: WorkerClient, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pathotune.execution.client.KILL_AFTER_S", 0.1)
    client.submit(job_of("saving"))
    until(client, lambda event: isinstance(event, Saving))
    client.cancel()
    assert isinstance(until(client)[-1], Finished)


@pytest.mark.parametrize("left", [True, False])
def test_what_a_killed_training_had_kept_becomes_its_result(
    client: WorkerClient, until: Until, monkeypatch: pytest.MonkeyPatch, left: bool
) -> None:
    asked = []

    def take_best(out: str) -> dict[str, Any] | None:
        asked.append(out)
        return {"out": out, "status": "cancelled"} if left else None

    monkeypatch.setattr("pathotune.training.session.take_best", take_best)
    client.submit(Job("tune", {"kind": "stubborn", "out": "mine.pathotune.safetensors"}))
    until(client, lambda event: isinstance(event, Note))
    client.cancel()
    last = until(client)[-1]
    assert asked == ["mine.pathotune.safetensors"]
    if left:
        assert isinstance(last, Finished) and last.result["status"] == "cancelled"
    else:
        assert isinstance(last, Failed) and last.kind == "Cancelled"
    client.submit(job_of("quick"))
    assert isinstance(until(client)[-1], Finished), "the killed worker's death is no news to the next job"


def test_a_training_that_dies_says_what_is_left_of_it(
    client: WorkerClient, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pathotune.training.session.take_best", lambda out: {"out": f"/results/{out}"})
    client.submit(Job("tune", {"kind": "crash", "out": "mine.pathotune.safetensors"}))
    last = until(client)[-1]
    assert isinstance(last, Failed) and last.kind == "WorkerDied" and "saved as mine.pathotune" in last.text


def test_a_crash_is_said_and_mended(client: WorkerClient, until: Until) -> None:
    client.submit(job_of("crash"))
    last = until(client)[-1]
    assert isinstance(last, Failed) and last.kind == "WorkerDied" and "code 7" in last.text
    client.submit(job_of("quick"))
    assert isinstance(until(client)[-1], Finished)


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_kill_9_of_the_worker_is_said(client: WorkerClient, until: Until) -> None:
    client.submit(job_of("patient"))
    until(client, lambda event: isinstance(event, Note))
    assert client.pid is not None
    os.kill(client.pid, signal.SIGKILL)
    last = until(client)[-1]
    assert isinstance(last, Failed) and last.kind == "WorkerDied"
    client.submit(job_of("quick"))
    assert isinstance(until(client)[-1], Finished)


def test_a_worker_that_cannot_start_is_said(
    client: WorkerClient, until: Until, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "site" / "psutil.py"
    broken.write_text("raise ImportError('psutil is in pieces')")
    client.submit(job_of("quick"))
    last = until(client)[-1]
    assert isinstance(last, Failed) and last.kind == "WorkerNotStarted" and "could not start (code 1)" in last.text
    assert "psutil is in pieces" in client.log_path.read_text()
    broken.unlink()
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no python"))
    with pytest.raises(WorkerNotStarted, match="could not start"):
        client.submit(job_of("quick"))
    assert not client.busy
    monkeypatch.undo()
    client.submit(job_of("part missing"))
    last = until(client)[-1]
    assert isinstance(last, Failed) and last.kind == "MissingPackage" and "no_such_package" in last.text
    client.submit(job_of("quick"))
    assert isinstance(until(client)[-1], Finished)


def test_close_ends_the_process(client: WorkerClient, until: Until) -> None:
    client.submit(job_of("stubborn"))
    until(client, lambda event: isinstance(event, Note))
    process = psutil.Process(client.pid)
    client.close()
    process.wait(timeout=30)
    assert not client.alive and not client.busy
    client.close()


def test_the_process_says_how_it_is(client: WorkerClient, until: Until) -> None:
    client.start()
    end = time.monotonic() + 30
    while client.memory_mb is None and time.monotonic() < end:
        time.sleep(0.05)
    assert client.memory_mb is not None and client.memory_mb > 5


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_no_orphan_of_a_killed_parent(tmp_path: Path) -> None:
    """An unguarded script, as people write them, is killed -9: its worker ends too."""
    script = tmp_path / "unguarded.py"
    script.write_text(
        "from pathotune.execution.client import WorkerClient\n"
        "import time\n"
        "client = WorkerClient()\n"
        "client.start()\n"
        "print(client.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent.stdout:
        worker = psutil.Process(int(parent.stdout.readline()))
        # Also while it is still importing.
        parent.kill()
        parent.wait()
        worker.wait(timeout=30)
