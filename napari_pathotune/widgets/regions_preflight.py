"""What each region would give a training, counted in the background while the person draws."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qtpy.QtCore import QObject, Qt, QTimer, Signal
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QTreeWidget, QTreeWidgetItem

from napari_pathotune.widgets.parts import named, swatch

if TYPE_CHECKING:
    from pathotune.regions import Regions
    from pathotune.tiles import Reading
    from pathotune.training.preflight import Preflight, RegionUse, SlideFacts
    from pathotune.training.schedule import TrainingConfig

WAIT_MS = 400
MOST_ROWS = 2000


@dataclass(frozen=True)
class Question:
    """What is to be counted: slides with their regions, how tiles are read, and how they are held out."""

    slides: list[tuple[Regions, SlideFacts]]
    reading: Reading | None
    training: TrainingConfig | None


class PreflightCounter(QObject):
    """Counts tiles in a thread, a moment after the last change; an answer that was overtaken is dropped."""

    counted = Signal(object)

    def __init__(self, ask: Callable[[], Question], parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._ask = ask
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="pathotune-preflight")
        self._running: Future[Preflight] | None = None
        self._is_due = False
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.timeout.connect(self._on_time)
        self._poll = QTimer(self)
        self._poll.setInterval(50)
        self._poll.timeout.connect(self._on_poll)

    def start(self) -> None:
        """Count again soon."""
        self._is_due = True
        self._timer.start(WAIT_MS)

    def now(self) -> Preflight:
        """Count at once, in this thread."""
        result = _count(self._ask())
        self._is_due = False
        self.counted.emit(result)
        return result

    @property
    def is_busy(self) -> bool:
        """An answer is on its way."""
        return self._is_due or self._running is not None

    def close(self) -> None:
        """Let the thread end."""
        self._timer.stop()
        self._poll.stop()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _on_time(self) -> None:
        if self._running is not None:
            return  # asked again when it is done
        question = self._ask()
        self._is_due = False
        self._running = self._pool.submit(_count, question)
        self._poll.start()

    def _on_poll(self) -> None:
        if self._running is None or not self._running.done():
            return
        self._poll.stop()
        result, self._running = self._running.result(), None
        if self._is_due:
            self._timer.start(WAIT_MS)
        self.counted.emit(result)


def _count(question: Question) -> Preflight:
    from pathotune.errors import PathotuneError
    from pathotune.training.preflight import Preflight, preflight

    if question.reading is None or not question.slides:
        return Preflight(())
    try:
        return preflight(question.slides, question.reading, question.training)
    except PathotuneError as error:
        return Preflight((), problem=str(error))


def tiles_per_class(table: Preflight) -> dict[str, int]:
    """Usable tiles of each class, also where they cannot be split yet."""
    if table.training or table.validation:
        names = {**table.training, **table.validation}
        return {name: table.training.get(name, 0) + table.validation.get(name, 0) for name in names}
    counts: dict[str, int] = {}
    for row in table.regions:
        if row.class_name is not None and row.tiles:
            counts[row.class_name] = counts.get(row.class_name, 0) + row.tiles
    return counts


def used_for(row: RegionUse) -> str:
    """In one word or two, what a region is for."""
    if row.training and row.validation:
        return "both"
    return "training" if row.training else "held out" if row.validation else "" if row.tiles else "not used"


class PreflightTable(QTreeWidget):
    """Each region: its class, tiles, training or validation, or why not; a click goes there."""

    region_chosen = Signal(int, int)

    def __init__(self) -> None:
        super().__init__()
        named(
            self,
            "What each region gives",
            "Tiles of each region, and which are held out to judge by. Click to go there.",
        )
        self.setColumnCount(3)
        self.setHeaderLabels(("Region", "Tiles", "Used for"))
        self.setRootIsDecorated(False)
        self.setUniformRowHeights(True)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setMinimumHeight(140)
        self.setMaximumHeight(240)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.header().setStretchLastSection(True)
        for column in range(2):
            self.header().setSectionResizeMode(column, QHeaderView.ResizeMode.ResizeToContents)
        self._rows: list[RegionUse] = []
        self.itemClicked.connect(self._on_clicked)
        self.itemActivated.connect(self._on_clicked)

    def show_rows(self, rows: tuple[RegionUse, ...], colors: dict[str, tuple[int, int, int]], many: bool) -> None:
        """Show these rows, those that give nothing first.

        Parameters
        ----------
        colors : of the classes.
        many : several slides are listed, so that each row names its own.
        """
        self._rows = sorted(rows, key=lambda row: (row.tiles > 0, row.slide, row.region))[:MOST_ROWS]
        self.clear()
        items = []
        for row in self._rows:
            name = row.name or f"{row.class_name or 'no class'} {row.region + 1}"
            where = f" · slide {row.slide + 1}" if many else ""
            item = QTreeWidgetItem([name + where, str(row.tiles), used_for(row) if row.tiles else row.reason])
            if row.class_name in colors:
                item.setIcon(0, swatch(colors[row.class_name]))
            item.setTextAlignment(1, int(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter))
            for column in range(3):
                item.setToolTip(column, row.reason or f"{row.training} to train, {row.validation} to judge by")
            items.append(item)
        self.addTopLevelItems(items)

    def _on_clicked(self, item: QTreeWidgetItem, _: int = 0) -> None:
        number = self.indexOfTopLevelItem(item)
        if 0 <= number < len(self._rows):
            self.region_chosen.emit(self._rows[number].slide, self._rows[number].region)
