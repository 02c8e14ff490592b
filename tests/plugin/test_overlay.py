"""The composited picture says what the probabilities say, and is repainted only where something changed."""

from __future__ import annotations

import numpy as np
import pytest

from napari_pathotune.overlay import FAINTEST, ClassGrid, certainty

COLORS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]])


@pytest.fixture
def grid() -> ClassGrid:
    probabilities = np.zeros((3, 4, 6), np.float32)
    probabilities[:, :2, :3] = np.array([0.8, 0.15, 0.05])[:, None, None]
    probabilities[:, 1, 2] = [0.1, 0.2, 0.7]
    return ClassGrid(probabilities, ("a", "b", "c"), COLORS, (112.0, 112.0), (55.75, 55.75))


def test_colour_is_the_winners_and_nothing_is_painted_where_nothing_is_predicted(grid: ClassGrid) -> None:
    assert (grid.rgba[0, 0, :3] == COLORS[0]).all() and (grid.rgba[1, 2, :3] == COLORS[2]).all()
    assert (grid.rgba[2:, :, 3] == 0).all() and (grid.rgba[:2, :3, 3] > 0).all()
    assert np.isnan(grid.shown[3, 3]) and grid.shown[0, 0] == pytest.approx(0.8)


def test_certain_is_painted_stronger_than_doubtful(grid: ClassGrid) -> None:
    assert grid.rgba[0, 0, 3] > grid.rgba[1, 2, 3]
    grid.fade = False
    grid.paint()
    assert set(np.unique(grid.rgba[..., 3])) == {0, 255}


def test_certainty_spans_from_faintest_to_one() -> None:
    even = np.full((4, 1, 1), 0.25)
    sure = np.array([1.0, 0, 0, 0]).reshape(4, 1, 1)
    assert certainty(even)[0, 0] == pytest.approx(FAINTEST) and certainty(sure)[0, 0] == pytest.approx(1)


def test_a_hidden_class_vanishes_and_others_stay(grid: ClassGrid) -> None:
    before = grid.rgba.copy()
    grid.visible[2] = False
    grid.paint()
    assert grid.rgba[1, 2, 3] == 0
    before[1, 2] = grid.rgba[1, 2]
    assert (grid.rgba == before).all()


def test_put_changes_its_part_only_and_the_array_stays_the_same_object(grid: ClassGrid) -> None:
    picture, before = grid.rgba, grid.rgba.copy()
    new = np.zeros((3, 2, 2), np.float32)
    new[1] = 1
    grid.put(new, 2, 4)
    assert grid.rgba is picture, "napari shows this very array"
    assert (picture[2:4, 4:6, :3] == COLORS[1]).all()
    before[2:4, 4:6] = picture[2:4, 4:6]
    assert (picture == before).all()


def test_reading_names_the_class_under_a_place(grid: ClassGrid) -> None:
    found = grid.at(55.75 + 112 * 1.4, 55.75 + 112 * 1.6)  # nearest cell is (1, 2)
    assert found is not None and (found.class_name, found.second_class) == ("c", "b")
    assert found.probability == pytest.approx(0.7)
    assert grid.at(-500, 0) is None and grid.at(55.75 + 112 * 3, 55.75) is None


def test_areas_add_up_to_the_predicted_cells(grid: ClassGrid) -> None:
    areas = grid.areas_mm2()
    assert sum(areas.values()) == pytest.approx(6 * 0.112**2) and areas["c"] == pytest.approx(0.112**2)
    assert grid.predicted_cells == 6


def test_cells_of_a_box_cover_every_cell_whose_centre_lies_in_it(grid: ClassGrid) -> None:
    rows, columns = grid.cells_of((224, 0, 448, 224), (0.5, 0.5))
    centres_x = (55.75 + 112 * np.arange(6)) / 0.5 + 0.5
    inside = np.flatnonzero((centres_x >= 224) & (centres_x <= 672))
    assert (columns.start, columns.stop) == (inside.min(), inside.max() + 1)
    assert (rows.start, rows.stop) == (0, 1)
    assert grid.cells_of((0, 0, 100, 100), (0.5, 0.5)) == (slice(0, 0), slice(0, 0)), "no centre, no cell"
    everything = grid.cells_of((0, 0, 1e9, 1e9), (0.5, 0.5))
    assert (everything[0], everything[1]) == (slice(0, 4), slice(0, 6))
