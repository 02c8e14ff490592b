"""Many slides one after the other: none stops the rest, several processes share a folder, and nothing is lost."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pathotune.errors import (
    FileMissing,
    MissingPixelSize,
    NotFinite,
    OutputRefused,
    PathotuneError,
    SlideUnreadable,
    StoreBusy,
    StoreMismatch,
    StoreUnreadable,
    TooLittleMemory,
    TuningMismatch,
)
from pathotune.events import Event, Finished, Note, SlideBegun, SlideEnd, up_to_the_end
from pathotune.execution.job import BackboneCache, Job, run_job, tuning_backbone
from pathotune.execution.ledger import Ledger
from pathotune.execution.preflight import survey
from pathotune.execution.summary import store_key, write_summary
from pathotune.execution.trouble import Patience
from pathotune.inference import leases
from pathotune.inference.contact_sheet import picture_path, write_picture
from pathotune.inference.finished import document_of, finished_store
from pathotune.inference.inputs import SlideInput

if TYPE_CHECKING:
    from pathotune.inference.predictions import PredictionStore
    from pathotune.methods.checkpoint import Tuning
    from pathotune.slides.slide import Slide
    from pathotune.tiles.tissue import TissueMask

# Anything else is wrong with the tuning, the backbone or the options, and so for every slide.
OF_ONE_SLIDE = (
    FileMissing,
    MissingPixelSize,
    NotFinite,
    OutputRefused,
    SlideUnreadable,
    StoreMismatch,
    StoreUnreadable,
    TooLittleMemory,
)
ASK_AGAIN_S = 5.0
"""How long a slide that another process is at is left alone."""
SUMMARY_EVERY_S = 15.0
MOST_TRIES = 4

_LOG = logging.getLogger(__name__)


@dataclass
class Batch:
    """What a run over slides is about.

    planned : where each slide's store goes, in order: `inference.inputs.plan_stores`.
    tuning, tuning_path : the tuning, and its file.
    out : the results folder.
    options : of a predict job (`execution.job.Job`) beside slide, tuning and out.
    everything : the slides of all parts, for the common summary; without it `planned`.
    part : "I/N" where this is one of several runs.
    """

    planned: Mapping[Path, SlideInput]
    tuning: Tuning
    tuning_path: Path
    out: Path
    options: Mapping[str, Any] = field(default_factory=dict)
    everything: Mapping[Path, SlideInput] | None = None
    part: str | None = None


def predict_one(
    batch: Batch, *, cancel: Callable[[], bool] | None = None, backbones: BackboneCache | None = None
) -> Iterator[Event]:
    """The only slide of a batch, without summary and waiting; what is wrong with it ends in its document."""
    yield from _Runner(batch, None, cancel or _never, {} if backbones is None else backbones).run()


def predict_many(
    batch: Batch, *, cancel: Callable[[], bool] | None = None, backbones: BackboneCache | None = None
) -> Iterator[Event]:
    """Predict slide after slide; the last event is a `Finished` with {"slides": [document, …], table, page}.

    A slide that cannot be predicted ends with the status "failed" or "needs_mpp" and a sentence. One that another
    process works on comes later, and is left to that process ("elsewhere") where it is still alive then. A folder that
    vanishes and a disk that is full are waited for. `slides.csv` and `slides.html` in the results folder say of every
    slide what became of it, whichever process did it.

    Raises
    ------
    PathotuneError : what is wrong with the tuning, the backbone or the options, and so for every slide.
    """
    runner = _Runner(batch, Ledger(batch.out), cancel or _never, {} if backbones is None else backbones)
    result: dict[str, Any] = {}
    try:
        result = yield from up_to_the_end(runner.run())
    finally:
        try:
            result |= runner.write_summary()
        except OutputRefused as error:
            _LOG.warning("%s", error)
    yield Finished(result)


@dataclass(frozen=True)
class _Opened:
    """A slide whose turn comes: open, and its tissue found unless its store is finished."""

    slide: Slide
    tissue: TissueMask | None
    finished: PredictionStore | None


@dataclass
class _Elsewhere:
    """A slide that another process is at: since when we know, and when we look again."""

    since: float
    again: float


class _Runner:
    """One run over the slides of a batch; without a ledger it is one slide alone."""

    def __init__(
        self, batch: Batch, ledger: Ledger | None, cancel: Callable[[], bool], backbones: BackboneCache
    ) -> None:
        self._batch, self._ledger, self._cancel, self._backbones = batch, ledger, cancel, backbones
        self._patience = None if ledger is None else Patience(ledger, cancel)
        self._results: dict[Path, dict[str, Any]] = {}
        self._numbers = {store: number for number, store in enumerate(batch.planned, start=1)}
        self._ahead: dict[Path, Future[_Opened]] = {}
        self._elsewhere: dict[Path, _Elsewhere] = {}
        self._summary_at = time.monotonic()

    # ---- the run -----------------------------------------------------------------------------------------------

    def run(self) -> Iterator[Event]:
        """All slides, then the result."""
        planned = self._batch.planned
        if self._ledger is not None:
            yield from survey(self._batch, self._ledger.ends(), self._cancel)
        waiting = deque(self._in_order())
        with ThreadPoolExecutor(1, thread_name_prefix="pathotune-ahead") as pool:
            try:
                while waiting and not self._cancel():
                    store = waiting.popleft()
                    if self._is_due(store):
                        yield from self._turn(store, pool, waiting)
                        continue
                    waiting.append(store)
                    if not any(self._is_due(other) for other in waiting):
                        time.sleep(min(0.2, ASK_AGAIN_S))
            finally:
                self._drop_ahead()
        yield Finished({"slides": [self._results[store] for store in planned if store in self._results]})

    def _in_order(self) -> list[Path]:
        """As planned, but what several processes died at comes last, so that no slide can block the rest for good."""
        planned = list(self._batch.planned)
        if self._ledger is None:
            return planned
        deaths, ends = self._ledger.left_off(), self._ledger.ends()
        counts = {store: deaths[self._key(store)] for store in planned if self._key(store) not in ends}
        return sorted(planned, key=lambda store: counts.get(store, 0) if counts.get(store, 0) > 1 else 0)

    def _turn(self, store: Path, pool: ThreadPoolExecutor, waiting: deque[Path]) -> Iterator[Event]:
        """One slide up to its end, or back to the others where another process is at it."""
        item = self._batch.planned[store]
        if store not in self._elsewhere:
            yield SlideBegun(item.called, self._numbers[store], len(self._numbers))
        for _ in range(MOST_TRIES):
            try:
                result = yield from self._predicted(store, pool, waiting)
            except StoreBusy as error:
                if self._is_left_for_later(store):
                    waiting.append(store)
                    return
                result = failure(item, error, "elsewhere" if self._ledger else "failed")
            except OF_ONE_SLIDE as error:
                result = failure(item, error)
                if self._patience is not None and (yield from self._patience.wait(item.path, error)):
                    continue
            except PathotuneError:
                raise
            except Exception as error:  # a fault of the program or a library must not cost the other slides
                if self._ledger is None:
                    raise
                _LOG.info("%s failed", item.path, exc_info=error)
                result = failure(item, PathotuneError(f"An error of the program ({type(error).__name__}: {error})."))
            break
        yield from self._end(store, result)

    def _predicted(
        self, store: Path, pool: ThreadPoolExecutor, waiting: deque[Path]
    ) -> Generator[Event, None, dict[str, Any]]:
        item = self._batch.planned[store]
        if self._patience is not None:
            self._patience.check_out()
        ahead = self._ahead.pop(store, None)
        opened = self._open(store) if ahead is None else ahead.result()
        with opened.slide as slide:
            if waiting and self._ledger is not None:
                self._look_ahead(waiting[0], pool)
            if opened.finished is not None:
                result = document_of(opened.finished, item.called, "done" if store in self._elsewhere else "resumed")
            else:
                if self._ledger is not None:
                    self._ledger.begin(self._key(store))
                result = yield from up_to_the_end(self._stage(item, opened))
            self._draw(store, slide, result)
        return result

    def _stage(self, item: SlideInput, opened: _Opened) -> Iterator[Event]:
        """The prediction of an open slide; a method that does not go tile by tile does it in its own way."""
        from pathotune.inference.predict import predict_slide
        from pathotune.methods import stage_of

        batch, options = self._batch, dict(self._batch.options)
        folder = batch.out / item.folder
        if stage_of(batch.tuning.method, "predictor") is not None:
            of_slide = {"slide": str(item.path), "slide_mpp": item.mpp, "out": str(folder), "name": item.name}
            job = Job("predict", {**options, **of_slide, "tuning": str(batch.tuning_path)})
            yield from run_job(job, cancel=self._cancel, backbones=self._backbones)
            return
        named = options.pop("backbone", None), options.pop("weights", None)
        yield from predict_slide(
            opened.slide,
            batch.tuning,
            folder,
            backbone=tuning_backbone(batch.tuning, *named, self._backbones),
            tissue=opened.tissue,
            name=item.name or None,
            cancel=self._cancel,
            **{name: value for name, value in options.items() if value is not None},
        )

    def _end(self, store: Path, result: dict[str, Any]) -> Iterator[Event]:
        self._results[store] = result
        if self._ledger is not None and result["status"] not in ("cancelled", "elsewhere"):
            self._ledger.end(self._key(store), result)
        if self._ledger is not None and time.monotonic() - self._summary_at > SUMMARY_EVERY_S:
            try:
                self.write_summary(is_last=False)
            except OutputRefused as error:
                yield Note(str(error), "warning")
        yield SlideEnd(result, len(self._results), len(self._numbers))

    # ---- opening, also ahead -----------------------------------------------------------------------------------

    def _open(self, store: Path) -> _Opened:
        """Open a slide, look whether its store is finished, and find its tissue."""
        from pathotune.methods import stage_of
        from pathotune.methods.fitting import check_slide
        from pathotune.slides import open_slide
        from pathotune.tiles.tissue import tissue_mask

        batch, item = self._batch, self._batch.planned[store]
        slide = open_slide(item.path, mpp=item.mpp, icc=batch.tuning.reading.icc)
        try:
            slide.require_mpp()
            try:
                check_slide(batch.tuning, slide)
            except TuningMismatch as error:  # of this slide alone
                raise StoreMismatch(str(error)) from error
            finished = None
            if self._ledger is not None and batch.options.get("resume", True):
                finished = finished_store(store, slide.fingerprint, batch.tuning, batch.options)
            by_tiles = stage_of(batch.tuning.method, "predictor") is None
            return _Opened(slide, tissue_mask(slide) if finished is None and by_tiles else None, finished)
        except BaseException:
            slide.close()
            raise

    def _look_ahead(self, store: Path, pool: ThreadPoolExecutor) -> None:
        """Begin to open the next slide, so that the model need not wait for it."""
        if store not in self._ahead and store not in self._elsewhere:
            self._ahead[store] = pool.submit(self._open, store)

    def _drop_ahead(self) -> None:
        for future in self._ahead.values():
            if not future.cancel() and future.exception() is None:
                future.result().slide.close()
        self._ahead.clear()

    # ---- other processes ---------------------------------------------------------------------------------------

    def _is_left_for_later(self, store: Path) -> bool:
        """Whether a slide that another process is at is looked at again: until that would be known to be dead."""
        now = time.monotonic()
        known = self._elsewhere.setdefault(store, _Elsewhere(now, now))
        known.again = now + ASK_AGAIN_S
        return self._ledger is not None and now - known.since < leases.STALE_S + 2 * ASK_AGAIN_S

    def _is_due(self, store: Path) -> bool:
        known = self._elsewhere.get(store)
        return known is None or time.monotonic() >= known.again

    # ---- what is written beside the stores ---------------------------------------------------------------------

    def _key(self, store: Path) -> str:
        return store_key(store, self._batch.out)

    def _draw(self, store: Path, slide: Slide, result: Mapping[str, Any]) -> None:
        """The slide's picture for the contact sheet; a slide without one is predicted all the same."""
        from pathotune.inference.predictions import PredictionStore

        if self._ledger is None or result["status"] not in ("done", "resumed") or not result["store"]:
            return
        path = picture_path(self._batch.out, self._key(store))
        try:
            if result["status"] == "done" or not path.exists():
                write_picture(PredictionStore.open(result["store"]), slide, path)
        except Exception as error:  # whatever is odd about its picture, the slide is predicted
            _LOG.info("no picture of %s: %s", slide.path, error)

    def write_summary(self, is_last: bool = True) -> dict[str, str]:
        """Write table and page now; returns their paths."""
        self._summary_at, batch = time.monotonic(), self._batch
        if self._ledger is None or not self._ledger.is_there:
            return {}
        everything = batch.planned if batch.everything is None else batch.everything
        return write_summary(self._ledger, everything, self._results, batch.part, batch.tuning, is_last=is_last)


def failure(item: SlideInput, error: PathotuneError, status: str = "failed") -> dict[str, Any]:
    """The contract's document of a slide that could not be predicted."""
    text = str(error)
    if item.name:
        for written in (str(item.path), item.path.name, item.path.stem):
            text = text.replace(written, item.name)
    numbers = {"tiles": 0, "classes": {}, "score": None, "seconds": 0.0, "tiles_per_second": 0.0}
    return {
        "slide": item.called,
        "store": None,
        **numbers,
        "model_busy": None,
        "peak_memory_mb": None,
        "status": "needs_mpp" if isinstance(error, MissingPixelSize) else status,
        "error": text,
    }


def _never() -> bool:
    return False
