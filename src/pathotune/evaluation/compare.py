"""Methods and backbones side by side under one protocol: the same draws, seeds, epochs and early stopping for all."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pathotune.errors import UsageError
from pathotune.evaluation.cells import FOLDER, Cell, Cells, fingerprint
from pathotune.evaluation.memory import PeakMemory
from pathotune.evaluation.shots import UNITS, Draw, draw_shots
from pathotune.evaluation.variants import Variant, expanded, names_of, read_method
from pathotune.events import Event, Finished, Step
from pathotune.methods import METHODS
from pathotune.methods.options import as_plain
from pathotune.training.schedule import TrainingConfig

if TYPE_CHECKING:
    from pathotune.backbones.surface import Backbone
    from pathotune.datasets.tiles import TileTable
    from pathotune.tasks import Task
    from pathotune.training.examples import Examples

__all__ = ["Cell", "CompareConfig", "compare", "names_of", "read_method"]

RANDOM = "@random"
# What a row carries for the summary and nobody wants to read.
ARRAYS = ("probabilities", "labels", "groups")


@dataclass(frozen=True)
class CompareConfig:
    """What is compared.

    Parameters
    ----------
    methods : names, each with settings of its own in brackets where wanted: "pathotune[ivp=off,ttp=off]",
        "cite[text=random]"; "pathotune[*]" is every combination of its prompt groups.
    backbones : names; "@random" behind one takes its architecture with random weights.
    shots : tiles (or slides) of each class that are learned from; None for all.
    shot_unit : "tile", "slide", or "largest-slide" for the slides with the most tiles, as CITE's published lists.
    seeds : draws of each; seed 0, 1, …
    training : options of the training, the same for all.
    task : a task card, its name or file, for the sentences of classes and stain; without it classes are their names.
    """

    methods: tuple[str, ...] = ("linear_probe", "pathotune")
    backbones: tuple[str, ...] = ("pathotune-tiny",)
    shots: tuple[int | None, ...] = (None,)
    shot_unit: str = "tile"
    seeds: int = 5
    training: TrainingConfig = field(default_factory=TrainingConfig)
    task: Task | str | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be compared; raises UsageError, UnknownName."""
        if self.shot_unit not in UNITS:
            raise UsageError(f"--shot-unit is {', '.join(UNITS)}, not {self.shot_unit!r}.")
        object.__setattr__(self, "methods", expanded(self.methods))
        if self.seeds < 1 or not self.methods or not self.backbones:
            raise UsageError("A comparison needs at least one method, one backbone and one seed.")
        for word in self.methods:
            name = read_method(word).name
            level = (METHODS[name].facts or {}).get("level", "tile")
            if level not in self.levels:
                raise UsageError(f"{METHODS[name].title} learns from a {level} as a whole; compare it on a cohort.")

    @property
    def levels(self) -> tuple[str, ...]:
        """What may carry a label."""
        return ("tile",)

    def __len__(self) -> int:
        return len(self.methods) * len(self.backbones) * len(self.shots) * self.seeds


def compare(table: TileTable, config: CompareConfig, out: str | Path, device: str = "auto") -> Iterator[Event]:
    """Train and judge every cell, and write `comparison.csv`, `comparison.html` and one file per cell.

    Rows of the table whose split is "test" are judged; the others are learned from. A cell that is there already, made
    from the same table, options and weights, is taken as it is, so that a broken-off comparison goes on.

    Parameters
    ----------
    table : the tiles.
    config : what is compared.
    out : folder.
    device : auto, cpu, cuda, cuda:1 or mps.

    Yields
    ------
    Note, Step, and Finished with ``{"rows", "summary", "text", "csv", "html", "seconds", …}``.

    Raises
    ------
    UsageError
        The table has no test rows, or a class only there or only outside.
    OutputRefused
        The folder cannot be written to.
    """
    from pathotune.evaluation.comparison_report import Judged, write_comparison
    from pathotune.evaluation.summary import summarise, text_verdicts

    started, out = time.monotonic(), Path(out)
    cells = Cells(out / FOLDER)
    names = check_table(table)
    rows: list[dict[str, Any]] = []
    for name in config.backbones:
        rows += yield from _on_backbone(table, names, config, name, cells, device, len(rows))
    summary, verdicts = summarise(rows, names), text_verdicts(rows)
    test = sum(split == "test" for split in table.split)
    paths = write_comparison(out, rows, summary, verdicts, config, Judged(names, len(table) - test, test))
    plain = [{key: value for key, value in row.items() if key not in ARRAYS} for row in rows]
    seconds = round(time.monotonic() - started, 2)
    yield Finished({"rows": plain, "summary": summary, "text": verdicts, "classes": names, **paths, "seconds": seconds})


