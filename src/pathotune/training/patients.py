"""A cohort patient by patient: slides, labels, what the tables say, expression and clinical numbers, in one order."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pathotune.errors import TableUnreadable, UsageError
from pathotune.methods.modaltune.texts import UNSAID, PatientFacts

if TYPE_CHECKING:
    from pathotune.datasets.cohort import Cohort, CohortInputs
    from pathotune.datasets.expression import Expression, GeneScaler

# What columns are called in the tables that people have.
ALIASES: dict[str, tuple[str, ...]] = {
    "patient": ("patient", "case_id", "case", "patient_id", "submitter_id", "bcr_patient_barcode"),
    "site": ("site", "primary_site", "cancer", "cancer_type", "project", "project_id", "organ"),
    "diagnosis": ("diagnosis", "primary_diagnosis", "histological_type"),
    "stage": ("stage", "overall_stage", "ajcc_pathologic_stage", "pathologic_stage", "tumor_stage"),
    "t": ("t", "ajcc_pathologic_t", "pathologic_t"),
    "n": ("n", "ajcc_pathologic_n", "pathologic_n"),
    "m": ("m", "ajcc_pathologic_m", "pathologic_m"),
    "age": ("age", "age_at_diagnosis", "age_at_index", "age_at_initial_pathologic_diagnosis"),
    "time": ("time", "months", "survival_months", "os_time"),
    "event": ("event", "os", "os_event"),
}
BARCODE = re.compile(r"TCGA-[A-Z0-9]{2}-[A-Z0-9]{4}(?=-|$)")  # of a patient, at the beginning of all that is hers
ORDER = {"0": 0.0, "x": math.nan, "i": 1.0, "ii": 2.0, "iii": 3.0, "iv": 4.0}


@dataclass(frozen=True)
class PatientTable:
    """Patients of a cohort, one row each.

    names : of the patients.
    rows : of each patient, the cohort's rows (its slides).
    labels : (n,) index among `class_names`, -1 for none.
    facts : what the tables say of each.
    ages : (n,) as the table has them, NaN where not known.
    genes : (n, genes) z-scores, 0 where a value is missing; None without expression.
    has_genes : (n,) whether the patient has expression.
    notes : what did not line up, in sentences.
    """

    names: tuple[str, ...]
    rows: tuple[tuple[int, ...], ...]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    facts: tuple[PatientFacts, ...]
    ages: NDArray[np.float64]
    genes: NDArray[np.float32] | None
    has_genes: NDArray[np.bool_]
    notes: tuple[str, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.names)

    @property
    def time(self) -> NDArray[np.float64]:
        """(n,) times, NaN where not known."""
        return np.asarray([one.time for one in self.facts], dtype=np.float64)

    @property
    def event(self) -> NDArray[np.int64]:
        """(n,) events, -1 where not known."""
        return np.asarray([one.event for one in self.facts], dtype=np.int64)

    @property
    def sites(self) -> tuple[str, ...]:
        """Of each patient, "" where not known."""
        return tuple(one.site for one in self.facts)

    def of_rows(self, rows: Iterable[int]) -> NDArray[np.int64]:
        """The patients whose slides are among these rows of the cohort."""
        wanted = {int(row) for row in rows}
        found = [index for index, own in enumerate(self.rows) if wanted.intersection(own)]
        return np.asarray(found, dtype=np.int64)

    def without_genes(self) -> PatientTable:
        """The same patients as if nobody had expression."""
        return replace(self, has_genes=np.zeros(len(self), dtype=bool))

    def clinical(self, oldest: float) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """(n, 5) age as a part of `oldest`, stage, T, N, M as parts of 4, 0 where not known; and who has any."""
        stages = [[ordinal(getattr(one, name)) / 4.0 for name in ("stage", "t", "n", "m")] for one in self.facts]
        numbers = np.column_stack([self.ages / max(oldest, 1e-9), np.asarray(stages).reshape(len(self), 4)])
        known = np.isfinite(numbers)
        return np.where(known, numbers, 0.0).astype(np.float32), known.any(axis=1)


def patient_table(cohort: Cohort, inputs: CohortInputs, class_names: Sequence[str]) -> PatientTable:
    """Gather what a cohort and its clinical table say of each patient; genes come with `with_genes`.

    What stands in the clinical table goes before the cohort's own columns of the same meaning.

    Raises
    ------
    TableUnreadable : the clinical table names no patients, or slides of one patient have different labels.
    """
    columns, notes = _clinical_columns(cohort, inputs.clinical)
    names, rows = zip(*((name, tuple(own)) for name, own in cohort.by_patient().items()), strict=True)
    index = {name: number for number, name in enumerate(class_names)}
    labels, facts, ages = [], [], []
    for name, own in zip(names, rows, strict=True):
        said = {cohort.labels[row] for row in own} - {None}
        if len(said) > 1:
            raise TableUnreadable(
                f"The slides of the patient {name!r} have the labels {', '.join(sorted(map(str, said)))}; this method "
                "learns one label of a patient."
            )
        label = next(iter(said), None)
        labels.append(-1 if label is None else index.get(label, -1))
        facts.append(_facts(columns.get(name, {}), cohort, own, label))
        ages.append(_number(columns.get(name, {}).get("age", "")))
    return PatientTable(
        tuple(names),
        tuple(rows),
        np.asarray(labels, dtype=np.int64),
        tuple(class_names),
        tuple(facts),
        np.asarray(ages, dtype=np.float64),
        None,
        np.zeros(len(names), dtype=bool),
        tuple(notes),
    )


def samples_of(table: PatientTable, cohort: Cohort, expression: Expression) -> NDArray[np.int64]:
    """(n,) the expression's row of each patient, -1 where it has none.

    A sample is called as the patient, as one of her slides or as the beginning of such a name (P7 for P7-1.svs), or it
    begins with the patient's name (TCGA-AB-1234-01 for TCGA-AB-1234; of several the first in the alphabet, which is the
    primary tumour).
    """
    from pathotune.features.folder import slide_stem

    row_of = expression.row_of()
    beginnings: dict[str, str] = {}
    for sample in sorted(row_of, reverse=True):
        for length in [match.start() for match in re.finditer(r"[-.]", sample)]:
            beginnings[sample[:length]] = sample
    found = []
    for name, rows in zip(table.names, table.rows, strict=True):
        stems = [slide_stem(cohort.slides[row]) for row in rows]
        called = [name, *(cohort.slides[row] for row in rows), *stems]
        called += [stem[: match.start()] for stem in stems for match in reversed(list(re.finditer(r"[-._]", stem)))]
        exact = next((row_of[one] for one in called if one in row_of), None)
        barcode = BARCODE.match(stems[0])
        person = barcode.group() if barcode and name not in beginnings else name
        found.append(row_of[beginnings[person]] if exact is None and person in beginnings else exact)
    return np.asarray([-1 if one is None else one for one in found], dtype=np.int64)


def with_genes(
    table: PatientTable, samples: NDArray[np.int64], expression: Expression, scaler: GeneScaler
) -> PatientTable:
    """The same with z-scores of the scaler's genes; a missing value is the training mean."""
    scores = np.zeros((len(table), len(scaler.genes)), dtype=np.float32)
    there = samples >= 0
    if there.any():
        scores[there] = np.nan_to_num(scaler.apply(expression.take(samples[there].tolist())), nan=0.0)
    lacking = int((~there).sum())
    said = f"{lacking} of {len(table)} patients have no expression; they are answered from image and task alone."
    return replace(table, genes=scores, has_genes=there, notes=(*table.notes, *([said] if lacking else [])))


