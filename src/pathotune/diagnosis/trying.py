"""Trying something in a process of its own, so that a crash there is an answer and not an end."""

from __future__ import annotations

import os
import subprocess
import sys

from pathotune.diagnosis import Finding

LONGEST_S = 120.0
NO_ANSWER = "no answer within"


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
        return False, f"{NO_ANSWER} {longest_s:.0f} s"
    except OSError as error:
        return False, error.strerror or str(error)
    lines = [
        line.strip() for line in (done.stdout if done.returncode == 0 else done.stderr).splitlines() if line.strip()
    ]
    if done.returncode < 0:
        return False, f"the process was ended by signal {-done.returncode}"
    return done.returncode == 0, (lines[-1] if lines else f"exit code {done.returncode}")[:200]


def not_loaded(name: str, said: str, text: str, fix: str) -> Finding:
    """The trouble that `text` names; what was only slow to answer is not called broken."""
    if said.startswith(NO_ANSWER):
        later = "The computer is busy, or slow the first time after an installation: run pathotune doctor again later."
        return Finding(name, "note", f"not known: {said}", later)
    return Finding(name, "trouble", text, fix)
