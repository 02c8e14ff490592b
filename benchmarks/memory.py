"""Peak memory of a prediction on a small and a large slide side by side, each in a process of its own.

    python benchmarks/memory.py
    python benchmarks/memory.py --depth 2
    python benchmarks/memory.py --every 16
    python benchmarks/memory.py --sides 5000,10000,20000,40000,60000,100000 --depth 1 --every 4

The slides are generated: tiles of H&E-like tissue, encoded once and repeated, so that gigapixels take seconds.
Two ways to spend less time on the 72 000 tiles of 60 000 x 60 000 pixels. With --depth N the backbone has only N
blocks, with random weights: every tile is still read, predicted and written, so the prediction is complete, and one
block needs as much memory as twelve. With --every K only each K-th tile is predicted, on the same grid and into the
same arrays. Processor time is that of all threads from the opened model to the finished store: other programs lengthen
it less than the time on the wall.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

TILE = 256
MPP = 0.5


def write_slide(path: Path, side: int) -> Path:
    """A pyramidal TIFF of this many pixels a side, full of tissue."""
    import imagecodecs
    import tifffile

    from pathotune.slides.synthetic import SyntheticSlide

    whole = SyntheticSlide(2048, 2048, mpp=MPP, seed=5, margin=0.0, pen=False).render(0, 0, 2048, 2048)
    rng = np.random.default_rng(0)
    options: dict[str, Any] = {"tile": (TILE, TILE), "photometric": "rgb", "compression": "jpeg", "metadata": None}
    options |= {"dtype": np.uint8, "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        for downsample in (1, 4, 16, 64):
            picture = whole[: 2048 // TILE * TILE].reshape(
                2048 // downsample, downsample, 2048 // downsample, downsample, 3
            )
            small = picture.mean(axis=(1, 3)).astype(np.uint8)
            small = np.tile(small, (max(1, -(-TILE // len(small))),) * 2 + (1,))
            count = len(small) // TILE
            bank = [
                imagecodecs.jpeg_encode(
                    np.ascontiguousarray(small[r * TILE : (r + 1) * TILE, c * TILE : (c + 1) * TILE]),
                    level=80,
                    colorspace="rgb",
                    outcolorspace="rgb",
                )
                for r in range(count)
                for c in range(count)
            ]
            size = -(-side // downsample)
            tiles = (-(-size // TILE)) ** 2

            def repeated(bank: list[bytes] = bank, tiles: int = tiles) -> Iterator[bytes]:
                for choice in rng.integers(0, len(bank), tiles).tolist():
                    yield bank[choice]

            per_cm = 1e4 / MPP / downsample
            tiff.write(
                repeated(),
                shape=(size, size, 3),
                resolution=(per_cm, per_cm),
                subfiletype=int(downsample > 1),
                **options,
            )
    return path


def measure(slide: Path, folder: Path, backbone: str, every: int, depth: int | None) -> dict[str, Any]:
    """Predict in this process; the contract's document and the number of files."""
    sys.path.insert(0, str(Path(__file__).parent))
    from prediction_speed import random_tuning

    import pathotune.inference.predict as predict
    from pathotune.backbones import load_backbone
    from pathotune.events import result_of
    from pathotune.tiles.grid import tile_grid

    def thinned(*arguments: Any, **options: Any) -> Any:
        tiles = tile_grid(*arguments, **options)
        return tiles.take((tiles.row.astype(int) * tiles.columns + tiles.column) % every == 0)

    predict.tile_grid = thinned  # type: ignore[attr-defined]
    loaded = load_backbone(backbone) if depth is None else load_backbone(backbone, random_seed=0, depth=depth)
    tuning = random_tuning("pathotune", loaded, folder / "tuning")
    before = time.process_time()
    result = result_of(predict.predict_slide(slide, tuning, folder / "out", backbone=loaded, precision="float32"))
    result["processor_seconds"] = time.process_time() - before
    return {**result, "files": sum(path.is_file() for path in Path(result["store"]).rglob("*"))}


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", default="20000,60000", help="sides of the slides in pixels")
    parser.add_argument("--backbone", default="pathotune-tiny")
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--depth", type=int, help="blocks of the backbone; all without it")
    parser.add_argument("--slide", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    wanted = parser.parse_args()
    if wanted.slide is not None:
        print(json.dumps(measure(wanted.slide, wanted.folder, wanted.backbone, wanted.every, wanted.depth)))
        return
    blocks = "" if wanted.depth is None else f" of {wanted.depth} blocks"
    part = "every tile" if wanted.every == 1 else f"one tile of {wanted.every}"
    print(f"{wanted.backbone}{blocks}, {part} predicted, at {MPP} µm per pixel")
    with tempfile.TemporaryDirectory() as name:
        for side in map(int, wanted.sides.split(",")):
            folder = Path(name, str(side))
            folder.mkdir()
            started = time.perf_counter()
            slide = write_slide(folder / "slide.tiff", side)
            written = time.perf_counter() - started
            line = [sys.executable, __file__, "--slide", str(slide), "--folder", str(folder)]
            line += ["--backbone", wanted.backbone, "--every", str(wanted.every)]
            line += [] if wanted.depth is None else ["--depth", str(wanted.depth)]
            result = json.loads(subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True).stdout)
            print(
                f"{side} x {side} ({slide.stat().st_size / 1e6:.0f} MB, written in {written:.0f} s): "
                f"peak {result['peak_memory_mb']:.0f} MB, {result['tiles']} tiles, {result['files']} files, "
                f"{result['tiles_per_second']:.1f} tiles/s, {result['seconds'] / 60:.1f} min, "
                f"{result['processor_seconds']:.0f} s of processor time, "
                f"{1000 * result['processor_seconds'] / result['tiles']:.1f} ms a tile",
                flush=True,
            )
            slide.unlink()


if __name__ == "__main__":
    main()
