"""The journal says at any time what the document says, survives kill -9, and is offered exactly once."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import shapely

from pathotune.errors import OutputRefused
from pathotune.regions import journal as journal_module
from pathotune.regions.document import RegionDocument
from pathotune.regions.journal import SUFFIX, Journal, read_state, unsaved_journals
from pathotune.regions.keeping import Keeper
from pathotune.regions.region import Region

FINGERPRINT = "0123456789abcdef"
BOX = shapely.box(0, 0, 100, 100)
AnyStep = Callable[[RegionDocument, random.Random], None]
Content = Callable[[RegionDocument], Any]


@pytest.fixture
def slide(plain_slide: Any) -> Any:
    plain_slide.fingerprint = FINGERPRINT
    return plain_slide


def begun(document: RegionDocument, folder: Path) -> Journal:
    return Journal(document, "slide.svs", FINGERPRINT, folder, folder / "own")


def as_after_a_crash(path: Path) -> None:
    """Make a journal look as if its process had ended."""
    lines = path.read_bytes().split(b"\n")
    header = json.loads(lines[0])
    header |= {"process_start": 1.0, "boot_id": "an earlier one"}
    path.write_bytes(b"\n".join([json.dumps(header).encode(), *lines[1:]]))


@pytest.mark.parametrize("seed", range(4))
def test_the_journal_says_what_the_document_says_after_any_edits(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch, any_step: AnyStep, content: Content
) -> None:
    if seed % 2:
        monkeypatch.setattr(journal_module, "COMPACT_BYTES", 3000)
    dice = random.Random(seed)
    document = RegionDocument()
    document.add([Region(BOX, "Tumor", properties={"unknown": [1, {"a": "ä"}]}, members={"nucleus": 1})])
    journal = begun(document, tmp_path)
    for number in range(60):
        any_step(document, dice) if number % 6 else document.undo()
    assert journal.flush()
    _, state = read_state(journal.path)
    journal.close(delete=False)
    restored = state.document()
    assert content(restored) == content(document)
    assert state.skipped == 0 and state.changes > 0
    kept = [region.properties for region in restored.regions() if "unknown" in region.properties]
    assert kept == [region.properties for region in document.regions() if "unknown" in region.properties] or not kept


def test_a_torn_last_line_costs_that_line_only(tmp_path: Path) -> None:
    document = RegionDocument()
    journal = begun(document, tmp_path)
    document.add([Region(BOX, "Tumor")])
    document.add([Region(BOX, "Stroma")])
    journal.close(delete=False)
    whole = journal.path.read_bytes()
    last = whole.rstrip(b"\n").rfind(b"\n") + 1
    for cut in range(last + 1, len(whole) - 2, 37):
        journal.path.write_bytes(whole[:cut])
        _, state = read_state(journal.path)
        assert [region.class_name for region in state.regions()] == ["Tumor"] and state.skipped == 1
    journal.path.write_bytes(whole[:last] + b"\x00\xff garbage\n[]\n3\n" + whole[last:])
    assert len(read_state(journal.path)[1].regions()) == 2


def test_it_is_offered_once_and_nothing_is_lost_either_way(tmp_path: Path, slide: Any) -> None:
    first = Keeper(slide, tmp_path, tmp_path / "own")
    first.begin()
    first.document.add([Region(BOX, "Tumor")])
    assert first.journal is not None and first.journal.flush()
    assert unsaved_journals(FINGERPRINT, [tmp_path]) == [], "its process still runs"
    first.journal.close(delete=False)
    as_after_a_crash(first.journal.path)

    second = Keeper(slide, tmp_path, tmp_path / "own")
    second.load()
    (unsaved,) = second.unsaved()
    second.begin()
    assert second.restore(unsaved) == 1 and second.document.counts["Tumor"].regions == 1
    assert second.unsaved() == [] and not unsaved.path.exists()
    assert second.document.undo() == "Restore" and len(second.document) == 0
    second.document.redo()
    saved = second.close()
    assert saved is not None and list(tmp_path.glob(f"*{SUFFIX}*")) == []

    third = Keeper(slide, tmp_path, tmp_path / "own")
    assert third.load().counts["Tumor"].regions == 1 and third.document.undo_label == ""
    third.begin()
    third.document.add([Region(BOX, "Stroma")])
    assert third.journal is not None
    third.journal.close(delete=False)
    as_after_a_crash(third.journal.path)
    fourth = Keeper(slide, tmp_path, tmp_path / "own")
    (unsaved,) = fourth.unsaved()
    kept = unsaved.set_aside()
    assert fourth.unsaved() == [] and len(read_state(kept)[1].regions()) == 2, "no is no, and still nothing is lost"


def test_what_was_saved_before_the_crash_is_not_offered(tmp_path: Path, slide: Any) -> None:
    keeper = Keeper(slide, tmp_path, tmp_path / "own")
    keeper.begin()
    keeper.document.add([Region(BOX, "Tumor")])
    assert keeper.save() is not None and keeper.save() is None
    assert keeper.journal is not None and keeper.journal.flush()
    keeper.journal.close(delete=False)
    as_after_a_crash(keeper.journal.path)
    assert Keeper(slide, tmp_path, tmp_path / "own").unsaved() == [] and not keeper.journal.path.exists()


def test_a_restored_slide_that_crashes_again_is_offered_again(tmp_path: Path, slide: Any) -> None:
    path = None
    for _ in range(3):
        keeper = Keeper(slide, tmp_path, tmp_path / "own")
        keeper.load()
        left = keeper.unsaved()
        keeper.begin()
        for unsaved in left:
            keeper.restore(unsaved)
        keeper.document.add([Region(BOX, "Tumor")])
        assert keeper.journal is not None
        keeper.journal.close(delete=False)
        path = keeper.journal.path
        as_after_a_crash(path)
    assert path is not None and len(read_state(path)[1].regions()) == 3
    assert len(list(tmp_path.glob(f"*{SUFFIX}"))) == 1


def test_names_colours_and_order_of_classes_come_back_with_the_slide(
    tmp_path: Path, slide: Any, content: Content
) -> None:
    keeper = Keeper(slide, tmp_path, tmp_path / "own")
    keeper.begin()
    keeper.document.add_class("Gland", (1, 2, 3))
    keeper.document.set_palette(keeper.document.palette.move("Gland", 0))
    keeper.document.add([Region(shapely.Point(5, 5), "Gland")])
    keeper.close()
    again = Keeper(slide, tmp_path, tmp_path / "own").load()
    assert again.palette == keeper.document.palette and content(again) == content(keeper.document)


def test_what_another_window_wrote_or_broke_is_set_aside_and_not_lost(tmp_path: Path, slide: Any) -> None:
    keepers = [Keeper(slide, tmp_path, tmp_path / "own") for _ in range(2)]
    for number, keeper in enumerate(keepers):
        keeper.load()
        keeper.begin()
        keeper.document.add([Region(BOX, "Tumor")] * (number + 1))
    for keeper in keepers:
        keeper.close()
    counts = [len(json.loads(path.read_text())["features"]) for path in tmp_path.glob("*.geojson")]
    assert sorted(counts) == [1, 2]
    keepers[0].saved_path.write_text("{broken")
    broken = Keeper(slide, tmp_path, tmp_path / "own")
    assert len(broken.load()) == 0 and "could not be read" in broken.note
    assert "{broken" in [path.read_text() for path in tmp_path.glob("*.geojson")]


def test_a_folder_that_cannot_be_written_to_is_said_and_the_own_one_taken(tmp_path: Path, slide: Any) -> None:
    blocked = tmp_path / "results"
    blocked.write_text("a file where a folder should be")
    keeper = Keeper(slide, blocked, tmp_path / "own")
    note = keeper.begin()
    assert "cannot be written to" in note and str(tmp_path / "own") in note
    keeper.document.add([Region(BOX, "Tumor")])
    saved = keeper.close()
    assert saved is not None and saved.parent == tmp_path / "own"
    assert Keeper(slide, blocked, tmp_path / "own").load().counts["Tumor"].regions == 1
    with pytest.raises(OutputRefused, match="Choose another"):
        Keeper(slide, blocked, blocked).begin()


DRAWING = """
import sys, time
from pathlib import Path
import shapely
from pathotune.regions.document import RegionDocument
from pathotune.regions.journal import Journal
from pathotune.regions.region import Region

