"""Core results to napari layers and drawn shapes to regions: pure functions, no viewer and no Qt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_pathotune.overlay import ClassGrid

if TYPE_CHECKING:
    from pathotune.inference.predictions import PredictionStore
    from pathotune.slides.slide import Slide
    from pathotune.tiles.tileset import Reading

LayerData = tuple[Any, dict[str, Any], str]
Array = np.ndarray[Any, Any]

# Under this key a layer's metadata say what it shows: {"kind": "slide" | "classes" | "probability" | ...}.
KEY = "pathotune"
MICROMETRES = ("um", "um")
PIXELS = ("pixel", "pixel")
DEFAULT_COLOR = (230, 159, 0)


def facts(layer: Any) -> dict[str, Any]:
    """What we know of a layer, {} for one that is not ours."""
    found = layer.metadata.get(KEY, {})
    return found if isinstance(found, dict) else {}


def facts_of(data: tuple[Any, ...]) -> dict[str, Any]:
    """The same of a layer data tuple that is no layer yet."""
    found = data[1].get("metadata", {}).get(KEY, {}) if len(data) > 1 else {}
    return found if isinstance(found, dict) else {}


def pixel_um(slide: Slide) -> tuple[float, float]:
    """(y, x) size of a level-0 pixel in micrometres; (1, 1) where the slide does not say."""
    return (slide.mpp.y, slide.mpp.x) if slide.mpp else (1.0, 1.0)


def units_of(slide: Slide) -> tuple[str, str]:
    """Micrometres, or pixels where the slide does not say its pixel size."""
    return MICROMETRES if slide.mpp else PIXELS


def slide_layer(slide: Slide) -> LayerData:
    """The slide as a multiscale RGB image; the centre of pixel (0, 0) lies at 0 µm."""
    levels = slide.pyramid
    options = {
        "name": slide.name,
        "rgb": True,
        "multiscale": len(levels) > 1,
        "scale": pixel_um(slide),
        "units": units_of(slide),
        "metadata": {KEY: {"kind": "slide", "slide": slide, "path": str(slide.path)}},
    }
    return (levels if len(levels) > 1 else levels[0]), options, "image"


def class_grid(store: PredictionStore) -> ClassGrid:
    """The store's probabilities in memory (a few MB: one value per tile and class)."""
    scale_um, translate_um = store.placement_um("probabilities")
    colors = [class_rgb(entry["name"], entry.get("color"), i) for i, entry in enumerate(store.classes)]
    return ClassGrid(
        np.asarray(store.probabilities[...], dtype=np.float32),
        tuple(store.class_names),
        np.asarray(colors, dtype=np.uint8),
        scale_um,
        translate_um,
    )


def tuning_name_of(store: PredictionStore) -> str:
    """The name of the tuning a store was made with."""
    stated = store.attrs.get("tuning")
    if isinstance(stated, dict) and stated.get("name"):
        return str(stated["name"])
    # SLIDE-FILE-NAME.TUNING-NAME.pathotune.zarr (contract, section 4)
    name = store.path.name.removesuffix(".pathotune.zarr")
    slide = str(store.attrs.get("slide", {}).get("name", "") if isinstance(store.attrs.get("slide"), dict) else "")
    return name.removeprefix(f"{slide}.") if slide else name


def overlay_layer(
    grid: ClassGrid, store_path: str | Path, title: str, slide_path: str | Path, opacity: float = 0.5
) -> LayerData:
    """The composited class overlay of a prediction; it shows the grid's own array."""
    options = _on_grid(grid, store_path, slide_path, "classes")
    return grid.rgba, {**options, "name": f"classes · {title}", "rgb": True, "opacity": opacity}, "image"


def probability_layer(grid: ClassGrid, store_path: str | Path, title: str, slide_path: str | Path) -> LayerData:
    """The probability of one class, hidden at first."""
    options = {
        **_on_grid(grid, store_path, slide_path, "probability"),
        "name": probability_name(grid.class_names[grid.shown_class], title),
        "colormap": "viridis",
        "contrast_limits": (0.0, 1.0),
        "opacity": 0.7,
        "visible": False,
    }
    return grid.shown, options, "image"


