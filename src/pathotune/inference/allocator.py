"""Keep freed memory in the process, so that every batch does not pay the system for the same pages again."""

from __future__ import annotations

import ctypes
import os
import sys

KEPT_BYTES = 4 * 2**30 - 1

# For a process that is about to start; glibc reads them, other systems do not know the names.
ENVIRONMENT = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(KEPT_BYTES)}

# Parameters of glibc's mallopt.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4


def keep_memory() -> bool:
    """Tell this process's allocator to keep what it has; True where it could be told (glibc only).

    glibc maps every large block afresh and gives it back on release. A forward pass makes hundreds of them, and the
    system clears each page of each again.
    """
    if sys.platform != "linux" or os.environ.get("MALLOC_MMAP_MAX_"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, 2**31 - 1))
