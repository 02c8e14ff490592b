"""A ModalTune tuning judged on the patients of a cohort: classes, concordance, every prompt, other sites."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pathotune.device import pick_device
from pathotune.errors import NoTiles
from pathotune.events import Event, Finished, Note
from pathotune.inference.patient_score import PatientModel, load_patient_model, patients_of
from pathotune.inference.slide_features import cohort_features
from pathotune.training.linear_models import c_index
from pathotune.training.patient_models import OF_CLASSES, OF_SURVIVAL, PromptModels, judged, site_accuracy, speaking
from pathotune.training.patients import PatientTable
from pathotune.training.session import session_path
from pathotune.training.stopping import Stopping, never

if TYPE_CHECKING:
    from pathotune.backbones.surface import Backbone
    from pathotune.datasets.cohort import CohortInputs
    from pathotune.methods.checkpoint import Tuning


def evaluate(
    tuning: Tuning,
    inputs: CohortInputs,
    *,
    backbone: Backbone | None = None,
    device: str = "auto",
    cancel: Callable[[], bool] | None = None,
) -> Iterator[Event]:
    """Judge a tuning of patients on the test patients of a cohort; on all of them where none is marked so.

    Where the tuning's linear models know all classes of the cohort they speak. Classes it does not know, as of a site
    it never saw, are learned by new linear models from the cohort's training patients, without any step of the network.

    Yields
    ------
    Note, Step, and Finished with the contract's JSON: the scores of the patients at the top and under `slide`,
    `c_index`, `prompts` (each task prompt's scores), `sites` where there are several, `linear_models` ("the tuning's"
    or "learned on this cohort"), and with expression `without_expression`: the same patients without.

    Raises
    ------
    NoTiles : no patient is left to judge by, or the classes are unknown and nothing is there to learn them from.
    FeaturesMismatch : features of another backbone.
    """
    started = time.monotonic()
    chosen = pick_device(device)
    loaded = load_patient_model(tuning, chosen)
    cohort, own = inputs.cohort, cohort_classes(tuning, inputs)
    table = patients_of(loaded, inputs, own)
    for note in table.notes:
        yield Note(note)
    test, train = _sides(table, cohort.split)
    known = set(own) <= set(tuning.class_names)
    wanted = test if known else np.concatenate([train, test])
    rows = np.asarray(sorted(row for patient in wanted.tolist() for row in table.rows[patient]), dtype=np.int64)
    source = backbone if backbone is not None else str(tuning.backbone["name"])
    folder = session_path(tuning.path or Path("untitled")) / f"features-{tuning.backbone['name']}"
    features = yield from cohort_features(inputs, cohort, rows, source, folder, None, chosen, cancel)
    rows = np.asarray(sorted(features.paths), dtype=np.int64)
    seen = set(rows.tolist())
    test, train = (_with_files(table, side, seen) for side in (test, train if not known else train[:0]))
    if not len(test):
        raise NoTiles("No patient with tile features is left to judge by.")
    vectors = _vectors(loaded, table, features.paths, tuning, cancel)
    with_genes = yield from _document(loaded, table, vectors, train, test, known)
    if table.has_genes[test].any():
        bare = table.without_genes()
        blind = _vectors(loaded, bare, features.paths, tuning, cancel)
        without = yield from _document(loaded, bare, blind, train, test, known)
        with_genes["without_expression"] = {
            key: without.get(key) for key in ("balanced_accuracy", "auc", "c_index", "prompts")
        }
    scores = {key: value for key, value in with_genes.items() if key not in {"prompts", "sites", "without_expression"}}
    yield Finished(
        {
            **with_genes,
            "slide": scores,
            "classes": list(own),
            "patients": len(test),
            "with_expression": int(table.has_genes[test].sum()),
            "linear_models": "the tuning's" if known else "learned on this cohort",
            "method": tuning.method,
            "seconds": round(time.monotonic() - started, 2),
        }
    )


@dataclass(frozen=True)
class Said:
    """What a tuning says of patients.

    names : of those with tile features, in the order of the cohort.
    probabilities : (n, classes of the tuning); None where it learned no class.
    c_index : of its risk, None where that cannot be said.
    """

    names: tuple[str, ...]
    probabilities: NDArray[np.float64] | None
    c_index: float | None


def said_of(
    tuning: Tuning,
    inputs: CohortInputs,
    *,
    device: str = "auto",
    cancel: Callable[[], bool] | None = None,
) -> Generator[Event, None, Said]:
    """What a tuning of patients says of all patients of a cohort, by its own linear models.

    `inputs.features` is where the tile features are.

    Raises
    ------
    NoTiles : no patient has tile features; FeaturesMismatch : they are of another backbone.
    """
    chosen, cohort = pick_device(device), inputs.cohort
    loaded = load_patient_model(tuning, chosen)
    table = patients_of(loaded, inputs, tuning.class_names)
    every, name = np.arange(len(cohort)), str(tuning.backbone["name"])
    features = yield from cohort_features(inputs, cohort, every, name, Path(), None, chosen, cancel)
    patients = _with_files(table, np.arange(len(table)), set(features.paths))
    vectors = _vectors(loaded, table, features.paths, tuning, cancel)(patients)
    prompts = list(loaded.prompts)
    of_classes, of_survival = speaking(prompts, OF_CLASSES), speaking(prompts, OF_SURVIVAL)
    sites = [table.sites[patient] for patient in patients.tolist()]
    said = loaded.models[of_classes].probabilities(vectors[:, prompts.index(of_classes)], sites)
    cox, time, event = loaded.models[of_survival].cox, table.time[patients], table.event[patients]
    risk = None if cox is None else cox.risk(vectors[:, prompts.index(of_survival)])
    names = tuple(table.names[patient] for patient in patients.tolist())
    return Said(names, said, None if risk is None else c_index(time, event, risk))


def cohort_classes(tuning: Tuning, inputs: CohortInputs) -> tuple[str, ...]:
    """The classes to judge by: the tuning's where it knows all of the cohort's, else the cohort's own."""
    known = set(inputs.cohort.classes) <= set(tuning.class_names)
    return tuning.class_names if known else inputs.cohort.classes


