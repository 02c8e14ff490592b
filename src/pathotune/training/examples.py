"""The tiles a training or an evaluation works on: laid on regions or listed in a table, decoded once, kept at hand."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pathotune.errors import NoTiles
from pathotune.events import Event, Note, Step
from pathotune.settings import settings
from pathotune.training.draws import balanced_part
from pathotune.training.kept import TILES, place_keys
from pathotune.training.resplit import relearned, settled, unlearned

if TYPE_CHECKING:
    from pathotune.datasets.tiles import TileTable
    from pathotune.regions import LabelledTiles, Regions
    from pathotune.slides.slide import Slide
    from pathotune.tasks import Task
    from pathotune.tiles.tileset import Reading
    from pathotune.training.schedule import TrainingConfig
    from pathotune.training.session import Session, Sides

# Decoded tiles beyond this go to a file that is mapped into memory instead.
IN_MEMORY_BYTES = 1_500_000_000
READ_AT_ONCE = 64


@dataclass(frozen=True)
class TuneSource:
    """One slide and what was drawn on it.

    Parameters
    ----------
    slide_path : the slide.
    regions_path : GeoJSON or XML; None where `regions` is given.
    regions : regions in level-0 pixels, already read.
    slide_mpp : the slide's own pixel size, where the file lacks it or is wrong.
    patient : whose slide it is; slides without one count as patients of their own.
    origin : from where the coordinates of the regions' file count, as in `read_regions`.
    """

    slide_path: str | Path
    regions_path: str | Path | None = None
    regions: Regions | None = None
    slide_mpp: float | None = None
    patient: str | None = None
    origin: str = "auto"


@dataclass
class Examples:
    """Decoded tiles with their classes.

    Attributes
    ----------
    images : (n, image_px, image_px, 3) uint8, in memory or mapped from a file.
    keys : (n,) what each picture is known by; the same tile has the same key in the next training.
    labels : (n,) class of each.
    groups : (n,) which tiles are no independent witnesses: those of one region (in tables, of one slide).
    train, validation : indexes; empty in an evaluation.
    new_tiles : training tiles that the tuning gone on from has not learned from.
    known_again : the share of what that tuning learned from that is among the training tiles; 0 where it is not known.
    class_names, class_colors : in the order of the labels.
    task : the task card.
    slides : pseudonyms.
    slide_mpp : pixel size of each slide as it was used.
    scanners : vendor and objective of each slide, as far as its file tells.
    regions_per_class : how many regions gave tiles.
    split_by : "region", "slide", "patient", or "table" where the table has a split of its own.
    origins : paths of the slides, or of each tile's own picture where they come from a table.
    slide : (n,) index into `origins`.
    slides_px0 : fingerprints of the slides; empty for a table.
    boxes_px0 : (n, 4) x, y, width, height in level-0 pixels; empty for pictures.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    groups: NDArray[np.int64]
    class_names: tuple[str, ...]
    class_colors: tuple[tuple[int, int, int], ...]
    task: Task
    slides: tuple[str, ...] = ()
    slide_mpp: tuple[float, ...] = ()
    regions_per_class: dict[str, int] = field(default_factory=dict)
    split_by: str = "region"
    keys: Sequence[bytes] = ()
    origins: tuple[str, ...] = ()
    slide: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    slides_px0: tuple[str, ...] = ()
    boxes_px0: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 4)))
    train: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    validation: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    file: Path | None = None
    new_tiles: int = 0
    known_again: float = 0.0
    scanners: tuple[str, ...] = ()

    def tiles_per_class(self, tiles: NDArray[np.int64] | None = None) -> dict[str, int]:
        """How many of the tiles (of all) each class has."""
        labels = self.labels if tiles is None else self.labels[tiles]
        counts = np.bincount(labels, minlength=len(self.class_names))
        return {name: int(count) for name, count in zip(self.class_names, counts, strict=True)}

    def place(self, tile: int) -> dict[str, Any]:
        """Where a tile lies: ``{"slide", "box_px0"}``, ``{"picture"}``, or nothing where that is not known."""
        if not len(self.slide):
            return {}
        path = self.origins[int(self.slide[tile])]
        return {"slide": path, "box_px0": self.boxes_px0[tile].tolist()} if len(self.boxes_px0) else {"picture": path}

    def close(self) -> None:
        """Give back the file behind the images."""
        if self.file is not None:
            self.images = np.zeros((0, 1, 1, 3), dtype=np.uint8)
            discard(self.file)
            self.file = None


