"""The regions of one slide while they are edited: every change can be undone and is told to who listens."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from pathotune.errors import UsageError
from pathotune.regions.palette import Palette, start_palette
from pathotune.regions.region import Region, Regions, polygonal
from pathotune.tasks import Color

MOST_UNDOS = 2000
# Pieces a brush leaves that are smaller than this part of what they came from are crumbs of rounding.
CRUMB = 1e-9


@dataclass(frozen=True)
class Change:
    """One step of editing, which can be turned round.

    Parameters
    ----------
    label : what was done, in the words of an undo button ("Draw Tumor").
    before, after : the touched regions by key; None where there was or is none.
    palette_before, palette_after : the classes; the same object where they did not change.
    """

    label: str
    before: Mapping[str, Region | None]
    after: Mapping[str, Region | None]
    palette_before: Palette
    palette_after: Palette

    @property
    def touches_palette(self) -> bool:
        """Whether names, colours or order of classes changed."""
        return self.palette_before != self.palette_after

    def turned(self) -> Change:
        """The step that takes this one back."""
        return Change(self.label, self.after, self.before, self.palette_after, self.palette_before)


@dataclass(frozen=True)
class ClassCount:
    """How much is drawn of one class: number of regions, and their area in level-0 pixels."""

    regions: int = 0
    area_px0: float = 0.0


Listener = Callable[[Change], None]


class RegionDocument:
    """The regions and classes of one slide.

    Regions are held by a key that lasts as long as the document, so that a change costs what it touches and not what
    is there. The colour of a region that has a class is the palette's; `regions` fills it in.

    Parameters
    ----------
    palette : the classes to start with; QuPath's names in colour-blind safe colours where None.
    """

    def __init__(self, palette: Palette | None = None) -> None:
        self.palette = start_palette() if palette is None else palette
        self.listeners: list[Listener] = []
        self._regions: dict[str, Region] = {}
        self._order: dict[str, int] = {}
        self._counts: dict[str | None, ClassCount] = {}
        self._undo: list[Change] = []
        self._redo: list[Change] = []
        self._tree: tuple[shapely.STRtree, list[str]] | None = None
        self._has_start_palette = palette is None

    # -- looking

    def __len__(self) -> int:
        return len(self._regions)

    def __contains__(self, key: object) -> bool:
        return key in self._regions

    def __getitem__(self, key: str) -> Region:
        return self._coloured(self._regions[key])

    @property
    def keys(self) -> list[str]:
        """The regions' keys, in the order they were drawn."""
        return sorted(self._regions, key=self._order.__getitem__)

    def place_of(self, key: str) -> int:
        """Where a region stands in the order of drawing; only the order of two places means something."""
        return self._order[key]

    def regions(self, source: str = "") -> Regions:
        """All regions as they are now, with their class's colour: later changes do not touch them."""
        return Regions((self[key] for key in self.keys), source)

    @property
    def counts(self) -> dict[str | None, ClassCount]:
        """Number and area of the regions of each class that has any; None for those without a class."""
        return {name: count for name, count in self._counts.items() if count.regions}

    def keys_of(self, class_name: str | None) -> list[str]:
        """The keys of a class's regions."""
        return [key for key in self.keys if self._regions[key].class_name == class_name]

    def touching(self, geometry: BaseGeometry) -> list[str]:
        """Keys of the regions that share a point with a geometry (level-0 pixels)."""
        if self._tree is None:
            keys = list(self._regions)
            geometries = np.empty(len(keys), dtype=object)
            geometries[:] = [self._regions[key].geometry for key in keys]
            self._tree = shapely.STRtree(geometries), keys
        tree, keys = self._tree
        found = [keys[index] for index in tree.query(geometry, predicate="intersects")]
        return sorted(found, key=self._order.__getitem__)

    def unknown(self, regions: Iterable[Region]) -> list[Region]:
        """Those of the regions that are not here already, with the same outline (to 0.01 px) and class."""
        known = {_likeness(region) for region in self._regions.values()}
        return [region for region in regions if _likeness(region) not in known]

    @property
    def is_begun(self) -> bool:
        """Something is drawn, or the classes were changed: it is no longer the start palette and nothing else."""
        return not self._has_start_palette or bool(self._regions) or bool(self._undo)

    @property
    def undo_label(self) -> str:
        """What `undo` would take back; empty where there is nothing."""
        return self._undo[-1].label if self._undo else ""

    @property
    def redo_label(self) -> str:
        """What `redo` would do again; empty where there is nothing."""
        return self._redo[-1].label if self._redo else ""

    # -- regions

    def add(self, regions: Iterable[Region], label: str = "") -> list[str]:
        """Add regions; a class that is new joins the palette.

        Returns
        -------
        Their keys. A region without an id, or with one that is taken, gets a key of its own.
        """
        return self._add(regions, label, self.palette)

    def import_regions(self, regions: Regions, mapping: Mapping[str, str] | None = None) -> list[str]:
        """Add what a file holds, its classes renamed by a mapping ("" takes the class away).

        In a document nobody has touched yet, the file's classes take the place of the start palette.
        """
        mapped = regions.map_classes(mapping or {})
        is_untouched = not self.is_begun
        with_class = any(region.class_name for region in mapped)
        count = len(mapped)
        label = f"Load {count} {'region' if count == 1 else 'regions'}"
        return self._add(mapped, label, Palette() if is_untouched and with_class else self.palette)

    def _add(self, regions: Iterable[Region], label: str, palette: Palette) -> list[str]:
        added: dict[str, Region | None] = {}
        names: dict[str | None, Color | None] = {}
        for region in regions:
            key = region.id or ""
            if not key or key in self._order or key in added:
                key = str(uuid.uuid4())
            added[key] = replace(region, id=region.id or key)
            names[region.class_name] = names.get(region.class_name) or region.color
        palette = palette.including({name: color for name, color in names.items() if name})
        self._do(label or _draw_label(len(added), list(names)), added, palette)
        return list(added)

    def replace_all(self, regions: Iterable[Region], palette: Palette, label: str) -> None:
        """Put other regions and classes in the place of all there are, as one step."""
        after: dict[str, Region | None] = dict.fromkeys(self._regions)
        for region in regions:
            known = self._regions.get(region.id or "")
            if known is not None and after[str(region.id)] is None:
                same = known if _is_same(known, region) else replace(region, color=None)
                after[str(region.id)] = same
            else:
                key = str(uuid.uuid4())
                after[key] = replace(region, id=region.id or key)
        names: dict[str, Color | None] = {one.class_name: None for one in after.values() if one and one.class_name}
        self._do(label, after, palette.including(names))

    def remove(self, keys: Iterable[str], label: str = "") -> None:
        """Take regions away.

        Raises
        ------
        UsageError : one of them is locked.
        """
        gone = self._editable(keys)
        count = len(gone)
        self._do(label or f"Delete {count} {'region' if count == 1 else 'regions'}", dict.fromkeys(gone))

    def reshape(self, geometries: Mapping[str, BaseGeometry], label: str = "Change outline") -> None:
        """Give regions other outlines; one that is left without any is taken away.

        Raises
        ------
        UsageError : one of them is locked.
        """
        self._editable(geometries)
        self._do(label, {key: self._reshaped(key, geometry) for key, geometry in geometries.items()})

    def set_class(self, keys: Iterable[str], class_name: str | None) -> None:
        """Give regions a class, or None to take it away; a new name joins the palette."""
        changed: dict[str, Region | None] = {
            key: replace(self._regions[key], class_name=class_name, color=None)
            for key in self._editable(keys)
            if self._regions[key].class_name != class_name
        }
        if changed:
            palette = self.palette.including({class_name: None}) if class_name else None
            self._do(f"Make {len(changed)} {class_name or 'without class'}", changed, palette)

    def set_locked(self, keys: Iterable[str], locked: bool) -> None:
        """Protect regions from editing, or allow it again."""
        changed: dict[str, Region | None] = {
            key: replace(self._regions[key], locked=locked) for key in keys if self._regions[key].locked != locked
        }
        if changed:
            self._do("Lock" if locked else "Unlock", changed)

    def describe(self, key: str, name: str, notes: str) -> None:
        """Give a region a name and notes of its own; "" for none.

        Raises
        ------
        UsageError : it is locked.
        """
        (key,) = self._editable([key])
        region, name, notes = self._regions[key], name.strip(), notes.strip()
        if (region.name, region.notes) != (name, notes):
            self._do("Name and notes", {key: region.described(name, notes)})

    def paint(self, stroke: BaseGeometry, class_name: str | None) -> list[str]:
        """Add a brush stroke: it grows the regions of its class that it touches into one, or starts a new one.

        Returns
        -------
        The key of the region it became part of; none where the stroke has no area.
        """
        stroke = polygonal(stroke)
        if stroke.is_empty:
            return []
        touched = [
            key
            for key in self.touching(stroke)
            if self._regions[key].class_name == class_name
            and self._regions[key].kind == "polygon"
            and not self._regions[key].locked
        ]
        if not touched:
            return self.add([Region(stroke, class_name)], f"Brush {class_name or 'region'}")
        union = polygonal(shapely.union_all([stroke, *(self._regions[key].geometry for key in touched)]))
        after: dict[str, Region | None] = dict.fromkeys(touched)
        after[touched[0]] = replace(self._regions[touched[0]], geometry=union)
        self._do(f"Brush {class_name or 'region'}", after)
        return touched[:1]

    def erase(self, stroke: BaseGeometry, class_name: str | None = None, keys: Iterable[str] | None = None) -> bool:
        """Cut a stroke out of the regions it touches, and say whether there was any.

        Parameters
        ----------
        class_name : where regions of this class are touched, only they are cut.
        keys : only these regions are cut, where given.
        """
        stroke = polygonal(stroke)
        if stroke.is_empty:
            return False
        wanted = None if keys is None else set(keys)
        touched = [
            key
            for key in self.touching(stroke)
            if self._regions[key].kind in {"polygon", "point"}
            and not self._regions[key].locked
            and (wanted is None or key in wanted)
        ]
        of_class = [key for key in touched if self._regions[key].class_name == class_name]
        after = {key: self._reshaped(key, _without(self._regions[key].geometry, stroke)) for key in of_class or touched}
        if after:
            self._do("Erase", after)
        return bool(after)

    def fill_holes(self, keys: Iterable[str]) -> int:
        """Fill the holes of regions, and say how many regions had any."""
        after: dict[str, Region | None] = {}
        for key in self._editable(keys):
            region = self._regions[key]
            parts = shapely.get_parts(region.geometry)
            if region.kind == "polygon" and (shapely.get_num_interior_rings(parts) > 0).any():
                filled = shapely.union_all([shapely.Polygon(part.exterior) for part in parts])
                after[key] = replace(region, geometry=polygonal(filled))
        if after:
            self._do("Fill holes", after)
        return len(after)

    # -- classes

    def add_class(self, name: str, color: Color | None = None) -> str:
        """Add a class and give its name as it stands; raises UsageError for a name that is empty or taken."""
        palette = self.palette.add(name, color)
        self._do(f"Add class {palette[-1].name}", {}, palette)
        return palette[-1].name

    def rename_class(self, old: str, new: str) -> None:
        """Rename a class and with it its regions.

        Raises
        ------
        UsageError : the new name is empty, or another class has it (merge them then).
        """
        palette = self.palette.rename(old, new)
        name = palette[self.palette.names.index(old)].name
        if name != old:
            self._do(f"Rename {old}", self._with_class(old, name), palette)

    def recolour(self, colors: Mapping[str, Color], label: str = "Change colour") -> None:
        """Give classes other colours."""
        palette = self.palette.recolour(colors)
        if palette != self.palette:
            self._do(label, {}, palette)

    def set_palette(self, palette: Palette, label: str = "Change classes") -> None:
        """Another order, other colours, more classes; one that has regions stays.

        Raises
        ------
        UsageError : a class that has regions is missing.
        """
        missing = [name for name in self.counts if name is not None and name not in palette]
        if missing:
            raise UsageError(f"The class {missing[0]!r} has regions; merge it into another class, or delete it.")
        if palette != self.palette:
            self._do(label, {}, palette)

    def merge_classes(self, names: Iterable[str], into: str) -> None:
        """Make the regions of some classes regions of another, and take the emptied classes away.

        Raises
        ------
        UsageError : one of the classes does not exist.
        """
        gone = [name for name in names if name != into]
        if into not in self.palette:
            raise UsageError(f"There is no class called {into!r} to merge into.")
        palette = self.palette.remove(gone)
        after: dict[str, Region | None] = {}
        for name in gone:
            after |= self._with_class(name, into)
        if gone:
            self._do(f"Merge into {into}", after, palette)

    def remove_class(self, name: str, with_regions: bool = False) -> None:
        """Delete a class; its regions go too, or stay without a class."""
        palette = self.palette.remove([name])
        keys = self.keys_of(name)
        after = dict.fromkeys(keys) if with_regions else self._with_class(name, None)
        self._do(f"Delete class {name}", after, palette)

    # -- time

    def undo(self) -> str:
        """Take the last step back and say what it was; "" where there is none."""
        return self._step(self._undo, self._redo, turn=True)

    def redo(self) -> str:
        """Do the step again that was taken back last; "" where there is none."""
        return self._step(self._redo, self._undo, turn=False)

    def forget_steps(self) -> None:
        """Start with what is there: nothing to undo."""
        self._undo.clear()
        self._redo.clear()

    def _step(self, source: list[Change], target: list[Change], turn: bool) -> str:
        if not source:
            return ""
        change = source.pop()
        target.append(change)
        self._apply(change.turned() if turn else change)
        return change.label

    def _do(self, label: str, after: Mapping[str, Region | None], palette: Palette | None = None) -> None:
        before = {key: self._regions.get(key) for key in after}
        palette = self.palette if palette is None else palette
        if all(before[key] is after[key] for key in after) and palette == self.palette:
            return
        change = Change(label, before, after, self.palette, palette)
        self._undo.append(change)
        del self._undo[:-MOST_UNDOS]
        self._redo.clear()
        self._apply(change)

    def _apply(self, change: Change) -> None:
        self.palette = change.palette_after
        for key, region in change.after.items():
            earlier = self._regions.pop(key, None)
            self._count(earlier, -1)
            if region is not None:
                self._regions[key] = region
                self._order.setdefault(key, len(self._order))
                self._count(region, +1)
        if change.after:
            self._tree = None
        for listener in list(self.listeners):
            listener(change)

    def _count(self, region: Region | None, sign: int) -> None:
        if region is not None:
            old = self._counts.get(region.class_name, ClassCount())
            area = old.area_px0 + sign * float(region.geometry.area)
            # Sums of floats do not come back to nothing by themselves.
            left = old.regions + sign
            self._counts[region.class_name] = ClassCount(left, area if left else 0.0)

    # -- inside

    def _coloured(self, region: Region) -> Region:
        color = self.palette.color_of(region.class_name)
        return region if color is None or color == region.color else replace(region, color=color)

    def _with_class(self, old: str, new: str | None) -> dict[str, Region | None]:
        return {key: replace(self._regions[key], class_name=new, color=None) for key in self.keys_of(old)}

    def _reshaped(self, key: str, geometry: BaseGeometry) -> Region | None:
        region = self._regions[key]
        if region.kind == "polygon":
            geometry = polygonal(geometry)
            if geometry.area <= CRUMB * region.geometry.area:
                return None
        return None if geometry.is_empty else replace(region, geometry=geometry)

    def _editable(self, keys: Iterable[str]) -> list[str]:
        found = list(keys)
        locked = [key for key in found if self._regions[key].locked]
        if locked:
            region = self._regions[locked[0]]
            called = f" {region.name!r}" if region.name else ""
            of_class = f" of class {region.class_name!r}" if region.class_name else ""
            raise UsageError(f"The region{called}{of_class} is locked; unlock it to change it.")
        return found


def _without(geometry: BaseGeometry, stroke: BaseGeometry) -> BaseGeometry:
    rest: BaseGeometry = shapely.difference(geometry, stroke)
    return rest


def _is_same(first: Region, second: Region) -> bool:
    said, said_second = ((one.class_name, one.name, one.notes, one.locked) for one in (first, second))
    return said == said_second and bool(first.geometry.equals_exact(second.geometry))


def _likeness(region: Region) -> tuple[str | None, bytes]:
    """What two regions that are the same have in common, however often their outline went through a file or a layer."""
    rounded = shapely.transform(region.geometry, lambda points: np.round(points, 2) + 0.0)
    return region.class_name, bytes(shapely.normalize(rounded).wkb)


def _draw_label(count: int, names: list[str | None]) -> str:
    name = names[0] if len(names) == 1 else None
    if count == 1:
        return f"Draw {name or 'region'}"
    return f"Add {count} regions" + (f" of {name}" if name else "")
