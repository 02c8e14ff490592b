"""A tuning judged on the whole slides of a cohort."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pathotune.device import pick_device
from pathotune.errors import NoTiles
from pathotune.events import Event, Finished, Note, Step
from pathotune.inference.slide_features import OF_ONE_SLIDE, cohort_features, labelled_rows
from pathotune.training.metrics import classification_report
from pathotune.training.session import session_path

if TYPE_CHECKING:
    from pathotune.backbones.surface import Backbone
    from pathotune.datasets.cohort import Cohort, CohortInputs
    from pathotune.methods.checkpoint import Tuning

BATCH = 64


def evaluate_slides(
    tuning: Tuning,
    inputs: CohortInputs,
    *,
    backbone: Backbone | None = None,
    device: str = "auto",
    cancel: Callable[[], bool] | None = None,
) -> Iterator[Event]:
    """Judge a tuning of whole slides on the test rows of a cohort; on all labelled rows where none is a test row.

    Without a folder of features they are extracted beside the tuning, where a later run finds them.

    Yields
    ------
    Note, Step, and Finished with the contract's JSON: the scores of the slides at the top and under `slide`, with 95 %
    intervals from draws of patients, and what was said of every slide under `slides`.

    Raises
    ------
    NoTiles : no slide has a label the tuning knows.
    FeaturesMismatch : features of another backbone or tuning.
    """
    from pathotune.features import FeatureSet
    from pathotune.inference.slide_score import answer

    started = time.monotonic()
    cohort, labels, notes = judged_rows(inputs.cohort, tuning.class_names)
    yield from notes
    tile_tuning = tuning.tile_tuning
    stain, name = tuning.reading.stain, str(tuning.backbone["name"])
    # The folder that the tuning made its features in.
    plain = name if stain == "none" else f"{name}-{stain}"
    folder = session_path(tuning.path or Path("untitled"))
    folder /= f"features-{plain if tile_tuning is None else tile_tuning.fingerprint[:8]}"
    source = backbone if backbone is not None else str(tuning.backbone["name"])
    rows = np.arange(len(cohort))
    features = yield from cohort_features(inputs, cohort, rows, source, folder, tile_tuning, device, cancel, stain)
    said, chosen = {}, pick_device(device)
    for number, (row, path) in enumerate(sorted(features.paths.items())):
        said[row] = answer(tuning, FeatureSet.load(path), chosen).probabilities
        yield Step("slides", number + 1, len(features.paths), unit="slides")
    yield Finished(_document(tuning, cohort, labels, said, started))


def evaluate_votes(
    tuning: Tuning,
    inputs: CohortInputs,
    *,
    backbone: Backbone | None = None,
    device: str = "auto",
    cancel: Callable[[], bool] | None = None,
) -> Iterator[Event]:
    """Judge a tile tuning on whole slides: a slide is what the mean of its tiles' probabilities says (soft vote).

    So CITE's authors decide for a slide. All tissue tiles vote. The rest is as in `evaluate_slides`.
    """
    from pathotune.backbones import load_backbone
    from pathotune.methods import build_model

    started = time.monotonic()
    cohort, labels, notes = judged_rows(inputs.cohort, tuning.class_names)
    yield from notes
    chosen = pick_device(device)
    loaded = (backbone if backbone is not None else load_backbone(tuning.backbone["name"])).to(chosen)
    model = build_model(tuning, loaded)
    said: dict[int, NDArray[np.float64]] = {}
    for row in range(len(cohort)):
        if cancel is not None and cancel():
            break
        try:
            votes = _votes(tuning, model, loaded, cohort, row, inputs.slide_mpp, chosen)
        except OF_ONE_SLIDE as error:
            yield Note(f"{cohort.slides[row]} is left out: {error}", "warning")
            continue
        if votes is None:
            yield Note(f"{cohort.slides[row]} is left out: there is no tissue on it.", "warning")
            continue
        said[row] = votes
        yield Step("slides", row + 1, len(cohort), unit="slides")
    if not said:
        raise NoTiles("No slide could be judged.")
    yield Finished(_document(tuning, cohort, labels, said, started))


def judged_rows(cohort: Cohort, class_names: tuple[str, ...]) -> tuple[Cohort, NDArray[np.int64], list[Note]]:
    """The rows to judge by, their classes, and what there is to say of those that are left out."""
    notes = []
    known = labelled_rows(cohort)
    chosen = [row for row, split in enumerate(known.split) if split == "test"]
    if chosen:
        known = known.take(chosen)
    elif any(known.split):
        notes.append(
            Note("No row of the cohort has the split test: all are judged, also those learned from.", "warning")
        )
    labels = known.label_indices(class_names)
    unknown = sorted({str(known.labels[row]) for row in np.flatnonzero(labels < 0)})
    if unknown:
        notes.append(Note(f"The tuning does not know {', '.join(unknown)}; these slides are left out.", "warning"))
    kept = np.flatnonzero(labels >= 0)
    if not len(kept):
        raise NoTiles(f"No slide of the cohort has a label the tuning knows ({', '.join(class_names)}).")
    return known.take(kept), labels[kept], notes


def _votes(
    tuning: Tuning, model: Any, backbone: Backbone, cohort: Cohort, row: int, mpp: float | None, device: str
) -> NDArray[np.float64] | None:
    """(K,) the mean of the probabilities of a slide's tissue tiles; None without any."""
    import torch

    from pathotune.slides import open_slide
    from pathotune.tiles.grid import tile_grid
    from pathotune.tiles.reader import TileReader
    from pathotune.tiles.tissue import tissue_mask

    reading = tuning.reading
    with open_slide(cohort.slide_path(row), mpp=cohort.slide_mpp(row) or mpp, icc=reading.icc) as slide:
        tiles = tile_grid(slide, reading, tissue=tissue_mask(slide))
        total, count = np.zeros(len(tuning.class_names)), 0
        with TileReader(slide, reading) as reader, reader.batches(tiles, BATCH) as batches, torch.inference_mode():
            for _, images in batches:
                logits = model(backbone.normalise(torch.from_numpy(images).to(device))).logits
                total += logits.double().softmax(dim=1).sum(dim=0).cpu().numpy()
                count += len(images)
    return total / count if count else None


