"""Where each tissue lies on a generated slide, known exactly at every place."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pathotune.errors import UnknownName, UsageError
from pathotune.slides.synthetic.fields import Floats, ValueNoise, centres, salt, uniform
from pathotune.slides.synthetic.nests import Nest


@dataclass(frozen=True)
class TissueClass:
    """A class of tissue: its name and colour as pathologists' software shows it, and the texture that draws it."""

    name: str
    color: tuple[int, int, int]
    texture: str
    sentence: str


CLASSES: tuple[TissueClass, ...] = (
    TissueClass("Background", (230, 230, 230), "background", "Empty glass beside the tissue."),
    TissueClass("Tumor", (200, 0, 0), "tumor", "Irregular fused glands with crowded, disorderly nuclei."),
    TissueClass("Benign glands", (0, 160, 200), "benign_glands", "Round, evenly spaced glands with one row of nuclei."),
    TissueClass("Stroma", (150, 200, 150), "stroma", "Wavy collagen with slender fibroblasts."),
    TissueClass("Smooth muscle", (200, 130, 60), "smooth_muscle", "Straight interlacing bundles of muscle fibres."),
    TissueClass("Immune cells", (160, 90, 160), "immune_cells", "Sheets of small round dark lymphocytes."),
    TissueClass("Necrosis", (50, 50, 50), "necrosis", "Granular debris with ghosts of cells and nuclear dust."),
    TissueClass("Adipose", (240, 200, 60), "adipose", "Empty fat cells with thin walls."),
    TissueClass("Ignore*", (180, 180, 180), "background", "A stroke of a marker pen."),
)
BACKGROUND, NEST, RIM, PEN = 0, 1, 5, 8
LOOK_ALIKES = (("Tumor", "Benign glands"), ("Stroma", "Smooth muscle"))
"""Pairs of classes with the same colours: only the arrangement of cells and fibres tells them apart."""

CLASS_INDEX = {tissue.name: index for index, tissue in enumerate(CLASSES)}


@dataclass(frozen=True)
class Piece:
    """The part of a block that one patch of tissue covers: all of it where `mask` is None."""

    patch: int
    tissue: int
    mask: NDArray[np.bool_] | None


