"""What each tissue looks like: dye amounts of a square that goes on seamlessly over its edges, as a wallpaper does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from pathotune.slides.synthetic import nuclei
from pathotune.slides.synthetic.fields import Floats, periodic_blur, periodic_noise, salt

EPITHELIUM_SHARE, LUMEN_SHARE, NUCLEI_PER_MM2 = 0.56, 0.075, 3050.0
CLEFT_SHARE, SPINDLES_UM = 0.07, 19.0


@dataclass(frozen=True)
class Dyes:
    """Amounts of dye, each (size, size) float32; `marker` is the share of the matrix that is epithelium."""

    nuclear: Floats
    matrix: Floats
    marker: Floats


@dataclass
class Ground:
    """What every painter starts from: the square's size, its resolution, and its own random numbers."""

    size: int
    mpp: float
    rng: np.random.Generator

    def px(self, um: float) -> float:
        """Micrometres as pixels of the square."""
        return um / self.mpp

    def noise(self, blur_um: float, minus_um: float | None = None, stretch: float = 1.0, angle: float = 0.0) -> Floats:
        """Seamless noise of grains of this size."""
        minus = None if minus_um is None else self.px(minus_um)
        return periodic_noise(self.rng, self.size, self.px(blur_um), minus_blur_px=minus, stretch=stretch, angle=angle)

    def at(self, field: Floats, x: NDArray[np.float64], y: NDArray[np.float64]) -> Floats:
        """The field's values at places inside the square."""
        values: Floats = field[y.astype(int) % self.size, x.astype(int) % self.size]
        return values

    def places(self, spacing_um: float, jitter: float = 0.32) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Evenly scattered places."""
        return nuclei.scattered(self.rng, self.size, self.px(spacing_um), jitter)

    def nuclei_wanted(self) -> int:
        """How many epithelial nuclei the square has, so that look-alikes have as many."""
        return round(NUCLEI_PER_MM2 * (self.size * self.mpp / 1000) ** 2)

    def stamp(
        self,
        canvas: Floats,
        kind: nuclei.NucleusKind,
        x: NDArray[np.float64],
        y: NDArray[np.float64],
        angles: NDArray[np.float64] | None = None,
    ) -> None:
        """Put nuclei of a kind at these places."""
        nuclei.stamp(canvas, nuclei.sprites(kind, self.mpp, self.rng), x, y, self.rng, angles)


def share(field: Floats, fraction: float) -> float:
    """The value that this fraction of the field lies above."""
    return float(np.quantile(field[::3, ::3], 1.0 - fraction))


def soft(field: Floats, threshold: float, width: float) -> Floats:
    """0 below the threshold, 1 above it, with a slope of this width between."""
    ramp: Floats = np.clip((field - np.float32(threshold)) / np.float32(width) + np.float32(0.5), 0, 1)
    return ramp


def fibres(ground: Ground, angle: Floats, grain_um: float, stretch: float, directions: int = 6) -> Floats:
    """Fibrous noise whose fibres follow a field of directions (radians): oriented noises, blended by direction."""
    total = np.zeros_like(angle)
    power = np.zeros_like(angle)
    for number in range(directions):
        direction = np.pi * number / directions
        weight = np.clip(np.cos(angle - np.float32(direction)) ** 2 - 0.5, 0, None) ** 2
        weight = weight.astype(np.float32)
        total += weight * ground.noise(grain_um, 4 * grain_um, stretch=stretch, angle=direction)
        power += weight**2
    total /= np.sqrt(power + np.float32(1e-6))
    return total


def _glands(ground: Ground, epithelium: Floats, lumen: Floats, x: NDArray[np.float64], y: NDArray[np.float64]) -> Dyes:
    """Epithelium with these nuclei, its lumens, and the stroma between glands; shared by tumour and benign glands."""
    size = ground.size
    angle = np.float32(ground.rng.uniform(0, np.pi)) + np.float32(1.1) * ground.noise(45)
    collagen = np.float32(0.50) + np.float32(0.13) * fibres(ground, angle, 0.9, 9.0, directions=5)
    collagen *= 1 - soft(ground.noise(2.0, 8.0, stretch=3.0), 1.75, 0.4) * np.float32(0.9)
    cytoplasm = np.float32(0.50) + np.float32(0.07) * ground.noise(0.7, 3.0) + np.float32(0.06) * ground.noise(5.0)
    tissue = epithelium * (1 - lumen)
    matrix = collagen * (1 - epithelium) + cytoplasm * tissue
    matrix += lumen * epithelium * np.clip(np.float32(0.03) + np.float32(0.04) * ground.noise(3.0), 0, 0.2)
    nuclear = np.float32(0.14) * tissue + np.float32(0.04) * (1 - epithelium)
    dots = np.zeros((size, size), dtype=np.float32)
    ground.stamp(dots, nuclei.EPITHELIAL, x, y)
    sx, sy = ground.places(19.0)
    outside = ground.at(periodic_blur(epithelium, ground.px(2.5)), sx, sy) < 0.12
    sx, sy = sx[outside], sy[outside]
    ground.stamp(dots, nuclei.SPINDLE, sx, sy, ground.at(angle, sx, sy).astype(np.float64))
    return Dyes(np.maximum(nuclear, dots), matrix * (1 - np.float32(0.55) * np.minimum(dots, 1)), tissue)


def tumor(ground: Ground) -> Dyes:
    """Fused, irregular glands with small holes in sheets of disorderly nuclei (cribriform adenocarcinoma)."""
    body = ground.noise(13.0, 34.0) + np.float32(0.22) * ground.noise(3.5, 9.0)
    threshold = share(body, EPITHELIUM_SHARE)
    epithelium = soft(body, threshold, 0.10)
    spots = ground.noise(4.2, 9.0) + np.float32(0.55) * body
    holes: Floats = np.where(body < threshold + 0.25, np.float32(-9), spots).astype(np.float32)
    lumen = soft(holes, share(holes, LUMEN_SHARE), 0.25)
    x, y = ground.places(7.6, jitter=0.36)
    solid = periodic_blur(epithelium * (1 - lumen), ground.px(1.8))
    inside = ground.at(solid, x, y) > 0.80
    x, y = x[inside], y[inside]
    # Nuclei crowd along the outlines of glands and holes, several deep.
    depth = ground.at(periodic_blur(epithelium * (1 - lumen), ground.px(7.0)), x, y)
    nearest = np.argsort(depth + np.float32(0.10) * ground.rng.standard_normal(len(x), dtype=np.float32))
    wanted = ground.nuclei_wanted()
    return _glands(ground, epithelium, lumen, x[nearest[:wanted]], y[nearest[:wanted]])


def benign_glands(ground: Ground) -> Dyes:
    """Round, evenly spaced tubules: one row of nuclei at the base, one open lumen in the middle."""
    size, rng = ground.size, ground.rng
    radius = np.full((size, size), 9.0, dtype=np.float32)  # distance from the gland's axis, 1 at its outline
    nx, ny = [], []
    for cx, cy in zip(*nuclei.scattered(rng, size, ground.px(86.0), jitter=0.10), strict=True):
        tubule = Tubule(
            cx,
            cy,
            ground.px(35.0 * np.exp(0.08 * rng.standard_normal())),
            rng.uniform(0.8, 1.0),
            *rng.uniform(0, 6.3, 3),
        )
        tubule.draw(radius)
        count = round(2 * np.pi * 0.74 * tubule.radius_px / ground.px(8.3))
        theta = 2 * np.pi * (np.arange(count) + 0.22 * rng.standard_normal(count)) / count
        ring = (0.74 + 0.035 * rng.standard_normal(count)) * tubule.outline(theta)
        nx.append((cx + ring * np.cos(theta)) % size)
        ny.append((cy + ring * np.sin(theta)) % size)
    epithelium = soft(-radius, share(-radius, EPITHELIUM_SHARE), 0.06)
    inner = -radius + np.float32(0.05) * ground.noise(1.8)
    lumen = soft(inner, share(inner, LUMEN_SHARE), 0.08)
    x, y = np.concatenate(nx), np.concatenate(ny)
    picked = rng.permutation(len(x))[: ground.nuclei_wanted()]
    return _glands(ground, epithelium, lumen, x[picked], y[picked])


@dataclass(frozen=True)
class Tubule:
    """The outline of one gland cut across: an ellipse that is not quite one, in pixels and radians."""

    x: float
    y: float
    radius_px: float
    flatness: float
    turn: float
    phase_3: float
    phase_5: float

    def outline(self, theta: NDArray[np.floating]) -> NDArray[np.floating]:
        """Distance of the outline from the axis in these directions."""
        narrow, wide = np.sqrt(self.flatness), 1 / np.sqrt(self.flatness)
        ellipse = 1.0 / np.hypot(np.cos(theta - self.turn) / wide, np.sin(theta - self.turn) / narrow)
        wobble = 1 + 0.045 * np.cos(3 * theta + self.phase_3) + 0.03 * np.cos(5 * theta + self.phase_5)
        return self.radius_px * ellipse * wobble  # type: ignore[no-any-return]

    def draw(self, radius: Floats) -> None:
        """Lower `radius` to this gland's relative distances where they are smaller, over the edges too."""
        size, half = len(radius), int(1.6 * self.radius_px)
        around = np.arange(-half, half + 1)
        columns, rows = (int(self.x) + around) % size, (int(self.y) + around) % size
        dx, dy = around[None, :] - self.x % 1, around[:, None] - self.y % 1
        relative = np.hypot(dx, dy) / self.outline(np.arctan2(dy, dx))
        window = np.ix_(rows, columns)
        radius[window] = np.minimum(radius[window], relative)


