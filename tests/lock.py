"""Make requirements-lock.txt again: `tox -e lock`. It names versions and hashes and no place to get them from."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements-lock.txt"
HEAD = """\
# Every package of `pathotune[all,pyqt6,cluster]` and its tests, with versions and hashes, for any system:
#   pip install --require-hashes -r requirements-lock.txt && pip install --no-deps .
# Made again by `tox -e lock`.
"""
WORDS = (
    "--quiet",
    "--universal",
    "--python-version",
    "3.11",
    "--extra",
    "all",
    "--extra",
    "pyqt6",
    "--extra",
    "cluster",
)
WORDS += ("--group", "test", "--generate-hashes", "--no-annotate", "--no-header", "--upgrade")


def main() -> None:
    """Resolve and write."""
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "lock.txt"
        uv = [sys.executable, "-m", "uv", "pip", "compile", "pyproject.toml", *WORDS, "-o", str(made)]
        subprocess.run(uv, check=True, cwd=ROOT)
        text = made.read_text(encoding="utf-8")
    if "://" in text:
        sys.exit("The list names an index of this computer; make it where none is set.")
    LOCK.write_text(HEAD + text, encoding="utf-8")


if __name__ == "__main__":
    main()
