"""The table of areas adds up, counts what lies inside an outline only, and leaves the window as text."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely

pytest.importorskip("napari")

from napari_pathotune.areas import SLIDE, UNPREDICTED, areas_of, cells_of, named_outlines, rows_of, table_text
from napari_pathotune.layers import result_layers, slide_layer
from napari_pathotune.overlay import ClassGrid
from pathotune.regions.region import Region
from pathotune.slides import open_slide

MPP = (0.5, 0.5)


def half_and_half() -> ClassGrid:
    """Class a on the left half of 600 × 400 pixels, b on the right, the lowest row not predicted; cells of 50 µm."""
    probabilities = np.zeros((2, 4, 6), np.float32)
    probabilities[0, :3, :3] = 1
    probabilities[1, :3, 3:] = 1
    return ClassGrid(probabilities, ("a", "b"), np.array([[9, 9, 9], [1, 2, 3]]), (50.0, 50.0), (24.75, 24.75))


def test_cells_lie_where_the_grid_lies() -> None:
    assert cells_of(half_and_half(), MPP).box_px0(1, 2, 1, 1) == pytest.approx((200, 100, 100, 100))


def test_the_slide_and_each_outline_add_up() -> None:
    outline = Region(shapely.box(250, 0, 400, 400), "Tumor")
    whole, inside = areas_of(half_and_half(), MPP, [outline])
    cell_mm2 = 0.05**2
    assert whole.name == SLIDE and whole.classes == pytest.approx({"a": 9 * cell_mm2, "b": 9 * cell_mm2})
    assert inside.classes == pytest.approx({"a": 1.5 * cell_mm2, "b": 3 * cell_mm2})
    assert inside.unpredicted_mm2 == pytest.approx(1.5 * cell_mm2)
    total = inside.predicted_mm2 + inside.unpredicted_mm2
    assert total == pytest.approx(outline.geometry.area * 0.5**2 / 1e6)
    assert sum(inside.percent().values()) == pytest.approx(100)


def test_every_outline_has_a_name_of_its_own_and_points_have_none() -> None:
    square = shapely.box(0, 0, 10, 10)
    regions = [
        Region(square, "Tumor"),
        Region(shapely.Point(1, 1), "Tumor"),
        Region(square, "Tumor"),
        Region(square, "Stroma", name="edge"),
        Region(square, None),
    ]
    assert [name for name, _ in named_outlines(regions)] == ["Tumor 1", "Tumor 2", "edge", "Region 1"]


def test_the_text_holds_every_row_and_says_what_it_is_for() -> None:
    areas = areas_of(half_and_half(), MPP, [Region(shapely.box(0, 0, 100, 100), 'a, "b"')])
    text = table_text(areas, ["slide: x\ny.svs"])
    comments = [line for line in text.splitlines() if line.startswith("#")]
    assert comments[0] == "# slide: x y.svs" and "not for diagnosis" in comments[-1]
    rows = list(csv.DictReader(io.StringIO("\n".join(text.splitlines()[len(comments) :]))))
    assert len(rows) == len(rows_of(areas)) == 6
    assert rows[0] == {"place": SLIDE, "class": "a", "area_mm2": "0.022500", "percent_of_predicted": "50.00"}
    assert rows[-1]["place"] == 'a, "b" 1' and rows[-1]["class"] == UNPREDICTED


@pytest.fixture
def panel(qapp: Any, viewer: Any, add: Any, slide_path: Path) -> Any:
    from napari_pathotune.session import session_of
    from napari_pathotune.widgets.areas import AreaPanel

    add([slide_layer(open_slide(slide_path))])
    return AreaPanel(session_of(viewer))


def test_the_panel_counts_copies_and_saves(panel: Any, viewer: Any, add: Any, slide_path: Path, tmp_path: Path) -> None:
    from qtpy.QtGui import QGuiApplication

    assert "Nothing is predicted" in panel.hint.text() and not panel.copy.isEnabled()
    add(result_layers(half_and_half(), "/r/one.zarr", "t", str(slide_path)))
    panel.refresh()
    assert panel.table.rowCount() == 4 and panel.table.item(1, 2).text() == "50.0"
    outline = np.array([[0, 0], [0, 100], [100, 100], [100, 0]], float) * 0.5 - 0.25
    viewer.add_shapes([outline], shape_type="polygon", name="Tumor")
    panel.again.click()
    assert panel.table.rowCount() == 8 and panel.table.item(4, 0).text().startswith("Tumor")
    assert panel.table.item(5, 2).text() == "100.0"
    panel.copy_table()
    assert "Tumor 1\ta\t0.002500\t100.00" in QGuiApplication.clipboard().text()
    saved = panel.save(tmp_path / "areas ä.csv")
    assert saved is not None and "tuning: t" in saved.read_text(encoding="utf-8")


def test_a_place_that_cannot_be_written_is_said(panel: Any, tmp_path: Path, notices: list[str]) -> None:
    assert panel.save(tmp_path / "absent" / "areas.csv") is None
    assert "could not be written" in notices[0]
