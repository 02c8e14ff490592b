"""A folder of small slides, some of them broken, by a command that is killed twice: is the summary right?

    python benchmarks/many_slides.py
    python benchmarks/many_slides.py --slides 60

`pathotune predict FOLDER --deterministic` is killed (SIGKILL) after a third and after two thirds of the slides and then
run to its end; beside it the same command undisturbed. Of the broken slides a third each is no slide at all, cut off in
the middle, and empty. Compared are the exit codes, what the table says of every slide, and every file of values byte by
byte. The costs per slide are those of the undisturbed run: processor time of the command, and what lies on the disk.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

BROKEN_SHARE = 0.03


def written(out: Path) -> dict[str, bytes]:
    """Every file of values below a results folder."""
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*/c/**/*")) if path.is_file()}


def write_slides(folder: Path, count: int) -> set[str]:
    """So many slides of four to nine tiles; the names of those that are broken."""
    import tifffile

    rng, broken = np.random.default_rng(0), set()
    every = round(1 / BROKEN_SHARE)
    for number in range(count):
        path = folder / f"case-{number // 50:02}" / f"slide-{number:04}.tiff"
        path.parent.mkdir(parents=True, exist_ok=True)
        blocks = rng.integers(6, 9, 2)
        pixels = np.kron(rng.integers(60, 215, (*blocks, 3), dtype=np.uint8), np.ones((80, 80, 1), np.uint8))
        options: dict[str, Any] = {"resolution": (2e4, 2e4), "resolutionunit": "CENTIMETER", "metadata": None}
        tifffile.imwrite(path, pixels, tile=(256, 256), photometric="rgb", **options)
        if number % every == every // 2:
            whole = path.read_bytes()
            path.write_bytes((b"no slide at all", whole[: len(whole) // 2], b"")[len(broken) % 3])
            broken.add(path.name)
    return broken


def command(folder: Path, tuning: Path, out: Path) -> subprocess.Popen[bytes]:
    """The command line of a person."""
    line = [sys.executable, "-c", "from pathotune.cli import main; main()", "predict", str(folder), "--recursive"]
    options = ["--tuning", str(tuning), "--out", str(out), "--device", "cpu", "--deterministic", "--quiet"]
    return subprocess.Popen([*line, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def ended(out: Path) -> int:
    """How many slides have had their end so far."""
    return sum(path.read_text().count('"ended"') for path in (out / ".pathotune").glob("*.jsonl"))


def table(out: Path) -> dict[str, dict[str, str]]:
    """`slides.csv` by the slide's name."""
    with (out / "slides.csv").open() as file:
        return {Path(row["slide"]).name: row for row in csv.DictReader(file)}


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slides", type=int, default=500)
    wanted = parser.parse_args()
    from prediction_speed import random_tuning

    from pathotune.backbones import load_backbone

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tuning = random_tuning("linear_probe", load_backbone("pathotune-tiny"), folder / "tuning").path
        broken = write_slides(folder / "slides", wanted.slides)
        out, whole = folder / "out", folder / "whole"
        reached = []
        for share in (1, 2):
            process = command(folder / "slides", tuning, out)
            while ended(out) < wanted.slides * share / 3 and process.poll() is None:
                time.sleep(0.02)
            process.kill()
            process.wait()
            reached.append(ended(out))
            print(f"killed after {reached[-1]} slides", flush=True)
        code = command(folder / "slides", tuning, out).wait()
        undisturbed = command(folder / "slides", tuning, whole)
        _, status, usage = os.wait4(undisturbed.pid, 0)
        rows, expected = table(out), table(whole)
        failed = {name for name, row in rows.items() if row["status"] == "failed"}
        values = written(out)
        print(f"exit codes: {code} after the kills, {os.waitstatus_to_exitcode(status)} undisturbed")
        print(f"the table: {len(rows)} slides, {dict(Counter(row['status'] for row in rows.values()))}")
        print(f"failed are the {len(broken)} broken ones and no others: {failed == broken}")
        alike = all(rows[name][key] == expected[name][key] for name in expected for key in ("tiles", "error"))
        print(f"tiles and sentences as undisturbed: {alike and set(rows) == set(expected)}")
        print(f"{len(values)} files of values, byte for byte as undisturbed: {values == written(whole)}")
        page = (out / "slides.html").read_text()
        print(f"pictures on the page: {page.count('<img')} of {wanted.slides - len(broken)}")
        good, seconds = wanted.slides - len(broken), usage.ru_utime + usage.ru_stime
        size = sum(path.stat().st_size for path in whole.rglob("*") if path.is_file())
        count = sum(1 for path in whole.rglob("*") if path.is_file())
        tiles = sum(int(row["tiles"] or 0) for row in expected.values())
        print(
            f"a slide costs {1000 * seconds / wanted.slides:.0f} ms of processor time ({tiles / good:.1f} tiles each)"
        )
        print(f"and {size / good / 1000:.0f} kB in {count / good:.1f} files")
        if failed != broken or values != written(whole) or code != 3 or not alike:
            raise SystemExit("not as it should be")


if __name__ == "__main__":
    main()
