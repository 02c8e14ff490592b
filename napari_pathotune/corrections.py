"""Suggested places of one slide and what a person decided about them, as regions of its document: no Qt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_pathotune.layers import KEY, facts, pixel_um, units_of

if TYPE_CHECKING:
    from napari_pathotune.slide_drawing import SlideDrawing
    from pathotune.inference.suggest import Place
    from pathotune.regions.region import Region

Array = np.ndarray[Any, Any]

# Seen on tissue, glass and overlays alike, and no class's colours.
CURRENT_RGBA, WAITING_RGBA = (1.0, 0.88, 0.1, 1.0), (1.0, 1.0, 1.0, 0.9)
FRAME_SCREEN_PX = 3.0
SAME_PX0 = 0.51  # how far apart two boxes may be written and still be one tile


class Round:
    """The places that were suggested together, in their order, and which of them is looked at.

    What was decided is not kept here but in the document, where it can be undone, is saved and can be changed by any
    other tool.

    Parameters
    ----------
    drawing : the slide's regions.
    places : as they were suggested.
    """

    def __init__(self, drawing: SlideDrawing, places: Sequence[Place]) -> None:
        self.drawing, self.places = drawing, list(places)
        self.current = 0
        self._skipped: set[int] = set()

    @property
    def place(self) -> Place:
        """The place that is looked at."""
        return self.places[self.current]

    @property
    def slide_path(self) -> str:
        """The slide the places lie on."""
        return str(facts(self.drawing.slide_layer)["path"])

    @property
    def skipped_px0(self) -> list[tuple[float, float]]:
        """Centres of the places the person had no answer to."""
        return [(self.places[index].x_px0, self.places[index].y_px0) for index in sorted(self._skipped)]

    def key_of(self, index: int) -> str:
        """The key of the correction that stands for a place; "" where there is none."""
        return correction_at(self.drawing, self.places[index])

    def answer(self, index: int) -> str:
        """The class a place was given; "" where it was given none."""
        key = self.key_of(index)
        return (self.drawing.document[key].class_name or "") if key else ""

    def is_skipped(self, index: int) -> bool:
        """Whether the person had no answer to a place."""
        return index in self._skipped and not self.key_of(index)

    def is_open(self, index: int) -> bool:
        """Whether a place is still to be decided."""
        return index not in self._skipped and not self.key_of(index)

    @property
    def open(self) -> list[int]:
        """The places still to be decided."""
        return [index for index in range(len(self.places)) if self.is_open(index)]

    @property
    def decided(self) -> list[int]:
        """The places that were given a class."""
        return [index for index in range(len(self.places)) if self.key_of(index)]

    def decide(self, class_name: str) -> str:
        """Say what the current place is: a correction joins the slide's regions, or the one there changes its class.

        Returns
        -------
        The key of the correction.
        """
        from pathotune.regions.region import correction

        self._skipped.discard(self.current)
        document, place = self.drawing.document, self.place
        key = self.key_of(self.current)
        if key:
            document.set_class([key], class_name)
            return key
        verb = "Accept" if class_name == place.class_name else "Correct to"
        return document.add([correction(place.box_px0, class_name)], f"{verb} {class_name}")[0]

    def skip(self) -> None:
        """Leave the current place undecided; a correction that is there is taken back."""
        key = self.key_of(self.current)
        if key:
            self.drawing.document.remove([key], "Skip a place")
        self._skipped.add(self.current)

    def step(self, by: int) -> int:
        """Go on by so many places, round at the ends."""
        self.current = (self.current + by) % len(self.places)
        return self.current

    def to_next_open(self) -> bool:
        """Go to the next place still to be decided, and say whether there is one."""
        count = len(self.places)
        for ahead in range(count):
            index = (self.current + ahead) % count
            if self.is_open(index):
                self.current = index
                return True
        return False


def correction_at(drawing: SlideDrawing, place: Place) -> str:
    """The key of the correction that is exactly this tile; "" where there is none."""
    import shapely

    document = drawing.document
    for key in reversed(document.touching(shapely.Point(place.x_px0, place.y_px0))):
        region = document[key]
        if region.is_correction and _is_box(region, place.box_px0):
            return key
    return ""


def _is_box(region: Region, box_px0: tuple[float, float, float, float]) -> bool:
    x, y, width, height = box_px0
    return bool(np.allclose(region.geometry.bounds, (x, y, x + width, y + height), atol=SAME_PX0, rtol=0))


# -- the frames on the slide ------------------------------------------------------------------------------------------


def frame_lines(boxes_px0: Sequence[tuple[float, float, float, float]]) -> Array:
    """The four sides of each box as start and direction (4 n, 2, 2), y before x, in a slide layer's own pixels."""
    lines = np.zeros((4 * len(boxes_px0), 2, 2))
    for index, (x, y, width, height) in enumerate(boxes_px0):
        left, top = x - 0.5, y - 0.5  # the centre of level-0 pixel (0, 0) lies at 0 there
        lines[4 * index : 4 * index + 4] = (
            ((top, left), (0, width)),
            ((top + height, left), (0, width)),
            ((top, left), (height, 0)),
            ((top, left + width), (height, 0)),
        )
    return lines


def frame_layer(drawing: SlideDrawing) -> Any:
    """An empty layer for frames around places: lines, as shapes would count as drawn regions."""
    from napari.layers import Vectors

    slide = drawing.slide
    return Vectors(
        np.zeros((0, 2, 2)),
        ndim=2,
        name="Suggested places",
        vector_style="line",
        opacity=1.0,
        edge_width=1.0,
        scale=pixel_um(slide),
        units=units_of(slide),
        metadata={KEY: {"kind": "suggestion", "slide_path": str(slide.path)}},
    )


def show_frames(layer: Any, suggested: Round, zoom: float) -> None:
    """Frame the places still to be decided, the current one in a colour of its own and on top.

    Parameters
    ----------
    layer : as `frame_layer` makes it.
    zoom : screen pixels per world unit; lines are as wide on the screen at any zoom.
    """
    waiting = [index for index in suggested.open if index != suggested.current]
    shown = [*waiting, suggested.current]
    colors = np.repeat([WAITING_RGBA] * len(waiting) + [CURRENT_RGBA], 4, axis=0)
    layer.data = frame_lines([suggested.places[index].box_px0 for index in shown])
    layer.edge_color = colors
    fit_width(layer, zoom)


def fit_width(layer: Any, zoom: float) -> None:
    """Keep the frames as wide on the screen as they are, where it would be seen."""
    wanted = FRAME_SCREEN_PX / max(zoom * float(np.mean(np.abs(layer.scale))), 1e-9)
    if not 0.7 < layer.edge_width / wanted < 1.4:
        layer.edge_width = wanted
