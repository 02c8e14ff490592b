"""What is said of patients from their vectors: linear models of each task prompt, pooled and by site."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathotune.errors import NoTiles
from pathotune.training.linear_models import ClassModel, CoxModel, c_index, c_index_interval, has_cox
from pathotune.training.metrics import balanced_accuracy, classification_report
from pathotune.training.patients import PatientTable

# The prompt whose models speak where one answer is asked for, the first that is trained.
OF_CLASSES = ("diagnosis", "general", "survival")
OF_SURVIVAL = ("survival", "general", "diagnosis")
FEWEST = 2


@dataclass(frozen=True)
class PromptModels:
    """The linear models on the vectors of one prompt.

    classes : over all classes of all sites; None where there are no two.
    sites : by name, one that knows the classes of that site only; {} where there is one site.
    cox : over all patients; None where there were too few events.
    """

    classes: ClassModel | None
    sites: dict[str, ClassModel] = field(default_factory=dict)
    cox: CoxModel | None = None

    @classmethod
    def fit(cls, vectors: NDArray[np.floating], table: PatientTable, patients: NDArray[np.int64]) -> PromptModels:
        """Learn from the (n, d) vectors of these patients alone."""
        labels, count = table.labels[patients], len(table.class_names)
        sites = np.asarray([table.sites[patient] for patient in patients.tolist()], dtype=object)
        pooled = _classes(vectors, labels, count)
        own = {}
        names = [name for name in dict.fromkeys(sites.tolist()) if name]
        for name in names if len(names) > 1 else []:
            here = sites == name
            model = _classes(vectors[here], labels[here], count)
            if model is not None:
                own[name] = model
        event, time = table.event[patients], table.time[patients]
        there, cox = event >= 0, None
        if has_cox() and int((event > 0).sum()) >= FEWEST:
            cox = CoxModel.fit(vectors[there], time[there], event[there])
        return cls(pooled, own, cox)

    def probabilities(self, vectors: NDArray[np.floating], sites: Sequence[str]) -> NDArray[np.float64] | None:
        """(n, K), from the model of a patient's own site where there is one; None where no class was learned."""
        if self.classes is None:
            return None
        said = self.classes.probabilities(vectors)
        for row, name in enumerate(sites):
            if name in self.sites:
                said[row] = self.sites[name].probabilities(vectors[row : row + 1])[0]
        return said

    def tensors(self, prompt: str, sites: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """The numbers for a tuning file, sites by their number in `sites`."""
        found = {} if self.classes is None else self.classes.tensors(f"linear.{prompt}.classes.")
        for number, name in enumerate(sites):
            if name in self.sites:
                found |= self.sites[name].tensors(f"linear.{prompt}.site{number}.")
        return found | ({} if self.cox is None else self.cox.tensors(f"linear.{prompt}.cox."))

    @classmethod
    def from_tensors(
        cls, tensors: Mapping[str, NDArray[np.floating]], prompt: str, sites: Sequence[str]
    ) -> PromptModels:
        """Made again from a tuning file."""
        own = {
            name: model
            for number, name in enumerate(sites)
            if (model := ClassModel.from_tensors(tensors, f"linear.{prompt}.site{number}.")) is not None
        }
        pooled = ClassModel.from_tensors(tensors, f"linear.{prompt}.classes.")
        return cls(pooled, own, CoxModel.from_tensors(tensors, f"linear.{prompt}.cox."))


def speaking(prompts: Sequence[str], order: Sequence[str]) -> str:
    """The first prompt of an order that is trained."""
    return next(name for name in order if name in prompts)


def judged(
    models: Mapping[str, PromptModels],
    vectors: NDArray[np.floating],
    table: PatientTable,
    patients: NDArray[np.int64],
    draws: int = 1000,
) -> dict[str, Any]:
    """Scores of these patients.

    Parameters
    ----------
    models : by prompt, in the order of the second axis of `vectors`.
    vectors : (n, prompts, d) of these patients.

    Returns
    -------
    The classification report of the prompt that speaks for classes (where patients have labels), `c_index` with its
    `c_index_ci95` of the one that speaks for survival, and `prompts` and `sites` with the scores of each.
    """
    names = list(models)
    classes, survival = speaking(names, OF_CLASSES), speaking(names, OF_SURVIVAL)
    by_prompt = {
        name: _scores(models[name], vectors[:, number], table, patients, draws if name in (classes, survival) else 0)
        for number, name in enumerate(names)
    }
    result: dict[str, Any] = {"n": len(patients), **by_prompt[classes]["report"]}
    result["c_index"] = by_prompt[survival]["c_index"]
    result["c_index_ci95"] = by_prompt[survival]["c_index_ci95"]
    result["prompts"] = {name: {key: scores[key] for key in _SHOWN} for name, scores in by_prompt.items()}
    sites = sorted({table.sites[patient] for patient in patients.tolist()} - {""})
    if len(sites) > 1:
        result["sites"] = _by_site(models, vectors, table, patients, sites, names.index(classes), names.index(survival))
    return result


_SHOWN = ("balanced_accuracy", "auc", "c_index")


def _scores(
    models: PromptModels,
    vectors: NDArray[np.floating],
    table: PatientTable,
    patients: NDArray[np.int64],
    draws: int,
) -> dict[str, Any]:
    labels = table.labels[patients]
    known = labels >= 0
    said = models.probabilities(vectors, [table.sites[patient] for patient in patients.tolist()])
    found: dict[str, Any] = {"report": {}, "balanced_accuracy": None, "auc": None, "c_index": None}
    found["c_index_ci95"] = None
    if said is not None and known.any():
        groups = [table.names[patient] for patient in patients[known].tolist()]
        found["report"] = classification_report(
            said[known], labels[known], table.class_names, groups=groups, draws=draws
        )
        found |= {key: found["report"][key] for key in ("balanced_accuracy", "auc")}
    if models.cox is not None:
        time, event, risk = table.time[patients], table.event[patients], models.cox.risk(vectors)
        found["c_index"] = c_index(time, event, risk)
        found["c_index_ci95"] = c_index_interval(time, event, risk, draws) if draws else None
    return found


def _by_site(
    models: Mapping[str, PromptModels],
    vectors: NDArray[np.floating],
    table: PatientTable,
    patients: NDArray[np.int64],
    sites: Sequence[str],
    classes: int,
    survival: int,
) -> dict[str, Any]:
    """Of every site its number of patients, balanced accuracy and concordance index."""
    names, found = list(models), {}
    own = np.asarray([table.sites[patient] for patient in patients.tolist()], dtype=object)
    for site in sites:
        here = np.flatnonzero(own == site)
        labels = table.labels[patients[here]]
        said = models[names[classes]].probabilities(vectors[here, classes], [site] * len(here))
        score = None
        if said is not None and (labels >= 0).any():
            score = balanced_accuracy(labels[labels >= 0], said[labels >= 0].argmax(axis=1), len(table.class_names))
        cox = models[names[survival]].cox
        time, event = table.time[patients[here]], table.event[patients[here]]
        risk = None if cox is None else c_index(time, event, cox.risk(vectors[here, survival]))
        found[site] = {"n": len(here), "balanced_accuracy": score, "c_index": risk}
    return found


def site_accuracy(
    vectors: NDArray[np.floating], table: PatientTable, train: NDArray[np.int64], held: NDArray[np.int64]
) -> float | None:
    """How well the site is told from (n, d) vectors of all patients of the table; None where there is one site."""
    names = sorted(set(table.sites) - {""})
    if len(names) < 2:
        return None
    labels = np.asarray([names.index(site) if site else -1 for site in table.sites])
    train, held = train[labels[train] >= 0], held[labels[held] >= 0]
    if not len(held) or len(np.unique(labels[train])) < 2:
        return None
    said = ClassModel.fit(vectors[train], labels[train], len(names)).probabilities(vectors[held])
    return balanced_accuracy(labels[held], said.argmax(axis=1), len(names))


def _classes(vectors: NDArray[np.floating], labels: NDArray[np.int64], count: int) -> ClassModel | None:
    known = labels >= 0
    try:
        return ClassModel.fit(vectors[known], labels[known], count) if known.any() else None
    except NoTiles:
        return None