class Layout:
    """Patches of tissue inside an outline, and a pen mark; everything in level-0 pixels.

    Patches are the cells of a jittered grid (each place belongs to the nearest seed), with borders made wavy.
    The number of patches is known and small, so that every seventh one or so is of each class.

    Parameters
    ----------
    width, height : size of the slide.
    mpp : µm per pixel.
    seed : which layout.
    patch_um : mean size of a patch.
    margin : share of the slide's half-width left empty around the tissue; 0 fills the slide with tissue.
    pen : whether somebody drew on the glass.
    classes : names of the tissues to use; all without it.
    nests : islands of tumor on top of the patches.
    """

    def __init__(
        self,
        width: int,
        height: int,
        mpp: float,
        seed: int,
        *,
        patch_um: float = 450.0,
        margin: float = 0.07,
        pen: bool = True,
        classes: tuple[str, ...] | None = None,
        nests: tuple[Nest, ...] = (),
    ) -> None:
        self.width, self.height, self.margin, self.nests = width, height, margin, nests
        self._step = patch_um / mpp
        self._warps = tuple(
            ValueNoise(salt(seed, "warp", axis), (0.45 * self._step, 0.13 * self._step, 0.04 * self._step), (8, 2.5, 1))
            for axis in "xy"
        )
        self._warp_px = 0.30 * self._step
        span = max(min(width, height), 1)
        self._outline = ValueNoise(salt(seed, "outline"), (span / 4, span / 14, span / 60), (4, 2, 1))
        self._lay_patches(seed, _tissues(classes))
        self._pen = _pen_stroke(width, height, mpp, seed) if pen and margin > 0 else None

    def _lay_patches(self, seed: int, tissues: list[int]) -> None:
        """Seeds with two rows more than the slide on every side, in arrays (rows, columns)."""
        columns = np.arange(-2, int(np.ceil(self.width / self._step)) + 2)
        rows = np.arange(-2, int(np.ceil(self.height / self._step)) + 2)
        i, j = np.meshgrid(columns, rows)
        self._x = (i + 0.5 + 0.7 * (uniform(salt(seed, "seed x"), i, j) - 0.5)) * self._step
        self._y = (j + 0.5 + 0.7 * (uniform(salt(seed, "seed y"), i, j) - 0.5)) * self._step
        inside = self._tissue_depth_points(self._x, self._y) > 0
        rng = np.random.default_rng([seed, salt("classes")])
        self._tissue = np.empty(i.shape, dtype=np.uint8)
        for chosen in (inside, ~inside):
            count = int(chosen.sum())
            decks = [rng.permutation(tissues) for _ in range(count // len(tissues) + 1)]
            self._tissue[chosen] = np.concatenate(decks)[:count]

    @property
    def patch_count(self) -> int:
        """How many patches there are, those beside the slide included."""
        return int(self._tissue.size)

    # --- the outline of the tissue -------------------------------------------------------------------------------

    def _outline_terms(
        self, x: NDArray[np.float64], y: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        half_x, half_y = self.width / 2, self.height / 2
        reach = 1.0 - self.margin
        return (np.abs(x - half_x) / (half_x * reach)) ** 4, (np.abs(y - half_y) / (half_y * reach)) ** 4

    _ROUGHNESS = 0.55

    def _tissue_depth_points(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
        if self.margin <= 0:
            return np.ones(np.broadcast(x, y).shape)
        across, down = self._outline_terms(x, y)
        return 0.8 - across - down + self._ROUGHNESS * self._outline.points(x, y)  # type: ignore[no-any-return]

    def _tissue_mask(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.bool_] | bool:
        """Whether each place of a block is tissue; one answer where it is the same for all."""
        if self.margin <= 0:
            return True
        across, down = self._outline_terms(x, y)
        if 0.8 - across.max() - down.max() > self._ROUGHNESS:
            return True
        if 0.8 - across.min() - down.min() < -self._ROUGHNESS:
            return False
        depth = self._outline.block(x, y)
        depth *= np.float32(self._ROUGHNESS)
        depth += (0.8 - down).astype(np.float32)[:, None]
        mask = depth > across.astype(np.float32)[None, :]
        return bool(mask.flat[0]) if mask.all() or not mask.any() else mask

    # --- blocks and points ---------------------------------------------------------------------------------------

    def pieces(self, x0: int, y0: int, width: int, height: int) -> list[Piece]:
        """The patches that a block of the slide shows, without the pen; background has the patch -1."""
        x, y = centres(x0, width), centres(y0, height)
        on_tissue = self._tissue_mask(x, y)
        if on_tissue is False:
            return [Piece(-1, BACKGROUND, None)]
        pieces = [*self._patches(x, y), *self._nest_pieces(x, y)]
        if on_tissue is not True:
            pieces.append(Piece(-1, BACKGROUND, ~on_tissue))
        return pieces

    def _patches(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> Iterator[Piece]:
        candidates = self._candidates(x[0], y[0], x[-1], y[-1])
        tissue, seeds_x, seeds_y = self._tissue.ravel(), self._x.ravel(), self._y.ravel()
        if len(candidates) == 1:
            yield Piece(int(candidates[0]), int(tissue[candidates[0]]), None)
            return
        # Relative to the block's corner, so that float32 keeps its digits on a large slide.
        across = self._warps[0].block(x, y) * np.float32(self._warp_px) + (x - x[0]).astype(np.float32)[None, :]
        down = self._warps[1].block(x, y) * np.float32(self._warp_px) + (y - y[0]).astype(np.float32)[:, None]
        best, owner = _nearest(across, down, seeds_x[candidates] - x[0], seeds_y[candidates] - y[0])
        del best
        for number, patch in enumerate(candidates.tolist()):
            mask = owner == number
            if mask.any():
                yield Piece(patch, int(tissue[patch]), None if mask.all() else mask)

    def _nest_pieces(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> Iterator[Piece]:
        for number, nest in enumerate(self.nests, start=self.patch_count):
            if abs(nest.x - (x[0] + x[-1]) / 2) > nest.reach + len(x) or abs(nest.y - (y[0] + y[-1]) / 2) > (
                nest.reach + len(y)
            ):
                continue
            places = np.meshgrid(x, y)
            for tissue, mask in ((RIM, nest.covers(*places, rim=True)), (NEST, nest.covers(*places))):
                if mask.any() and (tissue == NEST or nest.rim):
                    yield Piece(number, tissue, mask)

    def _candidates(self, left: float, top: float, right: float, bottom: float) -> NDArray[np.intp]:
        """Indices of the seeds that can be nearest to some place of the block."""
        centre_x, centre_y = (left + right) / 2, (top + bottom) / 2
        reach = np.hypot(right - left, bottom - top) / 2 + np.sqrt(2) * self._warp_px
        distance = np.hypot(self._x - centre_x, self._y - centre_y).ravel()
        found: NDArray[np.intp] = np.flatnonzero(distance <= distance.min() + 2 * reach)
        return found

    def tissue_at(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.uint8]:
        """Index into `CLASSES` at scattered places (level-0 px; a pixel's centre is at +0.5), of any shape."""
        x, y = np.broadcast_arrays(np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64))
        flat_x, flat_y = x.ravel(), y.ravel()
        result = np.empty(flat_x.shape, dtype=np.uint8)
        for start in range(0, len(flat_x), 65536):
            part = slice(start, start + 65536)
            result[part] = self._tissue_of(flat_x[part], flat_y[part])
        return result.reshape(x.shape)

    def _tissue_of(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.uint8]:
        across = x + self._warp_px * self._warps[0].points(x, y)
        down = y + self._warp_px * self._warps[1].points(x, y)
        rows, columns = self._tissue.shape
        i = np.clip(np.floor(across / self._step).astype(int) + 2, 0, columns - 1)
        j = np.clip(np.floor(down / self._step).astype(int) + 2, 0, rows - 1)
        best = np.full(x.shape, np.inf)
        tissue = np.zeros(x.shape, dtype=np.uint8)
        for dj in range(-2, 3):
            for di in range(-2, 3):
                cell = np.clip(j + dj, 0, rows - 1), np.clip(i + di, 0, columns - 1)
                distance = (self._x[cell] - across) ** 2 + (self._y[cell] - down) ** 2
                nearer = distance < best
                best = np.where(nearer, distance, best)
                tissue = np.where(nearer, self._tissue[cell], tissue)
        for nest in self.nests:
            tissue[nest.covers(x, y, rim=True)] = RIM
            tissue[nest.covers(x, y)] = NEST
        tissue[self._tissue_depth_points(x, y) <= 0] = BACKGROUND
        if self._pen is not None:
            tissue[self._pen.covers_points(x, y)] = PEN
        return tissue

    def pen_mask(self, x0: int, y0: int, width: int, height: int) -> NDArray[np.bool_] | None:
        """Where a block is under the pen; None where nowhere."""
        if self._pen is None or not self._pen.touches(x0, y0, width, height):
            return None
        x, y = np.meshgrid(np.arange(x0, x0 + width) + 0.5, np.arange(y0, y0 + height) + 0.5)
        mask = self._pen.covers_points(x, y)
        return mask if mask.any() else None


def _tissues(classes: tuple[str, ...] | None) -> list[int]:
    """Indices of the named tissues."""
    usual = [index for index in range(len(CLASSES)) if index not in (BACKGROUND, PEN)]
    if classes is None:
        return usual
    if not classes:
        raise UsageError("A generated slide needs at least one class of tissue.")
    for name in classes:
        if name not in CLASS_INDEX or CLASS_INDEX[name] not in usual:
            raise UnknownName("class of tissue", name, [CLASSES[index].name for index in usual])
    return [CLASS_INDEX[name] for name in classes]


def _nearest(
    across: Floats, down: Floats, seeds_x: NDArray[np.float64], seeds_y: NDArray[np.float64]
) -> tuple[Floats, NDArray[np.uint8]]:
    """Which of these seeds is nearest at each place: |p - s|² without the |p|² that all share."""
    best = np.full(across.shape, np.inf, dtype=np.float32)
    owner = np.zeros(across.shape, dtype=np.uint8)
    score = np.empty_like(best)
    other = np.empty_like(best)
    for number, (sx, sy) in enumerate(zip(seeds_x, seeds_y, strict=True)):
        np.multiply(across, np.float32(-2 * sx), out=score)
        np.multiply(down, np.float32(-2 * sy), out=other)
        score += other
        score += np.float32(sx * sx + sy * sy)
        nearer = score < best
        np.copyto(owner, np.uint8(number), where=nearer)
        np.copyto(best, score, where=nearer)
    return best, owner


@dataclass(frozen=True)
class PenStroke:
    """A stroke of a marker pen: a bent line of some width with an uneven edge."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    half_width: float
    edge: ValueNoise

    def touches(self, x0: int, y0: int, width: int, height: int) -> bool:
        """Whether the block is near the stroke's box."""
        reach = 1.3 * self.half_width
        return bool(
            x0 < self.x.max() + reach
            and x0 + width > self.x.min() - reach
            and y0 < self.y.max() + reach
            and y0 + height > self.y.min() - reach
        )

    def covers_points(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which places lie under the ink."""
        covered = np.zeros(x.shape, dtype=bool)
        reach = 1.3 * self.half_width
        near = (x > self.x.min() - reach) & (x < self.x.max() + reach)
        near &= (y > self.y.min() - reach) & (y < self.y.max() + reach)
        if not near.any():
            return covered
        px, py = x[near], y[near]
        closest = np.full(px.shape, np.inf)
        for ax, ay, bx, by in zip(self.x[:-1], self.y[:-1], self.x[1:], self.y[1:], strict=True):
            along = ((px - ax) * (bx - ax) + (py - ay) * (by - ay)) / ((bx - ax) ** 2 + (by - ay) ** 2)
            along = np.clip(along, 0, 1)
            closest = np.minimum(closest, np.hypot(px - ax - along * (bx - ax), py - ay - along * (by - ay)))
        covered[near] = closest < self.half_width * (1 + 0.12 * self.edge.points(px, py))
        return covered


def _pen_stroke(width: int, height: int, mpp: float, seed: int) -> PenStroke:
    """A stroke around one corner of the tissue."""
    rng = np.random.default_rng([seed, salt("pen")])
    right, low = rng.random(2) < 0.5
    turn = np.linspace(0.05, 0.45, 9) * np.pi
    reach = rng.uniform(0.93, 0.97)
    x = reach * np.sign(np.cos(turn)) * np.abs(np.cos(turn)) ** 0.45 + rng.normal(0, 0.006, 9)
    y = reach * np.sign(np.sin(turn)) * np.abs(np.sin(turn)) ** 0.45 + rng.normal(0, 0.006, 9)
    half_width = min(170.0 / mpp, 0.02 * min(width, height))
    return PenStroke(
        width / 2 * (1 + (x if right else -x)),
        height / 2 * (1 + (y if low else -y)),
        half_width,
        ValueNoise(salt(seed, "ink"), (half_width, half_width / 6), (2, 1)),
    )
