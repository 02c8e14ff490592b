"""Kill -9 in mid-run: the store is readable, a second run completes it, and the result is an uninterrupted one's."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pathotune.events import Failed, Finished, ShardDone
from pathotune.execution.client import WorkerClient
from pathotune.execution.job import Job
from pathotune.inference.predictions import PredictionStore, read_attributes

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL and SIGINT as here are POSIX signals"),
]
BATCH = 2


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A slide, a tuning of the built-in backbone, and the store of an uninterrupted run."""
    import tifffile
    import torch

    from pathotune.backbones import load_backbone
    from pathotune.methods import METHODS, load_config
    from pathotune.methods.checkpoint import Tuning
    from pathotune.methods.options import as_plain

    folder = tmp_path_factory.mktemp("kill")
    rng = np.random.default_rng(0)
    coarse = rng.integers(60, 215, (16, 28, 3), dtype=np.uint8)
    pixels = np.kron(coarse, np.ones((80, 80, 1), np.uint8))
    with tifffile.TiffWriter(folder / "slide.tiff") as tiff:
        tiff.write(
            pixels,
            tile=(256, 256),
            photometric="rgb",
            resolution=(2e4, 2e4),
            resolutionunit="CENTIMETER",
            metadata=None,
        )
    torch.manual_seed(0)
    backbone = load_backbone("pathotune-tiny")
    config = load_config("linear_probe")
    model = METHODS.load("linear_probe")(config, backbone, ["a", "b", "c"], None)
    torch.nn.init.normal_(model.head.linear.weight, std=0.3)
    card = backbone.card
    facts = {"name": card.name, "sha256": backbone.weights_sha256, "embed_dim": card.embed_dim, "mpp": card.mpp}
    tuning = Tuning(
        method="linear_probe",
        config=as_plain(config),
        task={},
        classes=[{"name": name, "color": [200, 10 * index, 0]} for index, name in enumerate("abc")],
        backbone=facts,
        reading=card.reading(),
        tensors={f"trained.{name}": value for name, value in model.trainable_state().items()},
    )
    tuning_path = tuning.save(folder / "tuning")
    done = command(folder / "slide.tiff", tuning_path, folder / "whole")
    output, _ = done.communicate(timeout=300)
    assert done.returncode == 0
    return folder / "slide.tiff", tuning_path, Path(json.loads(output)["store"])


def arguments(slide: Path, tuning: Path, out: Path) -> dict[str, Any]:
    return {
        "slide": str(slide),
        "tuning": str(tuning),
        "out": str(out),
        "device": "cpu",
        "deterministic": False,
        "precision": "float32",
        "stride_px": 112,
        "batch_size": BATCH,
    }


def command(slide: Path, tuning: Path, out: Path) -> subprocess.Popen[str]:
    options = ["--device", "cpu", "--precision", "float32", "--stride", "112", "--batch-size", str(BATCH), "--json"]
    line = [sys.executable, "-m", "pathotune.cli", "predict", str(slide)]
    line = [sys.executable, "-c", "from pathotune.cli import main; main()", *line[3:]]
    return subprocess.Popen(
        [*line, "--tuning", str(tuning), "--out", str(out), *options], stdout=subprocess.PIPE, text=True
    )


def wait_for_part(out: Path, seconds: float = 240) -> Path:
    """Until a store below `out` holds something but not everything."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for store in out.glob("*.zarr"):
            if read_attributes(store).get("tiles_done"):
                return store
        time.sleep(0.01)
    raise AssertionError("nothing was written")


def check_half(store: Path, whole: Path) -> None:
    """A half-done store opens, and what it has is right."""
    half, expected = PredictionStore.open(store), PredictionStore.open(whole)
    labels = half.labels[:]
    assert not half.is_complete and 0 < (labels > 0).sum() < (expected.labels[:] > 0).sum()
    there = labels > 0
    np.testing.assert_allclose(half.probabilities[:][:, there], expected.probabilities[:][:, there], atol=1e-4)
    assert half.attention is not None and np.isfinite(half.attention[:]).all()


def check_same(store: Path, whole: Path) -> None:
    found, expected = PredictionStore.open(store), PredictionStore.open(whole)
    assert found.is_complete
    for kind in expected.kinds:
        for one, other in zip(found.pyramid(kind), expected.pyramid(kind), strict=True):
            np.testing.assert_allclose(one[:].astype(float), other[:].astype(float), atol=2e-3)


def test_kill_9_of_the_command_line(work: tuple[Path, Path, Path], tmp_path: Path) -> None:
    slide, tuning, whole = work
    process = command(slide, tuning, tmp_path)
    store = wait_for_part(tmp_path)
    process.kill()
    process.communicate()
    check_half(store, whole)
    again = command(slide, tuning, tmp_path)
    output, _ = again.communicate(timeout=300)
    result = json.loads(output)
    assert again.returncode == 0 and result["status"] == "resumed"
    check_same(store, whole)


def test_interrupt_of_the_command_line(work: tuple[Path, Path, Path], tmp_path: Path) -> None:
    slide, tuning, whole = work
    process = command(slide, tuning, tmp_path)
    store = wait_for_part(tmp_path)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and json.loads(output)["status"] == "cancelled"
    check_half(store, whole)


def test_kill_9_of_the_worker(work: tuple[Path, Path, Path], tmp_path: Path) -> None:
    slide, tuning, whole = work
    job = Job("predict", arguments(slide, tuning, tmp_path))

    def until(kinds: Any) -> Any:
        end = time.monotonic() + 240
        while time.monotonic() < end:
            for event in client.poll():
                if isinstance(event, kinds):
                    return event
            time.sleep(0.01)
        raise AssertionError("no such event")

    with WorkerClient() as client:
        client.submit(job)
        part = until(ShardDone | Finished | Failed)
        assert isinstance(part, ShardDone) and client.pid is not None
        os.kill(client.pid, signal.SIGKILL)
        assert until(Failed).kind == "WorkerDied"
        check_half(Path(part.store), whole)
        client.submit(job)
        end = until(Finished | Failed)
        assert isinstance(end, Finished) and end.result["status"] == "resumed"
    check_same(Path(part.store), whole)


# ---- many slides ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six small slides and one that is none."""
    import tifffile

    folder = tmp_path_factory.mktemp("many")
    rng = np.random.default_rng(1)
    for number in range(6):
        pixels = np.kron(rng.integers(60, 215, (6, 9, 3), dtype=np.uint8), np.ones((80, 80, 1), np.uint8))
        options = {"resolution": (2e4, 2e4), "resolutionunit": "CENTIMETER", "metadata": None}
        tifffile.imwrite(folder / f"{number}.tiff", pixels, tile=(256, 256), photometric="rgb", **options)
    (folder / "3-broken.svs").write_bytes(b"no slide")
    return folder


