"""The plots of a comparison as SVG: learning curves over shots, and bars for what is beside each other."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import numpy as np

from pathotune.evaluation.variants import groups_on, read_method
from pathotune.tasks import colour_blind_palette

# The curves' frame in pixels: left, top, width, height.
FRAME = (48.0, 12.0, 420.0, 240.0)
# The bars' frame: where they begin at least, how long the longest is, how high each is.
BARS = (110.0, 300.0, 24.0)
LETTER_PX = 7.0  # of a name before a bar: wide enough that none is cut off at the left
TITLES = {"tvp": "TVP", "ttp": "TTP", "ivp": "IVP"}

Entries = Sequence[dict[str, Any]]


def curves(entries: Entries, methods: Sequence[str], steps: Sequence[str], caption: str) -> str:
    """Balanced accuracy over shots, one line per method.

    Parameters
    ----------
    entries : of the summary, of one backbone.
    steps : the shots in their order.
    """
    if not entries:
        return ""
    left, top, width, height = FRAME
    low, high = _range([entry["balanced_accuracy"] for entry in entries])

    def place(step: str, value: float) -> tuple[float, float]:
        x = left + width * (list(steps).index(step) + 0.5) / len(steps)
        return x, top + height * (1 - (value - low) / (high - low))

    parts = [f'<rect x="{left}" y="{top}" width="{width}" height="{height}" class="frame"/>']
    for value in np.linspace(low, high, 6):
        y = place(steps[0], float(value))[1]
        parts.append(f'<line x1="{left}" x2="{left + width}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" class="value">{value:.2f}</text>')
    for step in steps:
        parts.append(f'<text x="{place(step, low)[0]:.1f}" y="{top + height + 18}" class="step">{step}</text>')
    colors = _colors(methods)
    for method, color in colors.items():
        points = [place(entry["shots"], entry["balanced_accuracy"]) for entry in entries if entry["method"] == method]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline points="{line}" style="stroke:{color}"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" style="fill:{color}"/>' for x, y in points]
    legend = " ".join(
        f'<span class="swatch"><i style="background:{color}"></i>{html.escape(method)}</span>'
        for method, color in colors.items()
    )
    return _figure(parts, left + width + 12, top + height + 30, f"{html.escape(caption)}: {legend}")


def bars(entries: Entries, chance: float, caption: str, labels: dict[str, str] | None = None) -> str:
    """One bar per entry from chance on, with the interval of its balanced accuracy.

    Parameters
    ----------
    entries : of the summary, of one backbone and one number of shots.
    chance : the balanced accuracy of a guess, where the bars begin.
    labels : other words for methods.
    """
    if not entries:
        return ""
    least, length, step = BARS
    names = [(labels or {}).get(entry["method"]) or str(entry["method"]) for entry in entries]
    start = max(least, 12 + LETTER_PX * max(map(len, names)))
    ends = [value for entry in entries for value in (entry["balanced_accuracy"], *(entry["ci95"] or ()))]
    low, high = float(min(chance, *ends)), float(max(chance + 0.05, *ends))

    def place(value: float) -> float:
        """Pixels from the left."""
        return float(start + length * (value - low) / (high - low))

    parts = []
    for number, entry in enumerate(entries):
        y, value = 8 + number * step, entry["balanced_accuracy"]
        first, last = sorted((place(chance), place(value)))
        parts.append(f'<text x="{start - 8}" y="{y + 13:.1f}" class="value">{html.escape(names[number])}</text>')
        parts.append(f'<rect x="{first:.1f}" y="{y}" width="{last - first:.1f}" height="{step - 8}" class="bar"/>')
        if entry["ci95"]:
            a, b = (place(end) for end in entry["ci95"])
            middle = y + (step - 8) / 2
            parts.append(f'<line x1="{a:.1f}" x2="{b:.1f}" y1="{middle}" y2="{middle}" class="whisker"/>')
        parts.append(f'<text x="{start + length + 10}" y="{y + 13:.1f}">{value:.3f}</text>')
    bottom = 8 + len(entries) * step
    x = place(chance)
    parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="2" y2="{bottom}" class="chance"/>')
    parts.append(f'<text x="{x:.1f}" y="{bottom + 14}" class="step">chance {chance:.2f}</text>')
    return _figure(parts, start + length + 60, bottom + 22, html.escape(caption))


def prompt_combinations(entries: Entries) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The entries that differ in their prompt groups, most groups first, and what to call them; none for fewer than
    two."""
    groups = {entry["method"]: _groups(entry["method"]) for entry in entries}
    chosen = [entry for entry in entries if groups[entry["method"]] is not None]
    if len({groups[entry["method"]] for entry in chosen}) < 2:
        return [], {}
    chosen.sort(key=lambda entry: -len(groups[entry["method"]] or ()))
    labels: dict[str, str] = {}
    for entry in chosen:
        on = " + ".join(TITLES[group] for group in groups[entry["method"]] or ()) or "no prompts"
        # Two of one combination differ in something else, which the word itself says.
        labels[entry["method"]] = entry["method"] if on in labels.values() else on
    return chosen, labels


def _groups(word: str) -> tuple[str, ...] | None:
    variant = read_method(word)
    is_control = getattr(variant.config, "text", "own") != "own"
    return None if is_control else groups_on(variant.config)


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = np.floor(min(values) * 20) / 20, np.ceil(max(values) * 20) / 20
    return float(low), float(max(high, low + 0.05))


def _colors(methods: Sequence[str]) -> dict[str, str]:
    palette = colour_blind_palette(len(methods))
    return {method: f"rgb{tuple(color)}" for method, color in zip(methods, palette, strict=True)}


def _figure(parts: Sequence[str], width: float, height: float, caption: str) -> str:
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}">{"".join(parts)}</svg>'
    return f"<figure>{svg}<figcaption>{caption}</figcaption></figure>"
