"""Which groups of prompt tokens there are and where each stands in the token sequence."""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt

# The order behind the prefix tokens (class token, registers): task visual, task textual, instance visual prompts.
GROUPS: tuple[str, ...] = ("tvp", "ttp", "ivp")

TITLES = {
    "cls": "class token",
    "tvp": "task visual prompts",
    "ttp": "task textual prompts",
    "ivp": "instance visual prompts",
}


@dataclass(frozen=True)
class PromptLayout:
    """How many tokens each group has, in the order in which they stand.

    Parameters
    ----------
    counts : pairs (group, number of tokens).
    """

    counts: tuple[tuple[str, int], ...] = ()

    @property
    def total(self) -> int:
        """Prompt tokens in the sequence."""
        return sum(count for _, count in self.counts)

    def places(self, prefix_tokens: int) -> dict[str, slice]:
        """Where each group stands in the sequence [prefix | groups | patches], as slices of token positions."""
        places: dict[str, slice] = {}
        start = prefix_tokens
        for group, count in self.counts:
            places[group] = slice(start, start + count)
            start += count
        return places

    def token_places(self, prefix_tokens: int) -> dict[str, slice]:
        """Where each single token stands, by its group and its number in it from 1: "tvp 1", "tvp 2" …"""
        return {
            f"{group} {number + 1}": slice(place.start + number, place.start + number + 1)
            for group, place in self.places(prefix_tokens).items()
            for number in range(place.stop - place.start)
        }


def near_square(count: int) -> tuple[int, int]:
    """Rows and columns of the most square grid with exactly `count` cells (4 → 2 x 2, 6 → 2 x 3, 5 → 1 x 5)."""
    rows = next(rows for rows in range(isqrt(count), 0, -1) if count % rows == 0)
    return rows, count // rows
