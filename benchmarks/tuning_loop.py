"""Seconds from Tune to the predicted view, their parts, and how they compare with the bare passes they need.

    python benchmarks/tuning_loop.py
    python benchmarks/tuning_loop.py --seeds 3 --skip-full-depth --set vrm_width=32

On a generated slide: labelled tiles of some classes in one half, a view in the other half of which no tile was decoded
before. The backbone is loaded when the clock starts, as in the viewer's worker; everything else is in it: laying and
decoding tiles, sentences, the choice of the number format, training, saving, and the prediction of the view into a
store with its attention maps. "Bare" are the forward and backward passes that this very run needed, on tensors that are
already there, in the same number format and batch sizes with torch's own threads, timed before and after. Beside it the
same with prompts at full depth, trained to early stopping.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import shapely
import torch
from torch.nn import functional

from pathotune.backbones import load_backbone
from pathotune.backbones.surface import Backbone
from pathotune.demo.run import true_classes
from pathotune.device import number_format, pick_device
from pathotune.events import EpochEnd, Finished, Step, result_of
from pathotune.inference.allocator import keep_memory
from pathotune.inference.predict import predict_slide
from pathotune.inference.predictions import PredictionStore
from pathotune.methods import METHODS, load_config
from pathotune.methods.base import trained_parameters
from pathotune.methods.checkpoint import Tuning
from pathotune.methods.options import options_of, parse_settings, with_settings
from pathotune.regions import Region, Regions
from pathotune.slides import open_slide
from pathotune.slides.synthetic import CLASSES, SyntheticSlide
from pathotune.tiles import TileSet, tile_grid, tissue_mask
from pathotune.training.examples import TuneSource
from pathotune.training.loop import tune
from pathotune.training.prefix import forget_prefixes
from pathotune.training.schedule import TrainingConfig

MPP = 0.5
PREDICTION_BATCH = 16
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Scene:
    """A slide, what is drawn on it, and the view.

    view : (x, y, width, height) in level-0 pixels. labels, rows, columns : truth of the view's tiles in the store.
    """

    path: Path
    regions: Regions
    names: tuple[str, ...]
    view: Box
    labels: np.ndarray
    rows: np.ndarray
    columns: np.ndarray
    tissue: int


@dataclass
class Timed:
    """One run from Tune to the predicted view, in seconds."""

    parts: dict[str, float]
    tuned: dict[str, Any]
    predicted: dict[str, Any]
    accuracy: float

    @property
    def total(self) -> float:
        return sum(self.parts.values())


def scene(folder: Path, seed: int, classes: int, per_class: int, view_tiles: int, backbone: Backbone) -> Scene:
    """Draw a slide, pick tiles of the commonest classes in its left half, and a view in its right half."""
    reading = backbone.card.reading()
    side = reading.tile_um / MPP
    height = max(8, int(np.ceil(np.sqrt(view_tiles * 1.6)))) * side
    slide = SyntheticSlide(int(3 * height), int(height), MPP, seed, margin=0.02, pen=False)
    path = slide.write(folder / f"slide-{seed}.tiff")
    with open_slide(path) as opened:
        tissue = tissue_mask(opened)
        tiles = tile_grid(opened, reading, tissue=tissue)
    every = tuple(tissue_class.name for tissue_class in CLASSES)
    truth = true_classes(slide, tiles, every)
    left = tiles.centres_px0()[:, 0] < 1.6 * height
    counts = {name: int(((truth == index) & left).sum()) for index, name in enumerate(every)}
    names = tuple(sorted(sorted(counts, key=lambda name: -counts[name])[:classes]))
    random = np.random.default_rng(seed)
    regions: list[Region] = []
    for name in names:
        here = np.flatnonzero((truth == every.index(name)) & left)
        for tile in random.permutation(here)[:per_class].tolist():
            x, y = float(tiles.x_px0[tile]), float(tiles.y_px0[tile])
            # A little smaller than a tile: it gives that one tile.
            regions.append(Region(shapely.box(x + 2, y + 2, x + side - 2, y + side - 2), name))
    view = _view(tiles, (1.75 * height, 0.0, 1.25 * height, height), view_tiles, side)
    seen = _in(tiles, view)
    known = np.asarray([names.index(every[index]) if every[index] in names else -1 for index in truth])
    judged = seen & (truth >= 0) & (known >= 0)
    return Scene(
        path,
        Regions(regions, "generated"),
        names,
        view,
        known[judged],
        np.asarray(tiles.row)[judged],
        np.asarray(tiles.column)[judged],
        int(seen.sum()),
    )


def _view(tiles: TileSet, most: Box, wanted: int, side: float) -> Box:
    """The left part of a box, wide enough for that many tiles."""
    x = np.sort(tiles.centres_px0()[_in(tiles, most), 0])
    width = x[min(wanted, len(x)) - 1] + side / 2 - most[0]
    return most[0], most[1], float(min(width, most[2])), most[3]


def _in(tiles: TileSet, view: Box) -> np.ndarray:
    x, y = tiles.centres_px0().T
    inside = (x >= view[0]) & (x < view[0] + view[2]) & (y >= view[1]) & (y < view[1] + view[3])
    return np.asarray(inside)


def timed_run(drawn: Scene, backbone: Backbone, method: str, config: Any, training: TrainingConfig, out: Path) -> Timed:
    """Tune and predict the view, as the viewer's two jobs do one after the other."""
    forget_prefixes()
    began, parts, tuned = time.perf_counter(), {}, {}
    source = TuneSource(drawn.path, regions=drawn.regions)
    for event in tune([source], method, config, backbone, training, None, out / "t", class_names=drawn.names):
        now = time.perf_counter() - began
        if isinstance(event, Step) and not event.phase.startswith("epoch"):
            parts[event.phase] = now
        elif isinstance(event, Step | EpochEnd):
            parts["training"] = now
        elif isinstance(event, Finished):
            parts["saving"], tuned = now, event.result
    ends = list(parts.items())
    spent = {name: end - before for (name, end), (_, before) in zip(ends, [("", 0.0), *ends], strict=False)}
    began = time.perf_counter()
    tuning = Tuning.load(tuned["out"])
    predicted = result_of(
        predict_slide(
            drawn.path, tuning, out, backbone=backbone, box_px0=drawn.view, resume=False, device=training.device
        )
    )
    spent["predicting the view"] = time.perf_counter() - began
    probabilities = np.moveaxis(np.asarray(PredictionStore.open(predicted["store"]).probabilities[:]), 0, -1)
    found = probabilities[drawn.rows, drawn.columns].argmax(axis=1)
    recalls = [float((found[drawn.labels == index] == index).mean()) for index in np.unique(drawn.labels)]
    return Timed(spent, tuned, predicted, float(np.mean(recalls)))


