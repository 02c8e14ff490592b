"""What a comparison comes to: means over seeds, intervals, paired differences, and what the text is worth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathotune.evaluation.bootstrap import SCORES, both_ways, drawn_scores, drawn_weights, interval
from pathotune.evaluation.variants import control_pairs

YARDSTICK = "linear_probe"
Floats = NDArray[np.float64]
Key = tuple[str, str, str]


def summarise(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> list[dict[str, Any]]:
    """One entry per method, backbone and number of shots, in the order of the rows.

    Parameters
    ----------
    rows : each with its facts and scores, "probabilities" (n, K), "labels" (n,) and "groups" (n,), or with "error".
    names : the classes.

    Returns
    -------
    Each with "method", "backbone", "shots", "seeds", the mean of every score, its spread over the seeds ("…_spread",
    None for one seed) and its "…_ci95" by a bootstrap over the test set's witnesses ("ci95" is that of the balanced
    accuracy), and, beside the linear probe of the same backbone and shots, "difference", its "difference_ci95" and
    "p": the witnesses are drawn for both at once, as both were judged by the same.
    """
    found = _by_cell(rows)
    draws = {key: _mean_draws(several) for key, several in found.items()}
    summary = []
    for (backbone, shots, method), several in found.items():
        entry: dict[str, Any] = {"method": method, "backbone": backbone, "shots": shots, "seeds": len(several)}
        own, other = draws[backbone, shots, method], draws.get((backbone, shots, YARDSTICK))
        for score in SCORES:
            values = [row[score] for row in several if row.get(score) is not None]
            entry[score] = float(np.mean(values)) if values else None
            entry[f"{score}_spread"] = float(np.std(values, ddof=1)) if len(values) > 1 else None
            entry[f"{score}_ci95"] = interval(own.get(score))
        entry["ci95"] = entry["balanced_accuracy_ci95"]
        for fact in ("trainable_parameters", "seconds", "peak_memory_mb"):
            values = [row[fact] for row in several if row.get(fact) is not None]
            entry[fact] = float(np.median(values)) if values else None
        entry["trainable_parameters"] = int(entry["trainable_parameters"] or 0)
        if method != YARDSTICK and other:
            entry |= _against(several, found[backbone, shots, YARDSTICK], own, other)
        summary.append(entry)
    return summary


def text_verdicts(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What true sentences are worth against random vectors or permuted sentences, for every pair that was compared.

    Returns
    -------
    Each with "method", "control", "instead" (in words), "backbone", "shots", "difference" of the balanced accuracies,
    its "difference_ci95" and "p", and "said": a sentence that tells whether the text earns its place.
    """
    found = _by_cell(rows)
    draws = {key: _mean_draws(several) for key, several in found.items()}
    verdicts = []
    words = list(dict.fromkeys(method for _, _, method in found))
    for own, control, instead in control_pairs(words):
        for backbone, shots in dict.fromkeys((backbone, shots) for backbone, shots, _ in found):
            true, false = (backbone, shots, own), (backbone, shots, control)
            if true not in found or false not in found:
                continue
            entry = {"method": own, "control": control, "instead": instead, "backbone": backbone, "shots": shots}
            entry |= _against(found[true], found[false], draws[true], draws[false])
            verdicts.append({**entry, "said": _verdict(entry)})
    return verdicts


def _verdict(entry: dict[str, Any]) -> str:
    where = f"{entry['method']} on {entry['backbone']}, {entry['shots']} shots"
    points, between = 100 * entry["difference"], entry["difference_ci95"]
    if between is None:
        return (
            f"{where}: its sentences make {points:+.1f} points against {entry['instead']}; too few witnesses to tell."
        )
    low, high = (100 * value for value in between)
    said = "its text earns its place" if low > 0 else "its text harms" if high < 0 else "its text is not shown to help"
    return f"{where}: {said} ({points:+.1f} points against {entry['instead']}, {low:+.1f} to {high:+.1f})."


def _by_cell(rows: Sequence[dict[str, Any]]) -> dict[Key, list[dict[str, Any]]]:
    found: dict[Key, list[dict[str, Any]]] = {}
    for row in rows:
        if "error" not in row:
            found.setdefault((row["backbone"], str(row["shots"]), row["method"]), []).append(row)
    return found


def _mean_draws(rows: list[dict[str, Any]]) -> dict[str, Floats]:
    """(draws,) of every score, the mean over the rows; empty with fewer than two witnesses."""
    drawn = drawn_weights(rows[0]["groups"])
    if drawn is None:
        return {}
    every = [drawn_scores(row["probabilities"], np.asarray(row["labels"]), *drawn) for row in rows]
    return {score: np.stack([one[score] for one in every]).mean(axis=0) for score in SCORES}


def _against(
    mine: list[dict[str, Any]], theirs: list[dict[str, Any]], own: dict[str, Floats], other: dict[str, Floats]
) -> dict[str, Any]:
    """The paired difference of the balanced accuracies."""
    means = [float(np.mean([row["balanced_accuracy"] for row in rows])) for rows in (mine, theirs)]
    result: dict[str, Any] = {"difference": means[0] - means[1], "difference_ci95": None, "p": None}
    if own and other:
        gaps = own["balanced_accuracy"] - other["balanced_accuracy"]
        result |= {"difference_ci95": interval(gaps), "p": both_ways(gaps)}
    return result
