"""The tile features of a cohort: found in a folder and checked, or extracted slide by slide."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pathotune.errors import (
    Cancelled,
    FeaturesMismatch,
    FileMissing,
    MissingPixelSize,
    NoTiles,
    SlideUnreadable,
)
from pathotune.events import Event, Note, Step, up_to_the_end
from pathotune.inference.slide_vectors import SlideVectors, gives_vectors

if TYPE_CHECKING:
    from pathotune.backbones.card import BackboneCard
    from pathotune.backbones.surface import Backbone
    from pathotune.datasets.cohort import Cohort, CohortInputs
    from pathotune.features.featureset import FeatureHeader
    from pathotune.methods.checkpoint import Tuning

# What is wrong with one slide alone: the others are gone on with.
OF_ONE_SLIDE = (FileMissing, MissingPixelSize, SlideUnreadable)
MOST_NAMED = 5


@dataclass(frozen=True)
class FeatureFolder:
    """The features of some rows of a cohort.

    paths : row → file.
    common : what all files say alike.
    card : of the backbone that made them.
    sha256 : of its weights, "" where it is not known.
    """

    paths: dict[int, Path]
    common: FeatureHeader
    card: BackboneCard
    sha256: str


def labelled_rows(cohort: Cohort) -> Cohort:
    """The rows that have a label."""
    return cohort.take([row for row, label in enumerate(cohort.labels) if label is not None])


def cohort_features(
    inputs: CohortInputs,
    cohort: Cohort,
    rows: NDArray[np.int64],
    backbone: Backbone | str,
    folder: Path,
    tile_tuning: Tuning | None = None,
    device: str = "auto",
    cancel: Callable[[], bool] | None = None,
    stain: str | None = None,
) -> Generator[Event, None, FeatureFolder]:
    """The features of these rows: from `inputs.features`, else extracted into `folder` (what is there is kept).

    Slides that cannot be read, or have no tissue, are left out and named in a Note.

    Parameters
    ----------
    cohort : of which `rows` are meant; `inputs` says where features are and how large pixels are.
    backbone : loaded, or its name: it is then loaded only where something has to be extracted.
    tile_tuning : whose prompted features are wanted; None for the plain backbone's. Of a tuning of ModalTune its slide
        vectors are written behind the plain ones, into `folder`.
    stain : what is done to the stain of a plain backbone's tiles (a tile tuning says it itself). None leaves it as it
        is, and takes features from a folder however it was done there.

    Raises
    ------
    FeaturesMismatch : features of another backbone, tuning or tile size.
    NoTiles : no slide is left.
    Cancelled : somebody asked to stop.
    """
    from pathotune.features import check_alike, header

    card = _card(backbone)
    if tile_tuning is not None and gives_vectors(tile_tuning):
        plain = yield from cohort_features(inputs, cohort, rows, backbone, folder / "tiles", None, device, cancel)
        return _with_vectors(plain, cohort, tile_tuning, folder, device)
    if inputs.features is not None:
        paths, lacking = _found(inputs.features, cohort, rows, card, tile_tuning, stain)
    else:
        paths, lacking = yield from _extracted(
            inputs, cohort, rows, backbone, folder, tile_tuning, device, cancel, stain
        )
    if lacking:
        named = ", ".join(lacking[:MOST_NAMED]) + (" …" if len(lacking) > MOST_NAMED else "")
        yield Note(f"{len(lacking)} of {len(rows)} slides are left out: {named}.", "warning")
    if not paths:
        raise NoTiles(
            f"None of the {len(rows)} slides has tile features; {'the first: ' + lacking[0] if lacking else ''}."
        )
    common = check_alike(header(path) for path in paths.values())
    return FeatureFolder(paths, common, card, str(common.extra.get("backbone_sha256") or ""))


def _with_vectors(plain: FeatureFolder, cohort: Cohort, tuning: Tuning, folder: Path, device: str) -> FeatureFolder:
    """The features of these rows with the slide vectors of a tuning behind them."""
    from pathotune.device import pick_device
    from pathotune.features import header

    maker = SlideVectors(tuning, plain.card.name, pick_device(device))
    paths = {
        row: maker.written(path, _folder_of(folder, cohort.slides[row]) / path.name)
        for row, path in plain.paths.items()
    }
    return replace(plain, paths=paths, common=header(next(iter(paths.values()))))


def _card(backbone: Backbone | str) -> BackboneCard:
    from pathotune.backbones import backbone_card

    return backbone_card(backbone) if isinstance(backbone, str) else backbone.card


def _found(
    folder: Path,
    cohort: Cohort,
    rows: NDArray[np.int64],
    card: BackboneCard,
    tile_tuning: Tuning | None,
    stain: str | None,
) -> tuple[dict[int, Path], list[str]]:
    """The files of a folder, checked; and the slides that have none."""
    from pathotune.features import check_features, find_features, header, reading_of

    fingerprint = "" if tile_tuning is None else tile_tuning.fingerprint
    reading = None if tile_tuning is None else tile_tuning.reading
    paths, lacking = {}, []
    for row in rows.tolist():
        try:
            path = find_features(folder, cohort.slides[row])
        except FileMissing:
            if not folder.is_dir():
                raise
            lacking.append(f"{Path(cohort.slides[row]).name} (no features in {folder})")
            continue
        about = header(path)
        check_features(about, card, reading, tuning=fingerprint)
        if tile_tuning is None and stain is not None:
            check_features(about, card, replace(reading_of(about, card), stain=stain))
        if about.count:
            paths[row] = path
        else:
            lacking.append(f"{Path(cohort.slides[row]).name} (no tiles)")
    return paths, lacking


def _extracted(
    inputs: CohortInputs,
    cohort: Cohort,
    rows: NDArray[np.int64],
    backbone: Backbone | str,
    folder: Path,
    tile_tuning: Tuning | None,
    device: str,
    cancel: Callable[[], bool] | None,
    stain: str | None,
) -> Generator[Event, None, tuple[dict[int, Path], list[str]]]:
    """Features made of the slides themselves, one after the other; the backbone is loaded once."""
    from pathotune.features import header
    from pathotune.inference.extracting import extract
    from pathotune.slides import open_slide

    loaded: list[Any] = [] if isinstance(backbone, str) else [backbone]

    def load() -> Any:
        if not loaded:
            from pathotune.backbones import load_backbone

            loaded.append(load_backbone(str(backbone)))
        return loaded[0]

    icc = tile_tuning is not None and tile_tuning.reading.icc
    paths, lacking, settled = {}, [], ""
    yield Step("features", 0, len(rows), unit="slides")
    source = _card(backbone) if isinstance(backbone, str) else backbone
    for number, row in enumerate(rows.tolist()):
        name = Path(cohort.slides[row]).name
        try:
            with open_slide(cohort.slide_path(row), mpp=cohort.slide_mpp(row) or inputs.slide_mpp, icc=icc) as slide:
                stream = extract(
                    slide,
                    loaded[0] if loaded else source,
                    _folder_of(folder, cohort.slides[row]),
                    tuning=tile_tuning,
                    load=None if loaded else load,
                    device=device,
                    settled=settled,
                    stain=stain or "none",
                    cancel=cancel,
                )
                result = yield from up_to_the_end(event for event in stream if _is_news(event))
        except OF_ONE_SLIDE as error:
            lacking.append(f"{name} ({error})")
            continue
        except FeaturesMismatch as error:
            raise FeaturesMismatch(
                f"{error}".replace("Choose another --out, or replace it with --restart", _ADVICE)
            ) from None
        if result.get("status") == "cancelled" or (cancel is not None and cancel()):
            raise Cancelled("The extraction of features", "the slides that were done are kept")
        if result.get("out"):
            paths[row] = Path(result["out"])
            # All slides of a cohort in the number format that was found good for the first.
            settled = settled or str(header(paths[row]).extra.get("precision") or "")
        else:
            lacking.append(f"{name} (no tissue)")
        yield Step("features", number + 1, len(rows), unit="slides")
    return paths, lacking


def _folder_of(folder: Path, slide: str) -> Path:
    """Slides of one name in several folders keep their folders."""
    parent = PurePath(slide.replace("\\", "/")).parent
    return folder if parent.is_absolute() or ".." in parent.parts else folder / parent


def _is_news(event: Event) -> bool:
    """Whether somebody who waits for many slides wants to know it of one."""
    return not isinstance(event, Step) and not (isinstance(event, Note) and event.level == "info")


_ADVICE = "Delete that folder, or give the tuning another name"
