"""A cohort: slides with patient, label, survival and clinical columns, and splits that never part a patient."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathotune.datasets.delimited import Row, named, read_rows
from pathotune.datasets.tiles import SPLITS
from pathotune.errors import NoTiles, OutputRefused, TableUnreadable, UsageError
from pathotune.regions.split import assign_groups

COLUMNS = ("slide", "patient", "label", "time", "event", "split", "fold", "mpp")
YES, NO = frozenset({"1", "1.0", "true", "yes"}), frozenset({"0", "0.0", "false", "no"})
UNKNOWN_EVENT = -1


@dataclass
class Cohort:
    """Slides of patients, one row a slide.

    Parameters
    ----------
    slides : (n) path or name of each slide as the table writes it.
    patients : (n) whose slide it is; the slide itself where the table does not say.
    labels : (n) class name, None where there is none.
    time : (n,) months, days or years to the event or to the last sight of the patient; NaN where unknown.
    event : (n,) 1 where it happened, 0 where it had not by then, -1 where unknown.
    split : (n) "train", "val", "test", or "" where the table does not say.
    fold : (n,) number of the fold, -1 where the table does not say.
    mpp : (n,) a slide's own pixel size in µm, NaN where the table does not say.
    clinical : every other column by name, "" where a cell is empty.
    path : the table it was read from.
    """

    slides: tuple[str, ...]
    patients: tuple[str, ...]
    labels: tuple[str | None, ...]
    time: NDArray[np.float64]
    event: NDArray[np.int64]
    split: tuple[str, ...]
    fold: NDArray[np.int64]
    mpp: NDArray[np.float64]
    clinical: dict[str, tuple[str, ...]] = field(default_factory=dict)
    path: Path | None = None

    def __len__(self) -> int:
        return len(self.slides)

    @property
    def classes(self) -> tuple[str, ...]:
        """The labels there are, in alphabetical order."""
        return tuple(
            sorted({label for label in self.labels if label is not None}, key=lambda name: (name.lower(), name))
        )

    @property
    def has_survival(self) -> bool:
        """Whether any row states a time and an event."""
        return bool((self.event != UNKNOWN_EVENT).any())

    def label_indices(self, classes: Sequence[str] | None = None) -> NDArray[np.int64]:
        """(n,) index of each label among `classes` (default: the cohort's own), -1 for none of them."""
        index = {name: number for number, name in enumerate(self.classes if classes is None else classes)}
        return np.asarray([-1 if label is None else index.get(label, -1) for label in self.labels], dtype=np.int64)

    def by_patient(self) -> dict[str, list[int]]:
        """The rows of each patient, in the order of the table."""
        rows: dict[str, list[int]] = {}
        for row, patient in enumerate(self.patients):
            rows.setdefault(patient, []).append(row)
        return rows

    def slide_path(self, row: int) -> Path:
        """Where a slide is: as written, counted from the table's folder."""
        slide = Path(self.slides[row]).expanduser()
        return slide if self.path is None else self.path.parent / slide

    def slide_mpp(self, row: int) -> float | None:
        """A slide's stated pixel size in µm, or None."""
        return None if math.isnan(self.mpp[row]) else float(self.mpp[row])

    def take(self, rows: Iterable[int]) -> Cohort:
        """The rows at these indices, in this order."""
        picked = [int(row) for row in rows]
        values: dict[str, Any] = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, np.ndarray):
                values[item.name] = value[picked]
            elif isinstance(value, tuple):
                values[item.name] = tuple(value[row] for row in picked)
        clinical = {name: tuple(column[row] for row in picked) for name, column in self.clinical.items()}
        return Cohort(**values, clinical=clinical, path=self.path)

    def save(self, path: str | Path) -> Path:
        """Write it as a table that `read_cohort` reads, whole or not at all; columns that say nothing are left out.

        Raises
        ------
        OutputRefused : the file cannot be written.
        """
        target = Path(path)
        columns: dict[str, Sequence[str]] = {
            "slide": self.slides,
            "patient": self.patients,
            "label": [label or "" for label in self.labels],
            "time": ["" if math.isnan(value) else f"{value:.10g}" for value in self.time.tolist()],
            "event": ["" if value == UNKNOWN_EVENT else str(value) for value in self.event.tolist()],
            "split": self.split,
            "fold": ["" if value < 0 else str(value) for value in self.fold.tolist()],
            "mpp": ["" if math.isnan(value) else f"{value:.10g}" for value in self.mpp.tolist()],
        }
        written = {name: column for name, column in columns.items() if name == "slide" or any(column)}
        written.update(self.clinical)
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(written)
        writer.writerows(zip(*written.values(), strict=True))
        temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(text.getvalue(), encoding="utf-8")
            os.replace(temporary, target)
        except OSError as error:
            raise OutputRefused(
                f"{target} cannot be written ({error.strerror or error}); choose another place."
            ) from None
        return target


