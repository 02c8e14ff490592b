"""The pictures of the guide "Your first tuning": every state of the window, driven by mouse and keys on the sample.

On Linux without a screen: xvfb-run -a -s "-screen 0 1400x1700x24" python docs/guide_pictures.py
"""

from __future__ import annotations

import argparse
import io
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from qtpy.QtCore import QPoint, QRect
from qtpy.QtWidgets import QDockWidget, QScrollArea, QWidget

from benchmarks.hand import Hand, run
from napari_pathotune.sample_data import HEIGHT_PX0, SEED, WIDTH_PX0
from napari_pathotune.widgets.overview import Overview
from pathotune.slides.synthetic import CLASSES, SyntheticSlide

PICTURES = Path(__file__).resolve().parent / "pictures"
WINDOW_PX, TALL_PX = (1400, 900), (1400, 1600)
LONGEST_S = 1800.0
SHOWN_PX = 1050
# Outlines on the generated sample, in its level-0 pixels: centre, radius and class.
DRAWN = (((1576, 1992), 150, "Stroma"), ((3576, 1192), 130, "Tumor"))


class Guide:
    """The window of the guide, and its camera."""

    def __init__(self, out: Path, theme: str, prefix: str) -> None:
        from napari.settings import get_settings

        from napari_pathotune.window import open_window

        self.out, self.prefix = out, prefix
        get_settings().appearance.theme = theme
        self.viewer, self.dock = open_window([], show=False)
        self.window = self.viewer.window._qt_window
        self.resize(WINDOW_PX)
        self.window.show()
        run(1.5)

    def resize(self, size: tuple[int, int]) -> None:
        """Give the window another size and wait until it has it."""
        self.window.resize(*size)
        run(0.5)

    def whole(self, name: str) -> None:
        """A picture of the whole window."""
        self._hush()
        pixels = self.viewer.screenshot(canvas_only=False)
        self._write(Image.fromarray(np.asarray(pixels)[..., :3]), name, SHOWN_PX)

    def part(self, name: str, first: QWidget, last: QWidget | None = None) -> None:
        """A picture of the dock from the top of one control to the bottom of another, as far as it is seen."""
        self._hush()
        scroll = _scroll_of(first)
        if scroll is not None:
            scroll.ensureWidgetVisible(last or first, 0, 4)
            scroll.ensureWidgetVisible(first, 0, 4)
            run(0.4)
        top = first.mapTo(self.window, QPoint(0, 0))
        end = (last or first).mapTo(self.window, QPoint(first.width(), (last or first).height()))
        area = QRect(top - QPoint(6, 6), end + QPoint(6, 6))
        if scroll is not None:
            port = scroll.viewport()
            area &= QRect(port.mapTo(self.window, QPoint(0, 0)), port.size())
        pixmap = self.window.grab(area)
        data = pixmap.toImage().convertToFormat(pixmap.toImage().Format.Format_RGB888)
        bits = data.bits()
        bits.setsize(data.sizeInBytes()) if hasattr(bits, "setsize") else None
        rows = np.frombuffer(bytes(bits), np.uint8).reshape(data.height(), data.bytesPerLine())
        pixels = rows[:, : 3 * data.width()].reshape(data.height(), data.width(), 3)
        self._write(Image.fromarray(pixels.copy()), name, SHOWN_PX)

    def _hush(self) -> None:
        """No notifications of napari in the picture."""
        from napari._qt.dialogs.qt_notification import NapariQtNotification

        run(0.6)
        for notice in self.window.findChildren(NapariQtNotification):
            notice.close()
        run(0.3)

    def _write(self, picture: Image.Image, name: str, width: int) -> None:
        """As a file small enough to live beside the text: controls as PNG, what shows tissue as JPEG."""
        if picture.width > width:
            picture = picture.resize((width, round(picture.height * width / picture.width)), Image.Resampling.LANCZOS)
        path, data = self.out / f"{self.prefix}{name}", io.BytesIO()
        if picture.width == width:
            path = path.with_name(f"{path.name}.jpg")
            picture.save(data, "JPEG", quality=86, optimize=True)
        else:
            path = path.with_name(f"{path.name}.png")
            picture.quantize(256, dither=Image.Dither.NONE).save(data, "PNG", optimize=True)
        path.write_bytes(data.getvalue())
        print(f"{path} {len(data.getvalue()) // 1000} kB", file=sys.stderr)

    def raise_dock_of(self, widget: QWidget) -> None:
        """Bring the dock that holds a widget before those it shares its place with."""
        parent = widget.parentWidget()
        while parent is not None and not isinstance(parent, QDockWidget):
            parent = parent.parentWidget()
        if parent is not None:
            parent.raise_()

    def wait(self, what: str) -> None:
        """Wait until no job runs; ends the script where one failed."""
        run(LONGEST_S, lambda: not self.dock.session.job.is_active)
        job = self.dock.session.job
        if job.stage != "done":
            raise SystemExit(f"{what} ended as {job.stage}: {job.text}")
        run(1.0)


