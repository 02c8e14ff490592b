"""Magnification and map: what is seen is said right, and a click leads where it points."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("napari")

from napari_pathotune import compat
from napari_pathotune.layers import slide_layer
from napari_pathotune.navigation import (
    SMALLEST_BOX,
    box_on_map,
    fitted,
    magnification_of,
    magnification_text,
    place_on_slide,
    zoom_of,
)
from napari_pathotune.session import session_of
from pathotune.slides import open_slide


@pytest.mark.parametrize(("mpp", "objective"), [(0.25, 40), (0.5, 20), (1.0, 10)])
def test_one_scan_pixel_on_one_screen_pixel_is_the_scans_own_magnification(mpp: float, objective: float) -> None:
    assert magnification_of(1 / mpp) == pytest.approx(objective)
    assert zoom_of(objective) == pytest.approx(1 / mpp)


def test_magnifications_read_as_on_an_objective() -> None:
    assert [magnification_text(value) for value in (40, 20.04, 2.5, 1.0, 0.314)] == [
        "40×",
        "20×",
        "2.5×",
        "1×",
        "0.31×",
    ]


def test_map_and_slide_are_each_others_inverse() -> None:
    slide, room = (60_000.0, 40_000.0), fitted((60_000.0, 40_000.0), (300.0, 300.0))
    assert room == pytest.approx((300, 200))
    x, y, width, height = box_on_map((6_000, 8_000, 12_000, 10_000), slide, room)
    assert (x, y, width, height) == pytest.approx((30, 40, 60, 50))
    assert place_on_slide(x, y, slide, room) == pytest.approx((6_000, 8_000))
    assert place_on_slide(-5, 900, slide, room) == (0.0, 40_000.0), "beside the map is its border"
    tiny = box_on_map((6_000, 8_000, 100, 100), slide, room)
    assert tiny[2:] == (SMALLEST_BOX, SMALLEST_BOX)
    assert tiny[0] + tiny[2] / 2 == pytest.approx(6_050 / 200)


@pytest.fixture
def overview(qapp: Any, viewer: Any, add: Any, slide_path: Path) -> Any:
    from napari_pathotune.widgets.overview import Overview

    add([slide_layer(open_slide(slide_path))])
    made = Overview(viewer)
    yield made
    made.close()


def test_the_map_shows_the_slide_and_follows_the_view(
    overview: Any, viewer: Any, run_loop: Callable[..., bool]
) -> None:
    assert run_loop(10, lambda: overview.map._picture is not None), "the slide's picture is read by a thread"
    camera = compat.camera(viewer)
    overview.magnify(20)
    assert camera.zoom == pytest.approx(2.0)
    overview.session.look_at(150, 100)
    assert camera.center[-2:] == pytest.approx((99.5 * 0.5, 149.5 * 0.5))
    assert run_loop(5, lambda: "20×" in overview.read_out.text())
    assert run_loop(5, lambda: overview.map.view_px0 == overview.session.view_box_px0())
    overview.session.look_at_all()
    assert overview.session.view_box_px0() == (0.0, 0.0, 600.0, 400.0)


def test_a_click_on_the_map_moves_the_view_there(overview: Any, viewer: Any) -> None:
    from qtpy.QtCore import QPoint, Qt
    from qtpy.QtTest import QTest

    overview.map.resize(302, 202)
    overview.magnify(40)
    area = overview.map.map_rect()
    QTest.mouseClick(overview.map, Qt.MouseButton.LeftButton, pos=QPoint(round(area.x() + 75), round(area.y() + 100)))
    y, x = compat.camera(viewer).center[-2:]
    assert (x, y) == pytest.approx((150 * 0.5, 200 * 0.5), abs=1.0)
    before = compat.camera(viewer).center[-1]
    QTest.keyClick(overview.map, Qt.Key.Key_Right)
    width = compat.canvas_size(viewer)[1] / compat.camera(viewer).zoom
    assert compat.camera(viewer).center[-1] > before or width > 300, "an arrow key moves it by half a view"


def test_without_a_pixel_size_no_magnification_is_claimed(
    qapp: Any, viewer: Any, add: Any, silent_slide_path: Path
) -> None:
    from napari_pathotune.widgets.overview import Overview, view_text

    made = Overview(viewer)
    add([slide_layer(open_slide(silent_slide_path))])
    assert not any(jump.isEnabled() for jump in made.jumps[1:]) and made.jumps[0].isEnabled()
    assert "not known" in view_text(session_of(viewer)) and "×" not in view_text(session_of(viewer))
    made.close()


def test_the_slides_label_is_hidden_until_it_is_asked_for(
    overview: Any, viewer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import numpy as np

    slide = overview.session.slide
    assert overview.label_switch.isHidden(), "this slide has none"
    slide.associated_images = ("label",)
    shown: list[str] = []
    monkeypatch.setattr(
        slide, "associated_image", lambda name: (shown.append(name), np.zeros((20, 30, 3), np.uint8))[1]
    )
    overview.refresh()
    assert not overview.label_switch.isHidden() and overview.label.isHidden() and not shown
    overview.label_switch.setChecked(True)
    assert shown == ["label"] and not overview.label.isHidden()
    overview.refresh()
    assert overview.label.isHidden(), "hidden again for the next slide"


def test_a_slides_layer_is_made_without_a_look_for_a_cluster(qtbot: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import gc
    import sys

    import dask
    from dask.base import get_scheduler
    from dask.threaded import get

    monkeypatch.delitem(sys.modules, "distributed", raising=False)
    compat.until_next_turn(compat.computing_here())
    gc.collect()
    assert dask.config.get("scheduler", None) is get
    assert get_scheduler() is get and "distributed" not in sys.modules
    qtbot.waitUntil(lambda: dask.config.get("scheduler", None) is None)
    monkeypatch.setitem(sys.modules, "distributed", dask)
    with compat.computing_here():
        assert dask.config.get("scheduler", None) is None, "there may be a client, which is left to dask"
