"""A list of tiles as pictures, each read from its slide by a thread and filled in when it is there."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from qtpy.QtCore import QSize, Qt, QTimer
from qtpy.QtGui import QColor, QIcon, QImage, QPixmap
from qtpy.QtWidgets import QListView, QListWidget, QListWidgetItem

from napari_pathotune.tile_pictures import read_tile

POLL_MS = 60
GAP_PX = 8
LINE_PX, MARGIN_PX = 16, 17  # of text below each picture, and the list's own margins


class PictureList(QListWidget):
    """Pictures in rows, two of which are seen at once.

    Parameters
    ----------
    tile_px : side of a picture on the screen.
    lines : of text below each picture.
    """

    def __init__(self, tile_px: int, lines: int = 1) -> None:
        super().__init__()
        self.tile_px = tile_px
        self.setViewMode(QListView.ViewMode.IconMode)
        self.setFlow(QListView.Flow.LeftToRight)
        self.setIconSize(QSize(tile_px, tile_px))
        self.setResizeMode(QListView.ResizeMode.Adjust)
        self.setMovement(QListView.Movement.Static)
        caption_px = MARGIN_PX + lines * LINE_PX
        # Captions end with … rather than part the pictures.
        self.setGridSize(QSize(tile_px + GAP_PX, tile_px + caption_px - 3))
        self.setTextElideMode(Qt.TextElideMode.ElideRight)
        self.setWordWrap(False)
        self.setFixedHeight(2 * (tile_px + caption_px))
        self._pool: ThreadPoolExecutor | None = None
        self._waiting: list[tuple[QListWidgetItem, Future[Any]]] = []
        self._polls = False

    @property
    def is_reading(self) -> bool:
        """Whether pictures are still being read."""
        return bool(self._waiting)

    def empty(self) -> None:
        """Take all pictures out; those that were not read yet are not read any more."""
        for _, future in self._waiting:
            future.cancel()
        self._waiting = []
        self.clear()

    def add_tile(self, text: str, slide_path: str = "", box_px0: tuple[float, ...] = ()) -> QListWidgetItem:
        """Add a tile; it is grey until it is read, and stays so where it is not known where it lies."""
        # Not kept: a picture that outlives the application takes the process down with it.
        blank = QPixmap(self.tile_px, self.tile_px)
        blank.fill(QColor(128, 128, 128, 60))
        item = QListWidgetItem(QIcon(blank), text)
        self.addItem(item)
        if slide_path and box_px0:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="pathotune-tiles")
            self._waiting.append((item, self._pool.submit(read_tile, slide_path, box_px0)))
            self._poll()
        return item

    def close_reading(self) -> None:
        """Stop reading pictures."""
        self._waiting = []
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None

    def _poll(self) -> None:
        """Look again in a moment, as long as something is being read."""
        if not self._polls and self._waiting:
            self._polls = True
            QTimer.singleShot(POLL_MS, self._on_time)

    def _on_time(self) -> None:
        self._polls, waiting = False, []
        for item, future in self._waiting:
            if not future.done():
                waiting.append((item, future))
            elif (picture := future.result()) is not None:
                height, width = picture.shape[:2]
                image = QImage(picture.tobytes(), width, height, 3 * width, QImage.Format.Format_RGB888)
                item.setIcon(QIcon(QPixmap.fromImage(image.copy())))
        self._waiting = waiting
        self._poll()
