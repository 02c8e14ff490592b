"""Tables of labelled tiles for `pathotune compare`: the test rows are pixels that the built-in backbone never saw.

python benchmarks/tile_tables.py --data DIR --out tables
python benchmarks/tile_tables.py --tables generated --out tables
pathotune compare --tiles tables/her2st.csv --methods linear_probe,cite,pathotune --shots 1,4,16,all --out compared
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIDE = 224
GENERATED_PX = 40 * SIDE
TILE_UM = 112.0
SECTION_MPP = {"C2": 0.696, "C3": 0.669, "C4": 0.690}
COLUMNS = ("path", "label", "slide", "patient", "split", "mpp", "x_px0", "y_px0", "width_px0")


def her2st(data: Path) -> Iterator[dict[str, Any]]:
    """Spots called cancer or immune: sections C2 and C3 to learn from, C4 for the test; all of one patient."""
    for section, mpp in SECTION_MPP.items():
        width = TILE_UM / mpp
        with (data / f"tiles/her2st_spots/{section}_spots.csv").open(newline="") as lines:
            for row in csv.DictReader(lines):
                if row["coarse"] in ("cancer", "immune"):
                    yield {
                        "path": data / f"st/her2st/images/{section}.jpg",
                        "label": row["coarse"],
                        "slide": section,
                        "patient": "C",
                        "split": "test" if section == "C4" else "train",
                        "mpp": mpp,
                        "x_px0": float(row["pixel_x"]) - width / 2,
                        "y_px0": float(row["pixel_y"]) - width / 2,
                        "width_px0": width,
                    }


def camelyon16(data: Path) -> Iterator[dict[str, Any]]:
    """Tiles of the mosaic of tumor_001 every 112 pixels: the top half to learn from, the bottom half for the test.

    A tile is tumour where half the mask is; its tissue covers three tenths of it at least.
    """
    import tiffslide

    path = data / "wsi/camelyon16_tumor001_mosaic.tiff"
    with tiffslide.TiffSlide(path) as slide:
        width, height = slide.dimensions
        mpp = float(slide.properties["tiffslide.mpp-x"])
        pixels = slide.read_region((0, 0), 0, (width, height), as_array=True)[..., :3]
    mask, valid = (
        np.asarray(Image.open(data / f"wsi/camelyon16_tumor001_mosaic_{name}.png").convert("L")) > 127
        for name in ("mask", "valid")
    )
    for split, first, last in (("train", 0, height // 2), ("test", height // 2, height)):
        for y in range(first, last - SIDE + 1, SIDE // 2):
            for x in range(0, width - SIDE + 1, SIDE // 2):
                cut = (slice(y, y + SIDE), slice(x, x + SIDE))
                if valid[cut].mean() > 0.99 and (pixels[cut].mean(axis=2) < 215).mean() > 0.3:
                    yield {
                        "path": path,
                        "label": "tumour" if mask[cut].mean() >= 0.5 else "normal",
                        "slide": "tumor_001",
                        "patient": "tumor_001",
                        "split": split,
                        "mpp": mpp,
                        "x_px0": x,
                        "y_px0": y,
                        "width_px0": SIDE,
                    }


def generated(folder: Path, seed: int = 301) -> Iterator[dict[str, Any]]:
    """Tiles of a generated slide: the left half to learn from, the right half for the test.

    Five classes with two look-alike pairs: tumour and benign glands, stroma and smooth muscle. A tile is of the class
    that holds more than half of its tissue.
    """
    from pathotune.slides.synthetic import CLASSES, SyntheticSlide

    mpp, names = 0.5, ("Tumor", "Benign glands", "Stroma", "Smooth muscle", "Immune cells")
    slide = SyntheticSlide(GENERATED_PX, GENERATED_PX, mpp, seed, margin=0.02, pen=False, classes=names)
    path = slide.write(folder / f"generated-{seed}.tiff").resolve()
    every = [tissue.name for tissue in CLASSES]
    offsets = ((np.arange(9) + 0.5) / 9 * SIDE)[None, :]
    for y in range(0, GENERATED_PX - SIDE + 1, SIDE):
        for x in range(0, GENERATED_PX - SIDE + 1, SIDE):
            found = slide.classes_at(x + offsets, y + offsets.T)
            shares = [float((found == every.index(name)).mean()) for name in names]
            tissue, most = sum(shares), int(np.argmax(shares))
            if tissue >= 0.25 and shares[most] > 0.5 * tissue:
                yield {
                    "path": path,
                    "label": names[most],
                    "slide": f"generated-{seed}",
                    "patient": f"generated-{seed}",
                    "split": "train" if x + SIDE <= GENERATED_PX // 2 else "test",
                    "mpp": mpp,
                    "x_px0": x,
                    "y_px0": y,
                    "width_px0": SIDE,
                }


TABLES = {"her2st": her2st, "camelyon16": camelyon16, "generated": generated}


def main() -> None:
    """Write the tables and say how many tiles they have."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with wsi/, st/ and tiles/; the generated table needs none")
    parser.add_argument("--out", type=Path, required=True, help="folder for the tables and the generated slide")
    parser.add_argument("--tables", nargs="+", choices=list(TABLES), default=list(TABLES))
    options = parser.parse_args()
    if options.data is None and set(options.tables) - {"generated"}:
        parser.error("her2st and camelyon16 need --data")
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.tables:
        rows = list(TABLES[name](options.out if name == "generated" else options.data.resolve()))
        with (options.out / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
        counts: dict[str, int] = {}
        for row in rows:
            key = f"{row['split']} {row['label']}"
            counts[key] = counts.get(key, 0) + 1
        print(f"{name}: " + ", ".join(f"{count} {key}" for key, count in sorted(counts.items())))


if __name__ == "__main__":
    main()
