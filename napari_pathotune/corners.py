"""Taking back the last corner of an outline that is drawn corner by corner; no Qt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari_pathotune.drawing_layers import BoundLayer

KEYS = ("Backspace", "Delete")
# Brush, lasso and the shapes that are dragged have no corners of their own to take back.
BY_CORNERS = ("add_polygon", "add_polyline")


def bind(bound: BoundLayer) -> None:
    """Have the keys take corners back on a layer; whenever no outline is drawn they are what napari has them be."""
    for key in () if bound.is_points else KEYS:
        bound.layer.bind_key(key, lambda layer, key=key: _on_key(bound, key), overwrite=True)


def take_back(bound: BoundLayer) -> bool:
    """Take the last corner back, with the only one the outline; False where none is drawn corner by corner."""
    layer = bound.layer
    if not bound.is_drawing or str(layer.mode) not in BY_CORNERS:
        return False
    index, vertices = len(layer.data) - 1, layer.data[-1]
    kept = vertices[:-1]  # the last one goes with the mouse
    # napari has no public call for a shape that is not finished.
    if len(kept) <= 1:
        layer._finish_drawing()  # as Enter does: of a single corner nothing is kept
        return True
    kept = vertices[[*range(len(kept) - 1), -1]]
    # Two points are no area: they are a path, as after the first click.
    layer._data_view.edit(index, kept, new_type="path" if len(kept) == 2 else None)
    layer._moving_value = layer._value = (index, len(kept) - 1)
    # Two clicks in one place are one corner: but not where the first one was taken back.
    layer._last_cursor_position = None
    layer.refresh()
    return True


def _on_key(bound: BoundLayer, key: str) -> None:
    if not take_back(bound):
        _as_napari(bound.layer, key)


def _as_napari(layer: Any, key: str) -> None:
    """Do what the key does on any other layer of this kind, as the person has set it in napari's preferences."""
    from napari.utils.key_bindings import coerce_keybinding

    wanted = coerce_keybinding(key)
    for kind in type(layer).__mro__:
        action = getattr(kind, "class_keymap", {}).get(wanted)
        if callable(action):
            action(layer)
            return
