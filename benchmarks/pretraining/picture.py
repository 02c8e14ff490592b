"""Patch-token PCA of a slide as an RGB overlay: python -m benchmarks.pretraining.picture --data DIR --output PNG."""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from benchmarks.feature_probe import WEIGHTS
from benchmarks.pretraining.export import load_encoder
from pathotune.slides import open_slide
from pathotune.tiles import Reading, TileReader

SIDE, MPP = 224, 0.5


def patch_grid(encoder: torch.nn.Module, facts: dict[str, str], tiles: np.ndarray, columns: int) -> np.ndarray:
    """Patch tokens of tiles that lie row by row, as one grid (rows * 14, columns * 14, 192)."""
    mean, std = (torch.tensor(json.loads(facts[name]))[:, None, None] for name in ("mean", "std"))
    parts = []
    with torch.inference_mode():
        for part in np.array_split(tiles, -(-len(tiles) // 16)):
            images = (torch.from_numpy(part.transpose(0, 3, 1, 2).copy()).float() / 255 - mean) / std
            parts.append(encoder.forward_features(images)[:, 1:].numpy())
    tokens = np.concatenate(parts).reshape(-1, columns, 14, 14, 192)
    return tokens.transpose(0, 2, 1, 3, 4).reshape(-1, columns * 14, 192)


def principal_colours(tokens: np.ndarray, tissue: np.ndarray) -> np.ndarray:
    """The three strongest directions of the tokens on tissue as red, green and blue, (rows, columns, 3) uint8."""
    centre = tokens[tissue].mean(axis=0)
    _, _, directions = np.linalg.svd(tokens[tissue] - centre, full_matrices=False)
    scores = (tokens - centre) @ directions[:3].T
    low, high = np.percentile(scores[tissue], [2, 98], axis=0)
    colours = (255 * np.clip((scores - low) / (high - low), 0, 1)).astype(np.uint8)
    colours[~tissue] = 255
    return colours


def draw(slide_path: Path, corner_um: tuple[float, float], tiles: tuple[int, int], weights: Path) -> Image.Image:
    """Tissue, its overlay and the two mixed, side by side, of `tiles` columns and rows from `corner_um`."""
    encoder, facts = load_encoder(weights)
    with open_slide(slide_path) as slide, TileReader(slide, Reading(MPP, SIDE, SIDE)) as reader:
        step = SIDE * MPP / slide.require_mpp().x
        x0, y0 = (value / slide.require_mpp().x for value in corner_um)
        rows, columns = np.divmod(np.arange(tiles[0] * tiles[1]), tiles[0])
        images = reader.read_at(x0 + columns * step, y0 + rows * step)
    grid = images.reshape(tiles[1], tiles[0], SIDE, SIDE, 3).transpose(0, 2, 1, 3, 4)
    tissue = Image.fromarray(grid.reshape(tiles[1] * SIDE, tiles[0] * SIDE, 3))
    size = (tiles[0] * 14, tiles[1] * 14)
    is_tissue = np.asarray(tissue.resize(size, Image.Resampling.BOX).convert("L")) < 220
    colours = Image.fromarray(principal_colours(patch_grid(encoder, facts, images, tiles[0]), is_tissue))
    shown = (4 * size[0], 4 * size[1])
    tissue = tissue.resize(shown, Image.Resampling.BOX)
    overlay = colours.resize(shown, Image.Resampling.NEAREST)
    panels = [tissue, overlay, Image.blend(tissue, overlay, 0.55)]
    picture = Image.new("RGB", (3 * shown[0] + 20, shown[1]), "white")
    for index, panel in enumerate(panels):
        picture.paste(panel, (index * (shown[0] + 10), 0))
    bar = round(200 / (MPP * tissue_scale(shown, tiles)))
    pen = ImageDraw.Draw(picture)
    pen.rectangle((10, shown[1] - 16, 10 + bar, shown[1] - 10), fill="black")
    return picture


def tissue_scale(shown: tuple[int, int], tiles: tuple[int, int]) -> float:
    """Pixels of the model per pixel of the picture."""
    return tiles[0] * SIDE / shown[0]


def main(arguments: list[str] | None = None) -> None:
    """Draw the picture of the docs."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pretraining.picture", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with wsi/, st/ and tiles/")
    parser.add_argument("--output", type=Path, required=True, help="the picture")
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    options = parser.parse_args(arguments)
    slide = options.data / "wsi/CMU-1-Small-Region.svs"
    picture = draw(slide, (0.0, 0.0), (9, 13), options.weights)
    picture.quantize(192).save(options.output, optimize=True)


if __name__ == "__main__":
    main()