def _on_grid(grid: ClassGrid, store_path: str | Path, slide_path: str | Path, kind: str) -> dict[str, Any]:
    return {
        "scale": grid.scale_um,
        "translate": grid.translate_um,
        "units": MICROMETRES,
        "interpolation2d": "nearest",
        "metadata": {KEY: {"kind": kind, "store": str(store_path), "slide_path": str(slide_path), "grid": grid}},
    }


def result_layers(
    grid: ClassGrid, store_path: str | Path, title: str, slide_path: str | Path, opacity: float = 0.5
) -> list[LayerData]:
    """The composited class overlay and one hidden probability layer of a prediction, bottom first."""
    probability = probability_layer(grid, store_path, title, slide_path)
    return [probability, overlay_layer(grid, store_path, title, slide_path, opacity)]


def empty_grid(slide: Slide, classes: Sequence[tuple[str, Any]], reading: Reading, stride_px: int) -> ClassGrid:
    """The cells a prediction of this slide will have, with nothing in them.

    Parameters
    ----------
    classes : name and colour of each.
    reading : how the tuning reads tiles.
    stride_px : from one tile to the next, in pixels of the reading.

    Raises
    ------
    MissingPixelSize : the slide's pixel size is not known.
    """
    from pathotune.inference.plan import Grid
    from pathotune.tiles.grid import tile_grid

    mpp = slide.require_mpp()
    # A box that holds no tile: only the size of the whole grid is asked for.
    tiles = tile_grid(slide, reading, stride_px=stride_px, box_px0=(0.0, 0.0, 0.0, 0.0))
    grid = Grid.from_tiles(tiles, (mpp.x, mpp.y))
    scale_um, translate_um = grid.placement_um("probabilities")
    return ClassGrid(
        np.zeros((len(classes), grid.rows, grid.columns), dtype=np.float32),
        tuple(name for name, _ in classes),
        np.asarray([class_rgb(name, color, i) for i, (name, color) in enumerate(classes)], dtype=np.uint8),
        scale_um,
        translate_um,
    )


def class_rgb(name: str, color: Any, index: int) -> tuple[int, int, int]:
    """A class's own colour, or the one the core gives a class of this name or number."""
    from pathotune.tasks import class_color

    return rgb(color if color is not None else class_color(name, index))


def probability_name(class_name: str, title: str) -> str:
    """The name of the probability layer that shows one class."""
    return f"probability of {class_name} · {title}"


def attention_layer(
    levels: Sequence[Any],
    placement: tuple[tuple[float, float], tuple[float, float]],
    store_path: str | Path,
    sources: Sequence[str],
    title: str,
    slide_path: str | Path,
) -> LayerData:
    """The first source of attention as a hidden heat map; the dock can switch it to the others.

    Parameters
    ----------
    levels : arrays (y, x), finest first.
    placement : (y, x) scale and translation in micrometres of the finest.
    sources : of "cls", "tvp", "ttp" and "ivp" those the store keeps; `levels` are the first one's. None as long as
        there is no store.
    """
    multiscale, source = len(levels) > 1, sources[0] if sources else ""
    about = {"kind": "attention", "store": str(store_path), "slide_path": str(slide_path)}
    options = {
        "name": attention_name(source, title) if source else f"attention · {title}",
        "multiscale": multiscale,
        "scale": placement[0],
        "translate": placement[1],
        "units": MICROMETRES,
        "colormap": "inferno",
        "contrast_limits": attention_limits(levels[-1]),
        "opacity": 0.7,
        "blending": "translucent",
        "interpolation2d": "linear",
        "visible": False,
        "metadata": {KEY: {**about, "source": source, "sources": tuple(sources)}},
    }
    return (list(levels) if multiscale else levels[0]), options, "image"