def _fibrous(ground: Ground, angle: Floats, grain_um: float, stretch: float, clefts: Floats) -> Dyes:
    """Fibres along these directions, with clefts between them and spindle nuclei along them."""
    matrix = np.float32(0.56) + np.float32(0.13) * fibres(ground, angle, grain_um, stretch)
    matrix += np.float32(0.06) * ground.noise(9.0)
    cleft = soft(clefts, share(clefts, CLEFT_SHARE), 0.35)
    matrix = np.clip(matrix, 0.15, 1.1) * (1 - np.float32(0.93) * cleft)
    dots = np.zeros_like(matrix)
    x, y = ground.places(SPINDLES_UM, jitter=0.45)
    filled = ground.at(cleft, x, y) < 0.3
    x, y = x[filled], y[filled]
    ground.stamp(dots, nuclei.SPINDLE, x, y, ground.at(angle, x, y).astype(np.float64))
    nuclear = np.maximum(np.float32(0.035) * (1 - cleft), dots)
    return Dyes(nuclear, matrix * (1 - np.float32(0.5) * np.minimum(dots, 1)), np.zeros_like(matrix))


def stroma(ground: Ground) -> Dyes:
    """Wavy collagen: its direction turns slowly and ripples quickly."""
    angle = np.float32(ground.rng.uniform(0, np.pi)) + np.float32(1.2) * ground.noise(55.0)
    angle += np.float32(0.55) * ground.noise(9.0)
    return _fibrous(ground, angle, 1.0, 7.0, fibres(ground, angle, 1.6, 7.0))


