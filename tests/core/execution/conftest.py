"""Worker processes without a model: a runner of a few lines stands in for the work."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pathotune.events import Event, Failed, Finished
from pathotune.execution.client import WorkerClient

# Loaded by every Python that starts with this folder on its path: gives the worker a job called "test".
SITE = """
import os, sys, time
if "pathotune.execution.worker" in sys.orig_argv:
    from pathotune import events
    from pathotune.errors import UsageError
    from pathotune.execution import job, worker

    worker._warm_up = lambda: None

    def runner(arguments, backbones, cancel):
        kind = arguments["kind"]
        backbones["jobs"] = backbones.get("jobs", 0) + 1
        yield events.Note("started")
        if kind == "crash":
            os._exit(7)
        if kind == "wrong":
            raise UsageError("a sentence")
        if kind == "bug":
            raise ZeroDivisionError("one by zero")
        if kind == "part missing":
            import no_such_package
        if kind == "print":
            print("not an event")
        if kind == "count":
            for done in range(1, 1001):
                yield events.Step("count", done, 1000)
        if kind == "stubborn":
            time.sleep(60)
        if kind == "saving":
            yield events.Saving()
            time.sleep(2)
        for done in range(1, 101 if kind == "steady" else 0):
            cancel()
            time.sleep(0.05)  # or it would be over before anyone could ask it to pause
            yield events.Step("steady", done, 100)
        while kind == "patient" and not cancel():
            time.sleep(0.02)
        yield events.Finished({"status": "cancelled" if cancel() else "done", "pid": os.getpid(),
                               "jobs": backbones["jobs"]})

    job.RUNNERS["test"] = job.RUNNERS["tune"] = runner
"""


@pytest.fixture
def client(tmp_path: Path) -> Iterator[WorkerClient]:
    """A client whose worker knows the job "test"."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(SITE)
    path = [str(tmp_path / "site"), *filter(None, sys.path)]
    with WorkerClient({"PYTHONPATH": ":".join(path)}) as client:
        yield client


@pytest.fixture
def until() -> Callable[..., list[Event]]:
    """Poll until the job ends (or `stop` says so) and give its events."""

    def wait(client: WorkerClient, stop: Callable[[Event], bool] | None = None, seconds: float = 60) -> list[Any]:
        found: list[Event] = []
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            found += client.poll()
            if found and (isinstance(found[-1], Finished | Failed) or (stop is not None and stop(found[-1]))):
                return found
            time.sleep(0.01)
        raise AssertionError(f"the worker gave no end in {seconds} s: {found[-3:]}")

    return wait
