"""What a slide is called: its file's name without the ending, which the field uses as the slide's id."""

from __future__ import annotations

from pathlib import Path, PurePath

_COMPOUND = (".ome.tif", ".ome.tiff", ".ome.zarr")


def slide_stem(slide: str | Path) -> str:
    """A slide's name without its ending: "TCGA-AA-3488-01Z-00-DX1.0F3E…" of a path, "a" of "a.ome.tif"."""
    name = PurePath(str(slide).replace("\\", "/")).name
    for ending in _COMPOUND:
        if name.lower().endswith(ending):
            return name[: -len(ending)]
    # An id may hold points (TCGA-…-DX1.0F3E…); only what looks like a file's ending is one.
    stem, point, ending = name.rpartition(".")
    return stem if point and stem and 2 <= len(ending) <= 8 and ending.isalnum() else name
