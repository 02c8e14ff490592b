"""Classes that are sentences: put in and taken out without a tile, and tunings from words alone."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from torch.nn import functional
from typer.testing import CliRunner

import pathotune.backbones.text.towers as towers
from pathotune.backbones.text import TextEncoder, load_text_encoder
from pathotune.cli import app, main
from pathotune.errors import TableUnreadable, TuningMismatch, UnknownName, UsageError
from pathotune.events import Note, result_of
from pathotune.methods import build_model, load_config
from pathotune.methods.checkpoint import TEXT_VECTORS, TRAINED, Tuning
from pathotune.methods.cite.config import CiteConfig
from pathotune.methods.cite.method import Cite
from pathotune.methods.classes import class_texts, with_class, without_class
from pathotune.methods.options import as_plain
from pathotune.prompts.text import text_for
from pathotune.tasks import load_task, task_from_words
from pathotune.training.wording import tune_by_wording, wording_tuning

CARD = load_task("lymph-node-metastasis")
SENTENCE = "Ghosts of cells and debris | Necrosis"


def tiles(backbone, count=6):
    images = np.random.default_rng(0).integers(0, 256, (count, 64, 64, 3), dtype=np.uint8)
    return backbone.normalise(torch.from_numpy(images))


@pytest.fixture
def paired(tiny_backbone, monkeypatch):
    """A tiny backbone with a text side that gives each sentence fixed numbers."""
    plain = tiny_backbone()
    plain.card = dataclasses.replace(plain.card, text={"kind": "clip", "context": 77})
    plain.weights_path, plain.text_scale = __file__, 20.0

    def encode(sentences):
        return load_text_encoder("hashing").encode(sentences)[:, :48]

    encoder = TextEncoder("tower:tiny-plain", 48, "t", encode, cached=False)
    monkeypatch.setattr(towers, "tower_encoder", lambda card, weights=None: encoder)
    monkeypatch.setattr(towers, "load_tower", lambda name: encoder)
    return plain


@pytest.fixture
def cite(tiny_backbone):
    """A CITE tuning that was not trained, its backbone and its model."""
    backbone = tiny_backbone()
    config = CiteConfig(text_encoder="hashing", neck_start="identity")
    sentences, text = text_for(config, CARD, CARD.class_names, 0.5)
    torch.manual_seed(0)
    model = Cite(config, backbone, CARD.class_names, text.vectors)
    tuning = Tuning(
        "cite",
        as_plain(config),
        CARD.to_dict(),
        [{"name": entry.name, "color": list(entry.color)} for entry in CARD.classes],
        {"name": backbone.card.name, "sha256": backbone.weights_sha256, "embed_dim": 48, "mpp": 0.5},
        backbone.card.reading(),
        texts=sentences,
        text_encoder=text.encoder,
        tensors={TEXT_VECTORS: text.vectors, **{TRAINED + k: v for k, v in model.trainable_state().items()}},
    )
    return tuning, backbone, model


def expected_row(features, sentence):
    """The unit vector of a sentence's wordings, and its cosine to features."""
    vectors = load_text_encoder("hashing").encode([part.strip() for part in sentence.split("|")])
    mean = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).mean(axis=0)
    return functional.normalize(features, dim=1) @ functional.normalize(torch.from_numpy(mean), dim=0)


def test_a_class_more_leaves_the_others_and_is_the_cosine_of_its_sentence(cite, tmp_path):
    tuning, backbone, model = cite
    before = json.dumps(tuning.metadata(), sort_keys=True)
    more = with_class(tuning, "Necrosis", SENTENCE)
    assert json.dumps(tuning.metadata(), sort_keys=True) == before, "the given tuning stays as it is"
    path = more.save(tmp_path / "more")
    loaded = Tuning.load(path)
    assert loaded.class_names == ("Normal", "Tumor", "Necrosis") and loaded.texts[2] == SENTENCE
    assert loaded.fingerprint != tuning.fingerprint and loaded.training["added_by_sentence"] == ["Necrosis"]
    pixels = tiles(backbone)
    answer, old = build_model(loaded, backbone)(pixels), model.eval()(pixels)
    torch.testing.assert_close(answer.logits[:, :2], old.logits, atol=1e-4, rtol=1e-5)
    projected = model.head.neck(model.head.scaled(old.features))
    torch.testing.assert_close(answer.logits[:, 2], 100 * expected_row(projected, SENTENCE), atol=1e-3, rtol=1e-4)
    card = path.with_name("more.md").read_text()
    assert "Added by sentence alone" in card and "Ghosts of cells" in card and "| 1.00 |" in card
    assert loaded.task["classes"][2]["sentence"] == SENTENCE


