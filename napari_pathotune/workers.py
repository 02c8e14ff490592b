"""Events of a job into the Qt loop: the worker process is asked by a timer, parts of a store are read by a thread."""

from __future__ import annotations

import atexit
import gc
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject, QTimer

from napari_pathotune import compat
from napari_pathotune.layers import LayerData, overlay_layer, result_layers
from napari_pathotune.overlay import ClassGrid
from napari_pathotune.session import Box, Result, Session
from pathotune import events
from pathotune.errors import WorkerNotStarted

if TYPE_CHECKING:
    from pathotune.execution.client import WorkerClient
    from pathotune.execution.job import Job

log = logging.getLogger("pathotune")

POLL_MS = 60
# What one tick may do in the main thread before it leaves the rest to the next.
BUDGET_S = 0.008
# Whatever changes in the window, a number or a cell of the overlay, has all of it drawn again beside an OpenGL canvas:
# so this happens seldom.
SHOW_EVERY_S = 0.5
ATTENTION_REFRESH_S = 4.0


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
        self._gives_way = False
        self._next_job: tuple[Job, str, str, bool] | None = None
        self._next_show = 0.0
        # Progress and overlay in turn: the window is drawn between them, as both at once would be felt in it.
        self._is_overlays_turn = False
        self._garbage = QuietGarbage()
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

    @property
    def is_free(self) -> bool:
        """Whether a job can be started: none runs, or one that gives way to it."""
        return not self.session.job.is_active or (self._gives_way and self._next_job is None)

    def submit(self, job: Job, slide_path: str, text: str, gives_way: bool = False) -> None:
        """Start a job; one at a time.

        Parameters
        ----------
        slide_path : of the slide it is about; "" where it is about none.
        text : what is said until it tells of itself.
        gives_way : nobody asked for this job by itself: the next one that is submitted ends it and takes its place.
        """
        if self.session.job.is_active:
            if not self.is_free:
                compat.show_warning("A job is running. Wait for it or cancel it first.")
                return
            self._next_job = job, slide_path, text, gives_way
            self.cancel()
            return
        self._gives_way = gives_way
        self._rest_timer.stop()
        self._filler.begin(slide_path)
        self.session.start(job, slide_path, text)
        try:
            self._started_client().submit(job)
        except WorkerNotStarted as error:
            self.session.take(events.Failed("WorkerNotStarted", str(error)))
            return
        self._garbage.leave()
        self._timer.start()

    def warm(self) -> None:
        """Start the worker before it is needed: importing its libraries takes several seconds."""
        if self.session.job.is_active:
            return  # one that was just killed still has the end of its job to tell
        try:
            self._started_client()
        except WorkerNotStarted as error:
            log.warning("%s", error)  # the job that needs it will say so
            return
        self._rest_timer.start(compat.preferences().keep_worker_minutes * 60_000)

    def _started_client(self) -> WorkerClient:
        if self._client is None or not self._client.alive:
            client = self._make_client()
            client.start()
            self._client = client
        return self._client

    def cancel(self) -> None:
        """Stop the running job; the client kills a worker that does not answer within a second."""
        if self._client is not None and self.session.job.is_active:
            self.session.cancelling()
            self._client.cancel()

    def hold(self, wanted: bool) -> None:
        """Have the running job stand still, or go on as if it never had; its memory stays taken."""
        if self._client is not None and self.session.job.stage in ("starting", "running"):
            self.session.holding(wanted)
            self._client.pause() if wanted else self._client.resume()

    def free_memory(self) -> None:
        """End the idle worker, so that its memory comes back; the next job starts a new one."""
        if self._client is not None and not self.session.job.is_active:
            self._end_client()

    def close(self) -> None:
        """End the worker and the reading thread; the viewer is closing."""
        atexit.unregister(self.close)
        self._timer.stop()
        self._rest_timer.stop()
        self._garbage.look_again()
        self._end_client()
        self._filler.close()

    def _end_client(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            # A process may take a second to end; the window does not wait for it.
            threading.Thread(target=client.close, name="pathotune-close").start()

    def _on_tick(self) -> None:
        now = time.perf_counter()
        if self._client is not None:
            self._waiting.extend(self._client.poll())
        is_early = self.session.job.is_active and now < self._next_show
        if is_early and not self._is_overlays_turn and not any(map(_is_urgent, self._waiting)):
            return
        end = now + BUDGET_S
        if self._waiting and not self._is_overlays_turn:
            self._next_show = now + SHOW_EVERY_S
            self._is_overlays_turn = True
            while self._waiting and time.perf_counter() < end:
                self._give(self._waiting.popleft())
        else:
            self._next_show = max(self._next_show, now + SHOW_EVERY_S / 2)
            self._is_overlays_turn = False
            self._filler.advance(end)
        if self._next_job is not None and not self.session.job.is_active and not self._waiting:
            next_job, self._next_job = self._next_job, None
            self.submit(*next_job)
        if not self.session.job.is_active and not self._waiting and not self._filler.is_busy:
            self._timer.stop()
            self._garbage.look_again()
            self._rest_timer.start(compat.preferences().keep_worker_minutes * 60_000)

    def _give(self, event: events.Event) -> None:
        """One event to the session; of progress that has piled up only the newest counts."""
        if isinstance(event, events.Step) and any(isinstance(later, events.Step) for later in self._waiting):
            return
        self.session.take(event)
        if isinstance(event, events.Finished | events.Failed):
            self._filler.finish(event.result.get("store") if isinstance(event, events.Finished) else None)


def _is_urgent(event: events.Event) -> bool:
    """Whether the person shall see this at once: all but progress and parts of a store, of which more will come."""
    return not isinstance(event, events.Step | events.ShardDone)


class QuietGarbage:
    """Keeps Python's garbage collector from looking through all that napari has loaded while a job runs.

    A full collection would hold the main thread up for longer than a picture of the canvas does; of what a job makes,
    there is little to look through.
    """

    def __init__(self) -> None:
        self._is_left = False

    def leave(self) -> None:
        """From now on only what is made later is looked through."""
        if not self._is_left and not gc.get_freeze_count():  # one who froze it before wants it to stay so
            gc.freeze()
            self._is_left = True

    def look_again(self) -> None:
        """All of it is looked through again, at Python's own time."""
        if self._is_left:
            gc.unfreeze()
            self._is_left = False


@dataclass(frozen=True)
class Opened:
    """A store that is being filled; its array stays open, as opening it takes as long as reading a part of it."""

    title: str
    probabilities: Any
    mpp: tuple[float, float]
    grid: ClassGrid
    attention: list[LayerData]

    def cells_of(self, box_px0: Box) -> tuple[slice, slice]:
        """The rows and columns of the cells that a box in level-0 pixels holds."""
        return self.grid.cells_of(box_px0, self.mpp)


@dataclass(frozen=True)
class Part:
    """Probabilities (classes, rows, columns) read from a store, and the cell the first of them belongs to."""

    values: Any
    row: int
    column: int


@dataclass(frozen=True)
class Extras:
    """What belongs to a store beside its grid: attention, as layer data."""

    title: str
    attention: list[LayerData]


class OverlayFiller:
    """Brings finished shards onto the slide: read by a thread, painted in small steps by the window's loop.

    Making a layer holds napari up for 0.2 s, so none is made while a job runs where it can be had before: class
    overlay, probability and attention are there when the job starts (`Session.prepare`).
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="pathotune-overlay")
        self._reads: deque[tuple[str, Future[Any]]] = deque()
        self._adders: deque[Callable[[], bool]] = deque()
        self._later: deque[Callable[[], None]] = deque()  # one a turn of the loop: each has the window drawn again
        self._stores: dict[str, Future[Opened]] = {}
        self._boxes: dict[str, list[Box]] = {}
        self._slide_path, self._had_slide = "", False
        self._attention_time = 0.0

    @property
    def is_busy(self) -> bool:
        """Something is still being read or painted."""
        return bool(self._reads or self._adders or self._boxes or self._later)

    @property
    def _is_slide_closed(self) -> bool:
        """The person has closed the slide since: the job goes on, but nothing of it is put before her."""
        return self._had_slide and not self.session.has_slide(self._slide_path)

    def begin(self, slide_path: str) -> None:
        """A job for this slide starts."""
        self._slide_path, self._had_slide = slide_path, self.session.has_slide(slide_path)
        self._stores.clear()
        self._boxes.clear()

    def take(self, event: events.ShardDone) -> None:
        """A part of a store is readable: have it read."""
        if event.store not in self._stores:
            self._open(event.store)
        else:
            self._boxes.setdefault(event.store, []).append(event.box_px0)

    def _open(self, store: str) -> None:
        self._stores[store] = self._pool.submit(_open_store, store, self._slide_path)
        self._reads.append((store, self._stores[store]))

    def advance(self, end: float) -> None:
        """Paint what was read, and stop at the time `end` (of `time.perf_counter`)."""
        if self._adders:
            if not self._adders[0]():
                self._adders.popleft()
            return
        if self._later:
            self._later.popleft()()
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
            self._show(result)
        if not self._reads:
            self._read_boxes()

    def _read_boxes(self) -> None:
        """Have what came in meanwhile read in one go."""
        for store, boxes in self._boxes.items():
            # The pool has one thread, so the store is open when its turn comes.
            self._reads.append((store, self._pool.submit(_read_parts, self._stores[store], boxes)))
        self._boxes = {}

    def _apply(self, store: str, future: Future[Any]) -> Result | None:
        try:
            found = future.result()
        except Exception as error:  # a part that cannot be read now is read when the job ends
            log.warning("a finished part of %s could not be shown yet: %s", Path(store).name, error)
            if self._stores.get(store) is future:
                del self._stores[store]
                self._boxes.pop(store, None)
            return None
        if isinstance(found, Opened):
            if not self.session.shown.adopt(store, found.grid) and not self._is_slide_closed:
                data = overlay_layer(found.grid, store, found.title, self._slide_path, compat.preferences().opacity)
                self.session.shown.hide_results(self._slide_path)
                self._adders.append(self.session.shown.show_result(store, [data]))
            opened = self.session.result_at(store)
            if opened is not None:
                # Its legend has changed already: the picture waits for the next turn.
                self._later.append(partial(self._show, opened))
                self._later.extend(self.session.shown.attention_steps(opened, found.attention))
            return None
        result = self.session.result_at(store)
        if result is None:
            return None  # what the person has closed in the meantime stays closed
        if isinstance(found, Extras):
            opacity = compat.preferences().opacity
            self.session.shown.put_attention(result, found.attention)
            layers = found.attention + result_layers(result.grid, store, found.title, result.slide_path, opacity)
            self._adders.append(self.session.shown.show_result(store, layers, joining=True))
        else:
            for part in found:
                result.grid.put(part.values, part.row, part.column)
        return result

    def _show(self, result: Result) -> None:
        self.session.shown.repaint(result, thumbnail=not self.session.job.is_active)
        self._refresh_attention(result)

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
        self._boxes.clear()
        if store and store not in self._stores:
            self._open(store)
        for path, opened in self._stores.items():
            self._reads.append((path, self._pool.submit(_read_parts, opened, None)))
            self._reads.append((path, self._pool.submit(_read_extras, path, self._slide_path)))

    def close(self) -> None:
        """Let the thread end."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._reads.clear()
        self._adders.clear()
        self._later.clear()
        self._boxes.clear()


def _open_store(path: str, slide_path: str) -> Opened:
    from napari_pathotune.layers import attention_layers, class_grid, tuning_name_of
    from pathotune.inference.predictions import PredictionStore

    store = PredictionStore.open(Path(path))
    attention = attention_layers(store, slide_path)
    return Opened(tuning_name_of(store), store.probabilities, store.grid.mpp, class_grid(store), attention)


def _read_parts(opened: Future[Opened], boxes: list[Box] | None) -> list[Part]:
    """The probabilities of the cells that boxes in level-0 pixels hold (None: all of the store)."""
    import numpy as np

    store = opened.result()
    if boxes is None:
        return [Part(np.asarray(store.probabilities[...], dtype=np.float32), 0, 0)]
    cells = {(rows.start, rows.stop, columns.start, columns.stop) for rows, columns in map(store.cells_of, boxes)}
    return [
        Part(np.asarray(store.probabilities[:, top:bottom, left:right], dtype=np.float32), top, left)
        for top, bottom, left, right in cells
        if bottom > top and right > left
    ]


def _read_extras(path: str, slide_path: str) -> Extras:
    from napari_pathotune.layers import attention_layers, tuning_name_of
    from pathotune.inference.predictions import PredictionStore

    store = PredictionStore.open(Path(path))
    return Extras(tuning_name_of(store), attention_layers(store, slide_path))


def _worker_client() -> WorkerClient:
    from pathotune.execution.client import WorkerClient

    return WorkerClient()
