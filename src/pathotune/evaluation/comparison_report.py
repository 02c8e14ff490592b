"""What a comparison comes to: means over seeds, paired differences to the linear probe, a table and a page."""

from __future__ import annotations

import csv
import html
import string
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pathotune.errors import OutputRefused
from pathotune.tasks import colour_blind_palette

if TYPE_CHECKING:
    from pathotune.datasets.tiles import TileTable
    from pathotune.evaluation.compare import CompareConfig

YARDSTICK = "linear_probe"
DRAWS = 1000
COLUMNS = (
    "method",
    "backbone",
    "shots",
    "seed",
    "balanced_accuracy",
    "auc",
    "f1",
    "ece",
    "trainable_parameters",
    "seconds",
    "peak_memory_mb",
    "train_tiles",
    "validation_tiles",
    "best_epoch",
    "epochs",
    "error",
)
SCORES = ("balanced_accuracy", "auc", "ece")

Floats = NDArray[np.float64]


def summarise(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> list[dict[str, Any]]:
    """One entry per method, backbone and number of shots, in the order of the rows.

    Returns
    -------
    Each with "method", "backbone", "shots", "seeds", the mean of every score and its spread over the seeds ("…_spread",
    None for one seed), "ci95" of the mean balanced accuracy by a bootstrap over the test set's witnesses, and, beside
    the linear probe of the same backbone and shots, "difference", its "difference_ci95" and "p": the witnesses are
    drawn for both at once, as both were judged by the same.
    """
    found: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in rows:
        if "error" not in row:
            found.setdefault((row["backbone"], str(row["shots"]), row["method"]), []).append(row)
    draws = {key: _drawn_scores(several, len(names)) for key, several in found.items()}
    summary = []
    for (backbone, shots, method), several in found.items():
        entry: dict[str, Any] = {"method": method, "backbone": backbone, "shots": shots, "seeds": len(several)}
        for score in SCORES:
            values = [row[score] for row in several if row[score] is not None]
            entry[score] = float(np.mean(values)) if values else None
            entry[f"{score}_spread"] = float(np.std(values, ddof=1)) if len(values) > 1 else None
        entry["trainable_parameters"] = int(np.median([row["trainable_parameters"] for row in several]))
        entry["seconds"] = float(np.median([row["seconds"] for row in several]))
        own, other = draws[backbone, shots, method], draws.get((backbone, shots, YARDSTICK))
        entry["ci95"] = _interval(own)
        if method != YARDSTICK and other is not None and own is not None:
            gap = own - other
            mean = float(np.mean([row["balanced_accuracy"] for row in several]))
            yardstick = found[backbone, shots, YARDSTICK]
            entry["difference"] = mean - float(np.mean([row["balanced_accuracy"] for row in yardstick]))
            entry["difference_ci95"] = _interval(gap)
            entry["p"] = min(1.0, 2 * (1 + min(int((gap <= 0).sum()), int((gap >= 0).sum()))) / (len(gap) + 1))
        summary.append(entry)
    return summary


def _drawn_scores(rows: list[dict[str, Any]], classes: int) -> Floats | None:
    """(draws,) mean balanced accuracy of the rows for every draw of the witnesses; None with fewer than two."""
    _, group = np.unique(rows[0]["groups"], return_inverse=True)
    count = int(group.max()) + 1
    if count < 2:
        return None
    labels = rows[0]["labels"]
    hits, totals = np.zeros((len(rows), count, classes)), np.zeros((count, classes))
    np.add.at(totals, (group, labels), 1)
    for number, row in enumerate(rows):
        np.add.at(hits[number], (group, labels), row["probabilities"].argmax(axis=1) == labels)
    weights = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=DRAWS).astype(float)
    there = weights @ totals  # (draws, classes)
    with np.errstate(invalid="ignore", divide="ignore"):
        recalls = np.einsum("dg,rgc->drc", weights, hits) / there[:, None]
    return np.asarray(np.nanmean(recalls, axis=2).mean(axis=1))


def _interval(values: Floats | None) -> list[float] | None:
    return None if values is None else [float(value) for value in np.percentile(values, [2.5, 97.5])]


def write_comparison(
    out: Path,
    rows: Sequence[dict[str, Any]],
    summary: Sequence[dict[str, Any]],
    config: CompareConfig,
    table: TileTable,
) -> dict[str, str]:
    """Write `comparison.csv` and `comparison.html`; returns their paths.

    Raises
    ------
    OutputRefused : the folder cannot be written to.
    """
    paths = {"csv": out / "comparison.csv", "html": out / "comparison.html"}
    try:
        with paths["csv"].open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore", restval="")
            writer.writeheader()
            writer.writerows(rows)
        paths["html"].write_text(_page(rows, summary, config, table), encoding="utf-8")
    except OSError as error:
        raise OutputRefused(
            f"{str(out)!r} cannot be written to ({error.strerror or error}); close its files or name another --out."
        ) from error
    return {name: str(path) for name, path in paths.items()}


