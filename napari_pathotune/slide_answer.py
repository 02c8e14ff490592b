"""What a store says of its whole slide: a score, and the tiles it rests on most; no viewer, no Qt."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class SlideAnswer:
    """The answer of a tuning that learned from whole slides.

    predicted : the most probable class.
    probabilities : of every class, likeliest first.
    attended : (x, y, width, height) in level-0 pixels of the tiles looked at most, and the share of attention of each,
        where 1 is an even share.
    """

    predicted: str
    probabilities: dict[str, float]
    attended: tuple[tuple[tuple[float, float, float, float], float], ...]

    def sentence(self) -> str:
        """The answer in one line."""
        return ", ".join(f"{name} {value:.0%}" for name, value in self.probabilities.items())


def slide_answer(store: str | Path) -> SlideAnswer | None:
    """The answer a store keeps; None where its tuning answers tile by tile, or it is not complete."""
    from pathotune.inference.locations import read_attributes

    about = read_attributes(Path(store))
    found = about.get("probabilities")
    if not isinstance(found, dict) or "predicted" not in about:
        return None
    ordered = dict(sorted(found.items(), key=lambda item: -item[1]))
    return SlideAnswer(str(about["predicted"]), ordered, tuple(map(_place, about.get("attended") or ())))


def _place(tile: dict[str, Any]) -> tuple[tuple[float, float, float, float], float]:
    side = float(tile["width_px0"])
    return (float(tile["x_px0"]), float(tile["y_px0"]), side, side), float(tile["attention"])
