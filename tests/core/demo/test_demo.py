"""The demo: its truth, its pictures, and the whole way once on small slides."""

from __future__ import annotations

import json

import numpy as np
import pytest

from pathotune.demo import DemoConfig, run_demo
from pathotune.demo.report import blend, paint
from pathotune.demo.run import true_classes
from pathotune.evaluation.colour import colour_baseline, colour_statistics
from pathotune.events import Finished
from pathotune.slides.synthetic import CLASSES, SyntheticSlide
from pathotune.tiles.tileset import Reading, TileSet


def tiles_at(x, y, side):
    count = len(x)
    return TileSet(
        x_px0=np.asarray(x, float),
        y_px0=np.asarray(y, float),
        row=np.zeros(count, np.int32),
        column=np.arange(count, dtype=np.int32),
        rows=1,
        columns=count,
        tile_px0=(side, side),
        stride_px0=(side, side),
        origin_px0=(0.0, 0.0),
        slide_fingerprint="",
        reading=Reading(mpp=0.5, tile_px=int(side), image_px=int(side)),
    )


def test_the_truth_of_a_tile_is_what_fills_more_than_half_of_it():
    slide = SyntheticSlide(3072, 2304, seed=3)
    names = tuple(tissue.name for tissue in CLASSES)
    step = 64
    grid = slide.class_map(step)
    y, x = np.divmod(np.arange(grid.size), grid.shape[1])
    tiles = tiles_at(x * step, y * step, step)
    labels = true_classes(slide, tiles, names)
    assert (labels >= 0).sum() > 100
    for index in np.flatnonzero(labels >= 0)[::17]:
        inside = slide.classes_at(*np.meshgrid(np.arange(step) + x[index] * step, np.arange(step) + y[index] * step))
        share = (inside == [tissue.name for tissue in CLASSES].index(names[labels[index]])).mean()
        assert share > 0.4, "eight points a side see a share to about a tenth"
    background = names.index("Background")
    assert background not in labels


def test_a_label_is_painted_where_its_cell_lies():
    labels = np.array([[1, 0], [2, 1]])
    colors = np.array([[255, 0, 0], [0, 255, 0]], np.uint8)
    # Cells of 10 µm whose first centre is at 5 µm, on a slide of 20 × 20 µm shown as 20 × 20 pixels.
    overlay = paint(labels, (20, 20), (20.0, 20.0), ((10.0, 10.0), (5.0, 5.0)), colors)
    assert (overlay[:10, :10] == [255, 0, 0, 255]).all()
    assert (overlay[:10, 10:, 3] == 0).all()
    assert (overlay[10:, :10] == [0, 255, 0, 255]).all()
    picture = np.full((20, 20, 3), 100, np.uint8)
    assert (blend(picture, overlay)[:10, 10:] == 100).all()


def test_colour_statistics_know_colours_and_not_places():
    rng = np.random.default_rng(0)
    tile = rng.integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
    shuffled = rng.permutation(tile.reshape(-1, 3)).reshape(tile.shape)
    assert np.allclose(colour_statistics(tile), colour_statistics(shuffled))
    assert np.isfinite(colour_statistics(np.full((1, 8, 8, 3), 255, np.uint8))).all()
    dark = (tile // 2).astype(np.uint8)
    assert not np.allclose(colour_statistics(tile), colour_statistics(dark))


def test_the_colour_baseline_parts_colours_and_skips_absent_classes():
    rng = np.random.default_rng(1)
    red = rng.integers(0, 60, (12, 16, 16, 3), dtype=np.uint8) + np.array([180, 0, 0], np.uint8)
    blue = rng.integers(0, 60, (12, 16, 16, 3), dtype=np.uint8) + np.array([0, 0, 180], np.uint8)
    images, labels = np.concatenate([red, blue]), np.repeat([0, 2], 12)
    probabilities = colour_baseline(images[::2], labels[::2], images[1::2], 3)
    assert (probabilities.argmax(axis=1) == labels[1::2]).all()
    assert (probabilities[:, 1] == 0).all()


@pytest.mark.slow
def test_the_whole_way(tmp_path):
    out = tmp_path / "demo mit Umlauten äöü"
    config = DemoConfig(width_px0=3072, height_px0=2304, method="linear_probe", epochs=2)
    result = next(event.result for event in run_demo(out, config) if isinstance(event, Finished))
    assert result["tiles_judged"] > 50
    for key in ("balanced_accuracy", "balanced_accuracy_colour"):
        assert 0.0 <= result[key] <= 1.0
    for name in ("slide", "truth", "prediction", "attention"):
        assert (out / f"{name}.png").stat().st_size > 10_000
    page = (out / "report.html").read_text(encoding="utf-8")
    assert f"{result['balanced_accuracy']:.3f}" in page and "research use only" in page.lower() and "$" not in page
    json.dumps(result)
