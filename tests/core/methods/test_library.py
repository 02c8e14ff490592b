"""Tunings found, told by their headers, renamed, taken in, put aside, and refused where they cannot be used."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pathotune.backbones import backbone_card
from pathotune.backbones.remembered import remember, remembered_sha256
from pathotune.errors import BackboneUnavailable, OutputRefused, TuningMismatch, TuningUnreadable, UsageError
from pathotune.methods import checkpoint
from pathotune.methods.checkpoint import Tuning, card_path
from pathotune.methods.fitting import check_here, check_slide, what_is_to_come
from pathotune.methods.library import ASIDE, Library, listed, put_aside, rename, take_in
from pathotune.tiles import Reading


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATHOTUNE_CACHE", str(tmp_path / "cache"))


def make(path: Path, **changes: Any) -> Tuning:
    """A tuning of the built-in backbone, saved."""
    card = backbone_card("pathotune-tiny")
    facts: dict[str, Any] = {
        "method": "linear_probe",
        "config": {},
        "task": {},
        "classes": [{"name": "Tumor", "color": [200, 0, 0]}, {"name": "Stroma", "color": None}],
        "backbone": {"name": card.name, "embed_dim": card.embed_dim, "mpp": card.mpp, "sha256": "ab" * 32},
        "reading": card.reading(),
        "training": {"metrics": {"balanced_accuracy": 0.91}, "slides": ["slide-1", "slide-2"]},
        "tensors": {"trained.a": np.zeros(3, np.float32)},
        **changes,
    }
    made = Tuning(**facts)
    made.save(path)
    return made


def file_in(folder: Path, name: str = "mine", **changes: Any) -> Path:
    path = folder / f"{name}.pathotune.safetensors"
    make(path, **changes)
    return path


def test_a_list_tells_what_stands_in_the_header_and_reads_no_tensor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = file_in(tmp_path, training={"metrics": {"balanced_accuracy": 0.5}, "slides": ["s"], "ended": "cancelled"})
    monkeypatch.setattr(Path, "read_bytes", lambda self: pytest.fail("the whole file was read"))
    one = listed(path)
    assert (one.name, one.backbone, one.slides, one.balanced_accuracy) == ("mine", "pathotune-tiny", 1, 0.5)
    assert one.classes == (("Tumor", (200, 0, 0)), ("Stroma", (128, 128, 128))) and one.was_cancelled
    assert one.created and not one.problem
    assert one.matches("TUMOR tiny") and one.matches("") and not one.matches("tumor lung")


@pytest.mark.parametrize(
    "content",
    [b"", b"\x00" * 9, b"\xff" * 40, b"\x02\0\0\0\0\0\0\0{}", b"\x10\0\0\0\0\0\0\0" + b"[" * 16, b"PK\x03\x04 a zip"],
)
def test_damaged_and_foreign_files_are_listed_with_the_reason(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.pathotune.safetensors"
    path.write_bytes(content)
    one = listed(path)
    assert one.problem and "bad" in one.problem and one.backbone == ""
    with pytest.raises(TuningUnreadable, match="bad"):
        Tuning.load(path)


def test_a_half_copied_tuning_and_one_of_tomorrow_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = file_in(tmp_path)
    path.write_bytes(path.read_bytes()[:300])
    assert "Copy it again" in listed(path).problem
    with monkeypatch.context() as later:
        later.setattr(checkpoint, "FORMAT", 99)
        path = file_in(tmp_path, "tomorrow")
    assert "Update pathotune" in listed(path).problem


def test_only_what_changed_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pathotune.methods import library

    read: list[str] = []
    original = library.listed
    monkeypatch.setattr(library, "listed", lambda path: (read.append(path.name), original(path))[1])
    paths = [file_in(tmp_path, name) for name in "abc"]
    (tmp_path / "deep").mkdir()
    file_in(tmp_path / "deep", "hidden")
    shown = Library()
    assert {one.name for one in shown.list([tmp_path, tmp_path / "gone"])} == {"a", "b", "c"} and len(read) == 3
    make(paths[0], method="pathotune", created="2031-01-01T00:00:00+00:00")
    assert shown.list([tmp_path])[0].name == "a" and len(read) == 4
    assert {one.name for one in shown.list([tmp_path, tmp_path / "deep"])} == {"a", "b", "c", "hidden"}


def test_a_name_changes_with_card_and_session(tmp_path: Path) -> None:
    path = file_in(tmp_path, "old")
    (tmp_path / "old.session").mkdir()
    file_in(tmp_path, "taken")
    new = rename(path, " new name ")
    assert new.name == "new name.pathotune.safetensors" and not path.exists() and not card_path(path).exists()
    assert card_path(new).read_text().startswith("# new name") and (tmp_path / "new name.session").is_dir()
    assert Tuning.load(new).name == "new name"
    for name in ("", "taken", "a/b", "..", "x:y"):
        with pytest.raises(UsageError):
            rename(new, name)
    assert rename(new, "new name") == new


def test_what_cannot_all_be_moved_stays_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = file_in(tmp_path, "old")
    original = Path.rename

    def refuse_cards(self: Path, target: Path) -> Path:
        if self.suffix == ".md" and self.stem == "old":
            raise PermissionError(13, "locked")
        return original(self, target)

    monkeypatch.setattr(Path, "rename", refuse_cards)
    with pytest.raises(OutputRefused, match="locked"):
        rename(path, "new")
    assert path.is_file() and not list(tmp_path.glob("new*"))


def test_nothing_is_lost_by_putting_aside_or_taking_in(tmp_path: Path) -> None:
    first = put_aside(file_in(tmp_path, "mine"))
    second = put_aside(file_in(tmp_path, "mine"))
    assert first != second and first.parent == tmp_path / ASIDE and card_path(second).is_file()
    assert not Library().list([tmp_path])
    taken, again = (take_in(first, tmp_path / "library") for _ in range(2))
    assert [taken.name, again.name] == ["mine.pathotune.safetensors", "mine-2.pathotune.safetensors"]
    assert card_path(again).is_file()
    assert first.is_file() and Tuning.load(taken).fingerprint == Tuning.load(first).fingerprint
    (tmp_path / "foreign.safetensors").write_bytes(b"no tuning")
    with pytest.raises(TuningUnreadable):
        take_in(tmp_path / "foreign.safetensors", tmp_path / "library")
    assert take_in(taken, tmp_path / "library") == taken


def changed(**facts: Any) -> dict[str, Any]:
    card = backbone_card("pathotune-tiny")
    return {"backbone": {"name": card.name, "embed_dim": card.embed_dim, "mpp": card.mpp, "sha256": "ab" * 32, **facts}}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method": "tomorrow"}, ("tomorrow", "Update")),
        (changed(name="nobody-knows"), ("nobody-knows", "catalogue")),
        (changed(embed_dim=8), ("8 wide", "tune again")),
        (changed(mpp=0.25), ("0.25 µm", "tune again")),
    ],
)
def test_a_tuning_that_cannot_be_used_here_is_refused_in_one_sentence(
    tmp_path: Path, changes: dict[str, Any], words: tuple[str, ...]
) -> None:
    with pytest.raises(TuningMismatch) as refused:
        check_here(Tuning.load(file_in(tmp_path, **changes)))
    assert "mine" in str(refused.value) and all(word in str(refused.value) for word in words)


def test_a_tuning_that_names_a_file_as_its_backbone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TuningUnreadable, match=r"mine.* names a file as its backbone"):
        check_here(Tuning.load(file_in(tmp_path, **changed(name="../../etc/passwd"))))


def test_a_backbone_that_cannot_be_loaded_is_refused_and_one_that_is_not_here_is_announced(tmp_path: Path) -> None:
    from pathotune.backbones import all_cards

    never = next(card for card in all_cards() if not card.loadable)
    with pytest.raises(BackboneUnavailable, match="cannot be loaded"):
        check_here(Tuning.load(file_in(tmp_path, **changed(name=never.name))))
    fine = Tuning.load(file_in(tmp_path))
    check_here(fine)
    assert what_is_to_come(fine) == ""
    away = next(card for card in all_cards() if card.loadable and card.hub_id and not card.needs)
    note = what_is_to_come(Tuning.load(file_in(tmp_path, **changed(name=away.name))))
    assert away.title in note and away.where_to_ask in note


def test_other_weights_than_those_that_were_loaded_here_last_are_refused(tmp_path: Path) -> None:
    card, tuning = backbone_card("pathotune-tiny"), make(tmp_path / "mine")
    assert remembered_sha256(card) == ""
    check_here(tuning)  # nothing is known yet: the prediction will tell
    remember(card, "ab" * 32)
    check_here(tuning)
    remember(card, "cd" * 32)
    with pytest.raises(TuningMismatch, match="other weights"):
        check_here(tuning)


@pytest.mark.parametrize(("mpp", "fits"), [(0.12, True), (0.5, True), (0.99, True), (1.01, False), (None, True)])
def test_a_slide_too_coarse_for_a_tuning_is_refused(tmp_path: Path, mpp: float | None, fits: bool) -> None:
    tuning = make(tmp_path / "mine", reading=Reading(mpp=0.5, tile_px=64, image_px=64))
    size = None if mpp is None else SimpleNamespace(mean=mpp, source="aperio")
    slide: Any = SimpleNamespace(name="a.svs", mpp=size)
    if fits:
        check_slide(tuning, slide)
        return
    with pytest.raises(TuningMismatch, match=r"mine reads tissue at 0\.5 µm.*a\.svs.*1\.01 µm.*at most 1 µm"):
        check_slide(tuning, slide)
