"""ModalTune and aggregators side by side on the patients of a cohort, under the protocol of all comparisons."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pathotune.backbones.weights import file_sha256
from pathotune.device import pick_device
from pathotune.errors import NoTiles, UsageError
from pathotune.evaluation.cells import FOLDER, Cell, Cells, fingerprint
from pathotune.evaluation.compare import ARRAYS, RANDOM, CompareConfig, scores_of
from pathotune.evaluation.compare_slides import check_cohort, check_of_slides, rows_of_slides
from pathotune.evaluation.memory import PeakMemory
from pathotune.evaluation.patients import said_of
from pathotune.evaluation.shots import Draw, draw_shots
from pathotune.evaluation.variants import read_method
from pathotune.events import Event, Finished, Step, result_of
from pathotune.execution.patient_tuning import tune
from pathotune.features import header
from pathotune.inference.slide_features import FeatureFolder, cohort_features, labelled_rows
from pathotune.methods.checkpoint import Tuning
from pathotune.methods.options import as_plain
from pathotune.training.patients import genes_wanted

if TYPE_CHECKING:
    from pathotune.datasets.cohort import Cohort, CohortInputs
    from pathotune.training.schedule import TrainingConfig

METHOD = "modaltune"
TUNINGS = "tunings"


def is_of_patients(words: tuple[str, ...]) -> bool:
    """Whether any of these methods learns from patients, so that all are judged by patients."""
    return any(read_method(word).name == METHOD for word in words)


@dataclass(frozen=True)
class PatientCompareConfig(CompareConfig):
    """What is compared on patients; aggregators learn from their slides, and say of a patient the mean of hers."""

    methods: tuple[str, ...] = ("mil", METHOD)
    shot_unit: str = "slide"

    def __post_init__(self) -> None:
        """Refuse what cannot be compared; raises UsageError, UnknownName."""
        super().__post_init__()
        for word in self.of_slides:
            check_of_slides(word)

    @property
    def levels(self) -> tuple[str, ...]:
        """What may carry a label."""
        return ("slide", "patient")

    @property
    def of_slides(self) -> list[str]:
        """The methods that learn from slides."""
        return [word for word in self.methods if read_method(word).name != METHOD]


def compare_patients(
    inputs: CohortInputs,
    config: PatientCompareConfig,
    out: str | Path,
    device: str = "auto",
    cancel: Callable[[], bool] | None = None,
) -> Iterator[Event]:
    """Train and judge every cell; patients of the test set are judged, the others learned from.

    All draw the same patients. The file of every ModalTune cell is kept under `tunings`. What is written, and how a
    broken-off comparison goes on, is as in `compare`; rows of ModalTune have a `c_index` where times are known.

    Raises
    ------
    UsageError : the cohort has no test rows, a class on one side only, or expression without pathways.
    TableUnreadable : slides of one patient with different labels.
    """
    from pathotune.evaluation.comparison_report import Judged, write_comparison
    from pathotune.evaluation.summary import summarise, text_verdicts

    started, out = time.monotonic(), Path(out)
    genes_wanted(inputs)
    cohort = labelled_rows(inputs.cohort)
    names = check_cohort(cohort)
    _check_patients(cohort)
    found = yield from rows_of_slides(inputs, cohort, config, config.of_slides, out, device, cancel)
    rows = [by_patient(row) for row in found]
    for backbone in config.backbones:
        rows += yield from _on_backbone(inputs, cohort, names, config, backbone, out, device, cancel, len(rows))
    places = {word: number for number, word in enumerate(config.methods)}
    steps = ["all" if shots is None else shots for shots in config.shots]
    rows.sort(
        key=lambda row: (
            config.backbones.index(row["backbone"]), steps.index(row["shots"]), row["seed"], places[row["method"]],
        )
    )  # fmt: skip
    summary, verdicts = summarise(rows, names), text_verdicts(rows)
    sides = dict(zip(cohort.patients, cohort.split, strict=True))
    test = sum(split == "test" for split in sides.values())
    paths = write_comparison(out, rows, summary, verdicts, config, Judged(names, len(sides) - test, test, "patients"))
    plain = [{key: value for key, value in row.items() if key not in ARRAYS} for row in rows]
    seconds = round(time.monotonic() - started, 2)
    yield Finished({"rows": plain, "summary": summary, "text": verdicts, "classes": names, **paths, "seconds": seconds})


def by_patient(row: dict[str, Any]) -> dict[str, Any]:
    """A row on slides as one on patients: the mean of what is said of her slides, judged once."""
    if "error" in row:
        return row
    names = list(dict.fromkeys(row["groups"]))
    own = np.asarray([names.index(name) for name in row["groups"]])
    said = np.stack([row["probabilities"][own == number].mean(axis=0) for number in range(len(names))])
    labels = np.asarray([row["labels"][own == number][0] for number in range(len(names))])
    return {**row, **scores_of(said, labels), "probabilities": said, "labels": labels, "groups": names}


def _check_patients(cohort: Cohort) -> None:
    """Refuse patients whose slides disagree in class or side; raises UsageError."""
    for patient, rows in cohort.by_patient().items():
        labels, sides = {cohort.labels[row] for row in rows}, {cohort.split[row] for row in rows}
        if len(labels) > 1 or len(sides) > 1:
            what = "labels" if len(labels) > 1 else "sides of the split"
            raise UsageError(
                f"The slides of the patient {patient!r} have different {what}; ModalTune learns from patients as a "
                "whole, so give all slides of one the same."
            )


@dataclass(frozen=True)
class _Cohort:
    """The patients who have tile features, as draws see them.

    rows : of each patient, those of her slides in the cohort.
    made_from : what the cells of all methods have in common, hashed.
    """

    inputs: CohortInputs
    names: tuple[str, ...]
    labels: NDArray[np.int64]
    sides: NDArray[np.str_]
    rows: tuple[tuple[int, ...], ...]
    found: FeatureFolder
    made_from: list[str]

    @classmethod
    def of(cls, inputs: CohortInputs, classes: list[str], found: FeatureFolder) -> _Cohort:
        """From a cohort whose rows have labels, and the features there are."""
        cohort = inputs.cohort
        own = {name: tuple(row for row in rows if row in found.paths) for name, rows in cohort.by_patient().items()}
        own = {name: rows for name, rows in own.items() if rows}
        first = [rows[0] for rows in own.values()]
        tables = [path for path in (inputs.expression, inputs.pathways, inputs.clinical) if path is not None]
        headers = [header(found.paths[row]) for row in sorted(found.paths)]
        said = [file_sha256(path) for path in tables] + [one.slide_fingerprint or one.slide for one in headers]
        said += [str(cohort.time.tolist()), str(cohort.event.tolist()), found.sha256]
        labels = cohort.label_indices(classes)[first]
        return cls(inputs, tuple(own), labels, np.asarray(cohort.split)[first], tuple(own.values()), found, said)

    def part(self, sides: dict[str, NDArray[np.int64]]) -> CohortInputs:
        """The inputs with the patients of each side alone, said in the column split."""
        rows = [(row, side) for side, some in sides.items() for patient in some.tolist() for row in self.rows[patient]]
        cohort = self.inputs.cohort.take([row for row, _ in rows])
        return replace(self.inputs, cohort=replace(cohort, split=tuple(side for _, side in rows)))


def _on_backbone(
    inputs: CohortInputs,
    cohort: Cohort,
    classes: list[str],
    config: PatientCompareConfig,
    backbone: str,
    out: Path,
    device: str,
    cancel: Callable[[], bool] | None,
    before: int,
) -> Generator[Event, None, list[dict[str, Any]]]:
    """All ModalTune cells on the features of one backbone."""
    if backbone.endswith(RANDOM):
        raise UsageError("Random weights cannot be compared on a cohort; name a backbone as it is.")
    folder, every = out / "features" / backbone, np.arange(len(cohort))
    found = yield from cohort_features(inputs, cohort, every, backbone, folder, None, device, cancel)
    inputs = replace(inputs, cohort=cohort, features=inputs.features or folder)
    patients, cells = _Cohort.of(inputs, classes, found), Cells(out / FOLDER)
    pool, own, test = (np.flatnonzero(_side(patients.sides) == name) for name in ("train", "val", "test"))
    judged = {"labels": patients.labels[test], "groups": [patients.names[number] for number in test.tolist()]}
    rows: list[dict[str, Any]] = []
    for shots in config.shots:
        for seed in range(config.seeds):
            draw = draw_shots(patients.labels, patients.names, pool, own, shots, "slide", seed)
            for word in config.methods:
                if word in config.of_slides:
                    continue
                cell, training = Cell(word, backbone, shots, seed), replace(config.training, seed=seed, device=device)
                said = [as_plain(read_method(word).config), as_plain(training), patients.made_from, patients.names]
                made_from = fingerprint([draw.train, draw.validation, test, patients.labels], [*said, cell])
                file = out / TUNINGS / f"{cells.path(cell, made_from).name}.pathotune.safetensors"
                work = partial(_train_and_judge, cell, patients, draw, test, training, file)
                row = yield from cells.row(cell, made_from, work)
                rows.append({**row, **judged})
                yield Step("comparing", before + len(rows), len(config), "cells")
    return rows


def _side(split: NDArray[np.str_]) -> NDArray[np.str_]:
    """train, val or test of each patient."""
    return np.where((split == "test") | (split == "val"), split, "train")


def _train_and_judge(
    cell: Cell,
    patients: _Cohort,
    draw: Draw,
    test: NDArray[np.int64],
    training: TrainingConfig,
    file: Path,
) -> tuple[dict[str, Any], NDArray[np.float64]]:
    """Tune one cell into its file; its row and the probabilities (n, K) of the test patients."""
    config: Any = read_method(cell.method).config
    # With so few that none can be spared, the tuning itself holds out what it can.
    sides = {"train": draw.train, "val": draw.validation} if draw.is_held_out else {"": draw.train}
    file.parent.mkdir(parents=True, exist_ok=True)
    device = pick_device(training.device)
    with PeakMemory(device) as memory:
        learned = result_of(tune(patients.part(sides), METHOD, config, cell.backbone, training, None, file))
    held = patients.part({"": test})

    def judge() -> Iterator[Event]:
        said = yield from said_of(Tuning.load(file), held, device=device)
        yield Finished({"said": said})

    said = result_of(judge())["said"]
    if said.probabilities is None:
        raise NoTiles("No class was learned; give more patients of each.")
    labels = patients.labels[test]
    return {
        **cell.facts(),
        **scores_of(said.probabilities, labels),
        "c_index": said.c_index,
        "trainable_parameters": learned["trainable_parameters"],
        "seconds": learned["seconds"],
        "peak_memory_mb": round(memory.megabytes, 1),
        "train_tiles": learned["patients"] - learned["validation_patients"],
        "validation_tiles": learned["validation_patients"],
        "best_epoch": learned["best_epoch"],
        "epochs": len(learned["epochs"]),
        "tuning": str(file),
    }, said.probabilities
