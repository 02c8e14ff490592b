"""Events of a job into the Qt loop: the worker process is asked by a timer, parts of a store are read by a thread."""

from __future__ import annotations

import atexit
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject, QTimer

from napari_pathotune import compat
from napari_pathotune.layers import overlay_layer
from napari_pathotune.overlay import ClassGrid
from napari_pathotune.session import Result, Session
from pathotune import events

if TYPE_CHECKING:
    from pathotune.execution.client import WorkerClient
    from pathotune.execution.job import Job

log = logging.getLogger("pathotune")

POLL_MS = 60
# What one tick may do in the main thread before it leaves the rest to the next.
BUDGET_S = 0.008
ATTENTION_REFRESH_S = 2.0


class JobRunner(QObject):
    """Hands jobs to the worker process and its events to the session; nothing here waits.

    Parameters
    ----------
    session : what is told of the events.
    make_client : gives the client; the core's own where None.
    """

    def __init__(
        self, session: Session, make_client: Callable[[], WorkerClient] | None = None, parent: QObject | None = None
    ) -> None:
        super().__init__(parent)
        self.session = session
        self._make_client = make_client or _worker_client
        self._client: WorkerClient | None = None
        self._waiting: deque[events.Event] = deque()
        self._filler = OverlayFiller(session)
        session.shard_done.connect(self._filler.take)
        self._timer = QTimer(self)
        self._timer.setInterval(POLL_MS)
        self._timer.timeout.connect(self._on_tick)
        self._rest_timer = QTimer(self)
        self._rest_timer.setSingleShot(True)
        self._rest_timer.timeout.connect(self.free_memory)
        atexit.register(self.close)

    @property
    def client(self) -> WorkerClient | None:
        """The client of the worker, None before the first job."""
        return self._client

    def submit(self, job: Job, slide_path: str, text: str) -> None:
        """Start a job; one at a time."""
        if self.session.job.is_active:
            compat.show_warning("A job is running. Wait for it or cancel it first.")
            return
        self._rest_timer.stop()
        self._filler.begin(slide_path)
        if self._client is None or not self._client.alive:
            self._client = self._make_client()
            self._client.start()
        self.session.start(job, slide_path, text)
        self._client.submit(job)
        self._timer.start()

    def warm(self) -> None:
        """Start the worker before it is needed: importing its libraries takes several seconds."""
        if self._client is None or not self._client.alive:
            self._client = self._make_client()
            self._client.start()
        self._rest_timer.start(compat.preferences().keep_worker_minutes * 60_000)

    def cancel(self) -> None:
        """Stop the running job; the client kills a worker that does not answer within a second."""
        if self._client is not None and self.session.job.is_active:
            self.session.cancelling()
            self._client.cancel()

    def free_memory(self) -> None:
        """End the idle worker, so that its memory comes back; the next job starts a new one."""
        if self._client is not None and not self.session.job.is_active:
            self._end_client()

    def close(self) -> None:
        """End the worker and the reading thread; the viewer is closing."""
        atexit.unregister(self.close)
        self._timer.stop()
        self._rest_timer.stop()
        self._end_client()
        self._filler.close()

    def _end_client(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            # A process may take a second to end; the window does not wait for it.
            threading.Thread(target=client.close, name="pathotune-close").start()

    def _on_tick(self) -> None:
        end = time.perf_counter() + BUDGET_S
        if self._client is not None:
            self._waiting.extend(self._client.poll())
        while self._waiting and time.perf_counter() < end:
            self._give(self._waiting.popleft())
        self._filler.advance(end)
        if not self.session.job.is_active and not self._waiting and not self._filler.is_busy:
            self._timer.stop()
            self._rest_timer.start(compat.preferences().keep_worker_minutes * 60_000)

    def _give(self, event: events.Event) -> None:
        """One event to the session; of progress that has piled up only the newest counts."""
        if isinstance(event, events.Step) and any(isinstance(later, events.Step) for later in self._waiting):
            return
        self.session.take(event)
        if isinstance(event, events.Finished | events.Failed):
            self._filler.finish(event.result.get("store") if isinstance(event, events.Finished) else None)


class OverlayFiller:
    """Brings finished shards onto the slide: read by a thread, painted in small steps by the window's loop.

    Making a layer holds napari up for 0.2 s, so none is made while a job runs where it can be had before: the class
    overlay is there when the job starts (`Session.prepare`), probability and attention follow when it has ended.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="pathotune-overlay")
        self._reads: deque[tuple[str, Future[Any]]] = deque()
        self._adders: deque[Callable[[], bool]] = deque()
        self._grids: dict[str, Future[ClassGrid]] = {}
        self._slide_path = ""
        self._attention_time = 0.0

    @property
    def is_busy(self) -> bool:
        """Something is still being read or painted."""
        return bool(self._reads or self._adders)

    def begin(self, slide_path: str) -> None:
        """A job for this slide starts."""
        self._slide_path = slide_path
        self._grids.clear()

    def take(self, event: events.ShardDone) -> None:
        """A part of a store is readable: have it read."""
        if event.store not in self._grids:
            self._open(event.store)
        else:
            # The pool has one thread, so the grid is there when its turn comes.
            grid = self._grids[event.store]
            self._reads.append((event.store, self._pool.submit(_read_part, event.store, event.box_px0, grid)))

    def _open(self, store: str) -> None:
        self._grids[store] = self._pool.submit(_open_grid, store)
        self._reads.append((store, self._grids[store]))

    def advance(self, end: float) -> None:
        """Paint what was read, and stop at the time `end` (of `time.perf_counter`)."""
        if self._adders:
            if not self._adders[0]():
                self._adders.popleft()
            return
        changed: dict[str, Result] = {}
        while self._reads and self._reads[0][1].done() and time.perf_counter() < end:
            store, future = self._reads.popleft()
            result = self._apply(store, future)
            if result is not None:
                changed[store] = result
            if self._adders:
                break
        for result in changed.values():
            self.session.repaint(result, thumbnail=not self.session.job.is_active)
            self._refresh_attention(result)

    def _apply(self, store: str, future: Future[Any]) -> Result | None:
        try:
            found = future.result()
        except Exception as error:  # a part that cannot be read now is read when the job ends
            log.warning("a finished part of %s could not be shown yet: %s", Path(store).name, error)
            self._grids = {path: grid for path, grid in self._grids.items() if grid is not future}
            return None
        if isinstance(found, list):
            # What the person has closed in the meantime stays closed.
            if self.session.result_at(store) is not None:
                self._adders.append(self.session.show_result(store, found, joining=True))
        elif isinstance(found, ClassGrid):
            if not self.session.adopt(store, found):
                data = overlay_layer(found, store, title_of(store), self._slide_path, compat.preferences().opacity)
                self._adders.append(self.session.show_result(store, [data]))
        else:
            grid, values, row, column = found
            grid.put(values, row, column)
        return self.session.result_at(store)

    def _refresh_attention(self, result: Result) -> None:
        """Attention is read from disk where it is seen: again only now and then."""
        layer = result.attention
        now = time.perf_counter()
        if layer is not None and layer.visible and now - self._attention_time > ATTENTION_REFRESH_S:
            self._attention_time = now
            layer.refresh(thumbnail=False, highlight=False, extent=False)

    def finish(self, store: str | None = None) -> None:
        """The job ended: read its stores once more in full, and add what belongs to them.

        Parameters
        ----------
        store : the one the job names; where all was done before, no shard has told of it.
        """
        self._attention_time = 0.0
        if store and store not in self._grids:
            self._open(store)
        for path, grid in self._grids.items():
            self._reads.append((path, self._pool.submit(_read_part, path, None, grid)))
            self._reads.append((path, self._pool.submit(_other_layers, path, self._slide_path, grid)))

    def close(self) -> None:
        """Let the thread end."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._reads.clear()
        self._adders.clear()


def title_of(store: str) -> str:
    """The tuning's name from a store's path."""
    from napari_pathotune.layers import tuning_name_of
    from pathotune.inference.predictions import PredictionStore

    return tuning_name_of(PredictionStore.open(Path(store)))


def _open_grid(store_path: str) -> ClassGrid:
    from napari_pathotune.layers import class_grid
    from pathotune.inference.predictions import PredictionStore

    return class_grid(PredictionStore.open(Path(store_path)))


def _other_layers(store_path: str, slide_path: str, grid: Future[ClassGrid]) -> list[Any]:
    """Attention and probability of a store whose classes are shown already."""
    from napari_pathotune.layers import store_layers
    from pathotune.inference.predictions import PredictionStore

    store = PredictionStore.open(Path(store_path))
    return list(store_layers(store, slide_path, compat.preferences().opacity, grid.result()))


def _read_part(
    store_path: str, box_px0: tuple[float, float, float, float] | None, grid: Future[ClassGrid]
) -> tuple[ClassGrid, Any, int, int]:
    """The probabilities of the cells a box holds (None: all), with the row and column of the first."""
    import numpy as np

    from pathotune.inference.predictions import PredictionStore

    store = PredictionStore.open(Path(store_path))
    if box_px0 is None:
        return grid.result(), np.asarray(store.probabilities[...], dtype=np.float32), 0, 0
    rows, columns = grid.result().cells_of(box_px0, store.grid.mpp)
    values = np.asarray(store.probabilities[:, rows, columns], dtype=np.float32)
    return grid.result(), values, rows.start, columns.start


def _worker_client() -> WorkerClient:
    from pathotune.execution.client import WorkerClient

    return WorkerClient()
