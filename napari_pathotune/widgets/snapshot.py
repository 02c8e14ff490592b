"""A picture of the view to keep: what is seen with its scale bar, the legend, and where it came from."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from qtpy.QtCore import QRectF, Qt
from qtpy.QtGui import QColor, QFont, QFontMetricsF, QImage, QPainter, QPen
from qtpy.QtWidgets import QCheckBox, QFileDialog, QHBoxLayout, QVBoxLayout, QWidget

from napari_pathotune import compat
from napari_pathotune.layers import rgb
from napari_pathotune.navigation import magnification_of, magnification_text
from napari_pathotune.overlay import ABSTAINED_RGB
from napari_pathotune.session import Session
from napari_pathotune.widgets.overlays import shown_kind
from napari_pathotune.widgets.parts import button, named

NOTE = "Research use only, not for diagnosis."
Legend = Sequence[tuple[str, tuple[int, int, int]]]


class SnapshotPanel(QWidget):
    """A button that saves what is seen, and whether the slide's name may stand on it."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session
        self.save_as = button("Save picture…", "Save what is seen with scale bar, legend and origin.", "Save a picture")
        self.with_name = QCheckBox("With the slide's name")
        named(
            self.with_name,
            "With the slide's name",
            "File names may carry a patient's name. Without it the picture names the slide by a pseudonym.",
        )
        row = QHBoxLayout()
        row.addWidget(self.save_as)
        row.addWidget(self.with_name, 1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(row)
        self.save_as.clicked.connect(self._on_save_clicked)
        session.active_changed.connect(self.refresh)
        session.slides_changed.connect(self.refresh)
        self.refresh()

    def refresh(self) -> None:
        """A picture can be saved while a slide is open."""
        self.save_as.setEnabled(self.session.slide is not None)

    def save(self, path: Path) -> Path | None:
        """Write the picture; returns its path, or None where it could not be written (the person is told)."""
        image = compose(
            seen(self.session.viewer), legend_of(self.session), origin_lines(self.session, self.with_name.isChecked())
        )
        if not image.save(str(path)):
            compat.show_error(f"{path.name} could not be written. Choose another folder, or a name ending in .png.")
            return None
        compat.show_info(f"Saved {path.name}.")
        return path

    def _on_save_clicked(self) -> None:
        from napari_pathotune.reader import results_folder

        stamp = datetime.datetime.now().strftime("%Y-%m-%d-%H%M%S")
        proposed = results_folder() / f"view-{stamp}.png"
        chosen, _ = QFileDialog.getSaveFileName(self, "Save the picture", str(proposed), "Pictures (*.png *.jpg *.tif)")
        if chosen:
            path = Path(chosen)
            self.save(path if path.suffix else path.with_suffix(".png"))


def seen(viewer: Any) -> Any:
    """What the canvas shows, overlays included: uint8 (height, width, 4)."""
    return viewer.screenshot(canvas_only=True, flash=False)


def legend_of(session: Session) -> list[tuple[str, tuple[int, int, int]]]:
    """Name and colour of each class that is seen; none where no classes are."""
    result = session.result
    if result is None or result.classes is None or not result.classes.visible or shown_kind(result) != "classes":
        return []
    grid = result.grid
    found = [
        (name, rgb(grid.colors[index]))
        for index, name in enumerate(grid.class_names)
        if grid.visible[index] and not result.is_empty
    ]
    if grid.abstain_below and grid.shows_abstained and found:
        found.append((f"abstained (likeliest class below {grid.abstain_below:.0%})", ABSTAINED_RGB))
    return found


def origin_lines(session: Session, with_name: bool) -> list[str]:
    """What the picture is of and what it may be used for, line by line."""
    from pathotune.training.record import pseudonym

    slide = session.slide
    if slide is None:
        return [NOTE]
    parts = [slide.name if with_name else pseudonym(slide.fingerprint)]
    if slide.mpp is not None:
        magnification = magnification_of(float(compat.camera(session.viewer).zoom))
        parts += [f"{magnification_text(magnification)} on screen", f"scanned at {slide.mpp.mean:.4g} µm per pixel"]
    lines = [" · ".join(parts)]
    result = session.result
    shown = (
        [layer.name for layer in result.layers if layer.visible] if result is not None and not result.is_empty else []
    )
    if shown:
        lines.append("Predicted: " + ", ".join(shown))
    today = datetime.date.today().isoformat()
    lines.append(f"pathotune {version('pathotune')} · {today} · {NOTE}")
    return lines


def compose(pixels: Any, legend: Legend, lines: Sequence[str]) -> QImage:
    """The picture with a white strip below it: legend, then the lines.

    Parameters
    ----------
    pixels : uint8 (height, width, 4).
    legend : name and colour of each class.
    """
    height, width = pixels.shape[:2]
    seen = QImage(pixels.tobytes(), width, height, 4 * width, QImage.Format.Format_RGBA8888)
    font = QFont()
    font.setPixelSize(max(11, round(width / 75)))
    metrics = QFontMetricsF(font)
    line, gap = metrics.height() * 1.25, metrics.height() * 0.5
    rows = _legend_rows(legend, metrics, width - 2 * gap)
    wrapped = [part for text in lines for part in _wrapped(text, metrics, width - 2 * gap)]
    strip = round(line * (len(rows) + len(wrapped)) + 2 * gap)
    image = QImage(width, height + strip, QImage.Format.Format_RGB32)
    image.fill(QColor(255, 255, 255))
    painter = QPainter(image)
    painter.setFont(font)
    painter.drawImage(0, 0, seen)
    y = height + gap
    for row in rows:
        x = gap
        for name, color in row:
            swatch = QRectF(x, y + line * 0.15, line * 0.7, line * 0.7)
            painter.fillRect(swatch, QColor(*color))
            painter.setPen(QPen(QColor(110, 110, 110)))
            painter.drawRect(swatch)
            painter.setPen(QPen(QColor(0, 0, 0)))
            painter.drawText(QRectF(x + line, y, width, line), int(Qt.AlignmentFlag.AlignVCenter), name)
            x += line * 1.6 + metrics.horizontalAdvance(name)
        y += line
    painter.setPen(QPen(QColor(40, 40, 40)))
    for text in wrapped:
        painter.drawText(QRectF(gap, y, width - 2 * gap, line), int(Qt.AlignmentFlag.AlignVCenter), text)
        y += line
    painter.end()
    image.setText("Description", "\n".join(lines))
    image.setText("Software", "pathotune")
    return image


def _legend_rows(legend: Legend, metrics: QFontMetricsF, room: float) -> list[list[tuple[str, tuple[int, int, int]]]]:
    """The legend's entries in as many rows as they need."""
    rows: list[list[tuple[str, tuple[int, int, int]]]] = []
    used = room + 1
    for name, color in legend:
        wide = metrics.height() * 2 + metrics.horizontalAdvance(name)
        if used + wide > room:
            rows.append([])
            used = 0.0
        rows[-1].append((name, color))
        used += wide
    return rows


def _wrapped(text: str, metrics: QFontMetricsF, room: float) -> list[str]:
    """A text in lines that fit into the room, broken between words."""
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}".strip()
        if metrics.horizontalAdvance(longer) <= room or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
