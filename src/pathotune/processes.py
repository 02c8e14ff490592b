"""Which process writes a file, said in the file itself, and whether that process still runs."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from typing import Any

# On a shared drive, of a writer on another computer: after so long it has ended.
OTHER_HOST_S = 12 * 3600


def this_process() -> dict[str, Any]:
    """What tells this process from all others, JSON-ready; for the head of a file it writes."""
    import psutil

    return {"host": socket.gethostname(), "pid": os.getpid(), "process_start": psutil.Process().create_time()}


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
        started: float = process.create_time()
        is_same = abs(started - float(facts.get("process_start", 0))) < 1.0
        return is_same and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, ValueError, TypeError):
        return False
