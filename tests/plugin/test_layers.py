"""Slides and predictions become layers that lie exactly on each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("napari")
from napari.layers import Layer

from napari_pathotune.layers import attention_limits, facts, result_layers, rgb, slide_layer
from napari_pathotune.overlay import ClassGrid


def grid_for(mpp: float, tile_px0: float, rows: int, columns: int) -> ClassGrid:
    """A grid of tiles as a store places it: centres of tiles, in pixel-centre micrometres (architecture, trap 1)."""
    probabilities = np.zeros((2, rows, columns), np.float32)
    probabilities[0] = 1
    size, centre = tile_px0 * mpp, (tile_px0 - 1) / 2 * mpp
    return ClassGrid(probabilities, ("a", "b"), np.array([[9, 9, 9], [1, 2, 3]]), (size, size), (centre, centre))


@pytest.mark.parametrize(("mpp", "tile_px0"), [(0.5, 224.0), (0.2527, 443.2), (0.971, 115.35), (0.25, 448.0)])
def test_the_overlays_corner_lies_on_the_slides(mpp: float, tile_px0: float) -> None:
    slide = Layer.create(
        np.zeros((900, 1200, 3), np.uint8), {"rgb": True, "scale": (mpp, mpp), "units": ("um", "um")}, "image"
    )
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
    assert attention_limits(np.zeros((4, 4))) == (0.0, 1.0)
    values = np.linspace(0.01, 0.02, 10_000).reshape(100, 100)
    values[0, 0] = 5
    low, high = attention_limits(values)
    assert 0.01 <= low < high < 0.1, "one bright patch does not decide"


def make_store(path: Path, mpp: float = 0.5, tile_px0: float = 100.0, stride_px0: float = 100.0) -> Any:
    """A prediction store with some cells written, as a run leaves it."""
    from pathotune.inference.plan import Grid
    from pathotune.inference.predictions import PredictionStore

    grid = Grid(4, 6, (0.0, 0.0), (tile_px0,) * 2, (stride_px0,) * 2, (mpp,) * 2, (4, 4))
    classes = [{"name": "Tumor", "color": [200, 0, 0]}, {"name": "Stroma", "color": None}]
    store = PredictionStore.create(path, grid=grid, classes=classes, sources=("cls", "tvp"), identity={"slide": "f"})
    unit = next(store.units())
    probabilities = np.zeros((2, unit.rows, unit.columns), np.float32)
    probabilities[0, :2] = 0.75
    probabilities[1, :2] = 0.25
    attention = np.zeros((2, unit.rows * grid.samples[0], unit.columns * grid.samples[1]), np.float16)
    attention[1, : 2 * grid.samples[0]] = 1.5
    attention[0, : 2 * grid.samples[0]] = 0.5
    store.write_unit(unit, probabilities, attention, state="done", tiles=12, planned=12)
    return store


@pytest.mark.parametrize(("mpp", "tile", "stride"), [(0.5, 100.0, 100.0), (0.2527, 221.3, 110.65), (0.971, 57.5, 57.5)])
def test_a_real_store_lies_on_the_slide(tmp_path: Path, mpp: float, tile: float, stride: float) -> None:
    from napari_pathotune.layers import store_layers

    store = make_store(tmp_path / "s.t.pathotune.zarr", mpp, tile, stride)
    slide = Layer.create(
        np.zeros((900, 1200, 3), np.uint8), {"rgb": True, "scale": (mpp, mpp), "units": ("um", "um")}, "image"
    )
    layers = {data[1]["metadata"]["pathotune"]["kind"]: Layer.create(*data) for data in store_layers(store, "slide")}
    assert set(layers) == {"attention", "probability", "classes"}
    offset = (tile - stride) / 2  # a cell stands for one stride around its tile's centre
    for layer in layers.values():
        corner = np.array(slide.world_to_data(layer.data_to_world((-0.5, -0.5)))) + 0.5
        assert np.abs(corner - offset).max() < 0.5, "less than half a level-0 pixel"
    edge = np.array(slide.world_to_data(layers["classes"].data_to_world((1.5, 0)))) + 0.5
    assert edge[0] == pytest.approx(offset + 2 * stride, abs=0.01)


def test_attention_is_not_drawn_where_nothing_is_predicted_and_sources_can_be_changed(tmp_path: Path) -> None:
    from napari_pathotune.layers import attention_levels, class_grid, tuning_name_of

    store = make_store(tmp_path / "s.t.pathotune.zarr")
    finest = np.asarray(attention_levels(store, "tvp")[0])
    assert np.isnan(finest[-1, 0]) and finest[0, 0] == pytest.approx(1.5)
    assert np.asarray(attention_levels(store, "cls")[0])[0, 0] == pytest.approx(0.5)
    grid = class_grid(store)
    assert grid.predicted_cells == 12 and tuple(grid.colors[0]) == (200, 0, 0)
    assert tuning_name_of(store) in ("s.t", "t")


def test_a_single_prompts_attention_is_named_by_its_number() -> None:
    from napari_pathotune.layers import attention_name

    assert attention_name("tvp", "t") == "attention of visual prompts · t"
    assert attention_name("tvp 2", "t") == "attention of visual prompt 2 · t"
    assert attention_name("ivp 10 rollout", "t") == "attention of instance prompt 10, through all blocks · t"
    assert attention_name("attention for CLASS", "t") == "attention of attention for CLASS · t"
