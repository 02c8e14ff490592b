"""What a training tile may look like besides itself: turned, mirrored, and stained a little more or less."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

# Hematoxylin, eosin and what is left over, as optical densities of red, green and blue (Ruifrok and Johnston 2001).
STAINS = ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78))


def turned(images: Tensor, views: np.ndarray) -> Tensor:
    """Each image in one of its eight turns and mirror images.

    Parameters
    ----------
    images : (b, h, w, 3), square.
    views : (b,) from 0 to 7; 0 is the image itself, 4 and above are mirrored.
    """
    import torch

    result = torch.empty_like(images)
    for view in np.unique(views):
        chosen = torch.as_tensor(np.flatnonzero(views == view), device=images.device)
        part = images[chosen].rot90(int(view) % 4, dims=(1, 2))
        result[chosen] = part.flip(2) if view >= 4 else part
    return result


def stained(images: Tensor, changes: np.ndarray) -> Tensor:
    """Each image with its stains made denser or paler.

    Parameters
    ----------
    images : (b, h, w, 3) uint8.
    changes : (b, 3) factors on hematoxylin, eosin and the rest; 1 changes nothing.

    Returns
    -------
    uint8 of the same shape. White stays white: densities are scaled, never shifted.
    """
    import torch

    stains = np.asarray(STAINS) / np.linalg.norm(STAINS, axis=1, keepdims=True)
    # densities → amounts of stain, scaled → densities, as one 3 x 3 matrix per image
    mixing = np.linalg.inv(stains)[None] * changes[:, None, :] @ stains
    matrix = torch.as_tensor(mixing, dtype=torch.float32, device=images.device)  # (b, 3, 3)
    levels = torch.arange(256, device=images.device, dtype=torch.float32)
    density = -torch.log((levels + 1.0) / 256.0)[images.long()]  # (b, h, w, 3)
    mixed = torch.bmm(density.flatten(1, 2), matrix).view(density.shape)
    return (256.0 * torch.exp(-mixed) - 1.0).round_().clamp_(0, 255).to(torch.uint8)


class Augmentation:
    """Random turns, mirror images and stain of training tiles, reproducible by seed.

    Parameters
    ----------
    seed : the same seed gives the same sequence.
    stain_jitter : standard deviation of the stains' factors; 0 leaves colours alone.
    """

    def __init__(self, seed: int, stain_jitter: float) -> None:
        self._random = np.random.default_rng(seed)
        self._jitter = stain_jitter

    def __call__(self, images: Tensor) -> Tensor:
        """(b, h, w, 3) uint8 → the same shape."""
        count = len(images)
        images = turned(images, self._random.integers(0, 8, count))
        if not self._jitter:
            return images
        changes = np.clip(self._random.normal(1.0, self._jitter, (count, 3)), 0.5, 1.5)
        return stained(images, changes)