def bare_seconds(run: Timed, drawn: Scene, backbone: Backbone, training: TrainingConfig) -> dict[str, float]:
    """What the passes of a run cost by themselves, per kind."""
    tuned, tuning = run.tuned, Tuning.load(run.tuned["out"])
    config = load_config(tuning.method, tuning.config)
    model = METHODS.load(tuning.method)(config, backbone, drawn.names, tuning.text_vectors)
    model.load_trainable_state(tuning.trained)
    side = backbone.card.reading().image_px
    batch = training.batch_size
    images = torch.randint(0, 256, (batch, side, side, 3), dtype=torch.uint8)
    labels = torch.arange(batch) % len(drawn.names)
    device = tuned["device"]
    model.to(device)
    pixels, labels = backbone.normalise(images.to(device)), labels.to(device)
    with number_format(device, tuned["precision"]):
        with torch.no_grad():
            kept = model.lower(pixels).clone()

        def lower() -> None:
            with torch.no_grad():
                model.lower(pixels)

        def judge() -> None:
            with torch.no_grad():
                model.upper(kept, pixels)

        def learn() -> None:
            loss = functional.cross_entropy(model.upper(kept, pixels).logits, labels)
            torch.autograd.grad(loss, list(trained_parameters(model).values()))

        def predict() -> None:
            with torch.no_grad():
                model(pixels[:PREDICTION_BATCH])

        validation = sum(tuned["validation_tiles_per_class"].values())
        learned = sum(tuned["tiles_per_class"].values()) - validation
        epochs = len(tuned["epochs"])
        draws = epochs * training.draws_per_epoch(learned)
        # At full depth the embedding is part of every step; it is a hundredth of it and left out here.
        needs: dict[str, tuple[Callable[[], None], float]] = {
            "frozen part": (lower, tuned["computed_tiles"] / batch),
            "learning": (learn, draws / batch),
            "judging": (judge, (2 * learned + epochs * validation) / batch),
            "predicting": (predict, run.predicted["tiles"] / min(batch, PREDICTION_BATCH)),
        }
        return {name: count * _seconds(work, device) for name, (work, count) in needs.items()}


