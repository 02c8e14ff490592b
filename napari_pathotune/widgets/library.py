"""The library: every tuning at hand, by backbone, to look through, use, rename, read about and put away."""

from __future__ import annotations

import logging
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QFile, QSize, Qt, QTimer, QUrl, Signal
from qtpy.QtGui import QColor, QDesktopServices, QIcon, QPainter, QPixmap
from qtpy.QtWidgets import (
    QAbstractItemView,
    QFileDialog,
    QGridLayout,
    QHeaderView,
    QLineEdit,
    QTreeWidget,
    QTreeWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_pathotune import compat
from napari_pathotune.reader import results_folder
from napari_pathotune.widgets.card_window import CardWindow
from napari_pathotune.widgets.parts import Card, Question, button, classes_html, named, text_label

if TYPE_CHECKING:
    from pathotune.methods.library import Listed

log = logging.getLogger("pathotune")
SUFFIX = ".safetensors"
MOST_SWATCHES = 6
SWATCH_PX = 7
ICON_PX = 11
HEIGHT_PX = 230
DELETE, LEAVE = "delete", "leave"
ANSWERS = (
    ("Delete", "Move it to the trash, with its card and what is needed to continue it.", DELETE),
    ("Leave it", "Delete nothing.", LEAVE),
)
ROLE = Qt.ItemDataRole.UserRole


class LibraryPanel(QWidget):
    """A tree of tunings under their backbones, a search box, and what can be done with the chosen one.

    Files are read by a thread, and of each its header only. Nothing that stands in a file is followed.
    """

    used = Signal(object)  # the Path of a tuning
    moved = Signal(object, object)  # from, to (None: deleted)

    def __init__(self) -> None:
        super().__init__()
        from pathotune.methods.library import Library

        self.current: Path | None = None
        self.listed: list[Listed] = []
        self._library = Library()
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="pathotune-library")
        self._reading: Future[list[Listed]] | None = None
        self._is_stale = False
        self._select: Path | None = None
        self._timer = QTimer(self)
        self._timer.setInterval(50)
        self._timer.timeout.connect(self._on_time)
        self.search = QLineEdit()
        self.search.setPlaceholderText("Search name, class, backbone, date…")
        self.search.setClearButtonEnabled(True)
        named(self.search, "Search tunings", "Only tunings with all of these words in name, class, backbone or date.")
        for inner in self.search.findChildren(QWidget):
            named(inner, "Clear the search", "Show all tunings again.")
        self.tree = DropTree()
        self.about = Card("About the chosen tuning")
        self.said = text_label()
        self.question = Question("Delete a tuning", ANSWERS)
        self.window_of_card: CardWindow | None = None
        self._make_buttons()
        self._lay_out()
        self._connect()
        self._on_chosen()

    # -- making

    def _make_buttons(self) -> None:
        self.use = button("Use", "Predict with this tuning from now on.", "Use this tuning")
        self.rename = button("Rename…", "Give it another name; results made under the old one keep that.")
        self.card = button("Show card", "What it is, what it learned from, how it was judged.")
        self.delete = button("Delete…", "Move it to the trash; it asks first.")
        self.add_folder = button("Add folder…", "List the tunings of another folder too.")
        self.open_folder = button("Open folder", "Show the tuning's folder in the file manager.")

    def _lay_out(self) -> None:
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(3)
        rows = QGridLayout()
        rows.setSpacing(3)
        controls = (self.use, self.rename, self.card, self.delete, self.add_folder, self.open_folder)
        for number, control in enumerate(controls):
            rows.addWidget(control, number // 3, number % 3)
        for widget in (self.search, self.tree, self.said, self.about):
            layout.addWidget(widget)
        layout.addLayout(rows)
        layout.addWidget(self.question)

    def _connect(self) -> None:
        self.search.textChanged.connect(lambda _: self._fill())
        self.tree.itemSelectionChanged.connect(self._on_chosen)
        self.tree.itemActivated.connect(lambda *_: self._on_use_clicked())
        self.tree.itemChanged.connect(self._on_item_changed)
        self.tree.dropped.connect(self.take_in)
        self.use.clicked.connect(self._on_use_clicked)
        self.rename.clicked.connect(self._on_rename_clicked)
        self.card.clicked.connect(self.show_card)
        self.delete.clicked.connect(self._on_delete_clicked)
        self.question.answered.connect(self._on_question_answered)
        self.add_folder.clicked.connect(self._on_add_folder_clicked)
        self.open_folder.clicked.connect(self._on_open_folder_clicked)

    # -- what is listed

    def folders(self) -> list[Path]:
        """The results folder, and those the person added."""
        return list(dict.fromkeys([results_folder(), *added_folders()]))

    def refresh(self, select: Path | None = None) -> None:
        """Have the folders read again; the tree changes when that is done."""
        self._select = select or self._select
        if self._reading is not None:
            self._is_stale = True  # what is being read may be from before the change
            return
        self._is_stale = False
        self._reading = self._pool.submit(self._library.list, self.folders())
        self._timer.start()

    @property
    def is_reading(self) -> bool:
        """Whether the folders are being read."""
        return self._reading is not None

    def _on_time(self) -> None:
        if self._reading is None or not self._reading.done():
            return
        found, self._reading = self._reading, None
        self._timer.stop()
        self.listed = found.result()
        if self._is_stale:
            self.refresh()
        else:
            self._fill()

    def _fill(self) -> None:
        """The tree anew, with what matches the search."""
        chosen = self._select or self.chosen_path
        self._select = None
        shown = [one for one in self.listed if one.matches(self.search.text())]
        self.tree.blockSignals(True)
        self.tree.clear()
        groups: dict[str, list[Listed]] = {}
        for one in shown:
            groups.setdefault(one.backbone, []).append(one)
        for backbone, members in groups.items():
            head = QTreeWidgetItem([f"{title_of(backbone)} ({len(members)})"])
            head.setFlags(Qt.ItemFlag.ItemIsEnabled)
            self.tree.addTopLevelItem(head)
            head.setFirstColumnSpanned(True)
            head.setExpanded(True)
            for one in members:
                item = item_of(one, one.path == self.current)
                head.addChild(item)
                if one.path == chosen:
                    self.tree.setCurrentItem(item)
        self.tree.blockSignals(False)
        none = "No tuning has these words." if self.listed else "No tunings yet: make one under Tune, or drop a file."
        self.said.setText("" if shown else none)
        self.said.setVisible(not shown)
        self._on_chosen()

    # -- the chosen one

    @property
    def chosen(self) -> Listed | None:
        """The tuning that is selected in the tree."""
        for item in self.tree.selectedItems():
            one: Listed | None = item.data(0, ROLE)
            if one is not None:
                return one
        return None

    @property
    def chosen_path(self) -> Path | None:
        """Its file."""
        return None if self.chosen is None else self.chosen.path

    def choose(self, path: Path) -> None:
        """Select a tuning that is listed."""
        for item in self.tree.items():
            if item.data(0, ROLE).path == path:
                self.tree.setCurrentItem(item)

    def _on_chosen(self) -> None:
        one = self.chosen
        self.question.setVisible(False)
        self.about.show_lines(lines_of(one) if one is not None else [])
        readable = one is not None and not one.problem
        for control in (self.use, self.rename, self.card):
            control.setEnabled(readable)
        self.delete.setEnabled(one is not None)

    def set_current(self, path: Path | None) -> None:
        """Say which tuning is in use."""
        self.current = path
        for item in self.tree.items():
            mark_current(item, item.data(0, ROLE).path == path)

    def _on_use_clicked(self) -> None:
        if self.chosen is not None and not self.chosen.problem:
            self.used.emit(self.chosen.path)

    def show_card(self) -> None:
        """Show the chosen one's card in a window of its own."""
        from pathotune.errors import PathotuneError

        if self.chosen is None:
            return
        try:
            self.window_of_card = CardWindow.of(self.chosen.path, self.window())
        except PathotuneError as error:
            compat.show_error(str(error))
            return
        self.window_of_card.show()

    def illustrate(self, path: Path, slide_path: str, store_path: str) -> None:
        """Have a thread put the picture of a prediction on a tuning's card where it has none yet."""
        self._pool.submit(_illustrated, path, slide_path, store_path)

    # -- files

    def _on_rename_clicked(self) -> None:
        items = self.tree.selectedItems()
        if items and self.chosen is not None:
            items[0].setFlags(items[0].flags() | Qt.ItemFlag.ItemIsEditable)
            self.tree.editItem(items[0], 0)

    def _on_item_changed(self, item: QTreeWidgetItem, column: int) -> None:
        one: Listed | None = item.data(0, ROLE)
        if one is not None and column == 0 and item.text(0) != one.name:
            self.rename_to(one.path, item.text(0))

    def rename_to(self, path: Path, name: str) -> None:
        """Give a tuning another name; where that cannot be, it is said and the old one stays."""
        from pathotune.errors import PathotuneError
        from pathotune.methods.library import rename

        try:
            target = rename(path, name)
        except PathotuneError as error:
            compat.show_error(str(error))
            self._fill()
            return
        self.moved.emit(path, target)
        self.refresh(target)

    def _on_delete_clicked(self) -> None:
        if self.chosen is not None:
            self.question.ask(f"Delete the tuning <b>{escape(self.chosen.name)}</b>? It goes to the trash.")

    def _on_question_answered(self, answer: str) -> None:
        if answer == DELETE and self.chosen is not None:
            self.put_away(self.chosen.path)

    def put_away(self, path: Path) -> None:
        """Move a tuning and what belongs to it to the system's trash, or where there is none into a subfolder."""
        from pathotune.errors import PathotuneError
        from pathotune.methods.library import ASIDE, belongings, put_aside

        name = path.name.removesuffix(SUFFIX).removesuffix(".pathotune")
        if all(trashed(one) for one in belongings(path)):
            compat.show_info(f"{name} is in the trash.")
        else:
            try:
                put_aside(path)
            except PathotuneError as error:
                compat.show_error(str(error))
                return
            compat.show_info(f"{name} is in the folder {ASIDE} beside the others: no trash took it.")
        self.moved.emit(path, None)
        self.refresh()

    def take_in(self, paths: list[Path]) -> None:
        """Copy dropped tuning files into the results folder; what is none is said."""
        from pathotune.errors import PathotuneError
        from pathotune.methods.library import take_in

        for path in paths:
            try:
                self._select = take_in(path, results_folder())
            except PathotuneError as error:
                compat.show_error(str(error))
        self.refresh()

    def _on_add_folder_clicked(self) -> None:
        chosen = QFileDialog.getExistingDirectory(self, "List the tunings of a folder", str(results_folder()))
        if chosen:
            self.list_too(Path(chosen))

    def list_too(self, folder: Path) -> None:
        """List this folder's tunings from now on."""
        remember_folders([*added_folders(), folder])
        self.refresh()

    def _on_open_folder_clicked(self) -> None:
        folder = self.chosen.path.parent if self.chosen is not None else results_folder()
        folder.mkdir(parents=True, exist_ok=True)
        QDesktopServices.openUrl(QUrl.fromLocalFile(str(folder)))


class DropTree(QTreeWidget):
    """The tree; tuning files can be dropped on it."""

    dropped = Signal(list)

    def __init__(self) -> None:
        super().__init__()
        named(self, "Tunings", "By backbone, newest first. Enter or a double click uses one; drop a file to add it.")
        self.setColumnCount(3)
        self.setHeaderLabels(["Tuning", "Right", "Made"])
        self.headerItem().setToolTip(1, "Balanced accuracy on held-out regions.")
        self.header().setStretchLastSection(False)
        self.header().setMinimumSectionSize(30)
        self.header().setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
        for column in (1, 2):
            self.header().setSectionResizeMode(column, QHeaderView.ResizeMode.ResizeToContents)
        self.setIndentation(10)
        self.setIconSize(QSize(MOST_SWATCHES * SWATCH_PX, ICON_PX))
        self.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setFixedHeight(HEIGHT_PX)
        self.setAcceptDrops(True)

    def items(self) -> list[QTreeWidgetItem]:
        """The items of tunings."""
        heads = [self.topLevelItem(row) for row in range(self.topLevelItemCount())]
        return [head.child(row) for head in heads for row in range(head.childCount())]

    def dragEnterEvent(self, event: Any) -> None:
        """Qt: tuning files are taken."""
        if paths_of(event):
            event.acceptProposedAction()

    def dragMoveEvent(self, event: Any) -> None:
        """Qt: as `dragEnterEvent`."""
        self.dragEnterEvent(event)

    def dropEvent(self, event: Any) -> None:
        """Qt: they are dropped."""
        paths = paths_of(event)
        if paths:
            event.acceptProposedAction()
            self.dropped.emit(paths)


def paths_of(event: Any) -> list[Path]:
    """The safetensors files that are dragged."""
    urls = event.mimeData().urls() if event.mimeData().hasUrls() else []
    return [Path(url.toLocalFile()) for url in urls if url.isLocalFile() and url.toLocalFile().endswith(SUFFIX)]


def item_of(one: Listed, is_current: bool) -> QTreeWidgetItem:
    """The row of a tuning: classes as colours and name, balanced accuracy, date."""
    accuracy = "" if one.balanced_accuracy is None else f"{one.balanced_accuracy:.2f}"
    item = QTreeWidgetItem([one.name, accuracy, day_of(one.created)])
    item.setToolTip(2, one.created.replace("T", " ")[:16])
    item.setData(0, ROLE, one)
    names = ", ".join(name for name, _ in one.classes)
    item.setToolTip(0, one.problem or f"{one.name}\n{names}\n{one.path.parent}")
    if one.problem:
        item.setText(1, "?")
        item.setToolTip(1, "It cannot be read.")
        item.setForeground(0, QColor(150, 150, 150))
    else:
        item.setIcon(0, colors_icon([color for _, color in one.classes]))
    mark_current(item, is_current)
    return item


def day_of(created: str) -> str:
    """A day in few letters: 21 Nov this year, Nov 2024 before."""
    try:
        day = datetime.fromisoformat(created)
    except ValueError:
        return ""
    return f"{day:%d %b}" if day.year == datetime.now(day.tzinfo).year else f"{day:%b %Y}"


def mark_current(item: QTreeWidgetItem, is_current: bool) -> None:
    """The one in use is bold."""
    font = item.font(0)
    if font.bold() != is_current:
        font.setBold(is_current)
        item.setFont(0, font)


def colors_icon(colors: list[tuple[int, int, int]]) -> QIcon:
    """The classes' colours side by side."""
    pixmap = QPixmap(MOST_SWATCHES * SWATCH_PX, ICON_PX)
    pixmap.fill(QColor(0, 0, 0, 0))
    painter = QPainter(pixmap)
    for number, color in enumerate(colors[:MOST_SWATCHES]):
        painter.fillRect(number * SWATCH_PX, 0, SWATCH_PX - 1, ICON_PX, QColor(*color))
    painter.end()
    return QIcon(pixmap)


def lines_of(one: Listed) -> list[str]:
    """What the list knows of a tuning, as rich text."""
    if one.problem:
        return [escape(one.problem)]
    slides = f"{one.slides} slide{'' if one.slides == 1 else 's'}" if one.slides else "a table of tiles"
    score = "not judged" if one.balanced_accuracy is None else f"balanced accuracy {one.balanced_accuracy:.2f}"
    return [
        classes_html(one.classes),
        f"from {slides}, {score} on held-out regions" + (" (cancelled: its best epoch)" if one.was_cancelled else ""),
        f"<small>{escape(str(one.path.parent))}</small>",
    ]


def title_of(backbone: str) -> str:
    """A backbone's title; its name where this version does not know it."""
    from pathotune.backbones import backbone_card
    from pathotune.errors import PathotuneError

    if not backbone:
        return "Not readable"
    try:
        return backbone_card(backbone).title
    except PathotuneError:
        return f"{backbone}: not known here"


def _illustrated(path: Path, slide_path: str, store_path: str) -> None:
    """Thread: a picture that cannot be made costs only that."""
    from napari_pathotune.card_overlay import add_overlay
    from pathotune.errors import PathotuneError

    try:
        add_overlay(path, slide_path, store_path)
    except (PathotuneError, OSError) as error:
        log.warning("the card of %s has no picture of a prediction: %s", path.name, error)


def trashed(path: Path) -> bool:
    """Move a file or folder to the system's trash; False where there is none for it."""
    moved = QFile.moveToTrash(str(path))  # PyQt5 gives a pair, PyQt6 and PySide6 a bool or a pair
    return bool(moved[0] if isinstance(moved, tuple) else moved)


def _folders_file() -> Path:
    from pathotune.settings import settings

    return settings().cache_dir / "library.json"


def added_folders() -> list[Path]:
    """The folders the person added."""
    from pathotune.settings import read_json

    found = read_json(_folders_file()).get("folders", [])
    return [Path(one) for one in found if isinstance(one, str)] if isinstance(found, list) else []


def remember_folders(folders: list[Path]) -> None:
    """List these folders from now on; a disk that will not is said."""
    from pathotune.settings import write_json

    try:
        write_json(_folders_file(), {"folders": list(dict.fromkeys(str(folder) for folder in folders))})
    except OSError as error:
        compat.show_warning(f"The folder is not remembered ({error.strerror or error}).")
