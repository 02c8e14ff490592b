"""Doubts about a prediction are shown where they belong: abstained cells, the entropy of each cell, unlike tiles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("napari")

from napari_pathotune.areas import ABSTAINED, areas_of, rows_of, table_text
from napari_pathotune.doubts import UNCERTAINTY, Doubts, doubts_of
from napari_pathotune.layers import facts, result_layers, slide_layer
from napari_pathotune.overlay import ABSTAINED_DARK_RGB, ABSTAINED_RGB, ClassGrid, entropy
from napari_pathotune.session import session_of
from pathotune.slides import open_slide

STORE = "/r/one.pathotune.zarr"
COLORS = np.array([[255, 0, 0], [0, 255, 0]])


def half_sure() -> ClassGrid:
    """The left half is surely a, of the right half only 0.55 is b; the lowest row is not predicted."""
    probabilities = np.zeros((2, 4, 6), np.float32)
    probabilities[:, :3, :3] = np.array([0.95, 0.05])[:, None, None]
    probabilities[:, :3, 3:] = np.array([0.45, 0.55])[:, None, None]
    return ClassGrid(probabilities, ("a", "b"), COLORS, (50.0, 50.0), (24.75, 24.75))


@pytest.fixture
def doubts(viewer: Any, add: Any, slide_path: Path) -> Doubts:
    """Of a session with one slide and one result on it."""
    add([slide_layer(open_slide(slide_path))])
    add(result_layers(half_sure(), STORE, "mine", str(slide_path)))
    return doubts_of(session_of(viewer))


def test_what_is_abstained_has_no_class_in_picture_areas_and_reading() -> None:
    grid = half_sure()
    before = grid.rgba.copy()
    grid.abstain_below = 0.6
    grid.paint()
    assert (grid.rgba[:3, :3] == before[:3, :3]).all() and (grid.rgba[3, :, 3] == 0).all()
    greys = {tuple(color) for color in grid.rgba[:3, 3:, :3].reshape(-1, 3).tolist()}
    assert greys == {ABSTAINED_RGB, ABSTAINED_DARK_RGB} and (grid.rgba[:3, 3:, 3] > 0).all()
    assert grid.areas_mm2() == pytest.approx({"a": 9 * 0.05**2, "b": 0})
    assert grid.abstained_mm2 == pytest.approx(9 * 0.05**2)
    sure, unsure = grid.at(24.75, 24.75), grid.at(24.75, 224.75)
    assert sure is not None and not sure.is_abstained and unsure is not None and unsure.is_abstained
    grid.abstain_below = 0.0
    grid.paint()
    assert (grid.rgba == before).all()


def test_painting_a_part_gives_what_painting_all_gives() -> None:
    whole = half_sure()
    whole.abstain_below = 0.6
    whole.paint()
    parts = half_sure()
    parts.abstain_below = 0.6
    for row in range(4):
        for column in range(6):
            parts.paint(slice(row, row + 1), slice(column, column + 1))
    assert (parts.rgba == whole.rgba).all()


def test_abstained_area_stands_in_the_table_and_the_rest_keeps_its_sum() -> None:
    grid = half_sure()
    grid.abstain_below = 0.6
    (place,) = areas_of(grid, (0.5, 0.5))
    cell = 0.05**2
    assert place.classes == pytest.approx({"a": 9 * cell, "b": 0}) and place.abstained_mm2 == pytest.approx(9 * cell)
    assert place.predicted_mm2 + place.unpredicted_mm2 == pytest.approx(24 * cell)
    assert ABSTAINED in [row[1] for row in rows_of([place])] and ABSTAINED in table_text([place])


def test_entropy_is_0_where_sure_1_where_even_and_nothing_where_not_predicted() -> None:
    probabilities = np.zeros((3, 1, 4))
    probabilities[0, 0, 0] = 1
    probabilities[:, 0, 1] = 1 / 3
    probabilities[:, 0, 2] = [0.7, 0.2, 0.1]
    found = entropy(probabilities)[0]
    assert found[0] == pytest.approx(0, abs=1e-6) and found[1] == pytest.approx(1)
    assert 0 < found[2] < 1 and np.isnan(found[3])


def test_the_threshold_holds_for_every_result_also_for_later_ones(doubts: Doubts, add: Any, slide_path: Path) -> None:
    doubts.abstain_below = 0.6
    (result,) = doubts.session.results
    assert result.grid.abstained().sum() == 9
    add(result_layers(half_sure(), "/r/two.pathotune.zarr", "other", str(slide_path)))
    assert [result.grid.abstain_below for result in doubts.session.results] == [0.6, 0.6]
    other = half_sure()
    other.translate_um = (0.0, 0.0)
    doubts.session.shown.adopt(STORE, other)
    assert result.grid is other and other.abstained().sum() == 9


def test_uncertainty_is_made_when_asked_for_and_computed_while_it_is_seen_only(doubts: Doubts) -> None:
    (result,) = doubts.session.results
    assert UNCERTAINTY not in {facts(layer).get("kind") for layer in doubts.session.viewer.layers}
    layer = doubts.uncertainty(result)
    assert layer.name == "uncertainty · mine" and not layer.visible and layer in result.layers
    assert np.allclose(layer.data, entropy(result.grid.probabilities), equal_nan=True)
    new = np.zeros((2, 1, 6), np.float32)
    new[0] = 1
    result.grid.put(new, 3, 0)
    assert np.isnan(layer.data[3]).all(), "nobody looks, so nothing is computed"
    layer.visible = True
    assert layer.data[3] == pytest.approx(0, abs=1e-6)
    result.grid.put(np.full((2, 1, 6), 0.5, np.float32), 3, 0)
    assert layer.data[3] == pytest.approx(1)
    assert doubts.uncertainty(result) is layer


def test_uncertainty_follows_when_its_result_becomes_another_and_goes_with_it(doubts: Doubts) -> None:
    session = doubts.session
    (result,) = session.results
    layer = doubts.uncertainty(result)
    layer.visible = True
    earlier = result.grid
    finer = ClassGrid(np.full((2, 8, 12), 0.5, np.float32), ("a", "b"), COLORS, (25.0, 25.0), (12.25, 12.25))
    session.shown.adopt(STORE, finer)
    session.shown.repaint(result)
    assert layer.data.shape == (8, 12) and layer.scale[0] == 25 and not earlier.watchers
    session.viewer.layers.remove(result.classes)
    session.viewer.layers.remove(result.probability)
    assert not session.results and layer not in session.viewer.layers
    assert not finer.watchers


def test_all_layers_can_be_cleared_at_once(doubts: Doubts) -> None:
    doubts.uncertainty(doubts.session.results[0])
    doubts.session.viewer.layers.clear()
    assert not doubts.session.results and not len(doubts.session.viewer.layers)


@pytest.fixture
def panel(qapp: Any, doubts: Doubts) -> Any:
    from napari_pathotune.widgets.overlays import OverlayPanel

    return OverlayPanel(doubts.session)


def legend_of(panel: Any) -> list[str]:
    return [panel.legend.itemAt(row).widget().text() for row in range(panel.legend.count())]


def test_the_control_abstains_at_once_and_the_legend_names_it(panel: Any, doubts: Doubts) -> None:
    from napari_pathotune.widgets.overlays import reading_text

    (result,) = doubts.session.results
    assert panel.abstain.text() == "off" and len(legend_of(panel)) == 2
    panel.abstain.setValue(60)
    assert result.grid.abstained().sum() == 9
    assert legend_of(panel)[2].startswith("abstained (below 60%)") and "0.02 mm²" in legend_of(panel)[2]
    assert "abstained: b\u00a00.55" in reading_text(doubts.session.place_at((24.75, 224.75)))
    panel.legend.itemAt(2).widget().setChecked(False)
    assert (result.grid.rgba[:3, 3:, 3] == 0).all()
    panel.abstain.setValue(0)
    assert len(legend_of(panel)) == 2 and (result.grid.rgba[:3, 3:, 3] > 0).all()


def test_a_reading_that_has_no_room_keeps_its_number(qapp: Any) -> None:
    from types import SimpleNamespace

    from napari_pathotune.widgets.overlays import reading_text, shorter_readings
    from napari_pathotune.widgets.parts import SteadyLine

    long = "Lymphocyte-rich invasive margin of the tumour"
    reading = SimpleNamespace(
        class_name=long, probability=0.71, second_class="Stroma", second_probability=0.2, is_abstained=True
    )
    place: Any = SimpleNamespace(reading=reading)
    line = SteadyLine("Reading: what is said")
    texts = [reading_text(place), *shorter_readings(place)]
    for width in (2000, 400, 320, 250, 200):
        line.resize(width, 20)
        line.show_text(*texts)
        assert "0.71" in line.text() and line.text().startswith("abstained: L")
        assert line.fontMetrics().horizontalAdvance(line.text()) <= width or line.text() == texts[-1]
    assert line.text() != texts[0] and "…" in line.text()
    line.resize(2000, 20)
    line.show_text(*texts)
    assert line.text() == texts[0]


def test_uncertainty_is_chosen_among_the_heat_maps_and_its_colours_are_explained(panel: Any, doubts: Doubts) -> None:
    (result,) = doubts.session.results
    row = next(row for row in range(panel.heat.count()) if panel.heat.itemText(row) == "Uncertainty")
    panel.heat.setCurrentIndex(row)
    panel.heat.activated.emit(row)
    assert result.others[UNCERTAINTY].visible and not result.classes.visible
    assert not panel.range.isHidden() and panel.range.low.startswith("0") and panel.range.high.startswith("1")
    panel.refresh()
    assert panel.heat.currentText() == "Uncertainty"
    panel.heat.setCurrentIndex(0)
    panel.heat.activated.emit(0)
    assert result.classes.visible and not result.others[UNCERTAINTY].visible and panel.range.isHidden()


def test_controls_have_names_and_tooltips(panel: Any) -> None:
    for control in (panel.abstain, panel.heat, panel.opacity):
        assert control.accessibleName() and control.toolTip()


def test_the_threshold_stands_in_the_saved_table_and_in_a_pictures_legend(
    qapp: Any, doubts: Doubts, tmp_path: Path
) -> None:
    from napari_pathotune.widgets import snapshot
    from napari_pathotune.widgets.areas import AreaPanel

    panel = AreaPanel(doubts.session)
    doubts.abstain_below = 0.6
    panel.refresh()
    saved = panel.save(tmp_path / "areas.csv")
    assert saved is not None
    text = saved.read_text(encoding="utf-8")
    assert "# abstained: the likeliest class is less likely than 60 %" in text and ABSTAINED in text
    assert snapshot.legend_of(doubts.session)[-1] == ("abstained (likeliest class below 60%)", ABSTAINED_RGB)
    doubts.abstain_below = 0.0
    panel.refresh()
    assert ABSTAINED not in (panel.save(tmp_path / "again.csv") or tmp_path).read_text(encoding="utf-8")
    assert len(snapshot.legend_of(doubts.session)) == 2