def smooth_muscle(ground: Ground) -> Dyes:
    """Straight bundles that cross each other almost at right angles."""
    side = ground.noise(26.0)
    angle = np.float32(ground.rng.uniform(0, np.pi)) + np.where(side > 0, np.float32(0.5 * np.pi), np.float32(0))
    angle += np.float32(0.35) * ground.noise(60.0)
    clefts = fibres(ground, angle, 1.6, 16.0) + np.float32(1.6) * np.exp(-((side / np.float32(0.07)) ** 2))
    return _fibrous(ground, angle, 1.0, 18.0, clefts)


def immune_cells(ground: Ground) -> Dyes:
    """A sheet of lymphocytes: small, round, dark nuclei side by side."""
    x, y = ground.places(8.4, jitter=0.42)
    keep = ground.rng.random(len(x)) < 0.90
    dots = np.zeros((ground.size, ground.size), dtype=np.float32)
    ground.stamp(dots, nuclei.LYMPHOCYTE, x[keep], y[keep])
    matrix = np.float32(0.27) + np.float32(0.09) * ground.noise(1.2) + np.float32(0.05) * ground.noise(6.0)
    nuclear = np.maximum(np.float32(0.10), dots)
    return Dyes(nuclear, np.clip(matrix, 0, 1) * (1 - np.float32(0.6) * np.minimum(dots, 1)), np.zeros_like(dots))


