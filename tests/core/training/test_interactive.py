"""Tuning again in seconds: what is frozen is computed once, and a saved tuning is where one goes on from."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import shapely
import torch

from pathotune.errors import TuningMismatch
from pathotune.events import EpochEnd, Finished, Note, Step
from pathotune.methods import load_config
from pathotune.methods.checkpoint import Tuning
from pathotune.prompts.text import SentenceVectors
from pathotune.regions import Region, Regions
from pathotune.tiles.reader import TileReader
from pathotune.training import examples as examples_module
from pathotune.training import kept
from pathotune.training.augment import Variants, restained, turned
from pathotune.training.loop import Run, tune
from pathotune.training.prefix import forget_prefixes
from pathotune.training.schedule import TrainingConfig
from pathotune.training.session import Session, session_path

QUICK = TrainingConfig(epochs=3, batch_size=8, tiles_per_epoch=24, warmup_epochs=1, precision="float32", looks=3)
LATE = {"tvp_tokens": 2, "vrm_width": 8, "text_encoder": "hashing", "speed": "interactive"}
SIDE = 64


def drain(generator):
    try:
        while True:
            next(generator)
    except StopIteration as stop:
        return stop.value


def run_on(backbone, source, settings=LATE, training=QUICK, method="pathotune"):
    examples = drain(examples_module.gather([source], backbone.card.reading(), training))
    run = Run(method, load_config(method, settings), backbone, examples, training, SentenceVectors(None, None), "cpu")
    list(run.prepare())
    return run


def finished(events):
    events = list(events)
    assert isinstance(events[-1], Finished)
    return events, events[-1].result


def without(source, count):
    """The source with the last regions of each class left out."""
    regions = list(source.regions)
    names = sorted({region.class_name for region in regions})
    stay = [part for name in names for part in [one for one in regions if one.class_name == name][:-count]]
    return dataclasses.replace(source, regions=Regions(stay, "drawn"))


# -- kept values ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["pathotune", "linear_probe"])
@pytest.mark.parametrize("ivp", ["vrm", "mean_patch"])
def test_kept_values_give_the_same_logits_to_the_bit(tiny_backbone, source, method, ivp):
    run = run_on(tiny_backbone(), source, {**LATE, "ivp": ivp} if method == "pathotune" else {}, method=method)
    tiles = run.examples.train[:8]
    looks = np.arange(8) % run.tiles.looks.count
    images = run.tiles.looks(run.examples.images[tiles], [run.examples.keys[tile] for tile in tiles], looks)
    with torch.no_grad():
        plain = run.model(run.tiles.pixels(images)).logits
        first = run.tiles.forward(run.tiles.inputs(tiles, looks)).logits
        computed = run.tiles.computed
        again = run.tiles.forward(run.tiles.inputs(tiles, looks)).logits
    assert torch.allclose(plain, first, atol=1e-5) and torch.equal(first, again)
    assert run.tiles.computed == computed
    run.tiles.close()


def test_a_look_that_is_remembered_is_the_look_that_was_made(tiny_backbone, source, monkeypatch):
    run = run_on(tiny_backbone(), source, {**LATE, "ivp": "vrm"}, method="pathotune")
    make, made = Variants.__call__, []

    def counted(self, images, tiles, looks):
        made.append(np.count_nonzero(looks))
        return make(self, images, tiles, looks)

    monkeypatch.setattr(Variants, "__call__", counted)
    count, tiles = run.tiles.looks.count, run.examples.train[:6]
    drawn = np.append(tiles, tiles[0])  # one tile twice in a batch
    keys = [run.examples.keys[tile] for tile in drawn.tolist()]
    for shift in range(count + 1):
        looks = (np.arange(7) + shift) % count
        looks[-1] = looks[0]
        expected = make(run.tiles.looks, np.ascontiguousarray(run.examples.images[drawn]), keys, looks)
        if shift == count:
            made.clear()
        assert np.array_equal(run.tiles.inputs(drawn, looks).images, expected)
    assert not made, "each look had been asked for before"
    run.tiles.close()


def test_in_one_batch_kept_and_not_kept_agree_to_the_bit(tiny_backbone, source, monkeypatch):
    from pathotune.training import tilepass

    monkeypatch.setattr(tilepass, "MOST_LANES", 1)
    run = run_on(tiny_backbone(), source)
    forget_prefixes()
    run.tiles.choose(run.tiles.precision)
    tiles = run.examples.train[:8]
    with torch.no_grad():
        kept_logits = run.tiles.forward(run.tiles.inputs(tiles)).logits
        assert torch.equal(kept_logits, run.model(run.tiles.pixels(run.examples.images[tiles])).logits)


def test_gradients_are_those_of_the_whole_model(tiny_backbone, source):
    run = run_on(tiny_backbone(), source, training=dataclasses.replace(QUICK, augment=False))
    tiles = run.examples.train[:8]
    run.step(tiles, 0.0)
    labels = torch.as_tensor(run.examples.labels[tiles])
    loss = torch.nn.functional.cross_entropy(run.model(run.tiles.pixels(run.examples.images[tiles])).logits, labels)
    whole = torch.autograd.grad(loss, list(run.parameters.values()))
    norm = torch.cat([value.flatten() for value in whole]).norm().clamp(min=1.0)
    for value, expected in zip(run.parameters.values(), whole, strict=True):
        assert torch.allclose(value.grad, expected / norm, atol=1e-5)


def test_each_look_of_a_tile_passes_the_frozen_blocks_once(tiny_backbone, source, tmp_path, monkeypatch):
    backbone, seen = tiny_backbone(), []
    embed = type(backbone)._embed
    monkeypatch.setattr(
        type(backbone), "_embed", lambda self, pixels: (seen.append(len(pixels)), embed(self, pixels))[1]
    )
    training = dataclasses.replace(QUICK, epochs=6, patience=6)
    _, result = finished(tune([source], "pathotune", LATE, backbone, training, out=tmp_path / "t"))
    assert result["computed_tiles"] == sum(seen) <= 18 * 3 + 6
    seen.clear()
    _, result = finished(tune([source], "pathotune", LATE, backbone, training, out=tmp_path / "u"))
    assert sum(seen) == result["computed_tiles"] == 0


def test_without_room_everything_is_computed_again_and_the_same(tiny_backbone, source, tmp_path):
    def weights(cache_mb, name):
        forget_prefixes()
        training = dataclasses.replace(QUICK, cache_mb=cache_mb, epochs=2)
        _, result = finished(tune([source], "pathotune", LATE, tiny_backbone(), training, out=tmp_path / name))
        return Tuning.load(result["out"]).trained

    with_room, on_disk = weights(64, "a"), weights(0, "b")
    assert all(np.allclose(with_room[key], on_disk[key], atol=1e-5) for key in with_room)
    assert not (tmp_path / "b.session" / "kept").exists()


def test_full_depth_keeps_no_tokens(tiny_backbone, source):
    run = run_on(tiny_backbone(), source, {**LATE, "speed": "full_depth"})
    assert not run.tiles.keeps and run.tiles.computed == 0


def test_looks_depend_on_the_tile_and_the_seed_alone():
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    keys, looks = [bytes([number]) * 16 for number in range(3)], Variants(5, 0, 0.1)
    assert looks(images, keys, np.zeros(3, dtype=int)) is images
    some = looks(images, keys, np.asarray([1, 0, 4]))
    assert np.array_equal(some[1], images[1]) and not np.array_equal(some[0], images[0])
    assert np.array_equal(looks(images[2:], keys[2:], np.asarray([4]))[0], some[2])
    assert not np.array_equal(Variants(5, 1, 0.1)(images, keys, np.asarray([1, 0, 4]))[0], some[0])
    plain = Variants(8, 0, 0.0)
    seen = {plain(images[:1], keys[:1], np.asarray([look])).tobytes() for look in range(8)}
    assert seen == {turned(images[:1], np.asarray([view])).tobytes() for view in range(8)}
    names = {looks.key(key, look) for key in keys for look in range(5)}
    assert len(names) == 15 and looks.key(keys[0], 1) != Variants(5, 1, 0.1).key(keys[0], 1)


def test_staining_by_table_gives_the_same_pixels():
    from pathotune.tiles.stain import jittered

    images = np.random.default_rng(0).integers(0, 256, (4, 9, 9, 3), dtype=np.uint8)
    one = restained(images, np.random.default_rng(5), 0.2)
    assert np.array_equal(one, jittered(images, np.random.default_rng(5), 0.2))


# -- decoded once -----------------------------------------------------------------------------------------------------


def decoded(monkeypatch):
    seen = []
    original = TileReader.batches

    def watch(self, tiles, size, order=None, start=0):
        seen.append(len(order))
        return original(self, tiles, size, order, start)

    monkeypatch.setattr(TileReader, "batches", watch)
    return seen


@pytest.mark.parametrize("new_process", [False, True])
def test_with_more_regions_only_their_tiles_are_decoded_and_computed(
    tiny_backbone, source, tmp_path, monkeypatch, new_process
):
    backbone, seen = tiny_backbone(), decoded(monkeypatch)
    training = dataclasses.replace(QUICK, augment=False)
    _, result = finished(tune([without(source, 3)], "linear_probe", {}, backbone, training, out=tmp_path / "t"))
    assert sum(seen) == result["computed_tiles"] == 18
    seen.clear()
    if new_process:
        monkeypatch.setattr(examples_module, "TILES", kept.KeptTiles(10**8))
    events, result = finished(tune([source], "linear_probe", {}, backbone, training, out=tmp_path / "t"))
    assert sum(seen) == 6 and result["computed_tiles"] == 6
    assert result["tiles_per_class"] == {"stroma": 12, "tumour": 12}
    assert next(event for event in events if isinstance(event, Step)).done >= 18


def test_kept_tiles_are_bounded_and_the_latest():
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    keys, store = [bytes([number]) * 16 for number in range(4)], kept.KeptTiles(3 * 8 * 8 * 3)
    store.keep(keys, images, np.arange(4))
    assert len(store) == 3
    out = np.zeros_like(images)
    assert store.fill(keys, out, np.arange(4)).tolist() == [0]
    assert np.array_equal(out[1:], images[1:])


def test_another_pixel_size_or_reading_is_another_tile(tmp_path, source):
    from pathotune.slides import open_slide
    from pathotune.tiles.tileset import Reading

    one, corner = Reading(0.5, 64, 64), (np.zeros(1), np.zeros(1))
    with open_slide(source.slide_path, mpp=0.5) as slide, open_slide(source.slide_path, mpp=0.25) as finer:
        keys = [
            kept.place_keys(slide, one, *corner),
            kept.place_keys(finer, one, *corner),
            kept.place_keys(slide, Reading(0.5, 64, 32), *corner),
            kept.place_keys(slide, one, np.ones(1), np.zeros(1)),
        ]
        assert len({key for (key,) in keys}) == 4
        assert kept.place_keys(slide, one, *corner) == keys[0]


# -- the session folder -----------------------------------------------------------------------------------------------


def test_the_session_folder_holds_the_report_and_pictures_once(tiny_backbone, source, tmp_path):
    training = dataclasses.replace(QUICK, lr=1e-7, epochs=1)
    _, result = finished(tune([source], "linear_probe", {}, tiny_backbone(), training, out=tmp_path / "t"))
    folder = session_path(tmp_path / "t")
    assert result["session"] == str(folder) and not list(folder.glob("best*"))
    report = json.loads((folder / "report.json").read_text())
    assert report["val"]["confusion"] == result["val"]["confusion"]
    index = json.loads((folder / "tiles.json").read_text())
    pictures = np.fromfile(folder / "tiles.bin", dtype=np.uint8).reshape(-1, SIDE, SIDE, 3)
    assert len(pictures) == len(index["keys"]) == 24
    per_class = result["val"]["per_class"]["tumour"]
    assert len(per_class["ci95"]["recall"]) == 2
    assert sum(part["n"] for part in result["val"]["calibration"]) == result["val"]["n"]
    assert b"Doe" not in (tmp_path / "t.pathotune.safetensors").read_bytes()


def test_too_many_tiles_for_the_folder_leave_none_there(tiny_backbone, source, tmp_path):
    training = dataclasses.replace(QUICK, session_mb=0, epochs=1)
    finished(tune([source], "linear_probe", {}, tiny_backbone(), training, out=tmp_path / "t"))
    assert not list(session_path(tmp_path / "t").glob("tiles*"))
    assert (session_path(tmp_path / "t") / "split.json").exists()


def test_the_most_wrong_tiles_are_named_with_their_place(tiny_backbone, source):
    from pathotune.training.record import most_wrong

    run = run_on(tiny_backbone(), source, {}, method="linear_probe")
    labels = run.examples.labels[run.examples.validation]
    said = np.full((len(labels), 2), 0.5)
    said[0] = [0.1, 0.9] if labels[0] == 0 else [0.9, 0.1]
    said[1] = [0.4, 0.6] if labels[1] == 0 else [0.6, 0.4]
    said[2:] = np.eye(2)[labels[2:]]
    found = most_wrong(run.examples, run.examples.validation, said)
    assert [round(row["probability"], 3) for row in found] == [0.9, 0.6]
    assert found[0]["true"] == ("stroma", "tumour")[labels[0]] != found[0]["predicted"]
    assert found[0]["slide"] == str(source.slide_path)
    tile = int(run.examples.validation[0])
    assert found[0]["tile"] == tile and found[0]["box_px0"] == run.examples.boxes_px0[tile].tolist()


def test_a_killed_training_leaves_its_best_epoch(tiny_backbone, source, tmp_path):
    events = tune([source], "linear_probe", {}, tiny_backbone(), QUICK, out=tmp_path / "t")
    next(event for event in events if isinstance(event, EpochEnd))
    best = Tuning.load(session_path(tmp_path / "t") / "best.pathotune.safetensors")
    assert best.training["epochs"] == 1 and best.class_names == ("stroma", "tumour")
    events.close()
    assert Tuning.load(tmp_path / "t.pathotune.safetensors").training["epochs"] == 1
    assert not best.path.exists()


# -- going on ---------------------------------------------------------------------------------------------------------


def test_going_on_starts_where_it_was_and_never_judges_by_what_it_learned(tiny_backbone, source, tmp_path):
    backbone = tiny_backbone()
    finished(tune([without(source, 3)], "pathotune", LATE, backbone, QUICK, out=tmp_path / "t"))
    before = Session(session_path(tmp_path / "t")).sides()
    training = dataclasses.replace(QUICK, lr=1e-7, epochs=1, seed=5)
    path = tmp_path / "t.pathotune.safetensors"
    _, result = finished(tune([source], "linear_probe", {}, backbone, training, out=tmp_path / "u", continue_from=path))
    assert result["method"] == "pathotune"
    after = Session(session_path(tmp_path / "u")).sides()
    ((name, learned),), ((_, judged),) = before.training.items(), after.validation.items()
    assert not {tuple(row) for row in learned.tolist()} & {tuple(row) for row in judged.tolist()}
    assert {tuple(row) for row in before.validation[name].tolist()} <= {tuple(row) for row in judged.tolist()}
    assert Tuning.load(result["out"]).training["went_on_from"] == Tuning.load(path).fingerprint
    old, new = Tuning.load(path).trained, Tuning.load(result["out"]).trained
    assert all(np.allclose(old[key], new[key], atol=1e-4) for key in old)
    assert result["tiles_per_class"] == {"stroma": 12, "tumour": 12}


def test_what_is_new_is_learned_even_where_the_held_out_tiles_would_rather_not(
    tiny_backbone, source, tmp_path, monkeypatch
):
    backbone = tiny_backbone()
    finished(tune([without(source, 3)], "pathotune", LATE, backbone, QUICK, out=tmp_path / "t"))
    path = tmp_path / "t.pathotune.safetensors"
    monkeypatch.setattr("pathotune.training.validation.Scores.better_than", lambda self, other: False)
    kept = {}
    for name, drawn in (("same", without(source, 3)), ("more", source)):
        _, result = finished(tune([drawn], training=QUICK, backbone=backbone, out=tmp_path / name, continue_from=path))
        kept[name] = result["best_epoch"]
    assert kept == {"same": 0, "more": 1}


def test_going_on_with_another_class(tiny_backbone, source, tmp_path):
    backbone = tiny_backbone()
    finished(tune([source], "pathotune", LATE, backbone, QUICK, out=tmp_path / "t"))
    more = list(source.regions)
    for number, region in enumerate(more):
        if region.class_name == "tumour" and number % 2:
            more[number] = dataclasses.replace(region, class_name="necrosis")
    wider = dataclasses.replace(source, regions=Regions(more, "drawn"))
    path = tmp_path / "t.pathotune.safetensors"
    events, result = finished(tune([wider], training=QUICK, backbone=backbone, out=tmp_path / "u", continue_from=path))
    assert any(isinstance(event, Note) and "new: necrosis" in event.text for event in events)
    assert result["classes"] == ["necrosis", "stroma", "tumour"]
    assert Tuning.load(result["out"]).trained["head.linear.weight"].shape[0] == 3


def test_going_on_with_another_backbone_is_refused(tiny_backbone, source, tmp_path):
    finished(tune([source], "linear_probe", {}, tiny_backbone(), QUICK, out=tmp_path / "t"))
    path = tmp_path / "t.pathotune.safetensors"
    with pytest.raises(TuningMismatch, match="with the weights"):
        list(tune([source], backbone=tiny_backbone(seed=1), out=tmp_path / "u", continue_from=path))


def test_without_its_session_folder_it_says_that_the_split_is_not_known(tiny_backbone, source, tmp_path):
    finished(tune([source], "linear_probe", {}, tiny_backbone(), QUICK, out=tmp_path / "t"))
    (session_path(tmp_path / "t") / "split.json").unlink()
    path = tmp_path / "t.pathotune.safetensors"
    events, _ = finished(
        tune([source], backbone=tiny_backbone(), training=QUICK, out=tmp_path / "u", continue_from=path)
    )
    assert any(isinstance(event, Note) and "is not known here" in event.text for event in events)


def test_a_region_drawn_larger_stays_on_its_side(tmp_path):
    from pathotune.regions import label_tiles
    from pathotune.training.resplit import settled
    from pathotune.training.session import Sides

    def laid(width):
        shapes = [Region(shapely.box(x, y, x + width, y + 90), name) for x, y, name in PLACES]
        return label_tiles(shapes, (5000, 5000), (50, 50), ("a", "b"))[0]

    tiles = laid(90)
    train = np.flatnonzero(np.isin(tiles.region, [0, 1, 3, 4]))
    validation = np.flatnonzero(np.isin(tiles.region, [2, 5]))
    boxes = np.stack([tiles.x_px0, tiles.y_px0, tiles.width_px0, tiles.height_px0], axis=1)
    before = Sides({"f": boxes[train]}, {"f": boxes[validation]})
    wider = laid(130)
    # The new split would have it the other way round.
    swapped = np.flatnonzero(np.isin(wider.region, [2, 5])), np.flatnonzero(np.isin(wider.region, [0, 1, 3, 4]))
    learned, judged, notes = settled(wider, ["f"], *swapped, before)
    assert set(wider.region[learned]) == {0, 1, 3, 4} and set(wider.region[judged]) == {2, 5} and notes == ()
    assert len(learned) + len(judged) == len(wider)


PLACES = [(100 + 600 * number, 100 + 1000 * row, name) for row, name in enumerate("ab") for number in range(3)]


# -- how it is trained ------------------------------------------------------------------------------------------------


def test_automatic_epochs_follow_the_mode_and_where_it_starts():
    full, quick = TrainingConfig().settled(), TrainingConfig().settled(is_interactive=True)
    again = TrainingConfig().settled(is_interactive=True, goes_on=True)
    assert full.epochs > quick.epochs > again.epochs >= 1 and full.patience > quick.patience > again.patience >= 1
    assert TrainingConfig(epochs=5, patience=7).settled(True, True) == TrainingConfig(epochs=5, patience=7)


def test_an_epoch_tells_its_speed_and_the_time_left(tiny_backbone, source, tmp_path):
    events, _ = finished(tune([source], "linear_probe", {}, tiny_backbone(), QUICK, out=tmp_path / "t"))
    ended = [event for event in events if isinstance(event, EpochEnd)]
    assert all(event.rate > 0 for event in ended) and ended[-1].seconds_left == 0


def test_a_table_of_pictures_has_keys_of_its_pixels(tmp_path):
    images = np.zeros((3, 4, 4, 3), dtype=np.uint8)
    images[2] = 1
    first, second, third = kept.content_keys(images)
    assert first == second != third


# -- side by side -----------------------------------------------------------------------------------------------------


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("speed", ["interactive", "full_depth"])
def test_on_several_threads_a_tuning_is_repeatable_and_close_to_that_on_one(tiny_backbone, source, speed):
    def trained(threads):
        forget_prefixes()
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            run = run_on(tiny_backbone(), source, {**LATE, "speed": speed})
            assert run.tiles.lanes.count == threads
            for _ in range(3):
                run.step(run.examples.train[:8], 1e-3)
            run.tiles.close()
            return run.model.trainable_state()
        finally:
            torch.set_num_threads(before)

    one, again, single = trained(3), trained(3), trained(1)
    assert all(np.array_equal(one[key], again[key]) for key in one)
    assert all(np.allclose(one[key], single[key], atol=1e-3) for key in one)


def test_an_error_in_one_lane_comes_out_and_the_others_end(three_threads):
    from pathotune.training.tilepass import Lanes

    done = []

    def work(number):
        if number == 1:
            raise ValueError("the second")
        done.append(number)
        return number

    lanes = Lanes("cpu")
    assert lanes.count == 3 and lanes.map(work, [0, 2]) == [0, 2]
    with pytest.raises(ValueError, match="the second"):
        lanes.map(work, [3, 1, 4])
    assert {3, 4} <= set(done)
    lanes.close()
