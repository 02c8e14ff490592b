"""What one training step of each method costs over the bare forward and backward pass of the backbone.

    python benchmarks/step_cost.py
    python benchmarks/step_cost.py --backbone pathotune-tiny --repetitions 20 --methods vpt,lora,lora[speed=interactive]

All in one process and in turns: one step of every method, then the next round, so that a busy moment of the machine
falls on all of them. Medians over the rounds. "Bare" is a forward pass of the plain backbone and a backward pass to the
tokens it begins with, without the gradient of any weight: what every method needs that learns something at the input.
Batch, number format and threads are the same for all. Tiles are noise and lie decoded in memory; what a method keeps of
a tile from one epoch to the next is kept before the clock starts, as in all epochs but the first.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from pathotune.backbones import load_backbone
from pathotune.backbones.surface import Backbone
from pathotune.device import choose_precision, pick_device
from pathotune.errors import PathotuneError, UsageError
from pathotune.evaluation.variants import names_of, read_method
from pathotune.methods import methods_of_level
from pathotune.prompts.text import SentenceVectors
from pathotune.tasks import task_from_dict
from pathotune.training.examples import Examples
from pathotune.training.run import Run
from pathotune.training.schedule import TrainingConfig

METHODS = (
    "linear_probe,cite,vpt[depth=shallow],vpt,pathotune,lora,adapter,ssf,bitfit,full,scratch,"
    "vpt[speed=interactive],pathotune[speed=interactive],lora[speed=interactive]"
)
BARE, FORWARD = "bare forward and backward", "bare forward"
CLASSES = ("a", "b")
TEXT_WIDTH = 384


def noise(backbone: Backbone, count: int) -> Examples:
    """Tiles of noise in two classes; the same for learning and judging."""
    side = backbone.card.reading().image_px
    random = np.random.default_rng(0)
    rows = np.arange(count, dtype=np.int64)
    examples = Examples(
        random.integers(0, 256, (count, side, side, 3), dtype=np.uint8),
        rows % len(CLASSES),
        rows,
        CLASSES,
        ((0, 0, 0), (0, 0, 0)),
        task_from_dict({"name": "noise", "classes": list(CLASSES)}),
        keys=[bytes([255]) * 14 + int(row).to_bytes(2, "big") for row in rows],
    )
    examples.train = examples.validation = rows
    return examples


def run_of(word: str, backbone: Backbone, examples: Examples, training: TrainingConfig, device: str) -> Run:
    """A training of this method, before its first step, with values of its own kept."""
    method, config = read_method(word)[:2]
    if method not in methods_of_level("tile"):
        raise UsageError("it does not train on tiles")
    sentences = config.sentences_for(examples.task, CLASSES, backbone.card.reading().mpp)
    vectors = np.random.default_rng(1).normal(size=(len(sentences), TEXT_WIDTH)).astype(np.float32)
    text = SentenceVectors(vectors if sentences else None, None)
    run = Run(method, config, backbone, examples, training, text, device)
    list(run.prepare())
    if run.tiles.keeps:
        run.tiles.use_own_cache()
    return run


def bare(run: Run, backward: bool) -> Callable[[], None]:
    """The plain backbone on the batch, in the lanes and the number format of a training."""
    inputs = run.tiles.pixels(run.examples.images)
    size = -(-len(inputs) // run.tiles.lanes.count)

    def pass_of(pixels: torch.Tensor) -> None:
        has_tokens = run.backbone.takes_prompts
        with torch.set_grad_enabled(backward), run.tiles.format():
            begun = (run.backbone.embed(pixels) if has_tokens else pixels).detach().requires_grad_(backward)
            if has_tokens:
                tokens = begun
                for index in range(run.backbone.depth):
                    tokens = run.backbone.block(index, tokens)
                pooled = run.backbone.finish(tokens).pooled
            else:
                pooled = run.backbone(begun).pooled
            if backward:
                torch.autograd.grad(pooled.float().square().sum(), begun)

    return lambda: run.tiles.lanes.map(pass_of, list(inputs.split(size))) and None


def seconds(work: Callable[[], Any]) -> float:
    """Wall-clock time of one call."""
    began = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def measure(words: Sequence[str], backbone: Backbone, batch: int, repetitions: int, precision: str, device: str) -> Any:
    """Rows of the table: name, trained numbers, milliseconds of every round."""
    backbone = backbone.to(device)
    examples = noise(backbone, batch)
    if precision == "auto":
        probe = backbone.normalise(torch.from_numpy(examples.images[:8]).to(device))
        precision = choose_precision(lambda pixels: backbone(pixels).pooled, probe, device).name
    training = TrainingConfig(batch_size=batch, augment=False, precision=precision, device=device, epochs=1)
    rows: dict[str, dict[str, Any]] = {}
    works: dict[str, Callable[[], Any]] = {}
    with contextlib.ExitStack() as stack:
        plain = run_of("linear_probe", backbone, examples, training, device)
        stack.callback(plain.tiles.close)
        works[FORWARD], works[BARE] = bare(plain, False), bare(plain, True)
        for word in words:
            try:
                run = run_of(word, backbone, examples, training, device)
            except PathotuneError as error:
                rows[word] = {"error": str(error)}
                continue
            stack.callback(run.tiles.close)
            works[word] = lambda run=run: run.step(examples.train, 1e-5)
            rows[word] = {"trained": sum(value.numel() for value in run.parameters.values())}
        found: dict[str, list[float]] = {name: [] for name in works}
        for work in works.values():
            seconds(work), seconds(work)  # kernels, memory, and what is kept of the tiles
        for round_number in range(repetitions):
            names = list(works)
            # Another first one in every round.
            for name in names[round_number % len(names) :] + names[: round_number % len(names)]:
                found[name].append(1000 * seconds(works[name]))
    for name, times in found.items():
        rows.setdefault(name, {})["milliseconds"] = times
    return {"precision": precision, "device": device, "threads": torch.get_num_threads(), "rows": rows}


def draw(result: dict[str, Any], title: str) -> None:
    """The table for people."""
    table = Table(title=title, title_justify="left", box=None)
    for column in ("method", "trained numbers", "ms a step", "over bare"):
        table.add_column(column, justify="left" if column == "method" else "right")
    timed = {name: row["milliseconds"] for name, row in result["rows"].items() if "milliseconds" in row}
    medians = {name: statistics.median(times) for name, times in timed.items()}
    for name in (FORWARD, BARE, *(name for name in result["rows"] if name not in (FORWARD, BARE))):
        row = result["rows"][name]
        if "error" in row:
            table.add_row(name, row["error"])
            continue
        trained = f"{row['trained']:,}" if "trained" in row else ""
        table.add_row(name.replace("[", r"\["), trained, f"{medians[name]:.1f}", f"{medians[name] / medians[BARE]:.2f}")
    Console(width=120).print(table)


def main() -> None:
    """Measure, print, and keep the figures where that is asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="pathotune-tiny")
    parser.add_argument("--random", action="store_true", help="the backbone with random weights, where none are here")
    parser.add_argument("--methods", default=METHODS)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repetitions", type=int, default=15)
    parser.add_argument("--precision", default="float32", choices=("auto", "float32", "bfloat16"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path, help="keep every round's figure here")
    given = parser.parse_args()
    backbone = load_backbone(given.backbone, random_seed=0 if given.random else None)
    words = names_of([given.methods])
    result = measure(words, backbone, given.batch, given.repetitions, given.precision, pick_device(given.device))
    facts = f"{given.batch} tiles a step, {result['precision']}, {result['device']}, {result['threads']} threads"
    draw(result, f"{backbone.card.title}: {facts}, median of {given.repetitions} rounds")
    if given.json:
        given.json.write_text(json.dumps(result, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