def ordinal(text: str) -> float:
    """The number in a stage ("Stage IIIA" → 3, "T2b" → 2), NaN where there is none."""
    found = re.search(r"(iv|iii|ii|i|x|[0-4])[a-d]?[0-9]?(?![a-z])", text.strip().lower())
    if text.strip().lower() in UNSAID or found is None:
        return math.nan
    return ORDER.get(found.group(1), math.nan) if not found.group(1).isdigit() else float(found.group(1))


def _facts(columns: Mapping[str, str], cohort: Cohort, rows: Sequence[int], label: str | None) -> PatientFacts:
    time = next((float(cohort.time[row]) for row in rows if math.isfinite(cohort.time[row])), math.nan)
    event = next((int(cohort.event[row]) for row in rows if cohort.event[row] >= 0), -1)
    if event < 0 and columns.get("event") and columns.get("time"):
        time, event = _number(columns["time"]), int(columns["event"].lower() in {"1", "1.0", "true", "yes", "dead"})
    return PatientFacts(
        site=columns.get("site", ""),
        diagnosis=columns.get("diagnosis") or label or "",
        stage=columns.get("stage", ""),
        t=columns.get("t", ""),
        n=columns.get("n", ""),
        m=columns.get("m", ""),
        time=time if event >= 0 else math.nan,
        event=event if math.isfinite(time) else -1,
    )


