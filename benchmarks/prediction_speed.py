"""Tiles per second of a whole prediction beside those of the bare backbone on random tensors, from one interleaved run.

    python benchmarks/prediction_speed.py
    python benchmarks/prediction_speed.py --backbone pathotune-tiny --slide slide.svs --device cuda

The whole prediction reads and resamples tiles, runs the tuned model with its attention maps and writes the store; the
bare forward is the backbone alone on tensors that are already there, in the same number format, batch size, threads and
allocator. Both are run in turns, so that whatever else the machine does hits both; the ratio is the median of the
pairs' ratios. Weights are random: they cost the same.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from pathotune.backbones import load_backbone
from pathotune.backbones.surface import Backbone
from pathotune.device import choose_precision, number_format, pick_device
from pathotune.events import Finished
from pathotune.inference.allocator import keep_memory
from pathotune.inference.predict import predict_slide
from pathotune.inference.tilemodel import default_batch_size
from pathotune.methods import METHODS, load_config
from pathotune.methods.checkpoint import Tuning
from pathotune.slides import open_slide

CLASSES = ("a", "b", "c", "d", "e")


def random_tuning(method: str, backbone: Backbone, path: Path) -> Tuning:
    """A tuning of this method as it is before its first step."""
    config = load_config(method, {"ttp": False} if method == "pathotune" else {})
    model = METHODS.load(method)(config, backbone, CLASSES, None)
    torch.nn.init.normal_(model.head.linear.weight, std=0.1)
    card = backbone.card
    facts = {"name": card.name, "sha256": backbone.weights_sha256, "embed_dim": backbone.embed_dim, "mpp": card.mpp}
    tuning = Tuning(
        method=method,
        config=asdict(config),
        task={},
        classes=[{"name": name, "color": [40 * index, 80, 160]} for index, name in enumerate(CLASSES)],
        backbone=facts,
        reading=card.reading(),
        tensors={f"trained.{name}": value for name, value in model.trainable_state().items()},
    )
    tuning.save(path)
    return tuning


def bare_rate(backbone: Backbone, device: str, precision: str, batch_size: int, tiles: int) -> float:
    """Tiles per second of the backbone alone."""
    side = backbone.card.image_size or 224
    pixels = torch.randn(batch_size, 3, side, side, device=device).to(memory_format=torch.channels_last)
    with torch.inference_mode(), number_format(device, precision):
        backbone(pixels)
        started = time.perf_counter()
        for _ in range(tiles // batch_size):
            pooled = backbone(pixels).pooled
        pooled.float().sum().item()  # waits for the device
    return tiles // batch_size * batch_size / (time.perf_counter() - started)


def whole_rate(slide: Any, tuning: Tuning, out: Path, options: dict[str, Any]) -> tuple[float, int]:
    """Tiles per second of a prediction from its first tile to the finished store, and how many tiles."""
    for event in predict_slide(slide, tuning, out, resume=False, **options):
        if isinstance(event, Finished):
            return event.result["tiles_per_second"], event.result["tiles"]
    raise RuntimeError("the prediction gave no result")


def box_of(slide: Any, tuning: Tuning, tiles: int) -> tuple[float, float, float, float]:
    """A square in the middle of the slide with about so many tiles."""
    side = tiles**0.5 * tuning.reading.tile_px0(slide)[0]
    return slide.width_px0 / 2 - side / 2, slide.height_px0 / 2 - side / 2, side, side


def generated_slide(folder: Path, tiles: int) -> Path:
    """A slide with a little more tissue than so many tiles at 0.25 µm per pixel."""
    from pathotune.slides.synthetic import SyntheticSlide

    side = int(tiles**0.5 * 448 * 1.15) + 448
    return SyntheticSlide(side, side, mpp=0.25, seed=1, margin=0.0, pen=False).write(folder / "generated.tiff")


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="vit-small-in21k-ft-in1k", help="by name; random weights")
    parser.add_argument("--slide", type=Path, help="a slide; a generated one without it")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--tiles", type=int, default=400, help="of each turn")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--methods", default="linear_probe,pathotune")
    wanted = parser.parse_args()
    keep_memory()
    device = pick_device(wanted.device)
    backbone = load_backbone(wanted.backbone, random_seed=0).to(device)
    batch_size = wanted.batch_size or default_batch_size(device)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = wanted.slide or generated_slide(folder, wanted.tiles)
        tunings = {method: random_tuning(method, backbone, folder / method) for method in wanted.methods.split(",")}
        probe = torch.randint(0, 256, (8, 224, 224, 3), dtype=torch.uint8, device=device)
        chosen = choose_precision(
            lambda images: backbone(backbone.normalise(images)).pooled, probe, device, wanted.precision
        )
        precision = chosen.name
        print(f"{backbone.card.title} on {device} ({torch.get_num_threads()} threads), batches of {batch_size}")
        print(f"{precision}: {chosen.reason}")
        ratios: dict[str, list[float]] = {method: [] for method in tunings}
        rates: dict[str, list[float]] = {"bare forward": [], **{method: [] for method in tunings}}
        with open_slide(path) as slide:
            options = {"device": device, "precision": precision, "batch_size": batch_size, "backbone": backbone}
            options["box_px0"] = box_of(slide, next(iter(tunings.values())), wanted.tiles)
            for turn in range(wanted.pairs + 1):
                for method, tuning in tunings.items():
                    before = bare_rate(backbone, device, precision, batch_size, wanted.tiles // 2)
                    rate, tiles = whole_rate(slide, tuning, folder, options)
                    after = bare_rate(backbone, device, precision, batch_size, wanted.tiles // 2)
                    if turn == 0:  # warms everything up
                        continue
                    bare = 2 / (1 / before + 1 / after)
                    rates["bare forward"].append(bare)
                    rates[method].append(rate)
                    ratios[method].append(rate / bare)
                    print(
                        f"  {method}: {rate:.1f} tiles/s of {bare:.1f} = {rate / bare:.3f} ({tiles} tiles)", flush=True
                    )
    for name, values in rates.items():
        ratio = f", {statistics.median(ratios[name]):.3f} of the bare forward" if name in ratios else ""
        print(f"{name}: {statistics.median(values):.1f} tiles/s{ratio}")


if __name__ == "__main__":
    main()
