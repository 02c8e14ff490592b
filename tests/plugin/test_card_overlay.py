"""The picture of a prediction on a card: predicted cells in their place and colour, nothing else of the slide."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from napari_pathotune.card_overlay import MARGIN_PX, ROW_PX, STRENGTH, overlay_picture
from napari_pathotune.overlay import ClassGrid

MPP: Any = SimpleNamespace(x=0.5, y=0.5)


def grid_of(cells: dict[tuple[int, int], int]) -> ClassGrid:
    """4 x 6 cells of 100 level-0 pixels; these are predicted."""
    values = np.zeros((2, 4, 6), np.float32)
    for (row, column), label in cells.items():
        values[label, row, column] = 1.0
    # The first cell's centre lies between level-0 pixels 49 and 50.
    return ClassGrid(values, ("a", "bß漢"), np.array([[200, 0, 0], [0, 0, 200]]), (50.0, 50.0), (24.75, 24.75))


def test_predicted_cells_are_tinted_where_they_lie_and_the_rest_is_not_shown() -> None:
    secret = np.full((40, 60, 3), 100, np.uint8)  # a tenth of 400 x 600
    secret[:10] = 7
    picture = overlay_picture(secret, grid_of({(1, 2): 0, (2, 4): 1}), (600, MPP))
    assert picture is not None
    tissue = picture[: -(2 * ROW_PX + MARGIN_PX)]
    assert tissue.shape == (20, 30, 3)
    red, blue = (np.round((1 - STRENGTH) * 100 + STRENGTH * np.array(color)) for color in ([200, 0, 0], [0, 0, 200]))
    assert np.all(tissue[:10, :10] == red) and np.all(tissue[10:, 20:] == blue)
    assert np.all(tissue[:10, 10:] == 255) and np.all(tissue[10:, :20] == 255) and not (tissue == 7).any()


def test_nothing_predicted_gives_no_picture_and_cells_beyond_the_slide_are_no_trouble() -> None:
    slide = np.full((40, 60, 3), 100, np.uint8)
    assert overlay_picture(slide, grid_of({}), (600, MPP)) is None
    small = overlay_picture(slide[:20, :30], grid_of({(0, 0): 0, (3, 5): 1}), (300, MPP))
    assert small is not None and small.shape[1] == 10
