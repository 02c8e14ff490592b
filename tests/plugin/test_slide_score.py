"""A tuning that learned from whole slides: its answer stands in the dock, with the tiles it rests on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("qtpy.QtWidgets")
pytest.importorskip("napari")
from napari.layers import Layer

from napari_pathotune.jobs import JobState
from napari_pathotune.layers import slide_layer, store_layers
from napari_pathotune.slide_answer import slide_answer
from napari_pathotune.widgets.progress import done_text
from pathotune.tiles import Reading

TILE = 50.0
ATTENDED = [
    {"x_px0": 400.0, "y_px0": 100.0, "width_px0": TILE, "attention": 7.5},
    {"x_px0": 50.0, "y_px0": 0.0, "width_px0": TILE, "attention": 3.25},
]


def make_store(folder: Path, slide_path: Path, complete: bool = True) -> Any:
    """The answer of a slide of 600 × 400 pixels: attention on one tile, and what each tile alone would say."""
    from pathotune.inference.plan import Grid
    from pathotune.inference.predictions import PredictionStore, store_path

    grid = Grid(8, 12, (0.0, 0.0), (TILE, TILE), (TILE, TILE), (0.5, 0.5), patches=(1, 1))
    classes = [{"name": name, "color": [200, 60 * number, 0]} for number, name in enumerate(("normal", "metastasis"))]
    path = store_path(slide_path, "nodes", folder)
    store = PredictionStore.create(path, grid=grid, classes=classes, sources=("attention",), identity={"slide": "f"})
    probabilities = np.full((2, 8, 12), 0.5, np.float32)
    attention = np.full((1, 8, 12), 0.1, np.float16)
    attention[0, 2, 8] = 7.5
    store.write_unit(next(store.units()), probabilities, attention, None, None, state="done", tiles=96, planned=96)
    if complete:
        said = {"predicted": "metastasis", "probabilities": {"normal": 0.07, "metastasis": 0.93}, "score": 0.93}
        store.finish("complete", attended=ATTENDED, **said)
    return PredictionStore.open(path)


def test_the_answer_is_read_from_a_complete_store(tmp_path: Path, slide_path: Path) -> None:
    found = slide_answer(make_store(tmp_path / "a", slide_path).path)
    assert found is not None and found.predicted == "metastasis"
    assert found.sentence() == "metastasis 93%, normal 7%"
    assert found.attended[0] == ((400.0, 100.0, TILE, TILE), 7.5)
    assert slide_answer(make_store(tmp_path / "b", slide_path, complete=False).path) is None
    assert slide_answer(tmp_path / "none.zarr") is None


@pytest.fixture
def dock(qapp: Any, viewer: Any, slide_path: Path) -> Any:
    """A dock without a window, on an open slide."""
    from napari_pathotune.widgets.dock import PathoTuneDock
    from pathotune.slides import open_slide

    made = PathoTuneDock(viewer)
    viewer.add_layer(Layer.create(*slide_layer(open_slide(slide_path))))
    yield made
    made.tune.board.close()
    made.close()


def test_a_result_of_a_whole_slide_shows_its_answer_and_leads_to_its_tiles(
    dock: Any, viewer: Any, slide_path: Path, tmp_path: Path, run_loop: Callable[..., bool]
) -> None:
    assert dock.score.isHidden()
    for data in store_layers(make_store(tmp_path, slide_path), slide_path):
        viewer.add_layer(Layer.create(*data))
    assert not dock.score.isHidden() and "metastasis</b>: metastasis 93%" in dock.score.text.text()
    result = dock.session.result
    assert result.attention.visible and not result.classes.visible, "tiles have no class of their own here"
    assert [dock.score.tiles.item(row).text() for row in range(2)] == ["7.5×", "3.2×"]
    assert run_loop(5, lambda: not dock.score.tiles.is_reading)
    dock.score.tiles.itemClicked.emit(dock.score.tiles.item(0))
    assert tuple(viewer.camera.center[-2:]) == pytest.approx((124.5 * 0.5, 424.5 * 0.5))
    result.classes.visible, result.attention.visible = True, False
    dock.score.refresh()
    assert result.classes.visible, "what the person chose stays"


def test_a_tuning_of_whole_slides_is_asked_about_the_whole_slide(dock: Any, slide_path: Path, tmp_path: Path) -> None:
    reading = Reading(mpp=0.5, tile_px=64, image_px=64)
    tuning = SimpleNamespace(
        method="mil",
        name="nodes",
        path=tmp_path / "nodes.pathotune.safetensors",
        classes=[{"name": "normal", "color": None}, {"name": "metastasis", "color": None}],
        backbone={"name": "pathotune-tiny", "patch_size": 16},
        reading=reading,
        training={},
        created="2026",
    )
    dock.session.set_tuning(tuning)
    assert dock.predict.is_of_whole_slides and not dock.predict.place.isEnabled()
    assert not dock.session.results, "no empty overlay of tiles is made"
    job = dock.predict.job(dock.predict.options)
    assert set(job.arguments) <= {"slide", "tuning", "out", "device", "precision", "resume", "slide_mpp", "batch_size"}
    assert dock.tune.again.isHidden(), "it is no tuning to go on from with regions"
    dock.session.set_tuning(SimpleNamespace(**{**vars(tuning), "method": "linear_probe"}))
    assert dock.predict.place.isEnabled() and "stride_px" in dock.predict.job(dock.predict.options).arguments


def test_the_end_of_the_job_says_the_answer() -> None:
    result = {
        "predicted": "metastasis",
        "probabilities": {"metastasis": 0.93, "normal": 0.07},
        "seconds": 4.0,
        "tiles": 9,
    }
    assert done_text(JobState("done", "predict", result=result)) == "The whole slide: metastasis (93%) in 4 s."
