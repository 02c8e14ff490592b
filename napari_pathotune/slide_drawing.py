"""The regions of one open slide in the viewer: its document, layers, tools and keys; no Qt."""

from __future__ import annotations

import weakref
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_pathotune import corners
from napari_pathotune.drawing_layers import BoundLayer, Drawn, new_layer, new_region
from napari_pathotune.layers import facts
from napari_pathotune.reader import results_folder

if TYPE_CHECKING:
    from napari_pathotune.drawing_board import DrawingBoard
    from pathotune.regions.document import Change, RegionDocument
    from pathotune.regions.region import Region
    from pathotune.slides.slide import Slide

# Tool → the mode of the layer it is. Brush and eraser are freehand paths as wide as the brush.
SHAPE_TOOLS = {
    "move": "pan_zoom",
    "select": "select",
    "corners": "direct",
    "polygon": "add_polygon",
    "lasso": "add_polygon_lasso",
    "rectangle": "add_rectangle",
    "ellipse": "add_ellipse",
    "brush": "add_path",
    "eraser": "add_path",
}
POINT_TOOL = "point"
DRAWING_TOOLS = ("polygon", "lasso", "rectangle", "ellipse", "brush", POINT_TOOL)
SMALLEST_BRUSH, LARGEST_BRUSH = 4, 400
BRUSH_STEP = 1.25


