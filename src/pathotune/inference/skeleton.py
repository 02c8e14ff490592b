"""The empty arrays of a prediction store and their OME-Zarr 0.5 metadata."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pathotune.inference.plan import Grid, Kind

_WHOLE_LEVEL_BYTES = 64 * 2**20
_TYPES: dict[Kind, str] = {
    "probabilities": "float32",
    "attention": "float16",
    "classes": "uint8",
    "reliability": "float16",
}
# Upper end of the contrast other programs begin with; attention and distance have 1 for the ordinary.
_TOPS: dict[Kind, float] = {"probabilities": 1.0, "attention": 4.0, "reliability": 1.0}
# How lower levels are made of the predicted values above them.
_REDUCED: dict[Kind, str] = {"classes": "majority"}


def write_skeleton(path: Path, attributes: dict[str, Any], grid: Grid) -> None:
    """Groups, empty arrays and their OME metadata; `attributes` becomes the attribute `pathotune` of the root."""
    import zarr
    from zarr.codecs import ZstdCodec

    zarr.create_group(str(path), attributes={"pathotune": attributes})
    channels = channel_names(attributes)
    for kind in image_kinds(attributes):
        zarr.create_group(str(path / kind), attributes={"ome": _ome_metadata(kind, grid, attributes)})
        for level in range(grid.levels(kind)):
            leading = (len(channels[kind]),) if kind != "classes" else ()
            shape = (*leading, *grid.shape(kind, level))
            chunks, shards = _chunking(kind, level, grid, leading, np.dtype(_TYPES[kind]).itemsize)
            zarr.create_array(
                str(path / kind / str(level)),
                shape=shape,
                dtype=_TYPES[kind],
                chunks=chunks,
                shards=shards,
                fill_value=0,
                compressors=[ZstdCodec(level=3, checksum=True)],
                dimension_names=("c", "y", "x") if leading else ("y", "x"),
            )
    width = attributes.get("features", 0)
    if width:
        zarr.create_array(
            str(path / "features"),
            shape=(grid.rows, grid.columns, width),
            dtype="float16",
            chunks=(grid.chunk, grid.chunk, width),
            shards=(grid.unit_cells, grid.unit_cells, width),
            fill_value=0,
            compressors=[ZstdCodec(level=3, checksum=True)],
            dimension_names=("y", "x", "feature"),
        )


def image_kinds(attributes: Mapping[str, Any]) -> list[Kind]:
    """The images a store with this attribute `pathotune` holds; those of earlier versions know no reliability."""
    kinds: list[Kind] = ["probabilities"]
    kinds += ["attention"] if attributes["sources"] else []
    kinds += ["classes"]
    kinds += ["reliability"] if attributes.get("reliability") else []
    return kinds


def channel_names(attributes: Mapping[str, Any]) -> dict[Kind, list[str]]:
    """What the channels of each image are called."""
    return {
        "probabilities": [entry["name"] for entry in attributes["classes"]],
        "attention": list(attributes["sources"]),
        "reliability": list(attributes.get("reliability", ())),
    }


def _chunking(
    kind: Kind, level: int, grid: Grid, leading: tuple[int, ...], itemsize: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Inner chunks and shards: at full resolution one shard per work unit, below it one per level while small."""
    y, x = grid.per_cell(kind)
    first = () if not leading else (1,) if kind in ("attention", "reliability") else leading
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
        "multiscales": [
            {"name": kind, "axes": axes, "datasets": datasets, "type": _REDUCED.get(kind, "mean of values")}
        ],
    }
    if kind == "classes":
        labelled = list(enumerate(attributes["classes"], start=1))
        ome["image-label"] = {
            "colors": [{"label-value": label, "rgba": [*rgb(entry), 255]} for label, entry in labelled],
            "properties": [{"label-value": label, "name": entry["name"]} for label, entry in labelled],
        }
    else:
        names = channel_names(attributes)[kind]
        entries = attributes["classes"] if kind == "probabilities" else [{"name": name} for name in names]
        window = {"min": 0.0, "max": _TOPS[kind], "start": 0.0, "end": _TOPS[kind]}
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