def _scroll_of(widget: QWidget) -> QScrollArea | None:
    parent = widget.parentWidget()
    while parent is not None and not isinstance(parent, QScrollArea):
        parent = parent.parentWidget()
    return parent


def draw(guide: Guide) -> Hand:
    """Two outlines with the lasso beside those of the sample."""
    hand, panel = Hand(guide.viewer), guide.dock.tune.regions
    names = guide.dock.tune.board.active.document.palette.names
    hand.press(panel.tools.buttons["lasso"])
    for (x, y), radius, name in DRAWN:
        hand.key(str(names.index(name) + 1))
        angles = np.linspace(0, 2 * np.pi, 24)
        hand.drag([(x + radius * np.cos(a), y + 0.8 * radius * np.sin(a)) for a in angles.tolist()], steps=2)
    hand.press(panel.tools.buttons["move"])
    return hand


def take(guide: Guide, without_tuning: bool = False) -> None:
    """Every state, in the order of the guide."""
    dock = guide.dock
    guide.whole("guide-empty")
    guide.viewer.open_sample("pathotune", "generated_slide")
    dock.tabs.setCurrentWidget(dock.tune)
    run(1.0)
    dock.session.look_at_all()
    run(0.5)
    hand = draw(guide)
    run(2.0)
    guide.whole("guide-regions")
    guide.resize(TALL_PX)
    hand.press(dock.tune.preflight_fold.head)
    guide.part("guide-preflight", dock.tune.step_train)
    hand.press(dock.tune.preflight_fold.head)
    if without_tuning:
        hand.press(dock.tune.advanced.head)
        for fold in (dock.tune.setup.method_fold, dock.tune.setup.training_fold, dock.tune.task_fold):
            hand.press(fold.head)
        guide.part("all-options", dock.tune.step_regions, dock.tune.step_train)
        return
    hand.press(dock.tune.go)
    run(LONGEST_S, lambda: len(dock.tune.curves.loss) >= 3 or not dock.session.job.is_active)
    guide.part("guide-tuning", dock.tune.step_train)
    run(LONGEST_S, lambda: dock.session.job.command == "predict")
    run(1.0)
    run(LONGEST_S, lambda: dock.runner.is_free)
    guide.wait("the tuning and what follows")
    guide.part("guide-result", dock.tune.step_result)
    guide.resize(WINDOW_PX)
    for layer in dock.session.drawing_layers():
        layer.visible = False
    dock.tabs.setCurrentWidget(dock.predict)
    dock.session.look_at_all()
    run(1.0)
    guide.whole("guide-prediction")
    guide.resize(TALL_PX)
    guide.part("guide-legend", dock.overlay)
    guide.resize(WINDOW_PX)
    dock.tabs.setCurrentWidget(dock.areas)
    hand.press(dock.areas.again)
    run(1.0)
    guide.part("guide-areas", dock.areas)
    correct(guide, hand)
    doubt(guide, hand)
    guide.resize(TALL_PX)
    dock.tabs.setCurrentWidget(dock.predict)
    hand.press(dock.predict.tuning.fold.head)
    run(2.0)
    guide.part("guide-library", dock.predict.tuning)
    hand.press(dock.predict.tuning.fold.head)
    guide.resize(WINDOW_PX)
    overview = guide.window.findChild(Overview)
    guide.raise_dock_of(overview)
    run(1.0)
    guide.whole("guide-overview")


