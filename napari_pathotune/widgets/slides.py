"""A list of slides to step through, one open at a time, with PageUp and PageDown."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QFileDialog, QHBoxLayout, QListWidget, QListWidgetItem, QVBoxLayout, QWidget

from napari_pathotune import compat
from napari_pathotune.layers import facts
from napari_pathotune.reader import results_folder
from napari_pathotune.session import JobState, session_of
from napari_pathotune.widgets.focus import FocusRing
from napari_pathotune.widgets.parts import button, heading, named, text_label

if TYPE_CHECKING:
    import napari

SUFFIXES = (".svs", ".ndpi", ".tif", ".tiff", ".scn", ".bif", ".mrxs", ".vms", ".vmu", ".svslide", ".zarr")
STORE_SUFFIX = ".pathotune.zarr"


class SlideList(QWidget):
    """The slides of a folder; choosing one closes the one before and opens it with its predictions."""

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self.viewer = compat.plain_viewer(napari_viewer)
        self.session = session_of(self.viewer)
        self.paths: list[Path] = []
        self.list = QListWidget()
        named(self.list, "Slides", "Choose a slide to open it. PageUp and PageDown step through the list.")
        self.list.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        self.choose = button("Folder…", "List the slides of a folder.", "Choose a folder")
        self.back = button("◀ Previous", "The slide before (PageUp).", "Previous slide")
        self.forward = button("Next ▶", "The slide after (PageDown).", "Next slide")
        self.place = text_label()
        row = QHBoxLayout()
        for widget in (self.choose, self.back, self.forward):
            row.addWidget(widget)
        layout = QVBoxLayout(self)
        layout.addWidget(heading("Slides"))
        layout.addWidget(self.list, 1)
        layout.addWidget(self.place)
        layout.addLayout(row)
        self.choose.clicked.connect(self._on_choose_clicked)
        self.back.clicked.connect(lambda: self.step(-1))
        self.forward.clicked.connect(lambda: self.step(1))
        self.list.itemActivated.connect(self._on_item_activated)
        self.list.itemClicked.connect(self._on_item_activated)
        self.session.stage_changed.connect(self._on_stage_changed)
        bind_step_keys(self.viewer, self)
        self._say_place()
        FocusRing(self)

    def set_paths(self, paths: list[Path]) -> None:
        """List these slides and open the first."""
        self.paths = list(paths)
        self.list.clear()
        for path in self.paths:
            self.list.addItem(QListWidgetItem(path.name))
        self.mark_predicted()
        self._say_place()
        if self.paths:
            self.open(0)

    def mark_predicted(self) -> None:
        """Say of each slide whether there is a prediction of it."""
        found = predicted(self.paths, results_folder())
        for row, path in enumerate(self.paths):
            item = self.list.item(row)
            item.setText(f"{path.name}  ·  predicted" if path in found else path.name)
            item.setToolTip(f"{path}\nPredictions of it open with it." if path in found else str(path))

    def open(self, index: int) -> None:
        """Close the slide that is open and open this one."""
        if not 0 <= index < len(self.paths):
            return
        from napari_pathotune.opening import open_paths

        for layer in list(self.viewer.layers):
            if facts(layer):
                self.viewer.layers.remove(layer)
        self.list.setCurrentRow(index)
        open_paths(self.viewer, [self.paths[index]])
        self.viewer.reset_view()
        self._say_place()

    def step(self, by: int) -> None:
        """Open the slide so many places further."""
        self.open(self.list.currentRow() + by)

    def _say_place(self) -> None:
        count, row = len(self.paths), self.list.currentRow()
        self.place.setText(f"Slide {row + 1} of {count}" if count and row >= 0 else "No folder is chosen.")
        self.back.setEnabled(row > 0)
        self.forward.setEnabled(0 <= row < count - 1)

    def _on_item_activated(self, item: QListWidgetItem) -> None:
        if self.list.row(item) != self.list.currentRow() or not self._is_open(self.list.row(item)):
            self.open(self.list.row(item))

    def _on_stage_changed(self, job: JobState) -> None:
        if not job.is_active:
            self.mark_predicted()

    def _is_open(self, index: int) -> bool:
        wanted = str(self.paths[index])
        return any(facts(layer).get("path") == wanted for layer in self.session.slide_layers)

    def _on_choose_clicked(self) -> None:
        chosen = QFileDialog.getExistingDirectory(self, "A folder of slides")
        if chosen:
            found = slides_in(Path(chosen))
            if not found:
                compat.show_warning(f"There is no slide in {chosen}.")
            self.set_paths(found)


def predicted(paths: list[Path], results: Path) -> set[Path]:
    """The slides a prediction store is named after, beside them or in the results folder.

    A look at file names only: which store truly belongs to a slide is found out when the slide is opened.
    """
    names: dict[Path, list[str]] = {}
    for folder in {results, *(path.parent for path in paths)}:
        stores = folder.glob(f"*{STORE_SUFFIX}") if folder.is_dir() else []
        names[folder] = sorted(store.name for store in stores)
    return {
        path
        for path in paths
        if any(name.startswith(f"{path.name}.") for folder in (results, path.parent) for name in names[folder])
    }


def slides_in(folder: Path) -> list[Path]:
    """The slides of a folder, by name; pictures and prediction stores do not count, folders of DICOM files do."""

    def is_slide(path: Path) -> bool:
        if path.name.startswith(".") or path.name.endswith(STORE_SUFFIX):
            return False
        return path.suffix.lower() in SUFFIXES or (path.is_dir() and next(path.glob("*.dcm"), None) is not None)

    return sorted(filter(is_slide, folder.iterdir()), key=lambda path: path.name.lower())


def bind_step_keys(viewer: Any, target: SlideList) -> None:
    """PageUp and PageDown on the canvas; manifest key bindings are not honoured by napari."""
    viewer.bind_key("PageUp", lambda _: target.step(-1), overwrite=True)
    viewer.bind_key("PageDown", lambda _: target.step(1), overwrite=True)
