"""Files of tile features: ours and those laid out as TRIDENT's and CLAM's, and which of them fit together."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from pathotune.backbones.card import BackboneCard, backbone_card
from pathotune.errors import FeaturesMismatch, FeaturesUnreadable, FileMissing, OutputRefused, TableUnreadable
from pathotune.features import FeatureSet, check_alike, check_features, features_of, find_features, header, reading_of
from pathotune.features.layouts import STATED_FILE
from pathotune.tiles.tileset import Reading

CARD: BackboneCard = dataclasses.replace(backbone_card("uni"), output_dim=8, mpp=0.5)


def feature_set(count: int = 30, **facts: Any) -> FeatureSet:
    random = np.random.default_rng(0)
    values: dict[str, Any] = {
        "features": random.normal(size=(count, 8)).astype(np.float32),
        "coords_px0": random.integers(0, 9000, (count, 2)).astype(float),
        "backbone": "uni",
        "mpp": 0.5,
        "tile_px": 256,
        "image_px": 224,
        "tile_px0": (512.0, 512.0),
        "slide": "a.svs",
        "slide_fingerprint": "f" * 32,
    }
    return FeatureSet(**{**values, **facts})


def trident(path: Path, count: int = 20, width: int = 8, encoder: str = "uni_v1", **changes: Any) -> Path:
    """A file as TRIDENT writes it."""
    places = {
        "patch_size": 256,
        "patch_size_level0": 512,
        "level0_magnification": 40,
        "target_magnification": 20,
        "overlap": 0,
        "name": "slide one",
        "savetodir": "20x_256px_0px_overlap",
        "level0_width": 40000,
        "level0_height": 30000,
        **changes,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["features"] = np.random.default_rng(1).normal(size=(count, width)).astype(np.float32)
        file["features"].attrs.update({"name": "slide one", "savetodir": "x", "encoder": encoder})
        file["coords"] = np.arange(2 * count).reshape(count, 2) * 512
        file["coords"].attrs.update({name: value for name, value in places.items() if value is not None})
    return path


def clam(path: Path, count: int = 20, places: dict[str, Any] | None = None) -> Path:
    """A file as CLAM writes it: two growing data sets, and of the tiles nothing unless the corners' file was copied."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, kind, width in (("features", np.float32, 8), ("coords", np.int32, 2)):
            data = np.arange(count * width).reshape(count, width).astype(kind)
            file.create_dataset(name, data=data, maxshape=(None, width), chunks=(1, width))
        file["coords"].attrs.update(places or {})
    return path


def test_saved_is_loaded_again(tmp_path: Path) -> None:
    made = feature_set(extra={"backbone_sha256": "abc", "reading": Reading(0.5, 256, 224).to_dict()}, tuning="t1")
    path = made.save(tmp_path / "sub" / "a.h5")
    again = FeatureSet.load(path)
    assert np.array_equal(again.features, made.features) and again.features.dtype == np.float32
    assert np.array_equal(again.coords_px0, made.coords_px0)
    for name in ("backbone", "mpp", "tile_px", "image_px", "tile_px0", "slide", "slide_fingerprint", "tuning"):
        assert getattr(again, name) == getattr(made, name)
    assert again.extra["backbone_sha256"] == "abc" and again.extra["layout"] == "pathotune"
    assert header(path) == again.header
    assert not [found for found in path.parent.iterdir() if found != path]


def test_corners_between_pixels_are_kept_exactly_and_rounded_for_others(tmp_path: Path) -> None:
    made = feature_set(coords_px0=np.array([[0.25, 7.5], [1000.75, 3.0]]), features=np.ones((2, 8), np.float32))
    path = made.save(tmp_path / "a.h5")
    assert np.array_equal(FeatureSet.load(path).coords_px0, made.coords_px0)
    with h5py.File(path) as file:
        assert file["coords"].dtype == np.int64
        assert np.abs(file["coords"][:] - made.coords_px0).max() <= 0.5


def test_ours_says_what_readers_of_trident_look_for(tmp_path: Path) -> None:
    with h5py.File(feature_set().save(tmp_path / "a.h5")) as file:
        places = file["coords"].attrs
        assert (places["patch_size"], places["patch_size_level0"]) == (256, 512)
        assert (places["target_magnification"], places["level0_magnification"]) == (20, 40)
        assert file["features"].attrs["encoder"] == "uni"


@pytest.mark.parametrize("count", [0, 1, 5000])
def test_some_rows_are_those_of_the_whole(tmp_path: Path, count: int) -> None:
    made = feature_set(count)
    path = made.save(tmp_path / "a.h5")
    rows = np.arange(0, count, 7)
    some = FeatureSet.load(path, rows)
    assert np.array_equal(some.features, made.features[rows]) and np.array_equal(some.coords_px0, made.coords_px0[rows])
    assert len(FeatureSet.load(path)) == count == header(path).count