def _clinical_columns(cohort: Cohort, path: Path | None) -> tuple[dict[str, dict[str, str]], list[str]]:
    """By patient, the columns that are known by meaning; and what did not line up."""
    found: dict[str, dict[str, str]] = {}
    lowered = {name.lower(): values for name, values in cohort.clinical.items()}
    for row, patient in enumerate(cohort.patients):
        cells = {name: values[row] for name, values in lowered.items()}
        found.setdefault(patient, {}).update(_by_meaning(cells))
    if path is None:
        return found, []
    from pathotune.datasets.delimited import read_rows

    table = read_rows(path, "clinical table")
    key = next((name for name in ALIASES["patient"] if name in table.columns), None)
    if key is None:
        raise TableUnreadable(
            f"{path.name} has no column that names the patient (one of {', '.join(ALIASES['patient'])}; its columns: "
            f"{', '.join(table.columns[:12])})."
        )
    matched = set()
    for line in table.rows:
        name = line.cells.get(key, "")
        if name in found:
            found[name].update(_by_meaning(line.cells))
            matched.add(name)
    if not matched:
        raise TableUnreadable(f"None of the {len(found)} patients of the cohort is in {path.name} (column {key!r}).")
    lacking = len(found) - len(matched)
    return found, [f"{lacking} of {len(found)} patients are not in {path.name}."] if lacking else []


def _by_meaning(cells: Mapping[str, str]) -> dict[str, str]:
    """The cells under the names used here; those that say nothing are left out."""
    said = {}
    for meaning, names in ALIASES.items():
        value = next((cells[name].strip() for name in names if cells.get(name, "").strip()), "")
        if value.lower() not in UNSAID:
            said[meaning] = value
    return said


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def genes_wanted(inputs: CohortInputs) -> None:
    """Refuse an expression table without pathways, and pathways without expression."""
    if (inputs.expression is None) != (inputs.pathways is None):
        missing, given = ("--pathways", "--expression") if inputs.pathways is None else ("--expression", "--pathways")
        raise UsageError(f"{given} needs {missing} beside it: genes enter by way of pathways (a GMT or CSV table).")


def membership(member: NDArray[np.floating]) -> dict[str, NDArray[np.float32]]:
    """Which gene is in which pathway as tensors of a tuning file: genes one after the other, and how many each has."""
    rows = [np.flatnonzero(row) for row in member]
    return {
        "pathways.genes": np.concatenate(rows).astype(np.float32),
        "pathways.sizes": np.asarray([len(row) for row in rows], dtype=np.float32),
    }


def member_matrix(tensors: Mapping[str, Any], genes: int) -> NDArray[np.float32] | None:
    """(pathways, genes) made again from `membership`; None where the file has no pathways."""
    if "pathways.sizes" not in tensors:
        return None
    sizes = np.asarray(tensors["pathways.sizes"]).astype(np.int64)
    member = np.zeros((len(sizes), genes), dtype=np.float32)
    member[np.repeat(np.arange(len(sizes)), sizes), np.asarray(tensors["pathways.genes"]).astype(np.int64)] = 1.0
    return member
