"""A prediction store as what other programs and people open: outlines for QuPath, a table, a picture."""

from __future__ import annotations

import contextlib
import csv
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pathotune.errors import OutputRefused, StoreMismatch, UsageError
from pathotune.inference.plan import Grid
from pathotune.inference.predictions import PredictionStore, rgb
from pathotune.inference.provenance import provenance_of
from pathotune.settings import write_json

if TYPE_CHECKING:
    from PIL.Image import Image as Picture
    from shapely import MultiPolygon, Polygon

    from pathotune.slides.slide import Slide

PICTURE_PX = 1600
OPACITY = 0.45
# The star says, as in QuPath, that this is no class to train on.
ABSTAINED = {"name": "Abstained*", "color": (150, 150, 150)}


@dataclass(frozen=True)
class Decided:
    """What a store says of each cell, once it is decided how sure is sure enough.

    labels : (rows, columns) number of the entry, from 1 on; 0 where nothing is predicted.
    entries : name and color of each class, and of what is abstained where that was asked for.
    areas_mm2 : of each entry.
    """

    labels: NDArray[np.uint8]
    entries: list[dict[str, Any]]
    areas_mm2: list[float]


def decided(store: PredictionStore, abstain_below: float = 0.0) -> Decided:
    """The classes of a store's cells.

    Parameters
    ----------
    abstain_below : cells whose largest probability is smaller belong to no class, but to an entry of their own.
    """
    labels, entries = np.asarray(store.labels[:]), store.classes
    if abstain_below > 0:
        largest = np.asarray(store.probabilities[:]).max(axis=0)
        entries = [*entries, ABSTAINED]
        labels = np.where((labels > 0) & (largest < abstain_below), np.uint8(len(entries)), labels)
    counts = np.bincount(labels.ravel(), minlength=len(entries) + 1)[1:]
    return Decided(labels, entries, [float(count) * store.grid.cell_area_mm2 for count in counts])


def export_store(
    store_path: str | Path,
    format_name: str,
    out: str | Path,
    slide_path: str | Path | None = None,
    abstain_below: float = 0.0,
) -> Path:
    """Write one store in a format of `EXPORTS`.

    Parameters
    ----------
    store_path : the store, finished or half-done.
    format_name : "geojson", "csv" (of predicted expression where there is any), "png", "ome-tiff", or "h5ad" (of
        expression alone).
    out : the file; it appears whole.
    slide_path : the slide, for what is drawn under a picture; without it the one the store was made from, if found.
    abstain_below : cells whose largest probability is smaller belong to no class; they come out as "Abstained*".

    Raises
    ------
    StoreUnreadable, StoreMismatch, OutputRefused : no store, another slide's store, or a place that cannot be written.
    UsageError : `abstain_below` is no probability.
    """
    if not 0 <= abstain_below <= 1:
        raise UsageError(f"A probability lies between 0 and 1, and {abstain_below:g} does not. Give 0.6 for 60 %.")
    store, out = PredictionStore.open(store_path), Path(out)
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        EXPORTS[format_name](store, temporary, None if slide_path is None else Path(slide_path), abstain_below)
        os.replace(temporary, out)
        if format_name == "csv":  # a table has no place for it that every program passes over
            write_json(out.with_name(f"{out.name}.provenance.json"), provenance_of(store))
    except OSError as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OutputRefused):
            raise
        raise OutputRefused(f"{out} cannot be written ({error.strerror or error}). Choose another --out.") from error
    return out


# ---- outlines --------------------------------------------------------------------------------------------------


def class_outlines(store: PredictionStore, found: Decided) -> list[MultiPolygon | Polygon]:
    """The area of each entry in level-0 pixels, cell edges exact, valid; an empty one where it does not occur."""
    import shapely

    return [
        _in_px0(shapely.union_all(_row_boxes(found.labels == label)).simplify(0), store.grid)
        for label in range(1, len(found.entries) + 1)
    ]


def _row_boxes(mask: NDArray[np.bool_]) -> NDArray[Any]:
    """One box per run of cells in a row, in whole cells, so that neighbours share their edges exactly."""
    import shapely

    padded = np.zeros((mask.shape[0], mask.shape[1] + 2), np.int8)
    padded[:, 1:-1] = mask
    change = np.diff(padded, axis=1)
    rows, first = np.nonzero(change == 1)
    _, last = np.nonzero(change == -1)
    boxes: NDArray[Any] = shapely.box(first, rows, last, rows + 1)
    return boxes


def _in_px0(geometry: Any, grid: Grid) -> Any:
    import shapely

    x0, y0, width, height = grid.box_px0(0, 0, 1, 1)
    return shapely.transform(geometry, lambda cells: cells * (width, height) + (x0, y0))


