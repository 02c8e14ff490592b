"""A tuning judged on regions of slides or on a table of tiles."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pathotune.events import Event, Finished, Note, Step
from pathotune.methods.checkpoint import Tuning

if TYPE_CHECKING:
    from pathotune.backbones.surface import Backbone
    from pathotune.datasets.tiles import TileTable
    from pathotune.training.examples import Examples, TuneSource

BATCH = 64


def evaluate(
    tuning: Tuning | str | Path,
    sources: Sequence[TuneSource] | TileTable,
    *,
    backbone: Backbone | None = None,
    weights: Path | None = None,
    map_classes: Mapping[str, str] | None = None,
    device: str = "auto",
    precision: str = "auto",
) -> Iterator[Event]:
    """Predict tiles whose class is known, and compare.

    Tiles are laid and read exactly as in the tuning; nothing is turned, mirrored or stained otherwise. Regions of
    classes that the tuning does not know are left out, with a note.

    Parameters
    ----------
    tuning : a tuning or its file.
    sources : slides with regions, or a tile table.
    backbone : already loaded; None loads the one the tuning names.
    weights : a file with the backbone's weights, where it has to be loaded from one.
    map_classes : other names for classes in the regions; an empty name leaves a class out.

    Yields
    ------
    Note, Step, and Finished with the contract's JSON: n, accuracy, balanced_accuracy, auc, f1, per_class, confusion,
    ece, ci95, and where it comes from.

    Raises
    ------
    NoTiles
        No tile has a class the tuning knows.
    TuningMismatch
        `backbone` is not the one the tuning was made with.
    """
    from pathotune.backbones import load_backbone
    from pathotune.device import pick_device
    from pathotune.methods import build_model
    from pathotune.methods.fitting import backbone_to_load
    from pathotune.training.metrics import classification_report

    started = time.monotonic()
    tuning = tuning if isinstance(tuning, Tuning) else Tuning.load(tuning)
    chosen = pick_device(device)
    loaded = backbone or load_backbone(backbone_to_load(tuning), weights=weights)
    model = build_model(tuning, loaded.to(chosen))
    examples = yield from _gather(tuning, sources, map_classes)
    with contextlib.closing(examples):
        learned_from = sorted(set(examples.slides) & set(tuning.training.get("slides") or ()))
        if learned_from:
            yield Note(_known(learned_from, len(examples.slides)), "warning")
        probabilities = yield from _predict(model, loaded, examples, chosen, precision)
        groups = examples.groups.tolist()
        report = classification_report(probabilities, examples.labels, tuning.class_names, groups=groups)
    yield Finished(
        {
            **report,
            "classes": list(tuning.class_names),
            "tiles_per_class": examples.tiles_per_class(),
            "learned_from": learned_from,
            "tuning": tuning.name,
            "method": tuning.method,
            "backbone": tuning.backbone["name"],
            "device": chosen,
            "seconds": round(time.monotonic() - started, 2),
        }
    )


def _known(slides: Sequence[str], count: int) -> str:
    """The sentence on slides that the tuning knows already; they are called by their pseudonyms, as on its card."""
    which = "This slide" if count == 1 else f"{', '.join(slides)} of the {count} slides"
    return (
        f"{which} took part in the tuning, so the scores say how well it remembers, and not what it does elsewhere. "
        "Judge on slides of other patients."
    )


def _gather(tuning: Tuning, sources: Any, map_classes: Mapping[str, str] | None) -> Any:
    """Tiles of the tuning's classes (a generator of events that returns `Examples`)."""
    from pathotune.tasks import task_from_dict
    from pathotune.training.examples import gather_all
    from pathotune.training.table import read_table

    names = tuning.class_names
    if isinstance(sources, Sequence):
        return (yield from gather_all(sources, tuning.reading, names, map_classes))
    table = sources.map_classes(dict(map_classes)) if map_classes else sources
    unknown = sorted(set(table.class_names) - set(names))
    if unknown:
        yield Note(f"The tuning does not know {', '.join(unknown)}; these tiles are left out.", "warning")
    return (
        yield from read_table(table, tuning.reading, names, task_from_dict({"name": "table", "classes": list(names)}))
    )


def _predict(model: Any, backbone: Backbone, examples: Examples, device: str, precision: str) -> Any:
    """Probabilities (n, K) of all tiles (a generator of events that returns them)."""
    import torch

    from pathotune.device import choose_precision, number_format

    def pixels(rows: slice) -> torch.Tensor:
        images = torch.from_numpy(np.ascontiguousarray(examples.images[rows]))
        return backbone.normalise(images.to(device))

    with torch.inference_mode():
        number = choose_precision(
            lambda tiles: model(tiles).features,
            pixels(slice(0, 8)),
            device,
            precision,
            backbone.card.tolerance,
            backbone.speed_name,
        )
    parts = []
    total = len(examples.labels)
    for start in range(0, total, BATCH):
        rows = slice(start, min(start + BATCH, total))
        with torch.inference_mode(), number_format(device, number):
            logits = model(pixels(rows)).logits
        parts.append(logits.double().softmax(dim=1).cpu().numpy())
        yield Step("predicting", rows.stop, total)
    return np.concatenate(parts)
