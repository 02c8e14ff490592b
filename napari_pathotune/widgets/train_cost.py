"""The line before a training: how many tiles, minutes and megabytes, as far as this machine has been tried."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from napari_pathotune.widgets.parts import thousands

if TYPE_CHECKING:
    from pathotune.training.preflight import Estimate, Preflight

FILE = "tuning_costs.json"
MOST_NOTES = 2
# What `Costs` is made of; the rest of a probe's answer is for people.
PARTS = ("read", "lower", "learn", "judge", "kept_mb", "fixed")


def cost_text(table: Preflight, estimate: Estimate | None, image_px: int) -> str:
    """Tiles, how many are held out, time and memory, and what there is to say about the split."""
    tiles = table.tiles or sum(row.tiles for row in table.regions)
    held = sum(table.validation.values())
    parts = [f"<b>{thousands(tiles)} tiles</b>" + (f", {thousands(held)} of them held out to judge by" if held else "")]
    megabytes = tiles * image_px**2 * 3 / 2**20
    if estimate is not None:
        parts.append(span_text(*estimate.seconds))
        megabytes = estimate.megabytes
    parts.append(f"{thousands(max(1, megabytes))} MB of memory")
    notes = " ".join(escape(note) for note in table.notes[:MOST_NOTES])
    more = len(table.notes) - MOST_NOTES
    notes += f" And {more} more: point here." if more > 0 else ""
    return " · ".join(parts) + (f"<br><i>{notes}</i>" if notes else "")


def span_text(least: float, most: float) -> str:
    """From one time to another in plain words."""
    if most < 90:
        low, high, unit = round(least, -1 if most > 20 else 0), round(most, -1 if most > 20 else 0), "s"
    else:
        low, high, unit = max(1, round(least / 60)), round(most / 60), "min"
    low = max(1, low)
    return f"{low:.0f} to {high:.0f} {unit}" if high > low else f"about {high:.0f} {unit}"


def can_probe() -> bool:
    """Whether the worker can try how fast this machine is."""
    from pathotune.execution.job import RUNNERS

    return "probe" in RUNNERS


def remembered_costs(key: str) -> dict[str, float]:
    """What a tile costs here, as a probe of this kind found; empty where there was none."""
    from pathotune.settings import read_json, settings

    found = read_json(settings().cache_dir / FILE).get(key)
    return {name: float(found[name]) for name in PARTS if name in found} if isinstance(found, dict) else {}


def remember_costs(key: str, result: dict[str, Any]) -> None:
    """Remember what a probe found, for every later line."""
    from pathotune.settings import read_json, settings, write_json

    path = settings().cache_dir / FILE
    costs = {name: result[name] for name in PARTS if isinstance(result.get(name), int | float)}
    if not costs:
        return
    try:
        write_json(path, {**read_json(path), key: costs})
    except OSError:
        return  # it is only an estimate
