"""The card of a tuning: what a pathologist should know, nothing that names a person, and pictures where there are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pathotune.methods.card import model_card, picture_path
from pathotune.methods.checkpoint import Tuning, card_path
from pathotune.methods.library import rename
from pathotune.tiles import Reading


def tuning(**changes: Any) -> Tuning:
    facts: dict[str, Any] = {
        "method": "linear_probe",
        "config": {},
        "task": {
            "title": "Tumour and stroma",
            "stain": "H&E",
            "organ": "breast",
            "classes": [
                {"name": "tumour", "color": [1, 2, 3], "sentence": "Nests of invasive cells."},
                {"name": "fat | other", "color": [4, 5, 6], "sentence": ""},
            ],
        },
        "classes": [{"name": "tumour", "color": [1, 2, 3]}, {"name": "fat | other", "color": [4, 5, 6]}],
        "backbone": {
            "name": "uni",
            "embed_dim": 1024,
            "licence": "CC-BY-NC-ND-4.0",
            "sha256": "ab",
            "non_commercial": 1,
        },
        "reading": Reading(mpp=0.5, tile_px=224, image_px=224),
        "text_encoder": {"name": "minilm", "dim": 384},
        "training": {
            "slides": ["slide-1a", "slide-2b"],
            "slide_mpp": [0.25, 0.503],
            "scanners": ["aperio 40×", "not stated"],
            "regions": 12,
            "regions_per_class": {"tumour": 5, "fat | other": 7},
            "tiles_per_class": {"tumour": 50, "fat | other": 70},
            "validation_tiles_per_class": {"tumour": 10, "fat | other": 20},
            "split": {"by": "region", "fraction": 0.25},
            "metrics": {
                "balanced_accuracy": 0.875,
                "ci95": {"balanced_accuracy": [0.8, 0.95]},
                "per_class": {"tumour": {"recall": 0.9, "precision": 0.82, "f1": 0.86}},
                "confusion": [[9, 1], [3, 17]],
            },
            "best_epoch": 5,
            "epochs": 7,
            "ended": "cancelled",
            "sweep": "learning rate 0.001, stain jitter 0.1",
        },
        "tensors": {"trained.a": np.zeros(3, np.float32)},
        **changes,
    }
    return Tuning(**facts)


def test_all_that_should_be_known_stands_in_it() -> None:
    card = model_card(tuning())
    for words in (
        ("research use only", "Not for diagnosis", "breast, H&E"),  # intended use
        ("Nests of invasive cells.", "| tumour |", r"fat \| other", "as drawn"),  # class definitions
        ("| slide-1a | aperio 40× | 0.25 |", "| slide-2b | not stated | 0.503 |", "Regions drawn on them: 12"),
        ("25% of the tiles, split by region",),
        ("0.875", "0.800 to 0.950", "| tumour | 0.90 | 0.82 | 0.86 | 9 | 1 |"),  # scores on held-out regions
        ("CC-BY-NC-ND-4.0", "forbids commercial use", "minilm (licence: Apache-2.0)"),  # licence chain
        ("cancelled", "short trial: learning rate 0.001"),
    ):
        assert all(word in card for word in words), [word for word in words if word not in card]


def test_a_sparse_tuning_has_a_card_too() -> None:
    card = model_card(tuning(training={}, task={}, text_encoder=None))
    assert "research use only" in card and "A table of tiles" in card and "taken for" not in card


def test_pictures_are_shown_where_they_lie_and_go_with_the_name(tmp_path: Path) -> None:
    made = tuning()
    path = tmp_path / "my tuning.pathotune.safetensors"
    picture_path(path, 1).parent.mkdir()
    picture_path(path, 1).write_bytes(b"jpg")
    made.save(path)
    text = card_path(path).read_text()
    assert "(my%20tuning.card/class-2.jpg)" in text and "class-1.jpg" not in text
    new = rename(path, "other")
    assert picture_path(new, 1).is_file() and "(other.card/class-2.jpg)" in card_path(new).read_text()
    assert not (tmp_path / "my tuning.card").exists()
