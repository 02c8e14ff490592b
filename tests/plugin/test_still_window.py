"""What a prediction costs a window in which nothing moves: a picture of the canvas for each change, and what changed is
all that is sent to it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("napari")

from napari_pathotune.layers import attention_layer, result_layers
from napari_pathotune.opening import open_paths
from napari_pathotune.overlay import ClassGrid
from napari_pathotune.session import session_of

pytestmark = [pytest.mark.window, pytest.mark.timeout(300)]

STORE, CHANGES = "one.pathotune.zarr", 5


@pytest.fixture
def result(window: Any, slide_path: Path, run_loop: Callable[..., bool]) -> Any:
    """A slide with an empty prediction over it: classes to be seen, probability and attention hidden."""
    from napari.layers import Layer

    open_paths(window, [slide_path])
    colors = np.array([(230, 159, 0), (0, 114, 178)], np.uint8)
    grid = ClassGrid(np.zeros((2, 8, 12), np.float32), ("a", "b"), colors, (25.0, 25.0), (12.0, 12.0))
    attention = [np.full((16, 24), np.nan, np.float32), np.full((8, 12), np.nan, np.float32)]
    layers = [attention_layer(attention, ((12.5, 12.5), (6.0, 6.0)), STORE, ("cls",), "t", slide_path)]
    for data in layers + result_layers(grid, STORE, "t", slide_path):
        window.layers.append(Layer.create(*data))
    run_loop(1.0)
    return session_of(window).result


def test_a_change_of_the_overlay_is_one_picture_and_sends_the_overlay_alone(
    window: Any, result: Any, run_loop: Callable[..., bool]
) -> None:
    sent: list[str] = []
    thumbnails: list[str] = []
    for layer in window.layers:
        layer.events.set_data.connect(lambda event: sent.append(event.source.name))
        layer.events.thumbnail.connect(lambda event: thumbnails.append(event.source.name))
    drawn: list[int] = []
    window.window._qt_viewer.canvas._scene_canvas.events.draw.connect(lambda event: drawn.append(1))
    for row in range(CHANGES):
        result.grid.put(np.full((2, 1, 12), 0.5, np.float32), row, 0)
        before = len(drawn)
        session_of(window).shown.repaint(result)
        assert run_loop(10, until=lambda before=before: len(drawn) > before)
        run_loop(0.1)
    assert sent == [result.classes.name] * CHANGES
    assert not thumbnails
    assert len(drawn) == CHANGES


def test_attention_that_is_hidden_changes_without_a_picture(
    window: Any, result: Any, slide_path: Path, run_loop: Callable[..., bool]
) -> None:
    drawn: list[int] = []
    window.window._qt_viewer.canvas._scene_canvas.events.draw.connect(lambda event: drawn.append(1))
    layer = result.attention
    assert not layer.visible
    other = [np.full((20, 30), 0.5, np.float32), np.full((10, 15), 0.5, np.float32)]
    data = attention_layer(other, ((10.0, 10.0), (5.0, 5.0)), STORE, ("cls", "tvp"), "t", slide_path)
    session_of(window).shown.put_attention(result, [data])
    assert layer.data[0].shape == (20, 30) and tuple(layer.translate) == (5.0, 5.0)
    run_loop(0.5)
    assert not drawn
    layer.visible = True
    assert run_loop(10, until=lambda: len(drawn) > 0)
