"""The grid lies where it says, whatever the slide, and selections only select."""

from __future__ import annotations

import numpy as np
import pytest
import shapely

from pathotune.errors import MissingPixelSize, UsageError
from pathotune.tiles import Reading, TissueMask, tile_grid

READING = Reading(mpp=0.5, tile_px=224, image_px=224)


def test_positions_are_multiples_of_the_stride_over_a_whole_large_slide(formula_slide):
    slide = formula_slide(150_000, 90_000, mpp=(0.2527, 0.2519))
    tiles = tile_grid(slide, READING)
    stride_x, stride_y = 224 * 0.5 / 0.2527, 224 * 0.5 / 0.2519
    np.testing.assert_array_equal(tiles.x_px0, tiles.column * stride_x)
    np.testing.assert_array_equal(tiles.y_px0, tiles.row * stride_y)
    assert len(tiles) == tiles.rows * tiles.columns
    assert tiles.tile_px0 == pytest.approx((stride_x, stride_y))


@pytest.mark.parametrize("width", [1, 100, 112, 223, 224, 225, 336, 337, 1000])
@pytest.mark.parametrize("stride", [224, 56, 300])
def test_every_tile_with_its_centre_on_the_slide_belongs(formula_slide, width, stride):
    tiles = tile_grid(formula_slide(width, 500), READING, stride_px=stride)
    centres = np.arange(-5, 50) * stride + 112
    expected = max(1, int(((centres >= 112) & (centres <= width)).sum()))
    assert tiles.columns == expected


def test_a_box_and_a_polygon_take_tiles_by_their_centres(formula_slide):
    slide = formula_slide(3000, 2000)
    every = tile_grid(slide, READING, stride_px=100)
    x, y = every.centres_px0().T
    box = (333.0, 412.0, 1000.0, 700.0)
    inside = (x >= 333) & (x < 1333) & (y >= 412) & (y < 1112)
    chosen = tile_grid(slide, READING, stride_px=100, box_px0=box)
    np.testing.assert_array_equal(chosen.boxes, every.boxes[inside])
    assert (chosen.rows, chosen.columns) == (every.rows, every.columns)
    polygon = shapely.Polygon([(200, 200), (2500, 300), (900, 1900)])
    chosen = tile_grid(slide, READING, stride_px=100, polygon=polygon)
    np.testing.assert_array_equal(chosen.boxes, every.boxes[shapely.contains_xy(polygon, x, y)])


def test_tissue_decides_by_share(formula_slide):
    slide = formula_slide(2240, 2240)
    array = np.zeros((100, 100), dtype=bool)
    array[:, :45] = True  # 1008 px: four and a half tiles
    mask = TissueMask(array, (22.4, 22.4))
    assert set(tile_grid(slide, READING, tissue=mask, min_tissue=0.4).column.tolist()) == {0, 1, 2, 3, 4}
    assert set(tile_grid(slide, READING, tissue=mask, min_tissue=0.6).column.tolist()) == {0, 1, 2, 3}
    assert len(tile_grid(slide, READING, tissue=TissueMask(~array & False, (22.4, 22.4)))) == 0


def test_nothing_selected_is_an_empty_set(formula_slide):
    slide = formula_slide(2000, 2000)
    assert len(tile_grid(slide, READING, box_px0=(5000, 5000, 10, 10))) == 0
    assert len(tile_grid(slide, READING, polygon=shapely.Polygon())) == 0


def test_what_cannot_be_is_said(formula_slide):
    with pytest.raises(UsageError, match="every 0"):
        tile_grid(formula_slide(), READING, stride_px=0)
    with pytest.raises(UsageError, match=r"1\.5"):
        tile_grid(formula_slide(), READING, min_tissue=1.5)
    with pytest.raises(MissingPixelSize):
        tile_grid(formula_slide(mpp=None), READING)
