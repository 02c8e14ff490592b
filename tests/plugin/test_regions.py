"""Drawing on a viewer: the layer and the document say the same, whatever is done, undone, saved or lost."""

from __future__ import annotations

import gc
import json
import random
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("napari")
import shapely
from napari.components import ViewerModel
from napari.layers import Layer, Shapes
from napari.utils.key_bindings import KeymapHandler

from napari_pathotune.drawing_board import DrawingBoard, board_of
from napari_pathotune.drawings import regions_from_layer
from napari_pathotune.layers import facts, slide_layer
from napari_pathotune.session import session_of
from napari_pathotune.slide_drawing import SlideDrawing
from pathotune.regions.journal import SUFFIX
from pathotune.regions.region import Region

Adder = Callable[[list[Any]], list[Any]]


@pytest.fixture
def board(viewer: Any, add: Adder, slide_path: Path) -> Any:
    from pathotune.slides import open_slide

    add([slide_layer(open_slide(slide_path))])
    made = board_of(session_of(viewer))
    yield made
    made.close()


@pytest.fixture
def drawing(board: DrawingBoard) -> SlideDrawing:
    assert board.active is not None
    board.active.choose_tool("polygon")
    return board.active


def shapes_of(drawing: SlideDrawing) -> Any:
    return drawing.layer_for().layer


def draw(drawing: SlideDrawing, geometry: Any, kind: str = "polygon") -> None:
    """As napari adds what was drawn with the mouse; the outline is in level-0 pixels."""
    coordinates = geometry.exterior.coords[:-1] if kind != "path" else geometry.coords
    shapes_of(drawing).add([np.asarray(coordinates)[:, ::-1] - 0.5], shape_type=kind)
    drawing.board.settle()


def check(drawing: SlideDrawing) -> None:
    """The layers show the document: every region once, in its place and its class's colour."""
    document = drawing.document
    shown: dict[str, Any] = {}
    for bound in drawing.bound.values():
        layer = bound.layer
        assert len(layer.data) == len(bound.keys) == len(layer.features)
        colors = layer.face_color if bound.is_points else layer.edge_color
        for index, key in enumerate(bound.keys):
            region = document[key]
            assert np.allclose(np.asarray(colors)[index][:3] * 255, region.color or (230, 159, 0), atol=1)
            assert layer.features["class"].iloc[index] == (region.class_name or "")
        for region in regions_from_layer(layer, drawing.slide_layer):
            assert region.id is not None and region.id not in shown
            shown[region.id] = region
    regions = document.regions()
    assert set(shown) == {region.id for region in regions}
    for region in regions:
        geometry = shown[str(region.id)].geometry
        if region.kind == "polygon":
            assert geometry.symmetric_difference(region.geometry).area < 1e-3 * region.geometry.area + 1e-3
        assert geometry.hausdorff_distance(region.geometry) < 1e-3 or region.kind == "polygon"


def test_what_is_drawn_becomes_a_region_of_the_chosen_class(drawing: SlideDrawing, viewer: Any) -> None:
    draw(drawing, shapely.box(10, 20, 110, 90))
    drawing.choose_class("Stroma")
    draw(drawing, shapely.box(200, 20, 300, 90), "rectangle")
    draw(drawing, shapely.box(400, 20, 500, 90), "ellipse")
    first, second, third = drawing.document.regions()
    assert (first.class_name, second.class_name, third.class_name) == ("Tumor", "Stroma", "Stroma")
    assert first.geometry.equals(shapely.box(10, 20, 110, 90))
    assert third.geometry.area == pytest.approx(np.pi * 50 * 35, rel=0.01)
    assert [layer.name for layer in viewer.layers if isinstance(layer, Shapes)] == ["Regions"], "one layer for all"
    assert all("micro" in str(unit) for unit in shapes_of(drawing).units)
    check(drawing)


def test_a_crossing_outline_is_untangled_and_shown_so(drawing: SlideDrawing) -> None:
    draw(drawing, shapely.Polygon([(0, 0), (100, 100), (100, 0), (0, 100)]))
    (region,) = drawing.document.regions()
    assert region.geometry.is_valid and region.geometry.area == pytest.approx(5000)
    check(drawing)


