"""The calibration curve shows the numbers of the tuning's own document, and nothing where there are none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("napari")
pytest.importorskip("qtpy.QtWidgets")

from napari_pathotune.widgets.calibration import BAR, CalibrationCurve, column_text
from pathotune.training.metrics import classification_report


@pytest.fixture
def scores() -> dict[str, Any]:
    """Of 300 tiles whose probabilities mean what they say."""
    random = np.random.default_rng(0)
    said = random.uniform(0.5, 1.0, 300)
    labels = (random.uniform(size=300) > said).astype(int)
    return classification_report(np.stack([said, 1 - said], axis=1), labels, ("a", "b"), draws=0)


@pytest.fixture
def curve(qapp: Any) -> CalibrationCurve:
    return CalibrationCurve()


def test_every_column_is_drawn_as_high_as_its_accuracy(curve: CalibrationCurve, scores: dict[str, Any]) -> None:
    curve.show_scores(scores)
    curve.resize(400, 190)
    image = curve.grab().toImage()
    box = curve._box()
    for column in scores["calibration"]:
        # Beside the thin line of the interval in the middle.
        x = int(box.left() + (column["from"] + 0.25 * (column["to"] - column["from"])) * box.width())
        drawn = [y for y in range(image.height()) if image.pixelColor(x, y) == BAR]
        height = (box.bottom() - min(drawn)) / box.height()
        assert height == pytest.approx(column["accuracy"], abs=0.03)
    assert not curve.isHidden()


def test_it_is_told_in_words_too(curve: CalibrationCurve, scores: dict[str, Any]) -> None:
    curve.show_scores(scores)
    assert "300 held-out tiles" in curve.headline() and f"ECE {scores['ece']:.3f}" in curve.headline()
    assert column_text(scores["calibration"][0]) in curve.accessibleDescription()
    curve.resize(400, 190)
    box = curve._box()
    column = curve.column_at(box.left() + 0.75 * box.width())
    assert column is not None and column["from"] <= 0.75 <= column["to"]
    assert curve.column_at(box.left() + 0.1 * box.width()) is None
    assert curve.accessibleName() and curve.toolTip()


def test_it_hides_without_numbers_and_draws_older_ones_without_intervals(curve: CalibrationCurve) -> None:
    curve.show_scores({})
    assert curve.isHidden()
    older = {"from": 0.9, "to": 1.0, "n": 1, "confidence": 0.95, "accuracy": 1.0}
    curve.show_scores({"calibration": [older], "ece": None})
    assert not curve.isHidden() and curve.headline() == "1 held-out tile" and "1 tile." in column_text(older)
    curve.resize(400, 190)
    assert not curve.grab().isNull()
