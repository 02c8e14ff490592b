"""Many slides on a dask.distributed cluster: slides and their parts as tasks, results on storage all workers share."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pathotune import errors
from pathotune.errors import MissingPackage, PathotuneError, UsageError
from pathotune.events import Event, Finished, Note, SlideBegun, SlideEnd, Step
from pathotune.execution import cluster_tasks
from pathotune.execution.batch import Batch, failure
from pathotune.execution.cluster_tasks import SlideTask
from pathotune.execution.ledger import Ledger
from pathotune.execution.summary import store_key, write_summary
from pathotune.inference.contact_sheet import picture_path

SPLIT_ABOVE = 4000
"""Tiles above which a slide is predicted in parts by several workers."""
AHEAD = 3
"""Slides begun per worker, so that none waits while one is put together."""
RETRIES = 3
CONNECT_S = 30.0


@dataclass
class _Slide:
    """A slide on its way: its task, and the parts that are back."""

    store: Path
    task: SlideTask
    begun: dict[str, Any] = field(default_factory=dict)
    parts: dict[int, str] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)


def predict_on_cluster(
    batch: Batch, address: str, *, cancel: Callable[[], bool] | None = None, split_above: int = SPLIT_ABOVE
) -> Iterator[Event]:
    """Predict the slides of a batch on a running cluster; events and result as of `execution.batch.predict_many`.

    Workers need pathotune, the backbone's weights and the same paths as this process: slides, tuning and results lie on
    storage they share. A task whose worker dies is given to another.

    Parameters
    ----------
    address : of the scheduler, for example tcp://host:8786.
    split_above : tiles above which a slide is predicted in parts.

    Raises
    ------
    MissingPackage, UsageError : distributed is not installed; no scheduler answers there, or it has no workers.
    PathotuneError : what is wrong with the tuning, the backbone or the options, and so for every slide.
    """
    client = _connected(address)
    ledger = Ledger(batch.out)
    results: dict[Path, dict[str, Any]] = {}
    try:
        yield from _run(client, batch, ledger, results, cancel or (lambda: False), split_above)
    finally:
        client.close()
        everything = batch.planned if batch.everything is None else batch.everything
        written = write_summary(ledger, everything, results, batch.part, batch.tuning) if ledger.is_there else {}
    yield Finished({"slides": [results[store] for store in batch.planned if store in results], **written})


def _connected(address: str) -> Any:
    try:
        from distributed import Client
    except ImportError as error:
        raise MissingPackage("distributed", "Predicting on a cluster", "pip install 'pathotune[cluster]'") from error
    try:
        client = Client(address, timeout=CONNECT_S, set_as_default=False)
        client.wait_for_workers(1, timeout=CONNECT_S)
    except (OSError, ValueError, TimeoutError) as error:
        raise UsageError(
            f"No cluster with workers answers at {address!r} ({str(error) or type(error).__name__}). Start "
            "dask-scheduler and dask-worker, and give the scheduler's address, for example tcp://host:8786."
        ) from error
    return client


def _run(
    client: Any,
    batch: Batch,
    ledger: Ledger,
    results: dict[Path, dict[str, Any]],
    cancel: Callable[[], bool],
    split_above: int,
) -> Iterator[Event]:
    """Keep every worker busy with the next tasks until all slides have their end."""
    from distributed import as_completed

    waiting = list(batch.planned)
    flying: dict[Any, tuple[str, _Slide, int]] = {}
    arrived = as_completed(loop=client.loop)
    resources = _resources(client, str(batch.options.get("device") or "auto"))

    def send(kind: str, slide: _Slide, number: int, *arguments: Any) -> None:
        work = getattr(cluster_tasks, kind)
        future = client.submit(work, slide.task, *arguments, pure=False, retries=RETRIES, resources=resources)
        flying[future] = (kind, slide, number)
        arrived.add(future)

    def refill() -> Iterator[Event]:
        workers = max(1, len(client.nthreads()))  # asked anew: a cluster may grow and shrink
        begun = {slide.store for _, slide, _ in flying.values()}
        while waiting and len(begun) < AHEAD * workers:
            store = waiting.pop(0)
            begun.add(store)
            item = batch.planned[store]
            yield SlideBegun(item.called, len(batch.planned) - len(waiting), len(batch.planned))
            ledger.begin(store_key(store, batch.out))
            send("begin", _Slide(store, _task(batch, store, split_above)), 0)

    yield from refill()
    while flying:
        if cancel():
            client.cancel(list(flying))
            yield Note("Cancelled; what the workers had done is kept.")
            return
        if not arrived.has_ready():
            time.sleep(0.05)
            continue
        future = next(arrived)
        kind, slide, unit = flying.pop(future)
        answer = _answer(future)
        # Its answer is here: were it still wanted, the scheduler would have it done once more when that worker dies.
        future.release()
        if "error" in answer and not answer["of_one_slide"]:
            client.cancel(list(flying))
            raise _raised(answer)
        if "error" in answer or "result" in answer:
            # Parts of a slide that failed may still come; they are let be.
            if slide.store not in results:
                results[slide.store] = result = _document(batch, slide, answer)
                ledger.end(store_key(slide.store, batch.out), result)
                yield SlideEnd(result, len(results), len(batch.planned))
        elif kind == "begin":
            slide.begun = answer
            for number in answer["units"]:
                send("fill", slide, number, answer["store"], number, answer["precision"])
        else:
            slide.parts[unit] = answer["part"]
            yield Step("parts", len(slide.parts), len(slide.begun["units"]), "parts")
        if (
            slide.begun
            and slide.store not in results
            and len(slide.parts) == len(slide.begun["units"])
            and kind != "finish"
        ):
            send("finish", slide, 0, slide.begun["store"], slide.parts, slide.begun["planned"])
        yield from refill()


def _task(batch: Batch, store: Path, split_above: int) -> SlideTask:
    item = batch.planned[store]
    return SlideTask(
        str(item.path.absolute()),
        str(batch.tuning_path.absolute()),
        str((batch.out / item.folder).absolute()),
        str(store.absolute()),
        item.mpp,
        item.name,
        dict(batch.options),
        split_above,
        str(picture_path(batch.out, store_key(store, batch.out)).absolute()),
    )


def _resources(client: Any, device: str) -> dict[str, float] | None:
    """One graphics card a task, where the workers say that they have some."""
    workers = client.scheduler_info()["workers"].values()
    has_cards = any(worker.get("resources", {}).get("GPU") for worker in workers)
    return {"GPU": 1} if has_cards and device != "cpu" else None


def _answer(future: Any) -> dict[str, Any]:
    """What a task said; one that no worker could do, after all tries, is an error of its slide."""
    try:
        answer: dict[str, Any] = future.result()
        return answer
    except Exception as error:  # KilledWorker, lost connections, faults of the program on a worker
        text = f"No worker could do it ({type(error).__name__}: {' '.join(str(error).split())[:300]}). Run again."
        return {"error": text, "kind": "WorkerDied", "of_one_slide": True}


def _raised(answer: dict[str, Any]) -> PathotuneError:
    cls = getattr(errors, answer["kind"], PathotuneError)
    error: PathotuneError = cls.__new__(cls)
    Exception.__init__(error, answer["error"])
    return error


def _document(batch: Batch, slide: _Slide, answer: dict[str, Any]) -> dict[str, Any]:
    """The contract's document of a slide that has its end."""
    if "error" in answer:
        return failure(batch.planned[slide.store], _raised(answer))
    result: dict[str, Any] = {**answer["result"], "slide": batch.planned[slide.store].called}
    if slide.begun:
        seconds = time.monotonic() - slide.started
        rate = round(slide.begun["tiles"] / seconds, 3)
        # The workers know of their parts alone.
        result |= {"seconds": round(seconds, 3), "tiles_per_second": rate, "model_busy": None}
    return result
