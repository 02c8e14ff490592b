"""The tuning file: whole, strict, without pickle and without names."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from pathotune.errors import FileMissing, OutputRefused, TuningUnreadable
from pathotune.methods.checkpoint import METADATA_KEY, Tuning, card_path, tuning_name, tuning_path
from pathotune.tiles import Reading


def tuning(**changes):
    facts = {
        "method": "pathotune",
        "config": {"tvp_tokens": 5},
        "task": {"name": "tumour", "title": "Tumour or not"},
        "classes": [{"name": "cancer", "color": [200, 0, 0]}, {"name": "im|mune", "color": [0, 0, 200]}],
        "backbone": {
            "name": "tiny",
            "source": "built in",
            "sha256": "ab" * 32,
            "embed_dim": 48,
            "mpp": 0.5,
            "licence": "CC BY-NC-ND 4.0",
            "non_commercial": True,
            "no_derivatives": True,
        },
        "reading": Reading(0.5, 256, 224),
        "texts": ("One sentence.", "Eine Färbung."),
        "text_encoder": {"name": "minilm", "dim": 3},
        "training": {
            "slides": ["slide-0011aabb"],
            "slide_mpp": [0.25],
            "regions_per_class": {"cancer": 3, "im|mune": 2},
            "tiles_per_class": {"cancer": 30, "im|mune": 20},
            "validation_tiles_per_class": {"cancer": 7, "im|mune": 5},
            "split": {"by": "region", "fraction": 0.24},
            "seed": 3,
            "epochs": 12,
            "best_epoch": 9,
            "metrics": {
                "balanced_accuracy": 0.875,
                "auc": None,
                "ece": 0.05,
                "ci95": {"balanced_accuracy": [0.7, 1.0]},
            },
            "trainable_parameters": 12345,
        },
        "calibration": {"temperature": 1.25},
        "feature_statistics": {"tiles": 5},
        "tensors": {
            "trained.a": np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32),
            "text.vectors": np.eye(2, 3, dtype=np.float32),
        },
    }
    return Tuning(**{**facts, **changes})


def test_everything_comes_back_to_the_bit(tmp_path):
    saved = tuning()
    path = saved.save(tmp_path / "Ein Ümlaut.pathotune.safetensors")
    loaded = Tuning.load(path)
    assert loaded.metadata() == saved.metadata()
    assert loaded.tensors.keys() == saved.tensors.keys()
    assert all(np.array_equal(loaded.tensors[key], value) for key, value in saved.tensors.items())
    assert list(loaded.trained) == ["a"] and np.array_equal(loaded.text_vectors, np.eye(2, 3))
    assert loaded.fingerprint == saved.fingerprint and len(loaded.fingerprint) == 64
    assert loaded.name == "Ein Ümlaut"
    assert loaded.reading == saved.reading
    assert loaded.created and loaded.versions["pathotune"]


def test_the_metadata_has_every_key_of_the_format(tmp_path):
    path = tuning().save(tmp_path / "x.safetensors")
    with safe_open(path, "np") as handle:
        data = json.loads(handle.metadata()[METADATA_KEY])
    assert set(data) == {
        *("format", "method", "config", "task", "classes", "backbone", "reading", "texts", "text_encoder", "genes"),
        *("pathways_sha256", "training", "calibration", "feature_statistics", "versions", "created"),
    }
    assert {"tile_px", "level_rule", "filter", "icc", "stain", "mpp"} <= set(data["reading"])


def test_names():
    assert tuning_name("a/b.pathotune.safetensors") == "b"
    assert tuning_path("a/b").name == "b.pathotune.safetensors"
    assert tuning_path("a/b.v2").name == "b.v2.pathotune.safetensors"
    assert tuning_path("a/b.safetensors").name == "b.safetensors"
    assert card_path("a/b.pathotune.safetensors").name == "b.md"


def test_the_card_tells_a_pathologist_what_it_is(tmp_path):
    text = card_path(tuning().save(tmp_path / "x")).read_text(encoding="utf-8")
    for part in (
        *("research use only", "cancer", "im\\|mune", "| 3 | 30 | 7 |", "128 µm", "slide-0011aabb", "One slide only"),
        *("CC BY-NC-ND", "commercial", "0.875", "0.700 to 1.000", "12,345", "Eine Färbung", "Tumour or not"),
    ):
        assert part in text, part
    assert "None" not in text and "nan" not in text


def test_a_damaged_file_is_refused(tmp_path):
    path = tuning().save(tmp_path / "x")
    content = path.read_bytes()
    for damaged in (b"", content[:7], content[:50], content[:-5], b"\xff" * 64, b"\x80\x04pickle" + content):
        path.write_bytes(damaged)
        with pytest.raises(TuningUnreadable, match=path.name):
            Tuning.load(path)


def test_files_that_are_no_tuning_are_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file({"a": np.zeros(3, np.float32)}, path)
    with pytest.raises(TuningUnreadable, match="no tuning"):
        Tuning.load(path)
    for text, sentence in (
        ("{}", "which format"),
        ("[1]", "damaged"),
        ("{", "damaged"),
        (json.dumps({"format": 99}), "format 99.*Update pathotune"),
        (json.dumps({"format": 1, "method": "x"}), "lacks config"),
    ):
        save_file({"a": np.zeros(3, np.float32)}, path, metadata={METADATA_KEY: text})
        with pytest.raises(TuningUnreadable, match=sentence):
            Tuning.load(path)
    data = tuning().metadata()
    for key, value in (("backbone", {"name": "x"}), ("classes", ["a"]), ("reading", {"mpp": 0.5}), ("config", 3)):
        save_file({"a": np.zeros(3, np.float32)}, path, metadata={METADATA_KEY: json.dumps({**data, key: value})})
        with pytest.raises(TuningUnreadable):
            Tuning.load(path)


def test_a_missing_file_and_an_unwritable_place(tmp_path):
    with pytest.raises(FileMissing):
        Tuning.load(tmp_path / "none.safetensors")
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputRefused, match="--out"):
        tuning().save(tmp_path / "file" / "x")


def test_saving_leaves_nothing_else_behind(tmp_path):
    tuning().save(tmp_path / "x")
    tuning().save(tmp_path / "x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.md", "x.pathotune.safetensors"]
