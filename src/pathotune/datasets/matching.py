"""Whose slides and samples are: by TCGA barcode or by a table of the person's own, with what matches nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pathotune.datasets.barcodes import Barcode, barcode_of, patient_of
from pathotune.datasets.delimited import read_rows
from pathotune.datasets.expression import Expression, read_expression
from pathotune.datasets.names import slide_stem
from pathotune.errors import TableUnreadable

SLIDE_KINDS = ("diagnostic", "frozen", "all")


@dataclass
class MatchedSlide:
    """A slide and whose it is.

    path : of the slide, or its name.
    patient : whose it is.
    barcode : what its name says, where that is a TCGA barcode.
    sample : the row of expression that belongs to it, "" for none.
    """

    path: str
    patient: str
    barcode: Barcode | None
    sample: str = ""


@dataclass
class LeftOut:
    """What did not match: names with the reason, and how many of each."""

    rows: list[tuple[str, str, str]] = field(default_factory=list)

    def add(self, kind: str, name: str, reason: str) -> None:
        """Note one, with the reason in words."""
        self.rows.append((kind, name, reason))

    def counts(self) -> list[dict[str, Any]]:
        """Kind, reason and number, the commonest first."""
        counted = Counter((kind, reason) for kind, _, reason in self.rows)
        return [{"kind": kind, "reason": reason, "count": count} for (kind, reason), count in counted.most_common()]


def read_link(path: Path | None) -> dict[str, tuple[str, str]]:
    """Slide's name and id → (patient, sample), from a table of the person's own; empty without one.

    Raises
    ------
    FileMissing, TableUnreadable : no such table, or without the columns slide and patient.
    """
    if path is None:
        return {}
    table = read_rows(path, "table of slides and patients")
    missing = [name for name in ("slide", "patient") if name not in table.columns]
    if missing:
        raise TableUnreadable(
            f"{path.name} has no column {missing[0]!r} (its columns: {', '.join(table.columns[:12])})."
        )
    link = {}
    for row in table.rows:
        entry = row.cells.get("patient", ""), row.cells.get("sample", "")
        name = Path(row.cells.get("slide", "").replace("\\", "/")).name
        if name and entry[0]:
            link[name] = link[slide_stem(name)] = entry
    return link


def match_slides(
    slides: Sequence[str | Path], link: Mapping[str, tuple[str, str]], kinds: str, left: LeftOut
) -> list[MatchedSlide]:
    """Slides with their patients; the others go to `left`.

    Parameters
    ----------
    kinds : of TCGA slides, "diagnostic", "frozen" or "all".
    """
    kept: list[MatchedSlide] = []
    seen: set[str] = set()
    for slide in map(str, slides):
        name = Path(slide).name
        patient, sample = link.get(name) or link.get(slide_stem(name)) or ("", "")
        barcode = barcode_of(name)
        if not patient and barcode is not None:
            patient = barcode.patient
        if not patient:
            left.add("slide", slide, "no TCGA barcode in its name, and not in the link table")
        elif barcode is not None and barcode.is_normal:
            left.add("slide", slide, "of normal tissue")
        elif barcode is not None and barcode.is_frozen and kinds == "diagnostic":
            left.add("slide", slide, "frozen section (--slide-kinds frozen or all takes it)")
        elif barcode is not None and barcode.slide and not barcode.is_frozen and kinds == "frozen":
            left.add("slide", slide, "diagnostic slide (--slide-kinds diagnostic or all takes it)")
        elif slide_stem(name) in seen:
            left.add("slide", slide, "another slide has the same name")
        else:
            seen.add(slide_stem(name))
            kept.append(MatchedSlide(slide, patient, barcode, sample))
    return kept


def read_matched(
    path: Path,
    slides: Sequence[MatchedSlide],
    link: Mapping[str, tuple[str, str]],
    sample_types: Sequence[str],
    left: LeftOut,
) -> Expression:
    """The expression of the patients with slides; each slide gets its sample, the others go to `left`.

    Parameters
    ----------
    path : the table; only the rows of these patients come into memory.
    sample_types : codes of TCGA samples that may stand for a patient, the best first.

    Raises
    ------
    TableUnreadable : no table of expression, or without any of the patients.
    """
    wanted = {slide.patient for slide in slides}
    of_sample = {sample: patient for patient, sample in link.values() if sample}
    seen: dict[str, str] = {}

    def is_wanted(name: str) -> bool:
        patient = of_sample.get(name) or patient_of(name)
        barcode = barcode_of(name)
        if name.lower() == "entrez_gene_id":  # cBioPortal's second column, which holds numbers too
            return False
        seen[name] = patient
        return patient in wanted and (barcode is None or not barcode.sample_type or barcode.sample_type in sample_types)

    known = [*wanted, *of_sample]
    table = read_expression(path, samples=known, only=is_wanted)
    if not len(table):
        some = ", ".join(list(seen)[:3])
        raise TableUnreadable(
            f"{path.name} has no sample of the {len(wanted)} patients with slides (it has, for example: {some}). Name "
            "both alike, or give a table with the columns slide, patient and sample with --link."
        )
    chosen = _one_each(table.samples, seen, slides, sample_types)
    for name, patient in seen.items():
        if name in chosen:
            continue
        barcode = barcode_of(name)
        if patient not in wanted:
            reason = "its patient has no slide"
        elif barcode is not None and barcode.is_normal:
            reason = "of normal tissue"
        elif barcode is not None and barcode.sample_type and barcode.sample_type not in sample_types:
            reason = "of another sample type"
        else:
            reason = "another sample stands for its patient"
        left.add("sample", name, reason)
    return only_samples(table, chosen)


def only_samples(table: Expression, names: Container[str]) -> Expression:
    """The rows of these samples; the table itself where that is all of it, as a copy may be gigabytes."""
    rows = [row for row, name in enumerate(table.samples) if name in names]
    return table if len(rows) == len(table) else table.take(rows)


def _one_each(
    samples: Sequence[str],
    patient_of_sample: Mapping[str, str],
    slides: Sequence[MatchedSlide],
    sample_types: Sequence[str],
) -> set[str]:
    """Give every slide its sample: that of the slide's own tissue where there is one, else the patient's best."""
    of_patient: dict[str, list[str]] = {}
    for name in samples:
        of_patient.setdefault(patient_of_sample[name], []).append(name)

    def rank(name: str) -> tuple[int, str]:
        barcode = barcode_of(name)
        kind = barcode.sample_type if barcode is not None else ""
        place = sample_types.index(kind) if kind in sample_types else len(sample_types)
        return place, name

    chosen = set()
    for slide in slides:
        names = sorted(of_patient.get(slide.patient, ()), key=rank)
        if slide.sample not in names:
            kind = slide.barcode.sample_type if slide.barcode is not None else ""
            own = [name for name in names if kind and (found := barcode_of(name)) and found.sample_type == kind]
            slide.sample = next(iter([*own, *names]), "")
        if slide.sample:
            chosen.add(slide.sample)
    return chosen
