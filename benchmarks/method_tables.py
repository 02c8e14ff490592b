"""The tile methods side by side on real tiles, in stages: what matters most comes first, and a broken-off run goes on.

python benchmarks/method_tables.py --data DIR --out tables             (all stages; hours on two cores)
python benchmarks/method_tables.py --data DIR --out tables --stages first --minutes 30
python benchmarks/method_tables.py --data DIR --out tables --only-print   (the tables of what is there)

Every cell is kept in the folder, as `pathotune compare` keeps it. What was measured for the documentation lies in
benchmarks/results/methods.zip; `--begin-with` that file computes only what it lacks. Cells of other weights of the
backbone are not taken: their fingerprint has the weights in it.

One protocol for all: the same draws and seeds, at most four epochs of 64 tiles drawn from each class in turn, steps of
16 tiles, the epoch of the lowest held-out loss, no turned or restained looks, bfloat16. Methods that can begin late
work in the last third of the blocks, as the dock's tunings do; full fine-tuning and the network from scratch train
everything.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.tile_tables import COLUMNS, TABLES
from pathotune.evaluation.compare import CompareConfig, compare, sides, witnesses
from pathotune.evaluation.summary import summarise, text_verdicts
from pathotune.events import Finished, Note, Step
from pathotune.training.schedule import TrainingConfig

TRAINING = TrainingConfig(
    epochs=4, patience=2, tiles_per_epoch=64, batch_size=16, warmup_epochs=1, augment=False, precision="bfloat16"
)
LATE = "speed=interactive"
PLAIN = ("linear_probe", "neighbours")
STEPPED = ("linear_probe[solver=steps]",)
KNOWN = tuple(f"{name}[{LATE}]" for name in ("vpt", "lora", "cite"))
SMALL = tuple(f"{name}[{LATE}]" for name in ("adapter", "ssf", "bitfit"))
OURS = (f"pathotune[{LATE}]",)
CITE_TEXT = tuple(f"cite[{LATE},text={text}]" for text in ("random", "permuted"))
OUR_TEXT = tuple(f"pathotune[{LATE},text={text}]" for text in ("random", "permuted"))
ABLATIONS = (f"pathotune[*,{LATE}]",)
WHOLE = ("full", "scratch")
BUILT_IN, RANDOM = "pathotune-tiny", "pathotune-tiny@random"


class Stage(NamedTuple):
    """A part of the whole: these methods on this backbone."""

    methods: tuple[str, ...]
    shots: tuple[int | None, ...]
    backbone: str = BUILT_IN


EVERY = PLAIN + KNOWN + SMALL + OURS
FEW = ("1", "2", "4", "8", "16")
STAGES = {
    "first": Stage(PLAIN + KNOWN + OURS, (16,)),
    "all tiles": Stage(PLAIN + STEPPED + KNOWN + OURS, (None,)),
    "controls": Stage(PLAIN + CITE_TEXT + OUR_TEXT, (16,)),
    "ablations": Stage(PLAIN + ABLATIONS, (16,)),
    "small": Stage(PLAIN + SMALL, (16, None)),
    "four": Stage(EVERY, (4,)),
    "whole": Stage(PLAIN + WHOLE, (16, None)),
    "random": Stage(EVERY, (16, None), RANDOM),
    "few": Stage(EVERY, (1, 2, 8)),
    "rest": Stage(PLAIN + ABLATIONS + CITE_TEXT + OUR_TEXT + WHOLE, (1, 2, 4, 8, 16, None)),
    "random rest": Stage(EVERY + ABLATIONS + WHOLE, (1, 2, 4, 8, 16, None), RANDOM),
}


def table_of(data: Path, out: Path, name: str) -> Any:
    """The data set's table, written where `pathotune compare` could read it too."""
    from pathotune.datasets.tiles import read_tile_table

    path = out / f"{name}.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(TABLES[name](data.resolve()))
    return read_tile_table(path)


def follow(events: Iterator[Any], until: float) -> dict[str, Any] | None:
    """Run to the end, or to the first cell after the time is over."""
    for event in events:
        if isinstance(event, Note) and event.level == "warning":
            print(f"  {event.text}", flush=True)
        elif isinstance(event, Step) and event.phase == "comparing":
            if event.done % 10 == 0:
                print(f"  {time.strftime('%H:%M:%S')} {event.done} of {event.total} cells", flush=True)
            if time.time() > until:
                return None
        elif isinstance(event, Finished):
            return event.result
    return None


def finished(folder: Path, table: Any, seeds: int) -> dict[str, tuple[list[dict[str, Any]], list[str]]]:
    """For each weights of a backbone: the rows of methods with every seed, and the names of those without.

    Cells that were kept before they named their weights have the name "".
    """
    _, _, test = sides(table)
    labels, groups = table.labels(table.class_names)[test], witnesses(table, test)
    found: dict[str, dict[tuple[str, str, str], list[dict[str, Any]]]] = {}
    for path in sorted(folder.glob("cells/*.json")):
        row = json.loads(path.read_text(encoding="utf-8"))
        row |= {"probabilities": np.load(path.with_suffix(".npy")), "labels": labels, "groups": groups}
        of_weights = found.setdefault(row.get("backbone_sha256", ""), {})
        of_weights.setdefault((row["backbone"], str(row["shots"]), row["method"]), []).append(row)
    return {weights: _parted(cells, seeds) for weights, cells in sorted(found.items())}


def _parted(
    cells: dict[tuple[str, str, str], list[dict[str, Any]]], seeds: int
) -> tuple[list[dict[str, Any]], list[str]]:
    whole = [row for rows in cells.values() if len(rows) == seeds for row in rows]
    parts = [
        f"{method} ({shots}, {backbone}): {len(rows)}"
        for (backbone, shots, method), rows in cells.items()
        if len(rows) != seeds
    ]
    return whole, parts


