"""A tuning on a table of slides from the dock."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("qtpy.QtWidgets")
pytest.importorskip("napari")

from napari_pathotune.cohort import CohortPlan, said_of
from pathotune import events
from pathotune.datasets.cohort import read_cohort
from pathotune.execution.job import Job
from pathotune.methods import methods_of_level

TABLE = """slide,patient,label,split
a.svs,p1,normal,train
b.svs,p1,normal,train
c.svs,p2,tumour,train
d.svs,p3,tumour,test
"""


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "Köln kohorte.csv"
    path.write_text(TABLE, encoding="utf-8")
    return path


@pytest.fixture
def dock(qapp: Any, viewer: Any) -> Any:
    from napari_pathotune.widgets.dock import PathoTuneDock

    made = PathoTuneDock(viewer)
    yield made
    made.close()


def test_a_table_is_said_in_words(table: Path) -> None:
    plan = CohortPlan(read_cohort(table))
    said = plan.summary()
    assert "4 slides of 3 patients" in said and "normal 2, tumour 2" in said and "train 3, test 1" in said
    assert "survival" not in said
    assert plan.suggested_name("mil", "tiny") == "Köln kohorte-mil-tiny"


def test_a_cohort_becomes_a_job_with_what_belongs_to_it(dock: Any, table: Path, tmp_path: Path) -> None:
    panel = dock.cohort
    assert "Choose the table" in panel.hint.text() and not panel.go.isEnabled()
    panel.table.set_path(table)
    assert "4 slides" in panel.summary.text() and panel.missing() == "" and panel.go.isEnabled()
    features = tmp_path / "features"
    panel.companions["features"].set_path(features)
    assert str(features) in panel.missing() and not panel.go.isEnabled()
    features.mkdir()
    panel.companions["features"].changed.emit()
    arguments = panel.job().arguments
    assert arguments["cohort"] == str(table) and arguments["features"] == str(features)
    assert arguments["method"] in methods_of_level("slide", "patient", "spot") and "sources" not in arguments
    assert Path(arguments["out"]).name.startswith("Köln kohorte-")
    panel.write_job(tmp_path / "job")
    assert Job.from_yaml(tmp_path / "job.yaml").arguments == {**arguments, "out": arguments["out"]}


def test_an_enhanced_backbone_is_chosen_where_backbones_are(
    dock: Any, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, notices: list[str]
) -> None:
    import json

    import numpy as np
    from qtpy.QtWidgets import QFileDialog
    from safetensors.numpy import save_file

    panel, setup = dock.cohort, dock.cohort.setup
    panel.table.set_path(table)
    first = setup.backbone.currentIndex()
    files = [tmp_path / f"{name}.pathotune.safetensors" for name in ("breast", "probe")]
    for path, method in zip(files, ("transcriptomics", "linear_probe"), strict=True):
        about = json.dumps({"method": method, "backbone": {"name": "pathotune-tiny"}})
        save_file({"x": np.zeros(1, np.float32)}, path, {"pathotune": about})
    answers = [str(files[1]), "", str(files[0])]
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *_, **__: (answers.pop(0), ""))
    for expected in ("linear_probe", ""):  # another method's tuning, and a dialog that is closed
        setup.backbone.setCurrentIndex(setup.backbone.findData("choose"))
        assert setup.backbone.currentIndex() == first and (not expected or expected in notices[-1])
    setup.backbone.setCurrentIndex(setup.backbone.findData("choose"))
    assert setup.backbone.currentData() == str(files[0]) and "enhanced by breast" in setup.backbone.currentText()
    assert panel.job().arguments["backbone"] == str(files[0])
    assert panel._suggested_name().endswith("-breast")
    files[0].unlink()
    panel.refresh()
    assert "choose another backbone" in panel.missing()


def test_tunings_of_tiles_and_of_modaltune_are_offered_where_features_are_taken_from(
    dock: Any, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import json

    import numpy as np
    from safetensors.numpy import save_file

    about = {"backbone": {"name": "pathotune-tiny"}, "classes": [], "reading": {"mpp": 0.5}, "format": 1}
    for method in ("pathotune", "modaltune", "mil"):
        facts = json.dumps({**about, "method": method})
        save_file({"x": np.zeros(1, np.float32)}, tmp_path / f"{method} 1.pathotune.safetensors", {"pathotune": facts})
    monkeypatch.setattr("napari_pathotune.widgets.train_setup.results_folder", lambda: tmp_path)
    panel, setup = dock.cohort, dock.cohort.setup
    panel.table.set_path(table)
    setup.method.setCurrentIndex(setup.method.findData("mil"))
    setup.method_fold.head.setChecked(True)
    shown = [text for text, _ in setup.method_form["prompts"]._entries()]
    assert {"pathotune 1", "modaltune 1"} <= set(shown) and "mil 1" not in shown
    setup.method_form["prompts"].value = str(tmp_path / "modaltune 1.pathotune.safetensors")
    assert panel.job().arguments["config"]["prompts"] == str(tmp_path / "modaltune 1.pathotune.safetensors")


def test_a_table_that_cannot_be_used_is_said(dock: Any, tmp_path: Path) -> None:
    panel = dock.cohort
    panel.table.set_path(tmp_path / "none.csv")
    assert "none.csv" in panel.hint.text() and panel.summary.isHidden()
    (tmp_path / "parted.csv").write_text("slide,patient,label,split\na,p,x,train\nb,p,y,test\n")
    panel.table.set_path(tmp_path / "parted.csv")
    assert "p" in panel.hint.text() and not panel.go.isEnabled()


def test_its_methods_are_those_of_whole_slides_and_the_regions_tab_has_the_others(dock: Any) -> None:
    def offered(setup: Any) -> list[str]:
        return [setup.method.itemData(row) for row in range(setup.method.count())]

    assert set(offered(dock.cohort.setup)) == set(methods_of_level("slide", "patient", "spot"))
    assert not set(offered(dock.cohort.setup)) & set(offered(dock.tune.setup))


def test_the_end_of_a_tuning_on_a_cohort_is_said_there_and_not_beside_the_regions(dock: Any, tmp_path: Path) -> None:
    session = dock.session
    session.start(Job("tune", {"cohort": "c.csv"}), "", "Starting…")
    session.take(events.EpochEnd(1, 9, 0.5, {"balanced_accuracy": 0.8}, 1))
    assert dock.cohort.curves.loss == [(1, 0.5)] and not dock.tune.curves.loss
    result = {
        "said": ["AUC 0.97 on 15 held-out slides."],
        "out": str(tmp_path / "x.pathotune.safetensors"),
        "seconds": 3,
    }
    session.take(events.Finished(result))
    assert "AUC 0.97" in dock.cohort.said.text() and dock.tune.result.isHidden()
    assert said_of(result)[-1] == "Saved as x.pathotune.safetensors."
    assert "AUC 0.97" in dock.progress.text.text()
    session.start(Job("tune", {"sources": []}), "", "Starting…")
    session.take(events.EpochEnd(1, 9, 0.25, {}, 1))
    assert dock.tune.curves.loss == [(1, 0.25)] and dock.cohort.curves.loss == [(1, 0.5)]
