"""The empty arrays of a prediction store and their OME-Zarr 0.5 metadata."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pathotune.inference.plan import Grid, Kind

_WHOLE_LEVEL_BYTES = 64 * 2**20


def write_skeleton(path: Path, attributes: dict[str, Any], grid: Grid) -> None:
    """Groups, empty arrays and their OME metadata; `attributes` becomes the attribute `pathotune` of the root."""
    import zarr
    from zarr.codecs import ZstdCodec

    zarr.create_group(str(path), attributes={"pathotune": attributes})
    counts = {"probabilities": len(attributes["classes"]), "attention": len(attributes["sources"]), "classes": 0}
    types = {"probabilities": "float32", "attention": "float16", "classes": "uint8"}
    kinds: tuple[Kind, ...] = ("probabilities", "attention", "classes")
    for kind in kinds:
        if kind == "attention" and not counts[kind]:
            continue
        zarr.create_group(str(path / kind), attributes={"ome": _ome_metadata(kind, grid, attributes)})
        for level in range(grid.levels(kind)):
            leading = (counts[kind],) if counts[kind] else ()
            shape = (*leading, *grid.shape(kind, level))
            chunks, shards = _chunking(kind, level, grid, leading, np.dtype(types[kind]).itemsize)
            zarr.create_array(
                str(path / kind / str(level)),
                shape=shape,
                dtype=types[kind],
                chunks=chunks,
                shards=shards,
                fill_value=0,
                compressors=[ZstdCodec(level=3, checksum=True)],
                dimension_names=("c", "y", "x") if leading else ("y", "x"),
            )


def _chunking(
    kind: Kind, level: int, grid: Grid, leading: tuple[int, ...], itemsize: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Inner chunks and shards: at full resolution one shard per work unit, below it one per level while small."""
    y, x = grid.per_cell(kind)
    first = () if not leading else (1,) if kind == "attention" else leading
    chunk = (grid.chunk * y, grid.chunk * x)
    shard = (grid.unit_cells * y, grid.unit_cells * x)
    if level:
        shape = grid.shape(kind, level)
        whole = [-(-shape[axis] // chunk[axis]) * chunk[axis] for axis in (0, 1)]
        if whole[0] * whole[1] * itemsize * max(1, *leading, 1) <= _WHOLE_LEVEL_BYTES:
            shard = (whole[0], whole[1])
    return (*first, *chunk), (*leading, *shard)


def _ome_metadata(kind: Kind, grid: Grid, attributes: Mapping[str, Any]) -> dict[str, Any]:
    """The OME-Zarr 0.5 attribute of one image of the store."""
    lead = kind != "classes"
    datasets = []
    for level in range(grid.levels(kind)):
        scale, translate = grid.placement_um(kind, level)
        datasets.append(
            {
                "path": str(level),
                "coordinateTransformations": [
                    {"type": "scale", "scale": [1.0] * lead + list(scale)},
                    {"type": "translation", "translation": [0.0] * lead + list(translate)},
                ],
            }
        )
    space = [{"name": name, "type": "space", "unit": "micrometer"} for name in "yx"]
    axes = [{"name": "c", "type": "channel"}] * lead + space
    ome: dict[str, Any] = {
        "version": "0.5",
        "multiscales": [{"name": kind, "axes": axes, "datasets": datasets, "type": "mean of predicted values"}],
    }
    if kind == "classes":
        labelled = list(enumerate(attributes["classes"], start=1))
        ome["image-label"] = {
            "colors": [{"label-value": label, "rgba": [*rgb(entry), 255]} for label, entry in labelled],
            "properties": [{"label-value": label, "name": entry["name"]} for label, entry in labelled],
        }
    else:
        entries = attributes["classes"] if kind == "probabilities" else [{"name": n} for n in attributes["sources"]]
        top = 1.0 if kind == "probabilities" else 4.0
        window = {"min": 0.0, "max": top, "start": 0.0, "end": top}
        ome["omero"] = {
            "channels": [
                {"label": entry["name"], "color": "{:02X}{:02X}{:02X}".format(*rgb(entry)), "window": window}
                for entry in entries
            ]
        }
    return ome


def rgb(entry: Mapping[str, Any]) -> tuple[int, int, int]:
    """Colour of a class entry as three numbers; it may stand as such or as "#rrggbb"."""
    color = entry.get("color")
    if isinstance(color, str):
        text = color.lstrip("#")
        return int(text[0:2], 16), int(text[2:4], 16), int(text[4:6], 16)
    if color is None:
        return 255, 255, 255
    red, green, blue = (int(value) for value in list(color)[:3])
    return red, green, blue
