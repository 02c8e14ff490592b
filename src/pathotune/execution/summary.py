"""The table and the page that say of every slide of a run what became of it, whichever process did it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pathotune.execution.ledger import Ledger
from pathotune.inference.contact_sheet import write_contact_sheet
from pathotune.inference.inputs import SlideInput, write_table

if TYPE_CHECKING:
    from pathotune.methods.checkpoint import Tuning

_NOTHING = {
    "tiles": 0,
    "classes": {},
    "score": None,
    "seconds": 0.0,
    "tiles_per_second": 0.0,
    "model_busy": None,
    "peak_memory_mb": None,
}


def store_key(store: Path, out: Path) -> str:
    """A store's path below the results folder, the same on every computer that shares it."""
    return store.relative_to(out).as_posix()


def write_summary(
    ledger: Ledger,
    everything: Mapping[Path, SlideInput],
    own: Mapping[Path, dict[str, Any]],
    part: str | None,
    tuning: Tuning,
    *,
    is_last: bool = True,
) -> dict[str, str]:
    """Write `slides.csv` and `slides.html`, and of a part `slides-I-of-N.csv` too; returns their paths.

    Parameters
    ----------
    everything : all slides of all parts.
    own : what became of this process's slides; what others wrote down is read from the ledger.
    part : "I/N" or None.
    is_last : whether this process writes them for the last time, and so has to have the last word right.

    Raises
    ------
    OutputRefused : they cannot be written.
    """
    while True:
        ends = ledger.ends()
        written = _write(ledger.out, ends, everything, own, part, tuning)
        # Another may have written meanwhile, and knew of more ends: what is written last must have all of them.
        if not is_last or ledger.ends() == ends:
            return written


def _write(
    out: Path,
    ends: Mapping[str, dict[str, Any]],
    everything: Mapping[Path, SlideInput],
    own: Mapping[Path, dict[str, Any]],
    part: str | None,
    tuning: Tuning,
) -> dict[str, str]:
    """The files as of the ends known now; the rest as `write_summary`."""
    rows: dict[str, dict[str, Any]] = {}
    for store, item in everything.items():
        key = store_key(store, out)
        found = ends.get(key) or own.get(store)
        if found is None or found["status"] == "elsewhere":
            found = {"slide": item.called, "store": None, **_NOTHING, "status": "waiting", "error": None}
        # Paths as this process sees the folder: another computer may have it elsewhere.
        rows[key] = {**found, "slide": item.called, "store": str(store) if found.get("store") else None}
    names = list(tuning.class_names)
    written = {"table": str(write_table(list(rows.values()), names, out / "slides.csv"))}
    if part is not None:
        mine = [rows[store_key(store, out)] for store in everything if store in own]
        written["part"] = str(write_table(mine, names, out / f"slides-{part.replace('/', '-of-')}.csv"))
    page = write_contact_sheet(rows, tuning.classes, f"Slides predicted by {tuning.name}", out / "slides.html")
    return {**written, "page": str(page)}
