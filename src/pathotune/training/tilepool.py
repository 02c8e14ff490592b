"""Pictures of some tiles of every patient, decoded once into a file, for a training that changes the backbone."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import zlib
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pathotune.errors import OutputRefused, UsageError
from pathotune.events import Event, Note, Step
from pathotune.features.featureset import FeatureSet, header
from pathotune.settings import read_json, write_json

if TYPE_CHECKING:
    from pathotune.datasets.cohort import Cohort
    from pathotune.tiles.tileset import Reading

TILES, INDEX = "pool.bin", "pool.json"


@dataclass(frozen=True)
class TilePool:
    """Tiles of patients.

    Parameters
    ----------
    images : (N, h, w, 3) uint8, those of a patient together; read from the file as they are needed.
    starts : (n + 1) where each patient's begin.
    path : of the file, None where they are in memory.
    """

    images: NDArray[np.uint8]
    starts: NDArray[np.int64]
    path: Path | None = None

    def rows(self, sample: int, most: int = 0, random: np.random.Generator | None = None) -> NDArray[np.int64]:
        """A patient's tiles, or `most` of them drawn without repetition."""
        own = np.arange(self.starts[sample], self.starts[sample + 1])
        if not most or len(own) <= most or random is None:
            return own
        return np.sort(random.choice(own, most, replace=False))

    def remove_large(self, limit_mb: int) -> None:
        """Take a file above this size away; a system that holds on to it keeps it."""
        if self.path is not None and self.images.nbytes > limit_mb * 2**20:
            for name in (TILES, INDEX):
                with contextlib.suppress(OSError):
                    (self.path.parent / name).unlink()


def chosen_tiles(files: Sequence[tuple[Path, int]], most: int, name: str) -> list[NDArray[np.intp]]:
    """Of each file of a patient's tile features the rows of the tiles that are kept: `most` in all, always the same."""
    counts = [count for _, count in files]
    random = np.random.default_rng(zlib.crc32(name.encode()))
    total = sum(counts)
    chosen = np.sort(random.choice(total, min(most, total), replace=False))
    edges = np.cumsum([0, *counts])
    return [chosen[(chosen >= low) & (chosen < high)] - low for low, high in itertools.pairwise(edges.tolist())]


def pool_of(
    cohort: Cohort,
    names: Sequence[str],
    bags: dict[str, list[tuple[Path, int]]],
    rows: dict[str, list[int]],
    reading: Reading,
    most: int,
    folder: Path,
    stated_mpp: float | None = None,
) -> Generator[Event, None, TilePool]:
    """Read `most` tiles of every patient from the slides, where the features say that they lie.

    Parameters
    ----------
    names : the patients.
    bags, rows : each patient's files of tile features with their counts, and the row of the cohort of each file.
    folder : the pictures are kept in it; what an earlier call of the same tiles left there is taken.

    Raises
    ------
    UsageError : a slide is not where the cohort says.
    SlideUnreadable, MissingPixelSize : a slide cannot be read.
    OutputRefused : the pictures cannot be kept.
    """
    wanted = [(name, chosen_tiles(bags[name], most, name)) for name in names]
    counts = [sum(map(len, parts)) for _, parts in wanted]
    starts = np.cumsum([0, *counts])
    shape = (int(starts[-1]), reading.image_px, reading.image_px, 3)
    key, target = _key(wanted, bags, reading), folder / TILES
    if read_json(folder / INDEX).get("key") == key and target.is_file():
        return TilePool(np.memmap(target, np.uint8, "r", shape=shape), starts, target)
    yield Note(
        f"{shape[0]} tiles of {len(names)} patients are decoded and kept beside the tuning for the training "
        f"({np.prod(shape) / 2**20:.0f} MB)."
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        images = np.memmap(target, np.uint8, "w+", shape=shape)
        for index, (name, parts) in enumerate(wanted):
            images[starts[index] : starts[index + 1]] = _read(
                cohort, bags[name], rows[name], parts, reading, stated_mpp
            )
            yield Step("tiles of patients", index + 1, len(names), unit="patients")
        images.flush()
        write_json(folder / INDEX, {"key": key, "shape": list(shape)})
    except OSError as error:
        raise OutputRefused(
            f"The tiles of the patients cannot be kept in {folder} ({error.strerror or error}). Make room, or take "
            "fewer of each patient (--set encoder_tiles=8)."
        ) from None
    return TilePool(np.memmap(target, np.uint8, "r", shape=shape), starts, target)


def _read(
    cohort: Cohort,
    files: Sequence[tuple[Path, int]],
    rows: Sequence[int],
    parts: Sequence[NDArray[np.intp]],
    reading: Reading,
    stated_mpp: float | None,
) -> NDArray[np.uint8]:
    """(m, h, w, 3) the tiles of a patient."""
    from pathotune.slides import open_slide
    from pathotune.tiles.reader import TileReader

    found = []
    for (path, _), row, chosen in zip(files, rows, parts, strict=True):
        if not len(chosen):
            continue
        corners = FeatureSet.load(path, rows=chosen).coords_px0
        mpp, where = cohort.slide_mpp(row) or stated_mpp, cohort.slide_path(row)
        if not where.exists():
            raise UsageError(
                f"The mode encoder reads tiles from the slides themselves, and {where.name} is not in {where.parent}. "
                "Write in the cohort table where the slides are, or use --set mode=features."
            )
        with open_slide(where, mpp=mpp, icc=reading.icc) as slide, TileReader(slide, reading) as reader:
            found.append(np.asarray(reader.read_at(corners[:, 0], corners[:, 1])))
    return np.concatenate(found)


def _key(wanted: Any, bags: dict[str, list[tuple[Path, int]]], reading: Reading) -> str:
    """What is in the file: which tiles of which slides, read how."""
    facts: list[Any] = [reading.to_dict()]
    for name, parts in wanted:
        about = [header(path).slide_fingerprint or path.name for path, _ in bags[name]]
        facts.append([name, about, [part.tolist() for part in parts]])
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()
