"""The suggested places as pictures, and a button for each class a place can be given."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from qtpy.QtCore import QSize, QTimer, Signal
from qtpy.QtGui import QColor, QIcon, QImage, QPixmap
from qtpy.QtWidgets import QGridLayout, QListView, QListWidget, QListWidgetItem, QPushButton, QWidget

from napari_pathotune.corrections import Round
from napari_pathotune.tile_pictures import read_tile
from napari_pathotune.widgets.parts import button, named, swatch

TILE_PX = 72
POLL_MS = 60


class PlaceList(QListWidget):
    """Pictures of the places, read by a thread, each with what was predicted or decided."""

    def __init__(self) -> None:
        super().__init__()
        named(self, "Suggested places", "Each place with what the tuning says. Click one to go there.")
        self.setViewMode(QListView.ViewMode.IconMode)
        self.setFlow(QListView.Flow.LeftToRight)
        self.setIconSize(QSize(TILE_PX, TILE_PX))
        self.setResizeMode(QListView.ResizeMode.Adjust)
        self.setMovement(QListView.Movement.Static)
        self.setSpacing(3)
        self.setFixedHeight(2 * (TILE_PX + 32))
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="pathotune-places")
        self._pictures: list[tuple[QListWidgetItem, Future[Any]]] = []
        self._timer = QTimer(self)
        self._timer.setInterval(POLL_MS)
        self._timer.timeout.connect(self._on_time)

    def show_round(self, suggested: Round | None) -> None:
        """Fill it with these places, or empty it."""
        for _, future in self._pictures:
            future.cancel()
        self._pictures = []
        self.clear()
        if suggested is None:
            return
        blank = QPixmap(TILE_PX, TILE_PX)
        blank.fill(QColor(128, 128, 128, 60))
        for place in suggested.places:
            item = QListWidgetItem(QIcon(blank), "")
            self.addItem(item)
            self._pictures.append((item, self._pool.submit(read_tile, suggested.slide_path, place.box_px0)))
        self._timer.start()

    def show_answers(self, suggested: Round) -> None:
        """Write under each picture what was predicted there or decided."""
        for index in range(self.count()):
            place, answer, item = suggested.places[index], suggested.answer(index), self.item(index)
            guess = f"{short(place.class_name)} {place.probability:.0%}"
            item.setText(f"✓ {short(answer)}" if answer else "– skipped" if suggested.is_skipped(index) else guess)
            item.setToolTip("\n".join(f"{name} {value:.0%}" for name, value in place.probabilities.items()))
        self.setCurrentRow(suggested.current)

    def keyPressEvent(self, event: Any) -> None:
        """Qt: keys belong to the panel around the list."""
        event.ignore()

    def _on_time(self) -> None:
        waiting = []
        for item, future in self._pictures:
            if not future.done():
                waiting.append((item, future))
            elif (picture := future.result()) is not None:
                height, width = picture.shape[:2]
                image = QImage(picture.tobytes(), width, height, 3 * width, QImage.Format.Format_RGB888)
                item.setIcon(QIcon(QPixmap.fromImage(image.copy())))
        self._pictures = waiting
        if not waiting:
            self._timer.stop()


class ClassButtons(QWidget):
    """A button for each class that the tuning knows or that is drawn, with the number of its key."""

    chosen = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self.buttons: dict[str, QPushButton] = {}
        self._grid = QGridLayout(self)
        self._grid.setContentsMargins(0, 0, 0, 0)
        self._grid.setSpacing(3)

    def show_round(self, suggested: Round) -> None:
        """The classes for these places, in the colours of the palette."""
        document = suggested.drawing.document
        palette, counts, known = document.palette, document.counts, suggested.place.probabilities
        names = [name for name in palette.names if name in known or name in counts]
        names += [name for name in known if name not in palette]
        if list(self.buttons) != names:
            for control in self.buttons.values():
                self._grid.removeWidget(control)
                control.hide()
                control.deleteLater()
            self.buttons = {name: self._button(name, list(palette.names)) for name in names}
            for place, control in enumerate(self.buttons.values()):
                self._grid.addWidget(control, place // 2, place % 2)
        for name, control in self.buttons.items():
            control.setIcon(swatch(palette.color_of(name) or (128, 128, 128)))

    def _button(self, name: str, order: list[str]) -> QPushButton:
        number = order.index(name) + 1 if name in order else 0
        key = f"{number}  " if 1 <= number <= 9 else ""
        made = button(f"{key}{short(name, 16)}", f"This place is {name}.", f"It is {name}")
        made.clicked.connect(lambda _=False: self.chosen.emit(name))
        return made


def short(name: str, letters: int = 9) -> str:
    """A name that fits under a picture."""
    return name if len(name) <= letters else name[: letters - 1] + "…"
