"""One call for every regions file: what it is, where its origin lies, whether it fits the slide."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely

from pathotune.errors import FileMissing, RegionsUnreadable
from pathotune.regions.geojson import parse_geojson
from pathotune.regions.origin import check_on_slide, file_origin_px0
from pathotune.regions.region import Region, Regions
from pathotune.regions.xml import parse_xml

if TYPE_CHECKING:
    from pathotune.slides.slide import Slide

LARGEST_BYTES = 2_000_000_000


def read_regions(
    path: str | Path,
    slide: Slide | None = None,
    *,
    origin: str = "auto",
    map_classes: Mapping[str, str] | None = None,
) -> Regions:
    """Read drawn regions from GeoJSON (as QuPath writes it), ASAP XML or ImageScope XML.

    Parameters
    ----------
    path : the file; what it is is seen from its content.
    slide : the slide it belongs to; needed for its bounds and to see whether the regions lie on it.
    origin : "canvas" (coordinates count from the slide's first pixel), "bounds" (from the vendor's bounds, as QuPath
        does) or "auto" (what the file says, else QuPath's way for GeoJSON and the canvas for XML).
    map_classes : new names of classes; a class mapped to "" is not used.

    Returns
    -------
    Regions in level-0 pixels of the canvas; `warnings` says what was repaired, left out or doubtful.

    Raises
    ------
    FileMissing : no such file.
    RegionsUnreadable : not a regions file, or a damaged one.
    RegionsOffSlide : more than one in a hundred regions lie off the slide.
    UsageError : an unknown origin.
    """
    path = Path(path)
    content = _content(path)
    if content.lstrip()[:1] == b"<":
        regions, mpp, warnings = parse_xml(content, path.name)
        ours: dict[str, Any] = {}
        is_geojson = False
        warnings += _doubt_scale(mpp, slide, path.name)
    else:
        regions, ours, warnings = parse_geojson(_json(content, path.name), path.name)
        is_geojson = True
    offset, doubts = file_origin_px0(origin, ours, is_geojson, slide)
    warnings += doubts
    moved = [_moved(region, offset) for region in regions] if any(offset) else regions
    if slide is not None and moved:
        _refuse_parts_of_width(moved, slide, path.name)
        warnings += check_on_slide(moved, slide, offset, path.name)
    if not moved and not warnings:
        warnings = [f"{path.name} holds no regions."]
    return Regions(moved, str(path), offset, warnings).map_classes(map_classes or {})


def _content(path: Path) -> bytes:
    if not path.exists():
        raise FileMissing(path, "regions file")
    if path.is_dir():
        raise RegionsUnreadable(f"{path.name} is a folder; name the GeoJSON or XML file in it.")
    size = path.stat().st_size
    if size > LARGEST_BYTES:
        raise RegionsUnreadable(
            f"{path.name} has {size / 1e9:.1f} GB, too much to read at once; export it without detections."
        )
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RegionsUnreadable(f"{path.name} cannot be read ({error.strerror or error}).") from error
    if content[:2] in {b"PK", b"\x1f\x8b"}:
        raise RegionsUnreadable(f"{path.name} is compressed; unpack it, or export it from QuPath without compression.")
    if not content.strip():
        raise RegionsUnreadable(f"{path.name} is empty; export the annotations again.")
    return content


def _json(content: bytes, name: str) -> Any:
    """Parsed JSON; older QuPath on Windows wrote the system's code page instead of UTF-8."""
    for encoding in ("utf-16",) if content[:2] in {b"\xff\xfe", b"\xfe\xff"} else ("utf-8-sig", "cp1252"):
        try:
            text = content.decode(encoding)
            break
        except UnicodeDecodeError:
            continue
    else:
        text = ""
    if text.lstrip()[:1] not in {"{", "["}:
        raise RegionsUnreadable(
            f"{name} is not a regions file: GeoJSON (QuPath), ASAP XML and ImageScope XML can be read."
        )
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RegionsUnreadable(f"{name} is damaged JSON ({error}); export the objects again.") from error


def _moved(region: Region, offset: tuple[float, float]) -> Region:
    shift = np.asarray(offset)
    return replace(region, geometry=shapely.transform(region.geometry, lambda points: points + shift))


def _refuse_parts_of_width(regions: list[Region], slide: Slide, name: str) -> None:
    """Coordinates between 0 and 1 are parts of the slide's width, which nothing here can know."""
    highest = max(region.geometry.bounds[2] for region in regions)
    lowest = min(region.geometry.bounds[0] for region in regions)
    if lowest >= 0 and highest <= 1 and slide.width_px0 > 100:
        raise RegionsUnreadable(
            f"All coordinates in {name} lie between 0 and 1: parts of the slide's width rather than level-0 pixels; "
            "export them in pixels."
        )


def _doubt_scale(mpp: float | None, slide: Slide | None, name: str) -> list[str]:
    known = None if slide is None else slide.mpp
    if mpp is None or known is None or abs(mpp / known.mean - 1) < 0.05:
        return []
    doubt = (
        f"{name} was drawn at {mpp:g} µm per pixel and the slide has {known.mean:g}: check that they belong together."
    )
    return [doubt]