def _write_geojson(store: PredictionStore, path: Path, slide_path: Path | None, abstain_below: float) -> None:
    from pathotune.regions import Region, Regions, write_regions

    found = decided(store, abstain_below)
    regions = [
        Region(geometry, entry["name"], rgb(entry), name=entry["name"], properties=_measured(area))
        for entry, geometry, area in zip(found.entries, class_outlines(store, found), found.areas_mm2, strict=True)
        if not geometry.is_empty
    ]
    origin = store.attrs.get("slide", {}).get("origin_px0") or (0.0, 0.0)
    found_origin = (float(origin[0]), float(origin[1]))
    write_regions(Regions(regions, store.path.name, found_origin), path, facts={"provenance": provenance_of(store)})


def _measured(area_mm2: float) -> dict[str, Any]:
    return {"measurements": {"Area mm^2": area_mm2}}


# ---- table -----------------------------------------------------------------------------------------------------


def _rows(store: PredictionStore, abstain_below: float) -> Iterator[list[Any]]:
    """A row per predicted tile."""
    grid, names = store.grid, store.class_names
    for unit in store.units():
        read = store.read_unit(unit, attention=False)
        if read is None:
            continue
        probabilities = read.probabilities
        for row, column in np.argwhere(probabilities.sum(axis=0) > 0).tolist():
            values = probabilities[:, row, column]
            x = grid.origin_px0[0] + (unit.column + column) * grid.stride_px0[0]
            y = grid.origin_px0[1] + (unit.row + row) * grid.stride_px0[1]
            place = [unit.row + row, unit.column + column, f"{x:.3f}", f"{y:.3f}"]
            size = [f"{side:.3f}" for side in grid.tile_px0]
            name = ABSTAINED["name"] if values.max() < abstain_below else names[int(values.argmax())]
            yield [*place, *size, name, *(f"{value:.6f}" for value in values)]


def _write_csv(store: PredictionStore, path: Path, slide_path: Path | None, abstain_below: float) -> None:
    if store.attrs.get("expression"):
        from pathotune.inference.expression_layer import export_csv

        export_csv(store, path)
        return
    place = ["row", "column", "x_px0", "y_px0", "width_px0", "height_px0", "class"]
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*place, *(f"p {name}" for name in store.class_names)])
        writer.writerows(_rows(store, abstain_below))


# ---- picture ---------------------------------------------------------------------------------------------------


def _write_png(store: PredictionStore, path: Path, slide_path: Path | None, abstain_below: float) -> None:
    from pathotune.slides import open_slide

    found = slide_path or _slide_beside(store)
    if found is None:
        picture = overlay_picture(store, None, abstain_below=abstain_below)
    else:
        with open_slide(found) as slide:
            if slide.fingerprint != store.slide_fingerprint:
                raise StoreMismatch(
                    f"{store.path.name} was not made from {found.name}. Name its own slide with --slide."
                )
            picture = overlay_picture(store, slide, abstain_below=abstain_below)
    from PIL.PngImagePlugin import PngInfo

    said = PngInfo()
    said.add_itxt("pathotune", json.dumps(provenance_of(store), ensure_ascii=False))
    picture.save(path, format="PNG", pnginfo=said)


def _slide_beside(store: PredictionStore) -> Path | None:
    """The slide a store was made from, where it still is or beside the store."""
    stated = store.attrs.get("job", {}).get("arguments", {}).get("slide")
    name = store.attrs.get("slide", {}).get("name")
    candidates = [Path(stated)] if stated else []
    candidates += [store.path.parent / Path(name).name] if name else []  # a store's word leads nowhere else
    return next((path for path in candidates if path.exists()), None)


def overlay_picture(
    store: PredictionStore, slide: Slide | None, longest_px: int = PICTURE_PX, abstain_below: float = 0.0
) -> Picture:
    """The classes over the slide's thumbnail, with legend, scale bar and the words "research use only".

    Parameters
    ----------
    store : the predictions.
    slide : the slide; None leaves the ground white.
    longest_px : longer side of the slide in the picture.
    abstain_below : as in `decided`.
    """
    found = decided(store, abstain_below)
    picture = blended_picture(store, slide, longest_px, found)
    return _with_legend(picture, store, found, _um_per_px(store, longest_px))


def _um_per_px(store: PredictionStore, longest_px: int) -> float:
    """Micrometres that a pixel of a picture of the whole slide stands for."""
    facts, mpp = store.attrs["slide"], store.grid.mpp
    return float(max(facts["width_px0"] * mpp[0], facts["height_px0"] * mpp[1])) / longest_px


def blended_picture(
    store: PredictionStore, slide: Slide | None, longest_px: int = PICTURE_PX, found: Decided | None = None
) -> Picture:
    """The classes over the slide's thumbnail, and nothing else; arguments as in `overlay_picture`."""
    from PIL import Image

    facts, mpp = store.attrs["slide"], store.grid.mpp
    um_per_px = _um_per_px(store, longest_px)
    size = tuple(
        max(1, round(facts[name] * mpp[axis] / um_per_px)) for axis, name in enumerate(("width_px0", "height_px0"))
    )
    if slide is None:
        ground = Image.new("RGB", (size[0], size[1]), "white")
    else:
        ground = Image.fromarray(slide.thumbnail(longest_px)).convert("RGB").resize((size[0], size[1]))
    found = decided(store) if found is None else found
    labels = _labels_at(store, found, (size[0], size[1]), um_per_px)
    colors = np.array([(255, 255, 255), *(rgb(entry) for entry in found.entries)], np.float32)
    pixels = np.asarray(ground, np.float32)
    share = OPACITY * (labels > 0)[..., None]
    return Image.fromarray((pixels * (1 - share) + colors[labels] * share).round().astype(np.uint8))


