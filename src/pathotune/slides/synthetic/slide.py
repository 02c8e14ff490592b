"""A drawn whole-slide image of any size, rendered where it is looked at."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pathotune.errors import UsageError
from pathotune.slides.synthetic import textures
from pathotune.slides.synthetic.fields import ValueNoise, centres, salt, uniform
from pathotune.slides.synthetic.layout import BACKGROUND, CLASSES, LOOK_ALIKES, Layout, Piece
from pathotune.slides.synthetic.nests import Nest
from pathotune.slides.synthetic.stains import Stain

Pixels = NDArray[np.uint8]
BLOCK_PX = 512
WALLPAPER_UM, WALLPAPER_PX = 512.0, 2048
INKS = ((0.16, 0.42, 0.34), (0.18, 0.22, 0.62), (0.20, 0.20, 0.22))


class SyntheticSlide:
    """A slide drawn from numbers: the same size, pixel size and seed give the same tissue, the stain its colours.

    Any part can be rendered by itself and agrees with its neighbours to the pixel, so a slide of gigapixels is never
    held in memory. The class of every place is known exactly.

    Parameters
    ----------
    width_px0, height_px0 : size in pixels.
    mpp : µm per pixel; nuclei are 6–10 µm.
    seed : which tissue.
    stain : a `Stain` or the name of one ("standard", "pale", "purple", "red", "brown").
    patch_um : mean size of a patch of one class.
    margin : share of the half-width left empty around the tissue; 0 fills the slide.
    pen : whether there is a stroke of a marker pen.
    classes : names of the tissues to use; all seven without it.
    wallpaper_um : side of the square of each tissue that is drawn and then hung again and again, shifted and turned
        for every patch; a smaller one is drawn faster.
    nests : islands of tumor on top of everything (`place_nests`).

    Raises
    ------
    UsageError : a size that is not positive.
    UnknownName : a stain or class there is not.
    """

    def __init__(
        self,
        width_px0: int,
        height_px0: int,
        mpp: float = 0.5,
        seed: int = 0,
        stain: Stain | str = "standard",
        *,
        patch_um: float = 450.0,
        margin: float = 0.07,
        pen: bool = True,
        classes: tuple[str, ...] | None = None,
        wallpaper_um: float = WALLPAPER_UM,
        nests: tuple[Nest, ...] = (),
    ) -> None:
        if width_px0 < 1 or height_px0 < 1 or not mpp > 0:
            raise UsageError(
                f"A generated slide needs a positive size and pixel size, not {width_px0} x {height_px0} at {mpp} µm."
            )
        self.width_px0, self.height_px0, self.mpp, self.seed = int(width_px0), int(height_px0), float(mpp), int(seed)
        self.stain = Stain.named(stain) if isinstance(stain, str) else stain
        self.layout = Layout(
            self.width_px0,
            self.height_px0,
            self.mpp,
            self.seed,
            patch_um=patch_um,
            margin=margin,
            pen=pen,
            classes=classes,
            nests=nests,
        )
        self._wallpaper_px = max(64, min(round(wallpaper_um / self.mpp), WALLPAPER_PX))
        self._wallpapers: dict[int, Pixels] = {}
        self._painting = Lock()
        span = max(self.width_px0, self.height_px0) / 2.5
        self._lamp = ValueNoise(salt(self.seed, "lamp"), (span, span / 3), (3, 1))

    # --- pixels --------------------------------------------------------------------------------------------------

    def render(self, x: int, y: int, width: int, height: int, downsample: float = 1) -> Pixels:
        """A part of the slide as RGB (height, width, 3) uint8, white outside the slide.

        Parameters
        ----------
        x, y : top-left corner in level-0 pixels.
        width, height : size of the result in its own pixels.
        downsample : level-0 pixels per pixel of the result; each is the mean of those it covers.
        """
        if downsample != 1:
            return self._reduced(x, y, width, height, downsample)
        out = np.full((height, width, 3), 255, dtype=np.uint8)
        left, top = max(x, 0), max(y, 0)
        right, bottom = min(x + width, self.width_px0), min(y + height, self.height_px0)
        # Blocks lie on one lattice whatever is asked for, so that every request sums in the same order.
        for block_y in range(top // BLOCK_PX * BLOCK_PX, bottom, BLOCK_PX):
            for block_x in range(left // BLOCK_PX * BLOCK_PX, right, BLOCK_PX):
                x0, x1 = max(block_x, left), min(block_x + BLOCK_PX, right)
                y0, y1 = max(block_y, top), min(block_y + BLOCK_PX, bottom)
                out[y0 - y : y1 - y, x0 - x : x1 - x] = self._block(x0, y0, x1 - x0, y1 - y0)
        return out

    def _reduced(self, x: float, y: float, width: int, height: int, downsample: float) -> Pixels:
        from PIL import Image

        left, top = int(np.floor(x)), int(np.floor(y))
        right, bottom = int(np.ceil(x + width * downsample)), int(np.ceil(y + height * downsample))
        whole = self.render(left, top, right - left, bottom - top)
        box = (x - left, y - top, x - left + width * downsample, y - top + height * downsample)
        small = Image.fromarray(whole).resize((width, height), Image.Resampling.BOX, box=box)
        return np.asarray(small)

    def _block(self, x: int, y: int, width: int, height: int) -> Pixels:
        pieces = self.layout.pieces(x, y, width, height)
        out = np.empty((height, width, 3), dtype=np.uint8)
        for piece in pieces:
            painted = self._papered(piece, x, y, width, height)
            if len(pieces) == 1:
                out = painted  # part of the wallpaper itself: only read from here on
            elif piece.mask is None:
                out[...] = painted
            else:
                np.copyto(out, painted, where=piece.mask[..., None])
        ink = self.layout.pen_mask(x, y, width, height)
        gain = self._gain(x, y, width, height)
        lit = out.astype(np.float32)
        lit *= gain[..., None]
        if ink is not None:
            lit[ink] *= self._ink
        return np.minimum(lit, 255, out=lit).astype(np.uint8)

    def _gain(self, x: int, y: int, width: int, height: int) -> NDArray[np.float32]:
        """Brightness of the lamp over a block, about 1."""
        lamp = self._lamp.block(centres(x, width), centres(y, height))
        lamp *= np.float32(self.stain.illumination)
        lamp += np.float32(1.0)
        return lamp

    @cached_property
    def _ink(self) -> NDArray[np.float32]:
        return np.array(INKS[salt(self.seed, "ink colour") % len(INKS)], dtype=np.float32)

    def _papered(self, piece: Piece, x: int, y: int, width: int, height: int) -> Pixels:
        """The wallpaper of the piece's class, hung for this patch: shifted, mirrored, turned and dyed as no other."""
        paper = self._wallpaper(piece.tissue)
        size = len(paper)
        if piece.patch < 0:
            return _cut(paper, x % size, y % size, width, height)
        draws = uniform(salt(self.seed, "hang"), np.full(5, piece.patch), np.arange(5))
        shift_x, shift_y = int(draws[0] * size), int(draws[1] * size)
        mirror_x, mirror_y, turned = draws[2] < 0.5, draws[3] < 0.5, draws[4] < 0.5
        if turned:
            paper = paper.transpose(1, 0, 2)
        left = -(x + width) if mirror_x else x
        top = -(y + height) if mirror_y else y
        part = _cut(paper, (left + shift_x) % size, (top + shift_y) % size, width, height)
        return self._dyed(part[:: -1 if mirror_y else 1, :: -1 if mirror_x else 1], piece.patch)

    def _dyed(self, part: Pixels, patch: int) -> Pixels:
        """The part with its optical densities scaled, a little differently per colour: each patch took up its own."""
        draws = uniform(salt(self.seed, "dye"), np.full(4, patch), np.arange(4)) - 0.5
        powers = np.exp(0.40 * draws[0] + 0.10 * draws[1:])
        out = np.empty(part.shape, dtype=np.uint8)
        for channel, (power, white) in enumerate(zip(powers, self.stain.white, strict=True)):
            table = white * (np.arange(256) / white) ** power + 0.5
            np.take(np.clip(table, 0, 255).astype(np.uint8), part[..., channel], out=out[..., channel])
        return out

    def _wallpaper(self, tissue: int) -> Pixels:
        """The texture of a class in this slide's stain, drawn when first needed."""
        with self._painting:
            if tissue not in self._wallpapers:
                self._wallpapers[tissue] = self._paint(tissue)
            return self._wallpapers[tissue]

    def _paint(self, tissue: int) -> Pixels:
        dyes = textures.paint(CLASSES[tissue].texture, self._wallpaper_px, self.mpp, self.seed)
        return self.stain.colours(dyes.nuclear, dyes.matrix, dyes.marker)

    # --- truth ---------------------------------------------------------------------------------------------------

    def classes_at(self, x_px0: ArrayLike, y_px0: ArrayLike) -> NDArray[np.uint8]:
        """Index into `CLASSES` of the tissue at these places (level-0 px, a pixel's centre at +0.5)."""
        return self.layout.tissue_at(np.asarray(x_px0, dtype=np.float64), np.asarray(y_px0, dtype=np.float64))

    def class_map(self, step_px0: float) -> NDArray[np.uint8]:
        """Classes (rows, columns) at the centres of squares of this size that tile the slide from its corner."""
        x = (np.arange(max(1, int(self.width_px0 // step_px0))) + 0.5) * step_px0
        y = (np.arange(max(1, int(self.height_px0 // step_px0))) + 0.5) * step_px0
        return self.classes_at(x[None, :], y[:, None])

    def regions(self, which: str = "drawn", *, per_class: int = 3) -> dict[str, Any]:
        """Regions as a GeoJSON FeatureCollection in QuPath's form, level-0 pixels.

        Parameters
        ----------
        which : "drawn" for a few small outlines per class, as a pathologist would draw them for tuning; "all" for the
            whole truth, every patch of tissue.
        per_class : how many drawn outlines a class gets.

        Raises
        ------
        UsageError : another word than "drawn" or "all".
        """
        from pathotune.slides.synthetic.truth import drawn_regions, true_regions

        if which == "drawn":
            return drawn_regions(self, per_class)
        if which == "all":
            return true_regions(self)
        raise UsageError(f"The regions of a generated slide are 'drawn' or 'all', not {which!r}.")

    # --- files ---------------------------------------------------------------------------------------------------

    def write(self, path: str | Path, **options: Any) -> Path:
        """Write it as a pyramidal tiled TIFF; the options are those of `write_pyramid`."""
        from pathotune.slides.synthetic.writing import write_pyramid

        return write_pyramid(self, path, **options)


def _cut(paper: Pixels, left: int, top: int, width: int, height: int) -> Pixels:
    """A part (height, width, 3) of a wallpaper that goes on over its edges."""
    size = len(paper)
    if left + width <= size and top + height <= size:
        return paper[top : top + height, left : left + width]
    out = np.empty((height, width, 3), dtype=np.uint8)
    for row, source_row, rows in _runs(top, height, size):
        for column, source_column, columns in _runs(left, width, size):
            out[row : row + rows, column : column + columns] = paper[
                source_row : source_row + rows, source_column : source_column + columns
            ]
    return out


def _runs(start: int, length: int, size: int) -> Iterator[tuple[int, int, int]]:
    """(place in the result, place in the paper, length) of the stretches that do not cross the paper's edge."""
    done = 0
    while done < length:
        source = (start + done) % size
        run = min(length - done, size - source)
        yield done, source, run
        done += run


__all__ = ["BACKGROUND", "CLASSES", "LOOK_ALIKES", "SyntheticSlide"]