Vectors = Callable[[NDArray[np.int64]], NDArray[np.float32]]


def _vectors(
    loaded: PatientModel,
    table: PatientTable,
    paths: dict[int, Path],
    tuning: Tuning,
    cancel: Callable[[], bool] | None,
) -> Vectors:
    """What gives the vectors (n, prompts, d) of patients."""
    from pathotune.training.bags import Bags
    from pathotune.training.modaltune import PatientData, patient_vectors

    rows = sorted(paths)
    place = {row: number for number, row in enumerate(rows)}
    slides = tuple(tuple(place[row] for row in own if row in place) for own in table.rows)
    oldest = float(tuning.training.get("oldest") or 100.0)
    clinical = table.clinical(oldest) if loaded.model.clinical is not None else None
    bags = Bags([paths[row] for row in rows])
    data = PatientData(table, bags, slides, clinical, loaded.model.config.most_tiles)
    stopping = Stopping(cancel or never)

    def ask(patients: NDArray[np.int64]) -> NDArray[np.float32]:
        return patient_vectors(loaded.model, data, patients, loaded.prompts, loaded.device, 0, stopping)

    return ask


def _document(
    loaded: PatientModel,
    table: PatientTable,
    vectors: Vectors,
    train: NDArray[np.int64],
    test: NDArray[np.int64],
    known: bool,
) -> Generator[Event, None, dict[str, Any]]:
    """Scores of the test patients, by the tuning's linear models or by new ones."""
    of_test = vectors(test)
    if known:
        return judged(loaded.models, of_test, table, test)
    if not len(train):
        raise NoTiles(
            f"The tuning does not know {', '.join(sorted(set(table.class_names) - set(loaded.tuning.class_names)))}. "
            "To judge it on classes it never saw, give the cohort a column split with train and test: linear models "
            "are then learned from the training patients, without any step of the network."
        )
    yield Note(f"New linear models are learned from {len(train)} training patients; the network is left as it is.")
    of_train = vectors(train)
    models = {name: PromptModels.fit(of_train[:, number], table, train) for number, name in enumerate(loaded.prompts)}
    report = judged(models, of_test, table, test)
    joined = np.zeros((len(table), of_test.shape[-1]), dtype=np.float32)
    joined[train], joined[test] = of_train[:, 0], of_test[:, 0]
    report["site_accuracy"] = site_accuracy(joined, table, train, test)
    return report


def _sides(table: PatientTable, split: tuple[str, ...]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Patients to judge by (the test set, or all) and, beside a test set, those to learn linear models from."""
    sides = [split[rows[0]] for rows in table.rows]
    test = np.asarray([index for index, side in enumerate(sides) if side == "test"], dtype=np.int64)
    if not len(test):
        return np.arange(len(table)), np.zeros(0, dtype=np.int64)
    return test, np.asarray([index for index, side in enumerate(sides) if side != "test"], dtype=np.int64)


def _with_files(table: PatientTable, patients: NDArray[np.int64], rows: set[int]) -> NDArray[np.int64]:
    found = [patient for patient in patients.tolist() if rows.intersection(table.rows[patient])]
    return np.asarray(found, dtype=np.int64)
