"""OME-Zarr folders, version 0.4 (zarr 2) and 0.5 (zarr 3), through zarr."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pathotune.slides import fingerprint
from pathotune.slides.mpp import Hint
from pathotune.slides.ome import MICROMETRES, are_colors
from pathotune.slides.source import Declined, Facts, Pixels, Source, make_levels

SMALLEST_BLOCK = 256
BRIGHTFIELD = "pathotune reads brightfield slides, 8 bit red-green-blue."
METADATA_NAMES = (".zattrs", ".zgroup", ".zarray", "zarr.json")
SAMPLED_CHUNKS = 24
LARGEST_CHUNK_BYTES = 256 * 2**20


class OmeZarrSource(Source):
    """An OME-Zarr image with three 8-bit channels in any order of axes."""

    reader = "omezarr"

    def __init__(self, path: Path) -> None:
        self.path = path
        group, self._others = _image_of(_open_group(path))
        multiscale, omero = _multiscale(group)
        self._axes = _axis_names(multiscale, group)
        self._arrays = [group[entry["path"]] for entry in multiscale["datasets"]]
        for array in self._arrays:
            _check_array(array, self._axes)
        channels = list(omero.get("channels") or [])
        if not are_colors(channels):
            names = ", ".join(str(channel.get("label") or channel.get("color")) for channel in channels)
            raise Declined(f"its channels ({names}) are not red, green, blue", final=True, advice=BRIGHTFIELD)
        self.facts = self._collect(multiscale)

    def _collect(self, multiscale: Mapping[str, Any]) -> Facts:
        y, x = self._axes.index("y"), self._axes.index("x")
        sizes = [(int(array.shape[x]), int(array.shape[y])) for array in self._arrays]
        tiles = [(int(array.chunks[x]), int(array.chunks[y])) for array in self._arrays]
        hint, warnings = _pixel_size(multiscale, x, y)
        return Facts(
            vendor="ome-zarr",
            levels=tuple(make_levels(sizes, tiles, [_codec(array) for array in self._arrays])),
            mpp_hints=(hint,) if hint else (),
            associated_images=tuple(self._others),
            warnings=tuple(warnings),
        )

    def block_size(self, level: int) -> tuple[int, int]:
        """The chunks of the array, several together where they are tiny."""
        stored = self.facts.levels[level]
        return tuple(side * max(1, SMALLEST_BLOCK // side) for side in (stored.tile_width, stored.tile_height))  # type: ignore[return-value]

    def block(self, level: int, row: int, column: int) -> Pixels:
        """One block of chunks."""
        width, height = self.block_size(level)
        cut = {"y": slice(row * height, (row + 1) * height), "x": slice(column * width, (column + 1) * width)}
        return _as_rgb(self._arrays[level], self._axes, cut)

    def associated_image(self, name: str) -> Pixels:
        """The first resolution of an image beside the slide's own."""
        multiscale, _ = _multiscale(self._others[name])
        array = self._others[name][multiscale["datasets"][0]["path"]]
        axes = _axis_names(multiscale, self._others[name])
        _check_array(array, axes)
        return _as_rgb(array, axes, {"y": slice(None), "x": slice(None)})

    def fingerprint(self) -> str:
        """From the metadata documents and sampled chunk files."""
        parts: list[bytes | str] = []
        for array in self._arrays:
            folder = Path(str(array.store_path.store.root)) / array.store_path.path  # type: ignore[attr-defined]
            parts += [(folder / name).read_bytes() for name in METADATA_NAMES if (folder / name).is_file()]
            shape = getattr(array, "shards", None) or array.chunks
            grid = [-(-size // side) for size, side in zip(array.shape, shape, strict=True)]
            for number in np.unique(np.linspace(0, int(np.prod(grid)) - 1, SAMPLED_CHUNKS).astype(int)):
                place = tuple(int(i) for i in np.unravel_index(number, grid))
                chunk = folder / array.metadata.encode_chunk_key(place)
                parts.append(fingerprint.file_digest(chunk) if chunk.is_file() else b"")
        return fingerprint.combine("ome-zarr", parts)

    def close(self) -> None:
        """Nothing is kept open."""


def _open_group(path: Path) -> Any:
    if not path.is_dir():
        raise Declined("not a folder")
    if not any((path / name).is_file() for name in (".zgroup", "zarr.json")):
        raise Declined("not an OME-Zarr folder (no .zgroup or zarr.json in it)")
    import zarr

    return zarr.open_group(str(path), mode="r")


def _image_of(group: Any) -> tuple[Any, dict[str, Any]]:
    """The image itself and the pictures beside it, by name: bioformats2raw puts them in folders 0, 1, …"""
    attributes = dict(group.attrs)
    if "bioformats2raw.layout" not in attributes.get("ome", attributes) or "0" not in group:
        return group, {}
    return group["0"], {
        f"image {name}": inner for name, inner in sorted(group.groups()) if name.isdigit() and name != "0"
    }


def _multiscale(group: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    attributes = dict(group.attrs)
    ome = attributes.get("ome", attributes)
    found = ome.get("multiscales") or []
    if not found:
        raise Declined("the zarr folder holds no OME multiscales", advice="Name the folder of an image inside it.")
    return dict(found[0]), dict(ome.get("omero") or {})


def _axis_names(multiscale: Mapping[str, Any], group: Any) -> list[str]:
    axes = multiscale.get("axes")
    if not axes:
        dimensions = group[multiscale["datasets"][0]["path"]].ndim
        axes = list("tczyx")[-dimensions:]
    names = [axis if isinstance(axis, str) else str(axis["name"]) for axis in axes]
    if not {"c", "y", "x"} <= set(names):
        raise Declined(f"its axes are {', '.join(names)}; c, y and x are needed", final=True, advice=BRIGHTFIELD)
    return names


def _check_array(array: Any, axes: list[str]) -> None:
    if array.dtype != np.uint8:
        raise Declined(f"its pixels are {array.dtype}, not 8 bit", final=True, advice=BRIGHTFIELD)
    sizes = dict(zip(axes, array.shape, strict=True))
    if sizes["c"] not in (3, 4):
        raise Declined(f"it has {sizes['c']} channels, not red-green-blue", final=True, advice=BRIGHTFIELD)
    bytes_of_chunk = int(np.prod(array.chunks))
    if bytes_of_chunk > LARGEST_CHUNK_BYTES:
        reason = f"its chunks are {bytes_of_chunk / 2**30:.1f} GiB each"
        raise Declined(reason, advice="Write it again with chunks of 512 to 2048 pixels.")
    several = [f"{size} along {axis}" for axis, size in sizes.items() if axis not in "cyx" and size > 1]
    if several:
        raise Declined(f"it holds more than one plane ({', '.join(several)})", final=True, advice=BRIGHTFIELD)


def _as_rgb(array: Any, axes: list[str], cut: Mapping[str, slice]) -> Pixels:
    wanted = tuple(cut.get(axis, slice(0, 3) if axis == "c" else 0) for axis in axes)
    pixels = np.asarray(array[wanted])
    left = [axis for axis in axes if axis in "cyx"]
    return np.ascontiguousarray(pixels.transpose([left.index(axis) for axis in "yxc"]))


def _pixel_size(multiscale: Mapping[str, Any], x: int, y: int) -> tuple[Hint | None, list[str]]:
    """The level-0 pixel size from the scales of the dataset and of the whole, in the unit of the axes."""
    steps = [*multiscale["datasets"][0].get("coordinateTransformations", ())]
    steps += multiscale.get("coordinateTransformations", ())
    scales = [step["scale"] for step in steps if step.get("type") == "scale"]
    if not scales:
        return None, []
    size = {axis: float(np.prod([scale[axis] for scale in scales])) for axis in (x, y)}
    axes = multiscale.get("axes") or []
    unit = axes[x].get("unit", "") if axes and isinstance(axes[x], dict) else ""
    if unit and unit not in MICROMETRES:
        return None, [f"The pixel size is given in {unit}, which is no length that is known here."]
    if not unit and size[x] == 1.0:
        return None, []
    remark = [] if unit else ["The pixel size has no unit; micrometres are assumed."]
    factor = MICROMETRES.get(unit, 1.0)
    return Hint(size[x] * factor, size[y] * factor, "ome-zarr", f"{size[x]:g} {unit or 'without unit'}"), remark


def _codec(array: Any) -> str:
    codecs = [*getattr(array, "compressors", ())]
    for codec in codecs:
        name = getattr(codec, "codec_id", "") or type(codec).__name__.removesuffix("Codec").lower()
        return str(name)
    return "none"