def test_a_class_less_leaves_the_others(cite):
    tuning, backbone, _ = cite
    more = with_class(with_class(tuning, "Necrosis", SENTENCE), "Fat", "Empty cells.", (1, 2, 3))
    less = without_class(more, "Normal")
    assert less.class_names == ("Tumor", "Necrosis", "Fat") and less.classes[2]["color"] == [1, 2, 3]
    pixels = tiles(backbone)
    torch.testing.assert_close(
        build_model(less, backbone)(pixels).logits, build_model(more, backbone)(pixels).logits[:, 1:], atol=1e-5, rtol=0
    )
    assert [row["name"] for row in less.task["classes"]] == ["Tumor", "Necrosis", "Fat"]
    with pytest.raises(UsageError, match="one class only"):
        without_class(without_class(less, "Fat"), "Tumor")
    with pytest.raises(UnknownName, match="Tumor"):
        without_class(less, "Tumour")


def test_what_cannot_take_a_sentence_says_why(cite):
    tuning, _, _ = cite
    with pytest.raises(UsageError, match="knows 'Tumor' already"):
        with_class(tuning, "Tumor", "Again.")
    for name, sentence in (("", "x"), ("x", " | "), ("x*", "x")):
        with pytest.raises(UsageError, match="NAME=SENTENCE"):
            with_class(tuning, name, sentence)
    probe = dataclasses.replace(tuning, method="linear_probe")
    with pytest.raises(TuningMismatch, match="Linear probe learns its classes from tiles"):
        with_class(probe, "Fat", "Empty cells.")
    control = dataclasses.replace(tuning, config={**tuning.config, "text": "random"})
    with pytest.raises(TuningMismatch, match="a control"):
        with_class(control, "Fat", "Empty cells.")
    with pytest.raises(TuningMismatch, match="is another one"):
        with_class(tuning, "Fat", "Empty cells.", encode=lambda texts: np.ones((len(texts), 7)))


def test_how_alike_the_sentences_are_is_shown(cite):
    tuning, _, _ = cite
    more = with_class(tuning, "Cancer", CARD.classes[1].sentence)
    found = class_texts(more)
    assert found["cosines"][1][2] == 1.0 and "Tumor and Cancer" in found["alike"][0]
    assert "Tumor and Cancer" in __import__("pathotune.methods.card", fromlist=["model_card"]).model_card(more)


def test_words_alone_make_a_tuning(paired, tmp_path):
    card = task_from_words("tumor: nests of cells | carcinoma; stroma; fat: empty cells", organ="breast")
    events = list(tune_by_wording(card, paired, tmp_path / "words"))
    result = events[-1].result
    assert result["classes"] == ["tumor", "stroma", "fat"] and result["trainable_parameters"] == 0
    assert result["val"]["balanced_accuracy"] is None and result["text"]["encoder"]["name"] == "tower:tiny-plain"
    tuning = Tuning.load(result["out"])
    pixels = tiles(paired)
    said = build_model(tuning, paired)(pixels)
    unit = functional.normalize(torch.from_numpy(tuning.text_vectors), dim=1)
    torch.testing.assert_close(said.logits, 20.0 * functional.normalize(said.features, dim=1) @ unit.T)
    assert all("nests of cells" in text or "carcinoma" in text for text in tuning.texts[0].lower().split(" | "))
    assert "breast tissue" in tuning.texts[0] or "Breast tissue" in tuning.texts[0]
    text = (tmp_path / "words.md").read_text()
    assert "made from sentences alone" in text and "| tumor |" in text
    more = with_class(tuning, "necrosis", "ghosts of cells")
    assert len(more.texts[3].split(" | ")) == 8, "the new class is put into the same wordings"
    torch.testing.assert_close(build_model(more, paired)(pixels).logits[:, :3], said.logits)


