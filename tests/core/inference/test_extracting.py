"""Features of a slide's tiles: right numbers at the right places, gone on with after a kill, kept where they are."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pathotune.backbones.surface import Backbone
from pathotune.errors import FeaturesMismatch, MissingPixelSize, OutputRefused, StoreBusy, TuningMismatch
from pathotune.events import Event, Finished, Note, Step, result_of
from pathotune.features import FeatureSet, check_features, header
from pathotune.inference.extracting import extract
from pathotune.inference.featurepart import FeaturePart, part_folder
from pathotune.inference.leases import leased
from pathotune.methods.checkpoint import Tuning
from pathotune.slides import open_slide
from pathotune.tiles.grid import tile_grid
from pathotune.tiles.reader import TileReader
from pathotune.tiles.tileset import Reading
from pathotune.tiles.tissue import tissue_mask

OPTIONS: dict[str, Any] = {"device": "cpu", "precision": "float32", "batch_size": 7}


@pytest.fixture(autouse=True)
def every_step_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pathotune.inference.extracting._STEP_S", 0.0)


@pytest.fixture
def backbone(tiny_backbone: Callable[..., Backbone]) -> Backbone:
    return tiny_backbone()


def linear_probe(backbone: Backbone, folder: Path) -> Tuning:
    """A saved linear probe on that backbone with drawn weights."""
    from pathotune.methods import METHODS, build_model, load_config

    config = load_config("linear_probe", {})
    model = METHODS.load("linear_probe")(config, backbone, ("a", "b"), None)
    state = model.trainable_state()
    tuning = Tuning(
        method="linear_probe",
        config={},
        task={},
        classes=[{"name": "a", "color": None}, {"name": "b", "color": None}],
        backbone={"name": backbone.card.name, "embed_dim": 48, "mpp": 0.5, "sha256": backbone.weights_sha256},
        reading=backbone.card.reading(),
        tensors={f"trained.{name}": value for name, value in state.items()},
    )
    tuning.save(folder / "probe")
    build_model(tuning, backbone)
    return tuning


def test_the_features_are_those_of_the_backbone_at_those_places(
    slide_path: Path, backbone: Backbone, tmp_path: Path
) -> None:
    result = result_of(extract(slide_path, backbone, tmp_path / "out", **OPTIONS))
    assert (result["status"], result["out"], result["error"]) == ("done", str(tmp_path / "out" / "slide.h5"), None)
    made = FeatureSet.load(result["out"])
    with open_slide(slide_path) as slide:
        tiles = tile_grid(slide, backbone.card.reading(), tissue=tissue_mask(slide))
        assert len(made) == len(tiles) == result["tiles"] > 20 and result["width"] == 48
        assert np.array_equal(made.coords_px0, np.stack([tiles.x_px0, tiles.y_px0], axis=1))
        images = TileReader(slide, backbone.card.reading()).read_at(tiles.x_px0, tiles.y_px0)
        assert made.slide_fingerprint == slide.fingerprint and made.tile_px0 == tiles.tile_px0 == (128.0, 128.0)
    with torch.inference_mode():
        pooled = backbone(backbone.normalise(torch.from_numpy(images))).pooled.numpy()
    assert np.allclose(made.features, pooled, atol=1e-5)
    check_features(made, backbone.card, backbone.card.reading(), sha256=backbone.weights_sha256)
    assert (made.backbone, made.mpp, made.tile_px, made.image_px, made.tuning) == ("tiny-plain", 0.5, 64, 64, "")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["slide.h5"]


def test_with_a_tuning_they_are_what_its_head_sees(slide_path: Path, backbone: Backbone, tmp_path: Path) -> None:
    from pathotune.methods import build_model

    tuning = linear_probe(backbone, tmp_path)
    result = result_of(extract(slide_path, backbone, tmp_path / "out", tuning=tuning, **OPTIONS))
    made = FeatureSet.load(result["out"])
    assert made.tuning == tuning.fingerprint and made.extra["tuning_name"] == "probe"
    with open_slide(slide_path) as slide:
        images = TileReader(slide, tuning.reading).read_at(*made.coords_px0[:5].T)
    with torch.inference_mode():
        seen = build_model(tuning, backbone)(backbone.normalise(torch.from_numpy(images))).features.numpy()
    assert np.allclose(made.features[:5], seen, atol=1e-5)
    with pytest.raises(FeaturesMismatch, match="plain backbone is needed"):
        check_features(made, backbone.card)


def test_a_file_that_is_there_is_kept_without_loading_anything(
    slide_path: Path, backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = result_of(extract(slide_path, backbone, tmp_path, **OPTIONS))
    stamp = os.stat(first["out"]).st_mtime_ns
    monkeypatch.setattr("pathotune.inference.extracting.tissue_mask", None)
    again = result_of(extract(slide_path, backbone, tmp_path, **OPTIONS))
    assert 0 <= first["model_busy"] <= 1 and again["model_busy"] is None
    assert (again["status"], again["tiles"]) == ("kept", first["tiles"]) and os.stat(first["out"]).st_mtime_ns == stamp
    monkeypatch.setattr("pathotune.backbones.remembered.remembered_sha256", lambda card: backbone.weights_sha256)

    def fail() -> Backbone:
        raise AssertionError("loaded")

    monkeypatch.setattr("pathotune.backbones.load_backbone", fail)
    assert result_of(extract(slide_path, backbone.card, tmp_path, **OPTIONS))["status"] == "kept"


def test_a_file_of_other_work_is_left_alone_until_restart(
    slide_path: Path, backbone: Backbone, tiny_backbone: Callable[..., Backbone], tmp_path: Path
) -> None:
    first = result_of(extract(slide_path, backbone, tmp_path, **OPTIONS))
    before = Path(first["out"]).read_bytes()
    for arguments, sentence in (
        ({"backbone": tiny_backbone(seed=1)}, "another backbone weights"),
        ({"backbone": tiny_backbone("registers")}, "another backbone, backbone weights"),
        ({"backbone": backbone, "stride_px": 32}, "another distance from tile to tile"),
        ({"backbone": backbone, "precision": "bfloat16"}, "another number format"),
        ({"backbone": backbone, "tuning": linear_probe(backbone, tmp_path / "t")}, "another tuning"),
    ):
        with pytest.raises(FeaturesMismatch, match=f"{sentence}.*--restart"):
            result_of(extract(slide_path, out=tmp_path, **{**OPTIONS, **arguments}))
        assert Path(first["out"]).read_bytes() == before
    denser = result_of(extract(slide_path, backbone, tmp_path, stride_px=32, resume=False, **OPTIONS))
    assert denser["tiles"] > 3 * first["tiles"] and header(denser["out"]).count == denser["tiles"]


@pytest.mark.parametrize("how", ["cancel", "close"])
def test_what_was_cut_off_goes_on_and_ends_as_without(
    how: str, slide_path: Path, backbone: Backbone, tmp_path: Path
) -> None:
    whole = FeatureSet.load(result_of(extract(slide_path, backbone, tmp_path / "whole", **OPTIONS))["out"])
    out, seen = tmp_path / "out", 0

    def stop() -> bool:
        return how == "cancel" and seen > 3

    stream = extract(slide_path, backbone, out, cancel=stop, **{**OPTIONS, "batch_size": 2})
    for event in stream:
        seen += 1
        if how == "close" and seen > 4:
            stream.close()  # type: ignore[attr-defined]
            break
        if isinstance(event, Finished):
            assert event.result["status"] == "cancelled" and event.result["out"] is None
    assert not (out / "slide.h5").exists() and part_folder(out / "slide.h5").is_dir()
    done = np.fromfile(part_folder(out / "slide.h5") / "done", np.uint8)
    looked_at = _count_tiles(backbone)
    result = result_of(extract(slide_path, backbone, out, **OPTIONS))
    assert result["status"] == ("resumed" if done.any() else "done")
    assert sum(looked_at) == len(whole) - done.sum()
    assert np.allclose(FeatureSet.load(result["out"]).features, whole.features, atol=1e-5)
    assert [path.name for path in out.iterdir()] == ["slide.h5"]


def _count_tiles(backbone: Backbone) -> list[int]:
    """How many tiles each later forward pass has."""
    seen: list[int] = []
    backbone.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    return seen


def test_an_unfinished_run_of_other_work_is_begun_again(slide_path: Path, backbone: Backbone, tmp_path: Path) -> None:
    stream = extract(slide_path, backbone, tmp_path, stride_px=48, **{**OPTIONS, "batch_size": 2})
    for _, _ in zip(range(6), stream, strict=False):
        pass
    stream.close()  # type: ignore[attr-defined]
    events = list(extract(slide_path, backbone, tmp_path, **OPTIONS))
    assert any(isinstance(event, Note) and "begun again" in event.text for event in events)
    assert events[-1].result["status"] == "done"  # type: ignore[attr-defined]


def test_a_killed_run_leaves_nothing_that_misleads_and_goes_on(
    slide_path: Path, backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lies on the disk in the middle of a run is what a kill leaves."""
    whole = FeatureSet.load(result_of(extract(slide_path, backbone, tmp_path / "whole", **OPTIONS))["out"])
    monkeypatch.setattr("pathotune.inference.featurepart.FLUSH_S", 0.0)
    stream = extract(slide_path, backbone, tmp_path / "running", **{**OPTIONS, "batch_size": 2})
    for event in stream:
        if isinstance(event, Step) and event.done > 10:
            break
    killed = tmp_path / "killed"
    shutil.copytree(tmp_path / "running", killed, ignore=shutil.ignore_patterns(".leases"))
    stream.close()  # type: ignore[attr-defined]
    assert [path.name for path in killed.iterdir()] == [".slide.features-part"]
    done = int(np.fromfile(part_folder(killed / "slide.h5") / "done", np.uint8).sum())
    assert 10 < done < len(whole)
    looked_at = _count_tiles(backbone)
    result = result_of(extract(slide_path, backbone, killed, **OPTIONS))
    assert result["status"] == "resumed" and sum(looked_at) == len(whole) - done
    assert np.allclose(FeatureSet.load(result["out"]).features, whole.features, atol=1e-5)


