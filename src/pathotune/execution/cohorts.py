"""Jobs on whole slides: cohorts to tune and judge on, and slides that get one answer each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pathotune import events
from pathotune.errors import UsageError
from pathotune.execution.job import BackboneCache, needed, tuning_backbone, warm_backbone

if TYPE_CHECKING:
    from pathotune.backbones.surface import Backbone
    from pathotune.datasets.cohort import Cohort, CohortInputs

# The files that belong to a cohort: a folder of tile features, and tables.
TABLES = ("features", "expression", "pathways", "clinical")


def tune_on_cohort(
    trainer: Any, method: str, arguments: dict[str, Any], cache: BackboneCache, cancel: Callable[[], bool]
) -> Iterator[events.Event]:
    """Tune a method that learns from whole slides (patients, spots) on a cohort."""
    from pathotune.methods import load_config, methods_of_level
    from pathotune.methods.options import with_settings
    from pathotune.training.schedule import TrainingConfig

    if trainer is None:
        raise UsageError(
            f"The method {method} learns from tiles, not from a cohort; "
            f"choose one of {', '.join(methods_of_level('slide', 'patient', 'spot'))}, or give --tiles or --slide."
        )
    if not arguments.get("cohort"):
        raise UsageError(f"The method {method} learns from whole slides: give --cohort TABLE.csv.")
    if arguments.get("continue_from"):
        raise UsageError(f"A tuning of the method {method} cannot be continued; tune again with all the slides.")
    name, weights = arguments.get("backbone") or "pathotune-tiny", arguments.get("weights")
    # By name where nobody needs it here: from tile features that are there, a tuning is made without the weights.
    is_here = bool(weights) or f"{name}|" in cache
    yield from trainer(
        cohort_inputs(arguments, "tune"),
        method,
        load_config(method, arguments.get("config") or {}),
        warm_backbone(name, weights, None, cache) if is_here else name,
        with_settings(TrainingConfig(), arguments.get("training") or {}),
        arguments.get("task") or None,
        Path(needed(arguments, "out", "tune")),
        cancel=cancel,
    )


def evaluate_on_cohort(
    evaluator: Any, tuning: Any, arguments: dict[str, Any], cache: BackboneCache, cancel: Callable[[], bool]
) -> Iterator[events.Event]:
    """Judge a tuning on the slides of a cohort; one that answers tile by tile by its tiles' soft vote."""
    if evaluator is None:
        from pathotune.evaluation.slides import evaluate_votes

        evaluator = evaluate_votes
    if not arguments.get("cohort"):
        raise UsageError(f"A tuning of the method {tuning.method} is judged on whole slides: give --cohort TABLE.csv.")
    inputs, device = cohort_inputs(arguments, "evaluate"), arguments.get("device") or "auto"
    backbone = _whole_backbone(tuning, arguments, cache)
    yield from evaluator(tuning, inputs, backbone=backbone, device=device, cancel=cancel)


def predict_whole(
    predictor: Any, tuning: Any, arguments: dict[str, Any], cache: BackboneCache, cancel: Callable[[], bool]
) -> Iterator[events.Event]:
    """Predict one slide with a tuning that answers for the whole slide (or its patient)."""
    from pathotune.datasets.cohort import CohortInputs
    from pathotune.slides import open_slide

    slide = str(arguments["slide"])
    mpp = arguments.get("slide_mpp")
    inputs = CohortInputs(
        cohort_of_slides([slide], mpp),
        features=_path(arguments.get("features_folder")),
        expression=_path(arguments.get("expression")),
        clinical=_path(arguments.get("clinical")),
        slide_mpp=mpp,
    )
    names = ("device", "precision", "batch_size", "resume", "on_mismatch")
    options = {name: arguments[name] for name in names if arguments.get(name) is not None}
    backbone = _whole_backbone(tuning, arguments, cache)
    with open_slide(slide, mpp=mpp, icc=tuning.reading.icc) as opened:
        # A pseudonym: nothing that is written has the file's own name.
        opened.alias = str(arguments.get("name") or "")
        yield from predictor(
            opened, tuning, Path(arguments["out"]), backbone=backbone, inputs=inputs, cancel=cancel, **options
        )


def _whole_backbone(tuning: Any, arguments: dict[str, Any], cache: BackboneCache) -> Backbone | None:
    """The tuning's backbone where it is loaded already or named; None where its features may do without it."""
    named = arguments.get("backbone") or arguments.get("weights")
    if not named and f"{tuning.backbone['name']}|" not in cache:
        return None
    return tuning_backbone(tuning, arguments.get("backbone"), arguments.get("weights"), cache)


def cohort_of_slides(slides: Sequence[str], mpp: float | None = None) -> Cohort:
    """A cohort of slides of which nothing else is known."""
    import numpy as np

    from pathotune.datasets.cohort import UNKNOWN_EVENT, Cohort

    count, names = len(slides), tuple(slides)
    return Cohort(
        slides=names,
        patients=names,
        labels=(None,) * count,
        time=np.full(count, np.nan),
        event=np.full(count, UNKNOWN_EVENT, np.int64),
        split=("",) * count,
        fold=np.full(count, -1, np.int64),
        mpp=np.full(count, np.nan if mpp is None else mpp),
    )


def _path(value: Any) -> Path | None:
    return Path(value) if value else None


def cohort_inputs(arguments: dict[str, Any], command: str) -> CohortInputs:
    """The cohort of a job and the files that belong to it."""
    from pathotune.datasets.cohort import CohortInputs, read_cohort
    from pathotune.datasets.spots import cohort_of_spots

    path = Path(needed(arguments, "cohort", command))
    tables = {name: _path(arguments.get(name)) for name in TABLES}
    return CohortInputs(
        cohort_of_spots(path) or read_cohort(path),
        **tables,
        slide_mpp=arguments.get("slide_mpp"),
        folds=int(arguments.get("folds") or 0),
        colour_by=str(arguments.get("colour_by") or ""),
    )
