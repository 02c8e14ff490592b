"""From regions to tiles with a class, by the one rule that tuning and evaluation share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from pathotune.errors import UsageError
from pathotune.regions.labelled import FloatArray, LabelledTiles, RegionReport
from pathotune.regions.region import Region, polygonal

CHUNK = 20_000  # tiles looked at together, which bounds the memory of a region that spans the slide
ON_SLIDE = 0.5  # part of a tile that has to lie on the slide
SAME_SIZE = 1.01  # a region up to so many times as large as a tile is that tile, whatever rounding its file did


def label_tiles(
    regions: Sequence[Region],
    slide_size_px0: tuple[float, float],
    tile_px0: tuple[float, float],
    class_names: Sequence[str],
    *,
    overlap: float = 0.5,
    min_cover: float = 0.5,
) -> tuple[LabelledTiles, list[RegionReport]]:
    """Lay tiles on regions.

    A tile takes the class of the region that covers its centre and at least `min_cover` of its area; where regions
    overlap the area belongs to the smallest of them, and area in ``Ignore*`` to none. Each region gives one tile on its
    centroid (on a point inside, where the centroid lies outside) and a grid around that tile where it is larger. A
    region no larger than a tile gives that one tile whatever its coverage, and a point does too; so a correction, the
    square of one tile, gives exactly that tile.

    Parameters
    ----------
    regions : regions of one slide, in its level-0 pixels.
    slide_size_px0 : width and height of the slide.
    tile_px0 : width and height of a tile in level-0 pixels.
    class_names : the classes to learn, in the order of their labels.
    overlap : part of a tile that its neighbour in the grid of a region shares (0 to 0.9).
    min_cover : part of a tile its region has to cover.

    Returns
    -------
    the tiles, in the order of the regions, and one report for each region.

    Raises
    ------
    UsageError : `overlap`, `min_cover` or the sizes are out of range.
    """
    if not 0 <= overlap <= 0.9:
        raise UsageError(f"Tiles cannot overlap by {overlap:g}; choose a part from 0 to 0.9.")
    if not 0 < min_cover <= 1:
        raise UsageError(f"A tile cannot be asked to be covered to {min_cover:g}; choose a part above 0 and up to 1.")
    if min(*slide_size_px0, *tile_px0) <= 0:
        raise UsageError(f"A tile of {tile_px0} on a slide of {slide_size_px0} pixels has no area.")
    layer = _Layer(regions, slide_size_px0, tile_px0, tuple(class_names), overlap, min_cover)
    return layer.lay()


class _Layer:
    """The work of `label_tiles` on one slide."""

    def __init__(
        self,
        regions: Sequence[Region],
        slide_size_px0: tuple[float, float],
        tile_px0: tuple[float, float],
        class_names: tuple[str, ...],
        overlap: float,
        min_cover: float,
    ) -> None:
        self.regions = regions
        self.slide = np.asarray(slide_size_px0, dtype=np.float64)
        self.tile = np.asarray(tile_px0, dtype=np.float64)
        self.class_names = class_names
        self.labels = {name: label for label, name in enumerate(class_names)}
        self.stride = self.tile * (1 - overlap)
        self.min_cover = min_cover
        self.geometries = np.empty(len(regions), dtype=object)
        self.geometries[:] = [_with_area(region.geometry) for region in regions]
        self.area = shapely.area(self.geometries)
        self.tile_area = float(np.prod(self.tile))
        # Of two regions the smaller wins; the one drawn first where they are equal. Ignore* wins over all.
        self.rank = np.empty(len(regions), dtype=np.int64)
        self.rank[np.lexsort((np.arange(len(regions)), self.area))] = np.arange(len(regions))
        self.is_ignore = np.asarray([region.is_ignore for region in regions], dtype=bool)
        self.rank[self.is_ignore] = -1
        self.is_correction = np.asarray([region.is_correction for region in regions], dtype=bool)
        has_class = np.asarray([region.is_training_class or region.is_ignore for region in regions], dtype=bool)
        self.owners = np.flatnonzero(has_class & (self.area > 0))
        self.tree = shapely.STRtree(self.geometries[self.owners])

    def lay(self) -> tuple[LabelledTiles, list[RegionReport]]:
        causes = [self._cause(region, index) for index, region in enumerate(self.regions)]
        usable = np.asarray([cause == "" for cause in causes], dtype=bool)
        is_point = np.asarray([region.kind == "point" for region in self.regions], dtype=bool)
        single = usable & (is_point | (self.area <= SAME_SIZE * self.tile_area))
        centres: dict[int, FloatArray] = {}
        lost: dict[int, Counter[str]] = {}
        self._single_tiles(np.flatnonzero(single), is_point, centres, lost)
        for index in np.flatnonzero(usable & ~single).tolist():
            found: list[FloatArray] = []
            lost[index] = Counter()
            for part in _largest_first(self.geometries[index]):
                found += self._grid_tiles(index, part, lost[index])
            if not found:
                found += self._last_try(index, lost[index])
            centres[index] = np.concatenate(found) if found else np.zeros((0, 2))
        return self._tiles(centres), [
            self._report(index, causes[index], centres.get(index), lost.get(index, Counter()))
            for index in range(len(self.regions))
        ]

    def _cause(self, region: Region, index: int) -> str:
        """Why a region gives no tiles whatever its place, or "" where it may."""
        if region.kind == "line":
            return "line"
        if region.class_name is None:
            return "no class"
        if region.is_ignore:
            return "ignore"
        if not region.is_training_class:
            return "no training class"
        if region.class_name not in self.labels:
            return "other class"
        if region.kind != "point" and self.area[index] <= 0:
            return "no area"
        return ""

    def _single_tiles(
        self,
        indices: NDArray[np.int64],
        is_point: NDArray[np.bool_],
        centres: dict[int, FloatArray],
        lost: dict[int, Counter[str]],
    ) -> None:
        """One centred tile for each small region, one for each point; all at once, as there may be many thousands."""
        geometries = self.geometries[indices]
        points = shapely.centroid(geometries)
        outside = ~shapely.intersects(geometries, points)
        points[outside] = shapely.point_on_surface(geometries[outside])
        owner, places = indices, points
        several = np.flatnonzero(is_point[indices])
        if len(several):
            parts, number = shapely.get_parts(geometries[several], return_index=True)
            rest = np.setdiff1d(np.arange(len(indices)), several)
            owner = np.concatenate([indices[rest], indices[several][number]])
            places = np.concatenate([points[rest], parts])
        xy = np.stack([shapely.get_x(places), shapely.get_y(places)], axis=1) if len(places) else np.zeros((0, 2))
        taken = self._taken(places, owner)
        # A correction was predicted, so it has been read there: it may hang over the slide's corner.
        off = self._is_off_slide(xy) & ~self.is_correction[owner]
        for index in indices:
            centres[int(index)] = np.zeros((0, 2))
        order = np.argsort(owner, kind="stable")
        for start, stop, index in _runs(owner[order]):
            rows = order[start:stop]
            centres[index] = xy[rows][~off[rows] & (taken[rows] == 0)]
            lost[index] = Counter(
                {
                    "off slide": int(off[rows].sum()),
                    "smaller region": int(((taken[rows] == 1) & ~off[rows]).sum()),
                    "ignored area": int(((taken[rows] == 2) & ~off[rows]).sum()),
                }
            )

    def _taken(self, points: NDArray[np.object_], owner: NDArray[np.int64]) -> NDArray[np.int64]:
        """For each point: 0 free, 1 lies in a region that wins over its owner, 2 lies in Ignore*."""
        taken = np.zeros(len(points), dtype=np.int64)
        which, other = self._winners(points, owner)
        np.maximum.at(taken, which, np.where(self.is_ignore[other], 2, 1))
        return taken

    def _winners(
        self, places: NDArray[np.object_], owner: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Pairs (place, region) where the region touches the place and wins over the place's owner.

        The tree only compares boxes: its own exact test would walk a whole outline for every place, while a prepared
        outline is asked here, and only where the answer matters.
        """
        which, position = self.tree.query(places)
        other = self.owners[position]
        wins = (other != owner[which]) & (self.rank[other] < self.rank[owner[which]])
        which, other = which[wins], other[wins]
        shapely.prepare(self.geometries[np.unique(other)])
        touches = shapely.intersects(self.geometries[other], places[which])
        return which[touches], other[touches]

    def _is_off_slide(self, centres: FloatArray) -> NDArray[np.bool_]:
        """Tiles of which less than half lies on the slide."""
        low = np.maximum(centres - self.tile / 2, 0)
        high = np.minimum(centres + self.tile / 2, self.slide)
        return np.asarray(np.prod(np.maximum(high - low, 0), axis=1) < ON_SLIDE * self.tile_area)

    def _grid_tiles(self, index: int, part: BaseGeometry, lost: Counter[str]) -> list[FloatArray]:
        """Centres of the tiles on one polygon of a region that is larger than a tile."""
        if part.area < self.min_cover * self.tile_area:
            return []
        shapely.prepare(part)
        anchor = part.centroid if part.covers(part.centroid) else part.point_on_surface()
        found = []
        for centres in self._grid(np.asarray([anchor.x, anchor.y]), part.bounds):
            inside = centres[shapely.intersects_xy(part, centres[:, 0], centres[:, 1])]
            off = self._is_off_slide(inside)
            lost["off slide"] += int(off.sum())
            kept = self._covered(index, part, inside[~off], lost)
            if len(kept):
                found.append(kept)
        return found

    def _grid(self, anchor: FloatArray, bounds: tuple[float, float, float, float]) -> Iterator[FloatArray]:
        """Grid points around the anchor inside the bounds, row by row, in chunks."""
        low = np.ceil((np.asarray(bounds[:2]) - anchor) / self.stride).astype(int)
        high = np.floor((np.asarray(bounds[2:]) - anchor) / self.stride).astype(int)
        xs = anchor[0] + self.stride[0] * np.arange(low[0], high[0] + 1)
        ys = anchor[1] + self.stride[1] * np.arange(low[1], high[1] + 1)
        rows = max(1, CHUNK // max(1, len(xs)))
        for start in range(0, len(ys), rows):
            x, y = np.meshgrid(xs, ys[start : start + rows])
            yield np.stack([x.ravel(), y.ravel()], axis=1)

    def _covered(self, index: int, part: BaseGeometry, centres: FloatArray, lost: Counter[str]) -> FloatArray:
        """Those of the tiles whose centre and enough of whose area belong to the region."""
        if not len(centres):
            return centres
        boxes = self._boxes(centres)
        cover = np.full(len(centres), self.tile_area)
        cut = np.flatnonzero(~shapely.covers(part, boxes))
        if len(cut):
            cover[cut] = _areas_inside(part, boxes[cut])
        enough = cover >= self.min_cover * self.tile_area
        lost["thin"] += int((~enough).sum())
        centres, boxes, cover = centres[enough], boxes[enough], cover[enough]
        taken = self._taken(shapely.points(centres), np.full(len(centres), index))
        less = self._area_of_winners(index, part, boxes)
        short = (taken > 0) | (cover - less < self.min_cover * self.tile_area)
        lost["ignored area"] += int((taken == 2).sum())
        lost["smaller region"] += int((short & (taken != 2)).sum())
        return centres[~short]

    def _area_of_winners(self, index: int, part: BaseGeometry, boxes: NDArray[np.object_]) -> FloatArray:
        """Area of each tile that lies in this region and in one that wins over it."""
        less = np.zeros(len(boxes))
        which, other = self._winners(boxes, np.full(len(boxes), index))
        order = np.argsort(which, kind="stable")
        which, other = which[order], other[order]
        for start, stop, tile in _runs(which):
            pieces = shapely.intersection(self.geometries[other[start:stop]], boxes[tile])
            union = pieces[0] if len(pieces) == 1 else shapely.union_all(pieces)
            less[tile] = shapely.area(shapely.intersection(union, part))
        return less

    def _last_try(self, index: int, lost: Counter[str]) -> list[FloatArray]:
        """A region whose grid missed it: one tile in its widest place, if that is covered enough."""
        part = _largest_first(self.geometries[index])[0]
        circle = shapely.maximum_inscribed_circle(part, tolerance=float(self.tile.min()) / 20)
        centre = np.asarray(shapely.get_coordinates(circle)[:1], dtype=np.float64)
        if not len(centre) or self._is_off_slide(centre).any():
            return []
        kept = self._covered(index, part, centre, lost)
        return [kept] if len(kept) else []

    def _boxes(self, centres: FloatArray) -> NDArray[np.object_]:
        low, high = centres - self.tile / 2, centres + self.tile / 2
        return np.asarray(shapely.box(low[:, 0], low[:, 1], high[:, 0], high[:, 1]))

    def _tiles(self, centres: dict[int, FloatArray]) -> LabelledTiles:
        filled = [(index, centres[index]) for index in sorted(centres) if len(centres[index])]
        corners = np.concatenate([xy for _, xy in filled]) - self.tile / 2 if filled else np.zeros((0, 2))
        sizes = [len(xy) for _, xy in filled]
        region = np.repeat(np.asarray([index for index, _ in filled], dtype=np.int64), sizes)
        label = [self.labels[str(self.regions[index].class_name)] for index, _ in filled]
        # One that has grown under the brush is a region like any other.
        decided = [self.is_correction[index] and len(xy) == 1 for index, xy in filled]
        return LabelledTiles(
            corners[:, 0],
            corners[:, 1],
            np.repeat(np.asarray(label, dtype=np.int64), sizes),
            region,
            np.zeros(len(corners), dtype=np.int64),
            self.class_names,
            np.full(len(corners), self.tile[0]),
            np.full(len(corners), self.tile[1]),
            is_correction=np.repeat(np.asarray(decided, dtype=bool), sizes),
        )

    def _report(self, index: int, cause: str, centres: FloatArray | None, lost: Counter[str]) -> RegionReport:
        region = self.regions[index]
        tiles = 0 if centres is None else len(centres)
        reason = ""
        if cause:
            reason = self._sentence(cause, region)
        elif not tiles:
            cause = max(lost, key=lambda what: lost[what]) if any(lost.values()) else "thin"
            reason = self._sentence(cause, region)
        elif lost["off slide"]:
            cause, reason = "off slide", f"{lost['off slide']} tiles lie off the slide and were left out."
        return RegionReport(index, region.class_name, region.name, region.kind, tiles, reason, cause)

    def _sentence(self, cause: str, region: Region) -> str:
        name = region.class_name or ""
        if cause == "other class":
            same = [known for known in self.class_names if known.casefold() == name.casefold()]
            if same:
                return f"The class {name!r} is written differently from {same[0]!r}: map it with '{name}={same[0]}'."
            return f"The class {name!r} is none of the task's ({', '.join(self.class_names)}): map it or leave it."
        size = f"{self.tile[0]:.0f} × {self.tile[1]:.0f} level-0 pixels"
        return {
            "line": "A line has no area: it is kept, but gives no tiles.",
            "no class": "The region has no class: give it one.",
            "ignore": "The area is excluded, as Ignore* says.",
            "no training class": f"The class {name!r} ends in * and is no training class, as in QuPath.",
            "no area": "The outline encloses no area: draw it again.",
            "thin": f"The region is nowhere wide enough to cover {self.min_cover:.0%} of a tile of {size}.",
            "off slide": "The region lies off the slide.",
            "smaller region": "The region is covered by smaller regions, which win where regions overlap.",
            "ignored area": "The region lies in an area that Ignore* excludes.",
        }[cause]


def _with_area(geometry: BaseGeometry) -> BaseGeometry:
    """Polygons made valid, so that areas and overlaps can be computed; anything else as it is."""
    return polygonal(geometry) if geometry.geom_type.endswith("Polygon") else geometry


def _largest_first(geometry: BaseGeometry) -> list[BaseGeometry]:
    parts = [part for part in shapely.get_parts(geometry) if part.geom_type == "Polygon"]
    return sorted(parts, key=lambda part: -part.area)


def _areas_inside(part: BaseGeometry, boxes: NDArray[np.object_]) -> FloatArray:
    """Area of each box inside the polygon.

    Boxes of one grid row are cut out of that row's strip of the polygon, so that an outline of many thousand corners is
    not walked once for every box.
    """
    bounds = shapely.bounds(boxes)
    areas = np.zeros(len(boxes))
    tops, row = np.unique(bounds[:, 1], return_inverse=True)
    if len(boxes) < 2 * len(tops) or shapely.get_num_coordinates(part) < 200:
        return np.asarray(shapely.area(shapely.intersection(part, boxes)))
    for number in range(len(tops)):
        rows = np.flatnonzero(row == number)
        x0, y0, x1, y1 = bounds[rows].min(axis=0)[[0, 1]].tolist() + bounds[rows].max(axis=0)[[2, 3]].tolist()
        strip = shapely.intersection(part, shapely.box(x0, y0, x1, y1))
        areas[rows] = shapely.area(shapely.intersection(strip, boxes[rows]))
    return areas


def _runs(values: NDArray[np.int64]) -> Iterator[tuple[int, int, int]]:
    """(start, stop, value) of each run of equal values in a sorted array."""
    if not len(values):
        return
    starts = np.flatnonzero(np.r_[True, values[1:] != values[:-1]])
    stops = np.r_[starts[1:], len(values)]
    for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
        yield start, stop, int(values[start])
