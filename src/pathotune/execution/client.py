"""The viewer's side of the worker process: start it, hand it a job, collect its events, end it at once."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pathotune import events
from pathotune.errors import PathotuneError, UsageError, WorkerNotStarted
from pathotune.execution.job import Job
from pathotune.inference import allocator
from pathotune.settings import settings

KILL_AFTER_S = 0.9
"""How long a cancelled job may take to end by itself before its process is killed."""

SAVED_AFTER_S = 60.0
"""How long it may take once it says that it is only writing its result."""

_LOG = logging.getLogger(__name__)


class WorkerClient:
    """One worker process and the one job it has at a time.

    No Qt and no torch here. `poll` never blocks; call it from a timer. After the process died or was killed the next
    `submit` starts another. Not safe for several threads that submit at once.

    Parameters
    ----------
    environment : variables to add for the process.
    """

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self._environment = dict(environment or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._inbox: queue.SimpleQueue[tuple[int, events.Event]] = queue.SimpleQueue()
        self._generation = 0
        self._busy = False
        self._job_over = True
        self._cancelled_at: float | None = None
        self._job: Job | None = None
        self._is_saving = False
        self._heard = 0  # the newest generation that said anything
        self._killed = 0  # the newest generation that was killed on purpose: its end is no surprise
        self._timer: threading.Timer | None = None
        self._lock = threading.RLock()
        self.memory_mb: float | None = None
        self.last_heard: float | None = None

    # ---- state -------------------------------------------------------------------------------------------------

    @property
    def alive(self) -> bool:
        """Whether a worker process runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def busy(self) -> bool:
        """Whether a job was submitted and its end has not come out of `poll` yet."""
        return self._busy

    @property
    def pid(self) -> int | None:
        """Process id of the worker, or None."""
        return self._process.pid if self._process is not None and self.alive else None

    @property
    def log_path(self) -> Path:
        """Where everything the worker says beside its events is kept."""
        return settings().cache_dir / "logs" / f"worker-{os.getpid()}.log"

    # ---- work --------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the process if none runs; returns at once, the worker warms up by itself.

        Raises
        ------
        WorkerNotStarted : the system starts no process, or its log cannot be written.
        """
        with self._lock:
            if self.alive:
                return
            self._generation += 1
            try:
                process = self._process = self._launched()
            except OSError as error:
                raise WorkerNotStarted(str(error.strerror or error), self.log_path) from error
            threading.Thread(target=self._read, args=(process, self._generation), daemon=True).start()

    def _launched(self) -> subprocess.Popen[bytes]:
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        environment = {**allocator.ENVIRONMENT, **os.environ, **self._environment, "PYTHONUNBUFFERED": "1"}
        with open(self.log_path, "ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "pathotune.execution.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                bufsize=0,
                env=environment,
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            )

    def submit(self, job: Job) -> None:
        """Hand over a job; its events come out of `poll`, the last one a `Finished` or `Failed`.

        Raises
        ------
        UsageError : a job is running already.
        WorkerNotStarted : there is no process to hand it to.
        """
        with self._lock:
            if self._busy:
                raise UsageError("A job is running already. Cancel it or wait for its end.")
            self.start()
            self._drop_events()
            self._busy, self._job_over, self._cancelled_at = True, False, None
            self._job, self._is_saving = job, False
            if not self._send({"do": "job", "job": job.to_dict()}):
                self._kill()
                try:
                    self.start()
                except WorkerNotStarted:
                    self._end_job()
                    raise
                self._send({"do": "job", "job": job.to_dict()})

    def poll(self) -> list[events.Event]:
        """Every event since the last call; never blocks."""
        found: list[events.Event] = []
        while True:
            try:
                generation, event = self._inbox.get_nowait()
            except queue.Empty:
                return found
            if generation == self._generation and self._busy:
                found.append(event)
                if isinstance(event, events.Finished | events.Failed):
                    self._end_job()

    def cancel(self) -> None:
        """Ask the job to stop, paused or not; a process that has not ended it within 0.9 s is killed. Returns at once.

        One that says in time that it is writing its result is waited for. What a killed training had kept becomes its
        tuning.
        """
        with self._lock:
            if not self._busy or self._cancelled_at is not None:
                return
            self._cancelled_at = time.monotonic()
            self._send({"do": "cancel"})
            self._kill_after(SAVED_AFTER_S if self._is_saving else KILL_AFTER_S)

    def pause(self) -> None:
        """Ask the job to stand still; it says `Paused` when it does. Memory stays taken. Returns at once."""
        self._send({"do": "pause"})

    def resume(self) -> None:
        """Let a paused job go on, as if it had never stood still. Returns at once."""
        self._send({"do": "resume"})

    def close(self) -> None:
        """End the process; safe to call twice."""
        with self._lock:
            self._end_job()
            process, self._process = self._process, None
            self._generation += 1
        if process is None:
            return
        with contextlib.suppress(OSError):
            if process.stdin is not None:
                process.stdin.close()
        try:
            process.wait(timeout=1.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(timeout=5.0)

    def __enter__(self) -> WorkerClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- inside ------------------------------------------------------------------------------------------------

    def _send(self, message: dict[str, Any]) -> bool:
        process = self._process
        if process is None or process.stdin is None:
            return False
        try:
            process.stdin.write((json.dumps(message) + "\n").encode())
        except (OSError, ValueError):
            return False
        return True

    def _read(self, process: subprocess.Popen[bytes], generation: int) -> None:
        """Thread: the worker's lines into the inbox until its pipe closes."""
        if process.stdout is None:
            return
        with io.BufferedReader(process.stdout) as lines:  # type: ignore[type-var]
            for line in lines:
                self._take(line, generation)
        self._say_died(generation, process.wait())

    def _take(self, line: bytes, generation: int) -> None:
        try:
            data = json.loads(line)
        except ValueError:
            _LOG.warning("The worker said something that is no event: %r", line[:200])
            return
        self.last_heard, self._heard = time.monotonic(), generation
        if data.get("event") == "Alive":
            self.memory_mb = data.get("memory_mb")
            return
        event = events.from_json(data)
        if isinstance(event, events.Saving):
            self._wait_for_result(generation)
        self._job_over = self._job_over or isinstance(event, events.Finished | events.Failed)
        self._inbox.put((generation, event))

    def _say_died(self, generation: int, code: int) -> None:
        """A job that lost its process ends with a sentence; poll ignores it where no job is running."""
        if generation == self._killed:
            return
        if self._heard < generation:
            unstarted = WorkerNotStarted(f"code {code}", self.log_path)
            self._inbox.put((generation, events.Failed("WorkerNotStarted", str(unstarted))))
            return
        rescued = self._rescued()
        kept = f"its best epoch so far is saved as {Path(rescued['out']).name}" if rescued else "run again to go on"
        text = (
            f"The worker process ended unexpectedly (code {code}), perhaps for lack of memory. "
            f"What was done is kept: {kept}. Details: {self.log_path}"
        )
        self._inbox.put((generation, events.Failed("WorkerDied", text)))

    def _kill_after(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = threading.Timer(seconds, self._kill_cancelled, args=(self._generation,))
        self._timer.daemon = True
        self._timer.start()

    def _wait_for_result(self, generation: int) -> None:
        with self._lock:
            if self._generation != generation or not self._busy:
                return
            self._is_saving = True
            if self._cancelled_at is not None:
                self._kill_after(SAVED_AFTER_S)

    def _kill_cancelled(self, generation: int) -> None:
        """Thread of the timer: kill the process unless the job has ended by itself, and save what it had kept."""
        with self._lock:
            if self._generation != generation or not self._busy or self._job_over:
                return
            process, self._killed = self._process, generation
            self._kill()
        if process is not None:
            process.wait()  # nobody else writes into its files any more
        rescued = self._rescued()
        text = "The work was cancelled."
        if self._job is not None and self._job.command in ("predict", "features"):
            text = "The work was cancelled; what was written by then is kept."
        last = events.Finished(rescued) if rescued else events.Failed("Cancelled", text, 130)
        self._inbox.put((generation, last))

    def _rescued(self) -> dict[str, Any] | None:
        """The result of a training whose process is gone, from its best epoch; None where there is none."""
        job = self._job
        if not self._busy or self._job_over or job is None or job.command != "tune" or not job.arguments.get("out"):
            return None
        from pathotune.training.session import take_best

        try:
            return take_best(job.arguments["out"])
        except PathotuneError as error:
            _LOG.warning("the best epoch of a broken-off training could not be saved: %s", error)
            return None

    def _kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(OSError):
                process.kill()
            if process.stdin is not None:
                with contextlib.suppress(OSError):
                    process.stdin.close()
            threading.Thread(target=process.wait, daemon=True).start()

    def _end_job(self) -> None:
        self._busy, self._cancelled_at = False, None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _drop_events(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                self._inbox.get_nowait()
