"""The training loop: what it yields, what it saves, and what it does when things go wrong."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

from pathotune.errors import NotFinite, NoTiles, OutputRefused, TooLittleMemory
from pathotune.events import EpochEnd, Finished, Note, Saving, Step
from pathotune.methods import build_model, load_config
from pathotune.methods.checkpoint import Tuning, card_path
from pathotune.prompts.text import SentenceVectors
from pathotune.training import examples as examples_module
from pathotune.training.loop import Run, tune
from pathotune.training.schedule import TrainingConfig

QUICK = TrainingConfig(epochs=3, batch_size=8, tiles_per_epoch=24, lr=3e-3, warmup_epochs=1, precision="float32")
STEPS = {"solver": "steps"}  # the plainest training there is
SMALL = {"tvp_tokens": 2, "vrm_width": 8, "text_encoder": "hashing"}


def finished(events):
    """All events and the result of the last."""
    events = list(events)
    assert isinstance(events[-1], Finished)
    assert sum(isinstance(event, Finished) for event in events) == 1
    return events, events[-1].result


@pytest.mark.parametrize("method", ["pathotune", "linear_probe"])
def test_from_a_slide_to_a_tuning_that_tells_its_tissues_apart(tiny_backbone, source, tmp_path, method):
    backbone = tiny_backbone()
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    settings = SMALL if method == "pathotune" else {}
    events, result = finished(tune([source], method, settings, backbone, QUICK, out=tmp_path / "out" / "t"))
    assert {type(event) for event in events} <= {Note, Step, EpochEnd, Saving, Finished}
    assert [event.epoch for event in events if isinstance(event, EpochEnd)] == [1, 2, 3]
    assert result["classes"] == ["stroma", "tumour"]
    assert result["tiles_per_class"] == {"stroma": 12, "tumour": 12}
    assert len(result["epochs"]) == 3 and result["seconds"] > 0
    assert result["val"]["balanced_accuracy"] >= 0.9
    json.dumps(result)
    tuning = Tuning.load(result["out"])
    assert tuning.training["regions"] == 24
    assert [entry["color"] for entry in tuning.classes] == [[1, 2, 3], [1, 2, 3]]
    model = build_model(tuning, backbone)
    trained = sum(value.size for key, value in tuning.trained.items() if key not in ("head.mean", "head.spread"))
    assert result["trainable_parameters"] == trained
    assert all(torch.equal(before[key], value) for key, value in backbone.state_dict().items())
    assert model.class_names == ("stroma", "tumour")
    quantiles = tuning.feature_statistics["distance_quantiles"]
    assert 0 < quantiles["0.5"] <= quantiles["0.99"]


def test_each_group_is_alive_after_tuning(tiny_backbone, source, tmp_path):
    backbone = tiny_backbone()
    with torch.random.fork_rng():
        torch.manual_seed(QUICK.seed)
        from pathotune.methods import METHODS
        from pathotune.prompts.text import encode_sentences

        config = load_config("pathotune", SMALL)
        _, result = finished(tune([source], "pathotune", config, backbone, QUICK, out=tmp_path / "t"))
        tuning = Tuning.load(result["out"])
        vectors = encode_sentences(tuning.texts, "hashing").vectors
        fresh = METHODS.load("pathotune")(config, backbone, tuning.class_names, vectors).trainable_state()
    moved = tuning.trained["encoder.prompts.tvp.values"]
    assert moved.shape == (3, 2, 48)
    model = build_model(tuning, backbone)
    assert float(model.encoder.prompts["ivp"].gate.abs().max()) > 0
    changed = {key for key, value in tuning.trained.items() if not np.array_equal(value, fresh[key])}
    assert changed == set(tuning.trained)


def test_names_of_people_and_files_are_not_in_what_is_passed_on(tiny_backbone, source, tmp_path):
    _, result = finished(tune([source], "linear_probe", {}, tiny_backbone(), QUICK, out=tmp_path / "t"))
    for path in (tmp_path / "t.pathotune.safetensors", card_path(tmp_path / "t.pathotune.safetensors")):
        content = path.read_bytes()
        assert b"Doe" not in content and b"Jane" not in content and str(tmp_path).encode() not in content
        assert b"slide-" in content
    assert result["out"] == str(tmp_path / "t.pathotune.safetensors")


def test_the_same_seed_gives_the_same_tuning(tiny_backbone, source, tmp_path):
    def weights(seed, name):
        training = dataclasses.replace(QUICK, seed=seed, epochs=2)
        torch.manual_seed(int.from_bytes(name.encode(), "little"))
        _, result = finished(tune([source], "pathotune", SMALL, tiny_backbone(), training, out=tmp_path / name))
        return Tuning.load(result["out"]).trained

    one, again, other = weights(1, "a"), weights(1, "b"), weights(2, "c")
    assert all(np.array_equal(one[key], again[key]) for key in one)
    assert not np.array_equal(one["encoder.prompts.tvp.values"], other["encoder.prompts.tvp.values"])


def test_building_a_model_leaves_the_random_state_of_the_process_alone(tiny_backbone, source):
    examples = drain(examples_module.gather([source], tiny_backbone().card.reading(), QUICK))
    backbone, config = tiny_backbone(), load_config("pathotune", SMALL)
    state = torch.get_rng_state()
    list(Run("pathotune", config, backbone, examples, QUICK, SentenceVectors(None, None), "cpu").prepare())
    assert torch.equal(state, torch.get_rng_state())


def test_without_a_text_encoder_textual_prompts_are_off_and_it_says_so(tiny_backbone, source, tmp_path, monkeypatch):
    import pathotune.backbones.text as text

    monkeypatch.setattr(text, "default_text_encoder", lambda: None)
    settings = {**SMALL, "text_encoder": "auto"}
    events, result = finished(tune([source], "pathotune", settings, tiny_backbone(), QUICK, out=tmp_path / "t"))
    assert any(isinstance(event, Note) and "Textual prompts are off" in event.text for event in events)
    tuning = Tuning.load(result["out"])
    assert tuning.text_encoder is None and tuning.texts == () and tuning.text_vectors is None
    assert build_model(tuning, tiny_backbone()).attention_sources == ("cls", "tvp", "ivp")


def test_closing_keeps_the_best_epoch_so_far(tiny_backbone, source, tmp_path):
    events = tune([source], "linear_probe", {}, tiny_backbone(), QUICK, out=tmp_path / "t")
    ended = 0
    for event in events:
        ended += isinstance(event, EpochEnd)
        if ended == 2:
            break
    events.close()
    assert Tuning.load(tmp_path / "t.pathotune.safetensors").training["epochs"] == 2


def test_closing_before_the_first_epoch_saves_nothing(tiny_backbone, source, tmp_path):
    events = tune([source], "linear_probe", {}, tiny_backbone(), QUICK, out=tmp_path / "t")
    next(event for event in events if isinstance(event, Step))
    events.close()
    assert not list(tmp_path.glob("t*"))


def test_an_interrupt_keeps_the_best_epoch_too(tiny_backbone, source, tmp_path, monkeypatch):
    monkeypatch.setattr(Run, "step", interrupt_after(Run.step, 4))
    with pytest.raises(KeyboardInterrupt):
        list(tune([source], "linear_probe", STEPS, tiny_backbone(), QUICK, out=tmp_path / "t"))
    assert Tuning.load(tmp_path / "t.pathotune.safetensors").training["epochs"] == 1


def interrupt_after(function, calls):
    count = iter(range(10**6))

    def wrapped(*arguments):
        if next(count) >= calls:
            raise KeyboardInterrupt
        return function(*arguments)

    return wrapped


def test_early_stopping_and_the_best_epoch(tiny_backbone, source, tmp_path):
    training = dataclasses.replace(QUICK, epochs=40, patience=2, lr=0.0000001)
    events, result = finished(tune([source], "linear_probe", STEPS, tiny_backbone(), training, out=tmp_path / "t"))
    assert len(result["epochs"]) < 40
    losses = [epoch["loss"] for epoch in result["epochs"]]
    assert result["best_epoch"] - 1 <= int(np.argmin(losses))
    assert any(isinstance(event, Note) and "No better score" in event.text for event in events)


def test_what_is_saved_is_the_best_epoch_not_the_last(tiny_backbone, source, tmp_path, monkeypatch):
    from pathotune.training import run as run_module
    from pathotune.training.validation import Scores

    order = iter([0.5, 0.1, 0.9])
    monkeypatch.setattr(run_module, "score", lambda logits, labels: Scores(next(order), 0.5, 0.5))
    states = []
    original = Run._take_best

    def watch(self, *arguments):
        scores = original(self, *arguments)
        states.append(self.model.trainable_state())
        return scores

    monkeypatch.setattr(Run, "_take_best", watch)
    _, result = finished(tune([source], "linear_probe", STEPS, tiny_backbone(), QUICK, out=tmp_path / "t"))
    assert result["best_epoch"] == 2
    saved = Tuning.load(result["out"]).trained
    assert all(np.array_equal(saved[key], states[1][key]) for key in saved)
    assert not np.array_equal(saved["head.linear.weight"], states[2]["head.linear.weight"])


def test_a_loss_that_is_not_finite_ends_it_with_advice(tiny_backbone, source, tmp_path, monkeypatch):
    monkeypatch.setattr(Run, "_gradients", lambda *_: float("nan"))
    with pytest.raises(NotFinite, match="--lr"):
        list(tune([source], "linear_probe", STEPS, tiny_backbone(), QUICK, out=tmp_path / "t"))


def test_memory_that_runs_out_halves_what_passes_at_once(tiny_backbone, source, tmp_path, monkeypatch):
    from pathotune.training import tilepass

    monkeypatch.setattr(tilepass, "MOST_LANES", 1)
    original, sizes = Run._backward, []

    def small(self, part):
        sizes.append(len(part[0]))
        if len(part[0]) > 3:
            raise RuntimeError("[enforce fail] not enough memory: you tried to allocate 99 bytes")
        return original(self, part)

    monkeypatch.setattr(Run, "_backward", small)
    _, result = finished(tune([source], "linear_probe", STEPS, tiny_backbone(), QUICK, out=tmp_path / "t"))
    assert sizes[:3] == [8, 4, 2] and max(sizes[3:]) <= 3
    assert result["val"]["n"] > 0

    monkeypatch.setattr(Run, "_backward", lambda *_: (_ for _ in ()).throw(RuntimeError("out of memory")))
    with pytest.raises(TooLittleMemory):
        list(tune([source], "linear_probe", STEPS, tiny_backbone(), QUICK, out=tmp_path / "t"))


def test_halved_batches_have_the_same_gradient(tiny_backbone, source, tmp_path):
    examples = drain(examples_module.gather([source], tiny_backbone().card.reading(), QUICK))
    training = dataclasses.replace(QUICK, augment=False)
    gradients = []
    for size in (8, 3):
        run = Run(
            "pathotune",
            load_config("pathotune", SMALL),
            tiny_backbone(),
            examples,
            training,
            SentenceVectors(None, None),
            "cpu",
        )
        list(run.prepare())
        run.micro_batch = size
        run.step(examples.train[:8], 0.0)
        gradients.append(torch.cat([value.grad.flatten() for value in run.parameters.values()]))
    assert torch.allclose(*gradients, atol=1e-5)


def test_a_programming_error_is_not_taken_for_memory(tiny_backbone, source, tmp_path, monkeypatch):
    monkeypatch.setattr(Run, "_backward", lambda *_: (_ for _ in ()).throw(RuntimeError("shapes differ")))
    with pytest.raises(RuntimeError, match="shapes differ"):
        list(tune([source], "linear_probe", STEPS, tiny_backbone(), QUICK, out=tmp_path / "t"))


def test_a_place_that_cannot_be_written_is_refused_before_the_work(tiny_backbone, source, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputRefused):
        next(tune([source], "linear_probe", {}, tiny_backbone(), QUICK, out=tmp_path / "file" / "t"))


def drain(generator):
    """The value a generator of events returns."""
    try:
        while True:
            next(generator)
    except StopIteration as stop:
        return stop.value


def test_regions_are_never_on_both_sides_and_every_class_is_on_both(tiny_backbone, source):
    examples = drain(examples_module.gather([source], tiny_backbone().card.reading(), QUICK))
    assert not set(examples.groups[examples.train]) & set(examples.groups[examples.validation])
    assert not set(examples.train) & set(examples.validation)
    assert all(examples.tiles_per_class(side)["stroma"] for side in (examples.train, examples.validation))
    assert examples.images.shape == (24, 64, 64, 3)
    pale = examples.images.mean(axis=(1, 2, 3)) > 170
    assert np.array_equal(pale, examples.labels == 0)


def test_one_class_is_not_enough(tiny_backbone, source):
    with pytest.raises(NoTiles):
        drain(examples_module.gather([source], tiny_backbone().card.reading(), QUICK, map_classes={"tumour": ""}))


def test_classes_can_be_renamed_and_left_out(tiny_backbone, source):
    gathering = examples_module.gather(
        [source], tiny_backbone().card.reading(), QUICK, map_classes={"tumour": "cancer"}
    )
    assert drain(gathering).class_names == ("cancer", "stroma")


def test_many_tiles_go_to_a_file_that_goes_away(tiny_backbone, source, monkeypatch):
    plain = drain(examples_module.gather([source], tiny_backbone().card.reading(), QUICK))
    monkeypatch.setattr(examples_module, "IN_MEMORY_BYTES", 1000)
    mapped = drain(examples_module.gather([source], tiny_backbone().card.reading(), QUICK))
    assert mapped.file is not None and mapped.file.exists()
    assert np.array_equal(mapped.images, plain.images)
    file = mapped.file
    mapped.close()
    assert not file.exists()
    gathering = examples_module.gather([source], tiny_backbone().card.reading(), QUICK)
    next(event for event in gathering if isinstance(event, Step))
    assert list(file.parent.iterdir())
    gathering.close()
    assert not list(file.parent.iterdir())
    file.write_bytes(b"left by a killed run")
    drain(examples_module.gather([source], tiny_backbone().card.reading(), QUICK)).close()
    assert not list(file.parent.iterdir())


def test_no_more_tiles_of_a_class_than_asked(tiny_backbone, source):
    training = dataclasses.replace(QUICK, max_tiles_per_class=5)
    examples = drain(examples_module.gather([source], tiny_backbone().card.reading(), training))
    assert examples.tiles_per_class() == {"stroma": 5, "tumour": 5}


def test_validation_tiles_are_seen_as_they_are(tiny_backbone, source):
    examples = drain(examples_module.gather([source], tiny_backbone().card.reading(), QUICK))
    config = load_config("pathotune", SMALL)
    run = Run("pathotune", config, tiny_backbone(), examples, QUICK, SentenceVectors(None, None), "cpu")
    list(run.prepare())
    one, two = run.tiles.answers(examples.validation)[0], run.tiles.answers(examples.validation)[0]
    assert torch.equal(one, two)
    looks = np.ones(4, dtype=np.int64)
    trained = [run.tiles.forward(run.tiles.inputs(examples.train[:4], looks)).logits for _ in range(2)]
    assert not torch.equal(*trained)


def test_features_are_computed_once_for_the_linear_probe(tiny_backbone, source, tmp_path, monkeypatch):
    backbone, seen = tiny_backbone(), []
    forward = type(backbone).forward
    monkeypatch.setattr(
        type(backbone), "forward", lambda self, pixels: (seen.append(len(pixels)), forward(self, pixels))[1]
    )
    finished(tune([source], "linear_probe", {"views": 2}, backbone, QUICK, out=tmp_path / "t"))
    assert 24 <= sum(seen) <= 2 * 24


def test_stain_normalisation_is_part_of_the_reading_and_stays_when_going_on(tiny_backbone, source, tmp_path):
    training = dataclasses.replace(QUICK, stain="macenko", epochs=1)
    _, first = finished(tune([source], "linear_probe", {}, tiny_backbone(), training, out=tmp_path / "a"))
    assert Tuning.load(first["out"]).reading.stain == "macenko"
    _, second = finished(
        tune([source], "linear_probe", {}, tiny_backbone(), QUICK, out=tmp_path / "b", continue_from=first["out"])
    )
    assert Tuning.load(second["out"]).reading.stain == "macenko"
