"""Tiles of 256 pixels read per second: pathotune beside raw JPEG segments, tiffslide and openslide, in one run.

    python benchmarks/tile_reading.py
    python benchmarks/tile_reading.py --slide slide.svs --tiles 1000

Aligned tiles are the file's own; unaligned ones lie across four of them. "Half" are tiles of 512 level-0 pixels brought
to 256, as a 40x scan is read at 20x. Raw segments are the file's own tiles, read and decoded by tifffile and nothing
else: the limit. All ways take turns on the same tiles of an open slide whose file is in the system's cache, pathotune's
own cache empty at the start of each; every figure is the median of the rounds, every ratio that of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import tifffile
from openslide import OpenSlide
from tiffslide import TiffSlide

from pathotune.inference.allocator import keep_memory
from pathotune.slides import Slide, open_slide
from pathotune.slides.cache import BLOCKS
from pathotune.tiles.reader import TileReader
from pathotune.tiles.tileset import Reading

SIDE = 256
SHIFT = (101, 37)
Places = list[tuple[int, int]]
Turns = dict[tuple[str, str, int], tuple[Callable[[], None], int]]


def places(slide: Slide, count: int, stride: int, shift: tuple[int, int]) -> Places:
    """Corners of neighbouring tiles, row by row, in the middle of the slide."""
    across = int(count**0.5)
    x0 = max(0, (slide.width_px0 // stride - across) // 2) * stride + shift[0]
    y0 = max(0, (slide.height_px0 // stride - across) // 2) * stride + shift[1]
    found = [(x0 + stride * column, y0 + stride * row) for row in range(across) for column in range(across)]
    inside = [(x, y) for x, y in found if x + stride <= slide.width_px0 and y + stride <= slide.height_px0]
    if len(inside) < count / 2:
        raise SystemExit(f"The slide has room for {len(inside)} such tiles; ask for fewer with --tiles.")
    return inside


def spread(work: Callable[[int, int], object], where: Places, threads: int) -> None:
    """Call it for every place, each thread with a run of neighbours."""
    parts = np.array_split(np.array(where), threads)

    def run(part: np.ndarray) -> None:
        for x, y in part.tolist():
            work(x, y)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(run, parts))


def raw(file: tifffile.TiffFile, path: Path, where: Places, threads: int) -> None:
    """The segments that hold these corners, read and decoded."""
    page = file.pages[0]
    across = -(-page.imagewidth // page.tilewidth)
    options = {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader}
    with path.open("rb") as opened:
        number = opened.fileno()

        def one(x: int, y: int) -> None:
            index = (y // page.tilelength) * across + x // page.tilewidth
            page.decode(os.pread(number, page.databytecounts[index], page.dataoffsets[index]), index, **options)

        spread(one, where, threads)


def ours(slide: Slide, where: Places, threads: int, side_px0: int, decode: str) -> None:
    """As a prediction reads them: in batches, ahead of whoever takes them."""
    kept, BLOCKS.limit_bytes = BLOCKS.limit_bytes, 0
    BLOCKS.limit_bytes = kept
    reading = Reading(mpp=slide.require_mpp().mean * side_px0 / SIDE, tile_px=SIDE, image_px=SIDE, decode=decode)
    x, y = (np.array(values, np.float64) for values in zip(*where, strict=True))
    with TileReader(slide, reading, threads=threads) as reader:
        for _ in reader.batches(SimpleNamespace(x_px0=x, y_px0=y), 16):
            pass


def by_region(slide: TiffSlide | OpenSlide, where: Places, threads: int, side_px0: int) -> None:
    """`read_region` tile by tile, made smaller with PIL where the model wants it smaller."""

    def one(x: int, y: int) -> None:
        region = slide.read_region((x, y), 0, (side_px0, side_px0)).convert("RGB")
        np.asarray(region if side_px0 == SIDE else region.resize((SIDE, SIDE)))

    spread(one, where, threads)


def turns_of(path: Path, slide: Slide, count: int) -> Turns:
    """What is measured, by (way, tiles, threads): the work, and how many tiles it reads."""
    laid = {
        "aligned": (places(slide, count, SIDE, (0, 0)), SIDE),
        "unaligned": (places(slide, count, SIDE, SHIFT), SIDE),
        "half": (places(slide, count // 4, 2 * SIDE, SHIFT), 2 * SIDE),
    }
    peers = {"tiffslide": TiffSlide(path), "openslide": OpenSlide(path)}
    file, turns = tifffile.TiffFile(path), {}
    for threads in (1, 2):
        where = laid["aligned"][0]
        turns["raw segments", "aligned", threads] = partial(raw, file, path, where, threads), len(where)
        for kind, (where, side) in laid.items():
            ways = {"pathotune": partial(ours, slide, where, threads, side, "reduced")}
            if kind == "half":
                ways["pathotune, decoded whole"] = partial(ours, slide, where, threads, side, "full")
            ways |= {name: partial(by_region, peer, where, threads, side) for name, peer in peers.items()}
            turns |= {(name, kind, threads): (way, len(where)) for name, way in ways.items()}
    return turns


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--slide", type=Path, help="a tiled JPEG slide; a generated one of 0.25 µm per pixel without it"
    )
    parser.add_argument("--tiles", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=5)
    wanted = parser.parse_args()
    keep_memory()  # as a prediction does, here for all
    with tempfile.TemporaryDirectory() as folder:
        path = wanted.slide or generated(Path(folder), wanted.tiles)
        with open_slide(path) as slide:
            turns = turns_of(path, slide, wanted.tiles)
            rounds: list[dict[tuple[str, str, int], float]] = []
            for number in range(wanted.rounds + 1):
                order = [*turns][number % len(turns) :] + [*turns][: number % len(turns)]
                rates = {}
                for key in order:
                    work, count = turns[key]
                    started = time.perf_counter()
                    work()
                    rates[key] = count / (time.perf_counter() - started)
                if number:  # the first warms everything up
                    rounds.append(rates)
    report(rounds)


def generated(folder: Path, tiles: int) -> Path:
    """A slide with room for so many tiles of both sizes."""
    from pathotune.slides.synthetic import SyntheticSlide

    side = (int(tiles**0.5) + 4) * SIDE
    return SyntheticSlide(side, side, mpp=0.25, seed=1, margin=0.0, pen=False).write(folder / "generated.tiff")


def report(rounds: list[dict[tuple[str, str, int], float]]) -> None:
    """The table, a row a way of reading; shares are of the raw segments with as many threads."""
    print("| tiles | read by | 1 thread: tiles/s | share of raw | 2 threads: tiles/s | share of raw |")
    print("|---|---|---|---|---|---|")
    for name, kind, _ in (
        key for key in sorted(rounds[0], key=lambda key: (key[1], key[0] != "raw segments", key[0])) if key[2] == 1
    ):
        cells = []
        for threads in (1, 2):
            rate = statistics.median(one[name, kind, threads] for one in rounds)
            share = statistics.median(
                one[name, kind, threads] / one["raw segments", "aligned", threads] for one in rounds
            )
            cells += [f"{rate:.0f}", f"{share:.2f}"]
        print(f"| {kind} | {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
