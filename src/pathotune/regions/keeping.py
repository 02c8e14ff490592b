"""Where the regions of a slide are kept: its regions file in the results folder, and the journal while drawing."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pathotune.errors import OutputRefused, PathotuneError
from pathotune.regions.document import RegionDocument
from pathotune.regions.geojson import OURS, write_regions
from pathotune.regions.journal import Journal, Unsaved, unsaved_journals
from pathotune.regions.palette import Palette, PaletteClass
from pathotune.regions.reading import read_regions
from pathotune.regions.region import Regions

if TYPE_CHECKING:
    from pathotune.slides.slide import Slide

SAVED = ".regions.geojson"


class Keeper:
    """Keeps the regions of one slide from one session to the next.

    Parameters
    ----------
    slide : the slide.
    folder : the results folder.
    fallback : a folder of our own, used where the results folder cannot be written to.
    """

    def __init__(self, slide: Slide, folder: Path, fallback: Path) -> None:
        self.slide, self.folder, self.fallback = slide, folder, fallback
        self.journal: Journal | None = None
        self.document = RegionDocument()
        self.note = ""
        self._changes = 0
        self._known: dict[Path, int] = {}

    @property
    def saved_path(self) -> Path:
        """The slide's regions file: in the results folder, or in our own where only that has one that is newer."""
        name = f"{self.slide.name}.{self.slide.fingerprint[:8]}{SAVED}"
        present = [folder / name for folder in (self.folder, self.fallback) if (folder / name).is_file()]
        return max(present, key=lambda path: path.stat().st_mtime) if present else self.folder / name

    def load(self) -> RegionDocument:
        """The document as it was saved last; an empty one where nothing was.

        A regions file that cannot be used (another program changed it, say) is set aside and not lost; `note` says so.
        """
        path = self.saved_path
        if not path.is_file():
            return self.document
        try:
            # Without the slide: what she drew beside the tissue is hers, and the file says where its origin lies.
            regions = read_regions(path)
        except PathotuneError as error:
            aside = _aside(path)
            self.note = (
                f"The regions kept of {self.slide.name} could not be read; the file is now {aside.name}. {error}"
            )
            return self.document
        self.document = RegionDocument(saved_palette(path))
        self.document.import_regions(regions)
        self.document.forget_steps()
        self._known[path] = _modified(path)
        return self.document

    def unsaved(self) -> list[Unsaved]:
        """What crashes left of this slide's regions, newest first."""
        return unsaved_journals(self.slide.fingerprint, (self.folder, self.fallback))

    def restore(self, unsaved: Unsaved) -> int:
        """Put what a crash left in the place of the document's content, as one step that can be undone.

        The crash's journal is deleted once the new one is on disk.

        Returns
        -------
        How many regions there are now.
        """
        document, left = self.document, unsaved.state
        document.replace_all(left.regions(), left.palette(), "Restore")
        if self.journal is not None and self.journal.flush():
            unsaved.discard()
        return len(document)

    def begin(self) -> str:
        """Start the journal; returns what the person should know of where it is, or "".

        Raises
        ------
        OutputRefused : no folder can be written to.
        """
        if self.journal is None:
            self.journal = Journal(self.document, self.slide.name, self.slide.fingerprint, self.folder, self.fallback)
            self.document.listeners.append(self._on_change)
        return self.journal.note

    def _on_change(self, change: object) -> None:
        self._changes += 1

    @property
    def has_changes(self) -> bool:
        """Something was drawn since the regions file was written."""
        return self._changes > 0

    def save(self) -> Path | None:
        """Write the regions file where something changed; returns its path, None where nothing did.

        Raises
        ------
        OutputRefused : neither folder can be written to.
        """
        if not self.has_changes:
            return None
        name = f"{self.slide.name}.{self.slide.fingerprint[:8]}{SAVED}"
        facts = {
            "fingerprint": self.slide.fingerprint,
            "classes": [{"name": one.name, "color": list(one.color)} for one in self.document.palette],
        }
        regions = self.document.regions()
        changes = self._changes
        try:
            path = self._write(regions, self.folder / name, facts)
        except OutputRefused:
            path = self._write(regions, self.fallback / name, facts)
        self._changes -= changes
        if self.journal is not None:
            self.journal.mark_saved(path)
        return path

    def _write(self, regions: Regions, path: Path, facts: dict[str, Any]) -> Path:
        # Another window may have written it since it was read: what that wrote is kept beside.
        if path.is_file() and self._known.get(path) != _modified(path):
            _aside(path)
        write_regions(regions, path, self.slide, facts)
        self._known[path] = _modified(path)
        return path

    def close(self) -> Path | None:
        """Save, and end the journal; where saving fails the journal stays, to be offered at the next start."""
        try:
            return self.save()
        finally:
            if self.journal is not None:
                self.journal.close(delete=not self.has_changes)
                self.journal = None


def _modified(path: Path) -> int:
    return path.stat().st_mtime_ns


def _aside(path: Path) -> Path:
    """Give a file a name of its own, by the time it was written; it stays where it is if that cannot be done."""
    when = time.strftime("%Y-%m-%d %H.%M.%S", time.localtime(path.stat().st_mtime))
    aside = path.with_name(f"{path.name.removesuffix('.geojson')} {when}.geojson")
    try:
        os.replace(path, aside)
    except OSError:
        return path
    return aside


def saved_palette(path: Path) -> Palette | None:
    """The classes a regions file of ours states, in their order; None where it states none."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        classes: Any = document.get(OURS, {}).get("classes")
        return None if classes is None else Palette(_class(one) for one in classes)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _class(one: Mapping[str, Any]) -> PaletteClass:
    red, green, blue = (int(part) for part in one["color"])
    return PaletteClass(str(one["name"]), (red, green, blue))
