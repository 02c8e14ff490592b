"""What is kept beside the probabilities: uncertainty, distance and features, for the tiles that are predicted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pathotune.events import Step
from pathotune.inference.predict import predict_slide
from pathotune.inference.predictions import PredictionStore
from pathotune.inference.tiletable import predicted_tiles

Run = Callable[..., tuple[dict[str, Any], list[Any]]]
KEPT = {"reliability": True, "features": True, "attention": False}


def from_grey(features: np.ndarray) -> np.ndarray:
    """A distance anybody can compute again: from a brightness of 0.4, in tenths."""
    return np.abs(features[:, 0] - 0.4) * 10


@pytest.fixture(autouse=True)
def space(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pathotune.inference.predict._STEP_S", 0.0)
    monkeypatch.setattr(
        "pathotune.training.distance.FeatureSpace.of", lambda tuning: SimpleNamespace(distance=from_grey)
    )


@pytest.fixture
def small(make_slide: Any, tmp_path: Path) -> Path:
    path: Path = make_slide(tmp_path / "a.tiff", size=(900, 700), boundary_px0=400)
    return path


def test_every_predicted_tile_has_all_of_it(run: Run, model: Any, tuning: Any, small: Path, tmp_path: Path) -> None:
    result, _ = run(small, tuning, tmp_path, box_px0=(0, 0, 900, 400), **KEPT)
    store = PredictionStore.open(result["store"])
    assert store.reliability_names == ["uncertainty", "distance"] and store.far_distance == 1.0
    assert store.kinds == ["probabilities", "classes", "reliability"]
    assert store.placement_um("reliability") == store.placement_um("probabilities")
    predicted = store.labels[:] > 0
    uncertainty, distance = store.reliability[:].astype(float)
    np.testing.assert_allclose(uncertainty[predicted], 1 - store.probabilities[:].max(axis=0)[predicted], atol=1e-3)
    features = store.features[:]
    np.testing.assert_allclose(distance[predicted], from_grey(features[predicted].astype(float)), atol=0.02)
    assert not predicted.all() and predicted.any()
    assert not uncertainty[~predicted].any() and not distance[~predicted].any() and not features[~predicted].any()
    table = predicted_tiles(store)
    assert len(table) == predicted.sum() == result["tiles"]
    np.testing.assert_array_equal(table.features, features[table.row, table.column])
    np.testing.assert_array_equal(table.distance, distance[table.row, table.column].astype(np.float16))
    for place in (0, len(table) // 2, len(table) - 1):
        said = store.at(*table.centres_px0[place])
        assert said is not None and max(said.values()) == pytest.approx(1 - table.uncertainty[place], abs=1e-6)


def test_a_tuning_without_statistics_has_no_distance(
    run: Run, model: Any, tuning: Any, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pathotune.training.distance.FeatureSpace.of", lambda tuning: None)
    result, _ = run(small, tuning, tmp_path, reliability=True, attention=False)
    store = PredictionStore.open(result["store"])
    assert store.reliability_names == ["uncertainty"] and store.reliability.shape[0] == 1
    assert store.far_distance is None and store.features is None
    table = predicted_tiles(store)
    assert table.distance is None and table.features is None and len(table) == result["tiles"]


def test_broken_off_and_resumed(run: Run, model: Any, tuning: Any, small: Path, tmp_path: Path) -> None:
    whole, _ = run(small, tuning, tmp_path / "whole", **KEPT)
    options = {"batch_size": 8, "device": "cpu", "precision": "float32"}
    stream = predict_slide(small, tuning, tmp_path / "parts", **KEPT, **options)
    for event in stream:
        if isinstance(event, Step) and event.done > 60:
            break
    stream.close()
    # What a store was begun with goes on, whatever is asked for now.
    resumed, _ = run(small, tuning, tmp_path / "parts", attention=False)
    assert resumed["status"] == "resumed" and resumed["tiles"] == whole["tiles"]
    one, other = PredictionStore.open(whole["store"]), PredictionStore.open(resumed["store"])
    np.testing.assert_allclose(one.reliability[:], other.reliability[:], atol=2e-3)
    np.testing.assert_allclose(one.features[:], other.features[:], atol=2e-3)


def test_a_damaged_shard_of_features_is_done_again(
    run: Run, model: Any, tuning: Any, small: Path, tmp_path: Path
) -> None:
    result, _ = run(small, tuning, tmp_path, **KEPT)
    before = PredictionStore.open(result["store"]).features[:]
    for shard in [path for path in Path(result["store"], "features", "c").rglob("*") if path.is_file()]:
        shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    assert len(predicted_tiles(PredictionStore.open(result["store"]))) == 0
    run(small, tuning, tmp_path, attention=False)
    np.testing.assert_allclose(PredictionStore.open(result["store"]).features[:], before, atol=2e-3)


def test_a_store_of_before_goes_on_without(run: Run, model: Any, tuning: Any, small: Path, tmp_path: Path) -> None:
    """Stores of the first version say nothing of reliability and features."""
    first, _ = run(small, tuning, tmp_path, attention=False, box_px0=(0, 0, 300, 300))
    document = Path(first["store"], "zarr.json")
    text = json.loads(document.read_text())
    for name in ("reliability", "features", "replaces"):
        text["attributes"]["pathotune"].pop(name)
    document.write_text(json.dumps(text))
    result, _ = run(small, tuning, tmp_path, **KEPT)
    store = PredictionStore.open(result["store"])
    assert result["status"] == "resumed" and store.is_complete
    assert store.reliability is None and store.features is None and store.reliability_names == []
    assert len(predicted_tiles(store)) == result["tiles"] and store.areas()[0].predicted_mm2 > 0