def test_brush_joins_eraser_cuts_and_alt_turns_one_into_the_other(drawing: SlideDrawing, board: DrawingBoard) -> None:
    board.zoom, drawing.brush_px = 1.0, 20  # 20 µm: 40 level-0 pixels
    drawing.choose_tool("brush")
    draw(drawing, shapely.LineString([(100, 100), (200, 100), (300, 100)]), "path")
    draw(drawing, shapely.LineString([(290, 100), (290, 200), (290, 300)]), "path")
    (region,) = drawing.document.regions()
    assert region.geometry.bounds == pytest.approx((80, 80, 320, 320), abs=2)
    drawing.choose_tool("eraser")
    drawing.set_brush(5)
    draw(drawing, shapely.LineString([(150, 100), (160, 100), (170, 100)]), "path")
    (region,) = drawing.document.regions()
    assert len(region.geometry.interiors) == 1, "inside a region the eraser leaves a hole"
    check(drawing)
    drawing.choose_tool("brush")
    drawing.set_brush(40)
    drawing._is_alt = True
    draw(drawing, shapely.LineString([(0, 100), (300, 100), (600, 100)]), "path")
    assert drawing.document.regions()[0].geometry.bounds[1] > 110
    drawing.choose_tool("polygon")
    draw(drawing, shapely.box(0, 0, 600, 400))
    assert len(drawing.document) == 0, "a polygon with Alt cuts out too"
    check(drawing)


@pytest.mark.parametrize("seed", range(3))
def test_the_layers_follow_any_edits_and_their_undoing(drawing: SlideDrawing, seed: int) -> None:
    dice = random.Random(seed)
    document = drawing.document
    for _ in range(25):
        x, y = dice.uniform(0, 500), dice.uniform(0, 300)
        keys = document.keys
        some = dice.sample(keys, min(len(keys), 2))
        step = dice.choice(
            ["draw", "paint", "erase", "point", "many", *["class", "remove", "rename", "undo"] * bool(keys)]
        )
        if step == "draw":
            draw(drawing, shapely.box(x, y, x + 60, y + 40))
        elif step == "paint":
            document.paint(shapely.Point(x, y).buffer(40), dice.choice(document.palette.names))
        elif step == "erase":
            document.erase(shapely.Point(x, y).buffer(40))
        elif step == "point":
            document.add([Region(shapely.Point(x, y), "Tumor" if "Tumor" in document.palette else None)])
        elif step == "many":
            parts = shapely.MultiPolygon([shapely.box(x, y, x + 9, y + 9), shapely.box(x + 20, y, x + 29, y + 9)])
            document.add([Region(parts, document.palette.names[0])])
        elif step == "class":
            document.set_class(some, dice.choice([*document.palette.names, None]))
        elif step == "remove":
            document.remove(some)
        elif step == "rename":
            document.rename_class(document.palette.names[0], f"class {dice.random():.6f}")
        else:
            document.undo()
        check(drawing)
    while document.undo():
        pass
    check(drawing)
    assert len(document) == 0
    while document.redo():
        pass
    check(drawing)


def test_deleting_on_the_layer_is_undone_and_a_part_leaves_the_others(
    drawing: SlideDrawing, board: DrawingBoard
) -> None:
    parts = shapely.MultiPolygon([shapely.box(0, 0, 50, 50), shapely.box(100, 0, 150, 50)])
    key, other = drawing.document.add([Region(parts, "Tumor"), Region(shapely.box(200, 0, 250, 50), "Stroma")])
    layer = shapes_of(drawing)
    layer.selected_data = {0, 2}
    layer.remove_selected()
    board.settle()
    assert drawing.document.keys == [key] and drawing.document[key].geometry.area == 2500
    check(drawing)
    board.undo()
    board.undo()
    assert drawing.document.keys == [key, other] and drawing.document[key].geometry.equals(parts)
    check(drawing)


def test_a_locked_region_comes_back_on_the_layer(drawing: SlideDrawing, board: DrawingBoard) -> None:
    said: list[str] = []
    board.noted.connect(lambda level, text: said.append(text))
    (key,) = drawing.document.add([Region(shapely.box(0, 0, 50, 50), "Tumor")])
    drawing.document.set_locked([key], True)
    layer = shapes_of(drawing)
    layer.selected_data = {0}
    layer.remove_selected()
    board.settle()
    assert "locked" in said[0] and drawing.document.keys == [key]
    check(drawing)


