"""From a finished training on whole slides to its file, and to the table of what the folds say."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pathotune.errors import OutputRefused
from pathotune.evaluation.slides import scores_in_words
from pathotune.features.matching import reading_of
from pathotune.methods.checkpoint import TRAINED, Tuning, tuning_name
from pathotune.methods.options import as_plain
from pathotune.training.record import pseudonym

if TYPE_CHECKING:
    from pathotune.backbones.surface import Backbone
    from pathotune.datasets.cohort import Cohort, CohortInputs
    from pathotune.inference.slide_features import FeatureFolder
    from pathotune.methods.mil.config import MilConfig
    from pathotune.tasks import Task
    from pathotune.training.bags import Bags, Learned
    from pathotune.training.schedule import TrainingConfig
    from pathotune.training.stopping import Stopping


@dataclass(frozen=True)
class SlideRun:
    """What one tuning from whole slides is made of.

    cohort : slides with a label; `labels` (n,) are their classes among `class_names`.
    backbone : loaded, or its name.
    folder : for what goes on from one run to the next.
    """

    inputs: CohortInputs
    cohort: Cohort
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    config: MilConfig
    backbone: Backbone | str
    training: TrainingConfig
    task: Task
    folder: Path
    device: str
    stopping: Stopping
    cancel: Callable[[], bool]


@dataclass(frozen=True)
class SlideOutcome:
    """What a run came to: the aggregator, the features it takes, and the tile tuning they were made with."""

    learned: Learned
    bags: Bags
    features: FeatureFolder
    tile_tuning: Tuning | None
    rows: NDArray[np.int64]
    train: NDArray[np.int64]
    held: NDArray[np.int64]


def save_slide_tuning(
    run: SlideRun, outcome: SlideOutcome, method: str, out: str | Path, seconds: float
) -> dict[str, Any]:
    """Save the tuning and its card, and return the contract's JSON document."""
    from pathotune.training.metrics import classification_report

    learned, names = outcome.learned, run.class_names
    labels = run.labels[outcome.rows]
    patients = [run.cohort.patients[row] for row in outcome.rows[outcome.held].tolist()]
    report = classification_report(learned.held_probabilities, labels[outcome.held], names, groups=patients)
    status = "cancelled" if learned.fit.is_cancelled else "done"
    tuning = _tuning(run, outcome, method, report, seconds, status)
    path = tuning.save(out)
    counted = _per_class(labels, names)
    return {
        "classes": list(names),
        "slides_per_class": counted,
        "validation_slides_per_class": _per_class(labels[outcome.held], names),
        "tiles": int(sum(header.count for header in outcome.bags.headers)),
        "epochs": learned.fit.history,
        "best_epoch": learned.fit.epoch,
        "val": report,
        "temperature": learned.model.temperature,
        "trainable_parameters": learned.parameters,
        "method": method,
        "aggregator": run.config.aggregator,
        "prompts": run.config.prompts,
        "backbone": outcome.features.card.name,
        "device": run.device,
        "seconds": round(seconds, 2),
        "out": str(path),
        "status": status,
        "said": [scores_in_words(report, names, "held-out slides")],
    }


def _per_class(labels: NDArray[np.int64], names: Sequence[str]) -> dict[str, int]:
    return {name: int((labels == index).sum()) for index, name in enumerate(names)}


def _tuning(
    run: SlideRun, outcome: SlideOutcome, method: str, report: dict[str, Any], seconds: float, status: str
) -> Tuning:
    learned, features = outcome.learned, outcome.features
    labels, held = run.labels[outcome.rows], outcome.held
    tensors = {TRAINED + name: value for name, value in learned.model.trainable_state().items()}
    reading = reading_of(features.common, features.card) if outcome.tile_tuning is None else outcome.tile_tuning.reading
    tuning = Tuning(
        method=method,
        config=as_plain(run.config) | ({"prompts": "embedded"} if outcome.tile_tuning is not None else {}),
        task=run.task.to_dict(),
        classes=[{"name": entry.name, "color": list(entry.color)} for entry in run.task.classes],
        backbone=_backbone(features, reading.mpp),
        reading=reading,
        training={
            "level": "slide",
            "slides": [pseudonym(header.slide_fingerprint or header.slide) for header in outcome.bags.headers],
            "slides_per_class": _per_class(labels, run.class_names),
            "validation_slides_per_class": _per_class(labels[held], run.class_names),
            "patients": len(set(run.cohort.patients)),
            "features": {"width": features.common.width, "tile_px": features.common.tile_px},
            "split": {"by": "patient", "fraction": round(len(held) / len(labels), 4)},
            "seed": run.training.seed,
            "epochs": len(learned.fit.history),
            "best_epoch": learned.fit.epoch,
            "metrics": report,
            "options": as_plain(run.training),
            "trainable_parameters": learned.parameters,
            "device": run.device,
            "seconds": round(seconds, 2),
            "ended": status,
        },
        calibration={"temperature": learned.model.temperature, "slides": len(held)},
        tensors=tensors,
    )
    if outcome.tile_tuning is not None:
        tuning.embed(outcome.tile_tuning)
    return tuning


def _backbone(features: FeatureFolder, mpp: float) -> dict[str, Any]:
    """What the file says of the backbone, from its card: it need not be loaded for a tuning on features."""
    card = features.card
    return {
        "name": card.name,
        "title": card.title,
        "source": card.hub_id,
        "sha256": features.sha256,
        "embed_dim": card.embed_dim,
        "output_dim": card.output_dim,
        "depth": card.depth,
        "image_size": card.image_size,
        "patch_size": card.patch_size,
        "mpp": mpp,
        "mean": list(card.mean or ()),
        "std": list(card.std or ()),
        "pooling": card.pooling,
        "licence": card.licence,
        "non_commercial": card.non_commercial,
        "no_derivatives": card.no_derivatives,
    }


def write_folds(
    tuning: Path, cohort: Cohort, class_names: Sequence[str], folds: NDArray[np.int64], said: NDArray[np.float64]
) -> Path:
    """Write what each slide is said to be by the folds that never saw it: NAME.folds.csv beside the tuning.

    Raises
    ------
    OutputRefused : the file cannot be written.
    """
    path = tuning.with_name(f"{tuning_name(tuning)}.folds.csv")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["slide", "patient", "fold", "label", "predicted", *(f"probability {name}" for name in class_names)]
    )
    for row, slide in enumerate(cohort.slides):
        if folds[row] < 0:
            continue
        known = bool(np.isfinite(said[row]).all())
        predicted = class_names[int(said[row].argmax())] if known else ""
        numbers = [f"{value:.6f}" if known else "" for value in said[row].tolist()]
        writer.writerow([slide, cohort.patients[row], int(folds[row]) + 1, cohort.labels[row], predicted, *numbers])
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text.getvalue(), encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        raise OutputRefused(f"{path} cannot be written ({error.strerror or error}). Choose another --out.") from None
    return path
