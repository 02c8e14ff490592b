"""One napari layer that shows the regions of a document and takes in what is drawn on it: no Qt."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_pathotune.drawings import drawable_parts, geometry_of
from napari_pathotune.layers import DEFAULT_COLOR, KEY, facts, pixel_um, units_of

if TYPE_CHECKING:
    from pathotune.regions.document import RegionDocument
    from pathotune.regions.region import Region

COLUMNS = ("class", "name", "object_type", "locked", "id", "kept")
FACE_OPACITY = 0.14
LINE_SCREEN_PX = 3.0
POINT_SCREEN_PX = 12.0


@dataclass(frozen=True)
class Drawn:
    """Something new on a layer: its outline in level-0 pixels, and the class its row says.

    Where the layer shows exactly that outline already, `key` is the key to give the region, so that it may stay.
    """

    geometry: Any
    class_name: str
    key: str = ""


class BoundLayer:
    """Shapes or points of a slide, bound to a document.

    Shape number i belongs to the region `keys[i]`; a region of several parts has several. `as_shown` are regions whose
    outline was just taken from the layer, and which need not be drawn again. What the person does on the
    layer is told to `on_drawn`, `on_removed` and `on_changed` once the layer has finished with it (`later`), as a layer
    may not be changed from within its own events.

    Parameters
    ----------
    later : calls a function soon, from the window's loop.
    """

    def __init__(
        self, layer: Any, slide_layer: Any, document: RegionDocument, later: Callable[[Callable[[], None]], None]
    ) -> None:
        self.layer, self.slide_layer, self.document, self.later = layer, slide_layer, document, later
        self.keys: list[str] = []
        self.on_drawn: Callable[[list[Drawn]], None] = lambda drawn: None
        self.on_removed: Callable[[list[str]], None] = lambda keys: None
        self.on_changed: Callable[[dict[str, Any]], None] = lambda geometries: None
        self._is_showing = False
        self._has_new = False
        self.as_shown: set[str] = set()
        self._changed: set[str] = set()
        self._removed: set[str] = set()
        layer.events.data.connect(self._on_data)
        layer.events.features.connect(self._on_features)

    @property
    def is_points(self) -> bool:
        """Whether it is the layer for points."""
        return not hasattr(self.layer, "shape_type")

    @property
    def selected_keys(self) -> list[str]:
        """The regions whose shapes are selected."""
        chosen = sorted(int(index) for index in self.layer.selected_data)
        return list(dict.fromkeys(self.keys[index] for index in chosen if index < len(self.keys)))

    def select(self, keys: Iterable[str]) -> None:
        """Select the shapes of regions."""
        wanted = set(keys)
        self.layer.selected_data = {index for index, key in enumerate(self.keys) if key in wanted}

    def close(self) -> None:
        """Stop listening to the layer."""
        self.layer.events.data.disconnect(self._on_data)
        self.layer.events.features.disconnect(self._on_features)

    # -- from the document to the layer

    def takes(self, region: Region) -> bool:
        """Whether this layer shows such a region."""
        return (region.kind == "point") == self.is_points

    def show(self, keys: Iterable[str]) -> None:
        """Add the shapes of regions."""
        parts = [
            (key, region, vertices, kind)
            for key in keys
            if self.takes(region := self.document[key])
            for vertices, kind in drawable_parts(region.geometry)
        ]
        if not parts:
            return
        colors = np.asarray([_rgba(region) for _, region, _, _ in parts])
        self._is_showing = True
        try:
            self._add([vertices for *_, vertices, _ in parts], [kind for *_, kind in parts], colors)
            self.keys += [key for key, *_ in parts]
            self._write_rows(range(len(self.keys) - len(parts), len(self.keys)))
        finally:
            self._is_showing = False

    def _add(self, vertices: list[Any], kinds: list[str], colors: Any) -> None:
        if self.is_points:
            self.layer.add(np.concatenate(vertices))
            self._paint(range(len(self.keys), len(self.keys) + len(vertices)), colors)
            return
        faces = colors * (1, 1, 1, FACE_OPACITY)
        width = self.layer.current_edge_width if str(self.layer.mode) != "add_path" else self.line_width
        self.layer.add(vertices, shape_type=kinds, edge_color=colors, face_color=faces, edge_width=width)

    def hide(self, keys: Iterable[str]) -> None:
        """Take the shapes of regions away."""
        gone = set(keys)
        indices = [index for index, key in enumerate(self.keys) if key in gone]
        if not indices:
            return
        self._is_showing = True
        try:
            self._remove(indices)
            self.keys = [key for key in self.keys if key not in gone]
        finally:
            self._is_showing = False

    def _remove(self, indices: list[int]) -> None:
        if self.is_points:
            self.layer.selected_data = set(indices)
            self.layer.remove_selected()
        else:
            self.layer.remove(indices)

    def refresh_rows(self, keys: Iterable[str]) -> None:
        """Write class, name and colour of regions again; their outlines are as they were."""
        wanted = set(keys)
        rows = [index for index, key in enumerate(self.keys) if key in wanted]
        if rows:
            self._write_rows(rows)
            self._paint(rows, np.asarray([_rgba(self.document[self.keys[index]]) for index in rows]))

    def rebuild(self) -> None:
        """Show everything anew; for the rare cases in which napari's own tables have come apart."""
        self._is_showing = True
        try:
            self._remove(list(range(len(self.layer.data))))
            self.keys.clear()
        finally:
            self._is_showing = False
        self.show(self.document.keys)

    def _write_rows(self, rows: Iterable[int]) -> None:
        rows = list(rows)
        table = self.layer.features
        if list(table.columns) != list(COLUMNS) or len(table) != len(self.layer.data):
            defaults = dict(self.layer.feature_defaults.iloc[0]) if len(self.layer.feature_defaults) else {}
            self.layer.features = {name: np.full(len(self.layer.data), "", dtype=object) for name in COLUMNS}
            self.layer.feature_defaults = {name: defaults.get(name, "") for name in COLUMNS}
            # A shape that was just drawn may have no region yet.
            rows = [index for index, key in enumerate(self.keys) if key in self.document]
            table = self.layer.features
        values = [_row(self.document[self.keys[index]]) for index in rows]
        for column, name in enumerate(COLUMNS):
            table.loc[rows, name] = [value[column] for value in values]

    def _paint(self, rows: Iterable[int], colors: Any) -> None:
        rows = list(rows)
        if self.is_points:
            faces = np.asarray(self.layer.face_color).copy()
            faces[rows] = colors
            self.layer.face_color = faces
            return
        count = len(self.layer.data)
        edges, faces = (np.asarray(found)[:count].copy() for found in (self.layer.edge_color, self.layer.face_color))
        edges[rows] = colors
        faces[rows] = colors * (1, 1, 1, FACE_OPACITY)
        self.layer.edge_color, self.layer.face_color = edges, faces

    # -- how it looks

    line_width = 2.0

    def set_zoom(self, screen_px_per_um: float) -> None:
        """Keep lines and points as wide on the screen as they are, whatever the zoom."""
        size = float(np.mean(np.abs(self.layer.scale)))
        wanted = LINE_SCREEN_PX / max(screen_px_per_um * size, 1e-9)
        # Every width is a new mesh: only where it would be seen.
        if 0.62 < wanted / self.line_width < 1.6:
            return
        self.line_width = wanted
        if self.is_points:
            self.layer.size = wanted * POINT_SCREEN_PX / LINE_SCREEN_PX
            self.layer.current_size = wanted * POINT_SCREEN_PX / LINE_SCREEN_PX
        else:
            if len(self.layer.data):
                self.layer.edge_width = wanted
            if str(self.layer.mode) != "add_path":
                self.set_pen(width=wanted)

    def set_pen(
        self, color: tuple[int, int, int] | None = None, width: float | None = None, name: str | None = None
    ) -> None:
        """What the next shape looks like, and its class; selected shapes stay as they are."""
        with self.layer.block_update_properties():
            if color is not None:
                paint = np.asarray([*color, 255], dtype=float) / 255
                if self.is_points:
                    self.layer.current_face_color = paint
                else:
                    self.layer.current_edge_color = paint
                    self.layer.current_face_color = paint * (1, 1, 1, FACE_OPACITY)
            if width is not None and not self.is_points:
                self.layer.current_edge_width = width
            if name is not None:
                defaults = dict.fromkeys(COLUMNS, "")
                if list(self.layer.features.columns) != list(COLUMNS):
                    self._write_rows([])
                self.layer.feature_defaults = {**defaults, "class": name}

    # -- from the layer to the document

    def _on_data(self, event: Any) -> None:
        if self._is_showing:
            return
        action = str(getattr(event.action, "value", event.action)).lower()
        indices = [int(index) for index in event.data_indices]
        if action == "removed":
            self._removed |= {self.keys[index] for index in indices if -len(self.keys) <= index < len(self.keys)}
            gone = {index % len(self.keys) for index in indices if self.keys}
            self.keys = [key for index, key in enumerate(self.keys) if index not in gone]
            self.later(self.settle)
        elif action == "changed":
            self._changed |= {self.keys[index] for index in indices if 0 <= index < len(self.keys)}
            self.later(self.settle)
        elif action == "added":
            self._has_new = True
            self.later(self.settle)

    def _on_features(self, event: Any = None) -> None:
        # Pasting tells of nothing but its rows.
        if not self._is_showing and len(self.layer.data) > len(self.keys):
            self._has_new = True
            self.later(self.settle)

    @property
    def is_drawing(self) -> bool:
        """A shape is begun and not finished."""
        return len(self.layer.data) > len(self.keys) and not self._has_new

    def outline_begun(self) -> Any:
        """The shape that is being drawn as far as it goes, in level-0 pixels; None where it has no extent yet.

        Paths, which brush and eraser draw, are lines.
        """
        import shapely

        from napari_pathotune.drawings import to_px0
        from pathotune.regions.region import polygonal

        if self.is_points or not self.is_drawing:
            return None
        mode, corners = str(self.layer.mode), np.asarray(self.layer.data[-1], dtype=float)
        if mode == "add_polygon":
            corners = corners[:-1]  # the last one goes with the mouse
        xy = to_px0(self.layer, self.slide_layer, corners)
        if mode == "add_path":
            return shapely.LineString(xy) if len(xy) > 1 else None
        outline = polygonal(shapely.Polygon(xy)) if len(xy) > 2 else shapely.Polygon()
        return None if outline.is_empty else outline

    def finish_drawing(self) -> bool:
        """End the shape that is being drawn, as another tool would, and say whether there was one."""
        if not self.is_drawing:
            return False
        mode = self.layer.mode
        self.layer.mode = "pan_zoom"
        self.layer.mode = mode
        return True

    def settle(self) -> None:
        """Tell what happened on the layer since the last time, now that the layer has finished."""
        removed, changed, has_new = self._removed, self._changed, self._has_new
        self._removed, self._changed, self._has_new = set(), set(), False
        count = len(self.layer.data)
        if count < len(self.keys):
            # Taking a triangle's corner away takes the shape away, and napari says "changed".
            lost = changed or set(self.keys[count:])
            self.on_removed(sorted(lost))
            self.rebuild()
            return
        if has_new and count > len(self.keys):
            self._take_new(range(len(self.keys), count))
        # Of a region in several parts the others stay.
        changed |= removed & set(self.keys)
        removed -= changed
        if removed:
            self.on_removed(sorted(removed))
        if changed:
            outlines = {key: self._outline(key) for key in sorted(changed)}
            self.as_shown = {key for key, outline in outlines.items() if self._shows_exactly(key, outline)}
            try:
                self.on_changed(outlines)
            finally:
                self.as_shown = set()

    def _shows_exactly(self, key: str, outline: Any) -> bool:
        """Whether one shape of the layer is that outline, corner by corner: then it need not be drawn anew."""
        if self.keys.count(key) != 1:
            return False
        return self._is_plain(self.keys.index(key), outline)

    def _is_plain(self, index: int, outline: Any) -> bool:
        if self.is_points:
            return bool(outline.geom_type == "Point")
        kinds = self.layer.shape_type
        if outline.geom_type != "Polygon" or outline.interiors or str(kinds[index]) not in ("polygon", "rectangle"):
            return False
        # An outline that was untangled has other corners than the shape.
        return len(outline.exterior.coords) - 1 == len(self.layer.data[index])

    def _take_new(self, indices: range) -> None:
        rows = self.layer.features
        drawn = []
        for index in indices:
            name = str(rows["class"].iloc[index]) if "class" in rows and index < len(rows) else ""
            geometry = geometry_of(self.layer, index, self.slide_layer)
            key = str(uuid.uuid4()) if len(indices) == 1 and self._is_plain(index, geometry) else ""
            drawn.append(Drawn(geometry, "" if name == "nan" else name, key))
        kept = drawn[0].key
        if kept:
            self.keys.append(kept)
        else:
            # Strokes, cuts and crossing outlines come back as the document has them.
            self._drop(list(indices))
        self.on_drawn([one for one in drawn if not one.geometry.is_empty])
        if not kept:
            return
        index = self.keys.index(kept)
        if kept in self.document:
            self._write_rows([index])
        else:
            del self.keys[index]
            self._drop([index])

    def _drop(self, indices: list[int]) -> None:
        self._is_showing = True
        try:
            self._remove(indices)
        finally:
            self._is_showing = False

    def _outline(self, key: str) -> Any:
        """The outline of a region as its shapes have it now."""
        import shapely

        from pathotune.regions.region import polygonal

        parts = [geometry_of(self.layer, index, self.slide_layer) for index, own in enumerate(self.keys) if own == key]
        parts = [part for part in parts if not part.is_empty]
        if not parts:
            return shapely.Polygon()
        if self.is_points:
            return parts[0] if len(parts) == 1 else shapely.MultiPoint(parts)
        union = shapely.union_all(parts) if len(parts) > 1 else parts[0]
        return polygonal(union) if "Polygon" in union.geom_type else union


