"""A saved picture carries the view, the legend, where it came from and what it may be used for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("qtpy.QtWidgets")
pytest.importorskip("napari")

from napari_pathotune.layers import result_layers, slide_layer
from napari_pathotune.overlay import ClassGrid
from napari_pathotune.session import session_of
from pathotune.slides import open_slide

COLORS = np.array([[200, 30, 30], [30, 160, 60]])


def grid() -> ClassGrid:
    probabilities = np.zeros((2, 4, 6), np.float32)
    probabilities[1] = 1
    return ClassGrid(probabilities, ("Tumor", "Stroma"), COLORS, (50.0, 50.0), (24.75, 24.75))


def pixels_of(image: Any) -> np.ndarray[Any, Any]:
    from qtpy.QtGui import QImage

    image = image.convertToFormat(QImage.Format.Format_RGB888)
    bits = image.constBits()
    if hasattr(bits, "setsize"):
        bits.setsize(image.bytesPerLine() * image.height())
    rows = np.frombuffer(bits, np.uint8).reshape(image.height(), image.bytesPerLine())
    return rows[:, : image.width() * 3].reshape(image.height(), image.width(), 3).copy()


def test_view_above_legend_and_words_below(qapp: Any) -> None:
    from napari_pathotune.widgets.snapshot import compose

    seen = np.full((200, 400, 4), 255, np.uint8)
    seen[..., :3] = (10, 20, 30)
    image = compose(seen, [("Tumor", (200, 30, 30)), ("Stroma", (30, 160, 60))], ["one", "two"])
    made = pixels_of(image)
    assert made.shape[1] == 400 and (made[:200] == (10, 20, 30)).all()
    strip = made[200:].reshape(-1, 3)
    for color in COLORS:
        assert (strip == color).all(axis=1).any(), "the legend's colours are in the strip"
    assert (strip < 60).all(axis=1).any() and image.text("Description") == "one\ntwo"


def test_a_long_legend_and_long_words_take_more_room_instead_of_being_cut(qapp: Any) -> None:
    from napari_pathotune.widgets.snapshot import compose

    seen = np.zeros((50, 300, 4), np.uint8)
    few = compose(seen, [("a", (1, 2, 3))], ["short"]).height()
    many = compose(seen, [(f"a long name {i}", (1, 2, 3)) for i in range(9)], ["word " * 60]).height()
    assert many > few + 100


def test_the_origin_names_no_patient_unless_asked(qapp: Any, viewer: Any, add: Any, slide_path: Path) -> None:
    from napari_pathotune.widgets.snapshot import legend_of, origin_lines

    session = session_of(viewer)
    add([slide_layer(open_slide(slide_path))])
    assert legend_of(session) == []
    add(result_layers(grid(), "/r/one.zarr", "my tuning", str(slide_path)))
    lines = origin_lines(session, with_name=False)
    assert not any(slide_path.stem in line for line in lines)
    assert "Research use only" in lines[-1] and any("my tuning" in line for line in lines)
    assert slide_path.name in origin_lines(session, with_name=True)[0]
    assert [name for name, _ in legend_of(session)] == ["Tumor", "Stroma"]
    session.result.grid.visible[0] = False
    assert [name for name, _ in legend_of(session)] == ["Stroma"], "what is hidden needs no legend"


@pytest.mark.window
def test_the_real_view_is_saved(window: Any, slide_path: Path, tmp_path: Path, run_loop: Callable[..., bool]) -> None:
    from PIL import Image

    from napari_pathotune.widgets.snapshot import SnapshotPanel

    window.open(str(slide_path), plugin="pathotune")
    run_loop(0.5)
    panel = SnapshotPanel(session_of(window))
    saved = panel.save(tmp_path / "view ä.png")
    with Image.open(saved) as picture:
        assert picture.width > 300 and "Research use only" in picture.info["Description"]
        assert len(set(picture.convert("RGB").resize((40, 30)).getdata())) > 20, "tissue is on it"


def test_a_picture_that_cannot_be_written_is_said(
    qapp: Any, viewer: Any, tmp_path: Path, notices: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from napari_pathotune.widgets import snapshot

    monkeypatch.setattr(snapshot, "seen", lambda viewer: np.zeros((20, 30, 4), np.uint8))
    panel = snapshot.SnapshotPanel(session_of(viewer))
    assert panel.save(tmp_path / "absent" / "x.png") is None and "could not be written" in notices[0]