def test_number_keys_choose_a_class_while_drawing_and_give_it_to_what_is_selected(
    drawing: SlideDrawing, viewer: Any, board: DrawingBoard
) -> None:
    draw(drawing, shapely.box(0, 0, 50, 50))
    keys = KeymapHandler()
    keys.keymap_providers = [shapes_of(drawing), viewer]
    names = drawing.document.palette.names
    keys.press_key("3")
    assert drawing.active_class == names[2] and drawing.document.regions()[0].class_name == names[0]
    keys.press_key("9")
    assert drawing.active_class == names[2], "there is no ninth class"
    drawing.choose_tool("select")
    shapes_of(drawing).selected_data = {0}
    keys.press_key("2")
    assert drawing.document.regions()[0].class_name == names[1]
    assert drawing.selected_keys == drawing.document.keys, "it stays selected"
    keys.press_key("0")
    assert drawing.document.regions()[0].class_name is None
    check(drawing)
    for _ in range(2):
        keys.press_key("Control-Z")
    assert drawing.document.regions()[0].class_name == names[0]
    keys.press_key("Control-Shift-Z")
    keys.press_key("Control-Y")
    assert drawing.document.regions()[0].class_name is None
    keys.press_key("B")
    assert drawing.tool == "brush" and str(shapes_of(drawing).mode) == "add_path"
    other = KeymapHandler()
    other.keymap_providers = [viewer.layers[0], viewer]
    other.press_key("1")
    assert drawing.active_class == "", "on another layer the numbers are napari's"


def test_tools_follow_napari_s_own_buttons(drawing: SlideDrawing) -> None:
    layer = shapes_of(drawing)
    layer.mode = "add_rectangle"
    assert drawing.tool == "rectangle"
    drawing.choose_tool("eraser")
    layer.mode = "pan_zoom"  # Space is held
    layer.mode = "add_path"
    assert drawing.tool == "eraser"
    drawing.choose_tool("point")
    assert str(drawing.bound["points"].layer.mode) == "add"


def test_points_have_a_layer_of_their_own(drawing: SlideDrawing, board: DrawingBoard) -> None:
    drawing.choose_tool("point")
    layer = drawing.bound["points"].layer
    layer.add([[19.5, 9.5], [39.5, 29.5]])
    board.settle()
    assert [region.geometry.wkt for region in drawing.document.regions()] == ["POINT (10 20)", "POINT (30 40)"]
    check(drawing)
    layer.selected_data = {0}
    layer.remove_selected()
    board.settle()
    assert len(drawing.document) == 1
    board.undo()
    check(drawing)


def test_a_closed_layer_comes_back_with_its_regions(drawing: SlideDrawing, viewer: Any, board: DrawingBoard) -> None:
    draw(drawing, shapely.box(0, 0, 50, 50))
    viewer.layers.remove(shapes_of(drawing))
    assert len(drawing.document) == 1 and not drawing.bound
    drawing.choose_tool("polygon")
    check(drawing)


def test_slides_keep_their_regions_apart_and_from_one_session_to_the_next(
    drawing: SlideDrawing, board: DrawingBoard, viewer: Any, add: Adder, silent_slide_path: Path, slide_path: Path
) -> None:
    from napari_pathotune.reader import results_folder
    from pathotune.slides import open_slide

    first_layer = drawing.slide_layer
    draw(drawing, shapely.box(0, 0, 50, 50))
    add([slide_layer(open_slide(silent_slide_path))])
    second = board.active
    assert second is not None and second is not drawing and len(second.document) == 0
    second.choose_tool("polygon")
    second.document.add([Region(shapely.box(1, 1, 9, 9), "Stroma")])
    board.session.activate(first_layer)
    board.undo()
    assert len(drawing.document) == 0 and len(second.document) == 1, "undo is for the slide in front"
    board.redo()
    viewer.layers.remove(first_layer)
    board.settle()
    assert [layer for layer in viewer.layers if facts(layer).get("slide_path") == str(slide_path)] == []
    assert not list(results_folder().glob(f"{slide_path.name}*{SUFFIX}")), "a clean close leaves no journal"
    (saved,) = results_folder().glob(f"{slide_path.name}*.regions.geojson")
    assert len(json.loads(saved.read_text())["features"]) == 1
    add([slide_layer(open_slide(slide_path))])
    again = board.active
    assert again is not None and again is not drawing and len(again.document) == 1
    assert again.document.undo_label == ""
    check(again)
    viewer.layers.clear()
    board.settle()
    assert len(viewer.layers) == 0