def _labels_at(store: PredictionStore, found: Decided, size: tuple[int, int], um_per_px: float) -> NDArray[np.uint8]:
    """(height, width) label under the centre of each pixel of the picture."""
    labels, grid = found.labels, store.grid
    x0, y0, width, height = grid.box_px0(0, 0, 1, 1)
    columns = np.floor(((np.arange(size[0]) + 0.5) * um_per_px / grid.mpp[0] - x0) / width).astype(int)
    rows = np.floor(((np.arange(size[1]) + 0.5) * um_per_px / grid.mpp[1] - y0) / height).astype(int)
    inside = ((rows >= 0) & (rows < grid.rows))[:, None] & ((columns >= 0) & (columns < grid.columns))[None, :]
    picked = labels[np.clip(rows, 0, grid.rows - 1)][:, np.clip(columns, 0, grid.columns - 1)]
    return np.where(inside, picked, np.uint8(0))


def _with_legend(picture: Picture, store: PredictionStore, found: Decided, um_per_px: float) -> Picture:
    """The picture with a white margin at its right for the legend."""
    from PIL import Image, ImageDraw

    unit = max(14, picture.height // 60)
    font, micro, squared = _font(unit)
    named = zip(found.entries, found.areas_mm2, strict=True)
    lines = [f"{entry['name']}  {area:.3g} mm{squared}" for entry, area in named]
    words = [store.attrs.get("slide", {}).get("name", ""), store.attrs.get("tuning", {}).get("name", "")]
    words += ["" if store.is_complete else "not complete", "research use only"]
    margin = int(max(font.getlength(text) for text in [*lines, *words])) + 4 * unit
    height = max(picture.height, (2 * len(lines) + len(words) + 8) * unit)
    canvas = Image.new("RGB", (picture.width + margin, height), "white")
    canvas.paste(picture, (0, 0))
    draw, left, top = ImageDraw.Draw(canvas), picture.width + unit, unit
    for text, entry in zip(lines, found.entries, strict=True):
        draw.rectangle((left, top, left + unit, top + unit), fill=rgb(entry), outline="black")
        draw.text((left + 1.5 * unit, top - unit // 8), text, fill="black", font=font)
        top += 2 * unit
    bar_um = nice_length(picture.width * um_per_px / 5)
    bar = min(round(bar_um / um_per_px), margin - 2 * unit)
    if bar < round(bar_um / um_per_px):
        bar_um = nice_length(bar * um_per_px)
        bar = round(bar_um / um_per_px)
    draw.rectangle((left, top + unit, left + bar, top + unit + max(2, unit // 4)), fill="black")
    text = f"{bar_um:g} {micro}m" if bar_um < 1000 else f"{bar_um / 1000:g} mm"
    draw.text((left, top + 1.5 * unit), text, fill="black", font=font)
    top += 4 * unit
    for text in filter(None, words):
        draw.text((left, top), text, fill="black", font=font)
        top += round(1.5 * unit)
    return canvas


def _font(size_px: int) -> tuple[Any, str, str]:
    """A font with its signs for micro and squared; the one that comes with Pillow has neither."""
    from PIL import ImageFont

    for name in ("DejaVuSans.ttf", "arial.ttf", "Arial.ttf", "LiberationSans-Regular.ttf"):
        with contextlib.suppress(OSError):
            return ImageFont.truetype(name, size_px), "µ", "²"
    return ImageFont.load_default(size_px), "u", "2"


def nice_length(longest_um: float) -> float:
    """The largest of 1, 2, 5, 10, 20, 50 … µm that is not longer."""
    power = 10.0 ** np.floor(np.log10(longest_um))
    return float(max(step * power for step in (1, 2, 5) if step * power <= longest_um * (1 + 1e-9)))


def _write_h5ad(store: PredictionStore, path: Path, slide: Path | None, abstain_below: float) -> None:
    """Predicted expression for scanpy."""
    from pathotune.inference.expression_layer import export_h5ad

    export_h5ad(store, path)


def _write_ome_tiff(store: PredictionStore, path: Path, slide: Path | None, abstain_below: float) -> None:
    from pathotune.inference.ometiff import write_ome_tiff

    found = decided(store, abstain_below)
    write_ome_tiff(store, found.labels, [entry["name"] for entry in found.entries], path)


EXPORTS: dict[str, Callable[[PredictionStore, Path, Path | None, float], None]] = {
    "geojson": _write_geojson,
    "csv": _write_csv,
    "png": _write_png,
    "h5ad": _write_h5ad,
    "ome-tiff": _write_ome_tiff,
}
ENDINGS = {"ome-tiff": ".ome.tiff"}
"""Of files whose ending is not the format's name."""