def test_tridents_layout_is_read(tmp_path: Path) -> None:
    path = trident(tmp_path / "features_uni_v1" / "slide one.h5")
    about = header(path)
    assert (about.backbone, about.mpp, about.tile_px, about.tile_px0) == ("uni", 0.5, 256, (512.0, 512.0))
    assert about.extra["layout"] == "trident" and about.extra["mpp_from"] == "magnification"
    check_features(about, CARD)
    assert reading_of(about, CARD) == Reading(mpp=0.5, tile_px=256, image_px=224)
    loaded = FeatureSet.load(path)
    assert loaded.coords_px0[1].tolist() == [1024, 1536] and loaded.features.shape == (20, 8)


def test_tridents_older_files_name_their_encoder_by_the_folder(tmp_path: Path) -> None:
    path = trident(tmp_path / "features_conch_v15" / "a.h5", encoder="None", patch_size_level0=None)
    assert header(path).backbone == "conch_v1.5" and header(path).tile_px0 == (512.0, 512.0)
    assert header(trident(tmp_path / "elsewhere" / "a.h5", encoder="None")).backbone == ""


def test_a_file_that_does_not_say_what_has_to_be_known_is_refused_until_a_person_states_it(tmp_path: Path) -> None:
    path = clam(tmp_path / "h5_files" / "a.h5")
    assert math.isnan(header(path).mpp) and header(path).extra["layout"] == "clam"
    with pytest.raises(FeaturesMismatch, match="which backbone made it and its pixel size and how large"):
        check_features(FeatureSet.load(path), CARD)
    with pytest.raises(FeaturesMismatch, match="does not say"):
        reading_of(header(path))
    (path.parent / STATED_FILE).write_text("backbone: uni\nmpp: 0.5\ntile_px: 256\n")
    check_features(header(path), CARD, Reading(0.5, 256, 224))
    assert header(path).extra["mpp_from"] == "person"
    assert find_features(tmp_path, "somewhere/a.svs") == path


def test_clams_attributes_of_the_corners_are_read(tmp_path: Path) -> None:
    path = clam(tmp_path / "a.h5", places={"patch_size": 256, "patch_level": 1, "downsample": (4.0, 4.0), "name": "a"})
    about = header(path)
    assert (about.tile_px, about.tile_px0, about.slide) == (256, (1024.0, 1024.0), "a")


def test_a_statement_against_the_file_is_refused(tmp_path: Path) -> None:
    path = trident(tmp_path / "a.h5")
    stated = tmp_path / STATED_FILE
    stated.write_text("mpp: 0.46\n")  # what 20x is on this scanner
    assert header(path).mpp == 0.46 and header(path).extra["mpp_from"] == "person"
    for text, sentence in (
        ("mpp: 1.0", "mpp 0.5"),
        ("backbone: conch", "backbone uni"),
        ("tile_px: 512", "tile_px 256"),
    ):
        stated.write_text(text)
        with pytest.raises(FeaturesUnreadable, match=sentence):
            header(path)
    for text, sentence in (
        ("scale: 2", "may say"),
        ("mpp: 0", "positive"),
        ("mpp: [", "cannot be read"),
        ("7", "may say"),
    ):
        stated.write_text(text)
        with pytest.raises(TableUnreadable, match=sentence):
            header(path)


def test_a_magnification_is_a_round_number_and_an_mpp_is_not(tmp_path: Path) -> None:
    nominal = header(trident(tmp_path / "a.h5"))
    check_features(nominal, CARD, Reading(0.46, 256, 224))
    with pytest.raises(FeaturesMismatch, match=r"0.5 µm per pixel, and 0.25"):
        check_features(nominal, CARD, Reading(0.25, 256, 224))
    exact = feature_set().header
    check_features(exact, CARD, Reading(0.504, 256, 224))
    with pytest.raises(FeaturesMismatch, match=r"and 0.46"):
        check_features(exact, CARD, Reading(0.46, 256, 224))


