"""The suggested places as pictures, and a button for each class a place can be given."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QGridLayout, QPushButton, QWidget

from napari_pathotune.corrections import Round
from napari_pathotune.widgets.parts import button, named, short, swatch
from napari_pathotune.widgets.pictures import PictureList

TILE_PX = 72


class PlaceList(PictureList):
    """Pictures of the places, each with what was predicted or decided."""

    def __init__(self) -> None:
        super().__init__(TILE_PX)
        named(self, "Suggested places", "Each place with what the tuning says. Click one to go there.")

    def show_round(self, suggested: Round | None) -> None:
        """Fill it with these places, or empty it."""
        self.empty()
        if suggested is None:
            return
        for place in suggested.places:
            self.add_tile("", suggested.slide_path, place.box_px0)

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
