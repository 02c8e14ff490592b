"""The dock's panels on a viewer model: what is missing is said, every control is named, jobs are plain data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("qtpy.QtWidgets")
pytest.importorskip("napari")
from napari.layers import Shapes
from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QAbstractButton,
    QAbstractItemView,
    QAbstractSlider,
    QAbstractSpinBox,
    QComboBox,
    QHeaderView,
    QLineEdit,
    QMenu,
    QScrollBar,
    QTabBar,
    QTableView,
    QWidget,
)

from napari_pathotune import compat
from napari_pathotune.layers import result_layers, slide_layer
from napari_pathotune.overlay import ClassGrid
from napari_pathotune.session import JobState
from napari_pathotune.widgets.progress import duration, progress_text
from pathotune.methods.checkpoint import Tuning
from pathotune.tiles import Reading


@pytest.fixture
def dock(qapp: Any, viewer: Any) -> Any:
    from napari_pathotune.widgets.dock import PathoTuneDock

    made = PathoTuneDock(viewer)
    yield made
    made.close()


@pytest.fixture
def tuning(tmp_path: Path) -> Tuning:
    made = Tuning(
        method="linear_probe",
        config={},
        task={},
        classes=[{"name": "Tumor", "color": [200, 0, 0]}, {"name": "Stroma", "color": [0, 160, 0]}],
        backbone={"name": "pathotune-tiny", "embed_dim": 192, "mpp": 0.5, "licence": "BSD-3-Clause"},
        reading=Reading(mpp=0.5, tile_px=64, image_px=64),
        training={"metrics": {"balanced_accuracy": 0.91}},
    )
    made.save(tmp_path / "mine.pathotune.safetensors")
    return made


@pytest.fixture
def open_slide_layer(viewer: Any, add: Any, slide_path: Path) -> Any:
    from pathotune.slides import open_slide

    return add([slide_layer(open_slide(slide_path))])[0]


def square(at: float) -> np.ndarray[Any, Any]:
    return np.array([[at, at], [at, at + 30], [at + 30, at + 30], [at + 30, at]], float)


def controls_of(dock: Any) -> list[Any]:
    """What a person can press, choose or fill in; not the parts controls are made of."""
    kinds = (QAbstractButton, QComboBox, QLineEdit, QAbstractSlider, QAbstractSpinBox, QAbstractItemView)
    inner = QAbstractSpinBox | QComboBox | QTabBar
    return [
        control
        for control in dock.findChildren(QWidget)
        if isinstance(control, kinds)
        and not isinstance(control, QScrollBar | QHeaderView)
        and not isinstance(control.parent(), inner)
        and not isinstance(control.window(), QMenu)
        and control.window() is dock.window()
        and not control.objectName().startswith("qt_")
    ]


def test_every_control_has_a_name_and_a_tooltip(dock: Any) -> None:
    unnamed = [
        (type(control).__name__, control.accessibleName(), getattr(control, "text", str)())
        for control in controls_of(dock)
        if not control.accessibleName() or not control.toolTip()
    ]
    assert not unnamed


def test_every_control_is_reached_by_tab(dock: Any, open_slide_layer: Any) -> None:
    chain, at = set(), dock
    while at not in chain:
        chain.add(at)
        at = at.nextInFocusChain()
    tab = Qt.FocusPolicy.TabFocus

    def is_reached(control: Any) -> bool:
        group = control.group() if isinstance(control, QAbstractButton) else None
        # Of tools of which one is in hand Tab reaches that one, and the arrow keys the others.
        own = group.buttons() if group is not None and group.exclusive() else [control]
        return control in chain and any(one.focusPolicy() & tab == tab for one in own)

    skipped = [
        (type(control).__name__, control.accessibleName())
        for control in controls_of(dock)
        if not is_reached(control)
        and not (isinstance(control, QLineEdit) and control.isReadOnly())
        # Their own keys do the same: Ctrl+A in a table, and Delete in a line.
        and not isinstance(control.parent(), QTableView | QLineEdit)
    ]
    assert not skipped


def test_what_is_missing_is_said_step_by_step(
    dock: Any, viewer: Any, add: Any, silent_slide_path: Path, tuning: Tuning
) -> None:
    from pathotune.slides import open_slide

    assert "Open a slide" in dock.predict.hint.text() and not dock.predict.go.isEnabled()
    add([slide_layer(open_slide(silent_slide_path))])
    assert "pixel size" in dock.predict.hint.text() and not dock.slide.question.isHidden()
    dock.slide.mpp.setValue(0.5)
    dock.slide.state.click()
    assert dock.slide.question.isHidden() and "Choose a tuning" in dock.predict.hint.text()
    dock.session.set_tuning(tuning)
    assert dock.predict.go.isEnabled() and dock.predict.hint.isHidden()
    dock.predict.place.setCurrentIndex(dock.predict.place.findData("drawn"))
    dock.predict.refresh()
    assert "Draw a region" in dock.predict.hint.text()


def test_prediction_on_the_view_is_the_first_choice_and_starts_in_its_middle(
    dock: Any, open_slide_layer: Any, tuning: Tuning
) -> None:
    dock.session.set_tuning(tuning)
    compat.camera(dock.session.viewer).zoom = 10.0
    job = dock.predict.job(dock.predict.options)
    x, y, width, height = job.arguments["box_px0"]
    assert job.command == "predict" and job.arguments["start_point_px0"] == [x + width / 2, y + height / 2]
    assert job.arguments["slide"] == str(dock.session.slide.path) and job.arguments["stride_px"] == 64
    assert "slide_mpp" not in job.arguments and "batch_size" not in job.arguments


def test_prediction_on_the_drawn_region_follows_the_selected_shape(
    dock: Any, viewer: Any, open_slide_layer: Any, tuning: Tuning
) -> None:
    import shapely.geometry

    dock.session.set_tuning(tuning)
    drawn = viewer.add_shapes([square(10) - 0.25, square(60) - 0.25], shape_type="polygon")
    drawn.selected_data = {1}
    dock.predict.place.setCurrentIndex(dock.predict.place.findData("drawn"))
    polygon = shapely.geometry.shape(dock.predict.job(dock.predict.options).arguments["polygon_px0"])
    assert polygon.equals_exact(shapely.box(120, 120, 180, 180).normalize(), 1e-6) or polygon.equals(
        shapely.box(120, 120, 180, 180)
    )


def test_an_overlay_is_ready_for_a_new_prediction_but_not_for_one_that_is_on_disk(
    dock: Any, viewer: Any, open_slide_layer: Any, tuning: Tuning
) -> None:
    from napari_pathotune.reader import results_folder
    from pathotune.inference.predictions import store_path

    store = store_path(dock.session.slide.path, tuning.name, results_folder())
    store.mkdir(parents=True)
    dock.session.set_tuning(tuning)
    assert len(viewer.layers) == 1, "what is on disk comes with its slide, not twice"
    store.rmdir()
    dock.session.set_tuning(tuning)
    assert len(viewer.layers) == 3 and dock.session.result.is_empty
    viewer.layers.clear()
    assert len(viewer.layers) == 0 and dock.session.results == []


def test_a_bad_number_is_said_and_no_job_starts(
    dock: Any, open_slide_layer: Any, tuning: Tuning, notices: list[str]
) -> None:
    dock.session.set_tuning(tuning)
    dock.predict.form["batch_size"].native.setText("many")
    dock.predict.predict()
    assert "Tiles at once" in notices[0] and not dock.session.job.is_active


class Jobs:
    """Stands in for the runner: keeps the jobs it is given."""

    is_free = True

    def __init__(self) -> None:
        self.given: list[Any] = []

    def submit(self, job: Any, slide_path: str, text: str, gives_way: bool = False) -> None:
        self.given.append(job)


@pytest.fixture
def jobs(dock: Any, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    made = Jobs()
    monkeypatch.setattr(dock.predict, "runner", made)
    return made.given


def test_another_detail_than_the_result_has_is_asked_about_before_anything_is_lost(
    dock: Any, open_slide_layer: Any, tuning: Tuning, jobs: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from pathotune.inference import predictions

    there = {"grid": {"stride_px0": [64.0, 64.0]}}
    monkeypatch.setattr(predictions, "read_attributes", lambda path: there)
    dock.session.set_tuning(tuning)
    dock.predict.predict()
    assert len(jobs) == 1 and "on_mismatch" not in jobs[0].arguments, "the same settings go on where they stopped"
    dock.predict.form["density"].value = "twice as dense"
    dock.predict.predict()
    assert len(jobs) == 1 and not dock.predict.question.isHidden()
    dock.predict.question.buttons["leave"].click()
    assert len(jobs) == 1 and dock.predict.question.isHidden()
    for answer in ("restart", "beside"):
        dock.predict.predict()
        dock.predict.question.buttons[answer].click()
        assert jobs[-1].arguments["on_mismatch"] == answer and jobs[-1].arguments["stride_px"] == 32
    assert len(jobs) == 3


def test_a_result_that_was_kept_beside_is_gone_on_with_without_a_question(
    dock: Any, open_slide_layer: Any, tuning: Tuning, jobs: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import json

    from pathotune.inference.predictions import store_path

    monkeypatch.setattr("napari_pathotune.widgets.predict.results_folder", lambda: tmp_path)
    first = store_path(dock.session.slide.path, tuning.name, tmp_path)
    for store, stride in ((first, 64.0), (first.with_name(first.name.replace(".pathotune.", "~2.pathotune.")), 32.0)):
        store.mkdir()
        about = {"attributes": {"pathotune": {"grid": {"stride_px0": [stride, stride]}}}}
        (store / "zarr.json").write_text(json.dumps(about))
    dock.session.set_tuning(tuning)
    dock.predict.form["density"].value = "twice as dense"
    assert dock.predict.start("slide")
    assert jobs[-1].arguments["on_mismatch"] == "beside" and dock.predict.question.isHidden()
    dock.predict.form["density"].value = "four times as dense"
    assert not dock.predict.start("slide") and not dock.predict.question.isHidden()


def test_what_only_the_worker_finds_different_is_asked_about_too(
    dock: Any, open_slide_layer: Any, tuning: Tuning, jobs: list[Any], notices: list[str]
) -> None:
    from pathotune import events

    dock.session.set_tuning(tuning)
    dock.predict.predict()
    dock.session.start(jobs[0], str(dock.session.slide.path), "")
    dock.session.take(events.Failed("StoreMismatch", "It differs in its number format."))
    assert not dock.predict.question.isHidden() and "format" in dock.predict.question.text.toolTip()
    assert not notices and not dock.progress.text.text(), "a question is no error"
    dock.session.set_tuning(tuning)
    assert dock.predict.question.isHidden(), "the question was about what was chosen then"


def test_tuning_card_shows_classes_backbone_and_pixel_size(dock: Any, tuning: Tuning) -> None:
    dock.predict.tuning.load(tuning.path)
    card = dock.predict.tuning.card.text
    assert all(word in card for word in ("Tumor", "Stroma", "pathotune-tiny", "0.5 µm", "0.91"))
    assert dock.predict.tuning.choice.currentText() == "mine"


def test_a_file_that_is_no_tuning_is_said(dock: Any, tmp_path: Path, notices: list[str]) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"no")
    dock.predict.tuning.load(tmp_path / "x.safetensors")
    assert "no" in notices[0] and dock.session.tuning is None


def test_drawn_classes_are_listed_and_become_a_job(dock: Any, viewer: Any, open_slide_layer: Any) -> None:
    from pathotune.regions import read_regions

    assert "two classes" in dock.tune.missing()
    viewer.add_layer(Shapes([square(10), square(60)], shape_type="polygon", name="Tumor", scale=(0.5, 0.5)))
    viewer.add_layer(Shapes([square(110)], shape_type="polygon", name="Stroma"))
    viewer.add_layer(Shapes([square(110)], shape_type="polygon", name="Ignore*"))
    assert {name: count for name, (_, count) in dock.tune.plan.drawn().items()} == {"Tumor": 2, "Stroma": 1}
    assert dock.tune.missing() == "" and dock.tune.go.isEnabled()
    job = dock.tune.job()
    (source,) = job.arguments["sources"]
    regions = read_regions(source["regions"], dock.session.slide)
    assert sorted(region.class_name for region in regions) == ["Ignore*", "Stroma", "Tumor", "Tumor"]
    assert regions[0].geometry.bounds[0] == pytest.approx(10.5)
    assert job.arguments["out"].endswith(".pathotune.safetensors")
    assert job.arguments["training"]["epochs"] >= 0 and job.arguments["backbone"] == "pathotune-tiny"


def test_a_tuning_never_overwrites_another(dock: Any) -> None:
    from napari_pathotune.plan import free_path

    first = free_path("a b")
    first.parent.mkdir(parents=True, exist_ok=True)
    first.touch()
    assert free_path("a b") != first and free_path("a b").name == "a b-2.pathotune.safetensors"


def test_backbone_card_tells_licence_gate_and_presence(dock: Any) -> None:
    from pathotune.backbones import backbone_card

    for name in ("pathotune-tiny", "uni", "conch"):
        row = dock.tune.backbone.findData(name)
        if row < 0:
            continue
        dock.tune.backbone.setCurrentIndex(row)
        card = dock.tune.backbone_card.text
        assert "Licence" in card and "parameters" in card
        assert ("On this machine" in card) or not backbone_card(name).loadable
        assert ("no commercial use" in card) == (name != "pathotune-tiny"), "said before anything is tuned"


def test_legend_switches_classes_and_opacity_follows_both_ways(
    dock: Any, viewer: Any, add: Any, open_slide_layer: Any
) -> None:
    probabilities = np.zeros((2, 4, 6), np.float32)
    probabilities[1] = 1
    grid = ClassGrid(probabilities, ("a", "b"), np.array([[9, 9, 9], [1, 2, 3]]), (50.0, 50.0), (24.75, 24.75))
    assert dock.overlay.isHidden()
    add(result_layers(grid, "/r/one.zarr", "t", str(dock.session.slide.path)))
    result = dock.session.result
    assert not dock.overlay.isHidden() and dock.overlay.legend.count() == 2
    box = dock.overlay.legend.itemAt(1).widget()
    box.setChecked(False)
    assert (grid.rgba[..., 3] == 0).all()
    before = box.text()
    grid.put(np.stack([np.ones((2, 6)), np.zeros((2, 6))]).astype(np.float32), 0, 0)
    dock.session.results_changed.emit()
    assert dock.overlay.legend.itemAt(1).widget() is box and not box.isChecked(), "nothing is laid out anew"
    assert box.text() != before and "mm²" in box.text(), "the area is that of now"
    grid.put(np.stack([np.zeros((2, 6)), np.ones((2, 6))]).astype(np.float32), 0, 0)
    dock.overlay.opacity.setValue(30)
    assert result.classes.opacity == pytest.approx(0.3)
    result.classes.opacity = 0.8
    assert dock.overlay.opacity.value() == 80
    row = dock.overlay.heat.findText("Probability of b")
    dock.overlay.heat.setCurrentIndex(row)
    dock.overlay.heat.activated.emit(row)
    assert result.probability.visible and not result.classes.visible and "of b" in result.probability.name
    assert np.nanmin(result.probability.data) == 1.0


def test_hide_key_hides_while_held(dock: Any, viewer: Any, add: Any, open_slide_layer: Any) -> None:
    grid = ClassGrid(np.ones((2, 4, 6)) / 2, ("a", "b"), np.zeros((2, 3)), (50.0, 50.0), (24.75, 24.75))
    add(result_layers(grid, "/r/one.zarr", "t", str(dock.session.slide.path)))
    classes = dock.session.result.classes
    held = dock.readout._hold_to_hide(viewer)
    next(held)
    assert not classes.visible
    next(held, None)
    assert classes.visible and not dock.session.result.probability.visible


def test_progress_speaks_plainly() -> None:
    running = JobState("running", "predict", "predicting", 1200, 4800, "tiles", 61.4, 59.0)
    text = progress_text(running)
    assert "61 tiles/s" in text and "59 s left" in text and "of 4" in text
    assert "12 s" in progress_text(JobState("done", "predict", result={"tiles": 10, "seconds": 12.2}))
    assert "no tissue" in progress_text(JobState("done", "predict", result={"tiles": 0, "seconds": 0.1}))
    waited = {"tiles": 10, "seconds": 60.0, "model_busy": 0.7}
    text = progress_text(JobState("done", "predict", result=waited))
    assert text.startswith("10 tiles predicted in 60 s. The model waited for tiles 30 % of the time")
    assert "waited" not in progress_text(JobState("done", "predict", result={**waited, "model_busy": 0.95}))
    assert progress_text(JobState()) == ""
    assert "kept" in progress_text(JobState("cancelled", "predict", done=3, total=9))
    assert "kept" not in progress_text(JobState("cancelled", "predict"))
    solved = {"out": "t", "best_epoch": 2, "epochs": [{"inverse_penalty": 0.1}] * 3}
    assert "Cancelled after fit 3; the best was fit 2" in progress_text(JobState("cancelled", "tune", result=solved))
    assert [duration(value) for value in (5, 300, 7200)] == ["5 s", "5 min", "2.0 h"]


def test_tune_again_goes_on_from_a_tuning_that_was_opened(dock: Any, open_slide_layer: Any, tuning: Tuning) -> None:
    assert dock.tune.again.isHidden() and not dock.tune.out
    dock.predict.tuning.load(tuning.path)
    assert dock.tune.out == str(tuning.path) and not dock.tune.again.isHidden()
    assert dock.tune.job(dock.tune.out).arguments["continue_from"] == str(tuning.path)
    tuning.path.unlink()
    dock.session.set_tuning(None)
    assert dock.tune.again.isHidden() and not dock.tune.out


def test_methods_that_a_backbone_cannot_carry_are_grey_with_their_reason(dock: Any, open_slide_layer: Any) -> None:
    from qtpy.QtCore import Qt

    from pathotune.methods import methods_of_level

    setup = dock.tune.setup
    names = [setup.method.itemData(row) for row in range(setup.method.count())]
    assert names == list(methods_of_level("tile"))
    assert setup.method.currentData() == "linear_probe", "what won the table of methods"

    def reason(name: str) -> str:
        row = names.index(name)
        enabled = setup.method.model().item(row).isEnabled()
        return "" if enabled else setup.method.itemData(row, Qt.ItemDataRole.ToolTipRole)

    setup.backbone.setCurrentIndex(setup.backbone.findData("pathotune-tiny"))
    assert not reason("pathotune") and not reason("linear_probe") and "no text side" in reason("zero_shot")
    setup.backbone.setCurrentIndex(setup.backbone.findData("resnet50-tv"))
    assert "no prompt tokens" in reason("pathotune") and not reason("linear_probe")
    setup.method.setCurrentIndex(names.index("vpt"))
    assert "no prompt tokens" in setup.problem
    setup.method.setCurrentIndex(names.index("linear_probe"))
    assert not setup.problem


def test_a_map_can_be_had_from_class_names_alone(dock: Any, open_slide_layer: Any) -> None:
    from pathotune.tasks import load_task

    setup, tune = dock.tune.setup, dock.tune
    assert tune.words.isHidden() and "two classes" in tune.missing()
    setup.backbone.setCurrentIndex(setup.backbone.findData("plip"))
    setup.method.setCurrentIndex(setup.method.findData("zero_shot"))
    assert not tune.words.isHidden() and tune.missing() == "" and tune.go.isEnabled()
    job = tune.job()
    named = load_task(job.arguments["task"])
    assert named.class_names == ("Tumor", "Stroma", "Immune cells", "Necrosis") and "sources" not in job.arguments
    assert named.classes[0].color == dock.tune.board.active.document.palette.color_of("Tumor")
    tune.words.setText("carcinoma")
    assert "at least two classes" in tune.missing() and not tune.go.isEnabled()
    tune.words.setText("Tumor: nests of carcinoma cells; fat: adipocytes")
    typed = load_task(tune.job().arguments["task"])
    assert [(one.name, one.sentence) for one in typed.classes] == [
        ("Tumor", "nests of carcinoma cells"),
        ("fat", "adipocytes"),
    ]
