"""The panel to draw with: tools, the class palette with live counts, undo, files, and what a crash left."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QTimer
from qtpy.QtGui import QKeySequence
from qtpy.QtWidgets import (
    QColorDialog,
    QFileDialog,
    QFrame,
    QHBoxLayout,
    QInputDialog,
    QMenu,
    QShortcut,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from napari_pathotune import compat
from napari_pathotune.drawing_board import DrawingBoard
from napari_pathotune.session import Session
from napari_pathotune.slide_drawing import SlideDrawing
from napari_pathotune.widgets.parts import button, named, text_label, thousands
from napari_pathotune.widgets.regions_import import ask_mapping
from napari_pathotune.widgets.regions_notes import ask_description
from napari_pathotune.widgets.regions_palette import ClassTable, Row
from napari_pathotune.widgets.regions_tools import ToolRow

if TYPE_CHECKING:
    from pathotune.regions.journal import Unsaved
    from pathotune.regions.palette import Palette

COUNT_MS = 60
DRAFT_MS = 500
FILES = "Regions (*.geojson *.json *.xml);;All files (*)"


class RegionsPanel(QWidget):
    """Tools, classes and files of the active slide's regions.

    Parameters
    ----------
    board : what is drawn.
    """

    def __init__(self, session: Session, board: DrawingBoard) -> None:
        super().__init__()
        self.session, self.board = session, board
        self.tiles: dict[str, int] | None = None
        self.ask_mapping: Callable[[list[str], Palette], dict[str, str] | None] = lambda names, palette: ask_mapping(
            names, palette, self
        )
        self.ask_description: Callable[[str, str], tuple[str, str] | None] = lambda name, notes: ask_description(
            name, notes, self
        )
        self.tools = ToolRow()
        self.table = ClassTable()
        self.add_class = button("Add class…", "Add a class to draw; it gets a colour of its own.", "Add a class")
        self.more = QToolButton()
        self.undo, self.redo = QToolButton(), QToolButton()
        self.load = button("Load…", "Open regions of QuPath (GeoJSON), ASAP or ImageScope (XML).", "Load regions")
        self.save = button("Save as…", "Write all regions of this slide as GeoJSON for QuPath.", "Save regions")
        self.status = text_label()
        self.others = text_label()
        self.take_others = button("Take in", "Make the regions of these layers regions here, with undo.")
        self.crash = CrashBar()
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(COUNT_MS)
        self._timer.timeout.connect(self.refresh)
        self._draft_timer = QTimer(self)
        self._draft_timer.timeout.connect(board.keep_drafts)
        self._draft_timer.start(DRAFT_MS)
        self._left: list[tuple[SlideDrawing, Unsaved]] = []
        self._lay_out()
        self._connect()
        self.refresh()

    # -- making

    def _lay_out(self) -> None:
        for made, name, tip in (
            (
                self.more,
                "More",
                "Rename, recolour, merge, delete, order of classes; name, notes, lock, holes of regions.",
            ),
            (self.undo, "Undo", "Take the last step back (Ctrl+Z)."),
            (self.redo, "Redo", "Do it again (Ctrl+Shift+Z)."),
        ):
            made.setText(name)
            named(made, name, tip)
        self.more.setStyleSheet("QToolButton { padding-right: 12px; }")  # the arrow has a place of its own
        self.more.setPopupMode(QToolButton.ToolButtonPopupMode.InstantPopup)
        self.more.setMenu(QMenu(self.more))
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        layout.addWidget(self.crash)
        layout.addWidget(self.tools)
        layout.addWidget(self.table)
        layout.addLayout(_row(self.add_class, self.more, self.undo, self.redo))
        layout.addLayout(_row(self.load, self.save))
        layout.addWidget(self.others)
        layout.addWidget(self.take_others)
        layout.addWidget(self.status)

    def _connect(self) -> None:
        self.tools.tool_chosen.connect(self._on_tool_chosen)
        self.tools.brush_changed.connect(self._on_brush_changed)
        self.table.class_chosen.connect(self._on_class_chosen)
        self.table.class_renamed.connect(self._on_class_renamed)
        self.table.menu_asked.connect(lambda place: self._menu().exec_(place))
        self.more.menu().aboutToShow.connect(self._fill_menu)
        self.add_class.clicked.connect(self._on_add_class_clicked)
        self.undo.clicked.connect(self.board.undo)
        self.redo.clicked.connect(self.board.redo)
        self.load.clicked.connect(self._on_load_clicked)
        self.save.clicked.connect(self._on_save_clicked)
        self.take_others.clicked.connect(self._on_take_others_clicked)
        self.crash.yes.clicked.connect(lambda: self._on_crash_answered(True))
        self.crash.no.clicked.connect(lambda: self._on_crash_answered(False))
        for keys, act in (("Ctrl+Z", self.board.undo), ("Ctrl+Shift+Z", self.board.redo), ("Ctrl+Y", self.board.redo)):
            shortcut = QShortcut(QKeySequence(keys), self)
            shortcut.setContext(_widget_context())
            shortcut.activated.connect(act)
        for signal in (
            self.board.changed,
            self.board.class_changed,
            self.session.active_changed,
            self.session.slides_changed,
            self.session.drawings_changed,
        ):
            signal.connect(self._refresh_soon)
        self.board.tool_changed.connect(self._show_tool)
        self.board.noted.connect(_notify)
        self.board.crash_found.connect(self._on_crash_found)
        self.board.run_later_by(_soon)

    # -- state

    @property
    def drawing(self) -> SlideDrawing | None:
        """The active slide's drawings."""
        return self.board.active

    def _refresh_soon(self) -> None:
        self._timer.start()

    def refresh(self) -> None:
        """Show classes, counts and what can be done, as they are now."""
        drawing = self.drawing
        for control in (self.tools, self.add_class, self.more, self.load, self.save, self.table):
            control.setEnabled(drawing is not None)
        self.undo.setEnabled(drawing is not None and bool(drawing.document.undo_label))
        self.redo.setEnabled(drawing is not None and bool(drawing.document.redo_label))
        if drawing is None:
            self.table.show_rows([], "")
            self.status.setText("Open a slide first.")
            self.others.setVisible(False)
            self.take_others.setVisible(False)
            return
        document = drawing.document
        for control, name, label in (
            (self.undo, "Undo", document.undo_label),
            (self.redo, "Redo", document.redo_label),
        ):
            keys = "Ctrl+Z" if control is self.undo else "Ctrl+Shift+Z"
            control.setToolTip(f"{name}: {label} ({keys})" if label else f"Nothing to {name.lower()}.")
        self.table.show_rows(self._rows(drawing), drawing.active_class)
        self._say_status(drawing)
        self._say_others(drawing)
        self._show_tool()

    def _rows(self, drawing: SlideDrawing) -> list[Row]:
        document, mpp = drawing.document, drawing.slide.mpp
        counts = document.counts
        rows = []
        for one in document.palette:
            count = counts.get(one.name)
            regions, area = (count.regions, count.area_px0) if count else (0, 0.0)
            mm2 = area * mpp.x * mpp.y / 1e6 if mpp else None
            tiles = None if self.tiles is None else self.tiles.get(one.name, 0)
            rows.append(Row(one.name, one.color, regions, mm2, tiles))
        without = counts.get(None)
        if without:
            mm2 = without.area_px0 * mpp.x * mpp.y / 1e6 if mpp else None
            rows.append(Row("", None, without.regions, mm2, None))
        return rows

    def _say_status(self, drawing: SlideDrawing) -> None:
        count = len(drawing.document)
        if not count:
            self.status.setText("Choose a class and a tool, then outline some tissue of it. What you draw is kept.")
            return
        what = f"{thousands(count)} {'region' if count == 1 else 'regions'}"
        problem = drawing.keeper.journal.problem if drawing.keeper.journal is not None else ""
        self.status.setText(problem or f"{what}, kept on disk as you draw.")
        where = drawing.keeper.journal.path.parent if drawing.keeper.journal is not None else drawing.keeper.folder
        self.status.setToolTip(f"In {where}; written as {drawing.keeper.saved_path.name} when the slide is closed.")

    def _say_others(self, drawing: SlideDrawing) -> None:
        others = self.board.other_layers(drawing.slide_layer)
        names = ", ".join(f"{layer.name} ({len(layer.data)})" for layer in others[:4])
        more = f" and {len(others) - 4} more" if len(others) > 4 else ""
        self.others.setText(f"Also used: the layers {names}{more}, which were made outside this palette.")
        self.others.setVisible(bool(others))
        self.take_others.setVisible(bool(others))

    def _show_tool(self, tool: str = "") -> None:
        drawing = self.drawing
        if drawing is not None:
            unit = "µm" if drawing.slide.mpp else "px"
            self.tools.show_tool(drawing.tool, drawing.brush_px, f"{drawing.brush_um:,.0f} {unit}")

    def show_tiles(self, tiles: dict[str, int] | None) -> None:
        """Show how many tiles each class can give; None while it is not known."""
        if tiles != self.tiles:
            self.tiles = tiles
            self._timer.start()

    # -- tools and classes

    def _on_tool_chosen(self, tool: str) -> None:
        if self.drawing is not None:
            self.drawing.choose_tool(tool)
            self._focus_canvas()

    def _focus_canvas(self) -> None:
        """Keys go to the canvas now, where they choose classes and tools."""
        try:
            self.session.viewer.window._qt_viewer.canvas.native.setFocus()
        except AttributeError:  # a viewer model without a window
            return

    def _on_brush_changed(self, pixels: int) -> None:
        if self.drawing is not None:
            self.drawing.set_brush(pixels)

    def _on_class_chosen(self, name: str, assign: bool) -> None:
        drawing = self.drawing
        if drawing is not None and (name != drawing.active_class or (assign and drawing.selected_keys)):
            drawing.choose_class(name, assign)

    def _on_class_renamed(self, old: str, new: str) -> None:
        drawing = self.drawing
        if drawing is not None and not self.board.trying(lambda: drawing.document.rename_class(old, new)):
            self.refresh()

    def _on_add_class_clicked(self) -> None:
        name, accepted = QInputDialog.getText(self, "Add a class", "Name of the class, for example Tumor:")
        if accepted and name.strip():
            self.new_class(name)

    def new_class(self, name: str, color: tuple[int, int, int] | None = None) -> None:
        """Add a class and draw with it from now on."""
        drawing = self.drawing
        if drawing is not None and self.board.trying(lambda: drawing.document.add_class(name, color)):
            drawing.choose_class(drawing.document.palette.names[-1], assign=False)

    def describe(self, drawing: SlideDrawing, key: str) -> None:
        """Ask for a region's name and notes.

        Raises
        ------
        UsageError : it is locked.
        """
        region = drawing.document[key]
        said = self.ask_description(region.name, region.notes)
        if said is not None and key in drawing.document:
            drawing.document.describe(key, *said)

    def _menu(self) -> QMenu:
        self._fill_menu()
        return self.more.menu()

    def _fill_menu(self) -> None:
        menu, drawing = self.more.menu(), self.drawing
        menu.clear()
        if drawing is None:
            return
        fill_class_menu(menu, self, drawing)

    # -- files

    def _on_load_clicked(self) -> None:
        chosen, _ = QFileDialog.getOpenFileName(self, "Load regions", "", FILES)
        if chosen:
            self.open_regions(Path(chosen))

    def open_regions(self, path: Path) -> int:
        """Take in the regions of a file, asking for the meaning of class names the palette does not have.

        Returns
        -------
        How many regions came in; regions that were there already come once.
        """
        from napari_pathotune.drawings import many_outlines_text
        from pathotune.errors import PathotuneError
        from pathotune.regions import read_regions

        drawing = self.drawing
        if drawing is None:
            return 0
        try:
            regions = read_regions(path, drawing.slide)
        except PathotuneError as error:
            compat.show_error(str(error))
            return 0
        for sentence in regions.warnings:
            compat.show_warning(sentence)
        document = drawing.document
        foreign = [name for name in regions.counts if name is not None and name not in document.palette]
        mapping: dict[str, str] | None = {}
        if foreign and document.is_begun:
            mapping = self.ask_mapping(foreign, document.palette)
        if mapping is None:
            return 0
        new = document.unknown(regions.map_classes(mapping))
        question = many_outlines_text(new, path.name)
        if question and not compat.agrees("Many outlines", question):
            return 0
        known = len(regions) - len(new)
        if known:
            compat.show_info(f"{known} of {len(regions)} regions of {path.name} were here already.")
        return len(document.import_regions(regions.with_regions(new)))

    def _on_save_clicked(self) -> None:
        drawing = self.drawing
        if drawing is None:
            return
        start = drawing.keeper.folder / f"{drawing.slide.path.stem}.geojson"
        chosen, _ = QFileDialog.getSaveFileName(self, "Save regions", str(start), "GeoJSON (*.geojson)")
        if chosen:
            self.save_regions(Path(chosen))

    def save_regions(self, path: Path) -> None:
        """Write everything drawn on the active slide as GeoJSON for QuPath."""
        from pathotune.regions import write_regions

        drawing = self.drawing
        if drawing is None:
            return
        path = path if path.suffix else path.with_suffix(".geojson")
        regions = self.board.regions_of(drawing.slide_layer)
        if self.board.trying(lambda: write_regions(regions, path, drawing.slide)):
            compat.show_info(f"{len(regions)} regions were written to {path.name}.")

    def _on_take_others_clicked(self) -> None:
        if self.drawing is not None:
            self.board.adopt(self.board.other_layers(self.drawing.slide_layer))

    # -- crashes

    def _on_crash_found(self, drawing: SlideDrawing, unsaved: Unsaved) -> None:
        self._left.append((drawing, unsaved))
        self._ask_next()
        compat.show_info(f"Regions of {drawing.slide.name} were not saved the last time: see the Tune tab.")

    def _ask_next(self) -> None:
        self.crash.setVisible(bool(self._left))
        if self._left:
            drawing, unsaved = self._left[0]
            count = unsaved.state.count
            half = ", the last of them as far as it was drawn" if unsaved.state.draft is not None else ""
            when = time.strftime("%d %b %H:%M", time.localtime(unsaved.time))
            self.crash.text.setText(
                f"<b>{drawing.slide.name}</b> was not closed properly on {when}, with "
                f"{thousands(count)} {'region' if count == 1 else 'regions'} drawn{half}. "
                f"Restore {'it' if count == 1 else 'them'}?"
            )

    def _on_crash_answered(self, restore: bool) -> None:
        if self._left:
            drawing, unsaved = self._left.pop(0)
            self.board.trying(lambda: self.board.answer(drawing, unsaved, restore))
        self._ask_next()
        self.refresh()


