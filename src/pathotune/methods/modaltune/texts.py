"""What is known of a patient in words: the sentences whose vectors are ModalTune's targets."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NUMBERS = {"0": "zero", "1": "one", "2": "two", "3": "three", "4": "four", "i": "one", "ii": "two", "iii": "three"}
NUMBERS |= {"iv": "four", "x": "unknown", "is": "in situ"}
UNSAID = frozenset({"", "na", "n/a", "nan", "none", "not reported", "not available", "unknown", "[not available]"})


@dataclass(frozen=True)
class PatientFacts:
    """What the tables say of a patient; "" and NaN stand for what they do not say, event -1 for unknown."""

    site: str = ""
    diagnosis: str = ""
    stage: str = ""
    t: str = ""
    n: str = ""
    m: str = ""
    time: float = math.nan
    event: int = -1


def survival_edges(time: NDArray[np.float64], event: NDArray[np.int64], bins: int) -> tuple[float, ...]:
    """Inner edges of the quantile bins of follow-up, of patients whose time is known; () where there are too few.

    Give the training patients only: the published code takes them over training, validation and test together.
    """
    known = time[np.isfinite(time) & (event >= 0)]
    if len(known) < 2 * bins or bins < 2:
        return ()
    edges = np.quantile(known, np.arange(1, bins) / bins)
    return tuple(float(edge) for edge in dict.fromkeys(edges.tolist()))


def survival_clause(time: float, event: int, edges: Sequence[float], unit: str) -> str:
    """What became of the patient, the time as one of the bins; "" where it is not known.

    A patient of whom no event is known is "alive at" that time. The published wording counts her like one that died.
    """
    if not math.isfinite(time) or event < 0:
        return ""
    said = [f"{edge:.0f}" if edge >= 10 else f"{edge:.1f}" for edge in edges]
    place = int(np.searchsorted(np.asarray(edges), time, side="right"))
    if not said:
        when = "some time"
    elif place == 0:
        when = f"less than {said[0]} {unit}"
    elif place == len(said):
        when = f"more than {said[-1]} {unit}"
    else:
        when = f"{said[place - 1]} to {said[place]} {unit}"
    return f"died after {when}" if event else f"alive at {when}"


def stage_in_words(text: str, kind: str = "stage") -> str:
    """A stage as words, without the letters behind its number: "Stage IIIA" is "stage three", "T2b" is "T two".

    Parameters
    ----------
    kind : "stage", or "T", "N", "M".

    Returns
    -------
    "" where nothing is said; the text as it is where it is no stage.
    """
    raw = text.strip()
    if raw.lower() in UNSAID:
        return ""
    short = re.sub(r"^(pathologic|clinical)?\s*(stage|[pcy]*[tnm](?=[0-4xi]))\s*", "", raw, flags=re.IGNORECASE).lower()
    found = re.match(r"^([0-4]|(?:iv|iii|ii|is|i|x)(?=$|[^a-z]|[a-d](?![a-z])))", short)
    return f"{kind} {NUMBERS[found.group(1)]}" if found else raw


def sentences(facts: PatientFacts, edges: Sequence[float] = (), unit: str = "months") -> dict[str, str]:
    """The strings of a patient by prompt: "general", "diagnosis", "stage", "survival"; "" where nothing is known.

    Each is a row of key and value, separated by semicolons; fields that are not known are passed over.
    """
    site = _field("site", facts.site)
    diagnosis = _field("diagnosis", facts.diagnosis)
    stages = [
        _field("stage", stage_in_words(facts.stage)),
        *(_field(kind, stage_in_words(text, kind)) for kind, text in (("T", facts.t), ("N", facts.n), ("M", facts.m))),
    ]
    outcome = _field("outcome", survival_clause(facts.time, facts.event, edges, unit))

    def joined(parts: Sequence[str], needed: Sequence[str]) -> str:
        return "; ".join(part for part in parts if part) if any(needed) else ""

    return {
        "general": joined([site, diagnosis, *stages, outcome], [site, diagnosis, *stages, outcome]),
        "diagnosis": joined([site, diagnosis], [diagnosis]),
        "stage": joined([site, *stages], stages),
        "survival": joined([site, *stages, outcome], [outcome]),
    }


def one_hot(texts: Sequence[str], known: Sequence[str]) -> NDArray[np.float32]:
    """(n, len(known)) a 1 at the place of each text among the known ones; a text that is not known is all 0."""
    place = {text: index for index, text in enumerate(known)}
    found = np.zeros((len(texts), len(known)), dtype=np.float32)
    for row, text in enumerate(texts):
        if text in place:
            found[row, place[text]] = 1.0
    return found


def _field(key: str, value: str) -> str:
    text = value.strip()
    return "" if text.lower() in UNSAID else f"{key}: {text}"
