"""Where a slide has tissue, seen from far away: any stain, without pen marks, shadows and black or white borders."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from pathotune.slides.slide import Slide

Mask = NDArray[np.bool_]

MASK_UM = 4.0
"""Wanted size of a mask pixel: less than a nucleus, so that the wall of a fat cell still shows."""
CLOSED_UM, HOLE_MM2, SPECK_MM2 = 40.0, 0.05, 0.01
EMPTY_FRACTION = 0.005
WALL_DENSITY = 0.03
ASSUMED_UM = 25.0 / 1536  # of a slide that does not say its pixel size: 25 mm on its longer side, in mm per mask pixel


@dataclass(frozen=True)
class TissueMask:
    """Tissue of a whole slide.

    Parameters
    ----------
    array : (h, w) bool, true on tissue.
    scale_px0 : level-0 pixels per mask pixel, along x and y.
    """

    array: Mask
    scale_px0: tuple[float, float]

    @property
    def fraction(self) -> float:
        """Share of the slide that is tissue, 0..1."""
        return float(self.array.mean()) if self.array.size else 0.0

    @property
    def is_almost_empty(self) -> bool:
        """Whether less than half a percent of the slide is tissue: worth telling before work starts."""
        return self.fraction < EMPTY_FRACTION

    @property
    def sentence(self) -> str:
        """What a person should know about it."""
        share = f"{100 * self.fraction:.2g} %"
        if not self.array.any():
            return "No tissue was found on this slide."
        if self.is_almost_empty:
            return f"This slide is almost empty: only {share} of it looks like tissue."
        return f"{share} of the slide is tissue."

    @cached_property
    def _summed(self) -> NDArray[np.float64]:
        """Number of tissue pixels above and left of every pixel corner, (h + 1, w + 1)."""
        summed = np.zeros((self.array.shape[0] + 1, self.array.shape[1] + 1))
        np.cumsum(np.cumsum(self.array, axis=0, dtype=np.float64), axis=1, out=summed[1:, 1:])
        return summed

    def covered(self, x: ArrayLike, y: ArrayLike, width: ArrayLike, height: ArrayLike) -> NDArray[np.float64]:
        """Share (0..1) of each box that is tissue; what lies off the slide counts as none.

        Parameters
        ----------
        x, y, width, height : (n,) level-0 pixels.
        """
        x, y, width, height = (np.asarray(values, dtype=np.float64) for values in (x, y, width, height))
        left, right = x / self.scale_px0[0], (x + width) / self.scale_px0[0]
        top, bottom = y / self.scale_px0[1], (y + height) / self.scale_px0[1]
        area = self._corner(right, bottom) - self._corner(left, bottom)
        area -= self._corner(right, top) - self._corner(left, top)
        whole = (right - left) * (bottom - top)
        return np.clip(area / np.maximum(whole, 1e-12), 0.0, 1.0)  # type: ignore[no-any-return]

    def _corner(self, u: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.float64]:
        """Tissue area above and left of fractional corners: linear inside a pixel, as the area is."""
        rows, columns = self.array.shape
        u, v = np.clip(u, 0, columns), np.clip(v, 0, rows)
        i, j = np.minimum(u.astype(int), columns - 1), np.minimum(v.astype(int), rows - 1)
        s, t, table = u - i, v - j, self._summed
        upper = table[j, i] * (1 - s) + table[j, i + 1] * s
        lower = table[j + 1, i] * (1 - s) + table[j + 1, i + 1] * s
        return upper * (1 - t) + lower * t  # type: ignore[no-any-return]


def tissue_mask(slide: Slide, *, max_px: int = 1536) -> TissueMask:
    """Find the tissue of a slide from a picture of the whole of it.

    Works on optical density above the glass, so that pale and strongly stained slides are treated alike, and asks
    for colour, so that shadows, dirt and black borders fall out whatever the stain is.

    Parameters
    ----------
    slide : an open slide.
    max_px : longer side of the picture it works on.

    Returns
    -------
    a mask of the whole slide; `is_almost_empty` says where there is hardly anything to find.
    """
    mpp = slide.mpp.mean if slide.mpp else None
    longer = max(slide.width_px0, slide.height_px0)
    side = max_px if mpp is None else int(min(max_px, max(64, np.ceil(longer * mpp / MASK_UM))))
    picture = slide.thumbnail(min(side, longer))
    height, width = picture.shape[:2]
    scale = slide.width_px0 / width, slide.height_px0 / height
    pixel_mm = max(scale) * mpp / 1000 if mpp else ASSUMED_UM * max_px / max(width, height)
    return TissueMask(tissue_of(picture, pixel_mm), scale)


def tissue_of(picture: NDArray[np.uint8], pixel_mm: float) -> Mask:
    """Tissue (h, w) bool of a picture (h, w, 3) whose pixels are this many millimetres wide."""
    from scipy import ndimage

    rgb = picture.astype(np.float32)
    black = _highest(rgb) < 40
    exactly_white = _lowest(rgb) >= 254
    density = _density(rgb, ~(black | exactly_white))
    density[exactly_white] = 0
    # Blurred by a pixel: compression scatters colour around every edge.
    smooth = ndimage.gaussian_filter(density, (1, 1, 0))
    amount, colour = _mean(smooth), _highest(smooth) - _lowest(smooth)
    usable = ~_grown(black, 2) & ~_pen(rgb, smooth)
    score = np.where(usable, amount + colour, 0)
    mask = (score > _threshold(score[usable])) & (colour > 0.02) & (colour > 0.12 * amount) & usable
    mask |= _walls(density) & usable
    reach = max(1, min(10, round(CLOSED_UM / 1000 / pixel_mm)))
    mask = _closed(mask, reach)
    area = pixel_mm**2
    mask = _without_small(mask, SPECK_MM2 / area)
    mask = ~_without_small(~mask, HOLE_MM2 / area)
    found: Mask = mask & usable
    return found


def _density(rgb: NDArray[np.float32], scanned: Mask) -> NDArray[np.float32]:
    """Optical density above the glass: the commonest bright colour, where there is one, else nearly white."""
    # Glass may be tinted; but where the ground is pure white already, what is tinted is pale tissue.
    lowest = _lowest(rgb)
    tint = 10 if (lowest >= 254).mean() > 0.02 else 28
    bright = scanned & (lowest > 190) & (_highest(rgb) - lowest < tint)
    glass = np.full(3, 245.0, dtype=np.float32)
    if bright.sum() > max(50, 0.005 * bright.size):
        for channel in range(3):
            counts = np.bincount(rgb[..., channel][bright].astype(int), minlength=256).astype(float)
            counts = np.convolve(counts, np.ones(5) / 5, mode="same")
            glass[channel] = max(215.0, float(counts.argmax()))
    density = -np.log((np.minimum(rgb, glass) + 1) / (glass + 1))
    return density.astype(np.float32)


def _threshold(score: NDArray[np.float32]) -> float:
    """Between glass and tissue: Otsu's threshold of the logarithm's coarse range, kept where stains can be."""
    from skimage.filters import threshold_otsu

    if score.size < 16 or float(score.max()) <= 0.04:
        return 0.10
    # Square roots bring pale tissue away from the glass; strong stains else pull the threshold over it.
    found = float(threshold_otsu(np.sqrt(np.clip(score, 0, 1.5)))) ** 2
    return float(np.clip(found, 0.06, 0.20))


def _walls(density: NDArray[np.float32]) -> Mask:
    """Thin lines in nets: the walls of fat cells, too faint for any threshold; smears and shadows are broad."""
    from scipy import ndimage

    sharp = ndimage.gaussian_filter(density, (0.5, 0.5, 0))
    score = _highest(sharp)
    lines = score - ndimage.grey_opening(score, 5) > WALL_DENSITY
    lines &= score - _lowest(sharp) > 0.5 * WALL_DENSITY
    return _without_small(lines, 40)


def _pen(rgb: NDArray[np.float32], density: NDArray[np.float32]) -> Mask:
    """Strokes of a marker pen: strong, of one colour, and flat, where even dense tissue has texture."""
    from scipy import ndimage

    amount = _mean(density)
    mean = ndimage.uniform_filter(amount, 5)
    spread = np.sqrt(np.maximum(ndimage.uniform_filter(amount**2, 5) - mean**2, 0))
    red, green, blue = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    ink = (green > red + 12) & (green > blue + 4)  # green ink: no dye of nuclei or fibres passes green best
    ink |= (blue > red + 45) & (green > red + 4)  # blue ink passes green better than red, haematoxylin does not
    ink |= (_highest(rgb) - _lowest(rgb) < 24) & (amount > 0.8)  # black ink
    core = ink & (amount > 0.45) & (spread < 0.09 * np.maximum(amount, 0.6))
    core = _without_small(core, 30)
    if not core.any():
        return core
    # The stroke's rim is neither flat nor strong: take what is ink-coloured, and a little more, around the core.
    return _grown(_grown(core, 4) & (ink | core), 3)


# Of three numbers NumPy finds the highest channel by channel many times faster than along the last axis.
def _highest(picture: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.maximum(np.maximum(picture[..., 0], picture[..., 1]), picture[..., 2])


def _lowest(picture: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.minimum(np.minimum(picture[..., 0], picture[..., 1]), picture[..., 2])


def _mean(picture: NDArray[np.float32]) -> NDArray[np.float32]:
    total: NDArray[np.float32] = (picture[..., 0] + picture[..., 1] + picture[..., 2]) / np.float32(3)
    return total


def _closed(mask: Mask, reach: int) -> Mask:
    """Closing by a disk, by distances: to the nearest tissue, then to the nearest place that is farther from any."""
    from scipy.ndimage import distance_transform_edt

    padded = np.pad(mask, reach)
    if not mask.any():
        return mask
    grown = distance_transform_edt(~padded) <= reach
    if grown.all():
        return np.ones_like(mask)
    closed: Mask = distance_transform_edt(grown) > reach
    return closed[reach:-reach, reach:-reach]


def _grown(mask: Mask, pixels: int) -> Mask:
    from scipy import ndimage

    if not mask.any():
        return mask
    grown: Mask = ndimage.binary_dilation(mask, iterations=pixels)
    return grown


def _without_small(mask: Mask, pixels: float) -> Mask:
    """The mask without connected parts smaller than this many pixels."""
    from scipy import ndimage

    labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
    if not count:
        return mask
    sizes = np.bincount(labels.ravel())
    large = sizes >= pixels
    large[0] = False
    kept: Mask = large[labels]
    return kept
