"""The sentences of a patient: stages in words, survival bins of the training patients, what is unknown passed over."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pathotune.methods.modaltune.texts import (
    PatientFacts,
    one_hot,
    sentences,
    stage_in_words,
    survival_clause,
    survival_edges,
)


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ("Stage IIIA", "stage", "stage three"),
        ("Stage IV", "stage", "stage four"),
        ("stage ii", "stage", "stage two"),
        ("I", "stage", "stage one"),
        ("Stage X", "stage", "stage unknown"),
        ("2", "stage", "stage two"),
        ("T2b", "T", "T two"),
        ("Tis", "T", "T in situ"),
        ("pT4a", "T", "T four"),
        ("N0", "N", "N zero"),
        ("N1mi", "N", "N one"),
        ("MX", "M", "M unknown"),
        ("M1", "M", "M one"),
        ("", "stage", ""),
        ("Not Reported", "stage", ""),
        ("Grade low", "stage", "Grade low"),
    ],
)
def test_stages_are_words_without_their_letters(text, kind, words):
    assert stage_in_words(text, kind) == words


def test_a_patient_becomes_four_strings():
    facts = PatientFacts("breast", "lobular carcinoma", "Stage IIA", "T2", "N0", "", 15.0, 1)
    said = sentences(facts, (12.0, 30.0, 60.0))
    assert said["general"] == (
        "site: breast; diagnosis: lobular carcinoma; stage: stage two; T: T two; N: N zero; "
        "outcome: died after 12 to 30 months"
    )
    assert said["diagnosis"] == "site: breast; diagnosis: lobular carcinoma"
    assert said["stage"] == "site: breast; stage: stage two; T: T two; N: N zero"
    assert said["survival"].endswith("N: N zero; outcome: died after 12 to 30 months")
    assert "diagnosis" not in said["survival"]


def test_what_is_not_known_is_passed_over_and_no_target_is_made_up():
    said = sentences(PatientFacts(site="lung", stage="Not Reported"))
    assert said == {"general": "site: lung", "diagnosis": "", "stage": "", "survival": ""}
    assert sentences(PatientFacts()) == {"general": "", "diagnosis": "", "stage": "", "survival": ""}


def test_who_lives_is_alive_and_bins_have_ends():
    edges = (5.5, 20.0)
    assert survival_clause(3, 1, edges, "months") == "died after less than 5.5 months"
    assert survival_clause(3, 0, edges, "months") == "alive at less than 5.5 months"
    assert survival_clause(5.5, 1, edges, "days") == "died after 5.5 to 20 days"
    assert survival_clause(99, 0, edges, "months") == "alive at more than 20 months"
    assert survival_clause(99, 1, (), "months") == "died after some time"
    assert survival_clause(math.nan, 1, edges, "months") == survival_clause(9, -1, edges, "months") == ""


def test_bins_are_quartiles_of_the_patients_given():
    time = np.append(np.arange(1.0, 101.0), [1e6, 1e6])
    event = np.append(np.ones(100, dtype=np.int64), [-1, -1])  # of whom nothing is known
    assert survival_edges(time, event, 4) == pytest.approx((25.75, 50.5, 75.25))
    assert survival_edges(time[:5], event[:5], 4) == ()


def test_one_hot_targets_know_the_sentences_they_learned():
    found = one_hot(["b", "c", "a"], ["a", "b"])
    assert found.tolist() == [[0, 1], [0, 0], [1, 0]]
