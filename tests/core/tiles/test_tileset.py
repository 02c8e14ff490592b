"""What a tile is survives a file and refuses nonsense."""

from __future__ import annotations

import json

import numpy as np
import pytest

from pathotune.errors import TuningUnreadable, UsageError
from pathotune.tiles import LEVEL_RULE, Reading, TileSet


def test_a_reading_survives_json():
    reading = Reading(mpp=0.5, tile_px=256, image_px=224, filter="lanczos", icc=True, stain="macenko", decode="reduced")
    data = json.loads(json.dumps(reading.to_dict()))
    assert Reading.from_dict(data) == reading
    assert data["level_rule"] == LEVEL_RULE
    del data["decode"]
    assert Reading.from_dict(data).decode == "full", "as it was before there was a choice"


def test_sizes_follow_from_each_other():
    reading = Reading(mpp=0.5, tile_px=256, image_px=224)
    assert reading.tile_um == 128
    assert reading.image_mpp == pytest.approx(128 / 224)


@pytest.mark.parametrize(
    "wrong",
    [
        {"mpp": 0},
        {"mpp": float("nan")},
        {"tile_px": 0},
        {"image_px": -1},
        {"filter": "nearest"},
        {"stain": "vahadane"},
        {"decode": "half"},
    ],
)
def test_nonsense_is_refused_with_the_value(wrong):
    (value,) = wrong.values()
    with pytest.raises(UsageError, match=str(value)):
        Reading(**{"mpp": 0.5, "tile_px": 224, "image_px": 224, **wrong})


def test_a_reading_from_the_future_or_half_a_one_is_refused():
    data = Reading(0.5, 224, 224).to_dict()
    with pytest.raises(TuningUnreadable, match="nearest level"):
        Reading.from_dict({**data, "level_rule": "nearest level"})
    del data["mpp"]
    with pytest.raises(TuningUnreadable, match="mpp"):
        Reading.from_dict(data)


def test_taking_tiles_keeps_the_grid():
    reading = Reading(0.5, 224, 224)
    tiles = TileSet.from_cells(
        [0, 1, 2],
        [3, 4, 5],
        rows=10,
        columns=20,
        tile_px0=(100.0, 50.0),
        stride_px0=(33.3, 44.4),
        slide_fingerprint="f",
        reading=reading,
        origin_px0=(5.0, 7.0),
    )
    np.testing.assert_array_equal(tiles.x_px0, 5.0 + np.array([3, 4, 5]) * 33.3)
    np.testing.assert_array_equal(tiles.centres_px0()[:, 1], 7.0 + np.array([0, 1, 2]) * 44.4 + 25.0)
    part = tiles.take([2, 0])
    assert (len(part), part.rows, part.columns) == (2, 10, 20)
    np.testing.assert_array_equal(part.boxes, tiles.boxes[[2, 0]])
    assert len(tiles.take(np.array([False, True, False]))) == 1
