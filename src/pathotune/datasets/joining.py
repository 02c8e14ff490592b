"""Cohort tables from what people download: slides, expression and clinical tables, matched by patient."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pathotune.datasets.barcodes import TUMOUR_TYPES, barcode_of
from pathotune.datasets.clinical import FIELDS, Clinical, read_clinical
from pathotune.datasets.cohort import UNKNOWN_EVENT, Cohort, split_patients
from pathotune.datasets.expression import Expression, renamed
from pathotune.datasets.genenames import GeneNames, read_gene_names
from pathotune.datasets.joined import csv_text, write_csv_gz, write_h5ad, write_text
from pathotune.datasets.matching import (
    SLIDE_KINDS,
    LeftOut,
    MatchedSlide,
    match_slides,
    only_samples,
    read_link,
    read_matched,
)
from pathotune.datasets.units import unit_of
from pathotune.errors import NoTiles, TableUnreadable, UsageError
from pathotune.events import Event, Finished, Note, Step

FORMATS = ("h5ad", "csv.gz")
NEEDS = ("expression", "clinical", "label", "survival")


@dataclass(frozen=True)
class JoinOptions:
    """How tables are put together.

    Parameters
    ----------
    label : the clinical column that becomes the class ("" for none).
    map_classes : label → class; "" leaves the label out.
    slide_kinds : of TCGA slides, "diagnostic" (paraffin), "frozen" or "all".
    sample_types : codes of the tumour samples that may stand for a patient, the best first.
    link : a table with the columns slide and patient, and perhaps sample, for names that are no TCGA barcodes.
    gene_map, synonyms : tables of gene ids or of other names, and the symbols they become.
    require : of `NEEDS`: slides of patients without it are left out.
    min_patients : classes with fewer get no label; their patients are learned from at most.
    test_fraction, val_fraction : parts of the patients, the second of what the first leaves; 0 for none.
    unit : what the expression values are, where the download does not say.
    """

    label: str = "diagnosis"
    map_classes: Mapping[str, str] = field(default_factory=dict)
    slide_kinds: str = "diagnostic"
    sample_types: tuple[str, ...] = TUMOUR_TYPES
    link: Path | None = None
    patient_column: str | None = None
    endpoint: str = "os"
    gene_map: Path | None = None
    synonyms: Path | None = None
    require: tuple[str, ...] = ()
    min_patients: int = 3
    test_fraction: float = 0.2
    val_fraction: float = 0.15
    seed: int = 0
    unit: str = ""
    expression_format: str = "h5ad"

    def __post_init__(self) -> None:
        for what, value, known in (
            ("kind of slides", self.slide_kinds, SLIDE_KINDS),
            ("format of expression", self.expression_format, FORMATS),
            *(("requirement", need, NEEDS) for need in self.require),
        ):
            if value not in known:
                raise UsageError(f"There is no {what} {value!r}; choose {', '.join(known)}.")
        for name in ("test_fraction", "val_fraction"):
            if not 0 <= getattr(self, name) <= 0.9:
                raise UsageError(f"{name} {getattr(self, name):g} is no part of the patients; choose 0 to 0.9.")


def join_cohort(
    slides: Sequence[str | Path],
    out: str | Path,
    *,
    expression: str | Path | None = None,
    clinical: Sequence[str | Path] = (),
    options: JoinOptions | None = None,
    base: Path | None = None,
) -> Iterator[Event]:
    """Write cohort.csv, clinical.csv, expression and a report of what did not match into `out`.

    A generator; the last event is a `Finished` with the report.

    Parameters
    ----------
    slides : slide files, or names of slides.
    expression : a matrix of Xena or cBioPortal (genes × samples), or any table `read_expression` reads.
    clinical : tables of GDC, Xena or cBioPortal.
    base : the folder slides are written relative to, where they lie in it (default: written as given).

    Raises
    ------
    TableUnreadable : a table that cannot be used, or nothing matches at all.
    OutputRefused : the folder cannot be written.
    """
    options, out = options or JoinOptions(), Path(out)
    left = LeftOut()
    link = read_link(options.link)
    matched = match_slides(slides, link, options.slide_kinds, left)
    if not matched:
        why = "; ".join(f"{entry['count']} × {entry['reason']}" for entry in left.counts())
        raise TableUnreadable(
            f"None of the {len(slides)} slides can be taken: {why}. Say whose slides they are in a table with --link."
            + _example(left)
        )
    yield Step("join", 1, 4, "tables")
    known: Clinical | None = None
    table: Expression | None = None
    genes: GeneNames | None = None
    unit: dict[str, str] = {}
    if clinical:
        known = read_clinical(clinical, patient_column=options.patient_column, endpoint=options.endpoint)
    yield Step("join", 2, 4, "tables")
    if expression is not None:
        table = read_matched(Path(expression), matched, link, options.sample_types, left)
        yield from (Note(text) for text in table.warnings)
        table, genes = _with_symbols(table, options)
        unit = unit_of(Path(expression), table, options.unit)
        level = "warning" if unit["unit"] == "unknown" else "info"
        yield Note(f"Expression is {unit['unit']} ({unit['says']}).", level)
    yield Step("join", 3, 4, "tables")
    kept = _with_what_is_required(matched, known, options, left)
    _note_patients(matched, kept, known, table, left)
    cohort, notes = _cohort(kept, known, options, left, base)
    yield from (Note(text, "warning") for text in notes)
    if table is not None:
        table = only_samples(table, {slide.sample for slide in kept})
    files = _write(out, cohort, known, table, unit, left, options)
    report = _report(cohort, kept, known, table, genes, unit, left, notes, options)
    report["files"] = {**files, "report": str(out / "report.json")}
    write_text(out / "report.json", json.dumps(report, indent=1, ensure_ascii=False))
    yield Step("join", 4, 4, "tables")
    yield Finished(report)


def _note_patients(
    matched: Sequence[MatchedSlide],
    kept: Sequence[MatchedSlide],
    known: Clinical | None,
    table: Expression | None,
    left: LeftOut,
) -> None:
    """Patients that stand in some of the tables only."""
    with_slides, measured = {slide.patient for slide in matched}, {slide.patient for slide in kept if slide.sample}
    for patient in known.patients if known is not None else ():
        if patient not in with_slides:
            left.add("clinical patient", patient, "has no slide")
    for patient in dict.fromkeys(slide.patient for slide in kept):
        if table is not None and patient not in measured:
            left.add("patient", patient, "has no expression (its slides are kept)")
        if known is not None and not known.of(patient):
            left.add("patient", patient, "is not in the clinical tables (its slides are kept)")


def _with_symbols(table: Expression, options: JoinOptions) -> tuple[Expression, GeneNames]:
    """The table with symbols for ids and synonyms, as far as tables for that are given."""
    names = read_gene_names(options.gene_map, options.synonyms)
    return renamed(table, names.of(table.genes)), names


# -- the cohort -------------------------------------------------------------------------------------------------------


def _with_what_is_required(
    slides: Sequence[MatchedSlide], known: Clinical | None, options: JoinOptions, left: LeftOut
) -> list[MatchedSlide]:
    """The slides that have what is asked for; what others lack is counted, they stay."""
    kept = []
    for slide in slides:
        facts = known.of(slide.patient) if known is not None else {}
        lacks = {
            "expression": not slide.sample,
            "clinical": not facts,
            "label": not _label(facts, options),
            "survival": not facts.get("event"),
        }
        missing = [need for need in options.require if lacks[need]]
        if missing:
            left.add("slide", slide.path, f"left out: its patient has no {' and no '.join(missing)}")
        else:
            kept.append(slide)
    if not kept:
        raise TableUnreadable(
            f"No slide has {' and '.join(options.require)}; require less, or look at how patients are named."
            + _example(left)
        )
    return kept


def _label(facts: Mapping[str, str], options: JoinOptions) -> str:
    label = facts.get(options.label.lower(), "") if options.label else ""
    return options.map_classes.get(label, label)


def _cohort(
    slides: Sequence[MatchedSlide], known: Clinical | None, options: JoinOptions, left: LeftOut, base: Path | None
) -> tuple[Cohort, list[str]]:
    """The rows of the cohort with labels and splits, and sentences about what could not be had."""
    if known is not None and options.label and options.label.lower() not in known.columns:
        raise TableUnreadable(
            f"The clinical tables have no column {options.label!r} for the class; choose one of "
            f"{', '.join(list(known.columns)[:20])} with --label, or --label '' for none."
        )
    facts = [known.of(slide.patient) if known is not None else {} for slide in slides]
    labels = [_label(own, options) for own in facts]
    patients = Counter(
        label for _, label in {(slide.patient, label) for slide, label in zip(slides, labels, strict=True)}
    )
    rare = {label for label, count in patients.items() if label and count < options.min_patients}
    for slide, label in zip(slides, labels, strict=True):
        if label in rare:
            left.add("label", slide.path, f"class {label!r} has fewer than {options.min_patients} patients")
    columns = [name for name in FIELDS if known is not None and name in known.columns]
    names = [_relative(slide.path, base) for slide in slides]
    count = len(slides)
    cohort = Cohort(
        slides=tuple(names),
        patients=tuple(slide.patient for slide in slides),
        labels=tuple(label if label and label not in rare else None for label in labels),
        time=np.asarray([float(own.get("months") or "nan") for own in facts]),
        event=np.asarray([int(own["event"]) if own.get("event") else UNKNOWN_EVENT for own in facts], dtype=np.int64),
        split=("",) * count,
        fold=np.full(count, -1, dtype=np.int64),
        mpp=np.full(count, np.nan),
        clinical={
            **({"sample": tuple(slide.sample for slide in slides)} if any(slide.sample for slide in slides) else {}),
            **{name: tuple(own.get(name, "") for own in facts) for name in columns},
        },
    )
    notes = _split(cohort, [label in rare for label in labels], options)
    return cohort, notes


def _relative(path: str, base: Path | None) -> str:
    if base is None:
        return path
    try:
        return Path(os.path.relpath(path, base)).as_posix()
    except ValueError:  # another drive
        return path


def _split(cohort: Cohort, only_to_learn: Sequence[bool], options: JoinOptions) -> list[str]:
    """Fill the column split; patients of rare classes are learned from at most."""
    split = np.asarray(["train"] * len(cohort), dtype=object)
    aside = {patient for patient, is_rare in zip(cohort.patients, only_to_learn, strict=True) if is_rare}
    free = np.asarray([row for row, patient in enumerate(cohort.patients) if patient not in aside], dtype=np.int64)
    for name, fraction in (("test", options.test_fraction), ("val", options.val_fraction)):
        if not fraction:
            continue
        try:
            rest, held = split_patients(cohort.take(free), fraction, options.seed)
        except NoTiles as error:
            cohort.split = ("",) * len(cohort)
            return [f"No split was made: {error}"]
        split[free[held]] = name
        free = free[rest]
    cohort.split = tuple(split.tolist())
    return []


# -- writing ----------------------------------------------------------------------------------------------------------


def _write(
    out: Path,
    cohort: Cohort,
    known: Clinical | None,
    table: Expression | None,
    unit: Mapping[str, str],
    left: LeftOut,
    options: JoinOptions,
) -> dict[str, str]:
    files = {"cohort": str(cohort.save(out / "cohort.csv"))}
    if known is not None:
        mine = dict.fromkeys(cohort.patients)
        rows = [patient for patient in known.patients if patient in mine]
        facts = [known.of(patient) for patient in rows]
        lines = [[patient, *own.values()] for patient, own in zip(rows, facts, strict=True)]
        files["clinical"] = str(write_text(out / "clinical.csv", csv_text(["patient", *known.columns], lines)))
    if table is not None:
        target = out / f"expression.{options.expression_format}"
        write = write_h5ad if options.expression_format == "h5ad" else write_csv_gz
        files["expression"] = str(write(table, target, unit))
    conflicts = [
        ("clinical value", f"{patient} {name}", f"several: {values}") for patient, name, values in _conflicts(known)
    ]
    files["unmatched"] = str(
        write_text(out / "unmatched.csv", csv_text(["kind", "name", "reason"], [*left.rows, *conflicts]))
    )
    return files


def _conflicts(known: Clinical | None) -> Sequence[tuple[str, str, str]]:
    return () if known is None else known.conflicts


# -- the report -------------------------------------------------------------------------------------------------------


def _report(
    cohort: Cohort,
    slides: Sequence[MatchedSlide],
    known: Clinical | None,
    table: Expression | None,
    genes: GeneNames | None,
    unit: Mapping[str, str],
    left: LeftOut,
    notes: Sequence[str],
    options: JoinOptions,
) -> dict[str, Any]:
    """What was joined, and what was not, in numbers."""
    patients = set(cohort.patients)
    with_expression = {slide.patient for slide in slides if slide.sample}
    with_clinical = patients & set(known.patients) if known is not None else set()
    other_tissue = sum(_is_of_other_tissue(slide) for slide in slides)
    report: dict[str, Any] = {
        "slides": len(cohort),
        "patients": len(patients),
        "with_expression": len(with_expression),
        "with_clinical": len(with_clinical),
        "with_both": len(with_expression & with_clinical),
        "with_survival": len({p for p, event in zip(cohort.patients, cohort.event, strict=True) if event >= 0}),
        "events": len({p for p, event in zip(cohort.patients, cohort.event, strict=True) if event == 1}),
        "slides_with_expression_of_another_sample_type": other_tissue,
        "classes": dict(
            sorted(
                Counter(label for _, label in set(zip(cohort.patients, cohort.labels, strict=True)) if label).items()
            )
        ),
        "split": dict(Counter(split for _, split in set(zip(cohort.patients, cohort.split, strict=True)))),
        "seed": options.seed,
        "unmatched": left.counts(),
        "notes": list(notes),
    }
    if known is not None:
        report["clinical"] = {
            **known.counts,
            "columns_used": known.used,
            "patients_with_several_values": dict(Counter(name for _, name, _ in known.conflicts)),
            "time_unit": "months",
        }
    if table is not None and genes is not None:
        report["expression"] = {
            "samples": len(table),
            "genes": len(table.genes),
            "genes_renamed": genes.renamed,
            "genes_without_symbol": genes.without_symbol,
            **unit,
            "scale": table.scale,
        }
    return report


def _is_of_other_tissue(slide: MatchedSlide) -> bool:
    sample = barcode_of(slide.sample) if slide.sample else None
    if sample is None or slide.barcode is None or not (sample.sample_type and slide.barcode.sample_type):
        return False
    return sample.sample_type != slide.barcode.sample_type


def _example(left: LeftOut) -> str:
    return f" The first: {left.rows[0][1]} ({left.rows[0][2]})." if left.rows else ""
