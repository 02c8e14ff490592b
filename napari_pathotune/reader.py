"""Opens slides, prediction stores and drawn regions as napari layers; errors become notifications, never a crash."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_pathotune import compat

if TYPE_CHECKING:
    from pathotune.slides.slide import Slide

LayerData = tuple[Any, ...]
Reader = Callable[[Any], list[LayerData]]

# What napari understands as "handled, and nothing to show": the window stays.
NOTHING: list[LayerData] = [(None,)]
STORE_SUFFIX = ".pathotune.zarr"


def get_slide_reader(path: str | list[str]) -> Reader | None:
    """The reader of a slide or a prediction store, or None for what is not ours.

    Folders reach every reader whatever the pattern, so a foreign one is declined here, by a look at its name and a
    few file names only.
    """
    first = Path(path[0] if isinstance(path, list) else path)
    if first.is_dir() and not is_ours(first):
        return None
    return read_slides


def is_ours(folder: Path) -> bool:
    """A prediction store, an OME-Zarr image or a folder of DICOM slide files."""
    if folder.name.endswith(STORE_SUFFIX):
        return True
    if any((folder / name).is_file() for name in ("zarr.json", ".zattrs", ".zgroup")):
        return True
    return next(folder.glob("*.dcm"), None) is not None


def read_slides(path: str | list[str]) -> list[LayerData]:
    """Layers of one or several slides, each with the predictions that belong to it, or of a store."""
    paths = [Path(item) for item in (path if isinstance(path, list) else [path])]
    found: list[LayerData] = []
    for item in paths:
        found += _or_notice(_read_store if item.name.endswith(STORE_SUFFIX) else _read_slide, item)
    return found or NOTHING


def get_regions_reader(path: str | list[str]) -> Reader | None:
    """The reader of GeoJSON regions."""
    return read_drawn_regions


def read_drawn_regions(path: str | list[str]) -> list[LayerData]:
    """Shapes layers, one per class, laid on the slide that is open."""
    paths = [Path(item) for item in (path if isinstance(path, list) else [path])]
    found: list[LayerData] = []
    for item in paths:
        found += _or_notice(_read_regions, item)
    return found or NOTHING


def _or_notice(read: Callable[[Path], list[LayerData]], path: Path) -> list[LayerData]:
    """What `read` returns; an error the person can mend is shown and nothing is returned.

    A reader that raises ends `napari --plugin` with a traceback, so nothing may pass: what is no error of ours is
    shown with its kind and logged in full.
    """
    import logging

    from pathotune.errors import PathotuneError

    try:
        return read(path)
    except PathotuneError as error:
        compat.show_error(str(error))
    except Exception as error:  # see above: the window must stay
        logging.getLogger("pathotune").exception("opening %s", path.name)
        compat.show_error(f"{path.name} could not be opened ({type(error).__name__}: {error}).")
    return []


def _read_slide(path: Path) -> list[LayerData]:
    from napari_pathotune.layers import slide_layer
    from napari_pathotune.session import session_of
    from pathotune.slides import open_slide

    slide = open_slide(path)
    for sentence in slide.warnings:
        compat.show_warning(f"{slide.name}: {sentence}")
    viewer = compat.current_viewer()
    if viewer is not None:
        if compat.has_window(viewer):
            compat.until_next_turn(compat.computing_here())
        compat.show_slide_view(viewer)
        session_of(viewer)  # also without the dock: it keeps slides from hiding each other
    return [slide_layer(slide), *_belonging(slide)]


def _belonging(slide: Slide) -> list[LayerData]:
    """The layers of every prediction store beside the slide and in the results folder; the newest is shown."""
    if slide.mpp is None:
        return []
    from pathotune.inference.predictions import find_stores

    found: list[LayerData] = []
    for store_path in find_stores(slide.path, (results_folder(),), fingerprint=slide.fingerprint):
        layers = _or_notice(lambda item: _layers_of(item, slide.path), store_path)
        if found:  # two overlays on each other say nothing
            layers = [(data, {**options, "visible": False}, kind) for data, options, kind in layers]
        found += layers
    return found


def results_folder() -> Path:
    """Where the viewer writes: the person's preference, or the core's own default."""
    from pathotune.settings import settings

    chosen = compat.preferences().results_folder
    return Path(chosen).expanduser() if chosen else settings().results_dir


def _layers_of(store_path: Path, slide_path: Path | str) -> list[LayerData]:
    from napari_pathotune.layers import store_layers
    from pathotune.inference.predictions import PredictionStore

    return list(store_layers(PredictionStore.open(store_path), slide_path, compat.preferences().opacity))


def _read_store(path: Path) -> list[LayerData]:
    """A store by itself: its layers, on its slide where that is open, without opening it."""
    from napari_pathotune.layers import facts
    from pathotune.inference.predictions import PredictionStore

    viewer = compat.current_viewer()
    if viewer is None:
        return _layers_of(path, "")
    compat.show_slide_view(viewer)
    wanted = PredictionStore.open(path).slide_fingerprint
    slides = [facts(layer)["slide"] for layer in viewer.layers if "slide" in facts(layer)]
    return _layers_of(path, next((slide.path for slide in slides if slide.fingerprint == wanted), ""))


def _read_regions(path: Path) -> list[LayerData]:
    from napari_pathotune.drawings import layers_from_regions, many_outlines_text
    from napari_pathotune.layers import facts
    from pathotune.regions import read_regions

    viewer = compat.current_viewer()
    slides = [] if viewer is None else [facts(layer)["slide"] for layer in viewer.layers if "slide" in facts(layer)]
    slide = slides[-1] if slides else None
    if slide is None:
        compat.show_warning(f"{path.name} is shown in pixels: open its slide first to lay it on the tissue.")
    regions = read_regions(path, slide)
    question = many_outlines_text(regions, path.name)
    if question and viewer is not None and not compat.agrees("Many outlines", question):
        return []
    return list(layers_from_regions(regions, slide, str(path)))
