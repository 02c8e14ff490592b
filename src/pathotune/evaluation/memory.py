"""The largest memory that a piece of work takes, where the machine can tell it apart from what was before."""

from __future__ import annotations

import sys
from types import TracebackType

from pathotune.device import peak_memory_mb

# Written there, Linux forgets the largest memory a process has had.
FORGET = ("/proc/self/clear_refs", "5")


class PeakMemory:
    """Measures a block: ``with PeakMemory(device) as memory: …`` and then `megabytes` (10^6 bytes).

    On a GPU the largest memory torch had there; else that of the whole program while the block ran. Where a system does
    not forget (macOS, Windows) it is the largest so far, so that only the first block says its own.

    Parameters
    ----------
    device : where the work is done.
    """

    def __init__(self, device: str) -> None:
        self.device, self.megabytes = device, 0.0

    def __enter__(self) -> PeakMemory:
        if self.device.startswith("cuda"):
            import torch

            torch.cuda.reset_peak_memory_stats(self.device)
        elif sys.platform == "linux":
            try:
                with open(FORGET[0], "w", encoding="ascii") as stream:
                    stream.write(FORGET[1])
            except OSError:  # a container may forbid it; then it is the largest so far
                return self
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.device.startswith("cuda"):
            import torch

            self.megabytes = torch.cuda.max_memory_allocated(self.device) / 1e6
        else:
            self.megabytes = peak_memory_mb()
