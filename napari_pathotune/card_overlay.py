"""The picture on a tuning's card of what it makes of tissue: predicted tiles in their classes' colours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from napari_pathotune.overlay import ClassGrid

LONGEST_PX = 640
STRENGTH = 0.45
ROW_PX, MARGIN_PX = 18, 6
QUALITY = 85

Array = np.ndarray[Any, Any]


def add_overlay(tuning_path: Path, slide_path: str, store_path: str) -> bool:
    """Put the picture of a prediction beside a tuning's card, once, and show it there; says whether it did.

    Of the slide only the predicted tiles are in it: neither its label nor what is written on the glass beside the
    tissue.

    Raises
    ------
    PathotuneError, OSError : slide, store or tuning cannot be read, or the folder not written to.
    """
    from PIL import Image

    from napari_pathotune.layers import class_grid, tuning_name_of
    from pathotune.inference.predictions import PredictionStore
    from pathotune.methods.card import model_card, overlay_path, pictures_folder
    from pathotune.methods.checkpoint import Tuning, card_path, tuning_name
    from pathotune.slides import open_slide

    target = overlay_path(tuning_path)
    if target.exists() or not pictures_folder(tuning_path).is_dir():
        return False
    store = PredictionStore.open(Path(store_path))
    if tuning_name_of(store) != tuning_name(tuning_path):
        return False  # another one was chosen meanwhile
    grid = class_grid(store)
    with open_slide(slide_path) as slide:
        picture = overlay_picture(slide.thumbnail(LONGEST_PX), grid, (slide.width_px0, slide.require_mpp()))
    if picture is None:
        return False
    Image.fromarray(picture).save(target, quality=QUALITY)
    card_path(tuning_path).write_text(model_card(Tuning.load(tuning_path)), encoding="utf-8")
    return True


def overlay_picture(thumbnail: Array, grid: ClassGrid, about: tuple[int, Any]) -> Array | None:
    """(h, w, 3) uint8: the predicted cells of a thumbnail tinted, white elsewhere, cut to them, with a legend below.

    Parameters
    ----------
    thumbnail : (h, w, 3) uint8 of the whole slide.
    about : the slide's width in level-0 pixels and its pixel size.

    Returns
    -------
    None where nothing is predicted.
    """
    width_px0, mpp = about
    px0 = width_px0 / thumbnail.shape[1]
    cells = []
    for axis, size_um in enumerate((mpp.y, mpp.x)):
        # The centre of level-0 pixel 0 lies at 0 µm.
        um = ((np.arange(thumbnail.shape[axis]) + 0.5) * px0 - 0.5) * size_um
        cells.append(np.round((um - grid.translate_um[axis]) / grid.scale_um[axis]).astype(int))
    inside = [(cell >= 0) & (cell < count) for cell, count in zip(cells, grid.shape, strict=True)]
    rows, columns = (np.clip(cell, 0, count - 1) for cell, count in zip(cells, grid.shape, strict=True))
    predicted = (grid.probabilities.sum(axis=0) > 0)[np.ix_(rows, columns)] & np.outer(*inside)
    if not predicted.any():
        return None
    colors = grid.colors[grid.probabilities.argmax(axis=0)][np.ix_(rows, columns)]
    tinted = np.round((1 - STRENGTH) * thumbnail + STRENGTH * colors).astype(np.uint8)
    picture = np.where(predicted[..., None], tinted, np.uint8(255))
    shown = [np.flatnonzero(predicted.any(axis=axis)) for axis in (1, 0)]
    picture = picture[shown[0][0] : shown[0][-1] + 1, shown[1][0] : shown[1][-1] + 1]
    return np.concatenate([picture, legend(grid, picture.shape[1])])


def legend(grid: ClassGrid, width: int) -> Array:
    """(rows, width, 3) uint8: the colour and name of each class, one below the other."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (width, ROW_PX * len(grid.class_names) + MARGIN_PX), "white")
    draw = ImageDraw.Draw(image)
    for number, (name, color) in enumerate(zip(grid.class_names, grid.colors.tolist(), strict=True)):
        top = MARGIN_PX + number * ROW_PX
        draw.rectangle((2, top + 2, 14, top + 14), fill=tuple(color))
        draw.text((20, top + 1), name.encode("latin-1", "replace").decode("latin-1"), fill="black")
    return np.asarray(image)
