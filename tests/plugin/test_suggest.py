"""Suggested places are gone through with keys; a decided one is a correction that can be undone and is saved."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("qtpy.QtWidgets")
pytest.importorskip("napari")
from napari.layers import Layer

from napari_pathotune.corrections import Round, frame_lines
from napari_pathotune.layers import facts, slide_layer, store_layers
from pathotune.regions import label_tiles, read_regions

TILE = 50.0
NAMES = ("Tumor", "Stroma")
Loop = Callable[..., bool]


def make_store(folder: Path, slide_path: Path) -> Any:
    """A prediction of 8 × 12 tiles of a 600 × 400 slide; nothing is decided in its right half."""
    from pathotune.inference.plan import Grid
    from pathotune.inference.predictions import PredictionStore, store_path

    grid = Grid(8, 12, (0.0, 0.0), (TILE, TILE), (TILE, TILE), (0.5, 0.5))
    classes = [{"name": name, "color": [200, 60 * number, 0]} for number, name in enumerate(NAMES)]
    path = store_path(slide_path, "mine", folder)
    store = PredictionStore.create(path, grid=grid, classes=classes, identity={"slide": "f"}, features=6)
    values = np.zeros((2, 8, 12), np.float32)
    values[0] = np.where(np.arange(12) < 6, 0.98, 0.55)
    values[1] = 1 - values[0]
    features = np.random.default_rng(0).normal(size=(8, 12, 6)).astype(np.float16)
    unit = next(store.units())
    store.write_unit(unit, values, None, None, features, state="done", tiles=96, planned=96)
    return store


def opened(viewer: Any, slide_path: Path, store: Any) -> None:
    from pathotune.slides import open_slide

    slide = open_slide(slide_path)
    for data in [slide_layer(slide), *store_layers(store, slide.path)]:
        viewer.add_layer(Layer.create(*data))


@pytest.fixture
def dock(qapp: Any, viewer: Any, slide_path: Path, tmp_path: Path) -> Any:
    """A dock without a window, on a slide with a result."""
    from napari_pathotune.widgets.dock import PathoTuneDock

    made = PathoTuneDock(viewer)
    opened(viewer, slide_path, make_store(tmp_path, slide_path))
    yield made
    made.tune.board.close()
    made.close()


def ask(dock: Any, run_loop: Loop, count: int = 4) -> Any:
    """Press the button and wait for the places."""
    panel = dock.tune.suggest
    panel.number.setValue(count)
    panel.ask.click()
    assert run_loop(20, lambda: not panel.is_searching) and len(panel.places) == count, panel.hint.text()
    return panel


def test_a_decided_place_is_a_correction_saved_undone_and_learned_as_one_tile(dock: Any, run_loop: Loop) -> None:
    panel, board = ask(dock, run_loop), dock.tune.board
    document = board.active.document
    finished: list[None] = []
    panel.finished.connect(lambda: finished.append(None))
    place = panel.places[0]
    assert place.x_px0 >= 300 - TILE and panel.round.open == [0, 1, 2, 3] and panel.tune_again.isHidden()
    panel.accept()
    (key,) = document.keys
    region = document[key]
    assert region.is_correction and region.class_name == place.class_name == "Tumor" and panel.current == 1
    left, top, width, height = place.box_px0
    assert region.geometry.bounds == pytest.approx((left, top, left + width, top + height))
    tiles, _ = label_tiles(document.regions(), (600, 400), (TILE, TILE), NAMES)
    assert len(tiles) == 1 and (tiles.x_px0[0], tiles.y_px0[0]) == pytest.approx(place.box_px0[:2])

    board.undo()
    assert not document.keys and panel.current == 0 and panel.round.is_open(0), "an undone place is asked again"
    panel.assign("Stroma")
    panel.skip()
    panel._assign_numbered(document.palette.names.index("Tumor"))
    assert [panel.round.answer(index) for index in range(4)] == ["Stroma", "", "Tumor", ""]
    panel.show_place(2)
    panel.assign("Stroma")
    assert len(document.keys) == 2 and panel.round.answer(2) == "Stroma", "changed, not doubled"
    assert panel.round.open == [3] and panel.current == 3 and not finished
    panel.accept()
    assert len(finished) == 1 and not panel.tune_again.isHidden() and not panel.round.open
    assert document.undo_label == "Accept Tumor"

    board.save()
    path = board.active.keeper.saved_path
    written = json.loads(path.read_text(encoding="utf-8"))["features"]
    assert [feature["properties"]["pathotune"]["correction"] for feature in written] == [True] * 3
    assert all(region.is_correction for region in read_regions(path))


def test_skipped_and_decided_places_do_not_come_again(dock: Any, run_loop: Loop) -> None:
    panel = ask(dock, run_loop)
    seen = {place.box_px0 for place in panel.places}
    panel.skip()
    panel.accept()
    undecided = {place.box_px0 for place in panel.places[2:]}
    ask(dock, run_loop, 6)
    assert not (seen - undecided) & {place.box_px0 for place in panel.places}


def test_keys_hold_on_the_frames_alone_and_the_layer_before_comes_back(dock: Any, viewer: Any, run_loop: Loop) -> None:
    drawing = dock.tune.board.active
    drawing.choose_tool("polygon")
    drawn_on = viewer.layers.selection.active
    panel = ask(dock, run_loop)
    layer = viewer.layers.selection.active
    assert facts(layer)["kind"] == "suggestion" and layer not in dock.session.drawing_layers()
    keys = {str(key) for key in layer.keymap}
    assert {"A", "Enter", "S", "N", "P", "1", "9"} <= keys
    before = dict(drawn_on.keymap)
    for key in layer.keymap:
        if str(key) == "S":
            layer.keymap[key](layer)
    assert panel.round.is_skipped(0) and panel.current == 1 and dict(drawn_on.keymap) == before
    places = np.asarray([place.box_px0 for place in panel.places[1:]])
    frames = np.asarray(layer.data)[:, 0] + 0.5
    assert frames.min() >= places[:, :2].min() - 1e-6 and len(frames) == 4 * len(places)
    panel.stop()
    assert layer not in viewer.layers and viewer.layers.selection.active is drawn_on and not panel.places


def test_closing_the_frames_or_the_slide_ends_the_round(dock: Any, viewer: Any, run_loop: Loop) -> None:
    panel = ask(dock, run_loop)
    viewer.layers.remove(panel.layer)
    assert panel.round is None and panel.layer is None
    ask(dock, run_loop)
    viewer.layers.remove(dock.session.active_layer)
    run_loop(0.1)
    assert panel.round is None and not panel.ask.isEnabled()


def test_tune_again_goes_on_from_the_last_tuning(dock: Any, run_loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(dock.tune, "tune", lambda *_, go_on=False: asked.append(go_on))
    panel = ask(dock, run_loop, 1)
    panel.keys()["T"]()
    assert not asked, "not before all are decided"
    panel.accept()
    panel.keys()["T"]()
    panel.tune_again.click()
    assert asked == [True, True]


def test_a_box_has_four_sides() -> None:
    lines = frame_lines([(10.0, 20.0, 30.0, 40.0)])
    corners = {tuple(point) for line in lines for point in (line[0], line.sum(axis=0))}
    assert corners == {(19.5, 9.5), (19.5, 39.5), (59.5, 9.5), (59.5, 39.5)}


@pytest.mark.window
def test_places_are_gone_through_with_keys_in_a_window(
    window: Any, slide_path: Path, tmp_path: Path, run_loop: Loop
) -> None:
    from qtpy.QtCore import Qt
    from qtpy.QtTest import QTest

    opened(window, slide_path, make_store(tmp_path, slide_path))
    _, dock = window.window.add_plugin_dock_widget("pathotune", "PathoTune")
    dock.tabs.setCurrentWidget(dock.tune)
    run_loop(0.3)
    panel = ask(dock, run_loop)
    assert panel.isVisible() and isinstance(panel.round, Round)
    run_loop(5, lambda: not panel.list.is_reading)
    shown = (panel.list, panel.yes)
    assert run_loop(10, lambda: not any(one.visibleRegion().isEmpty() for one in shown)), "scrolled to"
    QTest.keyClick(panel.list, Qt.Key.Key_A)
    assert panel.round.answer(0) == panel.places[0].class_name and panel.current == 1
    view = dock.session.view_box_px0()
    place = panel.places[1]
    assert view[0] < place.x_px0 < view[0] + view[2] and view[1] < place.y_px0 < view[1] + view[3]
    names = dock.tune.board.active.document.palette.names
    if picture := os.environ.get("PATHOTUNE_TEST_PICTURES"):
        window.screenshot(f"{picture}/suggesting.png", canvas_only=False, flash=False)
    canvas = window.window._qt_viewer.canvas.native
    canvas.setFocus()
    run_loop(0.1)
    QTest.keyClick(canvas, Qt.Key.Key_2)
    assert panel.round.answer(1) == names[1], "keys hold on the slide as well"
    QTest.keyClick(canvas, Qt.Key.Key_S)
    QTest.keyClick(canvas, Qt.Key.Key_Return)
    assert run_loop(5, lambda: not panel.round.open), panel.round.open
    if picture := os.environ.get("PATHOTUNE_TEST_PICTURES"):
        window.window._qt_window.grab().save(f"{picture}/suggest.png")
    assert panel.tune_again.isVisible()
    dock.tune.board.close()
    dock.close()


def test_whatever_the_dock_shows_fits_into_its_width(dock: Any, run_loop: Loop) -> None:
    """Wider than the dock means cut off at the right: it scrolls up and down only."""
    from qtpy.QtWidgets import QScrollArea

    from napari_pathotune.widgets.dock import WIDTH_PX

    for name in ("Necrosis with haemorrhage and debris", "Desmoplastic stroma, immune-rich"):
        dock.tune.board.active.document.add_class(name)
    panel = ask(dock, run_loop)
    panel.assign("Necrosis with haemorrhage and debris")
    scroll = dock.findChild(QScrollArea)
    bar = scroll.verticalScrollBar().sizeHint().width()
    for tab in range(dock.tabs.count()):
        dock.tabs.setCurrentIndex(tab)
        assert scroll.widget().minimumSizeHint().width() <= WIDTH_PX - bar, dock.tabs.tabText(tab)
    widest = max(panel.classes.buttons.values(), key=lambda control: control.sizeHint().width())
    assert widest.minimumSizeHint().width() < widest.sizeHint().width() / 2
