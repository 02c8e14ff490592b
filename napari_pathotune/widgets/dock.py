"""The dock "PathoTune": slide, prediction, tuning, progress and legend in one column."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import QFrame, QScrollArea, QSizePolicy, QTabWidget, QVBoxLayout, QWidget

from napari_pathotune.session import session_of
from napari_pathotune.widgets.after_tuning import AfterTuning
from napari_pathotune.widgets.areas import AreaPanel
from napari_pathotune.widgets.cohort import CohortPanel
from napari_pathotune.widgets.focus import FocusRing
from napari_pathotune.widgets.genes import GenePanel
from napari_pathotune.widgets.overlays import OverlayPanel, reading_text
from napari_pathotune.widgets.parts import heading, text_label
from napari_pathotune.widgets.predict import PredictPanel
from napari_pathotune.widgets.progress import ProgressPanel
from napari_pathotune.widgets.readout import CursorReadout
from napari_pathotune.widgets.slide import SlidePanel
from napari_pathotune.widgets.slide_score import SlideScorePanel
from napari_pathotune.widgets.train import TunePanel
from napari_pathotune.workers import JobRunner

if TYPE_CHECKING:
    import napari

WIDTH_PX = 340


class PathoTuneDock(QWidget):
    """Everything for the short way: open a slide, predict with a tuning, or tune on drawn regions."""

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self.session = session_of(napari_viewer)
        self.runner = JobRunner(self.session, parent=self)
        self.slide = SlidePanel(self.session)
        self.predict = PredictPanel(self.session, self.runner)
        self.tune = TunePanel(self.session, self.runner)
        self.after_tuning = AfterTuning(self.session, self.runner, self.predict)
        self.tune.setup.layout().addWidget(self.after_tuning)
        self.tune.cut_off.kept.connect(lambda result: self.predict.tuning.load(Path(result["out"])))
        self.progress = ProgressPanel(self.session, self.runner)
        self.score = SlideScorePanel(self.session)
        self.genes = GenePanel(self.session)
        self.overlay = OverlayPanel(self.session)
        self.areas = AreaPanel(self.session)
        self.tabs = FittingTabs()
        self.tabs.setAccessibleName("What to do")
        self.tabs.addTab(self.predict, "Predict")
        self.tabs.setTabToolTip(0, "Lay predictions of a tuning on the slide.")
        self.tabs.addTab(self.tune, "Tune")
        self.tabs.setTabToolTip(1, "Tune on regions you draw.")
        self.tabs.addTab(self.areas, "Areas")
        self.tabs.setTabToolTip(2, "How much of the slide and of each region every class covers.")
        self.cohort = CohortPanel(self.session, self.runner)
        self.tabs.addTab(self.cohort, "Cohort")
        self.tabs.setTabToolTip(3, "Tune on a table of slides: labels of whole slides, expression, survival.")
        self.readout = CursorReadout(self.session)
        self.readout.pointed = self.overlay.more.point_at
        self.readout.says = lambda place: self.genes.reading_at(place) or reading_text(place)
        self._lay_out()
        self.focus_ring = FocusRing(self)
        self.destroyed.connect(self.runner.close)

    def _lay_out(self) -> None:
        column = QWidget()
        inner = QVBoxLayout(column)
        inner.setContentsMargins(8, 4, 8, 4)
        inner.setSpacing(6)
        for widget in (heading("Slide"), self.slide, self.tabs, self.score, self.genes, self.overlay):
            inner.addWidget(widget)
        inner.addStretch(1)
        scroll = QScrollArea()
        scroll.setWidgetResizable(True)
        scroll.setFrameShape(QFrame.Shape.NoFrame)
        scroll.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        scroll.setWidget(column)
        # Below a long tab the answer would be out of sight; it is laid out first. The timer ends with the dock.
        later = QTimer(self)
        later.setSingleShot(True)
        later.setInterval(50)
        later.timeout.connect(lambda: scroll.ensureWidgetVisible(self.score, 0, 0))
        self.score.answered.connect(later.start)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(scroll, 1)
        # Below the part that scrolls: Cancel is always seen, and what changes often lays out nothing above it.
        foot = QVBoxLayout()
        foot.setContentsMargins(8, 4, 8, 6)
        foot.addWidget(self.progress)
        foot.addWidget(self.readout.line)
        foot.addWidget(self.readout.hint)
        foot.addWidget(self.readout.where)
        foot.addWidget(text_label("<i>For research use only, not for diagnosis.</i>"))
        layout.addLayout(foot)
        self.setMinimumWidth(WIDTH_PX)

    def showEvent(self, event: Any) -> None:
        """Qt: the dock is in its window now."""
        super().showEvent(event)
        self.readout.attach(self)

    def closeEvent(self, event: Any) -> None:
        """Qt: the dock is closed; its worker ends and gives its memory back."""
        self.runner.close()
        self.readout.detach()
        super().closeEvent(event)


class FittingTabs(QTabWidget):
    """Tabs as tall as the page in front, so that a short page leaves no gap below it."""

    def __init__(self) -> None:
        super().__init__()
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Fixed)
        self.currentChanged.connect(lambda _: self.updateGeometry())

    def sizeHint(self) -> Any:
        """Qt: the size of the page in front and the tab bar."""
        return self._fitting(super().sizeHint())

    def minimumSizeHint(self) -> Any:
        """Qt: as `sizeHint`."""
        return self._fitting(super().minimumSizeHint())

    def _fitting(self, hint: Any) -> Any:
        page = self.currentWidget()
        if page is not None:
            layout = page.layout()
            height = page.sizeHint().height()
            if layout is not None and layout.hasHeightForWidth() and self.width() > 50:
                height = layout.totalHeightForWidth(self.width() - 8)
            hint.setHeight(height + self.tabBar().sizeHint().height() + 6)
        return hint