def many(folder: Path, tuning: Path, out: Path) -> subprocess.Popen[str]:
    line = [sys.executable, "-c", "from pathotune.cli import main; main()", "predict", str(folder), "--json"]
    options = ["--device", "cpu", "--deterministic", "--stride", "112", "--batch-size", str(BATCH)]
    return subprocess.Popen(
        [*line, "--tuning", str(tuning), "--out", str(out), *options], stdout=subprocess.PIPE, text=True
    )


def values(out: Path) -> dict[str, bytes]:
    """The bytes of every file of values below a results folder."""
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*/c/**/*")) if path.is_file()}


def ended(out: Path) -> int:
    return sum(path.read_text().count('"ended"') for path in (out / ".pathotune").glob("*.jsonl"))


def test_a_run_over_many_slides_killed_twice(work: tuple[Path, Path, Path], folder: Path, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    undisturbed = many(folder, work[1], whole)
    rows = json.loads(undisturbed.communicate(timeout=300)[0])
    assert undisturbed.returncode == 3 and [row["status"] for row in rows].count("done") == 6
    for share in (1, 3):
        process = many(folder, work[1], out)
        end = time.monotonic() + 240
        while ended(out) < share and time.monotonic() < end and process.poll() is None:
            time.sleep(0.01)
        process.kill()
        process.communicate()
    last = many(folder, work[1], out)
    rows = json.loads(last.communicate(timeout=300)[0])
    assert last.returncode == 3
    assert [row["status"] for row in rows if row["slide"].endswith("svs")] == ["failed"]
    assert {row["status"] for row in rows if row["slide"].endswith("tiff")} <= {"done", "resumed"}
    with (out / "slides.csv").open() as file:
        table = {Path(row["slide"]).name: row for row in csv.DictReader(file)}
    assert len(table) == 7 and table["3-broken.svs"]["status"] == "failed"
    assert all(int(row["tiles"]) > 0 for name, row in table.items() if name.endswith("tiff"))
    assert values(out) == values(whole), "byte for byte"


def test_two_commands_share_a_folder_and_one_dies(work: tuple[Path, Path, Path], folder: Path, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    many(folder, work[1], whole).communicate(timeout=300)
    one, other = many(folder, work[1], out), many(folder, work[1], out)
    end = time.monotonic() + 240
    while ended(out) < 2 and time.monotonic() < end:
        time.sleep(0.01)
    one.kill()
    one.communicate()
    rows = json.loads(other.communicate(timeout=300)[0])
    assert other.returncode == 3 and [row["status"] for row in rows].count("failed") == 1 and len(rows) == 7
    assert values(out) == values(whole), "byte for byte"
    assert not list(out.rglob(".leases"))


def test_the_workers_of_a_cluster_are_killed_in_the_middle(
    work: tuple[Path, Path, Path], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    distributed = pytest.importorskip("distributed", reason="the extra `cluster` is not installed")
    from pathotune.events import SlideEnd, Step
    from pathotune.execution.batch import Batch, predict_many
    from pathotune.execution.cluster import predict_on_cluster
    from pathotune.inference.inputs import SlideInput, collect_slides, plan_stores
    from pathotune.methods.checkpoint import Tuning

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    tuning = Tuning.load(work[1])
    options = {"device": "cpu", "deterministic": True, "stride_px": 112, "batch_size": BATCH, "attention": False}
    slides = [SlideInput(work[0]), *collect_slides([folder])[:1]]

    def batch(out: Path) -> Batch:
        return Batch(plan_stores(slides, tuning.name, out), tuning, work[1], out, options)

    list(predict_many(batch(tmp_path / "whole")))
    killed: list[int] = []
    ends: list[str] = []
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as running,
        distributed.Client(running, set_as_default=False) as client,
    ):
        for event in predict_on_cluster(batch(tmp_path / "out"), running.scheduler_address, split_above=100):
            if isinstance(event, Step) and not killed:
                killed = list(client.run(os.getpid).values())
                for pid in killed:
                    os.kill(pid, signal.SIGKILL)
            if isinstance(event, SlideEnd):
                ends.append(event.result["status"])
    assert len(killed) == 2 and ends.count("done") == 2
    assert values(tmp_path / "out") == values(tmp_path / "whole"), "byte for byte"
