"""Areas inside outlines: nothing is counted twice, and what is unsure or not predicted stands beside the classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as some
from shapely.geometry import LineString, Point, box

from pathotune.inference.areas import class_areas
from pathotune.inference.plan import Grid
from pathotune.inference.predictions import PredictionStore
from pathotune.regions import Region

NAMES = ("a", "b", "c")
# Cells of 40 x 30 px around tiles of 100 x 100: the first cell begins at (5 + 50 - 20, 7 + 50 - 15).
GRID = Grid(12, 9, (5.0, 7.0), (100.0, 100.0), (40.0, 30.0), (0.5, 0.25))
LEFT, TOP, RIGHT, BOTTOM = 35.0, 42.0, 35.0 + 9 * 40, 42.0 + 12 * 30
PX_MM2 = 0.5 * 0.25 / 1e6


@pytest.fixture(scope="module")
def probabilities() -> np.ndarray:
    rng = np.random.default_rng(0)
    values = rng.random((3, 12, 9)) ** 3
    values /= values.sum(axis=0)
    values[:, rng.random((12, 9)) < 0.3] = 0
    return values.astype(np.float32)


def test_the_whole_slide(probabilities: np.ndarray) -> None:
    found = class_areas(probabilities, GRID, NAMES)
    labels = np.where(probabilities.sum(axis=0) > 0, probabilities.argmax(axis=0), -1)
    for index, name in enumerate(NAMES):
        assert found.classes[name] == pytest.approx((labels == index).sum() * 1200 * PX_MM2)
    assert found.unpredicted_mm2 == pytest.approx((labels < 0).sum() * 1200 * PX_MM2)
    assert found.abstained_mm2 == 0 and sum(found.percent().values()) == pytest.approx(100)
    around = class_areas(probabilities, GRID, NAMES, box(LEFT, TOP, RIGHT, BOTTOM), name="slide")
    assert around.classes == pytest.approx(found.classes) and around.percent() == pytest.approx(found.percent())
    assert around.unpredicted_mm2 == pytest.approx(found.unpredicted_mm2)


@settings(deadline=None, max_examples=40)
@given(some.floats(LEFT, RIGHT), some.floats(0, 180), some.floats(0, 1))
def test_parts_add_up_to_the_whole(x: float, degrees: float, threshold: float) -> None:
    rng = np.random.default_rng(1)
    values = rng.dirichlet((1, 1, 1), (12, 9)).transpose(2, 0, 1) * (rng.random((12, 9)) < 0.7)
    whole = box(LEFT, TOP, RIGHT, BOTTOM)
    cut = shapely.affinity.rotate(box(x - 2000, -2000, x, 2000), degrees, origin=(x, 200))
    parts = [
        class_areas(values, GRID, NAMES, part, abstain_below=threshold)
        for part in (whole.intersection(cut), whole.difference(cut))
    ]
    found = class_areas(values, GRID, NAMES, abstain_below=threshold)
    for name in NAMES:
        assert sum(part.classes[name] for part in parts) == pytest.approx(found.classes[name], abs=1e-12)
    assert sum(part.abstained_mm2 for part in parts) == pytest.approx(found.abstained_mm2, abs=1e-12)
    assert sum(part.unpredicted_mm2 for part in parts) == pytest.approx(found.unpredicted_mm2, abs=1e-12)


def test_a_threshold_moves_area_from_the_classes_to_abstained(probabilities: np.ndarray) -> None:
    found = [class_areas(probabilities, GRID, NAMES, abstain_below=value) for value in (0.0, 0.5, 0.7, 0.9, 1.1)]
    assert all(np.diff([one.abstained_mm2 for one in found]) > 0)
    assert len({round(one.predicted_mm2, 12) for one in found}) == 1
    assert sum(found[-1].classes.values()) == 0 and sum(found[-1].percent().values()) == 0


def test_outlines_without_area_or_off_the_slide(probabilities: np.ndarray) -> None:
    for outline in (Point(100, 100), LineString([(50, 50), (90, 90)]), shapely.Polygon()):
        found = class_areas(probabilities, GRID, NAMES, outline)
        assert found.predicted_mm2 == found.unpredicted_mm2 == 0
    beyond = class_areas(probabilities, GRID, NAMES, box(RIGHT + 500, 0, RIGHT + 600, 100))
    assert beyond.predicted_mm2 == 0 and beyond.unpredicted_mm2 == pytest.approx(1e4 * PX_MM2)


def test_of_a_store(run: Any, model: Any, tuning: Any, slide_path: Path, tmp_path: Path) -> None:
    result, _ = run(slide_path, tuning, tmp_path, attention=False, box_px0=(0, 0, 1700, 640))
    store = PredictionStore.open(result["store"])
    regions = [Region(box(0, 0, 1400, 1280), "dark", name="middle"), Region(box(640, 0, 704, 640), None)]
    slide, middle, edge = store.areas(regions)
    assert slide.classes == pytest.approx(store.summary()) and slide.name == "slide"
    assert (middle.name, edge.name) == ("middle", "region")
    assert middle.classes["dark"] == pytest.approx(middle.classes["light"], rel=0.12)
    assert middle.unpredicted_mm2 == pytest.approx(1400 * 640 * 0.25**2 / 1e6, rel=0.05)
    unsure = store.areas(regions, abstain_below=1.01)[2]
    assert unsure.abstained_mm2 == pytest.approx(edge.predicted_mm2) == unsure.predicted_mm2 > 0
