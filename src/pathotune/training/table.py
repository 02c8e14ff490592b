"""Tiles that a table lists, pictures or places on slides, decoded to one reading."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pathotune.errors import NoTiles, PathotuneError, TableUnreadable, UsageError
from pathotune.events import Note, Step
from pathotune.training.examples import (
    READ_AT_ONCE,
    Examples,
    Gathering,
    class_colors,
    discarded_on_error,
    image_store,
)
from pathotune.training.kept import content_keys

if TYPE_CHECKING:
    from pathotune.datasets.tiles import TileTable
    from pathotune.tasks import Task
    from pathotune.tiles.tileset import Reading
    from pathotune.training.schedule import TrainingConfig


def gather_table(
    table: TileTable,
    reading: Reading,
    training: TrainingConfig,
    task: Task | str | None = None,
    class_names: Sequence[str] | None = None,
) -> Gathering:
    """Split and decode the tiles of a table for a training (a generator of events that returns `Examples`).

    Rows whose split is "test" are not read at all.

    Raises
    ------
    NoTiles
        A class has tiles on one side of the split only.
    TableUnreadable
        A picture cannot be decoded; it is named.
    """
    card = _task(task, table)
    names = tuple(class_names or [entry.name for entry in card.classes if entry.name in table.class_names])
    table = table.take(np.flatnonzero(table.labels(names) >= 0))
    by: str = "patient" if training.split_by == "region" else training.split_by
    try:
        split = table.divide(by=by, fraction=training.val_fraction, seed=training.seed)
    except NoTiles:
        if training.split_by != "region" or not table.is_on_slides:
            raise
        # As regions of one slide are: by what lies together, and no tile on both sides.
        by, split = "block", table.divide(by="block", fraction=training.val_fraction, seed=training.seed)
        yield Note(BY_BLOCKS, "warning")
    yield from (Note(text, "warning") for text in (*table.warnings, *split.notes))
    apart = _apart(table, split.train, split.validation) if by == "block" else split.train
    train = _at_most(table.labels(names), apart, training)
    used = np.sort(np.concatenate([train, split.validation]))
    place = np.full(len(table), -1)
    place[used] = np.arange(len(used))
    has_own = "train" in table.split and "val" in table.split
    examples = yield from read_table(table.take(used), reading, names, card, "table" if has_own else by)
    examples.train, examples.validation = place[train], place[split.validation]
    for side, tiles in (("training", examples.train), ("validation", examples.validation)):
        absent = [name for name, count in examples.tiles_per_class(tiles).items() if not count]
        if absent or len(names) < 2:
            which = f"no {side} tile of {', '.join(absent)}" if absent else f"only one class ({', '.join(names)})"
            raise NoTiles(f"The table has {which}: every class needs tiles to learn from and tiles to judge by.")
    return examples


def read_table(table: TileTable, reading: Reading, names: Sequence[str], card: Task, split_by: str = "") -> Gathering:
    """Decode every row of a table whose label is one of `names` (a generator of events that returns `Examples`)."""
    table = table.take(np.flatnonzero(table.labels(names) >= 0))
    if not len(table):
        raise NoTiles(f"The table has no tile of the classes {', '.join(names)}.")
    images, file = image_store(len(table), reading.image_px)
    yield from _scale_notes(table)
    done = 0
    with discarded_on_error(file):
        for rows, pixels in _slide_tiles(table, reading) if table.is_on_slides else _pictures(table, reading):
            images[rows] = pixels
            done += len(rows)
            yield Step("reading tiles", done, len(table))
    groups = table.groups("slide")
    _, group = np.unique(groups, return_inverse=True)
    slides = len(np.unique([slide for slide in table.slide if slide])) or (
        len(set(map(str, table.path))) if table.is_on_slides else 0
    )
    paths, origin = np.unique([str(path) for path in table.path], return_inverse=True)
    boxes = np.stack([table.x_px0, table.y_px0, table.width_px0, table.width_px0], axis=1)
    return Examples(
        images,
        table.labels(names),
        group.astype(np.int64),
        tuple(names),
        class_colors(names, card),
        card,
        # A table's slide names may be patients' names: counted, not kept.
        tuple(f"slide {number} of a table" for number in range(1, slides + 1)),
        tuple(sorted({round(float(mpp), 6) for mpp in table.mpp if not math.isnan(mpp)})),
        {},
        split_by,
        content_keys(images),
        tuple(str(path) for path in paths),
        origin.reshape(-1).astype(np.int64),
        (),
        boxes.astype(np.float64) if table.is_on_slides else np.zeros((0, 4)),
        file=file,
    )


BY_BLOCKS = (
    "The tiles cannot be split by patient with every class on both sides, so blocks of neighbouring tiles are held "
    "out: the scores say nothing about another patient."
)


def _apart(table: TileTable, train: NDArray[np.int64], validation: NDArray[np.int64]) -> NDArray[np.int64]:
    """The training tiles that share no pixel with a validation tile."""
    slides = np.unique(table.groups("slide"), return_inverse=True)[1].reshape(-1)
    corner, width = np.stack([table.x_px0, table.y_px0], axis=1), table.width_px0
    kept = []
    for tile in train.tolist():
        there = validation[slides[validation] == slides[tile]]
        gap = np.abs(corner[there] + width[there, None] / 2 - corner[tile] - width[tile] / 2)
        if not (gap < (width[there, None] + width[tile]) / 2).all(axis=1).any():
            kept.append(tile)
    return np.asarray(kept, dtype=np.int64)


def _at_most(labels: NDArray[np.int64], tiles: NDArray[np.int64], training: TrainingConfig) -> NDArray[np.int64]:
    from pathotune.training.draws import balanced_part

    return balanced_part(labels, tiles, training.max_tiles_per_class, training.seed)


def _task(task: Task | str | None, table: TileTable) -> Task:
    from pathotune.tasks import load_task, task_from_dict

    if task is None:
        return task_from_dict({"name": "table", "classes": list(table.class_names)})
    return load_task(task) if isinstance(task, str) else task


def _scale_notes(table: TileTable) -> Iterator[Note]:
    unknown = 0 if table.is_on_slides else int(np.isnan(table.mpp).sum())
    if unknown:
        yield Note(
            f"{unknown} of {len(table)} pictures have no pixel size (column mpp) and are taken whole, whatever tissue "
            "they cover.",
            "warning",
        )


def _slide_tiles(table: TileTable, reading: Reading) -> Iterator[tuple[NDArray[np.int64], NDArray[np.uint8]]]:
    """Rows and tiles: each tile lies on the centre of its row's square and has the reading's own size."""
    from pathotune.slides import open_slide
    from pathotune.tiles.reader import TileReader

    paths = [str(path) for path in table.path]
    for path in dict.fromkeys(paths):
        mine = np.asarray([row for row, other in enumerate(paths) if other == path])
        stated = table.mpp[mine][~np.isnan(table.mpp[mine])]
        with open_slide(path, mpp=float(stated[0]) if len(stated) else None, icc=reading.icc) as slide:
            width, height = reading.tile_px0(slide)
            reader = TileReader(slide, reading)
            for start in range(0, len(mine), READ_AT_ONCE):
                rows = mine[start : start + READ_AT_ONCE]
                half = table.width_px0[rows] / 2
                x, y = table.x_px0[rows] + half - width / 2, table.y_px0[rows] + half - height / 2
                yield rows, reader.read_at(x, y)


def _pictures(table: TileTable, reading: Reading) -> Iterator[tuple[NDArray[np.int64], NDArray[np.uint8]]]:
    """Rows and tiles of a table of pictures, decoded by threads."""
    if reading.stain != "none":
        raise UsageError(
            f"The table lists pictures, but stain {reading.stain} is measured on whole slides: use a table of places "
            "on slides, or a tuning without stain normalisation."
        )
    with ThreadPoolExecutor(max_workers=4) as pool:
        for start in range(0, len(table), READ_AT_ONCE):
            rows = np.arange(start, min(start + READ_AT_ONCE, len(table)))
            jobs = [pool.submit(read_picture, table.path[row], float(table.mpp[row]), reading) for row in rows]
            yield rows, np.stack([job.result() for job in jobs])


def read_picture(path: Path, mpp: float, reading: Reading) -> NDArray[np.uint8]:
    """The middle of a picture as the reading wants it.

    Parameters
    ----------
    path : PNG, JPEG, TIFF …, also inside a zip archive.
    mpp : its pixel size in µm; NaN takes the largest centred square, whatever it covers.

    Returns
    -------
    (image_px, image_px, 3) uint8. A picture smaller than a tile is continued by its mirror image, so that its tissue
    keeps its scale.
    """
    from PIL import Image

    from pathotune.datasets.pictures import opened

    side = reading.image_px
    try:
        with opened(path) as stream, Image.open(stream) as handle:
            picture = handle.convert("RGB")
    except PathotuneError:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise TableUnreadable(f"The picture {path.name} cannot be read ({error}). Leave its row out.") from None
    width, height = picture.size
    wanted = min(width, height) if math.isnan(mpp) else reading.tile_um / mpp  # side of a tile in the picture's pixels
    part_width, part_height = min(width, wanted), min(height, wanted)
    left, top = (width - part_width) / 2, (height - part_height) / 2
    box = (left, top, left + part_width, top + part_height)
    size = (max(1, round(side * part_width / wanted)), max(1, round(side * part_height / wanted)))
    method: Any = Image.Resampling[reading.filter.upper()]
    pixels = np.asarray(picture.resize(size, method, box=box))
    if pixels.shape[:2] == (side, side):
        return pixels
    missing = [(side - length) // 2 for length in pixels.shape[:2]]
    around = [(before, side - length - before) for before, length in zip(missing, pixels.shape[:2], strict=True)]
    return np.pad(pixels, [*around, (0, 0)], mode="symmetric")