def empty_attention(grid: ClassGrid, store_path: str | Path, title: str, slide_path: str | Path) -> LayerData:
    """The layer of the attention to come over the cells of a grid: what a store keeps is put into it later."""
    (rows, columns), (height, width), (y, x) = grid.shape, grid.scale_um, grid.translate_um
    half = rows * height / 2, columns * width / 2
    # Four values and one: as many levels as the smallest store has, so that a layer of levels is made.
    levels = [np.full((2, 2), np.nan, dtype=np.float32), np.full((1, 1), np.nan, dtype=np.float32)]
    middle = y - height / 2 + half[0] / 2, x - width / 2 + half[1] / 2
    return attention_layer(levels, (half, middle), store_path, (), title, slide_path)


def attention_name(source: str, title: str) -> str:
    """The name of the attention layer that shows one source."""
    return f"attention of {source_title(source)} · {title}"


def source_title(source: str) -> str:
    """A source of attention in plain words: "tvp" is visual prompts, "tvp 2" visual prompt 2."""
    if source in SOURCES:
        return SOURCES[source]
    group, _, number = source.removesuffix(" rollout").partition(" ")
    if group in SOURCES and number.isdigit():
        whose = f"{SOURCES[group].removesuffix('s')} {number}"
        return f"{whose}, through all blocks" if source.endswith(" rollout") else whose
    return source


# Plain words for the rows of attention a prediction keeps.
SOURCES = {
    "cls": "the whole tile (CLS)",
    "tvp": "visual prompts",
    "ttp": "sentence prompts",
    "ivp": "instance prompts",
    "attention": "the whole slide's answer",
}
SOURCES |= {f"{name} rollout": f"{SOURCES[name]}, through all blocks" for name in ("cls", "tvp", "ttp", "ivp")}


def attention_limits(values: Any) -> tuple[float, float]:
    """Colour limits that a few patches do not decide: the 2nd and 99.5th percentile of what is there."""
    array = np.asarray(values, dtype=np.float32)
    present = array[np.isfinite(array) & (array > 0)]
    if not present.size:
        return 0.0, 1.0
    low, high = (float(value) for value in np.percentile(present, (2, 99.5)))
    return (low, high) if high > low else (0.0, max(high, 1e-6))


def store_layers(
    store: PredictionStore, slide_path: str | Path, opacity: float = 0.5, grid: ClassGrid | None = None
) -> list[LayerData]:
    """All layers of a prediction store, bottom first: attention and probability (hidden), class overlay.

    Parameters
    ----------
    grid : what is in memory already; read from the store where None.
    """
    found = result_layers(grid or class_grid(store), store.path, tuning_name_of(store), slide_path, opacity)
    return attention_layers(store, slide_path) + found


def attention_layers(store: PredictionStore, slide_path: str | Path) -> list[LayerData]:
    """The layer of a store's attention; none where it keeps none."""
    if not store.sources:
        return []
    levels, place = attention_levels(store, store.sources[0]), store.placement_um("attention")
    return [attention_layer(levels, place, store.path, store.sources, tuning_name_of(store), slide_path)]


def attention_levels(store: PredictionStore, source: str) -> list[Any]:
    """One source's attention as dask arrays (y, x) float32, finest first; NaN (not drawn) where nothing is predicted.

    They read the store when they are drawn, so a layer that shows them follows a running prediction when refreshed.
    """
    import dask.array as da

    index = store.sources.index(source)
    levels = []
    for array in store.pyramid("attention"):
        lazy = da.from_array(array, chunks=array.chunks, name=False)[index]
        levels.append(da.where(lazy > 0, lazy.astype(np.float32), np.float32(np.nan)))
    return levels


def rgb(color: Any) -> tuple[int, int, int]:
    """A colour as (r, g, b) 0-255, from a triple or "#rrggbb"."""
    if isinstance(color, str):
        text = color.lstrip("#")
        return int(text[0:2], 16), int(text[2:4], 16), int(text[4:6], 16)
    red, green, blue = (int(part) for part in color[:3])
    return red, green, blue
