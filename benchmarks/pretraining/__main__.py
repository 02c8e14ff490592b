"""One command that repeats the pretraining: python -m benchmarks.pretraining --data DIR --output DIR."""

import argparse
import sys
from dataclasses import fields
from pathlib import Path

import torch

from benchmarks.pretraining.curves import append_record, cost, draw_curves
from benchmarks.pretraining.data import load_sources
from benchmarks.pretraining.export import POOLINGS, export_weights
from benchmarks.pretraining.loop import CollapsedRun, Recipe, Run, describe, saved_recipe


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line; every number of the recipe is an option."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pretraining", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with wsi/, st/ and tiles/")
    parser.add_argument("--output", type=Path, required=True, help="folder of the run: state, curves and weights")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads, 0 leaves them to torch")
    parser.add_argument("--begin-from", type=Path, help="exported weights to begin with, in place of random ones")
    parser.add_argument("--export-only", action="store_true", help="write the weights of the saved state and end")
    parser.add_argument("--pooling", default="mean+std_patch", choices=POOLINGS)
    for item in fields(Recipe):
        if item.type in (int, float):
            parser.add_argument("--" + item.name.replace("_", "-"), type=item.type, default=item.default)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Train, or go on where the run in the output folder stopped; then write the weights."""
    options = parse(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    state, weights = options.output / "state.safetensors", options.output / "pathotune-tiny.safetensors"
    if not options.export_only:
        if options.threads:
            torch.set_num_threads(options.threads)
        recipe = Recipe(**{i.name: getattr(options, i.name) for i in fields(Recipe) if hasattr(options, i.name)})
        run = Run(recipe, load_sources(options.data), options.output, options.device)
        if state.exists():
            run.load(state)
            print(f"going on from step {run.step}", flush=True)
        elif options.begin_from:
            run.begin_from(options.begin_from)
        try:
            for record in run.train():
                append_record(options.output / "curves.csv", record)
                print(describe(record), flush=True)
        except CollapsedRun as error:
            print(error, file=sys.stderr)
            return 1
        draw_curves(options.output / "curves.csv", options.output / "curves.png")
    export_weights(state, weights, options.pooling)
    if (options.output / "curves.csv").exists():
        made = saved_recipe(state)
        views, minutes = cost(
            options.output / "curves.csv", made.tiles, made.final_tiles, made.steps - made.final_steps
        )
        print(f"{views} views in {minutes:.0f} minutes of training")
    print(f"weights: {weights} ({weights.stat().st_size / 1e6:.1f} MB)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