def _seconds(work: Callable[[], None], device: str, repeats: int = 3) -> float:
    """Median wall-clock time of a call."""
    work()
    found = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        found.append(time.perf_counter() - began)
    return statistics.median(found)


def show(name: str, run: Timed) -> None:
    """One run, in lines."""
    tiles, epochs = run.predicted["tiles"], len(run.tuned["epochs"])
    print(
        f"{name}: {run.total:.1f} s from Tune to a view of {tiles} tissue tiles; {epochs} epochs, best "
        f"{run.tuned['best_epoch']}; {run.tuned['computed_tiles']} passes of the frozen part; {run.tuned['precision']}"
    )
    print("  " + ", ".join(f"{part} {seconds:.2f}" for part, seconds in run.parts.items()))
    print(
        f"  balanced accuracy: view {run.accuracy:.3f}, validation {run.tuned['val']['balanced_accuracy']:.3f}",
        flush=True,
    )


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="pathotune-tiny")
    parser.add_argument("--method", default="pathotune")
    parser.add_argument("--classes", type=int, default=4)
    parser.add_argument("--per-class", type=int, default=50, help="labelled tiles of each class")
    parser.add_argument("--view", type=int, default=300, help="at least so many tissue tiles in the view")
    parser.add_argument("--seeds", type=int, default=1, help="so many slides, one after the other")
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--full-depth-epochs", type=int, default=60, help="at most; patience is 8")
    parser.add_argument("--skip-full-depth", action="store_true")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--set", action="append", default=[], help="other options of method or training, key=value")
    wanted = parser.parse_args()
    keep_memory()
    device = pick_device(wanted.device)
    backbone = load_backbone(wanted.backbone).to(device)
    settings = parse_settings(wanted.set)
    of_training = {key: settings.pop(key) for key in list(settings) if key in options_of(TrainingConfig)}
    training = with_settings(TrainingConfig(device=device), of_training)
    config = load_config(
        wanted.method, {"speed": "interactive", **settings} if wanted.method == "pathotune" else settings
    )
    print(f"{backbone.card.title} on {device}, {torch.get_num_threads()} threads, {wanted.method}: {config}")
    rows = []
    for seed in range(wanted.first_seed, wanted.first_seed + wanted.seeds):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            drawn = scene(folder, seed, wanted.classes, wanted.per_class, wanted.view, backbone)
            print(f"slide {seed}: {len(drawn.regions)} labelled tiles of {', '.join(drawn.names)}; view {drawn.tissue}")
            run = timed_run(drawn, backbone, wanted.method, config, replace(training, seed=seed), folder / "quick")
            bare = bare_seconds(run, drawn, backbone, training)
            show("interactive", run)
            print("  bare passes: " + ", ".join(f"{part} {seconds:.2f}" for part, seconds in bare.items()))
            print(f"  ratio to the bare passes: {run.total / sum(bare.values()):.2f}", flush=True)
            rows.append([run.total, run.total / sum(bare.values()), run.accuracy])
            if not wanted.skip_full_depth and wanted.method == "pathotune":
                full = with_settings(config, {"speed": "full_depth"})
                long = replace(training, seed=seed, epochs=wanted.full_depth_epochs, patience=8)
                deep = timed_run(drawn, backbone, wanted.method, full, long, folder / "deep")
                show("full depth to early stopping", deep)
                rows[-1].append(deep.accuracy)
    titles = ("seconds", "ratio", "balanced accuracy", "balanced accuracy at full depth")
    print(
        "median: "
        + ", ".join(
            f"{title} {statistics.median(column):.3f}"
            for title, column in zip(titles, zip(*rows, strict=True), strict=False)
        )
    )


if __name__ == "__main__":
    main()