class SlideDrawing:
    """The regions of one open slide: their document, where they are kept, and the layers that show them."""

    def __init__(self, board: DrawingBoard, slide_layer: Any) -> None:
        from pathotune.regions.keeping import Keeper
        from pathotune.settings import settings

        self._board = weakref.ref(board)
        self.slide_layer = slide_layer
        self.keeper = Keeper(self.slide, results_folder(), settings().cache_dir / "regions")
        self.document: RegionDocument = self.keeper.load()
        self.bound: dict[str, BoundLayer] = {}
        self.tool = "move"
        self.active_class = self.document.palette.names[0] if len(self.document.palette) else ""
        self.brush_px = 40
        self._path_tool = "brush"
        self._wheeled = 0.0  # parts of a notch, which touch pads send
        self._is_alt = False
        self._drew_since_press = False
        self.document.listeners.append(self._on_change)

    @property
    def board(self) -> DrawingBoard:
        """The board it belongs to."""
        board = self._board()
        if board is None:
            raise RuntimeError("the board of these drawings is gone")
        return board

    @property
    def slide(self) -> Slide:
        """The slide."""
        slide: Slide = facts(self.slide_layer)["slide"]
        return slide

    @property
    def selected_keys(self) -> list[str]:
        """The regions that are selected on their layers."""
        return [key for bound in self.bound.values() for key in bound.selected_keys]

    # -- layers

    def layer_for(self, points: bool = False) -> BoundLayer:
        """The layer of shapes or points, made and filled where it is not there."""
        kind = "points" if points else "shapes"
        viewer = self.board.session.viewer
        if kind not in self.bound:
            several = len(self.board.session.slide_layers) > 1
            name = ("Points" if points else "Regions") + (f" · {self.slide.name}" if several else "")
            layer = new_layer(self.slide_layer, points, name)
            bound = BoundLayer(layer, self.slide_layer, self.document, self.board.later)
            self.bound[kind] = bound
            bound.on_drawn, bound.on_removed, bound.on_changed = self._on_drawn, self._on_removed, self._on_outlines
            layer.mouse_drag_callbacks.insert(0, self._on_press)
            layer.mouse_wheel_callbacks.append(self._on_wheel)
            self._bind_keys(layer)
            corners.bind(bound)
            selected = set(viewer.layers.selection)
            viewer.add_layer(layer)
            viewer.layers.selection = selected
            layer.events.mode.connect(self._on_mode)
            bound.set_zoom(self.board.zoom)
            bound.show(self.document.keys)
            self._set_pens()
        return self.bound[kind]

    def show(self) -> None:
        """Have the layers that the regions need, with all regions on them."""
        kinds = {self.document[key].kind == "point" for key in self.document.keys}
        for points in sorted(kinds):
            self.layer_for(points)

    def part_from(self, layer: Any) -> None:
        """The person closed one of the layers: the regions stay, and come back with the next tool."""
        for kind, bound in list(self.bound.items()):
            if bound.layer is layer:
                bound.close()
                del self.bound[kind]

    def _on_change(self, change: Change) -> None:
        changed = [key for key in change.after if change.after[key] is not None]
        outlines = {key for key in changed if _outline_changed(change.before[key], change.after[key])}
        gone = {key for key, region in change.after.items() if region is None}
        selected = self.selected_keys
        for bound in self.bound.values():
            bound.hide(gone | {key for key in outlines - bound.as_shown if change.before[key] is not None})
        if any(change.after[key].kind == "point" for key in outlines):  # type: ignore[union-attr]
            self.layer_for(points=True)
        if any(change.after[key].kind != "point" for key in outlines):  # type: ignore[union-attr]
            self.layer_for()
        self._show_missing(outlines)
        rows = set(changed) - outlines
        if change.touches_palette:
            rows |= {key for key in self.document.keys if self._has_new_look(key, change)}
        if rows:
            for bound in self.bound.values():
                bound.refresh_rows(rows)
        still = [key for key in selected if key in self.document and key in change.after]
        if still:
            for bound in self.bound.values():
                if str(bound.layer.mode) in ("select", "direct"):
                    bound.select(still)
        if self.active_class and self.active_class not in self.document.palette:
            self.choose_class(self.document.palette.names[0] if len(self.document.palette) else "", assign=False)
        elif change.touches_palette:
            self._set_pens()
        self.board.changed.emit()

    def _show_missing(self, keys: set[str]) -> None:
        for bound in self.bound.values():
            bound.show(sorted(keys - set(bound.keys), key=self.document.place_of))

    def _has_new_look(self, key: str, change: Change) -> bool:
        name = self.document[key].class_name
        return change.palette_before.color_of(name) != change.palette_after.color_of(name)

    # -- what is drawn

    def _on_drawn(self, drawn: list[Drawn]) -> None:
        self._drew_since_press = True
        for one in drawn:
            self.board.trying(partial(self._take, one))

    def _take(self, drawn: Drawn) -> None:
        geometry, name = drawn.geometry, drawn.class_name
        if not self._is_on_slide(geometry):
            self.board.noted.emit("info", "What was drawn lies off the slide and was left out.")
            return
        if self.tool in ("brush", "eraser"):
            self.stroke(geometry, erase=self.tool == "eraser" or self._is_alt, class_name=name)
        elif self._is_alt and "Polygon" in geometry.geom_type:
            self.document.erase(geometry, name or None)
        else:
            self.document.add([new_region(self._cut_to_slide(drawn))])

    def _is_on_slide(self, geometry: Any) -> bool:
        return bool(geometry.intersects(self._slide_box()))

    def _slide_box(self) -> Any:
        from shapely import box

        return box(0, 0, self.slide.width_px0, self.slide.height_px0)

    def _cut_to_slide(self, drawn: Drawn) -> Drawn:
        """Without what lies off the slide, where there is nothing to learn."""
        from pathotune.regions.region import polygonal

        slide = self._slide_box()
        if "Polygon" not in drawn.geometry.geom_type or slide.covers(drawn.geometry):
            return drawn
        return replace(drawn, geometry=polygonal(drawn.geometry.intersection(slide)), key="")

    def stroke(self, path: Any, erase: bool = False, class_name: str | None = None) -> None:
        """Draw or erase along a path (a point or line in level-0 pixels) with the brush as it is."""
        area = path.buffer(self.brush_diameter_px0 / 2, quad_segs=12)
        name = self.active_class if class_name is None else class_name
        # As fine as the screen shows it: a stroke has no truth beyond that, and few corners stay fast.
        area = area.simplify(self.brush_diameter_px0 / self.brush_px / 2).intersection(self._slide_box())
        if erase:
            self.document.erase(area, name or None)
        else:
            self.document.paint(area, name or None)

    def _on_removed(self, keys: list[str]) -> None:
        if not self.board.trying(lambda: self.document.remove([key for key in keys if key in self.document])):
            self._show_missing(set(keys))

    def _on_outlines(self, geometries: dict[str, Any]) -> None:
        if not self.board.trying(lambda: self.document.reshape(geometries)):
            for bound in self.bound.values():
                bound.hide(geometries)
            self._show_missing(set(geometries))

    @property
    def brush_diameter_px0(self) -> float:
        """The brush's diameter in level-0 pixels, as wide on the screen as it is set."""
        size = float(np.mean(np.abs(self.slide_layer.scale[-2:])))
        return self.brush_px / max(self.board.zoom * size, 1e-9)

    @property
    def brush_um(self) -> float:
        """The brush's diameter in the slide's unit (µm, or pixels where the slide does not say)."""
        return self.brush_px / max(self.board.zoom, 1e-9)

    # -- tools and classes

    def choose_tool(self, tool: str) -> None:
        """Take a tool: its layer is selected in the viewer, and the canvas draws with it."""
        bound = self.layer_for(points=tool == POINT_TOOL)
        self.tool = tool
        if tool in ("brush", "eraser"):
            self._path_tool = tool
        layers = self.board.session.viewer.layers
        for other in self.bound.values():
            if other is not bound and other.layer.selected_data:
                other.layer.selected_data = set()
        layers.selection.active = bound.layer
        bound.layer.visible = True
        bound.layer.mode = "add" if tool == POINT_TOOL else SHAPE_TOOLS[tool]
        self._set_pens()
        self.board.tool_changed.emit(tool)

    def set_brush(self, screen_px: float) -> None:
        """How wide the brush is on the screen."""
        self.brush_px = int(min(max(round(screen_px), SMALLEST_BRUSH), LARGEST_BRUSH))
        self._set_pens()
        self.board.tool_changed.emit(self.tool)

    def choose_class(self, name: str, assign: bool = True) -> None:
        """Draw with a class from now on; regions that are selected become of it.

        Parameters
        ----------
        assign : whether selected regions become of this class.
        """
        self.active_class = name
        self._set_pens()
        keys = self.selected_keys
        # While she draws, a class is for what comes next: napari leaves the last shape selected.
        if assign and keys and self.tool in ("select", "corners"):
            self.board.trying(lambda: self.document.set_class(keys, name or None))
        self.board.class_changed.emit()

    def _set_pens(self) -> None:
        color = self.document.palette.color_of(self.active_class) or (128, 128, 128)
        for kind, bound in self.bound.items():
            is_brush = kind == "shapes" and self.tool in ("brush", "eraser")
            width = self.brush_diameter_px0 if is_brush else bound.line_width
            bound.set_pen((90, 90, 90) if self.tool == "eraser" else color, width, self.active_class)

    def _on_mode(self, event: Any) -> None:
        """A mode chosen with napari's own buttons and keys is the tool of that mode."""
        mode = str(event.source.mode)
        known = {mode_: tool for tool, mode_ in SHAPE_TOOLS.items()}
        tool = POINT_TOOL if mode == "add" else self._path_tool if mode == "add_path" else known.get(mode, "")
        if tool and tool != self.tool and SHAPE_TOOLS.get(self.tool) != mode:
            self.tool = tool
            self._set_pens()
            self.board.tool_changed.emit(tool)

    def _on_press(self, layer: Any, event: Any) -> Any:
        """Remember Alt; a click with the brush that is no drag is a dab."""
        self._is_alt = "Alt" in event.modifiers
        start = np.asarray(event.position, dtype=float)
        is_brush = str(layer.mode) == "add_path"
        self._drew_since_press = False
        yield
        while event.type == "mouse_move":
            yield
        if is_brush and not self._drew_since_press:
            self.board.later(lambda: self._dab(layer, start))

    def _on_wheel(self, layer: Any, event: Any) -> None:
        """Shift and the wheel make the brush wider and narrower; Ctrl, Alt and the wheel alone are napari's."""
        if self.tool not in ("brush", "eraser") or list(event.modifiers) != ["Shift"]:
            return
        # With Shift some systems turn the wheel into a sideways one.
        self._wheeled += float(np.sum(event.delta))
        notches = int(self._wheeled)
        self._wheeled -= notches
        if notches:
            self.set_brush(self.brush_px * BRUSH_STEP**notches)

    def _dab(self, layer: Any, position: Any) -> None:
        from shapely import Point

        from napari_pathotune.drawings import to_px0

        if self._drew_since_press:
            return
        bound = self.bound.get("shapes")
        if bound is not None:
            bound.finish_drawing()
            bound.settle()
        if not self._drew_since_press:
            x, y = to_px0(layer, self.slide_layer, np.asarray([layer.world_to_data(position)]))[0]
            erase = self.tool == "eraser" or self._is_alt
            self.board.trying(lambda: self.stroke(Point(x, y), erase))

    def _bind_keys(self, layer: Any) -> None:
        """Keys that hold while a layer of regions is selected: classes, undo, and QuPath's brush, move and points."""
        for number in range(1, 10):
            layer.bind_key(str(number), lambda _, at=number - 1: self._choose_numbered(at), overwrite=True)
        layer.bind_key("0", lambda _: self.choose_class(""), overwrite=True)
        for key, tool in (("B", "brush"), ("X", "eraser"), ("M", "move"), (".", POINT_TOOL), ("V", "corners")):
            layer.bind_key(key, lambda _, tool=tool: self.choose_tool(tool), overwrite=True)
        if layer.__class__.__name__ == "Points":
            for key, tool in (("P", "polygon"), ("Shift-P", "lasso"), ("R", "rectangle"), ("E", "ellipse")):
                layer.bind_key(key, lambda _, tool=tool: self.choose_tool(tool), overwrite=True)
        for key, change in (("[", 1 / BRUSH_STEP), ("]", BRUSH_STEP)):
            layer.bind_key(key, lambda _, change=change: self.set_brush(self.brush_px * change), overwrite=True)

    def _choose_numbered(self, at: int) -> None:
        if at < len(self.document.palette):
            self.choose_class(self.document.palette.names[at])

    # -- undo

    def undo(self) -> None:
        """Take the last step back; a shape that is being drawn is dropped instead."""
        for bound in self.bound.values():
            if bound.finish_drawing():
                steps = self.document.undo_label
                count = len(self.document)
                bound.settle()
                if (self.document.undo_label, len(self.document)) != (steps, count):
                    self.document.undo()
                return
        self.document.undo()

    def redo(self) -> None:
        """Do the step again that was taken back last."""
        self.document.redo()

    # -- keeping

    def keep_draft(self) -> None:
        """Have the journal keep what is being drawn: a long outline is no region before its last corner."""
        from pathotune.regions.region import Region

        if self.keeper.journal is not None:
            outline = self._drawn_so_far()
            # Without an id of its own it gets one by its outline, so that what is unchanged is not written again.
            self.keeper.journal.keep_draft(None if outline is None else Region(outline, self.active_class or None))

    def _drawn_so_far(self) -> Any:
        bound = self.bound.get("shapes")
        outline = None if bound is None or self.tool == "eraser" or self._is_alt else bound.outline_begun()
        if outline is None or not self._is_on_slide(outline):
            return None
        return outline.buffer(self.brush_diameter_px0 / 2) if outline.geom_type == "LineString" else outline

    def begin(self) -> str:
        """Start the journal; returns what the person should know of it."""
        return self.keeper.begin()

    def close(self) -> None:
        """Save what is drawn and end the journal."""
        from pathotune.errors import PathotuneError

        try:
            self.keeper.close()
        except PathotuneError as error:
            self.board.noted.emit("error", str(error))


def _outline_changed(before: Region | None, after: Region | None) -> bool:
    return before is None or after is None or before.geometry is not after.geometry
