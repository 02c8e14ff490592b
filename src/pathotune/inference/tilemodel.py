"""A tuned model as a function of tile images, run on several batches at a time where that is faster."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pathotune.device import Precision, number_format
from pathotune.inference.cells import uncertainty_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import torch

    from pathotune.backbones.surface import Backbone
    from pathotune.methods.checkpoint import Tuning

_MOST_LANES = 4
_LARGEST = 65504.0  # of float16


class Answer(NamedTuple):
    """What is kept of some tiles; None what is not wanted.

    probabilities : (b, K).
    attention : (b, S, patch rows, patch columns).
    reliability : (b, M).
    features : (b, D).
    """

    probabilities: NDArray[np.float32]
    attention: NDArray[np.float16] | None = None
    reliability: NDArray[np.float16] | None = None
    features: NDArray[np.float16] | None = None


@dataclass(frozen=True)
class Kept:
    """What a store keeps of each tile beside its probabilities.

    sources : names of the attention maps.
    reliability : of "uncertainty" and "distance".
    features : width of the features, 0 where they are not kept.
    """

    sources: tuple[str, ...] = ()
    reliability: tuple[str, ...] = ()
    features: int = 0


def reliability_of(tuning: Tuning) -> tuple[str, ...]:
    """What can be said of how far this tuning's predictions can be trusted; older tunings know no distance."""
    from pathotune.training.distance import FeatureSpace

    return ("uncertainty",) if FeatureSpace.of(tuning) is None else ("uncertainty", "distance")


class StoppedInside(Exception):
    """Raised in the middle of a forward pass that nobody wants any more."""


class TileModel:
    """A tuned model as a function of tile images.

    Parameters
    ----------
    model : what `methods.build_model` gave.
    backbone : its backbone.
    device : where both are.
    precision : the number format.
    kept : what is wanted beside the probabilities.
    tuning : with its statistics, where a distance is wanted.
    """

    def __init__(
        self, model: Any, backbone: Backbone, device: str, precision: Precision, kept: Kept, tuning: Tuning
    ) -> None:
        self.model, self.backbone, self.device, self.precision = model, backbone, device, precision
        self._kept, self._space = kept, None
        if "distance" in kept.reliability:
            from pathotune.training.distance import FeatureSpace

            self._space = FeatureSpace.of(tuning)

    def __call__(self, images: NDArray[np.uint8]) -> Answer:
        """What is kept of tiles (b, h, w, 3)."""
        import torch

        from pathotune.inference.attention import relative_attention

        with torch.inference_mode(), number_format(self.device, self.precision):
            batch = torch.from_numpy(images)
            if self.device.startswith("cuda"):
                batch = batch.pin_memory().to(self.device, non_blocking=True)
            else:
                batch = batch.to(self.device)
            sources = self._kept.sources
            answer = self.model(self.backbone.normalise(batch), attention=bool(sources))
            probabilities = answer.logits.float().softmax(dim=1).cpu().numpy()  # (batch, class)
            attention = relative_attention(answer.attention, sources).cpu().numpy() if sources else None
            reliability = self._reliability(probabilities, answer.features) if self._kept.reliability else None
            features = None
            if self._kept.features:
                features = answer.features.clamp(-_LARGEST, _LARGEST).half().cpu().numpy()
            return Answer(probabilities, attention, reliability, features)

    def _reliability(self, probabilities: NDArray[np.float32], features: torch.Tensor) -> NDArray[np.float16]:
        """(b, M) as `Kept.reliability` names it."""
        values = [uncertainty_of(probabilities.T)]
        if self._space is not None:
            values.append(self._space.distance(features.float().cpu().numpy()))
        return np.stack(values, axis=1).clip(0, _LARGEST).astype(np.float16)


class Lanes:
    """Threads that run the model, each on a batch of its own.

    On a CPU one batch on all cores spends much time where cores wait for each other at the end of every layer, the more
    so while other programs and the decoding of tiles take turns on them. A batch per core needs none of that.

    Use it as a context manager; leaving it stops what runs, within one layer of the backbone.

    Parameters
    ----------
    model : what is run.
    cancel : asked between the layers; true ends a pass with `StoppedInside`.
    """

    def __init__(self, model: TileModel, cancel: Callable[[], bool]) -> None:
        self._model, self._cancel = model, cancel
        self.precision = model.precision
        self.count, self._threads = lanes_of(model.device)
        self._stopped = threading.Event()
        self._hooks: list[Any] = []
        self._own: set[int] = set()

    def __enter__(self) -> Lanes:
        import torch

        self._threads_before = torch.get_num_threads()
        self._pool = ThreadPoolExecutor(self.count, "pathotune-model", initializer=self._begin)
        if self._model.device == "cpu":
            # Of the model, not of the backbone: some methods run a changed copy of it.
            linear = [part for part in self._model.model.modules() if isinstance(part, torch.nn.Linear)]
            self._hooks = [part.register_forward_pre_hook(self._look) for part in linear]
        return self

    def __exit__(self, *_: object) -> None:
        import torch

        self._stopped.set()
        self._pool.shutdown(wait=True, cancel_futures=True)
        for hook in self._hooks:
            hook.remove()
        torch.set_num_threads(self._threads_before)

    def _begin(self) -> None:
        """In each thread, before its first batch."""
        import torch

        torch.set_num_threads(self._threads)
        self._own.add(threading.get_ident())

    def _look(self, module: Any, inputs: Any) -> None:
        # The model may run for others at the same time, whom the end of this run does not concern.
        if threading.get_ident() in self._own and (self._stopped.is_set() or self._cancel()):
            raise StoppedInside

    def submit(self, images: NDArray[np.uint8]) -> Future[Answer]:
        """Hand over a batch."""
        return self._pool.submit(self._model, images)

    def alone(self, images: NDArray[np.uint8], others: Iterable[Future[Answer]]) -> Answer:
        """Run a batch while no other runs, which needs the least memory."""
        wait(others)
        return self.submit(images).result()


def lanes_of(device: str) -> tuple[int, int]:
    """How many batches run at a time on a device, and with how many threads each."""
    import torch

    threads = torch.get_num_threads()
    if device != "cpu":
        return 1, threads
    lanes = min(_MOST_LANES, threads)
    return lanes, max(1, threads // lanes)


def default_batch_size(device: str) -> int:
    """Tiles per forward pass: many on a graphics card, few on a CPU, where more only cost memory."""
    return 128 if device.startswith("cuda") else 16


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out; torch has several ways to say so."""
    import torch

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(
        words in text for words in ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate")
    )


def free_memory(device: str) -> None:
    """Give back what the device's allocator keeps."""
    import torch

    if device.startswith("cuda"):
        torch.cuda.empty_cache()
    elif device == "mps":
        torch.mps.empty_cache()