def test_words_that_are_nearly_the_same_are_named(paired, tmp_path):
    card = task_from_words("a: the same; b: the same; c: other words altogether")
    notes = [event.text for event in tune_by_wording(card, paired, tmp_path / "words") if isinstance(event, Note)]
    assert any("a and b" in text for text in notes)
    tuning, facts = wording_tuning(card, paired, {"ensemble": ""}, class_names=("a", "c"))
    assert tuning.class_names == ("a", "c") and facts["alike"] == []
    with pytest.raises(UsageError, match="1 of them"):
        wording_tuning(card, paired, class_names=("a",))


def test_a_backbone_without_a_text_side_is_refused_before_it_is_loaded(tiny_backbone, tmp_path):
    with pytest.raises(UsageError, match="UNI has no text side"):
        result_of(tune_by_wording(CARD, "uni", tmp_path / "words"))
    with pytest.raises(UsageError, match="no text side"):
        wording_tuning(CARD, tiny_backbone())
    random = tiny_backbone()
    random.card = dataclasses.replace(random.card, text={"kind": "clip", "context": 77})
    with pytest.raises(UsageError, match="no sentence means"):
        wording_tuning(CARD, random)
    assert load_config("zero_shot").text_encoder_wanted == "own"


def test_typed_classes_become_a_task():
    card = task_from_words("tumor: Nests.\nstroma;fat: a | b", stain="IHC")
    assert card.class_names == ("tumor", "stroma", "fat") and card.stain == "IHC"
    assert [one.sentence for one in card.classes] == ["Nests.", "", "a | b"]
    assert task_from_words("tumor, stroma , fat").class_names == ("tumor", "stroma", "fat")
    for text in ("tumor", "", "a; a"):
        with pytest.raises(TableUnreadable, match=r"two classes|already a class"):
            task_from_words(text)


def test_from_the_command_line(cite, tmp_path, capsys):
    tuning, _, _ = cite
    path = str(tuning.save(tmp_path / "t"))
    runner = CliRunner()
    shown = runner.invoke(app, ["classes", path, "--json"])
    assert json.loads(shown.stdout)["classes"]["Tumor"] == CARD.classes[1].sentence
    assert "cosine" in runner.invoke(app, ["classes", path]).stderr
    changed = ["classes", path, "--add", f"Necrosis={SENTENCE}", "--remove", "Normal", "--out", str(tmp_path / "u")]
    assert json.loads(runner.invoke(app, [*changed, "--json"]).stdout)["classes"]["Necrosis"] == SENTENCE
    assert Tuning.load(tmp_path / "u.pathotune.safetensors").class_names == ("Tumor", "Necrosis")
    for wrong, says in (
        (["classes", path, "--add", "Necrosis=x"], "--out"),
        (["classes", path, "--add", "Tumor=x", "--out", str(tmp_path / "v")], "knows 'Tumor' already"),
        (["classes", path, "--add", "Necrosis", "--out", str(tmp_path / "v")], "NAME=SENTENCE"),
        (["zero-shot", "--backbone", "uni", "--classes", "a;b", "--out", str(tmp_path / "w")], "no text side"),
        (["zero-shot", "--backbone", "plip", "--out", str(tmp_path / "w")], "--task"),
        (["tune", "--method", "zero_shot", "--task", CARD.name, "--backbone", "plip", "--out", str(tmp_path / "w")],
         "PLIP"),
    ):  # fmt: skip
        with pytest.raises(SystemExit):
            main(wrong)
        assert says in capsys.readouterr().err
    cosines = runner.invoke(app, ["tasks", CARD.name, "--cosines", "--text-encoder", "hashing", "--json"])
    assert np.asarray(json.loads(cosines.stdout)[0]["text"]["cosines"]).shape == (2, 2)
    assert "cosine" in runner.invoke(app, ["tasks", CARD.name, "--cosines", "--text-encoder", "hashing"]).stderr
