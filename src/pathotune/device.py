"""The processor to compute on, and the number format that is both fast and faithful on it."""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pathotune.errors import UsageError
from pathotune.settings import read_json, settings, write_json

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

DEVICES = ("cuda", "mps", "cpu")
PRECISIONS = ("auto", "float32", "bfloat16")
# bfloat16 has to be this much faster before its rounding is worth having.
WORTHWHILE_SPEEDUP = 1.1
# How far pooled features or probabilities may move, where no backbone's card says otherwise.
DEFAULT_TOLERANCE = 0.03
# In the cache folder: machine → model → how many times as fast bfloat16 is. Named after what is compared: bfloat16.json
# held speeds by the clock on the wall, which a busy minute had made wrong for good.
SPEEDS_FILE = "bfloat16-processor-time.json"
# The speeds are compared on so many samples, in so many pairs of passes or as many as fit into this time.
TIMED_SAMPLES, TIMED_PAIRS, TIMED_S = 2, 7, 0.8


def why_not(name: str) -> str | None:
    """None where a tiny real forward pass works on the device, otherwise the reason in a few words."""
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        return "this torch is built for the CPU only" if torch.version.cuda is None else "no NVIDIA card answers"
    if name == "mps" and not torch.backends.mps.is_available():
        return "there is no Apple graphics processor here"
    try:
        with torch.no_grad():
            images = torch.ones(1, 3, 32, 32, device=name)
            tokens = torch.nn.Conv2d(3, 16, 16, 16).to(name)(images).flatten(2).transpose(1, 2)  # (1, 4, 16)
            result = torch.nn.functional.scaled_dot_product_attention(tokens, tokens, tokens).float().cpu()
    except (RuntimeError, AssertionError) as error:
        return f"a tiny forward pass failed: {str(error).strip().splitlines()[0][:120]}"
    return None if bool(torch.isfinite(result).all()) else "a tiny forward pass gave no finite numbers"


def pick_device(name: str = "auto") -> str:
    """The device to use: the first of cuda, mps and cpu on which a tiny forward pass works.

    Parameters
    ----------
    name : "auto", or a device that is wanted ("cpu", "cuda", "cuda:1", "mps").

    Raises
    ------
    UsageError
        The wanted device does not exist or does not work here; the sentence says why.
    """
    if name != "auto":
        if name.partition(":")[0] not in DEVICES:
            raise UsageError(f"There is no device {name!r}; choose auto, {', '.join(DEVICES)} or cuda:1 and so on.")
        reason = why_not(name)
        if reason is not None:
            raise UsageError(f"The device {name!r} cannot be used: {reason}. Choose auto or cpu.")
        return name
    for candidate in DEVICES:
        reason = why_not(candidate)
        if reason is None:
            return candidate
        log.info("%s is not used: %s", candidate, reason)
    raise UsageError("torch cannot compute on this machine at all, not even on the CPU; install it again.")


@dataclass(frozen=True)
class Precision:
    """A number format and what was measured of it.

    name : "float32" or "bfloat16".
    difference : largest relative difference (L2, per sample) between bfloat16 and float32 on the probe; None where
        it was not measured.
    speedup : time of float32 over time of bfloat16 on the probe; None where it was not measured.
    reason : why this format, as a sentence for people.
    """

    name: str
    difference: float | None = None
    speedup: float | None = None
    reason: str = ""


@contextlib.contextmanager
def number_format(device: str, precision: Precision | str) -> Any:
    """A context in which models compute in that format; weights and results that matter stay float32.

    For float32 it also switches off any autocast around it.
    """
    import torch

    name = precision if isinstance(precision, str) else precision.name
    kind = device.partition(":")[0]
    with torch.autocast(kind, dtype=torch.bfloat16, enabled=name == "bfloat16"):
        yield


def choose_precision(
    forward: Callable[[torch.Tensor], torch.Tensor],
    probe: torch.Tensor,
    device: str,
    wanted: str = "auto",
    tolerance: float = DEFAULT_TOLERANCE,
    what: str = "",
) -> Precision:
    """Try bfloat16 against float32 on a probe batch and take it only where it is faster and agrees.

    Which of the two is faster depends on the machine and on the model, not on the tiles. It is measured once and
    remembered for both: a busy second would otherwise give two slides of one run, or two tunings of one seed, different
    number formats. That they agree is tried every time.

    Parameters
    ----------
    forward : what will be run (for example images → probabilities), float output (batch, ...).
    probe : a small batch of its input, real tiles where there are some.
    device : where `forward` lives.
    wanted : "auto", or a format that is asked for (bfloat16 is then used even where it is slower, not where it fails).
    tolerance : largest relative difference accepted.
    what : what `forward` computes, for example a backbone's name; remembered under it, or not at all without one.

    Raises
    ------
    UsageError
        Unknown format, or bfloat16 asked for where it gives no finite numbers.
    """
    if wanted not in PRECISIONS:
        raise UsageError(f"There is no precision {wanted!r}; choose {', '.join(PRECISIONS)}.")
    if wanted == "float32":
        return Precision("float32", reason="float32 was asked for.")
    measured = _compare(forward, probe, device, what)
    if measured is None:
        if wanted == "bfloat16":
            raise UsageError("bfloat16 gives no finite numbers here; choose float32 or auto.")
        return Precision("float32", reason="bfloat16 does not work here or gives no finite numbers.")
    difference, speedup = measured
    facts = f"bfloat16 is {speedup:.1f} times as fast as float32 here and differs by {100 * difference:.2f} %"
    if wanted == "bfloat16":
        return Precision("bfloat16", difference, speedup, f"bfloat16 was asked for; {facts}.")
    if difference > tolerance:
        return Precision("float32", difference, speedup, f"{facts}, more than the {100 * tolerance:g} % allowed.")
    if speedup < WORTHWHILE_SPEEDUP:
        return Precision("float32", difference, speedup, f"{facts}: not worth it.")
    return Precision("bfloat16", difference, speedup, f"{facts}.")