Gathering = Generator[Event, None, Examples]


def gather(
    sources: Sequence[TuneSource] | TileTable,
    reading: Reading,
    training: TrainingConfig,
    task: Task | str | None = None,
    class_names: Sequence[str] | None = None,
    map_classes: Mapping[str, str] | None = None,
    sessions: Sequence[Session] = (),
    before: Sides | None = None,
) -> Gathering:
    """Lay, split and decode the tiles of a training (a generator of events that returns `Examples`).

    Parameters
    ----------
    sessions : where tiles may lie decoded.
    before : the split that a saved tuning was made with, where the training goes on from it.

    Raises
    ------
    NoTiles
        No split has every class on both sides; the sentence says which class and what to draw.
    """
    if not isinstance(sources, Sequence):
        from pathotune.training.table import gather_table

        return (yield from gather_table(sources, reading, training, task, class_names))
    with Laid(sources, reading, task, class_names, map_classes) as laid:
        yield from map(_warn, laid.notes)
        tiles = laid.tiles
        tiles = tiles.take(
            balanced_part(tiles.label, np.arange(len(tiles)), training.max_tiles_per_class, training.seed)
        )
        from pathotune.regions import split_tiles

        split = split_tiles(tiles, by=training.split_by, fraction=training.val_fraction, seed=training.seed)
        yield from map(_warn, split.notes)
        train, validation, new_tiles, known_again = split.train, split.validation, 0, 0.0
        if before is not None:
            fingerprints = [slide.fingerprint for slide in laid.slides]
            train, validation, notes = settled(tiles, fingerprints, train, validation, before)
            yield from map(_warn, notes)
            new_tiles = unlearned(tiles, fingerprints, train, before)
            known_again = relearned(tiles, fingerprints, train, before)
        used = np.sort(np.concatenate([train, validation]))
        place = np.full(len(tiles), -1)
        place[used] = np.arange(len(used))
        examples = yield from laid.read(tiles.take(used), training.split_by, sessions)
    examples.train, examples.validation = place[train], place[validation]
    examples.new_tiles, examples.known_again = new_tiles, known_again
    return examples


def gather_all(
    sources: Sequence[TuneSource],
    reading: Reading,
    class_names: Sequence[str],
    map_classes: Mapping[str, str] | None = None,
) -> Gathering:
    """Lay and decode every tile of an evaluation (a generator of events that returns `Examples`).

    Raises
    ------
    NoTiles
        No region has one of these classes.
    """
    with Laid(sources, reading, None, class_names, map_classes) as laid:
        yield from map(_warn, laid.notes)
        if not len(laid.tiles):
            raise NoTiles(f"None of the regions has one of the classes {', '.join(class_names)}. {laid.why}".strip())
        return (yield from laid.read(laid.tiles, "region"))


def _warn(text: str) -> Note:
    return Note(text, "warning")


