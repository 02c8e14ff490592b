"""What a person drew on a slide: outlines with a class, in level-0 pixels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, overload

import numpy as np
import shapely
from numpy.typing import ArrayLike, NDArray
from shapely.geometry.base import BaseGeometry

from pathotune.errors import UsageError

ELLIPSE_CORNERS = 64
# The property of a region under which what is ours stands.
OWN_PROPERTY = "pathotune"
# Where QuPath keeps what is written about an object.
METADATA, DESCRIPTION = "metadata", "ANNOTATION_DESCRIPTION"


@dataclass(frozen=True)
class Region:
    """One drawn object.

    Parameters
    ----------
    geometry : shapely geometry in level-0 pixels of the slide's canvas, x then y.
    class_name : what it is; None where nobody said. As in QuPath, a name ending in ``*`` is no training class.
    color : red, green, blue (0..255) of the class, or of the object where it has no class.
    object_type : QuPath's objectType ("annotation", "detection", "cell", "tile").
    name : the object's own name.
    locked : whether it is protected from editing.
    properties : the object's properties exactly as they stood in its file, measurements and unknown ones included;
        the fields above win over them when the region is written.
    id : the object's identifier.
    members : members of the feature beside geometry and properties, kept as they are (a cell's nucleus, for example).
    """

    geometry: BaseGeometry
    class_name: str | None = None
    color: tuple[int, int, int] | None = None
    object_type: str = "annotation"
    name: str = ""
    locked: bool = False
    properties: dict[str, Any] = field(default_factory=dict)
    id: str | None = None
    members: dict[str, Any] = field(default_factory=dict)

    @property
    def is_training_class(self) -> bool:
        """Whether tiles may be learned from it: it has a class, and the class does not end in ``*``."""
        return self.class_name is not None and not self.class_name.endswith("*")

    @property
    def is_ignore(self) -> bool:
        """Whether it says that its area is not to be used (class ``Ignore*``)."""
        return self.class_name is not None and self.class_name.casefold() == "ignore*"

    @property
    def is_correction(self) -> bool:
        """Whether it is one tile that was suggested and then decided by a person."""
        ours = self.properties.get(OWN_PROPERTY)
        return isinstance(ours, dict) and ours.get("correction") is True

    @property
    def notes(self) -> str:
        """What was written about it, as QuPath keeps an annotation's description."""
        metadata = self.properties.get(METADATA)
        return str(metadata.get(DESCRIPTION) or "") if isinstance(metadata, dict) else ""

    def described(self, name: str, notes: str) -> Region:
        """The same region with another name and other notes; "" for none."""
        found = self.properties.get(METADATA)
        metadata = {key: value for key, value in found.items() if key != DESCRIPTION} if isinstance(found, dict) else {}
        if notes:
            metadata[DESCRIPTION] = notes
        properties = {key: value for key, value in self.properties.items() if key != METADATA}
        if metadata:
            properties[METADATA] = metadata
        return replace(self, name=name, properties=properties)

    @property
    def kind(self) -> str:
        """ "polygon", "point", "line" or "mixed", whatever the number of parts."""
        plain = self.geometry.geom_type.removeprefix("Multi").casefold()
        return {"polygon": "polygon", "point": "point", "linestring": "line", "linearring": "line"}.get(plain, "mixed")


def correction(box_px0: tuple[float, float, float, float], class_name: str) -> Region:
    """The region that says what one tile is: its square, marked as a correction.

    Parameters
    ----------
    box_px0 : x, y, width and height of the tile in level-0 pixels.
    class_name : what it is.
    """
    x, y, width, height = box_px0
    square = shapely.box(x, y, x + width, y + height)
    return Region(square, class_name, properties={OWN_PROPERTY: {"correction": True}})


class Regions(Sequence[Region]):
    """The regions of one slide, in the order they were drawn or stood in their file.

    Parameters
    ----------
    regions : the regions.
    source : path of the file they came from, or a word for where.
    origin_px0 : where the origin of that file lies on the slide's canvas (x, y); already added to the geometries.
    warnings : sentences about what was repaired, left out or doubtful when they were read.
    """

    def __init__(
        self,
        regions: Iterable[Region] = (),
        source: str = "",
        origin_px0: tuple[float, float] = (0.0, 0.0),
        warnings: Iterable[str] = (),
    ) -> None:
        self.regions: tuple[Region, ...] = tuple(regions)
        self.source = source
        self.origin_px0 = origin_px0
        self.warnings: tuple[str, ...] = tuple(warnings)

    @overload
    def __getitem__(self, index: int) -> Region: ...
    @overload
    def __getitem__(self, index: slice) -> Regions: ...
    def __getitem__(self, index: int | slice) -> Region | Regions:
        if isinstance(index, slice):
            return self.with_regions(self.regions[index])
        return self.regions[index]

    def __len__(self) -> int:
        return len(self.regions)

    def __iter__(self) -> Iterator[Region]:
        return iter(self.regions)

    def __repr__(self) -> str:
        drawn = ", ".join(f"{name or 'no class'} {count}" for name, count in self.counts.items())
        return f"Regions({self.source or 'drawn'}: {drawn or 'none'})"

    @property
    def geometries(self) -> NDArray[np.object_]:
        """The shapely geometries as one array, for vectorised work."""
        out = np.empty(len(self.regions), dtype=object)
        out[:] = [region.geometry for region in self.regions]
        return out

    @property
    def counts(self) -> dict[str | None, int]:
        """How many regions each class has; None counts those without."""
        return dict(Counter(region.class_name for region in self.regions))

    def class_names(self) -> list[str]:
        """Names of the training classes, in alphabetical order, so that the order of files does not matter."""
        names = {region.class_name for region in self.regions if region.is_training_class}
        return sorted((name for name in names if name is not None), key=str.casefold)

    def by_class(self) -> dict[str | None, list[Region]]:
        """Regions sorted into their classes."""
        sorted_in: dict[str | None, list[Region]] = {}
        for region in self.regions:
            sorted_in.setdefault(region.class_name, []).append(region)
        return sorted_in

    def class_colors(self) -> dict[str, tuple[int, int, int]]:
        """The colour each class has in the file (the first one found)."""
        colors: dict[str, tuple[int, int, int]] = {}
        for region in self.regions:
            if region.class_name is not None and region.color is not None:
                colors.setdefault(region.class_name, region.color)
        return colors

    def with_regions(self, regions: Iterable[Region]) -> Regions:
        """The same source and origin with other regions."""
        return Regions(regions, self.source, self.origin_px0, self.warnings)

    def map_classes(self, mapping: Mapping[str, str]) -> Regions:
        """Rename classes; a class mapped to the empty text loses its class and is not used.

        A renamed region takes the colour that regions of the new name already have; where there are none it keeps
        its own.
        """
        if not mapping:
            return self
        colors = self.class_colors()
        return self.with_regions(_renamed(region, mapping, colors) for region in self.regions)

    @classmethod
    def from_shapes(
        cls,
        vertices_px0: Sequence[ArrayLike],
        kinds: Sequence[str] | str = "polygon",
        class_names: Sequence[str | None] | None = None,
        colors: Mapping[str, tuple[int, int, int]] | None = None,
        source: str = "",
    ) -> Regions:
        """Regions from shapes drawn in a viewer.

        Parameters
        ----------
        vertices_px0 : one (n, 2) array of level-0 x, y per shape; an ellipse is given by the four corners of the
            rectangle around it (as napari does), a point by one row.
        kinds : "polygon", "rectangle", "ellipse", "line", "path" or "point", one each or one for all.
        class_names : one class each, None or "" for no class.
        colors : colour of each class.

        Raises
        ------
        UsageError : a shape's kind is not known, or there are not as many kinds or classes as shapes.
        """
        count = len(vertices_px0)
        kinds = [kinds] * count if isinstance(kinds, str) else list(kinds)
        names = [None] * count if class_names is None else [name or None for name in class_names]
        if len(kinds) != count or len(names) != count:
            raise UsageError(f"{count} shapes came with {len(kinds)} kinds and {len(names)} classes; give one each.")
        colors = colors or {}
        regions = [
            Region(geometry, name, colors.get(name) if name else None)
            for vertices, kind, name in zip(vertices_px0, kinds, names, strict=True)
            if not (geometry := _shape_geometry(np.asarray(vertices, dtype=float), kind)).is_empty
        ]
        return cls(regions, source)


def _renamed(region: Region, mapping: Mapping[str, str], colors: Mapping[str, tuple[int, int, int]]) -> Region:
    if region.class_name is None or region.class_name not in mapping:
        return region
    name = mapping[region.class_name].strip() or None
    color = colors.get(name, region.color) if name else None
    return replace(region, class_name=name, color=color)


def _shape_geometry(vertices: NDArray[np.float64], kind: str) -> BaseGeometry:
    """One drawn shape; empty where too few points were set for its kind."""
    if kind in {"polygon", "rectangle"}:
        return polygonal(shapely.Polygon(vertices)) if len(vertices) >= 3 else shapely.Polygon()
    if kind == "ellipse":
        return ellipse(vertices)
    if kind in {"line", "path"}:
        return shapely.LineString(vertices) if len(vertices) >= 2 else shapely.LineString()
    if kind == "point":
        return shapely.Point(vertices.reshape(-1, 2)[0])
    raise UsageError(f"A shape of kind {kind!r} cannot be a region; use polygon, rectangle, ellipse, line or point.")


def ellipse(corners: NDArray[np.float64]) -> BaseGeometry:
    """The ellipse inside a (possibly turned) rectangle given by its four corners in order, as a polygon."""
    if len(corners) != 4:
        return shapely.Polygon()
    centre = corners.mean(axis=0)
    right, down = (corners[1] - corners[0]) / 2, (corners[3] - corners[0]) / 2
    angle = np.linspace(0, 2 * np.pi, ELLIPSE_CORNERS, endpoint=False)[:, None]
    return shapely.Polygon(centre + np.cos(angle) * right + np.sin(angle) * down)


def polygonal(geometry: BaseGeometry) -> BaseGeometry:
    """The geometry as valid polygons: crossing outlines are untangled, loose lines and points fall away.

    Valid polygons come back as they are. The "structure" way of untangling keeps an area that was drawn over twice,
    which the even-odd way would turn into a hole.
    """
    if geometry.is_valid and geometry.geom_type in {"Polygon", "MultiPolygon"}:
        return geometry
    fixed = shapely.make_valid(geometry, method="structure", keep_collapsed=False)
    parts = [part for part in shapely.get_parts(fixed) if part.geom_type in {"Polygon", "MultiPolygon"}]
    return parts[0] if len(parts) == 1 else shapely.MultiPolygon(list(_flat(parts))) if parts else shapely.Polygon()


def _flat(parts: Iterable[BaseGeometry]) -> Iterator[BaseGeometry]:
    for part in parts:
        yield from (_flat(part.geoms) if hasattr(part, "geoms") else (part,))


def parse_class_map(text: str | None) -> dict[str, str]:
    """``'Tumor=cancer,Other='`` as a mapping; nothing behind the ``=`` means that the class is not used.

    Raises
    ------
    UsageError : a part without ``=``, or a class named twice with different targets.
    """
    mapping: dict[str, str] = {}
    for part in (text or "").split(","):
        if not part.strip():
            continue
        old, sign, new = (piece.strip() for piece in part.partition("="))
        if not sign or not old:
            raise UsageError(
                f"{part.strip()!r} says no class mapping; write old=new, for example 'Tumor=cancer,Other='."
            )
        if mapping.get(old, new) != new:
            raise UsageError(f"The class {old!r} is mapped to both {mapping[old]!r} and {new!r}; keep one of them.")
        mapping[old] = new
    return mapping