folder = Path(sys.argv[1])
document = RegionDocument()
journal = Journal(document, "slide.svs", sys.argv[2], folder, folder)
number = 0
while True:
    document.add([Region(shapely.box(number, 0, number + 5, 5), "Tumor")])
    number += 1
    print(number, flush=True)
    time.sleep(0.01)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="kill -9 is a thing of Unix; Windows ends processes the same way")
def test_kill_9_while_drawing_loses_nothing_but_the_last_moment(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", DRAWING, str(tmp_path), FINGERPRINT], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    said = [int(process.stdout.readline()) for _ in range(40)]
    time.sleep(0.2)
    os.kill(process.pid, signal.SIGKILL)
    said += [int(line) for line in process.stdout.read().split()]
    process.wait()
    (unsaved,) = unsaved_journals(FINGERPRINT, [tmp_path])
    assert len(unsaved.state.regions()) >= said[39], "what was drawn 0.2 s before is there"
    assert len(unsaved.state.regions()) <= said[-1] + 1


def test_a_shape_that_is_being_drawn_is_kept_until_it_is_a_region(tmp_path: Path) -> None:
    def read(journal: Journal) -> Any:
        assert journal.flush()
        return read_state(journal.path)[1]

    document = RegionDocument()
    journal = begun(document, tmp_path)
    half, more = shapely.box(0, 0, 10, 10), shapely.box(0, 0, 20, 10)
    journal.keep_draft(Region(half, "Tumor"))
    length = journal.path.stat().st_size if journal.flush() else 0
    journal.keep_draft(Region(half, "Tumor"))
    state = read(journal)
    assert journal.path.stat().st_size == length, "what is unchanged is not written again"
    assert state.is_unsaved and state.count == 1 and state.regions()[0].geometry.equals(half)
    journal.keep_draft(Region(more, "Tumor"))
    document.add_class("Fat")
    assert [region.geometry.area for region in read(journal).regions()] == [200.0]
    document.add([Region(more, "Tumor")])
    state = read(journal)
    assert state.draft is None and len(state.regions()) == 1, "a region is not there twice"
    journal.keep_draft(Region(half, "Other"))
    assert [region.class_name for region in read(journal).regions()] == ["Tumor", "Other"]
    journal.keep_draft(None)
    assert [region.class_name for region in read(journal).regions()] == ["Tumor"]
    journal.close(delete=True)


def test_a_draft_alone_is_offered_and_survives_a_rewriting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = RegionDocument()
    journal = begun(document, tmp_path)
    journal.keep_draft(Region(BOX, "Tumor"))
    journal.mark_saved(tmp_path / "regions.geojson")
    monkeypatch.setattr(journal_module, "COMPACT_BYTES", 1)
    monkeypatch.setattr(journal_module, "COMPACT_RATIO", 0)
    document.add_class("Fat")
    journal.close(delete=False)
    as_after_a_crash(journal.path)
    (unsaved,) = unsaved_journals(FINGERPRINT, [tmp_path])
    assert unsaved.state.count == 1 and unsaved.state.regions()[0].class_name == "Tumor"