def necrosis(ground: Ground) -> Dyes:
    """Pink granular debris, ghosts of cells, and dust of broken nuclei in clusters."""
    matrix = np.float32(0.62) + np.float32(0.13) * ground.noise(0.9, 3.0) + np.float32(0.13) * ground.noise(7.0)
    matrix *= 1 - np.float32(0.75) * soft(ground.noise(2.2, 6.0), 1.9, 0.5)
    dots = np.zeros_like(matrix)
    x, y = ground.places(13.5, jitter=0.45)
    ground.stamp(dots, nuclei.GHOST, x, y)
    clusters = ground.noise(9.0)
    x, y = ground.places(4.6, jitter=0.5)
    dense = ground.at(clusters, x, y) > share(clusters, 0.22)
    dense &= ground.rng.random(len(x)) < 0.65
    ground.stamp(dots, nuclei.DEBRIS, x[dense], y[dense])
    nuclear = np.maximum(np.float32(0.06), dots)
    return Dyes(nuclear, np.clip(matrix, 0.02, 1.2) * (1 - np.float32(0.35) * np.minimum(dots, 1)), np.zeros_like(dots))


def adipose(ground: Ground) -> Dyes:
    """Empty fat cells with thin walls, and flat nuclei pressed into the corners."""
    x, y = ground.places(62.0, jitter=0.30)
    gap_um, corner_um = _cell_walls(ground, x, y)
    wall = np.clip((np.float32(1.15) - gap_um) / np.float32(ground.mpp) + np.float32(0.5), 0, 1)
    wall = np.maximum(wall, np.clip((np.float32(3.6) - corner_um) / np.float32(2), 0, 1) * np.float32(0.8))
    matrix = wall * (np.float32(0.6) + np.float32(0.1) * ground.noise(1.0, 4.0))
    matrix += np.float32(0.012)
    dots = np.zeros_like(matrix)
    nx, ny = ground.places(15.0, jitter=0.5)
    at_wall = (ground.at(gap_um, nx, ny) < 1.6) & (ground.rng.random(len(nx)) < 0.8)
    nx, ny = nx[at_wall], ny[at_wall]
    slope_y, slope_x = np.asarray(np.gradient(gap_um))
    along = np.arctan2(ground.at(slope_x, nx, ny), -ground.at(slope_y, nx, ny)).astype(np.float64)
    ground.stamp(dots, nuclei.FAT, nx, ny, along % np.pi)
    return Dyes(np.maximum(np.float32(0.02) * wall, dots), np.clip(matrix, 0, 1), np.zeros_like(dots))


