"""A tuning made from whole slides: prompts from weak labels where wanted, tile features, the aggregator, the file."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pathotune.backbones.card import backbone_card
from pathotune.backbones.licences import warn_before_tuning
from pathotune.device import pick_device
from pathotune.errors import NoTiles, UsageError
from pathotune.events import Event, Finished, Note, Saving, Step, up_to_the_end
from pathotune.execution.slide_record import SlideOutcome, SlideRun, save_slide_tuning, write_folds
from pathotune.inference.slide_features import FeatureFolder, cohort_features, labelled_rows
from pathotune.methods import load_config
from pathotune.methods.checkpoint import Tuning, check_writable, tuning_path
from pathotune.methods.options import parse_settings
from pathotune.training.session import session_path
from pathotune.training.stopping import Stopping, never

if TYPE_CHECKING:
    from pathotune.backbones.surface import Backbone
    from pathotune.datasets.cohort import Cohort, CohortInputs
    from pathotune.datasets.tiles import TileTable
    from pathotune.methods.mil.config import MilConfig
    from pathotune.tasks import Task
    from pathotune.training.schedule import TrainingConfig


def tune_slides(
    inputs: CohortInputs,
    method: str,
    config: MilConfig,
    backbone: Backbone | str,
    training: TrainingConfig,
    task: Task | str | None,
    out: Path,
    *,
    cancel: Callable[[], bool] = never,
) -> Iterator[Event]:
    """Tune on the slides of a cohort and save one file that predicts.

    Rows of the test set are never looked at. Without a folder of features they are extracted into the session folder
    beside the tuning, where a later run finds them.

    Yields
    ------
    Note, Step, EpochEnd, Saving, and Finished with the contract's JSON at the end: classes, slides_per_class, epochs,
    val, trainable_parameters, seconds, out, and `folds` where these were asked for.

    Raises
    ------
    NoTiles : too few labelled slides or patients of a class.
    FeaturesMismatch, FileMissing : features that do not fit, or are missing.
    TuningMismatch : the tile tuning does not fit the backbone.
    """
    from pathotune.datasets.cohort import split_patients

    started = time.monotonic()
    check_writable(out)
    yield from warn_before_tuning(backbone_card(backbone) if isinstance(backbone, str) else backbone.card)
    cohort = labelled_rows(inputs.cohort)
    if len(cohort) < len(inputs.cohort):
        yield Note(f"{len(inputs.cohort) - len(cohort)} slides without a label are left out.", "warning")
    card = _task(task, cohort)
    names = tuple(entry.name for entry in card.classes)
    device = pick_device(training.device)
    stopping = Stopping(cancel)
    run = SlideRun(
        inputs,
        cohort,
        cohort.label_indices(names),
        names,
        config,
        backbone,
        training,
        card,
        session_path(out),
        device,
        stopping,
        cancel,
    )
    train, held = split_patients(cohort, training.val_fraction, training.seed)
    outcome = yield from _learned(run, train, held, run.folder)
    folds = (yield from _folds(run)) if inputs.folds else None
    yield Saving()
    result = save_slide_tuning(run, outcome, method, out, time.monotonic() - started)
    if folds is not None:
        result |= {"folds": folds[0], "folds_csv": str(write_folds(tuning_path(out), cohort, names, *folds[1]))}
    yield Finished(result)


def _task(task: Task | str | None, cohort: Cohort) -> Task:
    """The task card, its classes those that the cohort has."""
    from pathotune.tasks import load_task, task_from_dict

    if len(cohort.classes) < 2:
        raise NoTiles(
            f"The cohort has {'no label' if not cohort.classes else f'one label only ({cohort.classes[0]})'}; learning "
            "from slides needs a column label with at least two classes."
        )
    if task is None:
        return task_from_dict({"name": "cohort", "level": "slide", "classes": list(cohort.classes)})
    card = load_task(task)
    unknown = [name for name in cohort.classes if name not in {entry.name for entry in card.classes}]
    if unknown:
        raise UsageError(
            f"The task {card.name} has no class {unknown[0]!r}, which the cohort has; choose another task."
        )
    return replace(card, classes=tuple(entry for entry in card.classes if entry.name in cohort.classes))


def _learned(
    run: SlideRun,
    train: NDArray[np.int64],
    held: NDArray[np.int64],
    folder: Path,
    rest: NDArray[np.int64] | None = None,
) -> Generator[Event, None, SlideOutcome]:
    """Learn from some rows, choose by others; features of a `rest` are made too."""
    config = run.config
    wanted = np.concatenate([train, held] if rest is None else [train, held, rest])
    tile_tuning: Tuning | None = None
    if config.takes_prompts and not config.is_weak:
        tile_tuning = _tile_tuning(config.prompts)
        if run.training.stain not in ("none", tile_tuning.reading.stain):
            raise UsageError(
                f"{tile_tuning.name} was tuned on tiles whose stain was left as it is; leave --set "
                f"stain={run.training.stain} out, or tune it with that setting too."
            )
    places: dict[int, NDArray[np.float64]] = {}
    for number in range(config.rounds if config.is_weak else 1):
        if config.is_weak:
            if run.inputs.features is not None:
                raise UsageError(
                    "Prompts are tuned from weak labels on the slides themselves: leave --features out, or the prompts."
                )
            tile_tuning = yield from _weak_tuning(run, train, held, folder / f"weak-{number + 1}", places)
        # Its card's name: an enhanced backbone is asked for by the path of its tuning, which is no name of a folder.
        backbone = (backbone_card(run.backbone) if isinstance(run.backbone, str) else run.backbone.card).name
        stain = None if run.training.stain == "none" else run.training.stain
        plain = f"{backbone}-{stain}" if stain else backbone
        name = f"features-{plain if tile_tuning is None else tile_tuning.fingerprint[:8]}"
        features = yield from cohort_features(
            run.inputs, run.cohort, wanted, run.backbone, folder / name, tile_tuning, run.device, run.cancel, stain
        )
        outcome = yield from _on_features(run, features, train, held, tile_tuning)
        if number + 1 < config.rounds and config.is_weak:
            places = _most_attended(run, outcome, config.weak_tiles)
    return outcome


def _tile_tuning(path: str) -> Tuning:
    from pathotune.errors import TuningMismatch
    from pathotune.methods import level_of

    tuning = Tuning.load(Path(path).expanduser())
    if level_of(tuning.method) not in {"tile", "patient"}:
        raise TuningMismatch(
            f"{tuning.name} is a tuning of whole slides; features come from a tile tuning or one of ModalTune."
        )
    return tuning


def _on_features(
    run: SlideRun,
    features: FeatureFolder,
    train: NDArray[np.int64],
    held: NDArray[np.int64],
    tile_tuning: Tuning | None,
) -> Generator[Event, None, SlideOutcome]:
    """Train the aggregator on the features that are there."""
    from pathotune.training.bags import Bags, learn

    rows = np.asarray(sorted(features.paths), dtype=np.int64)
    place = {int(row): number for number, row in enumerate(rows.tolist())}
    sides = [np.asarray([place[int(row)] for row in side.tolist() if int(row) in place]) for side in (train, held)]
    labels = run.labels[rows]
    for side, what in zip(sides, ("to learn from", "to choose the epoch by"), strict=True):
        absent = [name for index, name in enumerate(run.class_names) if index not in set(labels[side].tolist())]
        if absent:
            raise NoTiles(f"No slide of {absent[0]!r} with tissue is left {what}; add slides of it.")
    bags = Bags([features.paths[int(row)] for row in rows], run.training.cache_mb)
    learned = yield from learn(
        bags, labels, run.class_names, sides[0], sides[1], run.config, run.training, run.device, run.stopping
    )
    return SlideOutcome(learned, bags, features, tile_tuning, rows, sides[0], sides[1])


def _weak_tuning(
    run: SlideRun,
    train: NDArray[np.int64],
    held: NDArray[np.int64],
    out: Path,
    places: dict[int, NDArray[np.float64]],
) -> Generator[Event, None, Tuning]:
    """A tile tuning in which tiles carry the label of their slide."""
    from pathotune.backbones import load_backbone
    from pathotune.training.loop import tune

    path = tuning_path(out)
    backbone = run.backbone if not isinstance(run.backbone, str) else load_backbone(run.backbone)
    reading = run.training.reading_of(backbone.card)
    table = yield from _weak_table(run, train, held, reading, places)
    settings = parse_settings(part.strip() for part in run.config.weak_settings.split(";") if part.strip())
    config = load_config(run.config.weak_method, settings)
    yield Note(f"First {run.config.weak_method} is tuned on {len(table)} tiles that carry the label of their slide.")
    training = replace(run.training, epochs=0, patience=0)
    yield from up_to_the_end(
        tune(table, run.config.weak_method, config, backbone, training, None, path, cancel=run.cancel)
    )
    return Tuning.load(path)


def _weak_table(
    run: SlideRun,
    train: NDArray[np.int64],
    held: NDArray[np.int64],
    reading: Any,
    places: dict[int, NDArray[np.float64]],
) -> Generator[Event, None, TileTable]:
    """Some tissue tiles of every slide (those of `places` where it has the slide), labelled as their slide."""
    from pathotune.datasets.tiles import TileTable
    from pathotune.slides import open_slide
    from pathotune.tiles.grid import tile_grid
    from pathotune.tiles.tissue import tissue_mask

    cohort = run.cohort
    found: list[tuple[int, str, float, float, float]] = []
    sides = [*((int(row), "train") for row in train), *((int(row), "val") for row in held)]
    for number, (row, side) in enumerate(sides):
        run.stopping.look()
        with open_slide(cohort.slide_path(row), mpp=cohort.slide_mpp(row) or run.inputs.slide_mpp) as slide:
            width = reading.tile_px0(slide)[0]
            corners = places.get(row)
            if corners is None:
                tiles = tile_grid(slide, reading, tissue=tissue_mask(slide))
                random = np.random.default_rng([run.training.seed, row])
                drawn = np.sort(random.permutation(len(tiles))[: run.config.weak_tiles])
                corners = np.stack([tiles.x_px0[drawn], tiles.y_px0[drawn]], axis=1)
        found += [(row, side, float(x), float(y), width) for x, y in corners]
        yield Step("weak labels", number + 1, len(sides), unit="slides")
    rows = [entry[0] for entry in found]
    mpp = [cohort.slide_mpp(row) or run.inputs.slide_mpp or np.nan for row in rows]
    return TileTable(
        path=[cohort.slide_path(row) for row in rows],
        label=[str(cohort.labels[row]) for row in rows],
        slide=[cohort.slides[row] for row in rows],
        patient=[cohort.patients[row] for row in rows],
        split=[entry[1] for entry in found],
        mpp=np.asarray(mpp, dtype=np.float64),
        x_px0=np.asarray([entry[2] for entry in found]),
        y_px0=np.asarray([entry[3] for entry in found]),
        width_px0=np.asarray([entry[4] for entry in found]),
        source="weak labels",
    )


def _most_attended(run: SlideRun, outcome: SlideOutcome, count: int) -> dict[int, NDArray[np.float64]]:
    """For every slide the corners of the tiles that the aggregator looked at most."""
    import torch

    found = {}
    model = outcome.learned.model
    for number, row in enumerate(outcome.rows.tolist()):
        bag = outcome.bags[number]
        with torch.no_grad():
            said = model(
                torch.as_tensor(bag.features, device=run.device), torch.as_tensor(bag.cells, device=run.device)
            )
        order = np.argsort(-said.weights.cpu().numpy(), kind="stable")[:count]
        found[row] = bag.coords_px0[np.sort(order)]
    return found


def _folds(
    run: SlideRun,
) -> Generator[Event, None, tuple[dict[str, Any], tuple[NDArray[np.int64], NDArray[np.float64]]]]:
    """Train on all folds but one, in turn, and say what the slides of that one are; prompts are tuned anew too."""
    from pathotune.datasets.cohort import folds_of, split_patients
    from pathotune.training.metrics import classification_report

    if run.config.takes_prompts and not run.config.is_weak:
        yield Note(
            "The tile tuning that is given may have learned from slides of this cohort: what the folds say is fair "
            "only where it has not.",
            "warning",
        )
    cohort, training = run.cohort, run.training
    folds = folds_of(cohort, run.inputs.folds, training.seed)
    said = np.full((len(cohort), len(run.class_names)), np.nan)
    count = int(folds.max()) + 1
    for fold in range(count):
        yield Note(f"Fold {fold + 1} of {count}")
        left_out = np.flatnonzero(folds == fold)
        # The column split would choose the same slides to judge by in every fold.
        others = replace(cohort, split=tuple("test" if one in (fold, -1) else "" for one in folds.tolist()))
        train, held = split_patients(others, training.val_fraction, training.seed)
        folder = run.folder / f"fold-{fold + 1}" if run.config.is_weak else run.folder
        outcome = yield from _learned(run, train, held, folder, left_out)
        for row in left_out.tolist():
            place = np.flatnonzero(outcome.rows == row)
            if len(place):
                said[row] = probabilities_of(outcome.learned.model, outcome.bags[int(place[0])], run.device)
    known = np.isfinite(said).all(axis=1)
    patients = [patient for patient, one in zip(cohort.patients, known, strict=True) if one]
    report = classification_report(said[known], run.labels[known], run.class_names, groups=patients)
    return {"k": count, **report}, (folds, said)


def probabilities_of(model: Any, bag: Any, device: str) -> NDArray[np.float64]:
    """(K,) calibrated probabilities of one slide."""
    import torch

    with torch.no_grad():
        said = model(torch.as_tensor(bag.features, device=device), torch.as_tensor(bag.cells, device=device))
    return np.asarray(said.logits.double().softmax(dim=0).cpu().numpy())
