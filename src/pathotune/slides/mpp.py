"""How large a pixel is: what files say about it, which of that is believed, and what a person stated."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pathotune.errors import UsageError
from pathotune.settings import read_json, settings, write_json

# Between an electron-like 200x and a 0.5x overview; scanners lie between 0.1 and 2.
SMALLEST_MPP, LARGEST_MPP = 0.05, 20.0
# What programs write that know nothing of the scanner: the resolution of screens and printers.
SCREEN_DPI = (72, 96)
_writing = threading.Lock()


@dataclass(frozen=True)
class Mpp:
    """Micrometres per level-0 pixel along x and y, and where that comes from ("aperio", "stated" …)."""

    x: float
    y: float
    source: str

    @property
    def mean(self) -> float:
        """Mean of both directions, µm per pixel."""
        return (self.x + self.y) / 2


@dataclass(frozen=True)
class Hint:
    """One statement in a file about its pixel size, believed or not; `as_written` is how the file puts it."""

    x: float
    y: float
    source: str
    as_written: str = ""


def from_resolution(x: float, y: float, unit: str, source: str = "tiff resolution") -> Hint | None:
    """The hint of a TIFF, PNG or JPEG resolution in pixels per `unit` ("inch", "cm", "m", "mm", "um").

    None for a unit that is no length, which such files use for the shape of a pixel only.
    """
    micrometres = {"inch": 25400.0, "cm": 10000.0, "m": 1e6, "mm": 1000.0, "um": 1.0}.get(unit)
    if micrometres is None:
        return None
    name = "dpi" if unit == "inch" else f"pixels per {unit}"
    return Hint(micrometres / x if x else 0.0, micrometres / y if y else 0.0, source, f"{x:g} {name}")


def from_objective(power: float | None) -> Hint | None:
    """The usual pixel size of an objective: 10 µm divided by its power."""
    if not power or power <= 0:
        return None
    return Hint(10 / power, 10 / power, "objective power", f"{power:g}x")


def to_number(value: object) -> float | None:
    """A number as scanners write it (also with a decimal comma), or None."""
    try:
        return float(str(value).strip().replace(",", "."))
    except ValueError:
        return None


def is_plausible(x: float, y: float) -> bool:
    """Whether a scanner could have made pixels of that size (µm)."""
    return all(SMALLEST_MPP <= value <= LARGEST_MPP for value in (x, y))


def decide(hints: Sequence[Hint]) -> tuple[Mpp | None, list[str]]:
    """The first believable hint, and a sentence for each that is doubted or disagrees.

    Parameters
    ----------
    hints : in the order in which they are believed.
    """
    chosen: Mpp | None = None
    warnings = []
    for hint in hints:
        said = f"{hint.source} says {hint.as_written or f'{hint.x:g} µm'}"
        if not is_plausible(hint.x, hint.y):
            why = ", which is a screen's" if hint.as_written in {f"{dpi} dpi" for dpi in SCREEN_DPI} else ""
            warnings.append(f"The {said}{why}: {hint.x:g} µm per pixel is not believed.")
        elif chosen is None:
            chosen = Mpp(hint.x, hint.y, hint.source)
        elif hint.source != "objective power" and abs(hint.x / chosen.x - 1) > 0.02:
            warnings.append(f"The {chosen.source} says {chosen.x:g} µm per pixel, which is used; the {said}.")
    if chosen and abs(chosen.x / chosen.y - 1) > 0.01:
        warnings.append(f"Pixels are not square: {chosen.x:g} × {chosen.y:g} µm.")
    return chosen, warnings


def stated(mpp: float | tuple[float, float]) -> Mpp:
    """The pixel size a person states.

    Raises
    ------
    UsageError : for one that no scanner has.
    """
    x, y = (float(mpp), float(mpp)) if isinstance(mpp, int | float) else (float(mpp[0]), float(mpp[1]))
    if not is_plausible(x, y):
        nearest = min(max(x, SMALLEST_MPP), LARGEST_MPP)
        raise UsageError(
            f"A pixel size of {x:g} × {y:g} µm is not plausible; state µm per pixel between {SMALLEST_MPP:g} and "
            f"{LARGEST_MPP:g} (nearest: {nearest:g}; a 40x scan has about 0.25, a 20x scan 0.5)."
        )
    return Mpp(x, y, "stated")


def _memory(fingerprint: str) -> Path:
    # One small file per slide: two programs that write at once never undo each other's work.
    return settings().cache_dir / "pixel_sizes" / f"{fingerprint}.json"


def remember(fingerprint: str, mpp: Mpp) -> bool:
    """Keep a stated pixel size for the slide of that fingerprint; False where the cache cannot be written."""
    try:
        with _writing:
            write_json(_memory(fingerprint), {"mpp_x": mpp.x, "mpp_y": mpp.y})
    except OSError:
        return False
    return True


def remembered(fingerprint: str) -> Mpp | None:
    """The pixel size stated earlier for the slide of that fingerprint."""
    kept = read_json(_memory(fingerprint))
    x, y = to_number(kept.get("mpp_x")), to_number(kept.get("mpp_y"))
    if x is None or y is None or not is_plausible(x, y):
        return None
    return Mpp(x, y, "stated")
