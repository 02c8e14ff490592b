"""What goes on from one tuning to the next, in the folder NAME.session beside its file: tiles, split and report."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pathotune.errors import OutputRefused
from pathotune.methods.checkpoint import Tuning, card_path, tuning_name, tuning_path
from pathotune.processes import still_runs, this_process
from pathotune.settings import read_json, write_json

if TYPE_CHECKING:
    from pathotune.training.examples import Examples

FORMAT = 1
SUFFIX = ".session"
TILES, INDEX, SPLIT, REPORT = "tiles.bin", "tiles.json", "split.json", "report.json"
BEST, BEST_REPORT = "best.pathotune.safetensors", "best.json"


def session_path(out: str | Path) -> Path:
    """The session folder of a tuning file."""
    target = tuning_path(out)
    return target.with_name(tuning_name(target) + SUFFIX)


def best_path(out: str | Path) -> Path:
    """Where the best epoch so far of a training for that file is kept, a whole tuning, until the training has ended."""
    return session_path(out) / BEST


def left_over(folder: Path) -> list[Path]:
    """The tuning files that trainings broken off in this folder would have become, as far as they got to an epoch.

    A training that still runs, in this program or another one, is none of them.
    """
    found = []
    for path in folder.glob(f"*{SUFFIX}/{BEST}"):
        report = path.with_name(BEST_REPORT)
        with contextlib.suppress(OSError):
            if not still_runs(read_json(report).get("process", {}), path.stat().st_mtime):
                found.append(tuning_path(path.parent.with_suffix("")))
    return sorted(found)


def take_best(out: str | Path) -> dict[str, Any] | None:
    """Make the best epoch that a broken-off training left behind the tuning it was to become.

    Parameters
    ----------
    out : where that training would have saved its tuning. Nothing may train for it any more.

    Returns
    -------
    The document the training would have ended with had it been cancelled then, its status "cancelled"; None where no
    epoch was finished.

    Raises
    ------
    OutputRefused, TuningUnreadable : the folder cannot be written to, or the file in it is damaged.
    """
    session = Session(session_path(out))
    if not (session.folder / BEST).is_file():
        return None
    kept = read_json(session.folder / BEST_REPORT)
    tuning = Tuning.load(session.folder / BEST)
    path = tuning.save(tuning_path(out))
    result = {
        "classes": list(tuning.class_names),
        "val": tuning.training.get("metrics") or {},
        **kept.get("report", {}),
    }
    result |= {"out": str(path), "session": str(session.folder), "status": "cancelled"}
    try:
        if isinstance(kept.get("split"), dict):
            write_json(session.folder / SPLIT, kept["split"])
        write_json(session.folder / REPORT, {"format": FORMAT, **result})
        session.drop_best()
    except OSError as error:
        raise OutputRefused(f"{session.folder} cannot be written to ({error.strerror or error}).") from None
    return result


@dataclass(frozen=True)
class Sides:
    """Where the tiles lie that a tuning learned from, and those it was judged by.

    Attributes
    ----------
    training, validation : slide fingerprint to (n, 4) boxes x, y, width, height in level-0 pixels.
    """

    training: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    validation: dict[str, NDArray[np.float64]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.training or self.validation)


class Session:
    """A session folder, which need not exist: then it knows nothing.

    It never goes to anybody else with the tuning: it holds pictures and the names of slides.

    Parameters
    ----------
    folder : as `session_path` says.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def sides(self) -> Sides:
        """The split of the tuning it belongs to; empty where it is not known."""
        data = read_json(self.folder / SPLIT)
        if data.get("format") != FORMAT:
            return Sides()
        try:
            return Sides(
                *({name: _boxes(rows) for name, rows in data[side].items()} for side in ("training", "validation"))
            )
        except (KeyError, TypeError, ValueError, AttributeError):
            return Sides()

    def fill(self, keys: Sequence[bytes], images: NDArray[np.uint8], rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Read the kept ones of these tiles into their rows of `images`; returns the rows of the others."""
        index = read_json(self.folder / INDEX)
        places = {bytes.fromhex(key): place for place, key in enumerate(index.get("keys", []))}
        wanted = [row for row in rows.tolist() if keys[row] in places]
        if not wanted or index.get("image_px") != images.shape[1]:
            return rows
        size, done = int(np.prod(images.shape[1:])), set()
        with contextlib.suppress(OSError), (self.folder / TILES).open("rb") as file:
            for row in sorted(wanted, key=lambda row: places[keys[row]]):
                file.seek(places[keys[row]] * size)
                content = file.read(size)
                if len(content) == size:
                    images[row] = np.frombuffer(content, dtype=np.uint8).reshape(images.shape[1:])
                    done.add(row)
        return np.asarray([row for row in rows.tolist() if row not in done], dtype=np.int64)

    def write(self, examples: Examples, report: dict[str, Any], limit_bytes: int) -> bool:
        """Write tiles (where they fit), split and report; False where the disk would not take them.

        The tuning itself is saved by then, so that a full disk here costs time later, not the work.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(self.folder / SPLIT, {"format": FORMAT, **_split(examples)})
            write_json(self.folder / REPORT, {"format": FORMAT, **report})
            # Last what only saves time: who stops here loses nothing else.
            self._write_tiles(examples, limit_bytes)
            self.drop_best()
        except OSError:
            return False
        return True

    def write_best(self, examples: Examples, report: dict[str, Any]) -> None:
        """Keep, beside the best epoch so far, all that makes it a tuning if the program ends now."""
        split = {"format": FORMAT, **_split(examples)}
        with contextlib.suppress(OSError):
            about = {"format": FORMAT, "process": this_process(), "report": report, "split": split}
            write_json(self.folder / BEST_REPORT, about)

    def drop_best(self) -> None:
        """The training has ended: its best epoch is the tuning now."""
        for path in (self.folder / BEST, card_path(self.folder / BEST), self.folder / BEST_REPORT):
            path.unlink(missing_ok=True)

    def _write_tiles(self, examples: Examples, limit_bytes: int) -> None:
        if not examples.slides_px0 or examples.images.nbytes > limit_bytes:
            for name in (INDEX, TILES):
                (self.folder / name).unlink(missing_ok=True)
            return
        if shutil.disk_usage(self.folder).free < 4 * examples.images.nbytes:
            return
        temporary = self.folder / f".{TILES}.{os.getpid()}.tmp"
        with temporary.open("wb") as file:
            for image in examples.images:
                file.write(np.ascontiguousarray(image).data)
        # The old index first: an index never tells of tiles that are not there.
        (self.folder / INDEX).unlink(missing_ok=True)
        os.replace(temporary, self.folder / TILES)
        index = {"image_px": int(examples.images.shape[1]), "keys": [key.hex() for key in examples.keys]}
        write_json(self.folder / INDEX, index)


def _split(examples: Examples) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for side, tiles in (("training", examples.train), ("validation", examples.validation)):
        by_slide: dict[str, list[list[float]]] = {}
        for tile in tiles.tolist() if examples.slides_px0 else []:
            name = examples.slides_px0[int(examples.slide[tile])]
            by_slide.setdefault(name, []).append(np.round(examples.boxes_px0[tile], 2).tolist())
        found[side] = by_slide
    return found


def _boxes(rows: Any) -> NDArray[np.float64]:
    return np.asarray(rows, dtype=np.float64).reshape(-1, 4)
