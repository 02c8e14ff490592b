"""Tiles per second of a whole prediction beside those of the bare backbone on random tensors, from one interleaved run.

    python benchmarks/prediction_speed.py
    python benchmarks/prediction_speed.py --backbone pathotune-tiny --slide slide.svs --device cuda

The whole prediction reads and resamples tiles, runs the tuned model with its attention maps and writes the store. The
bare forward is the backbone alone on tensors that are already there, in the same number format, batch size, threads and
allocator, and in two ways: one batch after the other on all cores, as a script would run it, and on a CPU the way the
prediction does, with several batches side by side and a share of the cores for each ("lanes"). The tuned model's own
forward is what the prediction asks of the model: prompt tokens, which make each pass longer, the head, and the
attention that is kept; on tensors too, and in lanes. All of them are run in turns, so that whatever else the machine
does hits all; each ratio is the median of the rounds' ratios. Weights are random: they cost the same.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from pathotune.backbones import load_backbone
from pathotune.backbones.surface import Backbone
from pathotune.device import choose_precision, number_format, pick_device
from pathotune.events import result_of
from pathotune.inference.allocator import keep_memory
from pathotune.inference.predict import predict_slide
from pathotune.inference.tilemodel import default_batch_size, lanes_of
from pathotune.methods import METHODS, build_model, load_config
from pathotune.methods.checkpoint import Tuning
from pathotune.slides import open_slide

CLASSES = ("a", "b", "c", "d", "e")
Forward = Callable[[torch.Tensor], torch.Tensor]


def random_tuning(method: str, backbone: Backbone, path: Path) -> Tuning:
    """A tuning of this method as it is before its first step."""
    config = load_config(method, {"ttp": False} if method == "pathotune" else {})
    model = METHODS.load(method)(config, backbone, CLASSES, None)
    torch.nn.init.normal_(model.head.linear.weight, std=0.1)
    card = backbone.card
    facts = {"name": card.name, "sha256": backbone.weights_sha256, "embed_dim": backbone.embed_dim}
    facts["mpp"] = card.reading().mpp
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


def passes(forward: Forward, side: int, device: str, precision: str, batch_size: int, count: int) -> None:
    """So many forward passes, ended when the last one is done."""
    pixels = torch.randn(batch_size, 3, side, side, device=device).to(memory_format=torch.channels_last)
    with torch.inference_mode(), number_format(device, precision):
        for _ in range(count):
            answer = forward(pixels)
        answer.float().sum().item()  # waits for the device


def bare_rate(
    forward: Forward, side: int, device: str, precision: str, batch_size: int, tiles: int, lanes: int = 1
) -> float:
    """Tiles per second of forward passes alone, with so many batches side by side."""
    count = max(1, tiles // batch_size // lanes)
    before = torch.get_num_threads()
    threads = max(1, before // lanes)
    with ThreadPoolExecutor(lanes, initializer=torch.set_num_threads, initargs=(threads,)) as pool:

        def run(each: int) -> None:
            for task in [pool.submit(passes, forward, side, device, precision, batch_size, each) for _ in range(lanes)]:
                task.result()

        run(1)
        started = time.perf_counter()
        run(count)
        seconds = time.perf_counter() - started
    torch.set_num_threads(before)
    return lanes * count * batch_size / seconds


def own_forward(tuning: Tuning, backbone: Backbone) -> Forward:
    """The tuned model with its attention maps."""
    model = build_model(tuning, backbone)

    def forward(pixels: torch.Tensor) -> torch.Tensor:
        answer = model(pixels, attention=True)
        maps = [answer.attention[name].sum() for name in model.attention_sources]
        return answer.logits.sum() + sum(maps)

    return forward


def whole_rate(slide: Any, tuning: Tuning, out: Path, options: dict[str, Any]) -> float:
    """Tiles per second of a prediction from its first tile to the finished store."""
    return float(result_of(predict_slide(slide, tuning, out, resume=False, **options))["tiles_per_second"])


def box_of(slide: Any, tuning: Tuning, tiles: int) -> tuple[float, float, float, float]:
    """A square in the middle of the slide with about so many tiles."""
    side = tiles**0.5 * tuning.reading.tile_px0(slide)[0]
    return slide.width_px0 / 2 - side / 2, slide.height_px0 / 2 - side / 2, side, side


def generated_slide(folder: Path, tiles: int) -> Path:
    """A slide with a little more tissue than so many tiles at 0.25 µm per pixel."""
    from pathotune.slides.synthetic import SyntheticSlide

    side = int(tiles**0.5 * 448 * 1.15) + 448
    return SyntheticSlide(side, side, mpp=0.25, seed=1, margin=0.0, pen=False).write(folder / "generated.tiff")


def arguments() -> argparse.Namespace:
    """What to measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="vit-small-in21k-ft-in1k", help="by name; random weights")
    parser.add_argument("--slide", type=Path, help="a slide; a generated one without it")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--tiles", type=int, default=400, help="of each turn")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--methods", default="linear_probe,pathotune")
    return parser.parse_args()


