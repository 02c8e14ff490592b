"""The pixels that may be learned from, the pixels that must never be, and random crops of the former."""

import csv
import math
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from pathotune.slides import open_slide
from pathotune.slides.synthetic import SyntheticSlide

#: First row, in level-0 pixels of the whole CAMELYON16 slide tumor_001, that belongs to the test half of the mosaic.
MOSAIC_TOP_Y0, MOSAIC_HEIGHT = 131174, 3200
FIRST_TEST_ROW = MOSAIC_TOP_Y0 + MOSAIC_HEIGHT // 2
CELL = 16  # pixels of the source per cell of its tissue map


@dataclass(frozen=True)
class Source:
    """Pixels of one slide or patch, with its resolution and where its tissue lies."""

    name: str
    pixels: np.ndarray  # (height, width, 3) uint8
    mpp: float
    tissue: np.ndarray  # (height // CELL, width // CELL) bool
    share: float  # of all crops


def allowed_patches(index: Path) -> list[tuple[str, str]]:
    """Patches of the CAMELYON16 index that may be learned from, as (file, slide).

    A patch of tumor_001 that reaches into the test half of the mosaic is left out, be it by one row.
    """
    with index.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    kept = []
    for row in rows:
        bottom = int(row["y_level0"]) + int(row["height"])
        if row["slide"] != "tumor_001" or bottom <= FIRST_TEST_ROW:
            kept.append((row["file"], row["slide"]))
    return kept


def tissue_cells(pixels: np.ndarray) -> np.ndarray:
    """Cells of CELL pixels that hold tissue: their density is over Otsu's threshold of the slide's."""
    rows, columns = pixels.shape[0] // CELL, pixels.shape[1] // CELL
    small = np.asarray(Image.fromarray(pixels[: rows * CELL, : columns * CELL]).resize((columns, rows), Image.BOX))
    density = -np.log((small.astype(np.float32) + 1) / 256).mean(axis=2)
    # A fill of one exact colour is the mosaic's empty ground, not a pale tissue.
    threshold = min(max(otsu(density), 0.12), 0.35)
    return density > threshold


def otsu(values: np.ndarray) -> float:
    """The threshold that parts the values into the two tightest groups (Otsu, 1979)."""
    counts, edges = np.histogram(values, bins=128)
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    above = below[-1] - below
    sums = np.cumsum(counts * centres)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    return float(centres[np.nan_to_num(between, posinf=0).argmax()])


def _slide_pixels(path: Path, mpp: float, height_share: float = 1.0) -> np.ndarray:
    """Level 0 of a slide, or of its upper part, decoded once: training reads every pixel dozens of times."""
    with open_slide(path, mpp=mpp) as slide:
        return slide.read(0, 0, slide.width_px0, int(slide.height_px0 * height_share))


def generated_sources(side: int = 1024, share: float = 0.04) -> list[Source]:
    """Two generated slides in two stains; a small share, as their tissue is drawn and not grown."""
    sources = []
    for seed, stain in enumerate(("standard", "red")):
        pixels = SyntheticSlide(side, side, mpp=0.5, seed=seed, stain=stain).render(0, 0, side, side)
        sources.append(Source(f"generated, {stain}", pixels, 0.5, tissue_cells(pixels), share / 2))
    return sources


def _crop_to_tissue(name: str, pixels: np.ndarray, mpp: float, share: float) -> Source:
    tissue = tissue_cells(pixels)
    rows, columns = np.flatnonzero(tissue.any(axis=1)), np.flatnonzero(tissue.any(axis=0))
    r0, r1, c0, c1 = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    cut = np.ascontiguousarray(pixels[r0 * CELL : r1 * CELL, c0 * CELL : c1 * CELL])
    return Source(name, cut, mpp, tissue[r0:r1, c0:c1], share)


def load_sources(data: Path) -> list[Source]:
    """Read every allowed pixel below `data` into memory (about 300 MB)."""
    whole = (
        ("her2st C2", "wsi/her2st_C2_breast_9274x9911.ome.tif", 0.696, 0.29, 1.0),
        ("her2st C3", "st/her2st/images/C3.jpg", 0.669, 0.29, 1.0),
        ("CMU-1-Small-Region", "wsi/CMU-1-Small-Region.svs", 0.499, 0.11, 1.0),
        ("camelyon16 tumor_001, top half", "wsi/camelyon16_tumor001_mosaic.tiff", 0.243, 0.16, 0.5),
    )
    sources = [
        _crop_to_tissue(name, _slide_pixels(data / path, mpp, height_share), mpp, share)
        for name, path, mpp, share, height_share in whole
    ]
    patches = [name for name, slide in allowed_patches(data / "tiles/camelyon16/index.csv") if slide != "tumor_001"]
    for name in patches:
        pixels = _slide_pixels(data / "tiles/camelyon16" / name, 0.243)
        sources.append(Source(name, pixels, 0.243, tissue_cells(pixels), 0.11 / len(patches)))
    return sources + generated_sources()


