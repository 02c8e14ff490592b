"""The whole way of a place without internet, on one computer: make the folder, take the network away, install, demo.

    python benchmarks/offline_install.py --folder FOLDER --to SCRATCH [--source WHEEL] [--log FILE]

FOLDER is made with `pathotune bundle offline` where it does not exist yet (connected). The rest runs in a network
namespace without any connection (`unshare --net`, Linux), with HOME and every cache in the empty folder SCRATCH. The
log has the commands and what they printed, with SCRATCH and FOLDER named so.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

NO_WAY = "import socket; socket.create_connection(('1.1.1.1', 443), timeout=5)"


def told(line: str, names: dict[str, str]) -> str:
    """A line without the places of this computer."""
    for place, name in names.items():
        line = line.replace(place, name)
    return re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", line)


def main() -> int:
    """Run the steps one after the other; the exit code of the first that fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="the offline folder; made where it is absent")
    parser.add_argument("--to", type=Path, required=True, help="an empty or new folder for HOME and the installation")
    parser.add_argument("--source", type=Path, help="pathotune's wheel or sources, for making the folder")
    parser.add_argument("--log", type=Path, help="write the log there, too")
    chosen = parser.parse_args()
    folder, scratch = chosen.folder.absolute(), chosen.to.absolute()
    program = scratch / "pathotune" / "bin" / "pathotune"
    lines: list[str] = []

    def step(command: list[str | Path], environment: dict[str, str], expected: int | None = 0) -> int:
        names = {str(folder): "FOLDER", str(scratch): "SCRATCH", sys.executable: "python"}
        lines.append("\n$ " + told(shlex.join(map(str, command)), names))
        print(lines[-1], flush=True)
        started = time.monotonic()
        running = subprocess.Popen(
            list(map(str, command)),
            env=environment,
            cwd=scratch,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for line in running.stdout or ():
            lines.append(told(line.rstrip(), names))
            print(lines[-1], flush=True)
        code = running.wait()
        lines.append(f"-> exit code {code} after {time.monotonic() - started:.0f} s")
        print(lines[-1], flush=True)
        if chosen.log:
            chosen.log.write_text("\n".join(lines).lstrip() + "\n", encoding="utf-8")
        if expected is not None and code != expected:
            raise SystemExit(f"The step ended with {code}, not {expected}.")
        return code

    scratch.mkdir(parents=True, exist_ok=True)
    if not folder.exists():
        words: list[str | Path] = [sys.executable, "-m", "pathotune", "bundle", "offline", "--out", folder]
        step([*words, *(["--source", chosen.source.absolute()] if chosen.source else [])], dict(os.environ))
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "LANG", "LC_ALL")}
    bare = {**kept, "HOME": str(scratch), "PYTHONUTF8": "1"}
    cut_off: list[str | Path] = ["unshare", "--user", "--map-root-user", "--net"]
    step([*cut_off, sys.executable, "-c", NO_WAY], bare, expected=1)
    doctor = step([*cut_off, "sh", folder / "install.sh", "--to", scratch / "pathotune"], bare, expected=None)
    if doctor not in (0, 1) or not program.exists():
        return doctor or 1
    step([*cut_off, program, "view", "--shortcut"], bare)
    step([*cut_off, program, "demo", "--no-show", "--out", scratch / "demo"], bare)
    return doctor


if __name__ == "__main__":
    sys.exit(main())
