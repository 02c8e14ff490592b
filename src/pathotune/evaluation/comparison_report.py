"""A comparison as a table and a page."""

from __future__ import annotations

import csv
import html
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from pathotune.errors import OutputRefused
from pathotune.evaluation.comparison_plots import bars, curves, prompt_combinations

COLUMNS = (
    "method",
    "backbone",
    "shots",
    "seed",
    "balanced_accuracy",
    "auc",
    "f1",
    "ece",
    "c_index",
    "trainable_parameters",
    "seconds",
    "peak_memory_mb",
    "train_tiles",
    "validation_tiles",
    "best_epoch",
    "epochs",
    "text_encoder",
    "backbone_sha256",
    "error",
)


class Judged(NamedTuple):
    """What a comparison was made on.

    learned, test : how many could be learned from, and how many were judged.
    what : what they are, in the plural.
    """

    class_names: Sequence[str]
    learned: int
    test: int
    what: str = "tiles"


class Compared(Protocol):
    """What the page says of a comparison's options."""

    @property
    def methods(self) -> tuple[str, ...]:
        """Words of `evaluation.variants`."""

    @property
    def backbones(self) -> tuple[str, ...]:
        """Names."""

    @property
    def shots(self) -> tuple[int | None, ...]:
        """Of each class; None for all."""

    @property
    def shot_unit(self) -> str:
        """What is counted."""

    @property
    def seeds(self) -> int:
        """Draws of each."""


def write_comparison(
    out: Path,
    rows: Sequence[dict[str, Any]],
    summary: Sequence[dict[str, Any]],
    verdicts: Sequence[dict[str, Any]],
    config: Compared,
    judged: Judged,
) -> dict[str, str]:
    """Write `comparison.csv` and `comparison.html`; returns their paths.

    Parameters
    ----------
    rows : one per cell.
    summary, verdicts : of `evaluation.summary`.

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
        paths["html"].write_text(_page(rows, summary, verdicts, config, judged), encoding="utf-8")
    except OSError as error:
        raise OutputRefused(
            f"{str(out)!r} cannot be written to ({error.strerror or error}); close its files or name another --out."
        ) from error
    return {name: str(path) for name, path in paths.items()}


def _page(
    rows: Sequence[dict[str, Any]],
    summary: Sequence[dict[str, Any]],
    verdicts: Sequence[dict[str, Any]],
    config: Compared,
    judged: Judged,
) -> str:
    from pathotune.resources import resource

    template = string.Template(resource("compare", "comparison.html").read_text(encoding="utf-8"))
    errors = dict.fromkeys(f"{row['method']} on {row['backbone']}: {row['error']}" for row in rows if "error" in row)
    steps = ["all" if shots is None else str(shots) for shots in config.shots]
    of = {name: [entry for entry in summary if entry["backbone"] == name] for name in config.backbones}
    return template.substitute(
        classes=html.escape(", ".join(judged.class_names)),
        learned=judged.learned,
        test=judged.test,
        what=html.escape(judged.what),
        seeds=config.seeds,
        unit=html.escape(config.shot_unit),
        curves="\n".join(curves(entries, config.methods, steps, name) for name, entries in of.items()),
        bars="\n".join(_bars(entries, steps, name, len(judged.class_names)) for name, entries in of.items()),
        encoders=_encoders(rows),
        text="".join(f"<li>{html.escape(str(entry['said']))}</li>" for entry in verdicts)
        or "<li>No method was compared with its text taken away (cite[text=random], cite[text=permuted]).</li>",
        rows="\n".join(_table_row(entry) for entry in summary),
        errors="".join(f"<p>{html.escape(text)}</p>" for text in errors),
    )


def _encoders(rows: Sequence[dict[str, Any]]) -> str:
    """Who read the sentences, and what to know of them."""
    from pathotune.backbones.text import about_encoder

    names = dict.fromkeys(str(row["text_encoder"]) for row in rows if row.get("text_encoder"))
    if not names:
        return ""
    return f"<p>Sentences were read by {html.escape('; '.join(about_encoder(name) for name in names))}.</p>"


def _bars(entries: Sequence[dict[str, Any]], steps: Sequence[str], backbone: str, classes: int) -> str:
    """Bars at the most shots, and where prompt groups were switched on and off, of their combinations at each step."""
    chance = 1 / max(2, classes)
    last = next((step for step in reversed(steps) if any(entry["shots"] == step for entry in entries)), "")
    parts = [bars([entry for entry in entries if entry["shots"] == last], chance, f"{backbone}, {last} shots")]
    for step in steps:
        chosen, labels = prompt_combinations([entry for entry in entries if entry["shots"] == step])
        parts.append(bars(chosen, chance, f"PathoTune's prompt groups on {backbone}, {step} shots", labels))
    return "\n".join(part for part in parts if part)


def _table_row(entry: dict[str, Any]) -> str:
    cells = [html.escape(entry["method"]), html.escape(entry["backbone"]), entry["shots"]]
    for score in ("balanced_accuracy", "auc", "f1", "ece"):
        spread = _number(entry[score], entry[f"{score}_spread"])
        cells.append(f"{spread} {_range(entry[f'{score}_ci95'])}".strip())
    gap = "" if "difference" not in entry else f"{100 * entry['difference']:+.1f}"
    cells += [
        f"{gap} {_range(entry.get('difference_ci95'), 100)}".strip(),
        "" if entry.get("p") is None else f"{entry['p']:.3f}",
        f"{entry['trainable_parameters']:,}",
        "–" if entry["seconds"] is None else f"{entry['seconds']:.1f}",
        "–" if entry["peak_memory_mb"] is None else f"{entry['peak_memory_mb']:,.0f}",
    ]
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _number(value: float | None, spread: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" + (f" ± {spread:.3f}" if spread is not None else "")


def _range(between: list[float] | None, factor: float = 1.0) -> str:
    if between is None:
        return ""
    low, high = (factor * value for value in between)
    return f"({low:+.1f} to {high:+.1f})" if factor != 1.0 else f"({low:.2f}–{high:.2f})"
