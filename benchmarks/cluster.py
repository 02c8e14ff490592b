"""A folder of slides on a cluster of two workers beside one process: tiles per second, the same bytes, and a kill -9.

    python benchmarks/cluster.py

Scheduler and workers run on this computer (`distributed.LocalCluster`), each worker with one core. The same slides are
predicted by one process with one core, by one process with two, by the cluster, and by the cluster with a worker that
is killed in the middle, all with `deterministic`; whatever was written is compared byte by byte. Weights and libraries
are loaded before the clock starts. The ways take turns; rates are medians of the rounds.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
OPTIONS: dict[str, Any] = {"device": "cpu", "deterministic": True, "attention": False}
SPLIT_ABOVE = 300
WAYS = ("one process, one core", "one process, two cores", "cluster of two workers", "cluster, a worker killed")


def write_slides(folder: Path, small: int, seed: int) -> list[Path]:
    """So many slides of about 80 tiles, and a large one that is predicted in parts."""
    import tifffile

    rng, paths = np.random.default_rng(seed), []
    folder.mkdir(exist_ok=True)
    for number in range(small + 1):
        blocks = (60, 60) if number == small else (26, 26)
        pixels = np.kron(rng.integers(60, 215, (*blocks, 3), dtype=np.uint8), np.ones((80, 80, 1), np.uint8))
        paths.append(folder / f"{number:03}.tiff")
        options: dict[str, Any] = {"resolution": (2e4, 2e4), "resolutionunit": "CENTIMETER", "metadata": None}
        tifffile.imwrite(paths[-1], pixels, tile=(256, 256), photometric="rgb", compression="jpeg", **options)
    return paths


def written(out: Path) -> dict[str, bytes]:
    """Every file of values below a results folder."""
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*/c/**/*")) if path.is_file()}


def watched(stream: Iterator[Any], kill: Any = None) -> tuple[list[str], int]:
    """Run to the end: what became of each slide, and how many tiles there were; `kill` is called in the middle."""
    from pathotune.events import Finished, SlideEnd

    ends, tiles = [], 0
    for event in stream:
        if isinstance(event, SlideEnd):
            ends.append(event.result["status"])
            if kill is not None and len(ends) == 2:
                kill()
        if isinstance(event, Finished):
            tiles = sum(row["tiles"] for row in event.result["slides"])
    return ends, tiles


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slides", type=int, default=8, help="small ones, beside a large one")
    parser.add_argument("--rounds", type=int, default=3)
    wanted = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # of the workers
    import distributed
    import torch
    from prediction_speed import random_tuning

    from pathotune.backbones import load_backbone
    from pathotune.execution.batch import Batch, predict_many
    from pathotune.execution.cluster import predict_on_cluster
    from pathotune.inference.inputs import collect_slides, plan_stores
    from pathotune.methods.checkpoint import Tuning

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        backbone = load_backbone("pathotune-tiny")
        tuning = Tuning.load(random_tuning("linear_probe", backbone, folder / "tuning").path)
        write_slides(folder / "slides", wanted.slides, 0)
        write_slides(folder / "warm", 2, 1)

        def batch(slides: str, out: Path) -> Batch:
            planned = plan_stores(collect_slides([folder / slides]), tuning.name, out)
            return Batch(planned, tuning, tuning.path, out, OPTIONS)

        rates: dict[str, list[float]] = {way: [] for way in WAYS}
        first: dict[str, bytes] = {}
        for number in range(wanted.rounds):
            for way in WAYS[number % len(WAYS) :] + WAYS[: number % len(WAYS)]:
                out = folder / "out"
                torch.set_num_threads(2 if way == WAYS[1] else 1)
                if way in WAYS[:2]:
                    watched(predict_many(batch("warm", folder / "warmed")))
                    started = time.perf_counter()
                    ends, tiles = watched(predict_many(batch("slides", out)))
                    seconds = time.perf_counter() - started
                else:
                    with (
                        distributed.LocalCluster(
                            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
                        ) as running,
                        distributed.Client(running, set_as_default=False) as client,
                    ):
                        address = running.scheduler_address
                        watched(predict_on_cluster(batch("warm", folder / "warmed"), address, split_above=SPLIT_ABOVE))
                        pid = next(iter(client.run(os.getpid).values()))
                        kill = None if way == WAYS[2] else (lambda pid=pid: os.kill(pid, signal.SIGKILL))
                        started = time.perf_counter()
                        stream = predict_on_cluster(batch("slides", out), address, split_above=SPLIT_ABOVE)
                        ends, tiles = watched(stream, kill)
                        seconds = time.perf_counter() - started
                values = written(out)
                first = first or values
                if set(ends) != {"done"} or len(ends) != wanted.slides + 1 or values != first:
                    raise SystemExit(f"{way}: {ends}, {'the same' if values == first else 'other'} bytes")
                rates[way].append(tiles / seconds)
                print(f"{way}: {tiles} tiles in {seconds:.1f} s, {len(values)} files, byte for byte", flush=True)
                shutil.rmtree(out)
                shutil.rmtree(folder / "warmed")
    print("| | tiles/s | times one process with one core |")
    print("| --- | --- | --- |")
    for way in WAYS:
        ratio = statistics.median(one / other for one, other in zip(rates[way], rates[WAYS[0]], strict=True))
        print(f"| {way} | {statistics.median(rates[way]):.1f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