def correct(guide: Guide, hand: Hand) -> None:
    """Suggested places, each given the class of its middle, tuned again, and what that changed."""
    dock, panel = guide.dock, guide.dock.tune.suggest
    dock.tabs.setCurrentWidget(dock.tune)
    hand.press(panel.ask)
    run(120.0, lambda: bool(panel.places))
    run(1.0)
    guide.whole("guide-suggest")
    slide, names = SyntheticSlide(WIDTH_PX0, HEIGHT_PX0, seed=SEED), [tissue.name for tissue in CLASSES]
    for place in list(panel.places):
        tissue = int(slide.classes_at(place.x_px0, place.y_px0))
        answer = panel.classes.buttons.get(names[tissue] if tissue < len(names) else "", panel.pass_over)
        hand.press(answer)
    hand.press(panel.tune_again)
    run(LONGEST_S, lambda: dock.session.job.command == "predict" and dock.session.job.is_active)
    run(1.0)
    run(LONGEST_S, lambda: dock.runner.is_free)
    guide.wait("the tuning with corrections and what follows")
    dock.tabs.setCurrentWidget(dock.predict)
    dock.session.look_at_all()
    hand.press(dock.overlay.more.what_changed)
    run(1.0)
    guide.whole("guide-changed")
    hand.press(dock.overlay.more.what_changed)


def doubt(guide: Guide, hand: Hand) -> None:
    """How uncertain the model is, with the tiles that are unlike all it learned from marked."""
    overlay = guide.dock.overlay
    for text in ("Uncertainty", "Classes"):
        overlay.heat.setCurrentIndex(overlay.heat.findText(text))
        overlay.heat.activated.emit(overlay.heat.currentIndex())
        if text == "Uncertainty":
            hand.press(overlay.more.mark)
            run(2.0)
            guide.whole("guide-doubts")
            hand.press(overlay.more.mark)


def break_off(out: Path) -> None:
    """Draw on the sample and die in the middle of an outline, as a computer that fails does."""
    guide = Guide(out, "dark", "")
    guide.viewer.open_sample("pathotune", "generated_slide")
    guide.dock.tabs.setCurrentWidget(guide.dock.tune)
    run(1.0)
    guide.dock.session.look_at_all()
    run(0.5)
    draw(guide)
    run(2.0)
    os._exit(1)


def restore(out: Path, theme: str, prefix: str) -> None:
    """The question of the next start."""
    guide = Guide(out, theme, prefix)
    guide.viewer.open_sample("pathotune", "generated_slide")
    guide.dock.tabs.setCurrentWidget(guide.dock.tune)
    guide.dock.session.look_at_all()
    run(3.0)
    guide.whole("guide-restore")
    guide.viewer.close()


def main() -> None:
    """Take all pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=PICTURES)
    parser.add_argument("--theme", default="dark", help="napari's theme: dark or light")
    parser.add_argument("--prefix", default="", help="before each file's name")
    parser.add_argument("--without-tuning", action="store_true", help="only what needs no computing, in a minute")
    parser.add_argument("--break-off", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.break_off:
        break_off(options.out)
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        # Nothing of the person's own: her results would show up as layers.
        os.environ["PATHOTUNE_RESULTS"] = str(Path(folder) / "results")
        os.environ["PATHOTUNE_CACHE"] = str(Path(folder) / "cache")
        os.environ["NAPARI_CONFIG"] = str(Path(folder) / "napari.yaml")
        guide = Guide(options.out, options.theme, options.prefix)
        take(guide, options.without_tuning)
        guide.viewer.close()
        run(0.5)
        if not options.without_tuning:
            for part in ("RESULTS", "CACHE"):  # another computer's, on which nothing was done yet
                os.environ[f"PATHOTUNE_{part}"] = str(Path(folder) / f"after-{part.lower()}")
            subprocess.run([sys.executable, __file__, "--break-off"], check=False)
            restore(options.out, options.theme, options.prefix)


if __name__ == "__main__":
    main()