class CrashBar(QFrame):
    """A question that does not stand in the way: restore what a crash left, or not."""

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("pathotune_crash")
        self.setStyleSheet("#pathotune_crash { border: 2px solid #d55e00; border-radius: 3px; }")
        self.text = text_label()
        self.yes = button("Restore", "Take the regions as they were; it can be undone.")
        self.no = button("Do not restore", "Leave them. The file is kept, and not asked about again.")
        layout = QVBoxLayout(self)
        layout.setContentsMargins(6, 4, 6, 4)
        layout.addWidget(self.text)
        layout.addLayout(_row(self.yes, self.no))
        self.setVisible(False)


def fill_class_menu(menu: QMenu, panel: RegionsPanel, drawing: SlideDrawing) -> None:
    """What can be done with the chosen class, with all classes, and with the selected regions."""
    document, board, name = drawing.document, panel.board, drawing.active_class
    palette = document.palette

    def add(to: QMenu, text: str, act: Callable[[], Any], enabled: bool = True) -> None:
        entry = to.addAction(text)
        entry.setEnabled(enabled)
        entry.triggered.connect(lambda _=False: board.trying(act))

    if name in palette:
        count = document.counts[name].regions if name in document.counts else 0
        place = palette.names.index(name)
        add(menu, f"Rename {name}…", lambda: panel.table.edit_name(name))
        add(menu, f"Colour of {name}…", lambda: _choose_color(panel, drawing, name))
        merge = menu.addMenu(f"Merge {name} into")
        for other in palette.names:
            if other != name:
                add(merge, other, lambda other=other: document.merge_classes([name], other))  # type: ignore[misc]
        if count:
            its = f"its {thousands(count)} regions" if count > 1 else "its region"
            add(menu, f"Delete {name} and {its}", lambda: document.remove_class(name, with_regions=True))
            add(menu, f"Delete {name}, keep its regions", lambda: document.remove_class(name))
        else:
            add(menu, f"Delete {name}", lambda: document.remove_class(name))
        add(menu, "Move up", lambda: document.set_palette(palette.move(name, place - 1), "Order of classes"), place > 0)
        last = place == len(palette) - 1
        add(
            menu, "Move down", lambda: document.set_palette(palette.move(name, place + 1), "Order of classes"), not last
        )
        menu.addSeparator()
    from pathotune.regions.palette import colour_blind, qupath_colours

    colours = menu.addMenu("Colours of all classes")
    add(colours, "Safe for colour-blind eyes", lambda: document.set_palette(colour_blind(palette), "Colours"))
    add(colours, "QuPath's", lambda: document.set_palette(qupath_colours(palette), "Colours"))
    empty = [one for one in palette.names if one not in document.counts]
    add(menu, "Delete classes without regions", lambda: document.set_palette(palette.remove(empty)), bool(empty))
    menu.addSeparator()
    keys = drawing.selected_keys
    locked = bool(keys) and all(document[key].locked for key in keys)
    what = f"{len(keys)} selected" if keys else "selected regions"
    one = keys[0] if len(keys) == 1 else ""
    called = document[one].name[:30] or "the selected region" if one else "a selected region"
    add(menu, f"Name and notes of {called}…", lambda: panel.describe(drawing, one), bool(one))
    add(menu, f"{'Unlock' if locked else 'Lock'} {what}", lambda: document.set_locked(keys, not locked), bool(keys))
    add(menu, f"Fill holes of {what}", lambda: document.fill_holes(keys), bool(keys))
    add(menu, f"Delete {what}", lambda: document.remove(keys), bool(keys))


def _choose_color(panel: RegionsPanel, drawing: SlideDrawing, name: str) -> None:
    from qtpy.QtGui import QColor

    color = drawing.document.palette.color_of(name) or (128, 128, 128)
    chosen = QColorDialog.getColor(QColor(*color), panel, f"Colour of {name}")
    if chosen.isValid():
        drawing.document.recolour({name: (chosen.red(), chosen.green(), chosen.blue())})


def _row(*widgets: QWidget) -> QHBoxLayout:
    row = QHBoxLayout()
    row.setSpacing(4)
    for widget in widgets:
        row.addWidget(widget, 0 if isinstance(widget, QToolButton) else 1)
    return row


def _soon(function: Callable[[], None]) -> None:
    QTimer.singleShot(0, function)


def _widget_context() -> Any:
    from qtpy.QtCore import Qt

    return Qt.ShortcutContext.WidgetWithChildrenShortcut


def _notify(level: str, text: str) -> None:
    {"error": compat.show_error, "warning": compat.show_warning}.get(level, compat.show_info)(text)
