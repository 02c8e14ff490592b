"""What changed between the last two predictions, and which tiles are unlike the training, is shown on demand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("napari")

from napari_pathotune import likeness
from napari_pathotune.changes import CHANGES, ONLY_ONE, Comparing, comparing_of, copy_of, is_replaced
from napari_pathotune.doubts import UNLIKE, doubts_of
from napari_pathotune.layers import facts, result_layers, slide_layer
from napari_pathotune.likeness import NOT_KEPT, NOT_KNOWN, Likest, LikestFinder, Unlikeness, read_unlikeness
from napari_pathotune.markings import fineness, outlines, placed, split_cells
from napari_pathotune.overlay import ClassGrid
from napari_pathotune.session import session_of
from pathotune.inference.plan import Grid
from pathotune.inference.predictions import PredictionStore
from pathotune.slides import open_slide

COLORS = np.array([[255, 0, 0], [0, 255, 0]])


def all_of(index: int, rows: int = 4, columns: int = 6) -> ClassGrid:
    """Everything is class `index` but the lowest row, which is not predicted; cells of 50 µm."""
    probabilities = np.zeros((2, rows, columns), np.float32)
    probabilities[index, :-1] = 0.9
    probabilities[1 - index, :-1] = 0.1
    return ClassGrid(probabilities, ("a", "b"), COLORS, (50.0, 50.0), (24.75, 24.75))


def none_of() -> ClassGrid:
    """The same cells with nothing predicted."""
    return ClassGrid(np.zeros((2, 4, 6), np.float32), ("a", "b"), COLORS, (50.0, 50.0), (24.75, 24.75))


@pytest.fixture
def comparing(viewer: Any, add: Any, slide_path: Path) -> Comparing:
    """Of a session with one slide and one result, all a."""
    add([slide_layer(open_slide(slide_path))])
    add(result_layers(all_of(0), "/r/1.pathotune.zarr", "first", str(slide_path)))
    return comparing_of(session_of(viewer))


def test_outlines_run_inside_along_the_edge_and_leave_the_middle_open() -> None:
    mask = np.zeros((5, 6), bool)
    mask[1:4, 1:5] = True
    picture, factor = outlines(mask)
    drawn = picture[..., 3] > 0
    inside = np.repeat(np.repeat(mask, factor, axis=0), factor, axis=1)
    assert not drawn[~inside].any() and drawn[factor, factor : 5 * factor].all()
    assert not drawn[2 * factor : 3 * factor, 2 * factor : 4 * factor].any()
    assert len({tuple(color) for color in picture[drawn].tolist()}) == 2, "dashes of two colours"


def test_pictures_stay_small_on_large_grids() -> None:
    assert fineness((3000, 3000), 4_000_000) == 1 and fineness((10, 10), 4_000_000) == 8
    picture, factor = outlines(np.ones((20, 20), bool), most_px=400)
    assert factor == 1 and picture.shape == (20, 20, 4) and 0 < (picture[..., 3] > 0).mean() < 1


def test_fine_pictures_cover_the_very_cells() -> None:
    scale, translate = placed((50.0, 20.0), (24.75, 10.0), 4)
    assert translate[0] - scale[0] / 2 == pytest.approx(24.75 - 25) and scale == (12.5, 5.0)
    assert translate[1] + 3 * scale[1] + scale[1] / 2 == pytest.approx(10.0 + 10.0)


def test_a_changed_cell_has_both_colours() -> None:
    mask = np.array([[True, False]])
    first, second = np.full((1, 2, 3), 7, np.uint8), np.full((1, 2, 3), 9, np.uint8)
    picture, factor = split_cells(mask, first, second)
    cell = picture[:, :factor]
    assert (cell[0, 0, :3] == 7).all() and (cell[-1, -1, :3] == 9).all() and (cell[..., 3] == 255).all()
    assert (picture[:, factor:, 3] == 0).all()


def test_one_prediction_has_nothing_to_be_compared_with(comparing: Comparing) -> None:
    assert comparing.ask() == ONLY_ONE and comparing.compared is None and not comparing.text()


def test_two_results_are_compared_when_asked_and_never_before(
    comparing: Comparing, viewer: Any, add: Any, slide_path: Path
) -> None:
    second = all_of(0)
    second.put(second.probabilities[::-1, :1].copy(), 0, 0)
    add(result_layers(second, "/r/2.pathotune.zarr", "second", str(slide_path)))
    assert CHANGES not in {facts(layer).get("kind") for layer in viewer.layers}
    said = comparing.ask()
    assert "mm² changed (33%) from first to second: a → b" in said
    assert comparing.compared is not None and comparing.compared.changes.changed_mm2 == pytest.approx(6 * 0.05**2)
    layer = comparing.session.results[1].others[CHANGES]
    layer.visible = True
    session = comparing.session
    assert comparing.at(session.place_at((24.75, 24.75))) == ("a", "b")
    assert comparing.at(session.place_at((74.75, 24.75))) == ("a", "a")
    comparing.forget()
    assert layer not in viewer.layers and comparing.at(session.place_at((24.75, 24.75))) is None


def test_what_another_run_replaces_is_the_prediction_before(comparing: Comparing) -> None:
    session = comparing.session
    (result,) = session.results
    session.shown.adopt(result.store, all_of(1))
    assert "(100%) from first (before) to first: a → b" in comparing.ask()
    assert comparing.compared is not None and comparing.compared.changes.changed.sum() == 18


def test_a_run_that_goes_on_replaces_nothing(comparing: Comparing) -> None:
    more = all_of(0)
    more.put(np.full((2, 1, 6), 0.5, np.float32), 3, 0)
    (result,) = comparing.session.results
    assert not is_replaced(result.grid, more) and is_replaced(more, result.grid)
    comparing.session.shown.adopt(result.store, more)
    assert comparing.ask() == ONLY_ONE


def test_a_copy_keeps_its_values_when_the_grid_goes_on() -> None:
    grid = all_of(0)
    copied = copy_of(grid)
    grid.put(np.zeros((2, 1, 6), np.float32), 0, 0)
    assert copied.probabilities[0, 0].all() and copied.is_like(grid)


# -- unlike the training tiles


def write_store(path: Path, reliability: list[str], distance: np.ndarray | None = None, features: int = 0) -> Path:
    """A store of 4 × 6 cells, all but the lowest row predicted."""
    grid = Grid(4, 6, (0.0, 0.0), (100.0, 100.0), (100.0, 100.0), (0.5, 0.5))
    store = PredictionStore.create(
        path,
        grid=grid,
        classes=[{"name": "a", "color": [1, 2, 3]}, {"name": "b", "color": [3, 2, 1]}],
        reliability=reliability,
        features=features,
        identity={"slide": "s", "tuning": "t", "backbone": "b", "reading": {}, "precision": "float32"},
    )
    (unit,) = store.units()
    values = None
    if distance is not None:
        values = np.stack([np.zeros_like(distance), distance]).astype(np.float16)
    kept = np.zeros((4, 6, features), np.float16) if features else None
    store.write_unit(unit, all_of(0).probabilities, None, values, kept, state="done", tiles=18, planned=18)
    return path


def test_distances_are_read_and_what_is_missing_is_said(tmp_path: Path) -> None:
    distance = np.zeros((4, 6))
    distance[1, 1:3] = 2.5
    found = read_unlikeness(str(write_store(tmp_path / "a.zarr", ["uncertainty", "distance"], distance)), True)
    assert found.distance is not None and found.distance[1, 1] == 2.5 and np.isnan(found.distance[3]).all()
    assert found.far_share == pytest.approx(2 / 18) and found.marks is not None and found.marks[..., 3].any()
    assert read_unlikeness(str(write_store(tmp_path / "b.zarr", [])), True).reason == NOT_KEPT
    assert read_unlikeness(str(write_store(tmp_path / "c.zarr", ["uncertainty"])), True).reason == NOT_KNOWN


def test_the_most_similar_training_tile_says_why_where_it_is_not_known(tmp_path: Path) -> None:
    finder = LikestFinder()
    assert finder.find(str(write_store(tmp_path / "a.zarr", [])), (0, 0), [], []).text == likeness.NO_FEATURES
    kept = write_store(tmp_path / "b.zarr", [], features=4)
    assert finder.find(str(kept), (0, 0), [str(tmp_path / "gone.safetensors")], []).text == likeness.NO_TUNING


def test_the_most_similar_training_tile_is_found_on_its_slide(
    tmp_path: Path, slide_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pathotune.methods.checkpoint import Tuning
    from pathotune.training.distance import FeatureSpace
    from pathotune.training.record import pseudonym

    features = np.zeros((2, 4), np.float32)
    features[1] = 1
    with open_slide(slide_path) as slide:
        name = pseudonym(slide.fingerprint)
    places = [{"slide": name, "box_px0": [x, 0.0, 100.0, 100.0]} for x in (0.0, 200.0)]
    space = FeatureSpace.fit(features, np.array([0, 1]), features, places=places)

    class Found:
        fingerprint = "t"
        classes = ({"name": "a"}, {"name": "b"})
        path = None

    monkeypatch.setattr(Tuning, "load", classmethod(lambda cls, path: Found()))
    monkeypatch.setattr(FeatureSpace, "of", classmethod(lambda cls, tuning: space))
    store = str(write_store(tmp_path / "a.zarr", [], features=4))
    found = LikestFinder().find(store, (0, 0), ["t.safetensors"], [str(slide_path)])
    assert found.class_name == "a" and found.box_px0 == (0.0, 0.0, 100.0, 100.0) and found.slide == str(slide_path)
    assert found.picture is not None and found.picture.shape[2] == 3 and slide_path.name in found.text
    elsewhere = LikestFinder().find(store, (0, 0), ["t.safetensors"], [])
    assert elsewhere.picture is None and name in elsewhere.text, "the hint alone where the slide is not at hand"


@pytest.fixture
def panel(qapp: Any, viewer: Any, add: Any, slide_path: Path, tmp_path: Path) -> Any:
    from napari_pathotune.widgets.overlays import OverlayPanel

    distance = np.zeros((4, 6))
    distance[1, 1:3] = 2.5
    store = write_store(tmp_path / "s.zarr", ["uncertainty", "distance"], distance, features=4)
    add([slide_layer(open_slide(slide_path))])
    add(result_layers(all_of(0), str(store), "mine", str(slide_path)))
    return OverlayPanel(session_of(viewer))


def test_unlike_tiles_are_marked_and_said_under_the_cursor(panel: Any, run_loop: Any) -> None:
    from napari_pathotune.widgets.doubts import hint_text

    doubts, session = panel.doubts, panel.session
    more = panel.more
    assert run_loop(20, lambda: not doubts.is_busy and doubts.unlikeness(session.result) is not None)
    assert doubts.distance_at(session.place_at((74.75, 74.75))) == 2.5, "also without marks"
    assert doubts.distance_at(session.place_at((174.75, 24.75))) is None
    (result,) = session.results
    assert UNLIKE not in result.others
    more.mark.setChecked(True)
    assert run_loop(20, lambda: UNLIKE in result.others)
    assert result.others[UNLIKE].visible and "11% of the predicted tiles" in more.says.text()
    more.point_at(session.place_at((74.75, 74.75)))
    assert run_loop(20, lambda: more.likest.text() == likeness.NO_TUNING)
    more.mark.setChecked(False)
    assert not result.others[UNLIKE].visible and more.says.isHidden() and more.likest_row.isHidden()
    assert hint_text(2.5, 1.0, None) == "unlike the training tiles (2.5 × the limit)" and not hint_text(0.9, 1.0, None)


def test_a_result_without_distance_says_why(panel: Any) -> None:
    panel.doubts._unlikeness[panel.session.result.store] = Unlikeness(None, reason=NOT_KEPT)
    panel.more.mark.setChecked(True)
    assert panel.more.says.text() == NOT_KEPT and panel.more.likest_row.isHidden()


def test_the_button_shows_what_changed_and_goes_back(panel: Any, add: Any, slide_path: Path) -> None:
    more = panel.more
    more.what_changed.click()
    assert more.changed.text() == ONLY_ONE and not more.what_changed.isChecked()
    add(result_layers(all_of(1), "/r/2.pathotune.zarr", "second", str(slide_path)))
    more.what_changed.click()
    later = panel.session.results[1]
    assert later.others[CHANGES].visible and not later.classes.visible and more.what_changed.isChecked()
    assert panel.heat.currentText() == "What changed" and "a → b" in more.changed.text()
    more.what_changed.click()
    assert CHANGES not in later.others and later.classes.visible and more.changed.isHidden()


def test_controls_have_names_and_tooltips(panel: Any) -> None:
    more = panel.more
    for control in (more.mark, more.picture, more.what_changed):
        assert control.accessibleName() and control.toolTip()
    more.doubts.likest_found.emit(Likest("a", np.zeros((20, 20, 3), np.uint8), "Most like a."))
    assert more.likest.text() == "Most like a." and not more.picture.pixmap().isNull()


def test_doubts_are_one_per_session(comparing: Comparing) -> None:
    assert comparing.doubts is doubts_of(comparing.session)


def test_a_result_that_waits_gives_way_until_it_holds_something_and_then_takes_its_place(
    comparing: Comparing, add: Any, slide_path: Path
) -> None:
    session = comparing.session
    (first,) = session.results
    add(result_layers(none_of(), "/r/2.pathotune.zarr", "second", str(slide_path)))
    second = session.results[1]
    assert second.is_empty and session.result is first, "what is read under the cursor is what is seen"
    session.shown.adopt(second.store, all_of(1))
    assert session.result is second and not first.is_seen and second.classes.visible
    session.shown.adopt(second.store, none_of())
    assert second.is_empty
    second.grid.put(all_of(0).probabilities, 0, 0)
    assert not second.is_empty
