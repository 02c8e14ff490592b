"""Trying something in a process of its own, so that a crash there is an answer and not an end."""

from __future__ import annotations

import os
import subprocess
import sys

LONGEST_S = 120.0


def tried_apart(code: str, *, longest_s: float = LONGEST_S) -> tuple[bool, str]:
    """Run a line of Python; whether it worked, and what it printed last, or the last line of its error."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=longest_s,
            env={**os.environ, "PYTHONWARNINGS": "ignore"},
        )
    except subprocess.TimeoutExpired:
        return False, f"no answer within {longest_s:.0f} s"
    except OSError as error:
        return False, error.strerror or str(error)
    lines = [
        line.strip() for line in (done.stdout if done.returncode == 0 else done.stderr).splitlines() if line.strip()
    ]
    if done.returncode < 0:
        return False, f"the process was ended by signal {-done.returncode}"
    return done.returncode == 0, (lines[-1] if lines else f"exit code {done.returncode}")[:200]
