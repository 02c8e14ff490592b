"""Slides and predictions become layers that lie exactly on each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("napari")
from napari.layers import Layer  # noqa: E402

from napari_pathotune.layers import attention_limit, facts, result_layers, rgb, slide_layer  # noqa: E402
from napari_pathotune.overlay import ClassGrid  # noqa: E402


def grid_for(mpp: float, tile_px0: float, rows: int, columns: int) -> ClassGrid:
    """A grid of tiles as a store places it: centres of tiles, in pixel-centre micrometres (architecture, trap 1)."""
    probabilities = np.zeros((2, rows, columns), np.float32)
    probabilities[0] = 1
    size, centre = tile_px0 * mpp, (tile_px0 - 1) / 2 * mpp
    return ClassGrid(probabilities, ("a", "b"), np.array([[9, 9, 9], [1, 2, 3]]), (size, size), (centre, centre))


@pytest.mark.parametrize(("mpp", "tile_px0"), [(0.5, 224.0), (0.2527, 443.2), (0.971, 115.35), (0.25, 448.0)])
def test_the_overlays_corner_lies_on_the_slides(mpp: float, tile_px0: float) -> None:
    slide = Layer.create(np.zeros((900, 1200, 3), np.uint8), {"rgb": True, "scale": (mpp, mpp), "units": ("um", "um")}, "image")
    for data in result_layers(grid_for(mpp, tile_px0, 3, 4), "s.zarr", "t", "slide"):
        layer = Layer.create(*data)
        corner = np.array(layer.data_to_world((-0.5, -0.5)))  # napari's pixels reach half a pixel around their centre
        on_slide = np.array(slide.world_to_data(corner))
        assert np.abs(on_slide - (-0.5)).max() < 0.01, "in level-0 pixels"
        edge = np.array(slide.world_to_data(layer.data_to_world((-0.5, 1.5)))) + 0.5
        assert edge[1] == pytest.approx(2 * tile_px0, abs=0.01), "the border of the second and third tile"


def test_layers_share_units_and_only_the_classes_are_seen() -> None:
    made = [Layer.create(*data) for data in result_layers(grid_for(0.5, 224, 3, 4), "s.zarr", "my tuning", "slide")]
    assert {facts(layer)["kind"]: layer.visible for layer in made} == {"classes": True, "probability": False}
    assert len({tuple(map(str, layer.units)) for layer in made}) == 1
    assert all("my tuning" in layer.name for layer in made)


def test_the_layer_shows_the_grids_own_array(viewer: Any, add: Any) -> None:
    grid = grid_for(0.5, 224, 3, 4)
    layers = add(result_layers(grid, "s.zarr", "t", "slide"))
    overlay = next(layer for layer in layers if facts(layer)["kind"] == "classes")
    assert np.shares_memory(overlay.data, grid.rgba), "else live painting would not be seen"


def test_slide_layer_is_a_pyramid_in_micrometres(slide_path: Path) -> None:
    from pathotune.slides import open_slide

    with open_slide(slide_path) as slide:
        layer = Layer.create(*slide_layer(slide))
        assert layer.name == slide_path.name and layer.rgb and layer.multiscale == (len(slide.pyramid) > 1)
        assert np.allclose(layer.scale, 0.5) and all("micro" in str(unit) for unit in layer.units)
        first = layer.data[0] if layer.multiscale else layer.data
        assert first.shape == (400, 600, 3)


def test_slide_without_pixel_size_is_in_pixels(silent_slide_path: Path) -> None:
    from pathotune.slides import open_slide

    with open_slide(silent_slide_path) as slide:
        layer = Layer.create(*slide_layer(slide))
        assert np.allclose(layer.scale, 1) and all(str(unit) == "pixel" for unit in layer.units)


def test_colours_and_limits() -> None:
    assert rgb("#e69f00") == rgb([230, 159, 0, 255]) == (230, 159, 0)
    assert attention_limit(np.zeros((4, 4))) == 1.0
    values = np.full((100, 100), 0.01)
    values[0, 0] = 5
    assert attention_limit(values) < 0.1
