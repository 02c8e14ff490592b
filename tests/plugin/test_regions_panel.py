"""The panel to draw with, the table before a training, and what a result looks like."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("qtpy.QtWidgets")
pytest.importorskip("napari")
import shapely

from napari_pathotune.layers import facts, slide_layer
from napari_pathotune.session import JobState
from napari_pathotune.widgets.regions_palette import NAME
from pathotune import events
from pathotune.execution.job import Job
from pathotune.regions import read_regions
from pathotune.regions.region import Region


@pytest.fixture
def dock(qapp: Any, viewer: Any) -> Any:
    from napari_pathotune.widgets.dock import PathoTuneDock

    made = PathoTuneDock(viewer)
    yield made
    made.tune.board.close()
    made.close()


@pytest.fixture
def on_slide(viewer: Any, add: Callable[[list[Any]], list[Any]], slide_path: Path) -> Any:
    from pathotune.slides import open_slide

    return add([slide_layer(open_slide(slide_path))])[0]


def texts(table: Any) -> list[list[str]]:
    items = [table.topLevelItem(number) for number in range(table.topLevelItemCount())]
    return [[item.text(column) for column in range(NAME, table.columnCount())] for item in items]


def test_regions_area_and_tiles_of_each_class_are_counted(dock: Any, on_slide: Any) -> None:
    panel, document = dock.tune.regions, dock.tune.board.active.document
    document.add([Region(shapely.box(0, 0, 300, 200), "Tumor"), Region(shapely.box(300, 0, 400, 200), "Stroma")])
    document.add([Region(shapely.box(400, 0, 500, 100), None)])
    found = dock.tune.counter.now()
    panel.refresh()
    rows = {row[0]: row[1:] for row in texts(panel.table)}
    assert rows["Tumor"][:2] == ["1", "0.015"] and rows["Stroma"][:2] == ["1", "0.0050"]
    assert rows["Tumor"][2] == str(sum(row.tiles for row in found.regions if row.class_name == "Tumor")) != "0"
    assert rows["no class"][0] == "1" and rows["Necrosis"][0] == "0"
    assert "tiles" in dock.tune.cost.text() and "MB" in dock.tune.cost.text()
    assert "1 give nothing" in dock.tune.preflight_fold.head.text()
    reasons = [dock.tune.table.topLevelItem(number).text(2) for number in range(dock.tune.table.topLevelItemCount())]
    assert any("no class" in reason for reason in reasons)


def test_a_class_is_chosen_renamed_and_merged_from_the_table(dock: Any, on_slide: Any, notices: list[str]) -> None:
    panel, drawing = dock.tune.regions, dock.tune.board.active
    (key,) = drawing.document.add([Region(shapely.box(0, 0, 300, 200), "Tumor")])
    panel.refresh()
    table = panel.table
    table.itemClicked.emit(table.topLevelItem(1), NAME)
    assert drawing.active_class == "Stroma" and drawing.document[key].class_name == "Tumor"
    table.topLevelItem(0).setText(NAME, "Cancer")
    assert drawing.document[key].class_name == "Cancer" and drawing.document.palette.names[0] == "Cancer"
    panel.refresh()
    table.topLevelItem(0).setText(NAME, "Stroma")
    panel.refresh()
    assert "merge" in notices[-1] and table.topLevelItem(0).text(NAME) == "Cancer"
    drawing.choose_class("Cancer", assign=False)
    panel.more.menu().aboutToShow.emit()
    merge = next(entry.menu() for entry in panel.more.menu().actions() if entry.text().startswith("Merge"))
    next(entry for entry in merge.actions() if entry.text() == "Stroma").trigger()
    assert drawing.document[key].class_name == "Stroma" and "Cancer" not in drawing.document.palette
    panel.refresh()
    assert panel.undo.isEnabled() and "Merge" in panel.undo.toolTip()
    panel.undo.click()
    panel.refresh()
    assert drawing.document[key].class_name == "Cancer" and panel.redo.isEnabled()


def test_a_new_class_is_the_one_drawn_with(dock: Any, on_slide: Any, notices: list[str]) -> None:
    panel, drawing = dock.tune.regions, dock.tune.board.active
    panel.new_class("Gland")
    assert drawing.active_class == "Gland" and drawing.document.palette.names[-1] == "Gland"
    panel.new_class("Gland")
    assert "already" in notices[-1]


def test_name_and_notes_of_the_selected_region_are_edited_undone_and_written(
    dock: Any, on_slide: Any, tmp_path: Path, notices: list[str]
) -> None:
    from napari_pathotune.widgets.regions_notes import DescriptionDialog

    panel, drawing = dock.tune.regions, dock.tune.board.active
    document = drawing.document
    first, second = document.add([Region(shapely.box(x, 0, x + 50, 50), "Tumor") for x in (0, 100)])
    drawing.choose_tool("select")
    bound = drawing.layer_for()

    def entry() -> Any:
        panel.more.menu().aboutToShow.emit()
        (found,) = (one for one in panel.more.menu().actions() if one.text().startswith("Name and notes"))
        return found

    assert not entry().isEnabled()
    bound.select([first, second])
    assert not entry().isEnabled(), "of one at a time"
    bound.select([second])

    def answer(name: str, notes: str) -> tuple[str, str]:
        dialog = DescriptionDialog(name, notes)
        assert dialog.description() == (name, notes)
        dialog.name.setText(" Rand ")
        dialog.notes.setPlainText("frei\nvon Tumor")
        return dialog.description()

    panel.ask_description = answer
    entry().trigger()
    region = document[second]
    assert (region.name, region.notes, document[first].name) == ("Rand", "frei\nvon Tumor", "")
    assert "Rand" in entry().text() and bound.layer.features["name"].iloc[bound.keys.index(second)] == "Rand"
    panel.save_regions(tmp_path / "r.geojson")
    written = json.loads((tmp_path / "r.geojson").read_text(encoding="utf-8"))["features"][1]["properties"]
    assert (written["name"], written["metadata"]) == ("Rand", {"ANNOTATION_DESCRIPTION": "frei\nvon Tumor"})
    document.undo()
    assert (document[second].name, document[second].notes) == ("", "")
    document.redo()
    panel.ask_description = lambda name, notes: None
    entry().trigger()
    assert document[second] == region, "who changes her mind changes nothing"
    document.set_locked([second], True)
    panel.ask_description = lambda name, notes: ("", "")
    entry().trigger()
    assert "locked" in notices[-1] and document[second].name == "Rand"


def test_a_file_is_loaded_mapped_and_written_without_loss(
    dock: Any, on_slide: Any, tmp_path: Path, notices: list[str]
) -> None:
    path = tmp_path / "from qupath.geojson"
    ring = [[10, 10], [90, 10], [90, 60], [10, 60], [10, 10]]
    hole = [[20, 20], [40, 20], [40, 40], [20, 20]]
    feature = {
        "type": "Feature",
        "id": "an-id",
        "geometry": {"type": "Polygon", "coordinates": [ring, hole]},
        "properties": {
            "objectType": "annotation",
            "classification": {"name": "tumour", "color": [1, 2, 3]},
            "measurements": {"Nucleus: Area": 12.5},
            "unknown": {"deep": [1, None, "ä"]},
        },
        "strange member": 7,
    }
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}), encoding="utf-8")
    panel, drawing = dock.tune.regions, dock.tune.board.active
    drawing.document.add([Region(shapely.box(200, 0, 300, 200), "Tumor")])
    asked: list[list[str]] = []
    panel.ask_mapping = lambda names, palette: asked.append(names) or {"tumour": "Tumor"}
    assert panel.open_regions(path) == 1 and asked == [["tumour"]]
    assert panel.open_regions(path) == 0 and "already" in notices[-1], "the same twice comes once"
    assert drawing.document.counts["Tumor"].regions == 2
    out = tmp_path / "to qupath.geojson"
    panel.save_regions(out)
    (written,) = [one for one in json.loads(out.read_text(encoding="utf-8"))["features"] if one["id"] == "an-id"]
    assert written["properties"].pop("classification")["name"] == "Tumor"
    feature["properties"].pop("classification")
    assert written["properties"] == feature["properties"] and written["strange member"] == 7
    assert shapely.geometry.shape(written["geometry"]).equals(shapely.geometry.shape(feature["geometry"]))
    panel.ask_mapping = lambda names, palette: None
    path.write_text(path.read_text(encoding="utf-8").replace("tumour", "other name"), encoding="utf-8")
    assert panel.open_regions(path) == 0, "who changes her mind loads nothing"
    assert panel.open_regions(tmp_path / "none.geojson") == 0 and "does not exist" in notices[-1]


class LargeSlide:
    """The same slide with more room on it than anyone wants to write for a test."""

    width_px0, height_px0 = 40_000, 40_000
    bounds_px0 = (0, 0, 40_000, 40_000)

    def __init__(self, slide: Any) -> None:
        self._slide = slide

    def __getattr__(self, name: str) -> Any:
        return getattr(self._slide, name)


def test_every_form_other_programs_write_is_drawn_and_comes_out_again(
    dock: Any, on_slide: Any, tmp_path: Path, shared_data: Path
) -> None:
    about = facts(on_slide)
    about["slide"] = LargeSlide(about["slide"])
    panel, drawing = dock.tune.regions, dock.tune.board.active
    panel.ask_mapping = lambda names, palette: {}
    files = [path for folder in ("qupath", "asap") for path in sorted((shared_data / "annotations" / folder).iterdir())]
    assert len(files) >= 10
    for number, path in enumerate(files):
        regions = read_regions(path)
        assert panel.open_regions(path) == len(regions), path.name
        shown = sum(len(bound.layer.data) for bound in drawing.bound.values())
        assert shown >= len(regions), path.name
        out = tmp_path / f"{number}.geojson"
        panel.save_regions(out)
        again = read_regions(out)
        for before, after in zip(regions, again, strict=True):
            assert after.geometry.hausdorff_distance(before.geometry) < 1e-3, path.name
            assert (after.class_name, after.name) == (before.class_name, before.name), path.name
            kept = {key: value for key, value in before.properties.items() if key != "classification"}
            assert kept.items() <= after.properties.items(), path.name
        drawing.document.remove(drawing.document.keys)


def test_before_very_many_outlines_are_laid_the_person_is_asked(
    dock: Any, on_slide: Any, viewer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from napari_pathotune import compat, drawings
    from napari_pathotune.reader import NOTHING, read_drawn_regions
    from pathotune.regions import write_regions

    asked: list[str] = []
    answers = [False, True, False]
    monkeypatch.setattr(compat, "agrees", lambda title, text: asked.append(text) or answers.pop(0))
    monkeypatch.setattr(compat, "current_viewer", lambda: viewer)
    monkeypatch.setattr(drawings, "MANY_OUTLINES", 1100)
    panel, drawing = dock.tune.regions, dock.tune.board.active
    panel.ask_mapping = lambda names, palette: {}
    squares = [Region(shapely.box(x, y, x + 9, y + 9), "Tumor") for x in range(0, 600, 20) for y in range(0, 370, 10)]
    two = Region(shapely.MultiPolygon([shapely.box(0, 380, 9, 389), shapely.box(20, 380, 29, 389)]), "Stroma")
    points = [Region(shapely.Point(x, 395), "Stroma") for x in range(300)]
    few = write_regions([*squares[:1098], two, *points], tmp_path / "few.geojson")
    many = write_regions([*squares[:1099], two], tmp_path / "many.geojson")
    assert panel.open_regions(many) == 0 and not len(drawing.document), "no is no"
    assert "many.geojson has 1,101 outlines" in asked[0] and "pathotune tune --regions" in asked[0]
    assert len(read_drawn_regions(str(few))) == 2 and len(asked) == 1, "points are drawn fast"
    assert panel.open_regions(many) == 1100 and len(drawing.document) == 1100
    assert read_drawn_regions(str(many)) == NOTHING and asked == asked[:1] * 3


def test_suggested_meanings_are_what_the_dialog_gives_back(qapp: Any) -> None:
    from napari_pathotune.widgets.regions_import import MappingDialog
    from pathotune.regions.palette import start_palette

    dialog = MappingDialog(["tumour", "Gland", "Lymphocytes"], start_palette())
    assert dialog.mapping() == {"tumour": "Tumor", "Lymphocytes": "Immune cells"}
    box = dialog.choices["Gland"]
    box.setCurrentIndex(box.findData(""))
    assert dialog.mapping()["Gland"] == ""
    dialog.deleteLater()


def test_a_crash_is_asked_about_in_the_panel(
    dock: Any, on_slide: Any, run_loop: Callable[..., bool], notices: list[str]
) -> None:
    from pathotune.regions.document import RegionDocument
    from pathotune.regions.journal import Journal

    drawing, panel = dock.tune.board.active, dock.tune.regions
    lost = RegionDocument()
    journal = Journal(lost, drawing.slide.name, drawing.slide.fingerprint, drawing.keeper.folder, drawing.keeper.folder)
    lost.add([Region(shapely.box(0, 0, 9, 9), "Tumor")] * 3)
    journal.close(delete=False)
    header, rest = journal.path.read_text(encoding="utf-8").split("\n", 1)
    journal.path.write_text(
        json.dumps({**json.loads(header), "process_start": 1.0, "boot_id": "an earlier one"}) + "\n" + rest,
        encoding="utf-8",
    )
    assert panel.crash.isHidden()
    dock.tune.board._offer(drawing)
    assert not panel.crash.isHidden() and "3 regions" in panel.crash.text.text()
    panel.crash.no.click()
    assert panel.crash.isHidden() and len(drawing.document) == 0
    dock.tune.board._offer(drawing)
    assert panel.crash.isHidden(), "no is no"
    assert list(journal.path.parent.glob("*.kept")), "and nothing is lost"


def test_several_slides_train_together_and_one_can_be_left_out(
    dock: Any,
    on_slide: Any,
    add: Callable[[list[Any]], list[Any]],
    tmp_path: Path,
    make_picture: Callable[..., Path],
) -> None:
    from pathotune.slides import open_slide

    board = dock.tune.board
    board.of(on_slide).document.add([Region(shapely.box(0, 0, 300, 200), "Tumor")])
    (second,) = add([slide_layer(open_slide(make_picture(tmp_path / "b.tiff")))])
    assert "two classes" in dock.tune.missing()
    board.of(second).document.add([Region(shapely.box(0, 0, 300, 200), "Stroma")])
    assert dock.tune.missing() == ""
    job = dock.tune.job()
    assert [Path(source["slide"]).name for source in job.arguments["sources"]] == [
        Path(facts(layer)["path"]).name for layer in (on_slide, second)
    ]
    board.of(on_slide).document.add([Region(shapely.box(0, 0, 9, 9), "Necrosis")])
    assert len(read_regions(job.arguments["sources"][0]["regions"])) == 1, "what was drawn on after is not in it"
    dock.tune._on_slide_toggled(facts(second)["path"], False)
    assert set(dock.tune.plan.drawn()) == {"Tumor", "Necrosis"}
    assert len(dock.tune.job().arguments["sources"]) == 1


def test_a_job_is_saved_as_the_file_that_the_command_line_reads(
    dock: Any, on_slide: Any, tmp_path: Path, notices: list[str]
) -> None:
    dock.tune.write_job(tmp_path / "mine.yaml")
    assert "two classes" in notices[-1] and not (tmp_path / "mine.yaml").exists()
    document = dock.tune.board.active.document
    document.add([Region(shapely.box(0, 0, 300, 200), "Tumor"), Region(shapely.box(300, 0, 600, 200), "Stroma")])
    dock.tune.write_job(tmp_path / "mine")
    job = Job.from_yaml(tmp_path / "mine.yaml")
    assert job.command == "tune" and Path(job.arguments["sources"][0]["regions"]).is_file()
    dock.tune.write_job(tmp_path / "no folder" / "mine.yaml")
    assert "cannot be written" in notices[-1]


def test_the_classes_of_a_task_join_the_palette(dock: Any, on_slide: Any) -> None:
    dock.tune.task.setCurrentIndex(dock.tune.task.findData("lymph-node-metastasis"))
    assert "Tumor" in dock.tune.task_card.text
    dock.tune.make_classes.click()
    document = dock.tune.board.active.document
    assert document.palette.names == ("Normal", "Tumor")
    dock.tune.make_classes.click()
    assert document.palette.names == ("Normal", "Tumor")
    document.undo()
    assert len(document.palette) > 2


def test_the_worker_starts_once_there_is_something_to_tune_on(
    dock: Any, on_slide: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[bool] = []
    monkeypatch.setattr(dock.runner, "warm", lambda: started.append(True))
    document = dock.tune.board.active.document
    dock.show()
    dock.tabs.setCurrentWidget(dock.tune)
    document.add([Region(shapely.box(0, 0, 300, 200), "Tumor")])
    dock.tune.counter.now()
    assert not started
    document.add([Region(shapely.box(300, 0, 400, 200), "Stroma")])
    dock.tune.counter.now()
    assert started
    started.clear()
    dock.tabs.setCurrentWidget(dock.predict)
    dock.tune.counter.now()
    assert not started  # nobody looks at it


def test_curves_follow_the_epochs_and_the_result_is_shown(
    dock: Any, on_slide: Any, slide_path: Path, run_loop: Callable[..., bool]
) -> None:
    session, tune = dock.session, dock.tune

    session.start(Job("tune"), str(slide_path), "Starting…")
    assert not tune.curves.isHidden() and not tune.go.isEnabled()
    for epoch in (1, 2, 3):
        session.take(events.EpochEnd(epoch, 8, 1.0 / epoch, {"balanced_accuracy": 0.5 + epoch / 10}, epoch))
    session.take(events.EpochEnd(4, 8, float("nan"), {}, 3))
    assert [value for _, value in tune.curves.accuracy] == pytest.approx([0.6, 0.7, 0.8])
    assert len(tune.curves.loss) == 3 and "0.80" in tune.curves.accessibleDescription()
    session.take(events.EpochEnd(5, 5, 0.2, {"balanced_accuracy": 0.8}, 4, word="fit"))
    assert tune.curves.accessibleDescription() == "loss 0.200 at fit 5, balanced accuracy 0.80, best fit 4"
    assert (session.job.phase, session.job.unit) == ("fits", "fits") and "best fit 4" in session.job.text
    tune.curves.resize(320, 130)
    assert not tune.curves.grab().isNull()
    wrong = {"true": "a", "predicted": "b", "probability": 0.9, "probability_true": 0.1, "slide": str(slide_path)}
    result = {
        "classes": ["a", "b"],
        "tiles_per_class": {"a": 40, "b": 40},
        "val": {
            "balanced_accuracy": 0.8,
            "confusion": [[8, 2], [2, 8]],
            "ece": 0.05,
            "ci95": {"balanced_accuracy": [0.7, 0.9]},
            "per_class": {name: {"recall": 0.8, "precision": 0.8, "f1": 0.8, "ci95": {"f1": None}} for name in "ab"},
        },
        "most_wrong": [{**wrong, "box_px0": [100, 100, 224, 224]}, {**wrong, "true": "b", "predicted": "a"}],
        "seconds": 8.0,
        "out": str(slide_path.with_name("x.pathotune.safetensors")),
    }
    session.take(events.Finished(result))
    panel = tune.result
    assert not tune.step_result.isHidden() and not tune.again.isHidden()
    assert "0.80" in panel.headline.text() and "0.70" in panel.headline.text()
    assert panel.confusion.item(0, 1).text() == "2" and panel.wrong.count() == 2
    assert run_loop(5, lambda: not panel.wrong.is_reading), "the picture is read by a thread"
    panel.confusion.cellClicked.emit(0, 1)
    assert panel.wrong.count() == 1
    went: list[Any] = []
    panel.place_chosen.connect(lambda *where: went.append(where))
    panel.wrong.itemClicked.emit(panel.wrong.item(0))
    assert went == [(str(slide_path), (100, 100, 224, 224))]
    place = dock.session.viewer.camera.center[-2:]
    assert place == pytest.approx(((212 - 0.5) * 0.5, (212 - 0.5) * 0.5))


def test_after_a_probe_the_line_before_training_says_how_long(
    dock: Any, add: Callable[[list[Any]], list[Any]], tmp_path: Path, make_picture: Callable[..., Path]
) -> None:
    from pathotune.slides import open_slide

    add([slide_layer(open_slide(make_picture(tmp_path / "large.tiff", 4200, 1000)))])
    tune, document = dock.tune, dock.tune.board.active.document
    for number in range(4):
        left = 1050 * number
        document.add([Region(shapely.box(left, 0, left + 900, 900), ("Tumor", "Stroma")[number % 2])])
    tune.counter.now()
    assert tune.hint.isHidden() and "held out" in tune.cost.text()
    assert "tiles" in tune.cost.text() and " min" not in tune.cost.text()

    tune._probed = tune._speed_key()
    dock.session.start(Job("probe"), "", "Trying…")
    dock.session.take(events.Finished({"read": 0.1, "lower": 0.1, "learn": 0.5, "judge": 0.1, "backbone": "x"}))
    assert " min" in tune.cost.text() and "MB" in tune.cost.text() and tune.probe.isHidden()


def test_a_failed_tuning_leaves_the_last_result(dock: Any, on_slide: Any) -> None:
    dock.session._set_job(JobState("failed", "tune", text="It failed."))
    assert dock.tune.step_result.isHidden() and dock.tune.again.isHidden()
