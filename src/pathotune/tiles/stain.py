"""Stains of tiles in optical density: bringing a slide to one reference, and varying it a little for training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.uint8]
Floats = NDArray[np.float32]

REFERENCE_STAINS = np.array([[0.5626, 0.7201, 0.4062], [0.2159, 0.8012, 0.5581]], dtype=np.float32)
"""Optical densities (haematoxylin, eosin) × (red, green, blue) every slide is brought to: the reference values that
accompany Macenko et al. 2009 in its authors' own example."""
REFERENCE_STRENGTHS = np.array([1.9705, 1.0308], dtype=np.float32)
GLASS = 240.0
FAINT = 0.15
"""Mean optical density below which a pixel's colour tells little of its dyes."""
CLEAR = 0.04
"""Mean optical density below which a pixel is glass."""


def optical_density(images: Images, glass: float = GLASS) -> Floats:
    """Optical density (..., 3) float32 of images (..., 3) uint8; 0 at the glass's brightness."""
    density: Floats = -np.log((images.astype(np.float32) + 1) / np.float32(glass + 1)).astype(np.float32)
    return density


def from_density(density: Floats, glass: float = GLASS) -> Images:
    """The images (..., 3) uint8 of these optical densities."""
    return np.clip((glass + 1) * np.exp(-density) - 0.5, 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class StainNormaliser:
    """Brings the two dyes of a slide to reference vectors and strengths (Macenko et al., ISBI 2009, sections 2–3).

    Parameters
    ----------
    stains : (2, 3) float32, the slide's own unit vectors: haematoxylin, eosin.
    strengths : (2,) float32, the 99th percentile of each dye's amount.
    """

    stains: Floats
    strengths: Floats

    @classmethod
    def fit(cls, images: Images) -> StainNormaliser | None:
        """Measure the dyes of a slide on some of its tiles (n, h, w, 3); None where there is too little dye to tell."""
        density = optical_density(images.reshape(-1, 3))
        # By all colours together: eosin alone holds back hardly any red and would be left out colour by colour.
        strength = density.mean(axis=1)
        stained = strength[strength > CLEAR]
        if not len(stained):
            return None
        # Of a pale slide the denser half of what is no glass: its nuclei alone might pass the limit.
        density = density[strength > min(FAINT, float(np.median(stained)))]
        if len(density) < 500:
            return None
        density = density[:: max(1, len(density) // 200_000)]
        _, vectors = np.linalg.eigh(np.cov(density.T))
        plane = vectors[:, [2, 1]]
        plane = plane * np.where(plane.sum(axis=0) < 0, -1, 1)
        angles = np.arctan2(*(density @ plane).T[::-1])
        extremes = np.percentile(angles, [1, 99])
        pair = np.stack([plane @ np.array([np.cos(angle), np.sin(angle)]) for angle in extremes])
        # Of the two, haematoxylin holds back more red.
        pair = pair[np.argsort(-pair[:, 0] / np.linalg.norm(pair, axis=1))]
        pair = np.maximum(pair, 1e-3)
        stains = (pair / np.linalg.norm(pair, axis=1, keepdims=True)).astype(np.float32)
        if float(stains[0] @ stains[1]) > 0.999:
            return None
        strengths = np.percentile(density @ np.linalg.pinv(stains), 99, axis=0).astype(np.float32)
        return cls(stains, np.maximum(strengths, 0.05))

    def __call__(self, images: Images) -> Images:
        """The images (..., 3) with the reference's dyes; what neither dye explains is left out."""
        amounts = optical_density(images) @ np.linalg.pinv(self.stains).astype(np.float32)
        amounts = np.maximum(amounts, 0) * (REFERENCE_STRENGTHS / self.strengths)
        return from_density(amounts @ REFERENCE_STAINS)


def jittered(images: Images, rng: np.random.Generator, amount: float = 0.08) -> Images:
    """The tiles (n, h, w, 3) as if stained on other days: each tile's densities are scaled and tinted at random.

    Parameters
    ----------
    amount : spread of the scale, as a fraction; a tint is half of it.
    """
    count = len(images)
    scale = np.exp(amount * rng.standard_normal((count, 1, 1, 1)))
    tint = np.exp(0.5 * amount * rng.standard_normal((count, 1, 1, 3)))
    return from_density(optical_density(images, 255.0) * (scale * tint).astype(np.float32), 255.0)
