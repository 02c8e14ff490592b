"""What a tuning of whole slides says of one slide: the score, and where it looked, in a store like any other."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pathotune.backbones.licences import stated
from pathotune.device import peak_memory_mb, pick_device
from pathotune.errors import FeaturesMismatch, OutputRefused
from pathotune.events import Event, Finished, Note, up_to_the_end
from pathotune.features import FeatureSet, check_features, find_features, header
from pathotune.inference.attended import attended_picture, attended_tiles
from pathotune.inference.cells import UnitValues
from pathotune.inference.leases import leased
from pathotune.inference.locations import read_attributes, set_aside
from pathotune.inference.plan import Grid, Unit
from pathotune.inference.predictions import PredictionStore, store_path
from pathotune.inference.provenance import device_name, now, tuning_called, versions
from pathotune.inference.pyramids import write_pyramid
from pathotune.inference.slide_vectors import SlideVectors, gives_vectors
from pathotune.inference.work import OnMismatch, Place, Work, drop_replaced, find_place
from pathotune.methods.fitting import check_slide

if TYPE_CHECKING:
    from pathotune.backbones.surface import Backbone
    from pathotune.datasets.cohort import CohortInputs
    from pathotune.methods.checkpoint import Tuning
    from pathotune.slides.slide import Slide

ATTENTION = "attention"
_LARGEST = 65504.0  # of float16


@dataclass(frozen=True)
class SlideAnswer:
    """What is said of a slide.

    probabilities : (K,) of its classes, calibrated.
    tiles : (n, K) of each tile as if it were all there is.
    attention : source → (n,) share of each tile times the number of tiles, so that 1 is an even share.
    facts : what else goes into the store and the result.
    """

    probabilities: NDArray[np.float64]
    tiles: NDArray[np.float32]
    attention: dict[str, NDArray[np.float32]]
    facts: dict[str, Any] = field(default_factory=dict)


def answer(tuning: Tuning, features: FeatureSet, device: str = "cpu") -> SlideAnswer:
    """Ask a tuning of whole slides about the features of one.

    Raises
    ------
    TuningUnreadable : its tensors do not fit its method.
    """
    import torch

    from pathotune.methods.mil.method import Mil
    from pathotune.training.bags import Bag

    model, bag = Mil.from_tuning(tuning, device), Bag(features)
    with torch.inference_mode():
        tiles = torch.as_tensor(bag.features, device=device)
        said = model(tiles, torch.as_tensor(bag.cells, device=device))
        alone = model.alone(tiles).double().softmax(dim=1).float().cpu().numpy()
        speaking = model.speaking(said)
    shares = {ATTENTION: said.weights}
    if speaking is not None:
        shares |= {f"{ATTENTION} for {name}": speaking[row] for row, name in enumerate(model.class_names)}
    return SlideAnswer(
        said.logits.double().softmax(dim=0).cpu().numpy(),
        alone,
        {name: (values * len(bag)).float().cpu().numpy() for name, values in shares.items()},
    )


def score_of(probabilities: NDArray[np.float64], class_names: tuple[str, ...]) -> dict[str, Any]:
    """The score and which class it is of: of two the second, else the most probable one."""
    predicted = int(probabilities.argmax())
    of = 1 if len(class_names) == 2 else predicted
    return {
        "score": round(float(probabilities[of]), 6),
        "score_of": class_names[of],
        "predicted": class_names[predicted],
        "probabilities": {name: round(float(value), 6) for name, value in zip(class_names, probabilities, strict=True)},
    }


def predict_score(
    slide: Slide | str | Path,
    tuning: Tuning,
    out: str | Path,
    *,
    backbone: Backbone | None = None,
    inputs: CohortInputs | None = None,
    cancel: Callable[[], bool] | None = None,
    device: str = "auto",
    precision: str = "auto",
    batch_size: int | None = None,
    resume: bool = True,
    on_mismatch: OnMismatch = "refuse",
    ask: Callable[[Tuning, FeatureSet, str], SlideAnswer] = answer,
) -> Iterator[Event]:
    """Predict one slide into its store under `out`: the score, every tile's attention, and the tiles looked at most.

    Attention lies in the store as the attention maps of tile tunings do, one value per tile. Probabilities in the store
    are what each tile alone would make of its slide. The most attended tiles come as a picture beside the store.

    Parameters
    ----------
    inputs : says where features are; without a folder they are extracted into NAME.features under `out`, where a
        broken-off run goes on.
    backbone : the tuning's, where it is loaded already.
    device, precision, batch_size, resume, on_mismatch, cancel : as in `predict_slide`.
    ask : what asks the tuning about the features; its answer has attention under the name "attention".

    Yields
    ------
    Note, Step, and Finished with the contract's document of one slide; with `score`, `score_of`, `predicted`,
    `probabilities`, `attended` (places) and `picture` beside it.

    Raises
    ------
    FeaturesMismatch : features of another backbone, tuning or slide.
    PathotuneError : what `extracting.extract` and `predict_slide` raise.
    """
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        if isinstance(slide, str | Path):
            from pathotune.slides import open_slide

            mpp = None if inputs is None else (inputs.cohort.slide_mpp(0) or inputs.slide_mpp)
            slide = stack.enter_context(open_slide(slide, mpp=mpp, icc=tuning.reading.icc))
        check_slide(tuning, slide)
        options = {"device": device, "precision": precision, "batch_size": batch_size, "cancel": cancel}
        folder = None if inputs is None else inputs.features
        found = yield from slide_features(
            slide, tuning, folder, Path(out) / f"{tuning.name}.features", backbone, options
        )
        if found is None or not len(found):
            status = "cancelled" if cancel is not None and cancel() else "empty"
            yield Finished(_result(slide, None, status, started, 0, {}))
            return
        said = ask(tuning, found, pick_device(device))
        grid, row, column = grid_of(found, slide)
        work = _work(slide, tuning, grid, tuple(said.attention))
        target = store_path(slide.alias or slide.path, tuning.name, out)
        stack.enter_context(leased(target))
        place = find_place(target, work, resume=resume, on_mismatch=on_mismatch)
        facts = score_of(said.probabilities, tuning.class_names) | said.facts
        attended = attended_tiles(found, said.attention[ATTENTION])
        store, status = place.store, "resumed"
        if store is None or not store.is_complete:
            store, status = _stored(place, work, slide, tuning, said, row, column, device), "done"
        store.finish(
            "complete", **facts, attended=attended, seconds=round(time.monotonic() - started, 3), finished=now()
        )
        for text in drop_replaced(store):
            yield Note(text)
        picture = attended_picture(slide, tuning, attended, store.path)
        result = _result(slide, store.path, status, started, len(found), facts)
        yield Finished(result | {"attended": attended, "picture": str(picture)})


def _work(slide: Slide, tuning: Tuning, grid: Grid, sources: tuple[str, ...]) -> Work:
    """What is to be predicted, as a store has to agree with it."""
    return Work(
        grid=grid,
        classes=tuning.class_names,
        sources=sources,
        slide=slide.fingerprint,
        tuning=tuning.fingerprint,
        backbone=str(tuning.backbone.get("sha256") or ""),
        reading=tuning.reading.to_dict(),
        precision="float32",
    )


def slide_features(
    slide: Slide, tuning: Tuning, given: Path | None, folder: Path, backbone: Backbone | None, options: dict[str, Any]
) -> Generator[Event, None, FeatureSet | None]:
    """The features a tuning takes of a slide: found in a folder that is given, else extracted into `folder`.

    None where the slide has no tissue, or somebody asked to stop.
    """
    from pathotune.backbones import backbone_card

    tile_tuning = tuning.tile_tuning
    if tile_tuning is not None and gives_vectors(tile_tuning):
        bare = replace(tuning, embedded=None)
        tiles = yield from slide_features(slide, bare, given, folder / "tiles", backbone, options)
        maker = SlideVectors(tile_tuning, str(tuning.backbone["name"]), pick_device(options["device"]))
        return None if tiles is None or not len(tiles) else maker.of(tiles)
    fingerprint = "" if tile_tuning is None else tile_tuning.fingerprint
    sha256 = str(tuning.backbone.get("sha256") or "")
    if given is not None:
        path = find_features(given, slide.path)
        about = header(path)
        check_features(about, str(tuning.backbone["name"]), tuning.reading, tuning=fingerprint, sha256=sha256)
        if about.slide_fingerprint and about.slide_fingerprint != slide.fingerprint:
            raise FeaturesMismatch(
                f"{path.name} holds features of another slide of the name {about.slide}; extract those of this one."
            )
        return FeatureSet.load(path)
    from pathotune.inference.extracting import extract

    source = backbone if backbone is not None else backbone_card(str(tuning.backbone["name"]))
    stain = tuning.reading.stain
    result = yield from up_to_the_end(extract(slide, source, folder, tuning=tile_tuning, stain=stain, **options))
    if not result.get("out"):
        return None
    check_features(header(result["out"]), str(tuning.backbone["name"]), tuning=fingerprint, sha256=sha256)
    return FeatureSet.load(result["out"])


def grid_of(features: FeatureSet, slide: Slide) -> tuple[Grid, NDArray[np.intp], NDArray[np.intp]]:
    """The grid on which the tiles of a slide lie, and the cell of each; attention has one value per tile."""
    from pathotune.training.bags import tile_steps

    mpp = slide.require_mpp()
    step = tile_steps(features.coords_px0, features.tile_px0)
    first = features.coords_px0.min(axis=0)
    origin = first - np.floor(first / step + 1e-6) * step
    cells = np.rint((features.coords_px0 - origin) / step).astype(np.intp)
    reach = np.asarray([slide.width_px0, slide.height_px0]) - origin - np.asarray(features.tile_px0) / 2
    count = np.maximum(np.floor(reach / step + 1e-9).astype(int) + 1, cells.max(axis=0) + 1)
    grid = Grid(
        rows=int(count[1]),
        columns=int(count[0]),
        origin_px0=(float(origin[0]), float(origin[1])),
        tile_px0=(float(features.tile_px0[0]), float(features.tile_px0[1])),
        stride_px0=(float(step[0]), float(step[1])),
        mpp=(mpp.x, mpp.y),
        patches=(1, 1),
    )
    return grid, cells[:, 1], cells[:, 0]


def _stored(
    place: Place,
    work: Work,
    slide: Slide,
    tuning: Tuning,
    said: SlideAnswer,
    row: NDArray[np.intp],
    column: NDArray[np.intp],
    device: str,
) -> PredictionStore:
    """The answer written into a store, new or begun."""
    store = place.store
    if store is None:
        aside = set_aside(place.path) if place.is_taken else None
        replaced = [] if aside is None else [{"name": aside.name, "created": read_attributes(aside).get("created")}]
        try:
            store = PredictionStore.create(
                place.path,
                grid=work.grid,
                classes=tuning.classes,
                sources=work.sources,
                identity=work.identity(),
                facts=_facts(slide, tuning, pick_device(device)) | {"replaces": replaced},
            )
        except OutputRefused:
            if aside is not None:
                aside.rename(place.path)
            raise
    unit_of = work.grid.unit_of(row.astype(np.int32), column.astype(np.int32))
    for index in np.unique(unit_of).tolist():
        unit = work.grid.unit(index)
        members = np.flatnonzero(unit_of == index)
        values = _unit_values(unit, said, row[members] - unit.row, column[members] - unit.column, members)
        store.write_unit(
            unit, values.probabilities, values.attention, state="done", tiles=len(members), planned=len(members)
        )
        write_pyramid(store, unit, values)
    return store


def _unit_values(
    unit: Unit, said: SlideAnswer, row: NDArray[np.intp], column: NDArray[np.intp], members: NDArray[np.intp]
) -> UnitValues:
    """The values of one work unit; of two tiles in one cell the one that is looked at more."""
    order = np.argsort(said.attention[ATTENTION][members], kind="stable")
    row, column, members = row[order], column[order], members[order]
    probabilities = np.zeros((said.tiles.shape[1], unit.rows, unit.columns), np.float32)
    probabilities[:, row, column] = said.tiles[members].T
    attention = np.zeros((len(said.attention), unit.rows, unit.columns), np.float16)
    for number, shares in enumerate(said.attention.values()):
        attention[number, row, column] = np.clip(shares[members], 0, _LARGEST)
    return UnitValues(probabilities, attention)


def _facts(slide: Slide, tuning: Tuning, device: str) -> dict[str, Any]:
    mpp = slide.require_mpp()
    return {
        "level": "slide",
        "slide": {
            "name": slide.alias or slide.name,
            "width_px0": slide.width_px0,
            "height_px0": slide.height_px0,
            "origin_px0": list(slide.bounds_px0[:2]),
            "mpp": [mpp.x, mpp.y],
            "mpp_source": mpp.source,
        },
        "tuning": {"name": tuning.name, "method": tuning.method},
        "backbone": {
            "name": tuning.backbone["name"],
            "source": tuning.backbone.get("source"),
            **stated(tuning.backbone),
        },
        "job": {
            "command": "predict",
            "arguments": {"slide": slide.alias or str(slide.path), "tuning": tuning_called(tuning, slide.alias)},
        },
        "device": device,
        "device_name": device_name(device),
        "attention_unit": "share of the slide's attention times its number of tiles",
        "versions": versions(),
        "created": now(),
    }


def _result(
    slide: Slide, store: Path | None, status: str, started: float, tiles: int, facts: dict[str, Any]
) -> dict[str, Any]:
    """The contract's document of one slide; a class of a whole slide has no area."""
    seconds = time.monotonic() - started
    return {
        "slide": slide.alias or str(slide.path),
        "store": None if store is None else str(store),
        "tiles": tiles,
        "classes": {},
        "score": None,
        "seconds": round(seconds, 3),
        "tiles_per_second": round(tiles / max(seconds, 1e-9), 3),
        "model_busy": None,
        "peak_memory_mb": round(peak_memory_mb(), 1),
        "status": status,
        "error": None,
        **facts,
    }
