"""The scripted session's own parts: what it draws lies in its class, and a tile is what most of it is."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("napari")
pytest.importorskip("qtpy.QtTest")
shapely = pytest.importorskip("shapely")

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
if str(FOLDER) not in sys.path:
    sys.path.append(str(FOLDER))  # its scripts are run from there and are in no wheel

import annotation_session as script  # noqa: E402


def test_outlines_lie_in_their_area_and_apart() -> None:
    area = np.zeros((1200, 1600), bool)
    area[100:1000, 200:1500] = True
    outlines = [shapely.Polygon(outline) for outline in script.rounds_in(area, 3)]
    assert len(outlines) == 3 and all(one.area > 10_000 for one in outlines)
    assert all(shapely.box(200, 100, 1500, 1000).buffer(8).covers(one) for one in outlines)
    assert not any(one.intersects(two) for one in outlines for two in outlines if one is not two)


def test_a_tile_is_what_more_than_half_of_it_is() -> None:
    def class_at(x: Any, y: Any) -> Any:
        return np.where(np.asarray(y) > 500, -1, (np.asarray(x) > 1000).astype(int))

    scene = script.Scene(Path("x.tiff"), ("a", "b"), class_at, {})
    boxes = [(0, 0, 100, 100), (930, 0, 100, 100), (980, 0, 100, 100), (0, 480, 100, 100)]
    assert scene.labels(boxes).tolist() == [0, 0, 1, -1]
