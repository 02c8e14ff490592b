"""Methods and backbones side by side under one protocol: the same draws, seeds, epochs and early stopping for all."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pathotune.errors import OutputRefused, PathotuneError, UsageError
from pathotune.evaluation.shots import UNITS, Draw, draw_shots
from pathotune.events import Event, Finished, Note, Step
from pathotune.methods import load_config
from pathotune.methods.options import as_plain
from pathotune.training.schedule import TrainingConfig

if TYPE_CHECKING:
    from pathotune.backbones.surface import Backbone
    from pathotune.datasets.tiles import TileTable
    from pathotune.methods.base import MethodConfig
    from pathotune.training.examples import Examples

RANDOM = "@random"
CELLS = "cells"
FORMAT = 1
# What a row carries for the summary and nobody wants to read.
ARRAYS = ("probabilities", "labels", "groups")


@dataclass(frozen=True)
class CompareConfig:
    """What is compared.

    Parameters
    ----------
    methods : names, each with options of its own where wanted: "pathotune:ivp=off:ttp=false".
    backbones : names; "@random" behind one takes its architecture with random weights.
    shots : tiles (or slides) of each class that are learned from; None for all.
    shot_unit : "tile" or "slide".
    seeds : draws of each; seed 0, 1, …
    training : options of the training, the same for all.
    """

    methods: tuple[str, ...] = ("linear_probe", "pathotune")
    backbones: tuple[str, ...] = ("pathotune-tiny",)
    shots: tuple[int | None, ...] = (None,)
    shot_unit: str = "tile"
    seeds: int = 5
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        """Refuse what cannot be compared; raises UsageError, UnknownName."""
        if self.shot_unit not in UNITS:
            raise UsageError(f"--shot-unit is tile or slide, not {self.shot_unit!r}.")
        if self.seeds < 1 or not self.methods or not self.backbones:
            raise UsageError("A comparison needs at least one method, one backbone and one seed.")
        for text in self.methods:
            read_method(text)

    def __len__(self) -> int:
        return len(self.methods) * len(self.backbones) * len(self.shots) * self.seeds


class Cell(NamedTuple):
    """One training of the comparison."""

    method: str
    backbone: str
    shots: int | None
    seed: int


def read_method(text: str) -> tuple[str, MethodConfig]:
    """ "pathotune:ivp=off" as the method's name and its config; raises UnknownName, UsageError."""
    name, *options = (part.strip() for part in text.split(":"))
    from pathotune.methods.options import parse_settings

    return name, load_config(name, parse_settings(options))


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
    Note, Step, and Finished with ``{"rows", "summary", "csv", "html", "seconds", …}``.

    Raises
    ------
    UsageError
        The table has no test rows, or a class only there or only outside.
    OutputRefused
        The folder cannot be written to.
    """
    from pathotune.evaluation.comparison_report import summarise, write_comparison

    started, out = time.monotonic(), Path(out)
    folder = out / CELLS
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputRefused(f"{str(out)!r} cannot be written to ({error.strerror or error}); name another.") from error
    names = check_table(table)
    rows: list[dict[str, Any]] = []
    for name in config.backbones:
        rows += yield from _on_backbone(table, names, config, name, folder, device, len(rows))
    summary = summarise(rows, names)
    paths = write_comparison(out, rows, summary, config, table)
    plain = [{key: value for key, value in row.items() if key not in ARRAYS} for row in rows]
    seconds = round(time.monotonic() - started, 2)
    yield Finished({"rows": plain, "summary": summary, "classes": names, **paths, "seconds": seconds})


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


def _on_backbone(
    table: TileTable, names: list[str], config: CompareConfig, name: str, folder: Path, device: str, before: int
) -> Generator[Event, None, list[dict[str, Any]]]:
    """All cells of one backbone; the tiles are decoded once."""
    from pathotune.backbones import load_backbone
    from pathotune.device import pick_device
    from pathotune.tasks import task_from_dict
    from pathotune.training.table import read_table

    chosen = pick_device(device)
    plain = name.removesuffix(RANDOM)
    backbone = load_backbone(plain, random_seed=0 if name.endswith(RANDOM) else None).to(chosen)
    reading = config.training.reading_of(backbone.card)
    card = task_from_dict({"name": "table", "classes": names})
    examples = yield from read_table(table, reading, names, card)
    split = np.asarray(table.split)
    pool = np.flatnonzero((split != "test") & (split != "val"))
    kept, test = np.flatnonzero(split == "val"), np.flatnonzero(split == "test")
    rows = []
    with contextlib.closing(examples):
        for shots in config.shots:
            for seed in range(config.seeds):
                draw = draw_shots(examples.labels, table.groups("slide"), pool, kept, shots, config.shot_unit, seed)
                for method in config.methods:
                    cell = Cell(method, name, shots, seed)
                    row = yield from _cell(cell, backbone, examples, draw, test, config, folder, chosen)
                    rows.append(row | {"groups": witnesses(table, test)})
                    yield Step("comparing", before + len(rows), len(config), "cells")
    return rows


def _cell(
    cell: Cell,
    backbone: Backbone,
    examples: Examples,
    draw: Draw,
    test: NDArray[np.int64],
    config: CompareConfig,
    folder: Path,
    device: str,
) -> Generator[Event, None, dict[str, Any]]:
    """One row, from its file where it is there."""
    made_from = _fingerprint(cell, backbone, examples, draw, test, config)
    shots = "all" if cell.shots is None else cell.shots
    path = folder / f"{_plain(cell.method)} {_plain(cell.backbone)} {shots} {cell.seed} {made_from[:8]}"
    row = _kept(path, made_from)
    if row is None:
        try:
            row, probabilities = train_and_judge(cell, backbone, examples, draw, test, config.training, device)
        except PathotuneError as error:
            # A method that cannot be had on one backbone does not end the comparison of the others.
            yield Note(f"{cell.method} on {cell.backbone}: {error}", "warning")
            return {**_facts(cell), "error": str(error)}
        _write(path, {**row, "made_from": made_from}, probabilities)
        row = {**row, "probabilities": probabilities}
    return {**row, "labels": examples.labels[test]}


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
    from pathotune.device import peak_memory_mb
    from pathotune.prompts.text import encode_sentences
    from pathotune.training.metrics import auc_ovr_macro, balanced_accuracy, ece, f1_macro, temperature_fit
    from pathotune.training.run import Run
    from pathotune.training.validation import softmax

    method, config = read_method(cell.method)
    chosen = replace(examples, train=draw.train, validation=draw.validation, file=None)
    sentences = config.sentences_for(examples.task, examples.class_names, training.reading_of(backbone.card).mpp)
    text = encode_sentences(sentences, config.text_encoder_wanted)
    started = time.monotonic()
    run = Run(method, config, backbone, chosen, replace(training, seed=cell.seed, device=device), text, device)
    with contextlib.closing(run.tiles):
        for _ in (*run.prepare(), *run.epochs()):
            pass
        outcome = run.outcome()
        seconds = time.monotonic() - started
        logits = run.tiles.answers(test)[0].cpu().numpy()
    temperature = temperature_fit(outcome.logits, examples.labels[draw.validation]) if draw.is_held_out else 1.0
    probabilities, labels = softmax(logits, temperature), examples.labels[test]
    said, classes = probabilities.argmax(axis=1), len(examples.class_names)
    return {
        **_facts(cell),
        "balanced_accuracy": balanced_accuracy(labels, said, classes),
        "auc": auc_ovr_macro(labels, probabilities),
        "f1": f1_macro(labels, said, classes),
        "ece": ece(labels, probabilities),
        "trainable_parameters": outcome.parameters,
        "seconds": round(seconds, 3),
        "peak_memory_mb": round(peak_memory_mb(), 1),
        "train_tiles": len(draw.train),
        "validation_tiles": len(draw.validation) if draw.is_held_out else 0,
        "best_epoch": outcome.best_epoch,
        "epochs": len(outcome.history),
    }, probabilities


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


def _facts(cell: Cell) -> dict[str, Any]:
    return {
        "method": cell.method,
        "backbone": cell.backbone,
        "shots": "all" if cell.shots is None else cell.shots,
        "seed": cell.seed,
    }


def _fingerprint(
    cell: Cell, backbone: Backbone, examples: Examples, draw: Draw, test: NDArray[np.int64], config: CompareConfig
) -> str:
    """What a kept cell must agree on: tiles, draw, method, options and weights."""
    digest = hashlib.sha256()
    for part in (draw.train, draw.validation, test, examples.labels):
        digest.update(np.ascontiguousarray(part).tobytes() + b"|")
    digest.update(b"".join(examples.keys))
    method, options = read_method(cell.method)
    said = [FORMAT, method, as_plain(options), as_plain(config.training), backbone.weights_sha256, cell]
    digest.update(json.dumps(said, sort_keys=True, default=str).encode())
    return digest.hexdigest()


def _plain(text: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_.=@" else "_" for letter in text)


def _kept(path: Path, made_from: str) -> dict[str, Any] | None:
    """A cell from its two files; None where they are not there, not whole, or of something else."""
    try:
        row: dict[str, Any] = json.loads(path.with_name(path.name + ".json").read_text(encoding="utf-8"))
        probabilities = np.load(path.with_name(path.name + ".npy"), allow_pickle=False)
    except (OSError, ValueError):
        return None
    return {**row, "probabilities": probabilities} if row.pop("made_from", "") == made_from else None


def _write(path: Path, row: dict[str, Any], probabilities: NDArray[np.float64]) -> None:
    """The probabilities first: a row without them is made again."""
    try:
        np.save(path.with_name(path.name + ".npy"), probabilities.astype(np.float32), allow_pickle=False)
        part = path.with_name(path.name + ".part")
        part.write_text(json.dumps(row), encoding="utf-8")
        part.replace(path.with_name(path.name + ".json"))
    except OSError as error:
        raise OutputRefused(
            f"{str(path.parent)!r} cannot be written to ({error.strerror or error}); free space, or name another --out."
        ) from error


def names_of(texts: Sequence[str]) -> tuple[str, ...]:
    """Comma-separated names as a tuple without repeats."""
    return tuple(dict.fromkeys(part.strip() for text in texts for part in text.split(",") if part.strip()))
