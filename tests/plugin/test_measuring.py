"""Measurements are in true micrometres whatever the slide's pixel size, and are no regions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("napari")

from napari_pathotune.compat import Preferences
from napari_pathotune.layers import slide_layer
from napari_pathotune.measuring import area_text, area_um2, length_text, length_um, size_text, sizes_of
from pathotune.slides import open_slide

SQUARE = np.array([[0, 0], [0, 100], [100, 100], [100, 0]], float)


def test_lengths_and_areas_are_geometry() -> None:
    assert length_um(np.array([[0, 0], [3, 4], [3, 10]], float)) == pytest.approx(11)
    assert area_um2(SQUARE) == pytest.approx(10_000) == area_um2(SQUARE[::-1] + 50)
    assert area_um2(SQUARE, "ellipse") == pytest.approx(np.pi * 50**2)


def test_units_are_those_a_person_would_use() -> None:
    assert [length_text(value) for value in (4.26, 345.4, 1240)] == ["4.3 µm", "345 µm", "1.24 mm"]
    assert [area_text(value) for value in (850, 520_000, 12_400_000)] == ["850 µm²", "0.520 mm²", "12.40 mm²"]
    assert size_text(SQUARE, "rectangle") == "0.010 mm²" and size_text(SQUARE[:2], "line") == "100 µm"


def test_areas_are_told_in_high_power_fields_where_their_size_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = SQUARE * 10  # 1 mm²
    assert size_text(whole, "rectangle") == "1.00 mm²"
    assert size_text(whole, "rectangle", 0.237) == "1.00 mm² = 4.2 fields"
    assert size_text(whole[:2], "line", 0.237) == "1.00 mm"
    assert np.pi * (22 / 40 / 2) ** 2 == pytest.approx(0.237, abs=1e-3), "as the preference says"
    monkeypatch.setattr("napari_pathotune.compat.preferences", lambda: Preferences(field_mm2=0.5))
    from napari.layers import Shapes

    assert sizes_of(Shapes([whole], shape_type="polygon")) == ["1.00 mm² = 2.0 fields"]


@pytest.fixture
def panel(qapp: Any, viewer: Any, add: Any, slide_path: Path) -> Any:
    from napari_pathotune.session import session_of
    from napari_pathotune.widgets.measure import MeasurePanel

    add([slide_layer(open_slide(slide_path))])
    return MeasurePanel(session_of(viewer))


def test_what_is_drawn_carries_its_size_in_micrometres(panel: Any, viewer: Any) -> None:
    panel.distance.click()
    layer = panel.layer
    assert layer.mode == "add_line" and viewer.layers.selection.active is layer
    layer.add_lines(np.array([[0, 0], [0, 400]], float))  # 400 pixels of 0.5 µm
    layer.add_rectangles(np.array([[0, 0], [0, 200], [200, 200], [200, 0]], float))
    assert list(layer.features["size"]) == ["200 µm", "0.010 mm²"] and panel.last.text() == "Last: 0.010 mm²"
    assert panel.session.drawing_layers() == [], "a measurement is no region to tune on"
    panel.area.click()
    assert panel.layer is layer and layer.mode == "add_polygon"
    layer.data = [shape * 2 for shape in layer.data]
    assert layer.features["size"].iloc[0] == "400 µm", "it follows when a shape is moved or stretched"
    panel.clear.click()
    assert panel.layer is None and panel.last.text() == ""


def test_nothing_is_measured_without_a_pixel_size(qapp: Any, viewer: Any, add: Any, silent_slide_path: Path) -> None:
    from napari_pathotune.session import session_of
    from napari_pathotune.widgets.measure import MeasurePanel

    add([slide_layer(open_slide(silent_slide_path))])
    panel = MeasurePanel(session_of(viewer))
    assert not panel.distance.isEnabled() and panel.draw("add_line") is None
    panel.session.state_mpp(0.5)
    assert panel.distance.isEnabled()