def _document(
    tuning: Tuning, cohort: Cohort, labels: NDArray[np.int64], said: dict[int, NDArray[np.float64]], started: float
) -> dict[str, Any]:
    """The contract's JSON of what was said of these rows."""
    rows = sorted(said)
    probabilities = np.stack([said[row] for row in rows])
    names = tuning.class_names
    patients = [cohort.patients[row] for row in rows]
    report = classification_report(probabilities, labels[rows], names, groups=patients)
    return {
        **report,
        "slide": report,
        "patients": len(set(patients)),
        "slides": [
            {
                "slide": cohort.slides[row],
                "patient": cohort.patients[row],
                "label": cohort.labels[row],
                "predicted": names[int(values.argmax())],
                "probabilities": dict(zip(names, np.round(values, 6).tolist(), strict=True)),
            }
            for row, values in zip(rows, probabilities, strict=True)
        ],
        "classes": list(names),
        "tuning": tuning.name,
        "method": tuning.method,
        "backbone": tuning.backbone["name"],
        "seconds": round(time.monotonic() - started, 2),
        "said": [scores_in_words(report, names, "slides")],
    }


def scores_in_words(report: dict[str, Any], class_names: tuple[str, ...], which: str) -> str:
    """One sentence with the scores of a report and their intervals."""

    def shown(name: str) -> str:
        value, interval = report[name], (report.get("ci95") or {}).get(name)
        between = f" ({interval[0]:.3f} to {interval[1]:.3f})" if interval else ""
        return "–" if value is None else f"{value:.3f}{between}"

    return (
        f"On {report['n']} {which} of {', '.join(class_names)}: balanced accuracy {shown('balanced_accuracy')}, "
        f"AUC {shown('auc')}."
    )