@pytest.mark.parametrize(
    ("changes", "arguments", "sentence"),
    [
        ({"backbone": "conch"}, {}, "features of conch, and uni is needed"),
        ({"features": np.ones((30, 16), np.float32)}, {}, "16 features a tile, but UNI gives 8"),
        ({"mpp": 1.0}, {}, "1 µm per pixel, and 0.5"),
        ({"tile_px": 224}, {"reading": Reading(0.5, 256, 224)}, "tiles of 224 px, and tiles of 256"),
        ({"tuning": "abcdef123456"}, {}, "the tuning abcdef12…, and the plain backbone is needed"),
        ({}, {"tuning": "abcdef123456"}, "plain backbone, and the tuning abcdef12…"),
        ({"extra": {"backbone_sha256": "1" * 64}}, {"sha256": "2" * 64}, "other weights"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], arguments: dict[str, Any], sentence: str) -> None:
    check_features(feature_set(), CARD, Reading(0.5, 256, 224))
    with pytest.raises(FeaturesMismatch, match=sentence):
        check_features(feature_set(**changes), CARD, **arguments)


def test_files_of_a_cohort_have_to_be_alike(tmp_path: Path) -> None:
    first = feature_set().header
    assert check_alike([first, feature_set(5, slide="b.svs").header]) is first
    for changes, title in (
        ({"mpp": 0.25}, "pixel size"),
        ({"backbone": "x"}, "backbone"),
        ({"tile_px": 1}, "tile size"),
    ):
        with pytest.raises(FeaturesMismatch, match=title):
            check_alike([first, feature_set(**changes).header])
    with pytest.raises(FeaturesMismatch, match="no file"):
        check_alike([])


def test_a_slides_file_is_found_by_its_id(tmp_path: Path) -> None:
    for name in ("a.h5", "sub/a.h5", "TCGA-AA-0001-01Z-00-DX1.0F3E-44.h5", "b.tif.h5", "c.h5", "case.v2.h5"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "d.pt").touch()
    for slide, name in (
        ("a.svs", "a.h5"),
        ("a", "a.h5"),
        ("sub/a.svs", "sub/a.h5"),
        ("/elsewhere/a.svs", "a.h5"),
        ("/elsewhere/sub/a.svs", "sub/a.h5"),
        ("../slides/sub/a.svs", "sub/a.h5"),
        ("../a.svs", "a.h5"),
        ("TCGA-AA-0001-01Z-00-DX1.0F3E-44.svs", "TCGA-AA-0001-01Z-00-DX1.0F3E-44.h5"),
        ("TCGA-AA-0001-01Z-00-DX1.0F3E-44", "TCGA-AA-0001-01Z-00-DX1.0F3E-44.h5"),
        ("b.tif", "b.tif.h5"),
        ("c.ome.tiff", "c.h5"),
        ("case.v2", "case.v2.h5"),
        ("D:\\slides\\c.ndpi", "c.h5"),
    ):
        assert find_features(tmp_path, slide) == tmp_path / name
    with pytest.raises(FileMissing, match="file of tile features"):
        find_features(tmp_path, "none.svs")
    with pytest.raises(FileMissing, match="folder of features"):
        find_features(tmp_path / "none", "a.svs")
    with pytest.raises(FeaturesUnreadable, match=r"only d.pt"):
        find_features(tmp_path, "d.svs")


def test_found_checked_and_read_in_one(tmp_path: Path) -> None:
    made = feature_set()
    made.save(tmp_path / "a.h5")
    assert np.array_equal(features_of(tmp_path, "a.svs", CARD, Reading(0.5, 256, 224)).features, made.features)
    with pytest.raises(FeaturesMismatch):
        features_of(tmp_path, "a.svs", "conch")


def test_what_is_no_file_of_features_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    path.write_bytes(b"not this")
    with pytest.raises(FeaturesUnreadable, match="cannot be read as HDF5"):
        FeatureSet.load(path)
    whole = feature_set().save(tmp_path / "whole.h5")
    path.write_bytes(whole.read_bytes()[:3000])
    with pytest.raises(FeaturesUnreadable):
        FeatureSet.load(path)
    for features, coords, sentence in (
        (np.ones(768), np.ones((5, 2)), "one vector of a whole slide"),
        (np.ones((4, 8)), np.ones((5, 2)), "4 tiles"),
        (np.full((5, 8), np.nan), np.ones((5, 2)), "not finite"),
        (np.ones((5, 8)), None, "no data set 'coords'"),
    ):
        with h5py.File(path, "w") as file:
            file["features"] = features
            if coords is not None:
                file["coords"] = coords
        with pytest.raises(FeaturesUnreadable, match=sentence):
            FeatureSet.load(path)
    (tmp_path / "a.pt").touch()
    with pytest.raises(FeaturesUnreadable, match="no places"):
        FeatureSet.load(tmp_path / "a.pt")
    with pytest.raises(FileMissing):
        header(tmp_path / "none.h5")


def test_a_batch_of_one_in_front_is_passed_over_and_half_floats_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["features"] = np.arange(40).reshape(1, 5, 8).astype(np.float16)
        file["coords"] = np.arange(10).reshape(1, 5, 2)
    assert FeatureSet.load(path).features[2, 3] == 19
    assert FeatureSet.load(path, np.array([1, 4])).coords_px0.tolist() == [[2, 3], [8, 9]]


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    path = feature_set().save(tmp_path / "a.h5")
    with h5py.File(path, "a") as file:
        file.attrs["version"] = 99
    with pytest.raises(FeaturesUnreadable, match="format 99"):
        header(path)


def test_a_place_that_cannot_be_written_to_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputRefused, match="cannot be written"):
        feature_set().save(tmp_path / "file" / "a.h5")