def new_layer(slide_layer: Any, points: bool, name: str) -> Any:
    """An empty layer for regions, on the slide's pixels and units."""
    from napari.layers import Points, Shapes

    slide = facts(slide_layer)["slide"]
    options: dict[str, Any] = {
        "name": name,
        "scale": pixel_um(slide),
        "units": units_of(slide),
        "features": {column: np.empty(0, dtype=object) for column in COLUMNS},
        "metadata": {KEY: {"kind": "regions", "bound": True, "slide_path": str(slide.path), "source": ""}},
    }
    if points:
        return Points(ndim=2, border_color="white", border_width=0.12, **options)
    return Shapes(ndim=2, **options)


def new_region(drawn: Drawn) -> Region:
    """A region as it was drawn by hand."""
    from pathotune.regions.region import Region

    return Region(drawn.geometry, drawn.class_name or None, id=drawn.key or str(uuid.uuid4()))


def _rgba(region: Region) -> tuple[float, float, float, float]:
    red, green, blue = region.color or DEFAULT_COLOR
    return red / 255, green / 255, blue / 255, 1.0


def _row(region: Region) -> tuple[str, ...]:
    kept = {key: value for key in ("properties", "members") if (value := getattr(region, key))}
    return (
        region.class_name or "",
        region.name,
        region.object_type,
        str(region.locked),
        region.id or "",
        json.dumps(kept, ensure_ascii=False) if kept else "",
    )