def test_two_processes_never_write_one_file(slide_path: Path, backbone: Backbone, tmp_path: Path) -> None:
    with leased(tmp_path / "slide.h5"), pytest.raises(StoreBusy, match="another process"):
        result_of(extract(slide_path, backbone, tmp_path, **OPTIONS))


def test_memory_that_runs_out_makes_the_batches_smaller(
    slide_path: Path, backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scarce(module: Any, inputs: Any) -> None:
        if len(inputs[0]) > 4:
            raise torch.OutOfMemoryError("out of memory")

    whole = FeatureSet.load(result_of(extract(slide_path, backbone, tmp_path / "whole", **OPTIONS))["out"])
    backbone.register_forward_pre_hook(scarce)
    result = result_of(extract(slide_path, backbone, tmp_path, **{**OPTIONS, "batch_size": 16}))
    assert np.allclose(FeatureSet.load(result["out"]).features, whole.features, atol=1e-5)


def test_a_slide_without_tissue_gives_no_file(
    make_slide: Callable[..., Path], backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tifffile

    path = tmp_path / "white.tiff"
    tifffile.imwrite(
        path,
        np.full((900, 1000, 3), 244, np.uint8),
        resolution=(40000, 40000),
        resolutionunit="CENTIMETER",
        tile=(256, 256),
    )
    result = result_of(extract(path, backbone, tmp_path / "out", **OPTIONS))
    assert (result["status"], result["out"], result["tiles"]) == ("empty", None, 0)
    assert not list((tmp_path / "out").rglob("*.h5"))


def test_a_slide_too_coarse_or_of_unknown_pixel_size_is_refused(
    make_slide: Callable[..., Path], backbone: Backbone, tmp_path: Path
) -> None:
    coarse = make_slide(tmp_path / "coarse.tiff", mpp=1.5)
    with pytest.raises(FeaturesMismatch, match=r"one pixel every 1.5 µm"):
        result_of(extract(coarse, backbone, tmp_path / "out", **OPTIONS))
    from PIL import Image

    Image.fromarray(np.full((600, 600, 3), (150, 60, 150), np.uint8)).save(tmp_path / "plain.png")
    with pytest.raises(MissingPixelSize):
        result_of(extract(tmp_path / "plain.png", backbone, tmp_path / "out", **OPTIONS))


def test_a_tuning_of_whole_slides_gives_no_features(
    slide_path: Path, backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pathotune.methods import METHODS
    from pathotune.registry import Entry

    tuning = linear_probe(backbone, tmp_path)
    tuning.method = "other"
    for level, sentence in (
        ("slide", "whole slide"),
        ("patient", "whole patient"),
        ("spot", "give its file as --backbone"),
    ):
        monkeypatch.setitem(METHODS._entries, "other", Entry("other", "x:y", "Other", {"level": level}))
        with pytest.raises(TuningMismatch, match=sentence):
            result_of(extract(slide_path, backbone, tmp_path / "out", tuning=tuning, **OPTIONS))


def test_a_part_counts_a_row_only_when_its_numbers_are_on_the_disk(tmp_path: Path) -> None:
    class Answered:
        features = np.arange(6, dtype=np.float32).reshape(3, 2)

    target, work = tmp_path / "a.h5", {"slide": "x"}
    part = FeaturePart(target, work, 5, 2)
    part.put(np.array([4, 0, 1]), Answered, part.done)
    assert FeaturePart(target, work, 5, 2).done.sum() == 0  # not flushed yet
    part.close()
    again = FeaturePart(target, work, 5, 2)
    assert again.done.tolist() == [True, True, False, False, True]
    values = np.zeros((5, 2))
    again.copy_into(values)
    assert values.tolist() == [[2, 3], [4, 5], [0, 0], [0, 0], [0, 1]]
    assert not FeaturePart(target, {"slide": "y"}, 5, 2).done.any()
    blocked = tmp_path / "file"
    blocked.touch()
    with pytest.raises(OutputRefused, match="Make room"):
        FeaturePart(blocked / "a.h5", work, 5, 2)


def test_a_tile_size_of_its_own_is_written(slide_path: Path, backbone: Backbone, tmp_path: Path) -> None:
    tuning = linear_probe(backbone, tmp_path)
    tuning.reading = Reading(mpp=0.4, tile_px=80, image_px=64)
    result = result_of(extract(slide_path, backbone, tmp_path / "out", tuning=tuning, **OPTIONS))
    about = header(result["out"])
    assert (about.mpp, about.tile_px, about.image_px) == (0.4, 80, 64)
    assert about.tile_px0 == pytest.approx((128.0, 128.0))


def test_events_tell_how_far_it_is(slide_path: Path, backbone: Backbone, tmp_path: Path) -> None:
    def steps(stream: Iterator[Event]) -> list[tuple[int, int]]:
        return [(event.done, event.total) for event in stream if type(event).__name__ == "Step"]  # type: ignore[attr-defined]

    told = steps(extract(slide_path, backbone, tmp_path, **OPTIONS))
    assert told[0][0] == 0 and all(done <= total for done, total in told)
