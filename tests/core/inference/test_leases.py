"""Two processes never write one store: leases are exclusive, outlive no process and survive skewed clocks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from pathotune.errors import OutputRefused, StoreBusy
from pathotune.inference import leases
from pathotune.inference.leases import FOLDER, leased, take_lease
from pathotune.processes import still_runs, this_process


def elsewhere(store: Path, token: str = "other", *, age_s: float = 0.0) -> Path:
    """A lease as a process on another computer writes it."""
    with leased(store):
        (path,) = (store.parent / FOLDER).iterdir()
        document = json.loads(path.read_text())
    document |= {"token": token, "machine": "another", "process": {"host": "another", "pid": 1, "process_start": 0}}
    path.parent.mkdir()
    path.write_text(json.dumps(document))
    os.utime(path, (time.time() - age_s, time.time() - age_s))
    return path


def test_one_at_a_time_and_nothing_left(tmp_path: Path) -> None:
    store = tmp_path / "sub" / "a.zarr"
    with leased(store):
        with pytest.raises(StoreBusy, match=f"process {os.getpid()} on"):
            take_lease(store)
        with leased(store.with_name("b.zarr")):
            pass
    assert list(store.parent.iterdir()) == []
    with leased(store):
        pass


def test_a_changed_clock_makes_no_process_look_dead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, told = tmp_path / "a.zarr", psutil.Process.create_time
    with leased(store):
        if sys.platform == "linux":  # elsewhere the system keeps the date itself
            monkeypatch.setattr(psutil.Process, "create_time", lambda self: told(self) + 3.0)
        with pytest.raises(StoreBusy):
            take_lease(store)
        with leased(store.with_name("b.zarr")):
            pass
        assert list((store.parent / FOLDER).iterdir()), "who tidies up leaves it"


@pytest.mark.parametrize("other", [{"pid": 4194305}, {"start_ticks": 1}, {"boot_id": "an earlier one"}])
def test_a_process_that_has_ended_is_told_from_one_with_its_number(other: dict[str, Any]) -> None:
    facts = this_process()
    assert still_runs(facts, time.time())
    if "boot_id" in facts or "pid" in other:
        assert not still_runs(facts | other, time.time())
    older = {name: facts[name] for name in ("host", "pid", "process_start")}
    assert still_runs(older, time.time()), "as files of earlier versions say it"
    assert not still_runs(older | {"process_start": 1.0}, time.time())


@pytest.mark.parametrize("links", [True, False])
def test_of_many_at_once_one_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    if not links:

        def no_link(source: Any, target: Any) -> None:
            raise OSError(1, "Operation not permitted")

        monkeypatch.setattr(os, "link", no_link)
    store, inside, most = tmp_path / "a.zarr", [], []
    guard = threading.Lock()

    def work() -> None:
        while True:
            try:
                lease = take_lease(store)
            except StoreBusy:
                time.sleep(0.001)
                continue
            with guard:
                inside.append(1)
                most.append(len(inside))
            time.sleep(0.002)
            with guard:
                inside.pop()
            lease.release()
            return

    threads = [threading.Thread(target=work) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert most == [1] * 12


def holder(store: Path) -> subprocess.Popen[str]:
    """Another process of this computer that holds the lease of a store."""
    script = (
        "import sys,time,pathlib; from pathotune.inference.leases import take_lease;"
        "take_lease(pathlib.Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(store)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def test_that_of_a_killed_process_here_is_taken_over_at_once(tmp_path: Path) -> None:
    store = tmp_path / "a.zarr"
    process = holder(store)
    with pytest.raises(StoreBusy, match=str(process.pid)):
        take_lease(store)
    kill(process)
    with leased(store):
        assert len(list((tmp_path / FOLDER).iterdir())) == 1


def test_what_a_killed_process_left_at_a_store_that_is_done_goes_with_the_last_lease(tmp_path: Path) -> None:
    process = holder(tmp_path / "done.zarr")
    with leased(tmp_path / "b.zarr"):
        pass
    assert (tmp_path / FOLDER).exists(), "it lives, so its lease stays"
    kill(process)
    with leased(tmp_path / "b.zarr"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_that_of_another_computer_is_watched_whatever_its_clock_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "STALE_S", 0.2)
    store = tmp_path / "a.zarr"
    path = elsewhere(store, age_s=1800)  # half an hour of skew: no reason to take it
    for _ in range(3):
        with pytest.raises(StoreBusy, match="process 1 on another"):
            take_lease(store)
        time.sleep(0.12)
        os.utime(path, (path.stat().st_mtime + 1, path.stat().st_mtime + 1))  # it renews
    with pytest.raises(StoreBusy):
        take_lease(store)
    time.sleep(0.3)  # now it does not
    with leased(store):
        assert not path.exists()


def test_one_of_yesterday_needs_no_watching(tmp_path: Path) -> None:
    store = tmp_path / "a.zarr"
    path = elsewhere(store, age_s=86400)
    with leased(store):
        assert not path.exists()


def test_who_stood_still_too_long_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = tmp_path / "a.zarr"
    lease = take_lease(store)
    lease.renew()
    assert not lease.is_lost
    moved = tmp_path.with_name(tmp_path.name + "-away")
    tmp_path.rename(moved)  # the drive is gone for a while: no loss
    lease.renew()
    assert not lease.is_lost
    moved.rename(tmp_path)
    (path,) = (tmp_path / FOLDER).iterdir()
    path.unlink()
    elsewhere(store)
    lease.renew()
    assert lease.is_lost
    lease.release()
    assert path.exists(), "the other's lease is left alone"


@pytest.mark.skipif(sys.platform != "linux", reason="a folder that not even root can write into")
def test_a_read_only_place_is_said() -> None:
    with pytest.raises(OutputRefused, match="cannot be written"):
        take_lease(Path("/sys/pathotune/a.zarr"))
