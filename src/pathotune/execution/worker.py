"""The worker process, `python -m pathotune.execution.worker`: jobs come in as JSON lines, events go out."""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import queue
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any, BinaryIO

import psutil

from pathotune import events
from pathotune.errors import PathotuneError
from pathotune.execution.job import Job, run_job

HEARTBEAT_S = 1.0

NICENESS = 15
"""How far the worker stands back on Unix: far enough that a window drawn by the processor hardly waits for it
(benchmarks/viewer_block.py), and no further, as another program at work would leave the prediction next to nothing."""
WARMED = (
    "pathotune.inference.predict",
    "pathotune.inference.attention",
    "pathotune.backbones.tile.timm_build",
    "pathotune.training.loop",
)
"""What is imported at the start, the most likely first."""


class Worker:
    """Runs one job at a time; the main thread works, one thread listens, one says that the process is alive.

    Parameters
    ----------
    incoming : JSON lines {"do": "job" | "cancel" | "pause" | "resume" | "ping" | "quit"}; its end is the end of the
        process.
    outgoing : where events go, one JSON line each.
    leave : what ends the process at once.
    """

    def __init__(self, incoming: BinaryIO, outgoing: BinaryIO, leave: Callable[[int], Any] = os._exit) -> None:
        self._incoming, self._outgoing, self._leave = incoming, outgoing, leave
        self._jobs: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._cancelled = threading.Event()
        self._going = threading.Event()
        self._going.set()
        self._is_held, self._hold_lock = False, threading.Lock()
        self._write_lock = threading.Lock()
        self._backbones: dict[str, Any] = {}

    def serve(self) -> None:
        """Work until told to quit or the pipe closes; its first word says that it has started."""
        self._say_alive()
        threading.Thread(target=self._listen, daemon=True).start()
        threading.Thread(target=self._beat, daemon=True).start()
        while True:
            message = self._jobs.get()
            if message is None:
                return
            self._work(message)

    def _work(self, message: dict[str, Any]) -> None:
        """One job from its first event to its last; whatever it raises becomes a `Failed`."""
        try:
            ended = False
            for event in run_job(Job.from_dict(message), cancel=self._asked_to_stop, backbones=self._backbones):
                self.say(events.to_json(event))
                ended = ended or isinstance(event, events.Finished | events.Failed)
                if not ended:
                    self._asked_to_stop()
            if not ended:
                self.say(events.to_json(events.Finished()))
        except PathotuneError as error:
            self.say(events.to_json(events.Failed(type(error).__name__, str(error), error.exit_code)))
        except ImportError as error:
            traceback.print_exc()
            text = f"A package that this needs is missing or does not load ({error})."
            self.say(events.to_json(events.Failed("MissingPackage", text)))
        except Exception as error:
            traceback.print_exc()
            text = f"The work stopped on an error of the program ({type(error).__name__}: {error})."
            self.say(events.to_json(events.Failed("PathotuneError", text)))

    def _asked_to_stop(self) -> bool:
        """What long work asks often, from any of its threads: while it is paused the answer is not given."""
        if not self._going.is_set():
            with self._hold_lock:
                if not self._is_held and not self._going.is_set():
                    self._is_held = True
                    self.say(events.to_json(events.Paused(True)))
            self._going.wait()
        return self._cancelled.is_set()

    def _go_on(self) -> None:
        """Let go what is held, and say so."""
        with self._hold_lock:
            self._going.set()
            was_held, self._is_held = self._is_held, False
            if was_held and not self._cancelled.is_set():
                self.say(events.to_json(events.Paused(False)))

    def say(self, document: dict[str, Any]) -> None:
        """One line to the parent; a closed pipe ends the process."""
        line = (json.dumps(document, default=str) + "\n").encode()
        try:
            with self._write_lock:
                self._outgoing.write(line)
                self._outgoing.flush()
        except (OSError, ValueError):
            self._leave(1)

    def _listen(self) -> None:
        """Thread: messages of the parent; the end of the pipe, however it came, ends the process at once.

        Nothing is lost by that: a store is true after every write.
        """
        with contextlib.suppress(OSError, ValueError):
            for line in self._incoming:
                try:
                    message = json.loads(line)
                except ValueError:
                    continue
                action = message.get("do")
                if action == "job":
                    self._cancelled.clear()
                    self._go_on()
                    self._jobs.put(message.get("job"))
                elif action == "cancel":
                    self._cancelled.set()
                    self._go_on()
                elif action == "pause":
                    self._going.clear()
                elif action == "resume":
                    self._go_on()
                elif action == "ping":
                    self._say_alive()
                elif action == "quit":
                    break
        self._leave(0)

    def _beat(self) -> None:
        pause = threading.Event()
        while not pause.wait(HEARTBEAT_S):
            self._say_alive()

    def _say_alive(self) -> None:
        self.say({"event": "Alive", "memory_mb": round(psutil.Process().memory_info().rss / 2**20, 1)})


def _warm_up() -> None:
    """Thread: import what every job needs while the person still looks at the slide."""
    with contextlib.suppress(ImportError):
        for module in WARMED:
            importlib.import_module(module)


def _give_way() -> None:
    """The viewer goes first: what it draws must not wait for the work."""
    process = psutil.Process()
    with contextlib.suppress(psutil.Error, OSError):
        if sys.platform == "win32":
            process.nice(psutil.BELOW_NORMAL_PRIORITY_CLASS)
        else:
            process.nice(min(19, process.nice() + NICENESS))


def main() -> None:
    """Serve on stdin and stdout; what libraries print goes to stderr instead."""
    outgoing = os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr)
    _give_way()
    threading.Thread(target=_warm_up, daemon=True).start()
    Worker(sys.stdin.buffer, outgoing).serve()


if __name__ == "__main__":
    main()