@dataclass
class CohortInputs:
    """What a slide-level method learns from: the cohort and the files that belong to it.

    cohort : the slides and their patients.
    features : folder of tile features, one HDF5 a slide.
    expression, pathways, clinical : tables that belong to it.
    slide_mpp : pixel size of slides whose row states none.
    folds : how many folds to train and predict out of, 0 for one split.
    colour_by : a column by which pictures of the samples are coloured; "" for the label.
    """

    cohort: Cohort
    features: Path | None = None
    expression: Path | None = None
    pathways: Path | None = None
    clinical: Path | None = None
    slide_mpp: float | None = None
    folds: int = 0
    colour_by: str = ""


def read_cohort(path: str | Path) -> Cohort:
    """Read a cohort table.

    Parameters
    ----------
    path : .csv or .tsv (gzipped or not) with the column slide and any of patient, label, time and event, split, fold,
        mpp; all other columns are clinical ones. A missing patient is the slide itself.

    Raises
    ------
    FileMissing : no such file.
    TableUnreadable : a column or value that cannot be used, a slide twice, or a patient on two sides of a split.
    """
    path = Path(path)
    table = read_rows(path, "cohort table")
    if "slide" not in table.columns:
        raise TableUnreadable(
            f"{path.name} has no column 'slide' (its columns: {', '.join(table.columns[:12])}); rename the one that "
            "holds the slides' files or names."
        )
    if not table.rows:
        raise TableUnreadable(f"{path.name} has no rows.")
    rows = table.rows
    _refuse(path, rows, lambda cells: not cells.get("slide"), "have no slide")
    splits = [row.cells.get("split", "").lower() for row in rows]
    _refuse(
        path,
        rows,
        lambda cells: cells.get("split", "").lower() not in {"", *SPLITS},
        "have another split than train, val or test",
    )
    cohort = Cohort(
        slides=tuple(row.cells["slide"] for row in rows),
        patients=tuple(row.cells.get("patient") or row.cells["slide"] for row in rows),
        labels=tuple(row.cells.get("label") or None for row in rows),
        time=_numbers(path, rows, "time", lambda value: value >= 0, "a number of at least 0"),
        event=_events(path, rows),
        split=tuple(SPLITS.get(split, "") for split in splits),
        fold=_folds(path, rows),
        mpp=_numbers(path, rows, "mpp", lambda value: value > 0, "a positive number"),
        clinical={
            name: tuple(row.cells.get(name, "") for row in rows)
            for name in table.columns
            if name and name not in COLUMNS
        },
        path=path,
    )
    _check(cohort, [row.number for row in rows])
    return cohort


