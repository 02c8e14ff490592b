"""Predicted genes on a slide: searched by name, switched without inference, beside what was measured on spots."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("qtpy.QtWidgets")
pytest.importorskip("napari")
from napari.layers import Layer

from napari_pathotune.genes import Genes, limits_of
from napari_pathotune.layers import facts, slide_layer, store_layers

TILE = 50.0
NAMES = ("ERBB2", "CD3E", "KRT8")


def make_store(folder: Path, slide_path: Path) -> Any:
    """Three genes on 8 × 12 tiles of a 600 × 400 slide, of which the last column holds no tissue."""
    from pathotune.inference.expression_layer import write_expression
    from pathotune.inference.plan import Grid
    from pathotune.inference.predictions import PredictionStore, store_path

    grid = Grid(8, 12, (0.0, 0.0), (TILE, TILE), (TILE, TILE), (0.5, 0.5))
    path = store_path(slide_path, "genes", folder)
    store = PredictionStore.create(path, grid=grid, classes=[{"name": "Tissue", "color": [1, 1, 1]}], identity={})
    row, column = (part.ravel() for part in np.indices((8, 11)))
    values = np.stack([column, row, row + column], axis=1).astype(np.float32)
    known = {
        "genes": list(NAMES),
        "r": [0.31, 0.72, None],
        "r_of": "test",
        "r_samples": 40,
        "unit": "log1p of counts at 1000 per sample",
        "scale": "counts",
        "total": 1000.0,
        "pathways": {"T CELLS": [1, 2]},
        "pathways_r": [0.5],
        "mean": [0.0, 1.0, 1.0],
        "sd": [1.0, 2.0, 4.0],
    }
    write_expression(store, values, row.astype(np.intp), column.astype(np.intp), known)
    there = np.zeros((1, 8, 12), np.float32)
    there[0, :, :11] = 1
    unit = next(store.units())
    store.write_unit(unit, there, None, None, None, state="done", tiles=88, planned=88)
    return store


@pytest.fixture
def store(tmp_path: Path, slide_path: Path) -> Any:
    return make_store(tmp_path, slide_path)


def write_spots(folder: Path) -> tuple[Path, Path]:
    """Three spots and their counts; the gene KRT8 was not measured."""
    places, counts = folder / "spots.csv", folder / "counts.csv"
    places.write_text("spot,x_px0,y_px0\na,100,100\nb,300,100\nc,500,300\n")
    counts.write_text("spot,ERBB2,CD3E,OTHER\na,10,0,90\nb,0,50,50\nc,100,100,200\n")
    return places, counts


def test_genes_are_named_best_predicted_first_with_pathways_behind(store: Any) -> None:
    genes = Genes.of(store.path)
    assert genes is not None and genes.names == ["CD3E", "ERBB2", "KRT8", "Pathway T CELLS"]
    assert genes.label("CD3E") == "CD3E (r 0.72)" and genes.label("KRT8") == "KRT8"
    assert "40 test samples" in genes.judged("ERBB2") and "not known" in genes.judged("KRT8")
    values = genes.values("ERBB2")
    assert values.shape == (8, 12) and np.isnan(values[:, 11]).all() and values[3, 7] == 7
    pathway = genes.values("Pathway T CELLS")
    assert pathway[3, 7] == pytest.approx(((3 - 1) / 2 + (10 - 1) / 4) / 2)
    assert genes.unit("Pathway T CELLS") != genes.unit("CD3E")


def test_measured_values_are_on_the_scale_of_the_prediction(store: Any, tmp_path: Path) -> None:
    from napari_pathotune.genes import read_measured
    from pathotune.errors import TableUnreadable

    genes = Genes.of(store.path)
    assert genes is not None
    spots = read_measured(*write_spots(tmp_path), "s", (0.5, 0.5))
    assert genes.measured(spots.spots, "ERBB2") == pytest.approx(np.log1p([100.0, 0.0, 250.0]), rel=1e-5)
    with pytest.raises(TableUnreadable, match="KRT8 was not measured"):
        genes.measured(spots.spots, "KRT8")
    values = genes.measured(spots.spots, "Pathway T CELLS")  # by the gene of it that was measured
    assert values == pytest.approx((np.log1p([0.0, 500.0, 250.0]) - 1) / 2, rel=1e-5)
    data, options, kind = spots.layer(values, (0.0, 1.0), "x")
    assert kind == "points" and data[0] == pytest.approx((99.5, 99.5)) and options["scale"] == (0.5, 0.5)


def test_limits_are_those_of_what_is_there() -> None:
    low, high = limits_of(np.array([np.nan, 1.0, 2.0]), np.array([3.0]))
    assert 1.0 <= low < high <= 3.0
    assert limits_of(np.array([np.nan])) == (0.0, 1.0)
    assert limits_of(np.array([2.0]))[0] < limits_of(np.array([2.0]))[1]


@pytest.fixture
def dock(qapp: Any, viewer: Any, slide_path: Path, store: Any) -> Any:
    """A dock without a window, on a slide with predicted genes."""
    from napari_pathotune.widgets.dock import PathoTuneDock
    from pathotune.slides import open_slide

    made = PathoTuneDock(viewer)
    slide = open_slide(slide_path)
    for data in [slide_layer(slide), *store_layers(store, slide.path)]:
        viewer.add_layer(Layer.create(*data))
    yield made
    made.tune.board.close()
    made.close()


def test_a_gene_is_searched_and_shown_without_inference(dock: Any, viewer: Any, notices: list[str]) -> None:
    panel, result = dock.genes, dock.session.result
    assert not panel.isHidden() and panel.gene == "CD3E" and dock.overlay.isHidden()
    layer = result.others["gene"]
    assert layer.visible and not result.classes.visible and "CD3E (r 0.72)" in layer.name
    panel.name.lineEdit().setText("erbb")
    panel.name.lineEdit().returnPressed.emit()
    assert panel.gene == "ERBB2" and layer.data[3, 7] == 7 and "ERBB2" in layer.name and "0.31" in panel.text.text()
    assert (layer.scale, layer.translate) == (pytest.approx((25.0, 25.0)), pytest.approx((12.25, 12.25)))
    place = dock.session.place_at((3 * 25.0 + 12, 7 * 25.0 + 12))
    assert panel.reading_at(place) == "ERBB2\u00a07.00 (predicted)" == dock.readout.says(place)
    assert panel.reading_at(dock.session.place_at((0.0, 11.5 * 25))) == "", "no tissue there"
    panel.name.lineEdit().setText("nothing such")
    panel.name.lineEdit().returnPressed.emit()
    assert "nothing such" in notices[-1] and panel.gene == "ERBB2"
    assert len([one for one in viewer.layers if facts(one).get("kind") == "gene"]) == 1


def test_a_store_opened_by_itself_lies_on_its_open_slide(
    dock: Any, viewer: Any, tmp_path: Path, slide_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from napari_pathotune import compat, reader
    from pathotune.slides import open_slide

    monkeypatch.setattr(compat, "current_viewer", lambda: viewer)
    monkeypatch.setattr(compat, "show_slide_view", lambda _: None)
    (tmp_path / "elsewhere").mkdir()
    with open_slide(slide_path) as slide:
        known = {"its own": slide.fingerprint, "another": "f" * 32}
    for name, fingerprint in known.items():
        store = make_store(tmp_path / "elsewhere" / name, slide_path)
        store.attrs["identity"] = {"slide": fingerprint}
        store.save_attributes()
        data = reader._read_store(store.path)
        paths = {options["metadata"]["pathotune"]["slide_path"] for _, options, _ in data}
        assert paths == {str(slide_path) if name == "its own" else ""}


def test_measured_spots_share_the_colours_of_the_prediction(
    dock: Any, viewer: Any, tmp_path: Path, notices: list[str]
) -> None:
    panel = dock.genes
    panel.show_gene("ERBB2")
    panel.load_measured(*write_spots(tmp_path))
    (points,) = [one for one in viewer.layers if facts(one).get("kind") == "measured"]
    layer = dock.session.result.others["gene"]
    assert points.face_contrast_limits == pytest.approx(tuple(layer.contrast_limits)) and len(points.data) == 3
    colors = np.asarray(points.face_color)
    assert not np.allclose(colors[0], colors[1]), "another value, another colour"
    measured, there = np.log1p([100.0, 0.0, 250.0]), [2.0, 6.0, 10.0]  # ERBB2 is the column
    said = f"3 of 3 measured spots lie on predicted tiles: r {np.corrcoef(measured, there)[0, 1]:.2f} on this slide"
    assert said in panel.text.text()
    assert panel.range.unit == "log1p of counts at 1000 per sample" and panel.range.unit in panel.range.accessibleName()
    panel.show_gene("CD3E")
    assert points in viewer.layers and points.name == "measured CD3E"
    assert not np.allclose(np.asarray(points.face_color), colors)
    panel.show_gene("KRT8")
    assert not points.visible and "KRT8 was not measured" in notices[-1]
    assert not dock.session.drawing_layers(), "measured spots are nothing that was drawn"
    panel.load_measured(tmp_path / "none.csv")
    assert "none.csv" in notices[-1]