class Laid:
    """Tiles laid on the regions of slides, ready to be read; closes its slides when left.

    Attributes
    ----------
    tiles : of all slides.
    notes : sentences for the person.
    why : why regions gave no tiles.
    """

    def __init__(
        self,
        sources: Sequence[TuneSource],
        reading: Reading,
        task: Task | str | None,
        class_names: Sequence[str] | None,
        map_classes: Mapping[str, str] | None,
    ) -> None:
        if not sources:
            raise NoTiles("There is no slide with regions to work on. Give --slide and --regions, or --tiles.")
        self.reading = reading
        self.notes: list[str] = []
        self.slides: list[Slide] = []
        self.regions: list[Regions] = []
        try:
            for source in sources:
                self._open(source, map_classes)
            self.task = self._task(task)
            self.class_names = tuple(class_names or self._classes(task))
            # A class that was mapped to nothing was left out on purpose: no word about its regions.
            wanted_out = "no class" if map_classes and not all(map_classes.values()) else ""
            self.tiles, self.why = self._lay([source.patient or "" for source in sources], wanted_out)
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> Laid:
        return self

    def __exit__(self, *_: object) -> None:
        for slide in self.slides:
            slide.close()

    def read(self, tiles: LabelledTiles, split_by: str, sessions: Sequence[Session] = ()) -> Gathering:
        """Decode these tiles; those that an earlier training decoded are taken from there."""
        from pathotune.training.record import pseudonym

        images, file = image_store(len(tiles), self.reading.image_px)
        known = self._keys(tiles)
        with discarded_on_error(file):
            missing = TILES.fill(known, images, np.arange(len(tiles)))
            for session in sessions:
                if len(missing):
                    missing = session.fill(known, images, missing)
            yield from self._decode(tiles, images, missing)
            TILES.keep(known, images, np.arange(len(tiles)))
        keys = np.stack([tiles.slide, tiles.region], axis=1)
        unique, groups = np.unique(keys, axis=0, return_inverse=True)
        of_group = np.zeros(len(unique), dtype=np.int64)
        of_group[groups.reshape(-1)] = tiles.label
        counts = np.bincount(of_group, minlength=len(self.class_names))
        return Examples(
            images,
            tiles.label,
            groups.reshape(-1),
            self.class_names,
            class_colors(self.class_names, self.task, self.regions),
            self.task,
            tuple(pseudonym(slide.fingerprint) for slide in self.slides),
            tuple(round(slide.require_mpp().mean, 6) for slide in self.slides),
            {name: int(count) for name, count in zip(self.class_names, counts, strict=True)},
            split_by,
            known,
            tuple(str(slide.path) for slide in self.slides),
            tiles.slide,
            tuple(slide.fingerprint for slide in self.slides),
            np.stack([tiles.x_px0, tiles.y_px0, tiles.width_px0, tiles.height_px0], axis=1),
            file=file,
            scanners=tuple(scanner_of(slide) for slide in self.slides),
        )

    def _keys(self, tiles: LabelledTiles) -> list[bytes]:
        keys = [b""] * len(tiles)
        for index, slide in enumerate(self.slides):
            mine = np.flatnonzero(tiles.slide == index)
            found = place_keys(slide, self.reading, tiles.x_px0[mine], tiles.y_px0[mine])
            for row, key in zip(mine.tolist(), found, strict=True):
                keys[row] = key
        return keys

    def _decode(self, tiles: LabelledTiles, images: NDArray[np.uint8], missing: NDArray[np.int64]) -> Iterator[Event]:
        """Read the missing rows of `images` from the slides."""
        from pathotune.tiles.reader import TileReader

        done = len(tiles) - len(missing)
        for index, slide in enumerate(self.slides):
            mine = missing[tiles.slide[missing] == index]
            with (
                TileReader(slide, self.reading) as reader,
                reader.batches(tiles, READ_AT_ONCE, order=mine) as parts,
            ):
                for part, pixels in parts:
                    images[part] = pixels
                    done += len(part)
                    yield Step("reading tiles", done, len(tiles))
        if not len(missing):
            yield Step("reading tiles", done, len(tiles))

    def _open(self, source: TuneSource, map_classes: Mapping[str, str] | None) -> None:
        from pathotune.regions import Regions, read_regions
        from pathotune.slides import open_slide

        slide = open_slide(source.slide_path, mpp=source.slide_mpp, icc=self.reading.icc)
        self.slides.append(slide)
        slide.require_mpp()
        if source.regions is not None:
            regions = source.regions.map_classes(map_classes) if map_classes else source.regions
        elif source.regions_path is not None:
            regions = read_regions(source.regions_path, slide, origin=source.origin, map_classes=map_classes)
        else:
            regions = Regions()
        self.notes += list(regions.warnings)
        self.regions.append(regions)

    def _task(self, task: Task | str | None) -> Task:
        from pathotune.tasks import load_task, task_from_regions

        if task is None:
            return task_from_regions([region for regions in self.regions for region in regions])
        return load_task(task) if isinstance(task, str) else task

    def _classes(self, asked: Task | str | None) -> list[str]:
        """The task's classes that were drawn; where no task was asked for, all that were drawn."""
        drawn = {name for regions in self.regions for name in regions.class_names()}
        names = [entry.name for entry in self.task.classes]
        if asked is None:
            return names or sorted(drawn)
        absent = [name for name in names if name not in drawn]
        if absent:
            self.notes.append(f"No region of {', '.join(absent)} was drawn: the tuning will not know that class.")
        return [name for name in names if name in drawn]

    def _lay(self, patients: list[str], wanted_out: str) -> tuple[LabelledTiles, str]:
        from pathotune.regions import label_tiles, merge_tiles, why_no_tiles

        parts, reports = [], []
        for slide, regions in zip(self.slides, self.regions, strict=True):
            size = (float(slide.width_px0), float(slide.height_px0))
            part, told = label_tiles(regions, size, self.reading.tile_px0(slide), self.class_names)
            parts.append(part)
            reports += [report for report in told if report.cause not in ("ignore", "no training class", wanted_out)]
        why = why_no_tiles(reports)
        if why:
            self.notes.append(f"Regions without tiles: {why}")
        return merge_tiles(parts, patients), why


