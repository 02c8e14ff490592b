"""What other programs open lies where the classes lie."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image
from shapely.geometry import shape
from typer.testing import CliRunner

from pathotune.cli import app
from pathotune.errors import StoreMismatch, UsageError
from pathotune.inference.export import export_store, nice_length
from pathotune.inference.predictions import PredictionStore


@pytest.fixture
def store(run: Any, model: Any, tuning: Any, slide_path: Path, tmp_path: Path) -> PredictionStore:
    result, _ = run(slide_path, tuning, tmp_path)
    return PredictionStore.open(result["store"])


def test_outlines_are_valid_and_exact(store: PredictionStore, tmp_path: Path) -> None:
    path = export_store(store.path, "geojson", tmp_path / "o" / "a.geojson")
    features = json.loads(path.read_text())["features"]
    found = {feature["properties"]["classification"]["name"]: shape(feature["geometry"]) for feature in features}
    assert set(found) == {"dark", "light"}
    for name, area_mm2 in store.summary().items():
        assert found[name].is_valid
        assert found[name].area * 0.25**2 / 1e6 == pytest.approx(area_mm2, rel=1e-9)
    assert found["dark"].intersection(found["light"]).area == 0
    coordinates = np.concatenate(
        [np.asarray(part.exterior.coords) for part in getattr(found["dark"], "geoms", [found["dark"]])]
    )
    np.testing.assert_allclose(coordinates % 64, 0, atol=1e-9)


def test_table_has_a_row_per_tile(store: PredictionStore, tmp_path: Path) -> None:
    path = export_store(store.path, "csv", tmp_path / "a.csv")
    rows = list(csv.DictReader(path.open(encoding="utf-8")))
    assert len(rows) == (store.labels[:] > 0).sum()
    for row in rows[::37]:
        centre = float(row["x_px0"]) + 32, float(row["y_px0"]) + 32
        looked_up = store.at(*centre)
        assert looked_up is not None and max(looked_up, key=lambda name: looked_up[name]) == row["class"]
        assert float(row["p dark"]) + float(row["p light"]) == pytest.approx(1, abs=1e-5)


def test_picture_follows_the_slide(store: PredictionStore, tmp_path: Path, make_slide: Any) -> None:
    path = export_store(store.path, "png", tmp_path / "a.png")
    picture = np.asarray(Image.open(path).convert("RGB")).astype(int)
    left, right = picture[300, 200], picture[300, 1500]
    assert left[0] > left[1] + 60, "red over the dark half"
    assert right[1] > right[0] - 60 and right[1] > left[1] + 40, "green over the light half"
    other = make_slide(tmp_path / "other.tiff", boundary_px0=100)
    with pytest.raises(StoreMismatch, match=r"other\.tiff"):
        export_store(store.path, "png", tmp_path / "b.png", other)
    assert not (tmp_path / "b.png").exists() and not list(tmp_path.glob(".*.tmp"))


@pytest.mark.parametrize(("longest", "nice"), [(1, 1), (4.9, 2), (730, 500), (1000, 1000), (0.3, 0.2)])
def test_scale_bars_are_round(longest: float, nice: float) -> None:
    assert nice_length(longest) == pytest.approx(nice)


def test_what_is_not_sure_enough_belongs_to_no_class_in_any_format(store: PredictionStore, tmp_path: Path) -> None:
    largest = np.asarray(store.probabilities[:]).max(axis=0)[np.asarray(store.labels[:]) > 0]
    below = float(np.median(largest)) + 1e-7
    unsure = int((largest < np.float32(below)).sum())
    path = export_store(store.path, "geojson", tmp_path / "a.geojson", abstain_below=below)
    features = json.loads(path.read_text())["features"]
    found = {feature["properties"]["classification"]["name"]: shape(feature["geometry"]) for feature in features}
    assert "Abstained*" in found
    assert found["Abstained*"].area == pytest.approx(unsure * 64**2)
    whole = sum(geometry.area for geometry in found.values())
    assert whole == pytest.approx(len(largest) * 64**2), "nothing is lost, nothing counted twice"
    table = export_store(store.path, "csv", tmp_path / "a.csv", abstain_below=below)
    rows = list(csv.DictReader(table.open(encoding="utf-8")))
    assert sum(row["class"] == "Abstained*" for row in rows) == unsure and len(rows) == len(largest)
    plain = np.asarray(Image.open(export_store(store.path, "png", tmp_path / "a.png")))
    grey = np.asarray(Image.open(export_store(store.path, "png", tmp_path / "b.png", abstain_below=below)))
    assert plain.shape[0] == grey.shape[0] and not np.array_equal(plain, grey)
    with pytest.raises(UsageError, match="between 0 and 1"):
        export_store(store.path, "csv", tmp_path / "c.csv", abstain_below=60)


def test_everything_says_where_it_comes_from(store: PredictionStore, tmp_path: Path) -> None:
    """In the file, where its kind has a place that other programs pass over; beside a table. No folder of this disk."""
    said: list[dict[str, Any]] = []
    said.append(
        json.loads(export_store(store.path, "geojson", tmp_path / "a.geojson").read_text())["pathotune"]["provenance"]
    )
    said.append(json.loads(Image.open(export_store(store.path, "png", tmp_path / "a.png")).text["pathotune"]))  # type: ignore[attr-defined]
    export_store(store.path, "csv", tmp_path / "a.csv")
    said.append(json.loads((tmp_path / "a.csv.provenance.json").read_text(encoding="utf-8")))
    for one in said:
        assert one == said[0]
        assert one["slide"]["fingerprint"] == store.slide_fingerprint and one["tuning"]["name"] == "brightness"
        assert one["backbone"]["name"] and one["versions"]["pathotune"] and "research use only" in one["use"]
        assert str(tmp_path) not in json.dumps(one)


def test_ome_tiff_lies_where_the_store_does(store: PredictionStore, tmp_path: Path) -> None:
    path = export_store(store.path, "ome-tiff", tmp_path / "a.ome.tiff", abstain_below=0.9)
    with tifffile.TiffFile(path) as file:
        values, labels = (series.asarray() for series in file.series)
        assert [series.name for series in file.series] == ["probabilities", "classes"]
        said = tifffile.xml2dict(file.ome_metadata)["OME"]
    assert np.array_equal(values, store.probabilities[:])
    taken = np.asarray(store.probabilities[:]).max(axis=0) >= np.float32(0.9)
    assert np.array_equal(labels[taken], np.asarray(store.labels[:])[taken])
    assert set(np.unique(labels[~taken & (np.asarray(store.labels[:]) > 0)])) <= {3}, "Abstained*"
    pixels = said["Image"][0]["Pixels"]
    (dy, dx), (y, x) = store.placement_um("probabilities")
    assert (pixels["PhysicalSizeY"], pixels["PhysicalSizeX"]) == pytest.approx((dy, dx))
    assert (pixels["Plane"][0]["PositionY"], pixels["Plane"][0]["PositionX"]) == pytest.approx((y, x))
    assert [channel["Name"] for channel in pixels["Channel"]] == store.class_names
    assert store.slide_fingerprint in str(said["StructuredAnnotations"])


def exported(*words: Any) -> Any:
    return CliRunner().invoke(app, ["export", *map(str, words)])


def test_without_an_ending_it_is_a_folder_whatever_the_number(store: PredictionStore, tmp_path: Path) -> None:
    answer = exported(store.path, "--format", "csv", "--out", tmp_path / "tables", "--json")
    document = json.loads(answer.stdout)
    assert answer.exit_code == 0 and document["error"] is None
    assert Path(document["out"]) == tmp_path / "tables" / f"{store.path.name.removesuffix('.zarr')}.csv"
    assert Path(document["out"]).is_file()


def test_one_bad_store_costs_that_store_and_no_file_is_written_twice(store: PredictionStore, tmp_path: Path) -> None:
    (tmp_path / "bad.zarr").mkdir()
    answer = exported(tmp_path / "bad.zarr", store.path, "--format", "csv", "--out", tmp_path / "tables", "--json")
    bad, good = json.loads(answer.stdout)
    assert answer.exit_code == 3 and bad["error"] and Path(good["out"]).is_file()
    assert exported(tmp_path / "bad.zarr", tmp_path / "x.zarr", "--out", tmp_path / "tables").exit_code == 1
    shutil.copytree(store.path, tmp_path / "other" / store.path.name)
    answer = exported(store.path, tmp_path / "other" / store.path.name, "--format", "csv", "--out", tmp_path / "two")
    assert isinstance(answer.exception, UsageError) and not (tmp_path / "two").exists()