def _page(
    rows: Sequence[dict[str, Any]], summary: Sequence[dict[str, Any]], config: CompareConfig, table: TileTable
) -> str:
    from pathotune.resources import resource

    template = string.Template(resource("compare", "comparison.html").read_text(encoding="utf-8"))
    test = sum(split == "test" for split in table.split)
    errors = dict.fromkeys(f"{row['method']} on {row['backbone']}: {row['error']}" for row in rows if "error" in row)
    return template.substitute(
        classes=html.escape(", ".join(table.class_names)),
        tiles=len(table) - test,
        test=test,
        seeds=config.seeds,
        unit=html.escape(config.shot_unit),
        plots="\n".join(_plot(summary, backbone, config) for backbone in config.backbones),
        rows="\n".join(_table_row(entry) for entry in summary),
        errors="".join(f"<p>{html.escape(text)}</p>" for text in errors),
    )


def _table_row(entry: dict[str, Any]) -> str:
    cells = [
        html.escape(entry["method"]),
        html.escape(entry["backbone"]),
        entry["shots"],
        _number(entry["balanced_accuracy"], entry["balanced_accuracy_spread"]),
        _range(entry["ci95"]),
        _number(entry["auc"], entry["auc_spread"]),
        _number(entry["ece"], entry["ece_spread"]),
        ""
        if "difference" not in entry
        else f"{100 * entry['difference']:+.1f} {_range(entry['difference_ci95'], 100)}",
        "" if "p" not in entry else f"{entry['p']:.3f}",
        f"{entry['trainable_parameters']:,}",
    ]
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _number(value: float | None, spread: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" + (f" ± {spread:.3f}" if spread is not None else "")


def _range(interval: list[float] | None, factor: float = 1.0) -> str:
    if interval is None:
        return ""
    low, high = (factor * value for value in interval)
    return f"({low:+.1f} to {high:+.1f})" if factor != 1.0 else f"{low:.2f}–{high:.2f}"


# The plot's frame in pixels: left, top, width, height.
FRAME = (48.0, 12.0, 420.0, 240.0)


def _plot(summary: Sequence[dict[str, Any]], backbone: str, config: CompareConfig) -> str:
    """Balanced accuracy over shots, one line per method, as SVG."""
    left, top, width, height = FRAME
    steps = ["all" if shots is None else str(shots) for shots in config.shots]
    mine = [entry for entry in summary if entry["backbone"] == backbone]
    if not mine:
        return ""
    values = [entry["balanced_accuracy"] for entry in mine]
    low, high = np.floor(min(values) * 20) / 20, np.ceil(max(values) * 20) / 20
    high = max(high, low + 0.05)

    def place(step: str, value: float) -> tuple[float, float]:
        x = left + width * (steps.index(step) + 0.5) / len(steps)
        return x, top + height * (1 - (value - low) / (high - low))

    parts = [f'<rect x="{left}" y="{top}" width="{width}" height="{height}" class="frame"/>']
    for value in np.linspace(low, high, 6):
        y = place(steps[0], float(value))[1]
        parts.append(f'<line x1="{left}" x2="{left + width}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" class="value">{value:.2f}</text>')
    for step in steps:
        x = place(step, low)[0]
        parts.append(f'<text x="{x:.1f}" y="{top + height + 18}" class="step">{step}</text>')
    for color, method in zip(colour_blind_palette(len(config.methods)), config.methods, strict=True):
        points = [place(entry["shots"], entry["balanced_accuracy"]) for entry in mine if entry["method"] == method]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline points="{line}" style="stroke:rgb{tuple(color)}"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" style="fill:rgb{tuple(color)}"/>' for x, y in points]
    legend = " ".join(
        f'<span class="swatch"><i style="background:rgb{tuple(color)}"></i>{html.escape(method)}</span>'
        for color, method in zip(colour_blind_palette(len(config.methods)), config.methods, strict=True)
    )
    size = f'width="{left + width + 12:.0f}" height="{top + height + 30:.0f}"'
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{"".join(parts)}</svg>'
    return f"<figure>{svg}<figcaption>{html.escape(backbone)}: {legend}</figcaption></figure>"