def scanner_of(slide: Slide) -> str:
    """What a slide's file tells of its scanner."""
    power = f"{slide.objective_power:g}×" if slide.objective_power else ""
    return " ".join(part for part in (slide.vendor or "", power) if part) or "not stated"


def class_colors(names: Sequence[str], task: Task, regions: Sequence[Regions] = ()) -> tuple[tuple[int, int, int], ...]:
    """Each class's colour: as drawn, else as on the task's card, else from the palette."""
    from pathotune.tasks import class_color

    on_card = {entry.name: entry.color for entry in task.classes}
    drawn: dict[str, tuple[int, int, int]] = {}
    for part in regions:
        drawn = {**part.class_colors(), **drawn}
    return tuple(drawn.get(name) or on_card.get(name) or class_color(name, index) for index, name in enumerate(names))


def image_store(count: int, image_px: int) -> tuple[NDArray[np.uint8], Path | None]:
    """Room for decoded tiles: in memory, or in a file of the cache folder where that would be too much."""
    shape = (count, image_px, image_px, 3)
    if count * image_px * image_px * 3 <= IN_MEMORY_BYTES:
        return np.zeros(shape, dtype=np.uint8), None
    folder = settings().cache_dir / "tiles"
    folder.mkdir(parents=True, exist_ok=True)
    # What a killed run left behind. One that another run has mapped stays valid for it, or (Windows) cannot be deleted.
    for left_over in folder.glob("tuning-*.uint8"):
        discard(left_over)
    with tempfile.NamedTemporaryFile(dir=folder, prefix="tuning-", suffix=".uint8", delete=False) as handle:
        path = Path(handle.name)
    return np.memmap(path, dtype=np.uint8, mode="w+", shape=shape), path


def discard(file: Path) -> None:
    """Delete a file of decoded tiles; on Windows one that is still mapped stays until the next run clears it away."""
    with contextlib.suppress(OSError):
        file.unlink()


@contextlib.contextmanager
def discarded_on_error(file: Path | None) -> Iterator[None]:
    """Delete the file if what happens inside does not come to its end."""
    try:
        yield
    except BaseException:
        if file is not None:
            discard(file)
        raise