def _compare(
    forward: Callable[[torch.Tensor], torch.Tensor], probe: torch.Tensor, device: str, what: str
) -> tuple[float, float] | None:
    """(largest relative difference, speed ratio), or None where bfloat16 does not work."""
    import torch

    probe = probe.to(device)
    with torch.inference_mode():
        # These also warm up what is timed below.
        exact, _ = _timed(forward, probe, device, "float32")
        try:
            rounded, _ = _timed(forward, probe, device, "bfloat16")
        except RuntimeError as error:
            log.info("bfloat16 does not work on %s: %s", device, error)
            return None
        if not bool(torch.isfinite(rounded).all()):
            return None
        speedup = _remembered_speedup(what, device)
        if speedup is None:
            speedup = _speedup(forward, probe[:TIMED_SAMPLES], device)
            _remember_speedup(what, device, speedup)
    exact, rounded = exact.flatten(1), rounded.flatten(1)
    lengths = torch.linalg.vector_norm(exact, dim=1).clamp_min(1e-12)
    difference = (torch.linalg.vector_norm(rounded - exact, dim=1) / lengths).max()
    return float(difference), speedup


def _speedup(forward: Callable[[torch.Tensor], torch.Tensor], probe: torch.Tensor, device: str) -> float:
    """How many times as fast bfloat16 is: the two in turns, and of each the quickest pass.

    What else the machine does only ever makes a pass longer, so the quickest is the truest; in turns, a busy second
    hits both. On a CPU the processor's time of a single thread is taken, as the work itself runs a batch per core: on
    a machine that is busy all along no pass is a quick one by the clock, threads that wait for each other count as
    work, and the answer is kept for good.
    """
    started, slow, fast = time.perf_counter(), float("inf"), float("inf")
    with _one_thread(device):
        for _ in range(TIMED_PAIRS):
            slow = min(slow, _timed(forward, probe, device, "float32")[1])
            fast = min(fast, _timed(forward, probe, device, "bfloat16")[1])
            if time.perf_counter() - started > TIMED_S:
                break
    return slow / max(fast, 1e-9)


@contextlib.contextmanager
def _one_thread(device: str) -> Iterator[None]:
    """Inside, a CPU computes with one thread."""
    import torch

    before = torch.get_num_threads()
    try:
        if device == "cpu":
            torch.set_num_threads(1)
        yield
    finally:
        torch.set_num_threads(before)


def _machine(device: str) -> str:
    """What the speed of a number format depends on besides the model; home folders are shared between machines."""
    import torch

    if device.startswith("cuda"):
        processor = torch.cuda.get_device_name(device)
    else:
        processor = platform.processor() or platform.machine()
        with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as lines:
            processor = next((line.partition(":")[2].strip() for line in lines if "model name" in line), processor)
    return f"{processor} × {os.cpu_count()}, torch {torch.__version__}, {torch.get_num_threads()} threads"


def _remembered_speedup(what: str, device: str) -> float | None:
    kept = read_json(settings().cache_dir / SPEEDS_FILE).get(_machine(device)) if what else None
    found = kept.get(what) if isinstance(kept, dict) else None
    return float(found) if isinstance(found, int | float) and found > 0 else None


def _remember_speedup(what: str, device: str, speedup: float) -> None:
    if not what:
        return
    path, machine = settings().cache_dir / SPEEDS_FILE, _machine(device)
    known = read_json(path)
    kept = known.get(machine)
    # A disk that will not costs the time of measuring again.
    with contextlib.suppress(OSError):
        write_json(path, {**known, machine: {**(kept if isinstance(kept, dict) else {}), what: speedup}})


def _timed(
    forward: Callable[[torch.Tensor], torch.Tensor], probe: torch.Tensor, device: str, name: str
) -> tuple[torch.Tensor, float]:
    clock = time.process_time if device == "cpu" else time.perf_counter
    start = clock()
    with number_format(device, name):
        # Copying to the CPU also waits for the device.
        result = forward(probe).float().cpu()
    return result, clock() - start


def peak_memory_mb() -> float:
    """Largest resident memory this process has had so far, in megabytes (10^6 bytes)."""
    if sys.platform == "linux":
        with open("/proc/self/status", encoding="ascii") as stream:
            for line in stream:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024 / 1e6
    import psutil

    memory = psutil.Process().memory_info()
    if sys.platform == "win32":
        return float(memory.peak_wset) / 1e6
    if sys.platform == "darwin":
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return float(memory.rss) / 1e6
