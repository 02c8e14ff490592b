"""The library in the dock: tunings by backbone, used, renamed, deleted; one that cannot be used leaves the other."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("qtpy.QtWidgets")
pytest.importorskip("napari")
from qtpy.QtCore import QMimeData, Qt, QUrl

from napari_pathotune.layers import slide_layer
from napari_pathotune.widgets import library as library_module
from napari_pathotune.widgets.card_window import CardWindow
from pathotune import events
from pathotune.backbones import backbone_card
from pathotune.methods.checkpoint import Tuning, card_path
from pathotune.methods.library import ASIDE
from pathotune.slides import open_slide


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATHOTUNE_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("PATHOTUNE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "results").mkdir()
    return tmp_path / "results"


def make(folder: Path, name: str, backbone: str = "pathotune-tiny", **changes: Any) -> Path:
    card = backbone_card("pathotune-tiny")
    facts: dict[str, Any] = {
        "method": "linear_probe",
        "config": {},
        "task": {},
        "classes": [{"name": "Tumor", "color": [200, 0, 0]}, {"name": "Stroma", "color": [0, 160, 0]}],
        "backbone": {"name": backbone, "embed_dim": card.embed_dim, "mpp": card.mpp},
        "reading": card.reading(),
        "training": {"metrics": {"balanced_accuracy": 0.91}, "slides": ["slide-1"]},
        "tensors": {"trained.a": np.zeros(3, np.float32)},
        **changes,
    }
    return Tuning(**facts).save(folder / f"{name}.pathotune.safetensors")


@pytest.fixture
def dock(qapp: Any, viewer: Any, results: Path) -> Iterator[Any]:
    from napari_pathotune.widgets.dock import PathoTuneDock

    made = PathoTuneDock(viewer)
    yield made
    made.close()


Loop = Callable[..., bool]


def opened(dock: Any, run_loop: Loop) -> Any:
    """The library, read."""
    panel = dock.predict.tuning
    if not panel.fold.head.isChecked():
        panel.fold.head.setChecked(True)
    else:
        panel.library.refresh()
    assert run_loop(10, lambda: not panel.library.is_reading)
    return panel.library


def names(library: Any) -> list[str]:
    return [item.text(0) for item in library.tree.items()]


def test_tunings_are_listed_by_backbone_and_searched(dock: Any, results: Path, run_loop: Loop) -> None:
    make(results, "first")
    make(results, "second", "uni", classes=[{"name": "Fat", "color": [1, 2, 3]}])
    (results / "bad.pathotune.safetensors").write_bytes(b"no tuning at all")
    library = opened(dock, run_loop)
    heads = [library.tree.topLevelItem(row).text(0) for row in range(library.tree.topLevelItemCount())]
    assert len(heads) == 3 and any("Not readable" in head for head in heads)
    assert sorted(names(library)) == ["bad", "first", "second"]
    library.search.setText("fat")
    assert names(library) == ["second"]
    library.search.setText("nowhere")
    assert not names(library) and "No tuning" in library.said.text()
    library.search.setText("")
    library.choose(results / "first.pathotune.safetensors")
    assert "Tumor" in library.about.text and "1 slide" in library.about.text and "0.91" in library.about.text
    library.choose(results / "bad.pathotune.safetensors")
    assert not library.use.isEnabled() and library.delete.isEnabled() and "bad" in library.about.text


def test_files_are_read_by_a_thread(dock: Any, results: Path, run_loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    make(results, "first")
    library = dock.predict.tuning.library
    go_on, original, threads = threading.Event(), library._library.list, []

    def slowly(folders: Any) -> Any:
        threads.append(threading.current_thread())
        go_on.wait(30)
        return original(folders)

    monkeypatch.setattr(library._library, "list", slowly)
    dock.predict.tuning.fold.head.setChecked(True)
    assert run_loop(5, lambda: bool(threads)) and library.is_reading, "the window's loop goes on meanwhile"
    go_on.set()
    assert run_loop(10, lambda: names(library) == ["first"])
    assert threads[0] is not threading.main_thread()


def test_one_is_used_renamed_and_deleted(
    dock: Any, results: Path, run_loop: Loop, notices: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make(results, "first")
    make(results, "taken")
    library = opened(dock, run_loop)
    library.choose(path)
    library.use.click()
    assert dock.session.tuning.path == path and not notices
    (item,) = [item for item in library.tree.items() if item.text(0) == "first"]
    assert item.font(0).bold()
    item.setText(0, "taken")
    assert "already" in notices.pop() and path.exists()
    library.rename_to(path, "mine")
    assert run_loop(10, lambda: not library.is_reading)
    assert dock.session.tuning.name == "mine" and dock.predict.tuning.choice.currentText() == "mine"
    assert sorted(names(library)) == ["mine", "taken"] and library.chosen.name == "mine"
    monkeypatch.setattr(library_module, "trashed", lambda path: False)
    library.delete.click()
    assert not library.question.isHidden() and "mine" in library.question.text.text()
    library.question.buttons["leave"].click()
    assert (results / "mine.pathotune.safetensors").exists()
    library.delete.click()
    library.question.buttons["delete"].click()
    assert run_loop(10, lambda: names(library) == ["taken"])
    assert dock.session.tuning is None and (results / ASIDE / "mine.pathotune.safetensors").is_file()


def test_a_file_is_dropped_and_a_folder_added(
    dock: Any, results: Path, run_loop: Loop, tmp_path: Path, notices: list[str]
) -> None:
    (tmp_path / "mail").mkdir()
    mailed = make(tmp_path / "mail", "mailed")
    library = opened(dock, run_loop)
    data = QMimeData()
    data.setUrls([QUrl.fromLocalFile(str(mailed)), QUrl.fromLocalFile(str(tmp_path / "a.txt"))])
    taken: list[bool] = []
    drop: Any = SimpleNamespace(mimeData=lambda: data, acceptProposedAction=lambda: taken.append(True))
    library.tree.dragEnterEvent(drop)
    library.tree.dropEvent(drop)
    assert taken == [True, True] and run_loop(10, lambda: names(library) == ["mailed"])
    assert mailed.is_file() and (results / mailed.name).is_file() and card_path(results / mailed.name).is_file()
    (tmp_path / "mail" / "foreign.safetensors").write_bytes(b"no tuning")
    library.take_in([tmp_path / "mail" / "foreign.safetensors"])
    assert "foreign" in notices[-1]
    (tmp_path / "shared").mkdir()
    make(tmp_path / "shared", "theirs")
    library.list_too(tmp_path / "shared")
    assert run_loop(10, lambda: sorted(names(library)) == ["mailed", "theirs"])
    assert tmp_path / "shared" in library.folders() and library_module.LibraryPanel().folders() == library.folders()


def test_the_card_opens_in_a_window(dock: Any, results: Path, run_loop: Loop) -> None:
    path = make(results, "first")
    window = CardWindow.of(path)
    assert "research use only" in window.text.toPlainText().lower() and "Tumor" in window.text.toPlainText()
    card_path(path).unlink()
    assert "Tumor" in CardWindow.of(path).text.toPlainText()


@pytest.mark.parametrize("wrong", ["backbone", "width", "mpp", "damaged", "foreign", "gone", "slide"])
def test_one_that_cannot_be_used_is_said_and_the_earlier_stays(
    dock: Any, results: Path, tmp_path: Path, add: Any, slide_path: Path, notices: list[str], wrong: str
) -> None:
    card = backbone_card("pathotune-tiny")
    right = {"name": card.name, "embed_dim": card.embed_dim, "mpp": card.mpp}
    fine = make(results, "fine")
    dock.predict.tuning.load(fine)
    changes: dict[str, Any] = {
        "backbone": {"backbone": {**right, "name": "nobody-knows"}},
        "width": {"backbone": {**right, "embed_dim": 7}},
        "mpp": {"backbone": {**right, "mpp": 1.5}},
    }.get(wrong, {})
    if wrong == "slide":
        from pathotune.tiles import Reading

        add([slide_layer(open_slide(slide_path))])
        changes = {"reading": Reading(mpp=0.1, tile_px=64, image_px=64)}
    path = make(results, "other", **changes)
    if wrong == "damaged":
        path.write_bytes(path.read_bytes()[:200])
    elif wrong == "foreign":
        path.write_bytes(b"PK\x03\x04 something else")
    elif wrong == "gone":
        path.unlink()
    dock.predict.tuning.load(path)
    panel = dock.predict.tuning
    assert not panel.refusal.isHidden() and "fine" in panel.refusal.text.text() and "other" in panel.refusal.text.text()
    assert dock.session.tuning.path == fine and panel.choice.currentText() == "fine" and len(notices) == 1
    panel.load(fine)
    assert panel.refusal.isHidden()


def test_a_prediction_that_the_tuning_is_to_blame_for_brings_the_earlier_back(
    dock: Any, results: Path, notices: list[str]
) -> None:
    first, second = make(results, "first"), make(results, "second")
    panel, session = dock.predict.tuning, dock.session
    panel.load(first)
    panel.load(second)
    session.start(SimpleNamespace(command="predict"), "", "")
    session.take(events.Failed("TuningMismatch", "This tuning needs other weights."))
    assert session.tuning.path == first and "other weights" in panel.refusal.text.text()
    assert panel.refusal.text.textFormat() == Qt.TextFormat.RichText, "an apostrophe is read as one, not as &#x27;"
    panel.load(second)
    session.start(SimpleNamespace(command="predict"), "", "")
    session.take(events.Failed("TooLittleMemory", "Memory ran out."))
    assert session.tuning.path == second, "that was not its fault"


def test_a_slide_that_comes_later_and_is_too_coarse_is_said(
    dock: Any, results: Path, add: Any, slide_path: Path
) -> None:
    from pathotune.tiles import Reading

    dock.predict.tuning.load(make(results, "fine", reading=Reading(mpp=0.1, tile_px=64, image_px=64)))
    add([slide_layer(open_slide(slide_path))])
    assert "0.1 µm" in dock.predict.hint.text() and not dock.predict.go.isEnabled()
