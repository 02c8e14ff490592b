"""A tuned model as a function of tile images, run on several batches at a time where that is faster."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pathotune.device import Precision, number_format

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pathotune.backbones.surface import Backbone

Answer = tuple[NDArray[np.float32], NDArray[np.float16] | None]
_MOST_LANES = 4


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
    sources : the attention maps wanted.
    """

    def __init__(
        self, model: Any, backbone: Backbone, device: str, precision: Precision, sources: tuple[str, ...]
    ) -> None:
        self.model, self.backbone, self.device, self.precision = model, backbone, device, precision
        self._sources = sources

    def __call__(self, images: NDArray[np.uint8]) -> Answer:
        """Probabilities (b, K) float32 and attention (b, S, rows, columns) float16 of tiles (b, h, w, 3)."""
        import torch

        from pathotune.inference.attention import relative_attention

        with torch.inference_mode(), number_format(self.device, self.precision):
            batch = torch.from_numpy(images)
            if self.device.startswith("cuda"):
                batch = batch.pin_memory().to(self.device, non_blocking=True)
            else:
                batch = batch.to(self.device)
            answer = self.model(self.backbone.normalise(batch), attention=bool(self._sources))
            probabilities = answer.logits.float().softmax(dim=1)  # (batch, class)
            attention = relative_attention(answer.attention, self._sources) if self._sources else None
            values = probabilities.cpu().numpy()
            return values, None if attention is None else attention.cpu().numpy()


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

    def __enter__(self) -> Lanes:
        import torch

        self._threads_before = torch.get_num_threads()
        self._pool = ThreadPoolExecutor(
            self.count, "pathotune-model", initializer=torch.set_num_threads, initargs=(self._threads,)
        )
        if self._model.device == "cpu":
            linear = [part for part in self._model.backbone.modules() if isinstance(part, torch.nn.Linear)]
            self._hooks = [part.register_forward_pre_hook(self._look) for part in linear]
        return self

    def __exit__(self, *_: object) -> None:
        import torch

        self._stopped.set()
        self._pool.shutdown(wait=True, cancel_futures=True)
        for hook in self._hooks:
            hook.remove()
        torch.set_num_threads(self._threads_before)

    def _look(self, module: Any, inputs: Any) -> None:
        if self._stopped.is_set() or self._cancel():
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
