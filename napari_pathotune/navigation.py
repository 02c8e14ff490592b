"""How strongly a view magnifies, where it lies on a slide, and where a click on its map leads: pure numbers."""

from __future__ import annotations

Box = tuple[float, float, float, float]

# Objectives people ask for, weakest first, and the key of each (with Ctrl).
MAGNIFICATIONS = (1.25, 5.0, 10.0, 20.0, 40.0)
# By convention of the scanner makers a 40× scan has 0.25 µm per pixel.
UM_PER_PX_AT_1X = 10.0
# A view of a gigapixel slide at 40× is less than a pixel on its map; the box is drawn at least this large.
SMALLEST_BOX = 6.0


def magnification_of(zoom: float) -> float:
    """What objective a view corresponds to.

    Parameters
    ----------
    zoom : screen pixels per micrometre.
    """
    return zoom * UM_PER_PX_AT_1X


def zoom_of(magnification: float) -> float:
    """Screen pixels per micrometre at an objective's magnification."""
    return magnification / UM_PER_PX_AT_1X


def magnification_text(magnification: float) -> str:
    """A magnification as it stands on an objective: 40×, 2.5×, 0.31×."""
    text = f"{magnification:.{0 if magnification >= 10 else 2}f}"
    return f"{text.rstrip('0').rstrip('.') if '.' in text else text}×"


def fitted(size: tuple[float, float], room: tuple[float, float]) -> tuple[float, float]:
    """The largest width and height of this shape that fit into the room."""
    scale = min(room[0] / max(size[0], 1e-9), room[1] / max(size[1], 1e-9))
    return size[0] * scale, size[1] * scale


def box_on_map(box_px0: Box, slide_px0: tuple[float, float], map_px: tuple[float, float]) -> Box:
    """(x, y, width, height) on a map of what the view shows, never too small to be seen.

    Parameters
    ----------
    box_px0 : the view in level-0 pixels.
    slide_px0, map_px : width and height of the slide in level-0 pixels and of the map in its own.
    """
    across, down = map_px[0] / slide_px0[0], map_px[1] / slide_px0[1]
    x, y, width, height = box_px0[0] * across, box_px0[1] * down, box_px0[2] * across, box_px0[3] * down
    wide, high = max(width, SMALLEST_BOX), max(height, SMALLEST_BOX)
    return x - (wide - width) / 2, y - (high - height) / 2, wide, high


def place_on_slide(
    x: float, y: float, slide_px0: tuple[float, float], map_px: tuple[float, float]
) -> tuple[float, float]:
    """The level-0 pixel under a point of the map; a point beside the map counts as its border."""
    across = min(max(x / map_px[0], 0.0), 1.0)
    down = min(max(y / map_px[1], 0.0), 1.0)
    return across * slide_px0[0], down * slide_px0[1]
