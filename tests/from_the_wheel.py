"""Wheel and sdist built and checked, then the demo from the wheel alone: `tox -e package` or this file.

    python tests/from_the_wheel.py [--no-demo] [--into FOLDER]

Needs `build` and `twine` (tox brings them) and the package index. The wheel is installed into a new environment outside
the checkout, so nothing of the checkout can help it; the report of the demo is looked at for what it must hold.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NEEDED = (
    "pathotune/__main__.py",
    "pathotune/py.typed",
    "napari_pathotune/napari.yaml",
    "pathotune/_resources/offline/install.sh",
    "pathotune/_resources/icons/pathotune.svg",
)


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    """Run a step, show it, and hand on what it printed."""
    print("$", *command, flush=True)
    bare = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run([str(word) for word in command], cwd=cwd, env=bare, stdout=subprocess.PIPE, text=True)
    print(done.stdout[-2000:], flush=True)
    if done.returncode:
        sys.exit(f"The step ended with {done.returncode}.")
    return done.stdout


def main() -> None:
    """Build, check, install, run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-demo", action="store_true", help="end after building and checking")
    parser.add_argument("--into", type=Path, help="a folder for environment and demo; else one that goes afterwards")
    chosen = parser.parse_args()
    for old in (ROOT / "dist").glob("pathotune-*"):
        old.unlink()
    run(sys.executable, "-m", "build", "--outdir", ROOT / "dist", ROOT)
    files = sorted((ROOT / "dist").glob("pathotune-*"))
    run(sys.executable, "-m", "twine", "check", "--strict", *files)
    wheel = next(file for file in files if file.suffix == ".whl")
    with zipfile.ZipFile(wheel) as archive:
        missing = set(NEEDED) - set(archive.namelist())
    if missing:
        sys.exit(f"The wheel lacks {', '.join(sorted(missing))}.")
    if chosen.no_demo:
        return
    with tempfile.TemporaryDirectory() as folder:
        work = (chosen.into or Path(folder)).absolute()
        work.mkdir(parents=True, exist_ok=True)
        venv.create(work / "empty", with_pip=True)
        programs = work / "empty" / ("Scripts" if os.name == "nt" else "bin")
        run(programs / "python", "-m", "pip", "install", "--quiet", f"{wheel}[text]", cwd=work)
        run(programs / "pathotune", "--version", cwd=work)
        result = json.loads(
            run(programs / "pathotune", "demo", "--no-show", "--json", "--out", work / "demo", cwd=work)
        )
        page = (work / "demo" / "report.html").read_text(encoding="utf-8")
        if f"{result['balanced_accuracy']:.3f}" not in page or "research use only" not in page.lower():
            sys.exit("The demo's report does not hold what it should.")
        print(f"The demo from the wheel alone: balanced accuracy {result['balanced_accuracy']:.3f}.")


if __name__ == "__main__":
    main()
