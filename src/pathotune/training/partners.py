"""The other side of the contrast behind one surface: expression, report texts, or a table of numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pathotune.errors import TableUnreadable, UsageError

if TYPE_CHECKING:
    from pathotune.datasets.cohort import CohortInputs
    from pathotune.methods.transcriptomics.config import TranscriptomicsConfig
    from pathotune.training.paired import Paired

REPORTS = ("report", "text", "report_text")
KEYS = ("patient", "case", "case_id", "sample", "slide")


@dataclass(frozen=True)
class Partner:
    """Standardised numbers of every sample.

    kind : "expression", "text" or "table".
    values : (n, p) float32, z-scores of the training samples; NaN where not known.
    columns : names of the p numbers, () for expression and text.
    mean, spread : (p,) of the training samples, None for expression (the scaler has them).
    encoder : name of the text encoder, "" where there is none.
    """

    kind: str
    values: NDArray[np.float32]
    columns: tuple[str, ...] = ()
    mean: NDArray[np.float32] | None = None
    spread: NDArray[np.float32] | None = None
    encoder: str = ""

    def to_dict(self) -> dict[str, Any]:
        """What a tuning says of it."""
        return {
            "kind": self.kind,
            "columns": list(self.columns),
            "width": self.values.shape[1],
            "encoder": self.encoder,
        }

    def tensors(self) -> dict[str, NDArray[np.float32]]:
        """The numbers a tuning keeps of it."""
        if self.mean is None or self.spread is None:
            return {}
        return {"partner.mean": self.mean, "partner.spread": self.spread}


def partner_of(
    inputs: CohortInputs, config: TranscriptomicsConfig, paired: Paired, scores: NDArray[np.float32] | None
) -> Partner | None:
    """What the images are compared with, or None without a contrast.

    Raises
    ------
    UsageError, TableUnreadable : the table or the texts that were asked for are not there.
    """
    if not config.contrasts:
        return None
    if config.partner == "expression":
        if scores is None:
            raise UsageError("The contrast with expression needs --expression TABLE.")
        return Partner("expression", scores)
    if config.partner == "text":
        raw, encoder = _text_vectors(inputs, paired)
        return _standardised(raw, paired, "text", (), encoder)
    raw, columns = _numbers(inputs, paired)
    return _standardised(raw, paired, "table", columns, "")


def partner_like(
    said: Mapping[str, Any],
    tensors: Mapping[str, NDArray[np.float32]],
    inputs: CohortInputs,
    paired: Paired,
    scores: NDArray[np.float32] | None,
) -> Partner | None:
    """The same side of other samples, scaled as in the training; None where they do not have it.

    Parameters
    ----------
    said, tensors : what `Partner.to_dict` and `Partner.tensors` gave.
    """
    kind, mean, spread = said.get("kind"), tensors.get("partner.mean"), tensors.get("partner.spread")
    if kind == "expression":
        return None if scores is None else Partner("expression", scores)
    if mean is None or spread is None:
        return None
    try:
        if kind == "text":
            raw, _ = _text_vectors(inputs, paired, str(said.get("encoder") or "auto"))
        else:
            raw, columns = _numbers(inputs, paired)
            place = {name: index for index, name in enumerate(columns)}
            wanted = [str(name) for name in said.get("columns", ())]
            raw = np.stack(
                [raw[:, place[name]] if name in place else np.full(len(raw), np.nan, np.float32) for name in wanted], 1
            )
    except UsageError:
        return None
    return Partner(str(kind), ((raw - mean) / spread).astype(np.float32))


def _standardised(
    raw: NDArray[np.float32], paired: Paired, kind: str, columns: tuple[str, ...], encoder: str
) -> Partner:
    train = raw[paired.rows("train")]
    known = np.isfinite(train)
    count = np.maximum(known.sum(axis=0), 1)
    mean = np.where(known, train, 0.0).sum(axis=0) / count
    spread = np.sqrt(np.where(known, (train - mean) ** 2, 0.0).sum(axis=0) / count)
    spread = np.where(spread > 1e-6, spread, 1.0)
    values = ((raw - mean) / spread).astype(np.float32)
    return Partner(kind, values, columns, mean.astype(np.float32), spread.astype(np.float32), encoder)


def _text_vectors(inputs: CohortInputs, paired: Paired, wanted: str = "auto") -> tuple[NDArray[np.float32], str]:
    from pathotune.prompts.text import encode_sentences

    columns = _columns(inputs, paired)
    name = next((name for name in REPORTS if name in columns), None)
    if name is None:
        raise UsageError("partner=text needs a column report in the cohort table or the clinical table.")
    texts = columns[name]
    without = sum(not text for text in texts)
    if without == len(texts):
        raise TableUnreadable(f"The column {name} holds no text of any of the {len(texts)} samples.")
    unique = list(dict.fromkeys(text for text in texts if text))
    # The encoder takes "|" for another wording of the same sentence.
    found = encode_sentences([text.replace("|", " ").replace("\n", " ") for text in unique], wanted)
    if found.vectors is None or found.encoder is None:
        raise UsageError("partner=text needs a text encoder: pip install 'pathotune[text]'.")
    place = {text: index for index, text in enumerate(unique)}
    vectors = np.full((len(texts), found.vectors.shape[1]), np.nan, dtype=np.float32)
    for row, text in enumerate(texts):
        if text:
            vectors[row] = found.vectors[place[text]]
    return vectors, str(found.encoder["name"])


def _numbers(inputs: CohortInputs, paired: Paired) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """Columns of numbers as they are."""
    found, names = [], []
    for name, cells in _columns(inputs, paired).items():
        try:
            values = np.asarray([float(cell) if cell else np.nan for cell in cells], dtype=np.float32)
        except ValueError:
            continue
        if np.isfinite(values).any():
            found.append(values)
            names.append(name)
    if not found:
        raise UsageError("partner=table needs columns of numbers: give --clinical TABLE or put them into the cohort.")
    return np.stack(found, axis=1), tuple(names)


def _columns(inputs: CohortInputs, paired: Paired) -> dict[str, list[str]]:
    """Every free column by name, one cell a sample: of the clinical table where one is given, else of the cohort."""
    cohort = inputs.cohort
    if inputs.clinical is None:
        return {
            name: [cells[row] for row in paired.cohort_row]
            for name, cells in cohort.clinical.items()
            if name not in {"spots", "visium", "expression", "sample"}
        }
    from pathotune.datasets.delimited import read_rows

    table = read_rows(inputs.clinical, "clinical table")
    key = next((name for name in KEYS if name in table.columns), None)
    if key is None:
        raise TableUnreadable(
            f"{inputs.clinical.name} has no column that names the patient (one of {', '.join(KEYS)}); add one."
        )
    rows = {row.cells.get(key, ""): row.cells for row in table.rows}
    keys = [(paired.patients[i], paired.names[i], cohort.slides[row]) for i, row in enumerate(paired.cohort_row)]
    found = [next((rows[name] for name in names if name in rows), {}) for names in keys]
    if not any(found):
        raise TableUnreadable(f"{inputs.clinical.name} names none of the {len(paired)} samples in its column {key}.")
    return {name: [cells.get(name, "") for cells in found] for name in table.columns if name and name != key}