def show(folder: Path, table: Any, seeds: int) -> None:
    """A table for each weights of a backbone: one is never compared with what another was made with."""
    for weights, (rows, parts) in finished(folder, table, seeds).items():
        print(f"\n{folder.name}, " + (f"weights {weights[:12]}" if weights else "weights not named (kept from before)"))
        _show_rows(rows, parts, table)


def _show_rows(rows: list[dict[str, Any]], parts: list[str], table: Any) -> None:
    """Balanced accuracy and AUC of what is finished, the points over the linear probe with their 95 % interval."""
    print(
        "\n| backbone | tiles a class | method | balanced accuracy | points over the probe | AUC | "
        "trained numbers |\n|---|---|---|---|---|---|---|"
    )
    entries = summarise(rows, table.class_names)
    for entry in sorted(entries, key=lambda one: (one["backbone"], one["shots"], -one["balanced_accuracy"])):
        gap = ""
        if entry.get("difference_ci95"):
            low, high = (100 * value for value in entry["difference_ci95"])
            gap = f"{100 * entry['difference']:+.1f} ({low:+.1f} to {high:+.1f})"
        print(
            f"| {entry['backbone']} | {entry['shots']} | {entry['method'].replace('speed=interactive', 'late')} | "
            f"{entry['balanced_accuracy']:.3f} ± {entry['balanced_accuracy_spread'] or 0:.3f} | {gap} | "
            f"{entry['auc']:.3f} | {entry['trainable_parameters']:,} |"
        )
    for verdict in text_verdicts(rows):
        print(verdict["said"])
    if parts:
        print("Not finished, and left out: " + "; ".join(parts))


def show_few(folders: list[Path], tables: list[Any], seeds: int) -> None:
    """Which method is best with few tiles: balanced accuracy over all tables and 1 to 16 tiles a class.

    The interval is that of the mean lead over the linear probe, each table's draws of tiles drawn a thousand times.
    """
    found: dict[str, dict[str, dict[tuple[str, str], list[float]]]] = {}
    for folder, table in zip(folders, tables, strict=True):
        for weights, (rows, _) in finished(folder, table, seeds).items():
            for row in sorted(rows, key=lambda one: one["seed"]):
                if row["backbone"] == BUILT_IN and str(row["shots"]) in FEW:
                    cells = found.setdefault(weights, {}).setdefault(row["method"], {})
                    cells.setdefault((folder.name, str(row["shots"])), []).append(row["balanced_accuracy"])
    for weights, methods in found.items():
        wanted = len(folders) * len(FEW)
        whole = {
            name: np.array([cells[key] for key in sorted(cells)])
            for name, cells in methods.items()
            if len(cells) == wanted
        }
        if "linear_probe" not in whole:
            continue
        print(f"\n1 to 16 tiles a class, {' and '.join(folder.name for folder in folders)}, weights {weights[:12]}")
        print("| method | mean balanced accuracy | points over the probe |\n|---|---|---|")
        random = np.random.default_rng(0)
        for name, values in sorted(whole.items(), key=lambda one: -one[1].mean()):
            lead = 100 * (values - whole["linear_probe"])
            drawn = random.integers(0, seeds, (1000, len(lead), seeds))
            means = np.take_along_axis(lead[None], drawn, axis=2).mean(axis=(1, 2))
            low, high = np.quantile(means, (0.025, 0.975))
            gap = f"{lead.mean():+.1f} ({low:+.1f} to {high:+.1f})"
            print(f"| {name.replace('speed=interactive', 'late')} | {values.mean():.3f} | {gap} |")


def main() -> None:
    """Run the stages, one data set after the other in each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with wsi/, st/ and tiles/")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--begin-with", type=Path, help="cells that were measured before: a zip archive")
    parser.add_argument("--keep", type=Path, help="put all cells into this zip archive in the end")
    parser.add_argument("--stages", nargs="+", default=list(STAGES), choices=list(STAGES))
    parser.add_argument("--tables", nargs="+", default=["her2st", "camelyon16"], choices=list(TABLES))
    parser.add_argument("--methods", help="of the stages' methods only those that begin with this word")
    parser.add_argument("--without", help="leave out those that begin with this word")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only-print", action="store_true", help="train nothing, print what is there")
    parser.add_argument("--minutes", type=float, default=1e6)
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    until = time.time() + 60 * asked.minutes
    if asked.begin_with:
        with zipfile.ZipFile(asked.begin_with) as archive:
            archive.extractall(asked.out)
    for stage in () if asked.only_print else asked.stages:
        for name in asked.tables:
            methods, shots, backbone = STAGES[stage]
            if asked.methods:
                methods = tuple(word for word in methods if word.startswith(asked.methods))
            if asked.without:
                methods = tuple(word for word in methods if not word.startswith(asked.without))
            if not methods:
                continue
            print(f"{stage}: {name} on {backbone}", flush=True)
            config = CompareConfig(methods, (backbone,), shots, "tile", asked.seeds, TRAINING)
            follow(compare(table_of(asked.data, asked.out, name), config, asked.out / name, "cpu"), until)
            if time.time() > until:
                print("The time is over; the same command goes on.", flush=True)
                break
    for name in asked.tables:
        show(asked.out / name, table_of(asked.data, asked.out, name), asked.seeds)
    show_few(
        [asked.out / name for name in asked.tables],
        [table_of(asked.data, asked.out, name) for name in asked.tables],
        asked.seeds,
    )
    if asked.keep:
        with zipfile.ZipFile(asked.keep, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(asked.out.glob("*/cells/*")):
                archive.write(path, path.relative_to(asked.out))


if __name__ == "__main__":
    main()
