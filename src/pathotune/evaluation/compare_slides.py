"""Aggregators (and other methods of whole slides) side by side on a cohort, under the protocol of all comparisons."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pathotune.device import pick_device
from pathotune.errors import UsageError
from pathotune.evaluation.cells import FOLDER, Cell, Cells, fingerprint
from pathotune.evaluation.compare import ARRAYS, RANDOM, CompareConfig, calibrated, scores_of
from pathotune.evaluation.memory import PeakMemory
from pathotune.evaluation.shots import Draw, draw_shots
from pathotune.evaluation.variants import read_method
from pathotune.events import Event, Finished, Step, result_of
from pathotune.inference.slide_features import FeatureFolder, cohort_features, labelled_rows
from pathotune.methods.checkpoint import Tuning
from pathotune.methods.options import as_plain

if TYPE_CHECKING:
    from pathotune.datasets.cohort import Cohort, CohortInputs
    from pathotune.methods.mil.config import MilConfig
    from pathotune.training.bags import Bags


@dataclass(frozen=True)
class SlideCompareConfig(CompareConfig):
    """What is compared on a cohort; shots count patients, whose slides are learned together."""

    methods: tuple[str, ...] = ("mil[aggregator=mean]", "mil")
    shot_unit: str = "slide"

    def __post_init__(self) -> None:
        """Refuse what cannot be compared; raises UsageError, UnknownName."""
        super().__post_init__()
        for word in self.methods:
            check_of_slides(word)

    @property
    def levels(self) -> tuple[str, ...]:
        """What may carry a label."""
        return ("slide",)


def check_of_slides(word: str) -> None:
    """Refuse a method that cannot be compared on whole slides; raises UsageError, UnknownName."""
    variant = read_method(word)
    if variant.name != "mil":
        raise UsageError(f"{word} cannot be compared on a cohort; compare mil with its aggregators, or modaltune.")
    if getattr(variant.config, "is_weak", False):
        raise UsageError(f"{word} would tune prompts anew in every cell; tune them once, and compare prompts=FILE.")


def compare_slides(
    inputs: CohortInputs,
    config: SlideCompareConfig,
    out: str | Path,
    device: str = "auto",
    cancel: Callable[[], bool] | None = None,
) -> Iterator[Event]:
    """Train and judge every cell on a cohort; rows of the test set are judged, the others learned from.

    Features are those of `inputs.features`, or extracted into the folder once for each backbone (and tile tuning).
    What is written, and how a broken-off comparison goes on, is as in `compare`.

    Raises
    ------
    UsageError : the cohort has no test rows, or a class on one side only.
    """
    from pathotune.evaluation.comparison_report import Judged, write_comparison
    from pathotune.evaluation.summary import summarise, text_verdicts

    started, out = time.monotonic(), Path(out)
    cohort = labelled_rows(inputs.cohort)
    names = check_cohort(cohort)
    rows = yield from rows_of_slides(inputs, cohort, config, config.methods, out, device, cancel)
    summary, verdicts = summarise(rows, names), text_verdicts(rows)
    test = sum(split == "test" for split in cohort.split)
    judged = Judged(names, len(cohort) - test, test, "slides")
    paths = write_comparison(out, rows, summary, verdicts, config, judged)
    plain = [{key: value for key, value in row.items() if key not in ARRAYS} for row in rows]
    seconds = round(time.monotonic() - started, 2)
    yield Finished({"rows": plain, "summary": summary, "text": verdicts, "classes": names, **paths, "seconds": seconds})


def rows_of_slides(
    inputs: CohortInputs,
    cohort: Cohort,
    config: CompareConfig,
    words: Sequence[str],
    out: Path,
    device: str,
    cancel: Callable[[], bool] | None = None,
) -> Generator[Event, None, list[dict[str, Any]]]:
    """The rows of these methods, each with the probabilities, labels and patients of the test slides.

    Parameters
    ----------
    cohort : labelled rows, as `check_cohort` wants them.
    words : of `evaluation.variants`, all of mil.
    """
    names, cells = list(cohort.classes), Cells(out / FOLDER)
    rows: list[dict[str, Any]] = []
    for backbone in config.backbones if words else ():
        if backbone.endswith(RANDOM):
            raise UsageError("Random weights cannot be compared on a cohort; name a backbone as it is.")
        for one in dict.fromkeys(_prompts(word) for word in words):
            alike = [word for word in words if _prompts(word) == one]
            tile_tuning = Tuning.load(Path(one)) if one else None
            stain = None if config.training.stain == "none" else config.training.stain
            unprompted = f"{backbone}-{stain}" if stain else backbone
            folder = out / "features" / (unprompted if tile_tuning is None else tile_tuning.fingerprint[:8])
            found = yield from cohort_features(
                inputs, cohort, np.arange(len(cohort)), backbone, folder, tile_tuning, device, cancel, stain
            )
            rows += yield from _on_features(cohort, names, config, backbone, alike, found, cells, device, len(rows))
    return rows


def _prompts(word: str) -> str:
    """The tile tuning a method takes its features from; "" for the plain backbone's."""
    config = read_method(word).config
    return str(config.prompts) if config.takes_prompts else ""  # type: ignore[attr-defined]