def report(rounds: list[dict[str, float]], bare: list[str]) -> None:
    """Median rates, and of every whole prediction the median ratio to each bare forward."""
    for name in rounds[0]:
        print(f"{name}: {statistics.median(one[name] for one in rounds):.1f} tiles/s")
    for name in (name for name in rounds[0] if name not in bare):
        own = name.replace("prediction by", "forward of the model tuned by")
        for other in (other for other in bare if "tuned by" not in other or other == own):
            ratios = [one[name] / one[other] for one in rounds]
            spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
            print(f"{name} / {other}: {statistics.median(ratios):.3f} (of {len(ratios)} rounds, {spread})")


def main() -> None:
    """Run and print."""
    wanted = arguments()
    keep_memory()
    device = pick_device(wanted.device)
    backbone = load_backbone(wanted.backbone, random_seed=0).to(device)
    batch_size = wanted.batch_size or default_batch_size(device)
    probe = torch.randint(0, 256, (8, 224, 224, 3), dtype=torch.uint8, device=device)
    chosen = choose_precision(
        lambda images: backbone(backbone.normalise(images)).pooled,
        probe,
        device,
        wanted.precision,
        backbone.card.tolerance,
    )
    lanes, threads = lanes_of(device)
    print(f"{backbone.card.title} on {device} ({torch.get_num_threads()} threads), batches of {batch_size}")
    print(f"{chosen.name}: {chosen.reason}")

    def bare(forward: Forward, count: int) -> Callable[[], float]:
        side = backbone.card.image_size or 224
        return lambda: bare_rate(forward, side, device, chosen.name, batch_size, wanted.tiles, count)

    def pooled(pixels: torch.Tensor) -> torch.Tensor:
        return backbone(pixels).pooled

    turns: dict[str, Callable[[], float]] = {"bare forward, one batch on all cores": bare(pooled, 1)}
    if lanes > 1:
        turns[f"bare forward, {lanes} batches side by side on {threads} cores each"] = bare(pooled, lanes)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tunings = {method: random_tuning(method, backbone, folder / method) for method in wanted.methods.split(",")}
        with open_slide(wanted.slide or generated_slide(folder, wanted.tiles)) as slide:
            options = {"device": device, "precision": chosen.name, "batch_size": batch_size, "backbone": backbone}
            options["box_px0"] = box_of(slide, next(iter(tunings.values())), wanted.tiles)

            def whole(tuning: Tuning) -> Callable[[], float]:
                return lambda: whole_rate(slide, tuning, folder, options)

            for method, tuning in tunings.items():
                if method != "linear_probe":  # whose forward is the backbone's
                    turns[f"forward of the model tuned by {method}"] = bare(own_forward(tuning, backbone), lanes)
            plain = list(turns)
            turns |= {f"prediction by {method}": whole(tuning) for method, tuning in tunings.items()}
            rounds: list[dict[str, float]] = []
            for number in range(wanted.rounds + 1):
                # Each begins one further, so that none always follows the same other.
                order = [*turns][number % len(turns) :] + [*turns][: number % len(turns)]
                measured = {one: turns[one]() for one in order}
                if number:  # the first warms everything up
                    rounds.append({one: measured[one] for one in turns})
                    print(f"  round {number}: " + " · ".join(f"{rounds[-1][one]:.1f}" for one in turns), flush=True)
    report(rounds, plain)


if __name__ == "__main__":
    main()
