"""The session follows what comes and goes in a viewer, and the job's events."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("napari")
from napari.components import ViewerModel
from napari.layers import Shapes

from napari_pathotune import compat
from napari_pathotune.layers import facts, result_layers, slide_layer
from napari_pathotune.overlay import ClassGrid
from napari_pathotune.session import Session, session_of
from pathotune import events
from pathotune.tiles import Reading


@pytest.fixture
def slide(slide_path: Path) -> Any:
    from pathotune.slides import open_slide

    return open_slide(slide_path)


def grid() -> ClassGrid:
    probabilities = np.zeros((2, 4, 6), np.float32)
    probabilities[1] = 1
    return ClassGrid(probabilities, ("a", "b"), np.array([[9, 9, 9], [1, 2, 3]]), (50.0, 50.0), (24.75, 24.75))


def test_one_session_per_viewer_whatever_the_proxy(viewer: Any) -> None:
    from napari.utils._proxies import PublicOnlyProxy

    assert session_of(PublicOnlyProxy(viewer)) is session_of(viewer)
    assert session_of(ViewerModel()) is not session_of(viewer)


def test_a_closed_viewer_is_freed() -> None:
    model = ViewerModel()
    session, gone = session_of(model), weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None and session.viewer is None


def test_slides_come_and_go(viewer: Any, add: Any, slide: Any) -> None:
    session = session_of(viewer)
    changes: list[str] = []
    session.slides_changed.connect(lambda: changes.append("slides"))
    assert session.slide is None
    (layer,) = add([slide_layer(slide)])
    assert session.slide is slide and session.active_layer is layer
    viewer.layers.remove(layer)
    assert session.slide is None and changes == ["slides", "slides"]


def test_the_selected_slide_is_the_active_one(viewer: Any, add: Any, slide: Any, silent_slide_path: Path) -> None:
    from pathotune.slides import open_slide

    session = session_of(viewer)
    first, second = add([slide_layer(slide), slide_layer(open_slide(silent_slide_path))])
    assert session.active_layer is second
    viewer.layers.selection.active = first
    assert session.slide is slide


def test_a_slide_that_is_opened_beside_others_is_shown_alone_and_it_is_said(
    viewer: Any, add: Any, slide: Any, silent_slide_path: Path, notices: list[str]
) -> None:
    from pathotune.slides import open_slide

    first, second = add([slide_layer(slide), slide_layer(open_slide(silent_slide_path))])
    session = session_of(viewer)  # the dock is opened later
    assert second.visible and not first.visible and len(notices) == 1 and "silent.tiff is shown" in notices[0]
    session.show_alone(first)
    assert first.visible and not second.visible and len(notices) == 1
    viewer.layers.remove(second)
    add([slide_layer(open_slide(silent_slide_path))])
    assert not first.visible and viewer.layers[-1].visible and len(notices) == 2


def test_a_chosen_slide_is_not_hidden_by_the_others(viewer: Any, add: Any, slide: Any, silent_slide_path: Path) -> None:
    from pathotune.slides import open_slide

    session = session_of(viewer)
    first, second = add([slide_layer(slide), slide_layer(open_slide(silent_slide_path))])
    probability, classes = add(result_layers(grid(), "/r/one.zarr", "t", str(slide.path)))
    session.show_alone(second)
    session.show_alone(second)
    assert session.active_layer is second and second.visible
    assert not any(layer.visible for layer in (first, probability, classes))
    session.show_alone(first)
    assert first.visible and classes.visible and not probability.visible, "as they were"
    assert not second.visible and session.slide is slide


def test_a_stated_pixel_size_moves_the_layer_to_micrometres_and_is_remembered(
    viewer: Any, add: Any, silent_slide_path: Path
) -> None:
    from pathotune.slides import open_slide

    session = session_of(viewer)
    (layer,) = add([slide_layer(open_slide(silent_slide_path))])
    compat.camera(viewer).zoom = 20.0  # so that a part of the slide is seen
    session.look_at(300.0, 200.0)
    seen = session.view_box_px0()
    session.state_mpp(0.25)
    assert session.view_box_px0() == pytest.approx(seen), "the person goes on seeing what she saw"
    assert session.slide.mpp.x == 0.25 and np.allclose(layer.scale, 0.25)
    assert all("micro" in str(unit) for unit in layer.units)
    assert open_slide(silent_slide_path).mpp.x == 0.25


def test_view_box_is_what_the_canvas_shows(viewer: Any, add: Any, slide: Any) -> None:
    session = session_of(viewer)
    assert session.view_box_px0() is None
    (layer,) = add([slide_layer(slide)])
    camera, (height, width) = compat.camera(viewer), compat.canvas_size(viewer)
    camera.zoom = 20.0  # screen pixels per µm: 10 a level-0 pixel of 0.5 µm
    camera.center = (100.0, 150.0)
    assert session.view_box_px0() == pytest.approx(
        (300.5 - width / 20, 200.5 - height / 20, width / 10, height / 10)
    ), "exactly what is seen, whatever level or chunk was read for it"
    layer.corner_pixels = np.array([[0, 0], [399, 599]])
    assert session.view_box_px0()[2] == pytest.approx(width / 10)
    camera.zoom = 0.1
    assert session.view_box_px0() == (0.0, 0.0, 600.0, 400.0), "and no more than the slide"
    camera.zoom, camera.center = 20.0, (5000.0, 5000.0)
    assert session.view_box_px0() is None


def test_results_are_joined_by_their_store_and_found_for_their_slide(viewer: Any, add: Any, slide: Any) -> None:
    session = session_of(viewer)
    add([slide_layer(slide)])
    layers = add(result_layers(grid(), "/r/one.zarr", "t", str(slide.path)))
    add(result_layers(grid(), "/r/two.zarr", "t", "/another/slide.svs"))
    assert len(session.results) == 2
    result = session.result
    assert result.store == "/r/one.zarr" and set(result.layers) == set(layers)
    place = session.place_at((30.0, 60.0))
    assert place.reading.class_name == "b" and place.x_px0 == pytest.approx(120.5)
    assert session.place_at((-30.0, 60.0)) is None
    for layer in layers:
        viewer.layers.remove(layer)
    assert session.result is None or session.result.store != "/r/one.zarr"


def test_a_new_empty_shapes_layer_gets_the_slides_units(viewer: Any, add: Any, slide: Any) -> None:
    session_of(viewer)
    (on_slide,) = add([slide_layer(slide)])
    viewer.add_shapes(name="new")
    assert viewer.layers["new"].units == on_slide.units
    viewer.add_layer(Shapes([np.eye(4)[:, :2]], name="hers"))
    hers = viewer.layers["hers"]
    assert not facts(hers) and np.allclose(hers.scale, 1), "a layer with content stays where it is"
    assert hers.units == on_slide.units, "but does not switch the scale bar's units off"


def test_results_are_added_one_layer_a_call_and_the_selection_stays(viewer: Any, add: Any, slide: Any) -> None:
    session = session_of(viewer)
    (on_slide,) = add([slide_layer(slide)])
    viewer.layers.selection.active = on_slide
    add_next = session.shown.show_result("/r/one.zarr", result_layers(grid(), "/r/one.zarr", "t", str(slide.path)))
    assert add_next() is True and len(viewer.layers) == 2
    assert add_next() is False and len(viewer.layers) == 3
    assert viewer.layers.selection.active is on_slide
    again = session.shown.show_result("/r/one.zarr", result_layers(grid(), "/r/one.zarr", "t", str(slide.path)))
    assert again() is False and len(viewer.layers) == 3


def test_what_is_replaced_gives_up_what_it_reads_from_the_disk(viewer: Any, add: Any, slide: Any) -> None:
    from napari_pathotune.layers import attention_layer

    session = session_of(viewer)
    add([slide_layer(slide)])
    attention = attention_layer([np.ones((4, 6))], ((50.0, 50.0), (0.0, 0.0)), "/r/one.zarr", ("cls",), "t", slide.path)
    add([attention, *result_layers(grid(), "/r/one.zarr", "t", str(slide.path))])
    result, classes = session.result, [("a", None), ("b", None)]
    reading = Reading(mpp=0.5, tile_px=100, image_px=100)
    session.shown.prepare("/r/one.zarr", "t", classes, reading, 50)
    assert result.attention is not None and result.grid.predicted_cells == 24, "what is there is left alone"
    session.shown.prepare("/r/one.zarr", "t", classes, reading, 50, replace_it=True)
    assert result.attention is None and result.is_empty and result.grid.shape == (8, 12)
    assert result.classes.data.shape[:2] == (8, 12) and len(viewer.layers) == 3


def test_attention_to_come_has_its_layer_before_and_is_filled_from_the_store(viewer: Any, add: Any, slide: Any) -> None:
    from napari_pathotune.layers import attention_layer

    session = session_of(viewer)
    add([slide_layer(slide)])
    reading = Reading(mpp=0.5, tile_px=100, image_px=100)
    session.shown.prepare("/r/one.zarr", "t", [("a", None), ("b", None)], reading, 50, with_attention=True)
    result = session.result
    layer = result.attention
    assert not layer.visible and facts(layer)["sources"] == ()
    outlines = [layer_.extent.world + np.outer((-0.5, 0.5), layer_.extent.step) for layer_ in (layer, result.classes)]
    assert np.allclose(*outlines), "it lies over the same cells"
    levels = [np.full((16, 24), 2.0, np.float32), np.full((8, 12), 2.0, np.float32), np.full((4, 6), 2.0, np.float32)]
    place = ((50.0 / 4, 50.0 / 4), (0.0, 0.0))
    data = attention_layer(levels, place, "/r/one.zarr", ("cls", "tvp"), "t", slide.path)
    session.shown.put_attention(result, [data])
    assert result.attention is layer and len(viewer.layers) == 4 and facts(layer)["sources"] == ("cls", "tvp")
    layer.visible = True
    assert float(np.nanmax(np.asarray(layer.data[0]))) == 2.0 and len(layer.data) == 3
    facts(layer)["source"] = "tvp"
    session.shown.put_attention(result, [data])
    assert facts(layer)["source"] == "tvp", "what the person chose to see stays"
    session.shown.put_attention(result, [])
    assert result.attention is None and layer not in viewer.layers


class TestJob:
    """Events of a job become the state a panel shows."""

    @pytest.fixture
    def session(self, viewer: Any) -> Session:
        session = session_of(viewer)

        class Fake:
            command = "predict"

        session.start(Fake(), "/s.svs", "Starting…")
        return session

    def test_steps_then_done(self, session: Session) -> None:
        assert session.job.stage == "starting" and session.job.is_active
        session.take(events.Step("predict", 10, 40, rate=5.0, seconds_left=6.0))
        assert (session.job.stage, session.job.done, session.job.rate) == ("running", 10, 5.0)
        session.take(events.Finished({"tiles": 40}))
        assert session.job.stage == "done" and session.job.result == {"tiles": 40} and not session.job.is_active

    def test_cancel_is_not_undone_by_a_late_step_and_ends_as_cancelled(self, session: Session) -> None:
        session.cancelling()
        session.take(events.Step("predict", 11, 40))
        assert session.job.stage == "cancelling"
        session.take(events.Failed("WorkerDied", "The worker ended."))
        assert session.job.stage == "cancelled"

    def test_a_cancelled_end_is_no_result(self, session: Session) -> None:
        session.take(events.Finished({"status": "cancelled"}))
        assert session.job.stage == "cancelled"

    def test_failure_keeps_its_sentence(self, session: Session) -> None:
        session.take(events.Failed("NoTiles", "There is no tissue here."))
        assert session.job.stage == "failed" and session.job.text == "There is no tissue here."

    def test_notes_and_shards_are_passed_on(self, session: Session) -> None:
        seen: list[Any] = []
        session.noted.connect(lambda level, text: seen.append((level, text)))
        session.shard_done.connect(seen.append)
        shard = events.ShardDone("/r/x.zarr", 0, 1, 4, (0.0, 0.0, 9.0, 9.0))
        session.take(events.Note("Careful.", "warning"))
        session.take(shard)
        assert seen == [("warning", "Careful."), shard]