@dataclass(frozen=True)
class Crop:
    """Where a crop lies: its centre in pixels of the source and its resolution."""

    x: float
    y: float
    mpp: float


class CropSampler:
    """Draws pairs of neighbouring crops, the same for the same seed and step."""

    def __init__(self, sources: list[Source], side: int, mpp_range: tuple[float, float] = (0.25, 1.0)) -> None:
        self.sources, self.side, self.mpp_range = sources, side, mpp_range
        self.shares = np.array([source.share for source in sources]) / sum(source.share for source in sources)
        self.cells = [np.argwhere(source.tissue) for source in sources]

    def pair(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Two crops of one neighbourhood, each (side, side, 3) uint8, turned and scaled apart from each other."""
        index = int(rng.choice(len(self.sources), p=self.shares))
        source = self.sources[index]
        first = self._place(source, self.cells[index], rng)
        half = 0.5 * self.side * first.mpp / source.mpp
        other = Crop(
            first.x + rng.uniform(-half, half),
            first.y + rng.uniform(-half, half),
            float(np.clip(first.mpp * math.exp(rng.uniform(-0.35, 0.35)), *self._limits(source))),
        )
        return self._read(source, first, rng), self._read(source, other, rng)

    def _limits(self, source: Source) -> tuple[float, float]:
        """Resolutions that a source can give: not much finer than it is, nor more than it holds."""
        largest = min(source.pixels.shape[:2]) * source.mpp / self.side
        return max(self.mpp_range[0], 0.7 * source.mpp), min(self.mpp_range[1], largest)

    def _place(self, source: Source, cells: np.ndarray, rng: np.random.Generator) -> Crop:
        low, high = self._limits(source)
        crop = Crop(0, 0, low)
        for _ in range(8):
            row, column = cells[rng.integers(len(cells))]
            mpp = math.exp(rng.uniform(math.log(low), math.log(high)))
            crop = Crop((column + rng.random()) * CELL, (row + rng.random()) * CELL, mpp)
            if self._tissue_share(source, crop) > 0.4:
                break
        return crop

    def _box(self, source: Source, crop: Crop) -> tuple[float, float, float]:
        size = self.side * crop.mpp / source.mpp
        height, width = source.pixels.shape[:2]
        x = min(max(crop.x - size / 2, 0), width - size)
        y = min(max(crop.y - size / 2, 0), height - size)
        return x, y, size

    def _tissue_share(self, source: Source, crop: Crop) -> float:
        x, y, size = (value / CELL for value in self._box(source, crop))
        return float(source.tissue[int(y) : math.ceil(y + size), int(x) : math.ceil(x + size)].mean())

    def _resized(self, source: Source, crop: Crop) -> np.ndarray:
        """The crop at its resolution: its exact, fractional box through the antialiasing filter of the tile reader."""
        x, y, size = self._box(source, crop)
        x0, y0 = int(x), int(y)
        cut = source.pixels[y0 : math.ceil(y + size), x0 : math.ceil(x + size)]
        box = (x - x0, y - y0, min(x - x0 + size, cut.shape[1]), min(y - y0 + size, cut.shape[0]))
        return np.asarray(Image.fromarray(cut).resize((self.side, self.side), Image.Resampling.BILINEAR, box=box))

    def _read(self, source: Source, crop: Crop, rng: np.random.Generator) -> np.ndarray:
        """The crop, turned and mirrored."""
        turned = np.rot90(self._resized(source, crop), rng.integers(4))
        return turned[:, ::-1] if rng.random() < 0.5 else turned

    def batch(self, count: int, seed: int, step: int) -> torch.Tensor:
        """`count` pairs for one step, (2, count, 3, side, side) uint8."""
        rng = np.random.default_rng((seed, step))
        pairs = np.array([self.pair(rng) for _ in range(count)])  # (count, 2, side, side, 3)
        return torch.from_numpy(np.ascontiguousarray(pairs.transpose(1, 0, 4, 2, 3)))


def batches(make: Callable[[int], torch.Tensor], first: int, last: int) -> Iterator[tuple[int, torch.Tensor]]:
    """The batches `make(step)` of the steps `first` to `last`, cut ahead of the model by one thread."""
    ahead: deque[tuple[int, Future[torch.Tensor]]] = deque()
    with ThreadPoolExecutor(1) as pool:
        for step in range(first, last):
            ahead.append((step, pool.submit(make, step)))
            if len(ahead) > 3:
                number, future = ahead.popleft()
                yield number, future.result()
        for number, future in ahead:
            yield number, future.result()
