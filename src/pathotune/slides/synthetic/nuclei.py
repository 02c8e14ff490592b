"""Nuclei: how they look, where they lie, and putting them into a texture that goes on over its edges."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pathotune.slides.synthetic.fields import Floats


@dataclass(frozen=True)
class NucleusKind:
    """One kind of nucleus.

    length_um, width_um : mean axes.
    spread : relative spread of the axes.
    density : dye inside, of 1 for an ordinary nucleus.
    chromatin : how coarse its inside looks, 0..1.
    rim : how much darker its membrane is.
    nucleolus : probability of a dark nucleolus.
    """

    length_um: float
    width_um: float
    spread: float = 0.14
    density: float = 1.0
    chromatin: float = 0.3
    rim: float = 0.25
    nucleolus: float = 0.0


EPITHELIAL = NucleusKind(9.0, 7.0, density=0.85, chromatin=0.35, rim=0.35, nucleolus=0.5)
LYMPHOCYTE = NucleusKind(6.3, 6.0, spread=0.08, density=1.25, chromatin=0.30, rim=0.1)
SPINDLE = NucleusKind(13.0, 3.2, spread=0.22, density=1.0, chromatin=0.2, rim=0.15)
FAT = NucleusKind(8.5, 2.2, density=1.0, chromatin=0.1, rim=0.1)
DEBRIS = NucleusKind(2.4, 2.0, spread=0.45, density=1.15, chromatin=0.1, rim=0.0)
GHOST = NucleusKind(8.5, 7.0, density=0.32, chromatin=0.15, rim=0.2)


def sprites(kind: NucleusKind, mpp: float, rng: np.random.Generator, count: int = 96) -> list[Floats]:
    """`count` drawings of this kind at all angles: small arrays of dye, 0 outside the nucleus.

    Angles are in order, so that sprite ``k`` points to ``pi * k / count``.
    """
    return [_sprite(kind, mpp, rng, np.pi * number / count) for number in range(count)]


def _sprite(kind: NucleusKind, mpp: float, rng: np.random.Generator, angle: float) -> Floats:
    from scipy import ndimage

    length, width = np.array([kind.length_um, kind.width_um]) * np.exp(kind.spread * rng.standard_normal(2))
    fine = 4  # drawn four times finer than shown, for smooth edges
    half = int(np.ceil(0.62 * max(length, width) / mpp)) + 1
    places = (np.arange((2 * half + 1) * fine) + 0.5) / fine - (half + 0.5)
    x, y = places[None, :] * mpp, places[:, None] * mpp
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    theta = np.arctan2(across / width, along / length)
    wobble = 1.0 + 0.06 * np.cos(2 * theta + rng.uniform(0, 6.3)) + 0.05 * np.cos(3 * theta + rng.uniform(0, 6.3))
    radius = np.hypot(along / (length / 2), across / (width / 2)) / wobble
    grain_um = 0.55
    grain = ndimage.gaussian_filter(rng.standard_normal(radius.shape), grain_um * fine / mpp)
    grain /= grain.std()
    dye = 1.0 + kind.chromatin * 0.55 * grain
    edge_um = (1.0 - radius) * width / 2
    dye += kind.rim * np.exp(-((edge_um - 0.45) ** 2) / (2 * 0.35**2))
    if rng.random() < kind.nucleolus:
        away = rng.uniform(-0.18, 0.18, 2)
        dye += 0.9 * np.exp(-((along - away[0] * length) ** 2 + (across - away[1] * width) ** 2) / (2 * 0.55**2))
    inside = np.clip(0.5 + edge_um * fine / mpp / 2, 0, 1)
    fine_dye = inside * np.clip(dye, 0.2, 2.2) * kind.density
    side = 2 * half + 1
    drawing: Floats = fine_dye.reshape(side, fine, side, fine).mean(axis=(1, 3)).astype(np.float32)
    return drawing


def scattered(
    rng: np.random.Generator, size: int, spacing_px: float, jitter: float = 0.32
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Places spread evenly but not regularly over a square that goes on over its edges.

    Every second row is shifted by half a step, so that a place has six neighbours as packed cells do.
    """
    rows = max(2, 2 * round(size / (spacing_px * 0.866) / 2))
    columns = max(1, round(size / spacing_px))
    j, i = np.mgrid[:rows, :columns]
    x = (i + 0.5 * (j % 2) + 0.25 + jitter * rng.uniform(-1, 1, i.shape)) * (size / columns)
    y = (j + 0.5 + jitter * rng.uniform(-1, 1, i.shape)) * (size / rows)
    return (x % size).ravel(), (y % size).ravel()


def stamp(
    canvas: Floats,
    drawings: list[Floats],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    rng: np.random.Generator,
    angles: NDArray[np.float64] | None = None,
    tone: float = 0.12,
) -> None:
    """Put one drawing at every place of the (size, size) canvas, over its edges too; of two the darker counts.

    Parameters
    ----------
    angles : direction of each nucleus in radians; without them every direction is as likely.
    tone : how much nuclei differ in darkness.
    """
    size, count = len(canvas), len(drawings)
    reach = max(len(drawing) for drawing in drawings) // 2 + 1
    wide = np.zeros((size + 2 * reach, size + 2 * reach), dtype=np.float32)
    if angles is None:
        picks = rng.integers(0, count, len(x))
    else:
        # Neighbouring sprites differ in shape: a little disorder keeps equal directions from looking equal.
        picks = np.round(angles / np.pi * count + rng.normal(0, 1.5, len(x))).astype(int) % count
    tones = np.exp(tone * rng.standard_normal(len(x))).astype(np.float32)
    columns, rows = np.floor(x).astype(int) + reach, np.floor(y).astype(int) + reach
    for pick, shade, column, row in zip(picks.tolist(), tones.tolist(), columns.tolist(), rows.tolist(), strict=True):
        drawing = drawings[pick]
        half = len(drawing) // 2
        view = wide[row - half : row + half + 1, column - half : column + half + 1]
        np.maximum(view, drawing * np.float32(shade), out=view)
    for _ in range(2):  # fold the overhang back: first left and right, then (transposed) top and bottom
        wide[:, size : size + reach] = np.maximum(wide[:, size : size + reach], wide[:, :reach])
        wide[:, reach : 2 * reach] = np.maximum(wide[:, reach : 2 * reach], wide[:, size + reach :])
        wide = wide.T
    np.maximum(canvas, wide[reach : size + reach, reach : size + reach], out=canvas)
