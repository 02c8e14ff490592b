"""Smooth random fields whose value at a place depends on nothing but the seed and the place."""

from __future__ import annotations

import zlib
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def salt(*parts: object) -> int:
    """A 32-bit number for these parts, the same in every process (Python's own hash is not)."""
    return zlib.crc32("/".join(str(part) for part in parts).encode())


def uniform(seed: int, i: NDArray[np.int64], j: NDArray[np.int64]) -> NDArray[np.float64]:
    """Random numbers in [0, 1) of integer places: equal places give equal numbers (splitmix64 finaliser)."""
    with np.errstate(over="ignore"):
        z = i.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) ^ j.astype(np.uint64) * np.uint64(0xC2B2AE3D27D4EB4F)
        z = z + np.uint64(seed) * np.uint64(0x165667B19E3779F9)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    numbers: NDArray[np.float64] = (z >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return numbers


def _smoothstep(t: NDArray[np.float64]) -> NDArray[np.float64]:
    return t * t * (3.0 - 2.0 * t)


def centres(start: int, count: int) -> NDArray[np.float64]:
    """Where the centres of these pixels lie, a pixel's corner being a whole number."""
    places: NDArray[np.float64] = np.arange(start, start + count, dtype=np.float64) + 0.5
    return places


class ValueNoise:
    """Smooth noise in [-1, 1]: random numbers on a lattice, blended between.

    Parameters
    ----------
    seed : which noise.
    cell_px : lattice spacing in pixels, one number per octave.
    weights : weight of each octave; they are made to add up to 1.
    """

    def __init__(self, seed: int, cell_px: tuple[float, ...], weights: tuple[float, ...]) -> None:
        self._octaves = [
            (salt(seed, number), cell, weight / sum(weights))
            for number, (cell, weight) in enumerate(zip(cell_px, weights, strict=True))
        ]

    def block(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> Floats:
        """Values (len(y), len(x)) at every crossing of these coordinates: two small matrix products per octave."""
        total = np.zeros((len(y), len(x)), dtype=np.float32)
        for seed, cell, weight in self._octaves:
            columns, along_x = _interpolation(x, cell)
            rows, along_y = _interpolation(y, cell)
            nodes = (2.0 * uniform(seed, columns[None, :], rows[:, None]) - 1.0).astype(np.float32)
            total += along_y @ (np.float32(weight) * nodes @ along_x.T)
        return total

    def points(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
        """Values at scattered places, of any shape."""
        total = np.zeros(np.broadcast(x, y).shape)
        for seed, cell, weight in self._octaves:
            u, v = np.asarray(x) / cell, np.asarray(y) / cell
            i, j = np.floor(u).astype(np.int64), np.floor(v).astype(np.int64)
            s, t = _smoothstep(u - i), _smoothstep(v - j)
            top = uniform(seed, i, j) * (1 - s) + uniform(seed, i + 1, j) * s
            bottom = uniform(seed, i, j + 1) * (1 - s) + uniform(seed, i + 1, j + 1) * s
            total += weight * (2.0 * (top * (1 - t) + bottom * t) - 1.0)
        return total


def _interpolation(places: NDArray[np.float64], cell: float) -> tuple[NDArray[np.int64], Floats]:
    """The lattice nodes around these places, and the matrix (places, nodes) that blends them."""
    scaled = places / cell
    left = np.floor(scaled).astype(np.int64)
    nodes = np.arange(left.min(), left.max() + 2)
    blend = _smoothstep(scaled - left).astype(np.float32)
    matrix = np.zeros((len(places), len(nodes)), dtype=np.float32)
    rows, first = np.arange(len(places)), left - nodes[0]
    matrix[rows, first] = 1.0 - blend
    matrix[rows, first + 1] = blend
    return nodes, matrix


@lru_cache(maxsize=4)
def _frequencies(size: int) -> tuple[Floats, Floats]:
    """Cycles per pixel along y (full) and x (half), as a real Fourier transform has them."""
    fy = np.fft.fftfreq(size).astype(np.float32)[:, None]
    fx = np.fft.rfftfreq(size).astype(np.float32)[None, :]
    return fy, fx


def periodic_noise(
    rng: np.random.Generator,
    size: int,
    blur_px: float,
    *,
    minus_blur_px: float | None = None,
    stretch: float = 1.0,
    angle: float = 0.0,
) -> Floats:
    """Gaussian noise (size, size) of zero mean and unit spread that goes on seamlessly over the edges.

    Parameters
    ----------
    blur_px : standard deviation of the Gaussian that smooths it.
    minus_blur_px : a wider Gaussian that is taken away, which leaves a band of sizes.
    stretch, angle : how many times longer than wide its grains are, and the direction (radians) they point to.
    """
    from scipy import fft

    fy, fx = _frequencies(size)
    along, across = fx * np.cos(angle) + fy * np.sin(angle), fy * np.cos(angle) - fx * np.sin(angle)
    squared = (along * np.float32(stretch)) ** 2 + across**2
    response = np.exp(np.float32(-2.0 * np.pi**2 * blur_px**2) * squared)
    if minus_blur_px is not None:
        response -= np.exp(np.float32(-2.0 * np.pi**2 * minus_blur_px**2) * squared)
    spectrum = fft.rfft2(rng.standard_normal((size, size), dtype=np.float32))
    noise: Floats = fft.irfft2(spectrum * response, s=(size, size)).astype(np.float32)
    noise -= noise.mean()
    noise /= max(float(noise.std()), 1e-9)
    return noise


def periodic_blur(image: Floats, blur_px: float) -> Floats:
    """The image smoothed by a Gaussian, going on over the edges."""
    from scipy import ndimage

    blurred: Floats = ndimage.gaussian_filter(image, blur_px, mode="wrap", truncate=3.0)
    return blurred