def check_cohort(cohort: Cohort) -> list[str]:
    """The classes of a cohort that can be compared on; raises UsageError with what it lacks."""
    test = {label for label, split in zip(cohort.labels, cohort.split, strict=True) if split == "test"}
    train = {label for label, split in zip(cohort.labels, cohort.split, strict=True) if split != "test"}
    if not test:
        raise UsageError("No row of the cohort has the split test, so there is nothing to judge by: add some.")
    odd = sorted(str(label) for label in test ^ train)
    if odd or len(train) < 2:
        what = f"The class {odd[0]!r} is on one side of the split only" if odd else "The cohort has one class only"
        raise UsageError(f"{what}; a comparison needs slides of every class to learn from and to judge by.")
    return list(cohort.classes)


def _on_features(
    cohort: Cohort,
    names: list[str],
    config: CompareConfig,
    backbone: str,
    words: list[str],
    found: FeatureFolder,
    cells: Cells,
    device: str,
    before: int,
) -> Generator[Event, None, list[dict[str, Any]]]:
    """All cells on the features of one backbone."""
    from pathotune.training.bags import Bags

    kept = cohort.take(sorted(found.paths))
    bags = Bags([found.paths[row] for row in sorted(found.paths)], config.training.cache_mb)
    labels, split = kept.label_indices(names), np.asarray(kept.split)
    pool = np.flatnonzero((split != "test") & (split != "val"))
    own, test = np.flatnonzero(split == "val"), np.flatnonzero(split == "test")
    rows = []
    for shots in config.shots:
        for seed in range(config.seeds):
            draw = draw_shots(labels, kept.patients, pool, own, shots, "slide", seed)
            for word in words:
                cell = Cell(word, backbone, shots, seed)
                training = replace(config.training, seed=seed)
                said = [word, as_plain(read_method(word).config), as_plain(training), found.sha256, found.common.tuning]
                prints = "".join(one.slide_fingerprint or one.slide for one in bags.headers).encode()
                made_from = fingerprint([draw.train, draw.validation, test, labels, prints], [*said, cell])
                work = partial(_train_and_judge, cell, bags, labels, names, draw, test, training, pick_device(device))
                row = yield from cells.row(cell, made_from, work)
                patients = [kept.patients[number] for number in test.tolist()]
                rows.append({**row, "labels": labels[test], "groups": patients})
                yield Step("comparing", before + len(rows), len(config), "cells")
    return rows


def _train_and_judge(
    cell: Cell,
    bags: Bags,
    labels: NDArray[np.int64],
    names: list[str],
    draw: Draw,
    test: NDArray[np.int64],
    training: Any,
    device: str,
) -> tuple[dict[str, Any], NDArray[np.float64]]:
    """Train one cell; its row and the probabilities (n, K) of the test slides."""
    from pathotune.training.bags import BagTrainee, learn

    config: MilConfig = read_method(cell.method).config  # type: ignore[assignment]
    started = time.monotonic()
    with PeakMemory(device) as memory:

        def work() -> Iterator[Event]:
            learned = yield from learn(bags, labels, names, draw.train, draw.validation, config, training, device)
            yield Finished({"learned": learned})

        learned = result_of(work())["learned"]
        seconds = time.monotonic() - started
        learned.model.temperature = 1.0
        trainee = BagTrainee(learned.model, bags, labels, draw.train, draw.validation, config, training, device)
        logits = trainee.logits(test)
        held = trainee.logits(draw.validation) if draw.is_held_out else None
    probabilities = calibrated(logits, held, labels[draw.validation])
    return {
        **cell.facts(),
        **scores_of(probabilities, labels[test]),
        "trainable_parameters": learned.parameters,
        "seconds": round(seconds, 3),
        "peak_memory_mb": round(memory.megabytes, 1),
        "train_tiles": len(draw.train),
        "validation_tiles": len(draw.validation) if draw.is_held_out else 0,
        "best_epoch": learned.fit.epoch,
        "epochs": len(learned.fit.history),
    }, probabilities
