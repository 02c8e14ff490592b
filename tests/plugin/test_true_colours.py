"""The switch for true colours: the picture is converted by the slide's profile, what is computed is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("qtpy.QtWidgets")
pytest.importorskip("napari")

from napari_pathotune.layers import facts
from napari_pathotune.opening import open_paths
from napari_pathotune.session import session_of
from napari_pathotune.widgets.slide import SlidePanel
from pathotune.errors import SlideUnreadable


def write_slide(path: Path, profile: bytes | None, width: int = 2400, height: int = 1800) -> Path:
    """A tissue-like slide with a profile, or without one."""
    import tifffile

    y, x = np.mgrid[:height, :width]
    picture = np.stack([220 - x // 20, 120 + y // 30, 90 + y // 40], axis=-1).astype(np.uint8)
    options: dict[str, Any] = {"tile": (256, 256), "photometric": "rgb", "iccprofile": profile}
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(picture, resolution=(2e4, 2e4), resolutionunit="CENTIMETER", **options)
        tiff.write(picture[::2, ::2], subfiletype=1, **options)
    return path


def swapped(first: Any, second: Any) -> bool:
    """Whether one has the other's red and blue exchanged, as the profile of these tests says."""
    return bool(np.abs(np.asarray(first).astype(int) - np.asarray(second)[..., ::-1]).max() <= 4)


def test_the_picture_is_converted_and_what_computes_reads_as_before(
    qapp: Any, viewer: Any, tmp_path: Path, swapped_profile: bytes
) -> None:
    (layer,) = open_paths(viewer, [write_slide(tmp_path / "a.tiff", swapped_profile)])
    session = session_of(viewer)
    panel, slide = SlidePanel(session), session.slide
    stored = np.asarray(layer.data[0][:100, :100])
    assert panel.true_colours.isEnabled() and not panel.true_colours.isChecked()
    panel.true_colours.click()
    picture = session.picture
    assert swapped(layer.data[0][:100, :100], stored) and swapped(layer.data[-1][:9, :9], slide.pyramid[-1][:9, :9])
    assert session.slide is slide is facts(layer)["slide"] and not slide.converts_color
    assert np.array_equal(slide.read(0, 0, 100, 100), stored), "predictions, tunings and tiles read the stored colours"
    session.state_mpp(0.25)
    assert panel.true_colours.isChecked() and swapped(layer.data[0][:100, :100], stored)
    panel.true_colours.click()
    assert np.array_equal(layer.data[0][:100, :100], stored) and session.picture is session.slide
    with pytest.raises(SlideUnreadable, match="closed"):
        picture.read(0, 0, 9, 9)
    panel.true_colours.click()
    picture = session.picture
    viewer.layers.remove(layer)
    assert panel.true_colours.isHidden()
    with pytest.raises(SlideUnreadable, match="closed"):
        picture.read(0, 0, 9, 9)
    panel.close()


def test_without_a_profile_there_is_nothing_to_switch_and_a_damaged_one_is_said(
    qapp: Any, viewer: Any, tmp_path: Path, swapped_profile: bytes, notices: list[str]
) -> None:
    open_paths(viewer, [write_slide(tmp_path / "none.tiff", None)])
    panel = SlidePanel(session_of(viewer))
    assert not panel.true_colours.isEnabled() and "no colour profile" in panel.true_colours.toolTip()
    (layer,) = open_paths(viewer, [write_slide(tmp_path / "damaged.tiff", swapped_profile[:150])])
    assert panel.true_colours.isEnabled()
    before = layer.data
    panel.true_colours.click()
    assert "colours are as stored" in notices[-1] and not panel.true_colours.isChecked() and layer.data is before
    panel.close()


@pytest.mark.window
def test_in_a_window_the_new_colours_are_drawn_without_waiting(
    window: Any, tmp_path: Path, swapped_profile: bytes, run_loop: Callable[..., bool]
) -> None:
    (layer,) = open_paths(window, [write_slide(tmp_path / "a.tiff", swapped_profile)])
    session = session_of(window)
    panel, views = SlidePanel(session), session.companions["slide views"]
    run_loop(0.3)
    assert run_loop(30, until=lambda: views.are_sharp)
    stored, thumbnail = [np.asarray(level) for level in layer.data], layer.thumbnail.copy()
    for wanted in (True, False, True):
        panel.true_colours.click()
        run_loop(0.2)
        assert run_loop(30, until=lambda: views.are_sharp)
        (top, left), (bottom, right) = layer.corner_pixels
        own = stored[layer.data_level][top : bottom + 1, left : right + 1]
        drawn = np.asarray(layer._slicing_state._slice.image.raw)
        assert swapped(drawn, own) if wanted else np.array_equal(drawn, own)
    assert swapped(layer.thumbnail[..., :3], thumbnail[..., :3])
    assert len(views._views) == 1 and not next(iter(views._views.values())).glance.failed
    panel.close()