def check_table(table: TileTable) -> list[str]:
    """The classes of a table that can be compared on; raises UsageError with what it lacks."""
    test = {label for label, split in zip(table.label, table.split, strict=True) if split == "test"}
    train = {label for label, split in zip(table.label, table.split, strict=True) if split != "test"}
    if not test:
        raise UsageError(
            "No row of the table has the split test, so there is nothing to judge by: add the column split with test "
            "for tiles of slides that are kept apart."
        )
    odd = sorted(test ^ train)
    if odd:
        where = "among the test rows" if odd[0] in train else "outside the test rows"
        raise UsageError(f"The class {odd[0]!r} has no tile {where}; leave it out of the table, or add some.")
    if len(train) < 2:
        raise UsageError(f"The table has one class only ({', '.join(train)}).")
    return table.class_names


def sides(table: TileTable) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """The rows that may be learned from, those the table keeps for validation, and those that are judged."""
    split = np.asarray(table.split)
    return (
        np.flatnonzero((split != "test") & (split != "val")),
        np.flatnonzero(split == "val"),
        np.flatnonzero(split == "test"),
    )


def card_for(task: Task | str | None, names: list[str]) -> Task:
    """The card whose sentences are used, with the table's classes in the table's order."""
    from pathotune.tasks import load_task, task_from_dict

    if task is None:
        return task_from_dict({"name": "table", "classes": names})
    card = load_task(task)
    known = {entry.name: entry for entry in card.classes}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UsageError(
            f"The task {card.name} does not know the class {unknown[0]!r} of the table (it has "
            f"{', '.join(known)}); name a card with the table's classes."
        )
    return replace(card, classes=tuple(known[name] for name in names))


def _on_backbone(
    table: TileTable, names: list[str], config: CompareConfig, name: str, cells: Cells, device: str, before: int
) -> Generator[Event, None, list[dict[str, Any]]]:
    """All cells of one backbone; the tiles are decoded once."""
    from pathotune.backbones import load_backbone
    from pathotune.backbones.licences import warn_before_tuning
    from pathotune.device import pick_device
    from pathotune.training.table import read_table

    chosen = pick_device(device)
    plain = name.removesuffix(RANDOM)
    backbone = load_backbone(plain, random_seed=0 if name.endswith(RANDOM) else None).to(chosen)
    yield from warn_before_tuning(backbone.card)
    reading = config.training.reading_of(backbone.card)
    examples = yield from read_table(table, reading, names, card_for(config.task, names))
    pool, kept, test = sides(table)
    slides, judges = table.groups("slide"), witnesses(table, test)
    rows = []
    with contextlib.closing(examples):
        for shots in config.shots:
            for seed in range(config.seeds):
                draw = draw_shots(examples.labels, slides, pool, kept, shots, config.shot_unit, seed)
                for method in config.methods:
                    cell = Cell(method, name, shots, seed)
                    work = partial(train_and_judge, cell, backbone, examples, draw, test, config.training, chosen)
                    made_from = _made_from(cell, backbone, examples, draw, test, config)
                    row = yield from cells.row(cell, made_from, work)
                    row |= {"backbone_sha256": backbone.weights_sha256 or backbone.weights_source}
                    rows.append({**row, "labels": examples.labels[test], "groups": judges})
                    yield Step("comparing", before + len(rows), len(config), "cells")
    return rows


