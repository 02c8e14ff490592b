"""A real napari window in a process of its own, for a test to kill: draws, tunes, restores, and tells in JSON lines.

python tests/integration/window_to_kill.py draw|tune|again SLIDE
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from qtpy.QtCore import Qt

from benchmarks.hand import Hand, run
from napari_pathotune.window import open_window

FOREVER_S = 600.0


def say(what: str, **values: Any) -> None:
    """One line to the test."""
    print(json.dumps({"what": what, **values}), flush=True)


class Window:
    """The window with the Tune tab in front."""

    def __init__(self, slide: Path) -> None:
        self.viewer, self.dock = open_window([slide], show=False)
        self.viewer.window._qt_window.resize(1300, 860)
        self.viewer.window._qt_window.show()
        self.dock.tabs.setCurrentWidget(self.dock.tune)
        run(1.0)
        self.dock.session.look_at_all()
        run(0.2)
        self.hand = Hand(self.viewer)

    @property
    def regions(self) -> Any:
        """The panel to draw with."""
        return self.dock.tune.regions

    def tell_regions(self, what: str) -> None:
        """Class and outline of everything drawn."""
        document = self.dock.tune.board.active.document
        say(what, regions=[[one.class_name, one.geometry.wkt] for one in document.regions()])

    def draw(self) -> None:
        """Three boxes of each of two classes, then a polygon that is never ended."""
        tools = self.regions.tools.buttons
        for row, key in enumerate((Qt.Key.Key_1, Qt.Key.Key_2)):
            self.hand.press(tools["rectangle"])
            self.hand.key(key)
            for column in range(3):
                x, y = 150 + 700 * column, 100 + 800 * row
                self.hand.drag([(x, y), (x + 500, y + 500)])
                self.tell_regions("drawn")
        self.hand.press(tools["polygon"])
        for place in ((300, 1500), (700, 1500), (700, 1640), (300, 1640)):
            self.hand.click(place)
        run(1.0)
        say("half drawn")
        run(FOREVER_S)

    def restore(self) -> None:
        """Answer the question about what the crash left."""
        crash = self.regions.crash
        run(10.0, lambda: not crash.isHidden())
        say("asked", regions=not crash.isHidden(), text=crash.text.text())
        if not crash.isHidden():
            self.hand.press(crash.yes)
        self.tell_regions("restored")

    def begin(self, epochs: int) -> None:
        """Press Tune, for so many epochs of the quickest method."""
        panel = self.dock.tune
        panel.method.setCurrentIndex(panel.method.findData("linear_probe"))
        for name in ("epochs", "patience"):
            panel.training_form[name].value = epochs
        after = self.dock.after_tuning.choice
        after.setCurrentIndex(after.findData("nothing"))
        self.hand.press(panel.go)

    def tune(self) -> None:
        """Tune until a best epoch is kept, and go on."""
        self.begin(200)
        run(300.0, lambda: len(self.dock.tune.curves.loss) >= 2 or not self.dock.session.job.is_active)
        job = self.dock.session.job
        say("tuning", worker=self.dock.runner.client.pid, stage=job.stage, text=job.text)
        run(FOREVER_S)

    def again(self) -> None:
        """Take what the cut-off tuning came to, and tune once more."""
        bar = self.dock.tune.cut_off.question
        run(10.0, lambda: not bar.isHidden())
        say("asked", tuning=not bar.isHidden(), regions=not self.regions.crash.isHidden())
        self.tell_regions("found")
        if not bar.isHidden():
            self.hand.press(bar.buttons["keep"])
        say("kept", out=self.dock.tune.out, can_go_on=self.dock.tune.again.isVisible())
        self.begin(2)
        run(300.0, lambda: not self.dock.session.job.is_active)
        job = self.dock.session.job
        say("tuned", stage=job.stage, text=job.text, out=job.result.get("out"))
        self.dock.tune.board.close()
        self.viewer.close()


def main() -> None:
    """Do what the first argument says with the slide of the second."""
    window = Window(Path(sys.argv[2]))
    if sys.argv[1] == "draw":
        window.draw()
    elif sys.argv[1] == "tune":
        window.restore()
        window.tune()
    else:
        window.again()


if __name__ == "__main__":
    main()
