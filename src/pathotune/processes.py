"""Which process writes a file, said in the file itself, and whether that process still runs."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# On a shared drive, of a writer on another computer: after so long it has ended.
OTHER_HOST_S = 12 * 3600


def this_process() -> dict[str, Any]:
    """What tells this process from all others, JSON-ready; for the head of a file it writes."""
    import psutil

    process = psutil.Process()
    facts = {"host": socket.gethostname(), "pid": process.pid, "process_start": process.create_time()}
    return facts | _since_boot(process.pid)


def still_runs(facts: Mapping[str, Any], changed: float) -> bool:
    """Whether the process that `this_process` described still runs.

    Parameters
    ----------
    facts : its description, from a file.
    changed : when the file was last written to (seconds since 1970); of a process on another computer nothing else
        can be known.
    """
    import psutil

    if facts.get("host") != socket.gethostname():
        return time.time() - changed < OTHER_HOST_S
    try:
        process = psutil.Process(int(facts.get("pid", -1)))
        return _is_same(process, facts) and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, ValueError, TypeError):
        return False


def _is_same(process: Any, facts: Mapping[str, Any]) -> bool:
    """Whether this process is the described one, and not a later one that was given its number."""
    now = _since_boot(process.pid)
    if now and "boot_id" in facts:
        return all(facts.get(name) == value for name, value in now.items())
    return bool(abs(process.create_time() - float(facts.get("process_start", 0))) < 1.0)


def _since_boot(pid: int) -> dict[str, Any]:
    """Linux: the boot, and how many clock ticks after it a process began; empty elsewhere.

    Linux knows no other time of a process. The date that psutil makes of it changes with every change of the
    computer's clock, and a process would look like another one; other systems keep the date itself.
    """
    with contextlib.suppress(OSError, ValueError, IndexError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        # The name of the program, in brackets, may hold anything; 22nd of all is the start (man 5 proc).
        after_name = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2]
        return {"boot_id": boot, "start_ticks": int(after_name.split()[19])}
    return {}