def train_and_judge(
    cell: Cell,
    backbone: Backbone,
    examples: Examples,
    draw: Draw,
    test: NDArray[np.int64],
    training: TrainingConfig,
    device: str,
) -> tuple[dict[str, Any], NDArray[np.float64]]:
    """Train one cell; its row and the probabilities (n, K) of the test tiles."""
    from pathotune.prompts.text import text_for
    from pathotune.training.run import Run

    variant = read_method(cell.method)
    chosen = replace(examples, train=draw.train, validation=draw.validation, file=None)
    mpp = training.reading_of(backbone.card).mpp
    _, text = text_for(variant.config, examples.task, examples.class_names, mpp, backbone, cell.seed)
    options = replace(training, seed=cell.seed, device=device)
    started = time.monotonic()
    with PeakMemory(device) as memory:
        run = Run(variant.name, variant.config, backbone, chosen, options, text, device)
        with contextlib.closing(run.tiles):
            for _ in (*run.prepare(), *run.epochs()):
                pass
            outcome = run.outcome()
            seconds = time.monotonic() - started
            logits = run.tiles.answers(test)[0].cpu().numpy()
    labels = examples.labels[test]
    # With nothing held out, a temperature would be fitted to the very tiles that were learned.
    probabilities = calibrated(logits, outcome.logits if draw.is_held_out else None, examples.labels[draw.validation])
    return {
        **cell.facts(),
        "backbone_sha256": backbone.weights_sha256 or backbone.weights_source,
        **scores_of(probabilities, labels),
        "text_encoder": str((text.encoder or {}).get("name", "")),
        "trainable_parameters": outcome.parameters,
        "seconds": round(seconds, 3),
        "peak_memory_mb": round(memory.megabytes, 1),
        "train_tiles": len(draw.train),
        "validation_tiles": len(draw.validation) if draw.is_held_out else 0,
        "best_epoch": outcome.best_epoch,
        "epochs": len(outcome.history),
    }, probabilities


def calibrated(
    logits: NDArray[Any], held_out: NDArray[Any] | None, held_out_labels: NDArray[np.int64]
) -> NDArray[np.float64]:
    """(n, K) probabilities, by the temperature that suits the held-out logits; by none where nothing was held out."""
    from pathotune.training.metrics import temperature_fit
    from pathotune.training.validation import softmax

    temperature = 1.0 if held_out is None else temperature_fit(held_out, held_out_labels)
    return softmax(logits, temperature)


def scores_of(probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> dict[str, float | None]:
    """Balanced accuracy, AUC, F1 and calibration error."""
    from pathotune.training.metrics import auc_ovr_macro, balanced_accuracy, ece, f1_macro

    said, classes = probabilities.argmax(axis=1), probabilities.shape[1]
    return {
        "balanced_accuracy": balanced_accuracy(labels, said, classes),
        "auc": auc_ovr_macro(labels, probabilities),
        "f1": f1_macro(labels, said, classes),
        "ece": ece(labels, probabilities),
    }


def witnesses(table: TileTable, rows: NDArray[np.int64]) -> list[str]:
    """What the bootstrap draws: slides; where there are fewer than five, blocks of four by four tiles of a slide.

    Neighbouring tiles of one slide are no independent witnesses; single pictures without a slide are taken as such.
    """
    asked = table.take(rows.tolist())
    slides = asked.groups("slide")
    if len(set(slides)) >= 5:
        return slides
    if asked.is_on_slides:
        return asked.groups("block")
    return [f"{slide} {row}" for slide, row in zip(slides, rows.tolist(), strict=True)]


def _made_from(
    cell: Cell, backbone: Backbone, examples: Examples, draw: Draw, test: NDArray[np.int64], config: CompareConfig
) -> str:
    """What a kept cell must agree on: tiles, draw, method, options, words and weights."""
    variant: Variant = read_method(cell.method)
    words = examples.task.to_dict() if (METHODS[variant.name].facts or {}).get("uses_text") else None
    said = [variant.name, as_plain(variant.config), as_plain(config.training), backbone.weights_sha256, words, cell]
    parts: list[bytes | NDArray[Any]] = [draw.train, draw.validation, test, examples.labels, b"".join(examples.keys)]
    return fingerprint(parts, said)
