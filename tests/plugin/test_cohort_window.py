"""In a real window: a table of slides is learned from, and the open slide gets its score, attention and tiles."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("napari")

from napari_pathotune.session import session_of

pytestmark = [pytest.mark.window, pytest.mark.timeout(600)]

SIDE_PX, TILE_PX, SLIDES, SLIDE_TILES = 672, 224, 8, 9


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight slides of nine tiles; every second has a tumour in its upper left corner."""
    from pathotune.slides.synthetic import SyntheticSlide, write_pyramid
    from pathotune.slides.synthetic.nests import Nest

    folder = tmp_path_factory.mktemp("cohort")
    rows = ["slide,patient,label,split"]
    for number in range(SLIDES):
        nests = (Nest(TILE_PX / 2, TILE_PX / 2, 100.0, (), ()),) if number % 2 else ()
        slide = SyntheticSlide(
            SIDE_PX, SIDE_PX, seed=number // 2, nests=nests, margin=0.0, pen=False, classes=("Stroma",)
        )
        write_pyramid(slide, folder / f"s{number}.tiff")
        label = "calm" if number % 2 == 0 else "tumour"
        rows.append(f"s{number}.tiff,p{number},{label},{'val' if number < 2 else 'train'}")
    (folder / "cohort.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder


@pytest.fixture
def dock(window: Any) -> Any:
    _, widget = window.window.add_plugin_dock_widget("pathotune", "PathoTune")
    yield widget
    widget.close()


def test_a_table_is_tuned_on_and_the_open_slide_gets_its_score_attention_and_tiles(
    window: Any, dock: Any, cohort: Path, run_loop: Callable[..., bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    session = session_of(window)
    window.open(str(cohort / f"s{SLIDES - 1}.tiff"), plugin="pathotune")
    dock.tabs.setCurrentWidget(dock.cohort)
    panel = dock.cohort
    panel.table.set_path(cohort / "cohort.csv")
    panel.setup.method.setCurrentIndex(panel.setup.method.findData("mil"))
    assert panel.go.isEnabled() and f"{SLIDES} slides" in panel.summary.text(), panel.hint.text()
    submitted: list[str] = []
    submit = dock.runner.submit

    def submit_seen(job: Any, *rest: Any, **more: Any) -> None:
        submitted.append(job.command)
        submit(job, *rest, **more)

    monkeypatch.setattr(dock.runner, "submit", submit_seen)
    panel.go.click()
    assert run_loop(300, lambda: session.job.command == "predict" and not session.job.is_active), session.job
    assert session.job.stage == "done", session.job
    assert panel.curves.loss and "AUC" in panel.said.text(), "what the tuning came to stays to be read"
    assert run_loop(20, lambda: session.result is not None and not dock.score.tiles.is_reading)
    run_loop(0.5)
    assert submitted == ["tune", "predict"], "all of the slide has been answered for: nothing follows"

    answer, result = dock.score.answer, session.result
    assert answer is not None and result is not None
    assert answer.predicted == "tumour" and answer.probabilities["tumour"] > 0.5
    assert "tumour" in dock.score.text.text()
    assert not dock.score.tiles.visibleRegion().isEmpty(), "below a long tab it was brought into sight"
    assert result.attention.visible and not result.classes.visible
    (x, y, *_), share = answer.attended[0]
    assert (x, y) == (0, 0) and share > 1, "the tile with the tumour"
    assert dock.score.tiles.count() == SLIDE_TILES
    shown = [dock.score.tiles.item(row).icon().isNull() for row in range(SLIDE_TILES)]
    assert not any(shown), "each with its picture"
    dock.score.tiles.itemClicked.emit(dock.score.tiles.item(0))
    assert tuple(window.camera.center[-2:]) == pytest.approx((TILE_PX / 4, TILE_PX / 4), abs=1)
