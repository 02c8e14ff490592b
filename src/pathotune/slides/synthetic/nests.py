"""Nests of one tissue laid over a generated slide: their number and their area are chosen apart from each other."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pathotune.errors import UsageError
from pathotune.slides.synthetic.fields import salt

_STARTS, _TRIES = 400, 100
_WAVES = (2, 3, 4, 5)


@dataclass(frozen=True)
class Nest:
    """A roundish island with a wavy border, in level-0 pixels.

    Parameters
    ----------
    x, y : its middle.
    radius : of the circle of its area.
    heights, turns : the waves of its border, as shares of the radius and as angles.
    rim : width of a rim of immune cells around it; 0 where there is none.
    """

    x: float
    y: float
    radius: float
    heights: tuple[float, ...]
    turns: tuple[float, ...]
    rim: float = 0.0

    @property
    def reach(self) -> float:
        """No place of it or its rim is farther from its middle."""
        return self.radius * (1 + sum(abs(height) for height in self.heights)) + self.rim

    def covers(self, x: NDArray[np.float64], y: NDArray[np.float64], rim: bool = False) -> NDArray[np.bool_]:
        """Which of these places lie in it, with its rim where that is wanted."""
        across, down = x - self.x, y - self.y
        distance = np.hypot(across, down) - (self.rim if rim else 0.0)
        inside = np.asarray(distance <= self.reach - self.rim)
        near = inside & (distance > self.radius * (1 - sum(abs(height) for height in self.heights)))
        if near.any():
            angle = np.arctan2(down[near], across[near])
            border = 1 + sum(
                height * np.cos(wave * angle + turn)
                for wave, height, turn in zip(_WAVES, self.heights, self.turns, strict=True)
            )
            inside[near] = distance[near] <= self.radius * border
        return inside


def place_nests(
    count: int,
    area_um2: float,
    width_px0: int,
    height_px0: int,
    mpp: float,
    seed: int,
    *,
    gap_um: float = 60.0,
    unevenness: float = 0.15,
    rim_um: float = 0.0,
) -> tuple[Nest, ...]:
    """So many nests that together cover this area, nowhere nearer to each other or to the slide's edge than a gap.

    Parameters
    ----------
    count : how many.
    area_um2 : of all together, whatever their number.
    width_px0, height_px0, mpp : of the slide.
    seed : which places.
    gap_um : from one nest to the next.
    unevenness : how much the nests of a slide differ in area (0: not at all).
    rim_um : width of a rim of immune cells around each, which is no part of its area.

    Raises
    ------
    UsageError : they do not find room on the slide.
    """
    if count < 1 or not area_um2 > 0:
        raise UsageError(f"A slide has at least one nest of some area, not {count} of {area_um2:g} µm².")
    rng = np.random.default_rng([seed, salt("nests")])
    shares = np.exp(unevenness * rng.standard_normal(count))
    radii = np.sort(np.sqrt(area_um2 * shares / shares.sum() / np.pi) / mpp)[::-1]
    shapes = []
    for radius in radii.tolist():
        heights = rng.normal(0, 0.09, len(_WAVES)) / np.arange(1, len(_WAVES) + 1)
        # A wavy border encloses a little more than its circle.
        radius /= float(np.sqrt(1 + (heights**2).sum() / 2))
        turns = rng.uniform(0, 2 * np.pi, len(_WAVES))
        shapes.append(Nest(0.0, 0.0, radius, tuple(heights.tolist()), tuple(turns.tolist()), rim_um / mpp))
    for _ in range(_STARTS):
        placed = _placed(shapes, width_px0, height_px0, gap_um / mpp, rng)
        if placed is not None:
            return placed
    raise UsageError(
        f"{count} nests of {area_um2:g} µm² together find no room on a slide of {width_px0} x {height_px0} px; make "
        "them fewer or smaller, or the slide larger."
    )


def _placed(
    shapes: list[Nest], width: int, height: int, gap: float, rng: np.random.Generator
) -> tuple[Nest, ...] | None:
    """The nests at places drawn one after the other, or None where one found no room."""
    nests: list[Nest] = []
    for shape in shapes:
        edge = shape.reach + gap / 2
        for _ in range(_TRIES if 2 * edge < min(width, height) else 0):
            x, y = rng.uniform(edge, width - edge), rng.uniform(edge, height - edge)
            if all(np.hypot(x - other.x, y - other.y) >= shape.reach + other.reach + gap for other in nests):
                nests.append(replace(shape, x=float(x), y=float(y)))
                break
        else:
            return None
    return tuple(nests)
