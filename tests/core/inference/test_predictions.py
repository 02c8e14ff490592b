"""The store by itself: few files, valid metadata, and only what belongs to a slide is found."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from pathotune.errors import FileMissing, OutputRefused, StoreUnreadable
from pathotune.inference.cells import UnitValues
from pathotune.inference.plan import MAX_UNITS, Grid, order_tiles
from pathotune.inference.predictions import (
    PredictionStore,
    find_stores,
    read_attributes,
    remove_store,
    store_path,
)
from pathotune.inference.pyramids import write_pyramid
from pathotune.tiles.tileset import Reading, TileSet

Run = Callable[..., tuple[dict[str, Any], list[Any]]]
CLASSES = [{"name": "a", "color": [200, 0, 0]}, {"name": "b", "color": "#00a000"}]


def grid(rows: int, columns: int, *, stride: float = 100.0, tile: float = 100.0) -> Grid:
    return Grid(rows, columns, (0.0, 0.0), (tile, tile), (stride, stride), (0.25, 0.25), (4, 4))


def tiles_of(layout: Grid, rows: np.ndarray, columns: np.ndarray) -> TileSet:
    return TileSet.from_cells(
        rows, columns, rows=layout.rows, columns=layout.columns, tile_px0=layout.tile_px0,
        stride_px0=layout.stride_px0, slide_fingerprint="x", reading=Reading(0.5, 50, 50),
    )  # fmt: skip


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (3, 200), (40, 40), (268, 268), (500, 90), (700, 650)])
@pytest.mark.parametrize("extra", [False, True])
def test_at_most_some_fifty_files(tmp_path: Path, rows: int, columns: int, extra: bool) -> None:
    layout = grid(rows, columns)
    kept = {"sources": ["cls"], "reliability": ["uncertainty", "distance"] if extra else [], "features": 8 * extra}
    store = PredictionStore.create(tmp_path / "s.zarr", grid=layout, classes=CLASSES, identity={}, **kept)
    rng = np.random.default_rng(0)
    for unit in store.units():
        first = rng.random((unit.rows, unit.columns), np.float32)
        attention = rng.random((1, unit.rows * 4, unit.columns * 4)).astype(np.float16)
        probabilities = np.stack([first, 1 - first])
        values = UnitValues(probabilities, attention)
        if extra:
            reliability = np.ones((2, unit.rows, unit.columns), np.float16)
            values = values._replace(
                reliability=reliability, features=np.ones((unit.rows, unit.columns, 8), np.float16)
            )
        store.write_unit(unit, *values, state="done", tiles=1, planned=1)
        write_pyramid(store, unit, values)
    files = [path for path in (tmp_path / "s.zarr").rglob("*") if path.is_file()]
    # Uncertainty, distance and features are for a person who looks at one slide, not for a batch.
    assert len(files) <= (73 if extra else 52) and not [path for path in files if path.name.endswith(".tmp")]
    assert len(list(store.units())) <= MAX_UNITS
    for kind in store.kinds:
        for level, array in enumerate(store.pyramid(kind)):
            assert array.shape[-2:] == layout.shape(kind, level) and (array[:] > 0).mean() > 0.98
    assert store.shards_done == list(range(len(list(store.units()))))


def test_units_cover_every_cell_once() -> None:
    layout = grid(130, 77)
    count = np.zeros((130, 77), int)
    for index in range(int(np.prod(layout.units_shape))):
        unit = layout.unit(index)
        count[unit.row : unit.row + unit.rows, unit.column : unit.column + unit.columns] += 1
        inside = layout.unit_of(np.array([unit.row]), np.array([unit.column]))
        assert inside[0] == index
    assert (count == 1).all()


def test_order_is_a_permutation_that_grows_outward() -> None:
    layout = grid(90, 90)
    rows, columns = (values.ravel() for values in np.mgrid[:90, :90])
    tiles = tiles_of(layout, rows, columns)
    for start in (None, (4200.0, 1300.0)):
        order = order_tiles(tiles, layout, start_px0=start)
        np.testing.assert_array_equal(np.sort(order), np.arange(len(tiles)))
        units = layout.unit_of(tiles.row[order], tiles.column[order])
        assert len(np.flatnonzero(np.diff(units))) == np.prod(layout.units_shape) - 1, "one unit after the other"
    first = tiles.take(order[:16]).centres_px0()
    assert np.hypot(*(first - (4200, 1300)).T).max() < 1600


def test_metadata_lays_values_on_the_slide_for_any_reader(
    run: Run, model: Any, tuning: Any, slide_path: Path, tmp_path: Path
) -> None:
    result, _ = run(slide_path, tuning, tmp_path)
    store = PredictionStore.open(result["store"])
    for kind in store.kinds:
        group = zarr.open_group(str(Path(result["store"], kind)), mode="r")
        ome = group.attrs["ome"]
        assert ome["version"] == "0.5"
        image = ome["multiscales"][0]
        axes = [axis["name"] for axis in image["axes"]]
        assert axes == (["y", "x"] if kind == "classes" else ["c", "y", "x"])
        assert all(axis["unit"] == "micrometer" for axis in image["axes"] if axis["type"] == "space")
        for level, dataset in enumerate(image["datasets"]):
            array = group[dataset["path"]]
            assert array.ndim == len(axes) and array.metadata.dimension_names == tuple(axes)
            scale, translation = dataset["coordinateTransformations"]
            assert scale["type"] == "scale" and translation["type"] == "translation"
            assert tuple(scale["scale"][-2:]) == store.placement_um(kind, level)[0]
            assert tuple(translation["translation"][-2:]) == store.placement_um(kind, level)[1]
            # The whole level covers the grid, whatever its rounding: its first edge does not move.
            edge = np.subtract(translation["translation"][-2:], np.multiply(scale["scale"][-2:], 0.5))
            np.testing.assert_allclose(edge, -0.125, atol=1e-6)


def test_opens_with_ome_zarr(run: Run, model: Any, tuning: Any, slide_path: Path, tmp_path: Path) -> None:
    reader = pytest.importorskip("ome_zarr.reader", reason="ome-zarr is not installed")
    io = pytest.importorskip("ome_zarr.io", reason="ome-zarr is not installed")
    result, _ = run(slide_path, tuning, tmp_path)
    for kind in ("probabilities", "attention", "classes"):
        location = io.parse_url(str(Path(result["store"], kind)))
        nodes = list(reader.Reader(location)())
        assert nodes and len(nodes[0].data) == len(PredictionStore.open(result["store"]).pyramid(kind))


def test_attribute_says_where_it_comes_from(
    run: Run, model: Any, tuning: Any, slide_path: Path, tmp_path: Path
) -> None:
    result, _ = run(slide_path, tuning, tmp_path)
    attributes = read_attributes(result["store"])
    json.dumps(attributes, allow_nan=False)
    assert attributes["identity"]["tuning"] == tuning.fingerprint
    assert attributes["identity"]["precision"] == "float32"
    assert attributes["slide"]["mpp"] == pytest.approx([0.25, 0.25]) and attributes["slide"]["mpp_source"]
    assert attributes["slide"]["reader"] == "tiffslide" and attributes["slide"]["icc"] == "as stored"
    assert "batch_size" in attributes["job"]["arguments"] and attributes["device"] == "cpu"
    assert attributes["state"] == "complete" and attributes["seconds"] > 0
    assert attributes["tiles_done"] == result["tiles"] and attributes["versions"]["pathotune"]
    assert all(shard["state"] == "done" for shard in attributes["shards"].values())


def test_point_lookup(run: Run, model: Any, tuning: Any, slide_path: Path, tmp_path: Path) -> None:
    result, _ = run(slide_path, tuning, tmp_path, box_px0=(0, 0, 1700, 600))
    store = PredictionStore.open(result["store"])
    here = store.at(100, 100)
    assert here is not None and here["dark"] > 0.9
    there = store.at(1600, 100)
    assert there is not None and there["light"] > 0.9
    assert store.at(100, 1200) is None and store.at(-5, 3) is None and store.at(9999, 3) is None


def test_stores_are_found_by_the_slide_not_its_name(
    run: Run, model: Any, tuning: Any, make_slide: Any, tmp_path: Path
) -> None:
    path = make_slide(tmp_path / "slides" / "ä b.tiff") if (tmp_path / "slides").mkdir() is None else None
    beside, _ = run(path, tuning, tmp_path / "slides", box_px0=(0, 0, 300, 300))
    far, _ = run(path, tuning, tmp_path / "elsewhere" / "deep", box_px0=(0, 0, 300, 300))
    mine, _ = run(path, tuning, Path(os.environ["PATHOTUNE_RESULTS"]) / "study", box_px0=(0, 0, 300, 300))
    found = find_stores(path, [tmp_path / "elsewhere"])
    assert {str(item) for item in found} == {beside["store"], far["store"], mine["store"]}
    renamed = path.rename(path.with_name("renamed.tiff"))
    assert Path(beside["store"]) in find_stores(renamed)
    other = make_slide(path, boundary_px0=200)
    assert find_stores(other) == []


def test_only_our_stores_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    with pytest.raises(OutputRefused, match="no prediction store"):
        remove_store(tmp_path / "precious")
    with pytest.raises(StoreUnreadable, match="no prediction store"):
        PredictionStore.open(tmp_path / "precious")
    with pytest.raises(FileMissing):
        PredictionStore.open(tmp_path / "nothing")


def test_later_formats_are_refused(tmp_path: Path) -> None:
    store = PredictionStore.create(tmp_path / "s.zarr", grid=grid(3, 3), classes=CLASSES, identity={})
    store.attrs["format"] = 99
    store.save_attributes()
    with pytest.raises(StoreUnreadable, match="Update pathotune"):
        PredictionStore.open(tmp_path / "s.zarr")


def test_long_names_stay_unique(tmp_path: Path) -> None:
    first, second = (store_path(f"{'ü' * 150}{end}.svs", "tumour", tmp_path) for end in "ab")
    assert first != second and len(first.name.encode()) < 255
    assert store_path("a.svs", "t.pathotune.safetensors", tmp_path).name == "a.svs.t.pathotune.zarr"
