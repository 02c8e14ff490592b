"""How much each pathway speaks for a class or for a higher risk: integrated gradients over a patient's genes."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pathotune.errors import OutputRefused, UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from pathotune.methods.modaltune.method import ModalTune, Patients

STEPS = 32


def pathway_attribution(
    model: ModalTune, patient: Patients, prompt: str, score: Callable[[Tensor], Tensor], steps: int = STEPS
) -> tuple[NDArray[np.float64], float]:
    """Integrated gradients of a score over the expression, from the training mean to what was measured.

    Every gene counts for each pathway it is in by what that pathway's own net makes of it, so that the pathways add up
    to the whole (Sundararajan et al., Axiomatic attribution for deep networks, ICML 2017).

    Parameters
    ----------
    model : in evaluation mode, with genes.
    patient : one patient, with expression.
    score : from a vector of length 1, (1, d), to a number.
    steps : points on the straight line from mean to measurement.

    Returns
    -------
    (pathways,) attributions, and the change of the score that they add up to.

    Raises
    ------
    UsageError : the tuning has no genes, or the patient no expression.
    """
    import torch

    encoder = model.gene_encoder
    if encoder is None or patient.genes is None or len(patient.genes) != 1:
        raise UsageError("Attribution to pathways needs a tuning with genes and one patient with expression.")
    whole = encoder.members(patient.genes)  # (1, memberships)
    summed = torch.zeros_like(whole)

    def value(members: Tensor) -> Tensor:
        vector = model(patient._replace(members=members), (prompt,)).vectors[:, 0]
        return score(torch.nn.functional.normalize(vector.float(), dim=-1)).sum()

    with torch.enable_grad():
        for step in range(steps):
            # The middle of each part of the line.
            here = (whole * ((step + 0.5) / steps)).detach().requires_grad_(True)
            (gradient,) = torch.autograd.grad(value(here), here)
            summed += gradient
    with torch.no_grad():
        change = float(value(whole) - value(torch.zeros_like(whole)))
    of_members = (summed * whole / steps)[0].double().cpu().numpy()
    ends = np.cumsum(encoder.sizes.cpu().numpy())
    return np.diff(np.concatenate([[0.0], np.cumsum(of_members)[ends - 1]])), change


def write_attributions(path: Path, names: Sequence[str], columns: Mapping[str, NDArray[np.float64]]) -> Path:
    """A CSV with a row for each pathway, those that matter most first.

    Raises
    ------
    OutputRefused : it cannot be written.
    """
    values = np.stack(list(columns.values()), axis=1)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["pathway", *columns])
    for row in np.argsort(-np.abs(values).max(axis=1), kind="stable").tolist():
        writer.writerow([names[row], *(f"{value:.6g}" for value in values[row].tolist())])
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text.getvalue(), encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        raise OutputRefused(f"{path} cannot be written ({error.strerror or error}). Choose another --out.") from None
    return path