def test_after_a_crash_it_is_offered_once_and_restored(
    drawing: SlideDrawing, board: DrawingBoard, viewer: Any, add: Adder, slide_path: Path
) -> None:
    from pathotune.slides import open_slide

    draw(drawing, shapely.box(0, 0, 50, 50))
    journal = drawing.keeper.journal
    assert journal is not None and journal.flush()
    journal.close(delete=False)
    header, rest = journal.path.read_text(encoding="utf-8").split("\n", 1)
    journal.path.write_text(
        json.dumps({**json.loads(header), "process_start": 1.0, "boot_id": "an earlier one"}) + "\n" + rest,
        encoding="utf-8",
    )
    found: list[Any] = []
    other = ViewerModel()
    other_board = board_of(session_of(other))
    other_board.crash_found.connect(lambda *what: found.append(what))
    other.add_layer(Layer.create(*slide_layer(open_slide(slide_path))))
    restored = other_board.active
    other_board.settle()
    ((which, unsaved),) = found
    assert which is restored and restored is not None
    other_board.answer(restored, unsaved, restore=True)
    assert restored.document.regions()[0].geometry.equals(shapely.box(0, 0, 50, 50))
    check(restored)
    other_board.close()
    assert not journal.path.exists()


def test_layers_made_by_hand_still_count_and_can_be_taken_in(
    drawing: SlideDrawing, board: DrawingBoard, viewer: Any
) -> None:
    square = np.array([[20, 50], [20, 90], [60, 90], [60, 50]]) - 0.25
    viewer.add_layer(Shapes([square], shape_type="polygon", name="Gland"))
    draw(drawing, shapely.box(0, 0, 50, 50))
    assert [region.class_name for region in board.regions_of(drawing.slide_layer)] == ["Tumor", "Gland"]
    assert [layer.name for layer in board.other_layers(drawing.slide_layer)] == ["Gland"]
    board.adopt(board.other_layers(drawing.slide_layer))
    assert drawing.document.counts["Gland"].regions == 1 and "Gland" not in [layer.name for layer in viewer.layers]
    assert len(board.regions_of(drawing.slide_layer)) == 2
    check(drawing)


def test_a_regions_file_opened_on_an_empty_slide_is_what_is_drawn_and_comes_once(
    drawing: SlideDrawing, board: DrawingBoard, viewer: Any, add: Any
) -> None:
    from napari_pathotune.drawings import layers_from_regions

    regions = [Region(shapely.box(10.1, 20.2, 50.3, 60.4), "Gland", (9, 8, 7)), Region(shapely.Point(7.7, 8.8), "Duct")]

    def open_file(shown: list[Region]) -> None:
        add(layers_from_regions(shown, drawing.slide, "/regions/slide.geojson"))
        board.settle()

    open_file(regions)
    assert [one.class_name for one in drawing.document.regions()] == ["Gland", "Duct"]
    assert drawing.document.palette.names == ("Gland", "Duct") and not board.other_layers(drawing.slide_layer)
    open_file(regions)
    assert len(drawing.document) == 2 and not board.other_layers(drawing.slide_layer), "the same regions come once"
    open_file([*regions, Region(shapely.box(100, 100, 140, 140), "Gland")])
    assert len(drawing.document) == 2 and board.other_layers(drawing.slide_layer), "she decides what joins hers"
    check(drawing)


def test_lines_stay_as_wide_on_the_screen_whatever_the_zoom(
    drawing: SlideDrawing, viewer: Any, board: DrawingBoard
) -> None:
    draw(drawing, shapely.box(0, 0, 50, 50))
    widths = []
    for zoom in (0.05, 1.0, 20.0):
        viewer.camera.zoom = zoom
        board.settle()
        widths.append(shapes_of(drawing).edge_width[0] * zoom * 0.5)
    assert max(widths) < 2 * min(widths)


def test_the_board_does_not_keep_a_closed_viewer_alive() -> None:
    model = ViewerModel()
    board = board_of(session_of(model))
    gone = weakref.ref(model)
    board.close()
    del model
    gc.collect()
    assert gone() is None
