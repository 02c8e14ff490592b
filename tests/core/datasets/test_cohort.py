"""Cohort tables, and splits that never part a patient."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from pathotune.datasets.cohort import Cohort, folds_of, read_cohort, split_patients
from pathotune.errors import FileMissing, NoTiles, TableUnreadable, UsageError


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def many(patients: int = 40, slides: int = 2, classes: int = 3, survival: bool = False) -> Cohort:
    """Patients with several slides each, all of one class; the last class is rare."""
    label = np.minimum(np.arange(patients) % (2 * classes - 1) // 2, classes - 1)
    of = np.repeat(np.arange(patients), slides)
    count = len(of)
    return Cohort(
        slides=tuple(f"s{row}.svs" for row in range(count)),
        patients=tuple(f"P{patient}" for patient in of),
        labels=tuple(None if survival else f"class {label[patient]}" for patient in of),
        time=np.where(np.full(count, survival), of + 1.0, np.nan),
        event=np.where(np.full(count, survival), (of % 3 == 0).astype(int), -1),
        split=("",) * count,
        fold=np.full(count, -1),
        mpp=np.full(count, np.nan),
    )


def test_a_table_is_read_with_its_clinical_columns(tmp_path: Path) -> None:
    path = write(
        tmp_path / "cohort.csv",
        "Slide;patient;label;time;event;split;fold;mpp;Stage\n"
        "a.svs;P1;LUAD;12.5;1;training;0;0.25;II\nb.svs;P1;LUAD;12.5;yes;train;0;;II\n\nc.svs;;;;;;;;\n",
    )
    cohort = read_cohort(path)
    assert cohort.slides == ("a.svs", "b.svs", "c.svs")
    assert cohort.patients == ("P1", "P1", "c.svs")
    assert cohort.labels == ("LUAD", "LUAD", None)
    assert cohort.event.tolist() == [1, 1, -1] and cohort.time[0] == 12.5 and np.isnan(cohort.time[2])
    assert cohort.split == ("train", "train", "") and cohort.fold.tolist() == [0, 0, -1]
    assert cohort.slide_mpp(0) == 0.25 and cohort.slide_mpp(1) is None
    assert cohort.clinical == {"stage": ("II", "II", "")}
    assert cohort.slide_path(0) == tmp_path / "a.svs"
    assert cohort.by_patient() == {"P1": [0, 1], "c.svs": [2]}
    assert cohort.take([2, 0]).patients == ("c.svs", "P1") and cohort.take([2, 0]).clinical["stage"] == ("", "II")


def test_saved_is_read_again(tmp_path: Path) -> None:
    cohort = many(6, survival=True)
    cohort.clinical["grade"] = tuple(str(row) for row in range(len(cohort)))
    again = read_cohort(cohort.save(tmp_path / "sub" / "cohort.csv"))
    assert (again.slides, again.patients, again.labels, again.clinical) == (
        cohort.slides,
        cohort.patients,
        cohort.labels,
        cohort.clinical,
    )
    assert np.array_equal(again.time, cohort.time) and np.array_equal(again.event, cohort.event)
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_gzipped_table_is_read(tmp_path: Path) -> None:
    path = tmp_path / "cohort.tsv.gz"
    path.write_bytes(gzip.compress(b"slide\tlabel\na.svs\tx\n"))
    assert read_cohort(path).labels == ("x",)
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(TableUnreadable, match="cut off"):
        read_cohort(path)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("file,label\na,x\n", "no column 'slide'"),
        ("slide,label\n", "no rows"),
        ("slide,label\na.svs,x\na.svs,y\n", "row 2 and in row 3"),
        ("slide,patient,split\na,P,train\nb,P,test\n", "split parts the patient 'P'"),
        ("slide,patient,fold\na,P,0\nb,P,1\n", "fold parts the patient 'P'"),
        ("slide,split\na,holdout\n", "row 2 have another split"),
        ("slide,time,event\na,12,\n", "time without an event"),
        ("slide,time,event\na,-1,1\n", "at least 0"),
        ("slide,time,event\na,5,maybe\n", "another event"),
        ("slide,mpp\na,0\n", "positive number"),
        ("slide,mpp\na,0.25,7\n", "more cells"),
        ("slide,slide\na,b\n", "twice"),
        ("", "is empty"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(TableUnreadable, match=sentence):
        read_cohort(write(tmp_path / "cohort.csv", text))


def test_no_such_table(tmp_path: Path) -> None:
    with pytest.raises(FileMissing, match="cohort table"):
        read_cohort(tmp_path / "none.csv")


@pytest.mark.parametrize("survival", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_a_split_parts_no_patient_and_has_every_class_on_both_sides(survival: bool, seed: int) -> None:
    cohort = many(survival=survival)
    train, held = split_patients(cohort, 0.25, seed)
    assert sorted([*train, *held]) == list(range(len(cohort)))
    learned, judged = cohort.take(train), cohort.take(held)
    assert not set(learned.patients) & set(judged.patients)
    assert learned.classes == judged.classes == cohort.classes
    if survival:
        assert set(learned.event) == set(judged.event) == {0, 1}
    assert 0.15 < len(held) / len(cohort) < 0.35
    again, _ = split_patients(cohort, 0.25, seed)
    assert np.array_equal(train, again)


def test_the_tables_own_split_is_followed_and_its_test_set_is_on_neither_side() -> None:
    cohort = many(6, slides=1)
    cohort.split = ("train", "val", "test", "train", "val", "")
    train, held = split_patients(cohort)
    assert train.tolist() == [0, 3] and held.tolist() == [1, 4]
    cohort = many(40, slides=1)
    cohort.split = ("test",) * 10 + ("",) * 30
    train, held = split_patients(cohort)
    assert min(*train, *held) == 10 and len(train) + len(held) == 30


def test_patients_without_a_label_are_drawn_too() -> None:
    cohort = many(40)
    cohort.labels = tuple(None if row >= 40 else label for row, label in enumerate(cohort.labels))
    train, held = split_patients(cohort, 0.25, 0)
    assert (held >= 40).any() and (train >= 40).any()
    assert not {cohort.patients[row] for row in train} & {cohort.patients[row] for row in held}


@pytest.mark.parametrize("k", [2, 5])
def test_folds_part_no_patient_and_hold_every_class(k: int) -> None:
    cohort = many(40)
    folds = folds_of(cohort, k, seed=3)
    assert set(folds.tolist()) == set(range(k))
    for rows in cohort.by_patient().values():
        assert len(set(folds[rows].tolist())) == 1
    for fold in range(k):
        assert cohort.take(np.flatnonzero(folds == fold)).classes == cohort.classes
    sizes = np.bincount(folds)
    assert sizes.max() - sizes.min() <= 2 * 3
    assert not np.array_equal(folds, folds_of(cohort, k, seed=4))


def test_folds_of_the_table_are_followed_and_the_test_set_has_none() -> None:
    cohort = many(6, slides=1)
    cohort.fold = np.array([1, 1, 3, 3, 5, -1])
    cohort.split = ("", "", "", "", "", "test")
    assert folds_of(cohort, 0).tolist() == [0, 0, 1, 1, 2, -1]
    with pytest.raises(UsageError, match="3 folds, not 5"):
        folds_of(cohort, 5)


def test_too_few_patients_are_named() -> None:
    cohort = many(10, slides=1)
    cohort.labels = ("rare",) + ("other",) * 9
    with pytest.raises(NoTiles, match="'rare' has 1 patient"):
        split_patients(cohort)
    with pytest.raises(NoTiles, match="'rare' has 1 patient"):
        folds_of(cohort, 3)
    with pytest.raises(NoTiles, match="1 patients cannot be split"):
        split_patients(cohort.take([0]))
    with pytest.raises(UsageError, match=r"0\.95"):
        split_patients(cohort, 0.95)
