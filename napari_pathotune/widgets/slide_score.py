"""The answer for the whole slide, and pictures of the tiles it rests on most."""

from __future__ import annotations

from html import escape

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QListWidgetItem, QVBoxLayout, QWidget

from napari_pathotune.layers import facts
from napari_pathotune.session import JobState, Session
from napari_pathotune.slide_answer import SlideAnswer, slide_answer
from napari_pathotune.widgets.overlays import show_kind
from napari_pathotune.widgets.parts import heading, named, text_label
from napari_pathotune.widgets.pictures import PictureList

TILE_PX = 84


class SlideScorePanel(QWidget):
    """Shown where the result in front is a tuning's that learned from whole slides.

    answered : a prediction has ended with an answer.
    """

    answered = Signal()

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session
        self.answer: SlideAnswer | None = None
        self._store, self._brought, self._is_awaited = "", "", False
        self.text = text_label()
        self.tiles = PictureList(TILE_PX)
        named(self.tiles, "Most attended tiles", "The tiles the answer rests on most. Click one to go there.")
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        layout.addWidget(heading("The whole slide"))
        layout.addWidget(self.text)
        layout.addWidget(self.tiles)
        self.tiles.itemClicked.connect(self._on_tile_clicked)
        self.tiles.itemActivated.connect(self._on_tile_clicked)
        session.results_changed.connect(self.refresh)
        session.active_changed.connect(self.refresh)
        session.stage_changed.connect(self._on_stage_changed)
        self.refresh()

    def refresh(self) -> None:
        """Show what the result in front says of its slide; hide where it says nothing."""
        result = self.session.result if self.session.viewer is not None else None
        store = "" if result is None else result.store
        if store != self._store:
            self._store = store
            self._show(slide_answer(store) if store else None, "" if result is None else result.slide_path)
        self.setVisible(self.answer is not None)
        if self.answer is not None and self._is_awaited:
            self._is_awaited = False
            self.answered.emit()
        if self.answer is None or result is None or self._brought == store:
            return
        if result.attention is not None and result.classes is not None:
            # Tiles have no class of their own here: what is seen first is where the answer comes from.
            self._brought = store
            show_kind(result, "attention", facts(result.attention)["sources"][0])

    def _on_stage_changed(self, job: JobState) -> None:
        if job.command == "predict" and not job.is_active:
            self._store = ""  # the answer is written at the end
            self._is_awaited = job.stage == "done"  # its layers may come later
            self.refresh()

    def _show(self, answer: SlideAnswer | None, slide_path: str) -> None:
        self.answer = answer
        self.tiles.empty()
        if answer is None:
            return
        self.text.setText(
            f"<b>{escape(answer.predicted)}</b>: {escape(answer.sentence())}. It rests most on these tiles. The slide "
            "shows where it looked; Show ▸ Classes gives what each tile alone would say."
        )
        for box, share in answer.attended:
            item = self.tiles.add_tile(f"{share:.1f}×", slide_path, box)
            item.setToolTip(f"{share:.1f} times an even share of the attention. Click to go there.")
            item.setData(Qt.ItemDataRole.UserRole, (slide_path, box))

    def _on_tile_clicked(self, item: QListWidgetItem) -> None:
        slide_path, box = item.data(Qt.ItemDataRole.UserRole)
        self.session.look_at_box(slide_path, box)
