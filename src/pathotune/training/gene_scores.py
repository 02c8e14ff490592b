"""How well genes are predicted: the correlation of each within a section or cohort, and which are no chance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

FEWEST = 3  # samples of a correlation
SIGNIFICANT = 0.05


def correlations(
    predicted: NDArray[np.float32], measured: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Pearson's r of each gene over samples, and over how many.

    Parameters
    ----------
    predicted, measured : (n, G); samples without a value are passed over gene by gene.

    Returns
    -------
    (G,) r, NaN where there are fewer than three samples or nothing varies; (G,) numbers of samples.
    """
    known = np.isfinite(measured) & np.isfinite(predicted)
    count = known.sum(axis=0)
    safe = np.maximum(count, 1)
    one, two = (np.where(known, part, 0.0).astype(np.float64) for part in (predicted, measured))
    one, two = (np.where(known, part - part.sum(axis=0) / safe, 0.0) for part in (one, two))
    spread = np.sqrt((one**2).sum(axis=0) * (two**2).sum(axis=0))
    with np.errstate(invalid="ignore", divide="ignore"):
        r = (one * two).sum(axis=0) / spread
    r[(count < FEWEST) | (spread < 1e-12)] = np.nan
    return np.clip(r, -1.0, 1.0), count


def chance(r: NDArray[np.float64], count: NDArray[np.int64]) -> NDArray[np.float64]:
    """(G,) how likely a correlation at least as high is where there is none (one-sided, Student's t); NaN with r."""
    from scipy import stats

    freedom = np.maximum(count - 2, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = r * np.sqrt(freedom / np.maximum(1 - r**2, 1e-12))
    return np.asarray(np.where(np.isnan(r), np.nan, stats.t.sf(t, freedom)))


def false_discovery(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """(G,) Benjamini and Hochberg's adjusted p; NaN where p is."""
    from scipy import stats

    q = np.full(len(p), np.nan)
    known = np.isfinite(p)
    if known.any():
        q[known] = stats.false_discovery_control(np.clip(p[known], 0.0, 1.0), method="bh")
    return q


def gene_report(
    predicted: NDArray[np.float32],
    measured: NDArray[np.float32],
    genes: Sequence[str],
    groups: Sequence[str],
) -> dict[str, Any]:
    """Correlation of each gene within each group, then the mean over groups.

    Pooled groups let a prediction look excellent that only knows which organ or section a sample is from, so r is never
    taken across them. p is combined over groups by Fisher's method.

    Parameters
    ----------
    predicted, measured : (n, G).
    groups : (n,) section or cohort of each sample.

    Returns
    -------
    "genes" {name: {"r", "p", "q"}}, "mean_r" over the genes that could be judged, "significant" share with q < 0.05,
    "per_group" {group: {"n", "mean_r"}}.
    """
    from scipy import stats

    names = list(dict.fromkeys(groups))
    rows = {name: [index for index, group in enumerate(groups) if group == name] for name in names}
    found = {name: correlations(predicted[index], measured[index]) for name, index in rows.items()}
    all_r = np.stack([found[name][0] for name in names])  # (groups, G)
    all_p = np.stack([chance(*found[name]) for name in names])
    judged = np.isfinite(all_r)
    r = np.where(
        judged.any(axis=0), np.where(judged, all_r, 0.0).sum(axis=0) / np.maximum(judged.sum(axis=0), 1), np.nan
    )
    p = np.full(len(r), np.nan)
    for gene in np.flatnonzero(judged.any(axis=0)):
        own = np.clip(all_p[judged[:, gene], gene], 1e-300, 1.0)
        p[gene] = own[0] if len(own) == 1 else stats.combine_pvalues(own, method="fisher").pvalue
    q = false_discovery(p)

    def number(value: float) -> float | None:
        return None if np.isnan(value) else float(value)

    return {
        "genes": {gene: {"r": number(r[i]), "p": number(p[i]), "q": number(q[i])} for i, gene in enumerate(genes)},
        "mean_r": number(float(np.nanmean(r))) if np.isfinite(r).any() else None,
        "genes_judged": int(np.isfinite(r).sum()),
        "significant": number(float((q[np.isfinite(q)] < SIGNIFICANT).mean())) if np.isfinite(q).any() else None,
        "per_group": {name: {"n": len(rows[name]), "mean_r": number(_mean(found[name][0]))} for name in names},
    }


def _mean(values: NDArray[np.float64]) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")