def _cell_walls(ground: Ground, x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[Floats, Floats]:
    """Distance (µm) to the nearest wall between two cells, and about that to the nearest corner of three."""
    from scipy.spatial import cKDTree

    coarse = max(8, int(np.ceil(ground.size * ground.mpp / 2.0)))
    step = ground.size / coarse
    tree = cKDTree(np.column_stack([x, y]), boxsize=ground.size)
    centres = (np.arange(coarse) + 0.5) * step
    grid = np.stack(np.meshgrid(centres, centres), axis=-1).reshape(-1, 2)
    distance = tree.query(grid, k=3)[0].reshape(coarse, coarse, 3).astype(np.float32) * np.float32(ground.mpp)
    blend = _periodic_blend(ground.size, coarse)
    first, second, third = (blend @ distance[..., k] @ blend.T for k in range(3))
    return (second - first) / 2, (third - first) / 2


def _periodic_blend(size: int, coarse: int) -> Floats:
    """The matrix (size, coarse) that blends linearly between coarse cells' centres, over the edges."""
    position = (np.arange(size) + 0.5) * coarse / size - 0.5
    left = np.floor(position).astype(int)
    matrix = np.zeros((size, coarse), dtype=np.float32)
    rows = np.arange(size)
    matrix[rows, left % coarse] += (1 - (position - left)).astype(np.float32)
    matrix[rows, (left + 1) % coarse] += (position - left).astype(np.float32)
    return matrix


def background(ground: Ground) -> Dyes:
    """Empty glass."""
    empty = np.zeros((ground.size, ground.size), dtype=np.float32)
    return Dyes(empty, np.abs(np.float32(0.006) * ground.noise(0.8)), empty)


Painter = Callable[[Ground], Dyes]


ROTATIONS = (0.0, 0.8, 0.4, 1.2, 0.2, 1.0, 0.6, 0.0)


def matched(dyes: Dyes, model: Dyes) -> Dyes:
    """`dyes` with the amounts changed so that both dyes together are spread over the area as in `model`.

    The two spreads are made equal along one direction of the plane of amounts after the other, which carries one
    cloud of points into the other (iterative distribution transfer, Pitié et al. 2007).
    """
    nuclear, matrix = dyes.nuclear, dyes.matrix
    for angle in ROTATIONS:
        cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
        u = _spread_as(cos * nuclear + sin * matrix, cos * model.nuclear + sin * model.matrix)
        v = _spread_as(cos * matrix - sin * nuclear, cos * model.matrix - sin * model.nuclear)
        nuclear, matrix = cos * u - sin * v, sin * u + cos * v
    return Dyes(np.maximum(nuclear, 0), np.maximum(matrix, 0), dyes.marker)


def _spread_as(values: Floats, wanted: Floats) -> Floats:
    """The values, moved without changing their order so that they are spread as the wanted ones."""
    steps = np.linspace(0, 1, 513)
    have, want = np.quantile(values[::3, ::3], steps), np.quantile(wanted[::3, ::3], steps)
    # Ties would make the mapping ambiguous where much of the area is empty.
    have = have + np.arange(len(steps)) * 1e-7
    return np.interp(values, have, want).astype(np.float32)


def _uneven(dyes: Dyes, ground: Ground) -> Dyes:
    """The section thicker here and thinner there, and each dye taken up unevenly, as no two tiles look alike."""
    nuclear = np.float32(1) + np.float32(0.09) * ground.noise(70.0)
    matrix = np.float32(1) + np.float32(0.11) * ground.noise(55.0)
    return Dyes(dyes.nuclear * nuclear, dyes.matrix * matrix, dyes.marker)


PAINTERS: dict[str, Painter] = {
    painter.__name__: painter
    for painter in (
        tumor,
        benign_glands,
        stroma,
        smooth_muscle,
        immune_cells,
        necrosis,
        adipose,
        background,
    )
}
MODELS = {"benign_glands": "tumor", "smooth_muscle": "stroma"}
"""Which texture lends its amounts of dye to its look-alike."""


@lru_cache(maxsize=2)
def _model(name: str, size: int, mpp: float, seed: int) -> Dyes:
    """A texture that others are matched to, kept for them."""
    return PAINTERS[name](Ground(size, mpp, np.random.default_rng([seed, salt(name)])))


def paint(name: str, size: int, mpp: float, seed: int) -> Dyes:
    """The texture of this name, (size, size) pixels of `mpp` µm, the same for the same numbers."""
    if name in MODELS.values():
        dyes = _model(name, size, mpp, seed)
    else:
        dyes = PAINTERS[name](Ground(size, mpp, np.random.default_rng([seed, salt(name)])))
    if name in MODELS:
        dyes = matched(dyes, _model(MODELS[name], size, mpp, seed))
    return _uneven(dyes, Ground(size, mpp, np.random.default_rng([seed, salt(name, "uneven")])))