def split_patients(
    cohort: Cohort, fraction: float = 0.25, seed: int = 0, stratify: bool = True
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows to learn from and rows to judge by, whole patients on one side each.

    Follows the column `split` where it names train and val; rows of the test set are in neither. Else patients are
    drawn so that every class (without labels: patients with and without the event) is on both sides.

    Parameters
    ----------
    fraction : part of each class's slides to be held out.
    seed : the same seed gives the same split.
    stratify : False draws patients without looking at classes.

    Raises
    ------
    NoTiles : a class has one patient only, or there are fewer than two patients.
    UsageError : a fraction outside 0.05 to 0.9.
    """
    if not 0.05 <= fraction <= 0.9:
        raise UsageError(f"{fraction:g} of the slides cannot be held out; choose a part from 0.05 to 0.9.")
    said = np.asarray(cohort.split)
    if (said == "train").any() and (said == "val").any():
        return np.flatnonzero(said == "train"), np.flatnonzero(said == "val")
    free = np.flatnonzero(said != "test")
    group = _patient_numbers(cohort, free)
    strata = strata_of(cohort)[free] if stratify else np.zeros(len(free), dtype=np.int64)
    _check_patients(cohort, free, group, strata, 2)
    held = np.zeros(len(free), dtype=bool)
    known = strata >= 0
    if known.any():
        _, own = np.unique(group[known], return_inverse=True)
        chosen = assign_groups(strata[known], own, int(strata.max()) + 1, fraction, seed)
        if chosen is None:
            raise NoTiles(
                "The patients cannot be split with every class on both sides: the slides of some patients have "
                "different labels; add patients, or give the table a column split."
            )
        held[np.isin(group, group[known][chosen])] = True
    # Patients of whom nothing is known to stratify by are drawn as they come.
    rest = np.setdiff1d(group, group[known])
    count = round(fraction * len(rest))
    if not known.any():
        count = min(max(1, count), len(rest) - 1)
    held[np.isin(group, np.random.default_rng(seed).permutation(rest)[:count])] = True
    return free[~held], free[held]


def folds_of(cohort: Cohort, k: int, seed: int = 0) -> NDArray[np.int64]:
    """(n,) the fold of each row, 0 to k - 1; -1 for rows of the test set.

    Follows the column `fold` where every row that is no test row has one. Else patients are dealt out class by class,
    so that no patient is parted and every fold holds every class.

    Raises
    ------
    UsageError : k is below 2, or not the number of folds the table has.
    NoTiles : a class has fewer than k patients.
    """
    free = np.flatnonzero(np.asarray(cohort.split) != "test")
    own = cohort.fold[free]
    folds = np.full(len(cohort), -1, dtype=np.int64)
    if len(free) and (own >= 0).all():
        numbers = np.unique(own)
        if k and k != len(numbers):
            raise UsageError(
                f"The table's column fold has {len(numbers)} folds, not {k}; leave --folds out or say {len(numbers)}."
            )
        folds[free] = np.searchsorted(numbers, own)
        return folds
    if k < 2:
        raise UsageError(f"{k} folds cannot be made; choose 2 or more (5 is usual).")
    group, strata = _patient_numbers(cohort, free), strata_of(cohort)[free]
    _check_patients(cohort, free, group, strata, k)
    folds[free] = _dealt(group, strata, k, seed)[group]
    return folds


def strata_of(cohort: Cohort) -> NDArray[np.int64]:
    """(n,) what splits are stratified by: the class, else the event, else nothing (-1)."""
    return cohort.label_indices() if cohort.classes else cohort.event


def _dealt(group: NDArray[np.int64], strata: NDArray[np.int64], k: int, seed: int) -> NDArray[np.int64]:
    """The fold of each patient: those of the rarest class first, one fold after the other."""
    random = np.random.default_rng(seed)
    count = int(group.max()) + 1
    sizes = {int(value): len(np.unique(group[strata == value])) for value in np.unique(strata)}
    # A patient counts for the rarest class among its slides.
    first = np.full(count, -1, dtype=np.int64)
    for value in sorted(sizes, key=lambda value: (value >= 0, -sizes[value])):
        first[group[strata == value]] = value
    fold, dealt = np.empty(count, dtype=np.int64), 0
    for value in sorted(sizes, key=lambda value: (value < 0, sizes[value])):
        members = random.permutation(np.flatnonzero(first == value))
        fold[members] = (dealt + np.arange(len(members))) % k
        dealt += len(members)
    return fold


def _patient_numbers(cohort: Cohort, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n,) the patient of each of these rows as a number from 0."""
    _, number = np.unique(
        np.asarray([cohort.patients[row] for row in rows], dtype=object).astype(str), return_inverse=True
    )
    return np.asarray(number, dtype=np.int64).reshape(-1)


def _check_patients(
    cohort: Cohort, rows: NDArray[np.int64], group: NDArray[np.int64], strata: NDArray[np.int64], needed: int
) -> None:
    """Raise NoTiles where there are too few patients, of a class or at all."""
    if len(np.unique(group)) < needed:
        raise NoTiles(
            f"{len(np.unique(group))} patients cannot be split into {needed} parts; add patients, or give the table a "
            "column patient where several slides are of different patients."
        )
    names = cohort.classes or ("patients without the event", "patients with the event")
    for value in np.unique(strata[strata >= 0]):
        patients = len(np.unique(group[strata == value]))
        if patients < needed:
            raise NoTiles(
                f"{names[value]!r} has {patients} patient{'s' if patients > 1 else ''}, and a split into {needed} "
                f"needs at least {needed}; add patients of it, leave it out, or split into fewer parts."
            )


def _refuse(path: Path, rows: Sequence[Row], is_bad: Callable[[dict[str, str]], bool], what: str) -> None:
    bad = [f"row {row.number}" for row in rows if is_bad(row.cells)]
    if bad:
        raise TableUnreadable(f"{path.name}: {named(bad)} {what}.")


def _numbers(
    path: Path, rows: Sequence[Row], name: str, is_good: Callable[[float], bool], what: str
) -> NDArray[np.float64]:
    """(n,) a column of numbers, NaN where a cell is empty."""
    values = np.full(len(rows), np.nan)
    for index, row in enumerate(rows):
        text = row.cells.get(name, "")
        if not text:
            continue
        try:
            values[index] = float(text)
        except ValueError:
            values[index] = math.inf
        if not (math.isfinite(values[index]) and is_good(values[index])):
            raise TableUnreadable(f"{path.name}: row {row.number} needs {what} in {name!r} (it holds {text!r}).")
    return values


def _events(path: Path, rows: Sequence[Row]) -> NDArray[np.int64]:
    texts = [row.cells.get("event", "").lower() for row in rows]
    _refuse(
        path,
        rows,
        lambda cells: cells.get("event", "").lower() not in {"", *YES, *NO},
        "have another event than 1 (it happened) or 0 (it had not by then)",
    )
    _refuse(
        path,
        rows,
        lambda cells: bool(cells.get("event")) != bool(cells.get("time")),
        "have a time without an event or an event without a time; give both, or leave both empty",
    )
    return np.asarray([UNKNOWN_EVENT if not text else int(text in YES) for text in texts], dtype=np.int64)


def _folds(path: Path, rows: Sequence[Row]) -> NDArray[np.int64]:
    values = _numbers(path, rows, "fold", lambda value: value >= 0 and value == int(value), "a whole number")
    return np.where(np.isnan(values), -1, values).astype(np.int64)


def _check(cohort: Cohort, numbers: Sequence[int]) -> None:
    """Raise TableUnreadable for a slide that stands twice or a patient that a column parts."""
    name = cohort.path.name if cohort.path else "The cohort"
    seen: dict[str, int] = {}
    for slide, number in zip(cohort.slides, numbers, strict=True):
        if slide in seen:
            raise TableUnreadable(
                f"{name}: the slide {slide!r} stands in row {seen[slide]} and in row {number}; keep one."
            )
        seen[slide] = number
    for column, values in (("split", cohort.split), ("fold", cohort.fold.tolist())):
        of_patient: dict[str, tuple[Any, int]] = {}
        for patient, value, number in zip(cohort.patients, values, numbers, strict=True):
            other, where = of_patient.setdefault(patient, (value, number))
            if other != value:
                raise TableUnreadable(
                    f"{name}: the {column} parts the patient {patient!r} (row {where}: {other!r}, row {number}: "
                    f"{value!r}); slides of one patient belong on one side."
                )
