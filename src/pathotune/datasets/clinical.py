"""Clinical tables as GDC, Xena and cBioPortal give them: one row a patient, the same names for the same facts."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pathotune.datasets.barcodes import barcode_of, patient_of
from pathotune.datasets.delimited import Row, read_rows
from pathotune.errors import TableUnreadable

DAYS_A_MONTH = 365.25 / 12

MISSING = frozenset(
    {
        *("", "'--", "--", "-", "na", "n/a", "nan", "none", "null", "unknown", "not reported", "not available"),
        *("not applicable", "not evaluated", "not allowed to collect", "[not available]", "[not applicable]"),
        *("[not evaluated]", "[unknown]", "[discrepancy]", "[completed]", "[pending]"),
    }
)
# GDC writes these before its columns since 2024 (demographic.vital_status), Xena behind GDC's.
_SECTIONS = frozenset({"cases", "demographic", "diagnoses", "project", "follow_ups", "pathology_details", "exposures"})
_PATIENT = (
    *("patient", "cases.submitter_id", "case_submitter_id", "bcr_patient_barcode", "_patient", "patient_id"),
    *("submitter_id", "sampleid", "sample", "sample_id", "case_id"),
)
FIELDS: Mapping[str, tuple[str, ...]] = {
    "project": (
        "project",
        "project_id",
        "project.project_id",
        "cancer_type_acronym",
        "cancer type abbreviation",
        "study_id",
    ),
    "site": ("site", "primary_site", "tissue_or_organ_of_origin", "site_of_resection_or_biopsy", "tumor_tissue_site"),
    "diagnosis": (
        "diagnosis",
        "primary_diagnosis",
        "histological_type",
        "cancer_type_detailed",
        "histological_diagnosis",
    ),
    "stage": (
        *("stage", "ajcc_pathologic_stage", "ajcc_pathologic_tumor_stage", "pathologic_stage", "tumor_stage"),
        *("ajcc_clinical_stage", "figo_stage", "clinical_stage"),
    ),
    "t": ("t", "ajcc_pathologic_t", "ajcc_tumor_pathologic_pt", "path_t_stage", "pathologic_t", "ajcc_clinical_t"),
    "n": ("n", "ajcc_pathologic_n", "ajcc_nodes_pathologic_pn", "path_n_stage", "pathologic_n", "ajcc_clinical_n"),
    "m": ("m", "ajcc_pathologic_m", "ajcc_metastasis_pathologic_pm", "path_m_stage", "pathologic_m", "ajcc_clinical_m"),
    "grade": ("grade", "tumor_grade", "neoplasm_histologic_grade", "histologic_grade"),
    "age": ("age", "age_at_index", "age_at_initial_pathologic_diagnosis", "age_at_diagnosis"),
    "sex": ("sex", "gender", "sex_at_birth"),
}
"""Our names of facts, and the columns in which the tables have them, the best first."""

_DEAD, _ALIVE = (
    frozenset({"dead", "deceased", "died", "1", "1.0", "true"}),
    frozenset({"alive", "living", "0", "0.0", "false"}),
)
# Rows of one patient differ in these; they are of treatments and of the tables' own book-keeping.
_NO_FACTS = re.compile(r"treatment|therap|(^|[._])(id|uuid|barcode|submitter_id)$|_id$|created|updated|^state$")
_STAGE = re.compile(r"^(?:stage\s*)?(0|is|x|i{1,3}|iv)\s*([abc]\d?)?$", re.IGNORECASE)
_TNM = re.compile(r"^[pc]?([tnm])(x|is|a|\d)(.*)$", re.IGNORECASE)


@dataclass
class Clinical:
    """Facts of patients.

    Parameters
    ----------
    patients : each once.
    columns : name → (n) values, "" where unknown: those of `FIELDS` that are known, "months" and "event", and under
        their own names all other columns that say one thing of each patient.
    used : our name → the table's column it comes from.
    conflicts : (patient, our name, values) where the rows of one patient differ; the first is taken.
    counts : rows read, patients, and why survival times are missing.
    """

    patients: tuple[str, ...]
    columns: dict[str, tuple[str, ...]]
    used: dict[str, str] = field(default_factory=dict)
    conflicts: tuple[tuple[str, str, str], ...] = ()
    counts: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.patients)

    def of(self, patient: str) -> dict[str, str]:
        """All facts of a patient; empty where there is none."""
        row = self._rows.get(patient)
        return {} if row is None else {name: values[row] for name, values in self.columns.items()}

    def __post_init__(self) -> None:
        self._rows = {patient: row for row, patient in enumerate(self.patients)}


def read_clinical(paths: Iterable[str | Path], *, patient_column: str | None = None, endpoint: str = "os") -> Clinical:
    """Read clinical tables and put them together by patient.

    Parameters
    ----------
    paths : text tables of GDC (`clinical.tsv`, a row for each diagnosis and treatment), Xena (phenotype and survival)
        or cBioPortal (patients and samples); several are joined by patient.
    patient_column : the column that names patients, where it is none of the usual ones.
    endpoint : which survival: "os", or what else the tables have under such names ("pfi", "dss", "dfs").

    Raises
    ------
    FileMissing : no such file.
    TableUnreadable : no text table, no rows, or no column of patients.
    """
    rows: dict[str, list[dict[str, str]]] = {}
    names: dict[str, None] = {}
    read = 0
    for path in map(Path, paths):
        table = read_rows(path, "clinical table")
        column = _patient_column(path, table.columns, patient_column)
        names.update(dict.fromkeys(name for name in table.columns if name))
        for row in table.rows:
            patient = _patient(row, column)
            if patient:
                read += 1
                rows.setdefault(patient, []).append(_known(row.cells))
        if not rows:
            raise TableUnreadable(f"{path.name} names no patient in its column {column!r}.")
    for own in rows.values():
        # Of several diagnoses the primary tumour's counts; sorting keeps the rest in the table's order.
        own.sort(key=lambda cells: cells.get("classification_of_tumor", "").lower() not in {"", "primary"})
    return _joined(rows, tuple(names), read, endpoint.lower())


def _patient_column(path: Path, columns: Sequence[str], wanted: str | None) -> str:
    if wanted is not None:
        if wanted.lower() not in columns:
            raise TableUnreadable(f"{path.name} has no column {wanted!r} (its columns: {', '.join(columns[:12])}).")
        return wanted.lower()
    found = next((name for name in _PATIENT if name in columns), None)
    if found is None:
        raise TableUnreadable(
            f"{path.name} has no column that names patients (its columns: {', '.join(columns[:12])}); name it with "
            "--patient-column."
        )
    return found


def _patient(row: Row, column: str) -> str:
    """The patient of a row; "" for the further head lines of some tables and for normal samples."""
    name = row.cells.get(column, "")
    if name.lower() in MISSING or name.lower() == column or name.startswith("CDE_ID"):
        return ""
    barcode = barcode_of(name)
    return "" if barcode is not None and barcode.is_normal else patient_of(name)


def _known(cells: Mapping[str, str]) -> dict[str, str]:
    """The cells that say something, those of GDC's sections also without the section's name."""
    known = {name: value for name, value in cells.items() if value.strip().lower() not in MISSING}
    for name in list(known):
        first, point, last = name.partition(".")
        if point and first in _SECTIONS:
            known.setdefault(last, known[name])
        elif point and last in _SECTIONS:
            known.setdefault(first, known[name])
    return known


def _joined(rows: Mapping[str, list[dict[str, str]]], written: Sequence[str], read: int, endpoint: str) -> Clinical:
    patients = tuple(rows)
    columns: dict[str, tuple[str, ...]] = {}
    used: dict[str, str] = {}
    conflicts: list[tuple[str, str, str]] = []
    for ours, names in FIELDS.items():
        theirs = next((name for name in names if any(c.get(name) for own in rows.values() for c in own)), None)
        if theirs is None:
            continue
        used[ours] = theirs
        values = []
        for patient, own in rows.items():
            said = list(dict.fromkeys(_clean(ours, cells[theirs]) for cells in own if theirs in cells))
            values.append(said[0] if said else "")
            if len(said) > 1:
                conflicts.append((patient, ours, " | ".join(said)))
        columns[ours] = _years(values) if ours == "age" else tuple(values)
    months, event, counts = _survival(rows, endpoint)
    if any(months):
        columns["months"], columns["event"] = months, event
    taken = set(used.values())
    columns.update(_others(rows, written, taken | set(columns)))
    return Clinical(patients, columns, used, tuple(conflicts), {"rows": read, "patients": len(patients), **counts})


def _others(
    rows: Mapping[str, list[dict[str, str]]], written: Sequence[str], taken: set[str]
) -> dict[str, tuple[str, ...]]:
    """All further columns that say something of some patients, and at most one thing of each."""
    others = {}
    for name in written:
        short = name.rpartition(".")[2]
        if short in taken or name in taken or _NO_FACTS.search(name):
            continue
        said = [list(dict.fromkeys(cells[name] for cells in own if name in cells)) for own in rows.values()]
        if any(said) and all(len(values) <= 1 for values in said):
            others[name] = tuple(values[0] if values else "" for values in said)
    return others


def _clean(name: str, value: str) -> str:
    """Stages and TNM in one way of writing; everything else as it stands."""
    value = value.strip()
    if name == "stage" and (found := _STAGE.match(value)):
        return f"Stage {found[1].upper()}{(found[2] or '').upper()}"
    if name in {"t", "n", "m"} and (found := _TNM.match(value)):
        return (
            f"{found[1].upper()}{found[2].upper() if found[2].lower() == 'x' else found[2].lower()}{found[3].lower()}"
        )
    return value


def _years(values: Sequence[str]) -> tuple[str, ...]:
    """Ages in years; GDC gives some in days."""
    numbers = [_number(value) for value in values]
    known = [number for number in numbers if not math.isnan(number)]
    in_days = bool(known) and statistics.median(known) > 150
    return tuple("" if math.isnan(n) else f"{n / 365.25 if in_days else n:.1f}".removesuffix(".0") for n in numbers)


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        return math.nan
    return number if math.isfinite(number) else math.nan


def _survival(
    rows: Mapping[str, list[dict[str, str]]], endpoint: str
) -> tuple[tuple[str, ...], tuple[str, ...], dict[str, int]]:
    """Months and event of each patient, both "" where one is unknown, and how often which was why."""
    months, events = [], []
    counts = {"without_status": 0, "without_time": 0, "negative_time": 0}
    for own in rows.values():
        cells = {name: value for row in reversed(own) for name, value in row.items()}
        event, time = _event(cells, endpoint), _months(own, cells, endpoint)
        if event is None:
            counts["without_status"] += 1
        elif math.isnan(time(event)):
            counts["without_time"] += 1
        elif time(event) < 0:
            counts["negative_time"] += 1
        else:
            months.append(f"{time(event):.3f}".rstrip("0").rstrip("."))
            events.append(str(event))
            continue
        months.append("")
        events.append("")
    return tuple(months), tuple(events), counts


def _event(cells: Mapping[str, str], endpoint: str) -> int | None:
    for name in (f"{endpoint}_status", endpoint, *(("event", "vital_status") if endpoint == "os" else ())):
        text = cells.get(name, "").strip().lower()
        number, colon, _ = text.partition(":")  # "1:DECEASED"
        text = number if colon else text
        if text in _DEAD or text in _ALIVE:
            return int(text in _DEAD)
    return None


def _months(own: Sequence[Mapping[str, str]], cells: Mapping[str, str], endpoint: str) -> Callable[[int], float]:
    """Months to the event, or to the last sight of the patient."""
    for name, scale in (
        (f"{endpoint}_months", 1.0),
        (f"{endpoint}.time", DAYS_A_MONTH),
        (f"{endpoint}_days", DAYS_A_MONTH),
    ):
        if not math.isnan(number := _number(cells.get(name, ""))):
            return lambda event: number / scale
    if endpoint != "os":
        return lambda event: math.nan
    if not math.isnan(number := _number(cells.get("months") or cells.get("time", ""))):
        return lambda event: number

    def days(event: int) -> float:
        names = (
            ("days_to_death",)
            if event
            else ("days_to_last_follow_up", "days_to_last_followup", "days_to_last_known_alive")
        )
        known = [_number(row.get(name, "")) for row in own for name in names]
        known = [value for value in known if not math.isnan(value)]
        return max(known) / DAYS_A_MONTH if known else math.nan

    return days
