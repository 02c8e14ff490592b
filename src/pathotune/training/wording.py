"""A tuning from sentences alone: class names in, a map a moment later, which regions can refine afterwards."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pathotune.errors import UsageError
from pathotune.events import Event, Finished, Note, Step
from pathotune.methods import METHODS, load_config
from pathotune.methods.checkpoint import TEXT_VECTORS, TRAINED, Tuning, check_writable
from pathotune.methods.fitting import unavailable_reason
from pathotune.methods.options import as_plain
from pathotune.prompts.text import text_facts, text_for
from pathotune.training.record import backbone_facts
from pathotune.training.schedule import TrainingConfig

if TYPE_CHECKING:
    from pathotune.backbones.surface import Backbone
    from pathotune.methods.base import MethodConfig
    from pathotune.tasks import Task

METHOD = "zero_shot"


def tune_by_wording(
    task: Task | str,
    backbone: Backbone | str,
    out: str | Path,
    method_config: MethodConfig | Mapping[str, Any] | None = None,
    *,
    weights: str | Path | None = None,
    class_names: Sequence[str] | None = None,
    training: TrainingConfig | None = None,
) -> Iterator[Event]:
    """Make and save a zero-shot tuning; no slide, no region and no tile is needed.

    Parameters
    ----------
    task : a card, its name or file, or what a person typed as a task (`tasks.task_from_words`).
    backbone : an image–text model, loaded, or its name or card.
    out : the tuning file.
    method_config : of zero_shot; the fields that differ from its defaults.
    weights : of the backbone, where it is named and its file lies elsewhere.
    class_names : of the card; all without it.
    training : only how tiles are stained is taken from it.

    Yields
    ------
    Note, Step, and Finished with the contract's JSON of `tune`: there are no tiles, no epochs and no scores.

    Raises
    ------
    UsageError
        The backbone has no text side, or the card fewer than two of the classes.
    BackboneUnavailable, WeightsRefused
        Weights or tokenizer are not here.
    OutputRefused
        The place cannot be written to.
    """
    started = time.monotonic()
    check_writable(out)
    loaded = _loaded(backbone, weights)
    yield Step("reading sentences", 0, 1)
    tuning, facts = wording_tuning(task, loaded, method_config, class_names=class_names, training=training)
    for sentence in (facts or {}).get("alike", ()):
        yield Note(sentence, "warning")
    path = tuning.save(out)
    yield Step("reading sentences", 1, 1)
    yield Finished(_result(tuning, facts, path, time.monotonic() - started))


def wording_tuning(
    task: Task | str,
    backbone: Backbone,
    method_config: MethodConfig | Mapping[str, Any] | None = None,
    *,
    class_names: Sequence[str] | None = None,
    training: TrainingConfig | None = None,
) -> tuple[Tuning, dict[str, Any] | None]:
    """The tuning, not saved yet, and what its sentences are like (`prompts.text.text_facts`).

    Raises
    ------
    UsageError
        The backbone has no text side, or the card fewer than two of the classes.
    """
    from pathotune.methods.options import with_settings
    from pathotune.tasks import load_task

    reason = unavailable_reason(METHOD, backbone.card)
    if reason:
        raise UsageError(reason)
    card, defaults = load_task(task), load_config(METHOD)
    given = method_config or {}
    config = with_settings(defaults, given) if isinstance(given, Mapping) else given
    names = [entry.name for entry in card.classes if class_names is None or entry.name in class_names]
    if len(names) < 2:
        raise UsageError(f"Sentences tell classes apart, and the task {card.name} has {len(names)} of them; give two.")
    reading = (training or TrainingConfig()).reading_of(backbone.card)
    sentences, text = text_for(config, card, names, reading.mpp, backbone)
    model = METHODS.load(METHOD)(config, backbone, names, text.vectors)
    colors = {entry.name: list(entry.color) for entry in card.classes}
    tensors: dict[str, np.ndarray] = {TRAINED + name: value for name, value in model.trainable_state().items()}
    if text.vectors is not None:
        tensors[TEXT_VECTORS] = text.vectors
    tuning = Tuning(
        method=METHOD,
        config=as_plain(config),
        task=card.to_dict(),
        classes=[{"name": name, "color": colors[name]} for name in names],
        backbone=backbone_facts(backbone.card, backbone),
        reading=reading,
        texts=sentences,
        text_encoder=text.encoder,
        training={"slides": [], "regions": 0, "epochs": 0, "trainable_parameters": 0, "metrics": {}},
        calibration={"temperature": 1.0, "tiles": 0},
        tensors=tensors,
    )
    return tuning, text_facts(sentences, text, names)


def _loaded(backbone: Backbone | str, weights: str | Path | None) -> Backbone:
    """The backbone; that it has no text side is said before its weights are read."""
    from pathotune.backbones import backbone_card, load_backbone

    if not isinstance(backbone, str):
        return backbone
    reason = unavailable_reason(METHOD, backbone_card(backbone))
    if reason:
        raise UsageError(reason)
    return load_backbone(backbone, weights=weights)


def _result(tuning: Tuning, facts: dict[str, Any] | None, path: Path, seconds: float) -> dict[str, Any]:
    nothing = dict.fromkeys(("accuracy", "balanced_accuracy", "auc", "f1", "ece"))
    return {
        "classes": list(tuning.class_names),
        "tiles_per_class": dict.fromkeys(tuning.class_names, 0),
        "validation_tiles_per_class": dict.fromkeys(tuning.class_names, 0),
        "epochs": [],
        "best_epoch": 0,
        "val": {"n": 0, **nothing, "per_class": {}, "confusion": [], "ci95": {}},
        "temperature": 1.0,
        "trainable_parameters": 0,
        "method": tuning.method,
        "backbone": tuning.backbone["name"],
        "text": facts,
        "most_wrong": [],
        "session": None,
        "status": "done",
        "said": [f"{name}: {text}" for name, text in zip(tuning.class_names, tuning.texts, strict=True)],
        "seconds": round(seconds, 2),
        "out": str(path),
    }
