"""How unlike tiles are to the training's, and which of those each is most like: a thread's work, no viewer, no Qt."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_pathotune.markings import outlines
from napari_pathotune.tile_pictures import read_tile

if TYPE_CHECKING:
    from pathotune.inference.predictions import PredictionStore
    from pathotune.methods.checkpoint import Tuning
    from pathotune.training.distance import FeatureSpace

Array = np.ndarray[Any, Any]

NOT_KEPT = (
    "This result does not say which tiles are unlike the training tiles: it was predicted without “Keep what tiles are "
    "like”. Predict again with that on and “Go on where stopped” off, both under More options."
)
NOT_KNOWN = (
    "The tuning of this result does not say what its training tiles were like, as it is of an earlier version. "
    "Tune again to see which tiles are unlike them."
)
NO_FEATURES = "This result does not keep what the model sees in a tile, so the most similar training tile is not known."
NO_TUNING = "The tuning of this result is not at hand, so the most similar training tile is not known."


@dataclass(frozen=True)
class Unlikeness:
    """What a store says of how unlike its tiles are to the training tiles.

    distance : (rows, columns) float32, in units of what is usual, NaN where nothing is predicted; None where not kept.
    far : the distance beyond which a tile is unlike everything.
    reason : why there is no distance, as a sentence; empty where there is one.
    marks, fineness : outlines of the unlike cells as uint8 (rows × fineness, columns × fineness, 4).
    """

    distance: Array | None
    far: float = 1.0
    reason: str = ""
    marks: Array | None = None
    fineness: int = 1

    @property
    def far_share(self) -> float:
        """Part of the predicted cells that is unlike everything."""
        if self.distance is None or not np.isfinite(self.distance).any():
            return 0.0
        return float((self.distance[np.isfinite(self.distance)] > self.far).mean())


def read_unlikeness(store_path: str, with_marks: bool) -> Unlikeness:
    """Read it from a store; a thread's work.

    Parameters
    ----------
    with_marks : also draw the outlines.

    Raises
    ------
    FileMissing, StoreUnreadable : there is no store that can be read.
    """
    from pathotune.inference.predictions import PredictionStore

    store = PredictionStore.open(store_path)
    names = store.reliability_names
    if "distance" not in names:
        return Unlikeness(None, reason=NOT_KNOWN if names else NOT_KEPT)
    values = np.asarray(store.reliability[names.index("distance")], dtype=np.float32)  # type: ignore[index]
    distance = np.where(np.asarray(store.labels[...]) > 0, values, np.float32(np.nan))
    far = store.far_distance or 1.0
    if not with_marks:
        return Unlikeness(distance, far)
    marks, fineness = outlines(distance > far)
    return Unlikeness(distance, far, marks=marks, fineness=fineness)


@dataclass(frozen=True)
class Likest:
    """The training tile that a tile is most like.

    class_name : what it was drawn as.
    picture : uint8 (height, width, 3); None where its slide is not at hand.
    text : what there is to say of it.
    slide, box_px0 : where it lies; empty and None where that is not known.
    """

    class_name: str
    picture: Array | None
    text: str
    slide: str = ""
    box_px0: tuple[float, ...] | None = None


class LikestFinder:
    """Finds the training tile that a cell of a store is most like; what it has read it remembers. For one thread."""

    def __init__(self) -> None:
        self._spaces: dict[str, tuple[Tuning, FeatureSpace] | None] = {}
        self._slides: dict[str, str] = {}
        self._looked: set[str] = set()
        self._pictures: dict[tuple[str, tuple[float, ...]], Array | None] = {}
        self._store: tuple[str, PredictionStore] | None = None

    def find(self, store_path: str, cell: tuple[int, int], tunings: Iterable[str], slides: Iterable[str]) -> Likest:
        """The training tile most like this cell.

        Parameters
        ----------
        cell : row and column.
        tunings : files that may be the store's tuning.
        slides : slides that may hold the tile.

        Raises
        ------
        FileMissing, StoreUnreadable : there is no store that can be read.
        """
        from pathotune.inference.predictions import PredictionStore

        if self._store is None or self._store[0] != store_path:
            self._store = store_path, PredictionStore.open(store_path)
        store = self._store[1]
        if store.features is None:
            return Likest("", None, NO_FEATURES)
        found = self._space_of(store, tunings)
        if found is None:
            return Likest("", None, NO_TUNING)
        tuning, space = found
        features = np.asarray(store.features[cell[0], cell[1]], dtype=np.float32)[None]
        index = int(space.nearest(features)[0])
        name = str(tuning.classes[int(space.prototype_labels[index])]["name"])
        place = space.places[index] if index < len(space.places) else None
        if place is None:
            return Likest(name, None, f"Most like a training tile of {name}.")
        box = tuple(float(part) for part in place["box_px0"])
        stated = store.attrs.get("job", {}).get("arguments", {}).get("slide")
        path = self._slide_of(str(place["slide"]), [*slides, *_told_by(tuning), *([stated] if stated else [])])
        if not path:
            return Likest(name, None, f"Most like a training tile of {name} on {place['slide']}, which is not open.")
        if (path, box) not in self._pictures:
            self._pictures[path, box] = read_tile(path, box)
        text = f"Most like this training tile of {name}, on {Path(path).name}."
        return Likest(name, self._pictures[path, box], text, path, box)

    def forget(self) -> None:
        """Open stores anew: one may have been replaced."""
        self._store = None

    def _space_of(self, store: PredictionStore, tunings: Iterable[str]) -> tuple[Tuning, FeatureSpace] | None:
        """The store's tuning and where its training tiles lie, of the first file that is that very tuning."""
        from pathotune.errors import PathotuneError
        from pathotune.methods.checkpoint import Tuning
        from pathotune.training.distance import FeatureSpace

        wanted = str(store.attrs["identity"].get("tuning", ""))
        if wanted in self._spaces:
            return self._spaces[wanted]
        stated = store.attrs.get("job", {}).get("arguments", {}).get("tuning")
        for path in dict.fromkeys([*tunings, *([stated] if stated else [])]):
            try:
                tuning = Tuning.load(path)
            except PathotuneError:
                continue  # it was moved or replaced; the next may be it
            space = FeatureSpace.of(tuning) if tuning.fingerprint == wanted else None
            if space is not None:
                self._spaces[wanted] = tuning, space
                return tuning, space
        return None

    def _slide_of(self, name: str, slides: Iterable[str]) -> str:
        """The path of the slide with this pseudonym; empty where it is none of these."""
        from pathotune.errors import PathotuneError
        from pathotune.slides import open_slide
        from pathotune.training.record import pseudonym

        for path in dict.fromkeys(slides):
            if name in self._slides:
                break
            if path in self._looked:
                continue
            self._looked.add(path)
            try:
                with open_slide(path) as slide:
                    self._slides[pseudonym(slide.fingerprint)] = path
            except (PathotuneError, OSError):
                continue  # it was moved; another may be it
        return self._slides.get(name, "")


def _told_by(tuning: Tuning) -> list[str]:
    """Slides that the tuning's session folder names."""
    from pathotune.settings import read_json
    from pathotune.training.session import REPORT, session_path

    if tuning.path is None:
        return []
    wrong = read_json(session_path(tuning.path) / REPORT).get("most_wrong")
    return list(dict.fromkeys(str(one["slide"]) for one in wrong or () if isinstance(one, dict) and one.get("slide")))
