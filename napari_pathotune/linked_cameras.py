"""Two cameras that move together: by the same micrometres, at the same magnification, an offset between them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Offset = tuple[float, float]
# Less than this share of a screen pixel is rounding, and would be sent back and forth for ever.
SAME_PX = 1e-3
SAME_ZOOM = 1e-9


class LinkedCameras:
    """The second camera looks where the first one does, `offset_um` further; whichever moves, the other follows.

    While they are apart, each is moved by itself and the offset follows from where they are; they magnify alike all
    the same.

    Parameters
    ----------
    first, second : napari cameras of two viewers whose worlds are both in micrometres.
    offset_um : (y, x) from what the first one has in its middle to what the second one has there.
    later : calls a function in the next turn of the window's loop.
    """

    def __init__(self, first: Any, second: Any, offset_um: Offset, later: Callable[[Callable[[], None]], None]) -> None:
        self.first, self.second, self._later = first, second, later
        self._offset_um, self._is_apart = offset_um, False
        self._is_following = False
        self._has_shifted = False  # apart, and moved in this turn of the loop
        first.events.center.connect(self._on_first_moved)
        first.events.zoom.connect(self._on_first_zoomed)
        second.events.center.connect(self._on_second_moved)
        second.events.zoom.connect(self._on_second_zoomed)
        self._follow(first)

    def close(self) -> None:
        """Part them: neither follows the other any more."""
        for camera, moved, zoomed in (
            (self.first, self._on_first_moved, self._on_first_zoomed),
            (self.second, self._on_second_moved, self._on_second_zoomed),
        ):
            camera.events.center.disconnect(moved)
            camera.events.zoom.disconnect(zoomed)
        self._has_shifted = False

    @property
    def offset_um(self) -> Offset:
        """(y, x) from the first one's middle to the second one's."""
        self._take_offset()
        return self._offset_um

    @offset_um.setter
    def offset_um(self, value: Offset) -> None:
        self._has_shifted, self._offset_um = False, value
        self._follow(self.first)

    @property
    def is_apart(self) -> bool:
        """Each is moved by itself, to lay what they show side by side."""
        return self._is_apart

    @is_apart.setter
    def is_apart(self, value: bool) -> None:
        self._take_offset()
        self._is_apart = value

    def _on_first_moved(self, event: Any = None) -> None:
        self._on_moved(self.first)

    def _on_second_moved(self, event: Any = None) -> None:
        self._on_moved(self.second)

    def _on_first_zoomed(self, event: Any = None) -> None:
        self._on_zoomed(self.first)

    def _on_second_zoomed(self, event: Any = None) -> None:
        self._on_zoomed(self.second)

    def _on_moved(self, camera: Any) -> None:
        if self._is_following:
            return
        if not self._is_apart:
            self._follow(camera)
        elif not self._has_shifted:
            # The wheel magnifies about the mouse: napari tells of the middle first, and of the zoom in the same
            # breath. Only a middle that moved alone is a shift.
            self._has_shifted = True
            self._later(self._take_offset)

    def _on_zoomed(self, camera: Any) -> None:
        if not self._is_following:
            self._has_shifted = False
            self._follow(camera)

    def _take_offset(self) -> None:
        """The offset is what the person made of it while the two were apart."""
        if self._has_shifted:
            self._has_shifted = False
            shift = np.subtract(self.second.center[-2:], self.first.center[-2:])
            self._offset_um = float(shift[0]), float(shift[1])

    def _follow(self, leader: Any) -> None:
        """Have the other camera look where it should."""
        other, sign = (self.second, 1) if leader is self.first else (self.first, -1)
        center = np.add(leader.center[-2:], np.multiply(sign, self._offset_um))
        zoom = float(leader.zoom)
        self._is_following = True
        try:
            if np.abs(center - other.center[-2:]).max() * zoom > SAME_PX:
                other.center = (*other.center[:-2], float(center[0]), float(center[1]))
            if abs(other.zoom - zoom) > SAME_ZOOM * zoom:
                other.zoom = zoom
        finally:
            self._is_following = False
