"""Classes put into and taken out of a tuning whose classes are sentences: no tile is needed, and nothing is trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pathotune.errors import TuningMismatch, UnknownName, UsageError
from pathotune.methods import METHODS, load_config
from pathotune.methods.checkpoint import TEXT_VECTORS
from pathotune.prompts.text import alike, cosines, mean_vectors, with_class_sentence

if TYPE_CHECKING:
    from pathotune.methods.checkpoint import Tuning

Encode = Callable[[list[str]], np.ndarray]


def takes_sentences(method: str) -> bool:
    """Whether a method's classes are sentences, so that one can be added without a tile."""
    return method in METHODS and bool((METHODS[method].facts or {}).get("classes_are_sentences"))


def with_class(
    tuning: Tuning,
    name: str,
    sentence: str,
    color: tuple[int, int, int] | None = None,
    *,
    encode: Encode | None = None,
    weights: str | Path | None = None,
) -> Tuning:
    """The tuning with one class more, told by its sentence alone; the other classes' logits stay as they are.

    The new class was never seen: its tiles are those that the sentence is nearest to, and no score of the tuning says
    how right that is.

    Parameters
    ----------
    name : not there yet.
    sentence : several wordings are separated by "|" and averaged.
    color : from the palette without it.
    encode : sentences → (n, D_t); the tuning's own text encoder without it.
    weights : of the backbone, where its own text side is the encoder and its file lies elsewhere.

    Raises
    ------
    TuningMismatch : the method learns its classes from tiles, or its sentences are a control.
    UsageError : the name is there, or no name, or there is no sentence.
    """
    _check(tuning)
    name, sentence = name.strip(), sentence.strip().strip("|").strip()
    if not name or not sentence or name.endswith("*"):
        raise UsageError("A class needs a name that does not end in * and a sentence: NAME=SENTENCE.")
    if name in tuning.class_names:
        raise UsageError(f"The tuning knows {name!r} already; take it out first to give it another sentence.")
    from pathotune.tasks import class_color, task_from_dict

    chosen = color or class_color(name, len(tuning.classes))
    known = tuning.task or {"name": "classes", "classes": list(tuning.class_names)}
    task = with_class_sentence(task_from_dict(_without(known, name)), name, sentence, chosen)
    text = _worded(tuning, task, (*tuning.class_names, name))
    vector = mean_vectors(encode or _encoder(tuning, weights), [text])
    before = _vectors(tuning)
    if vector.shape[1] != before.shape[1]:
        raise TuningMismatch(
            f"The text encoder gives {vector.shape[1]} numbers and the tuning's sentences have {before.shape[1]}: it "
            "is another one than the tuning was made with."
        )
    added = [*tuning.training.get("added_by_sentence", []), name]
    return _changed(
        tuning,
        classes=[*tuning.classes, {"name": name, "color": list(chosen)}],
        texts=(*tuning.texts, text),
        vectors=np.concatenate([before, vector.astype(np.float32)]),
        task=task.to_dict(),
        added=added,
    )


def without_class(tuning: Tuning, name: str) -> Tuning:
    """The tuning with one class less; the others' logits stay as they are.

    Raises
    ------
    TuningMismatch : the method learns its classes from tiles.
    UnknownName : there is no such class.
    UsageError : fewer than two would be left.
    """
    _check(tuning)
    if name not in tuning.class_names:
        raise UnknownName("class in this tuning", name, tuning.class_names)
    if len(tuning.classes) < 3:
        raise UsageError(f"Without {name!r} the tuning would have one class only, and nothing to tell apart.")
    left = [row for row, one in enumerate(tuning.class_names) if one != name]
    return _changed(
        tuning,
        classes=[tuning.classes[row] for row in left],
        texts=tuple(tuning.texts[row] for row in left),
        vectors=_vectors(tuning)[left],
        task=_without(tuning.task, name) if tuning.task else {},
        added=[one for one in tuning.training.get("added_by_sentence", []) if one != name],
    )


def class_texts(tuning: Tuning) -> dict[str, Any]:
    """Each class's sentence, the cosine of every two of them, and who is nearly the same; for people and JSON.

    Raises
    ------
    TuningMismatch : the method's classes are no sentences.
    """
    _check(tuning, is_changed=False)
    vectors = _vectors(tuning)
    return {
        "classes": dict(zip(tuning.class_names, tuning.texts, strict=True)),
        "colors": {str(one["name"]): one.get("color") for one in tuning.classes},
        "encoder": tuning.text_encoder,
        "cosines": np.round(cosines(vectors), 4).tolist(),
        "alike": list(alike(tuning.class_names, vectors)),
        "added_by_sentence": list(tuning.training.get("added_by_sentence", [])),
    }


def _check(tuning: Tuning, is_changed: bool = True) -> None:
    if not takes_sentences(tuning.method):
        title = METHODS[tuning.method].title if tuning.method in METHODS else tuning.method
        raise TuningMismatch(
            f"{title} learns its classes from tiles, so a sentence alone makes none: draw regions of the class and go "
            "on with --continue. CITE and zero-shot tunings take classes by their sentence."
        )
    if is_changed and tuning.config.get("text", "own") != "own":
        raise TuningMismatch("This tuning is a control without true sentences; a class with one has no place in it.")


def _vectors(tuning: Tuning) -> np.ndarray:
    vectors = tuning.text_vectors
    if vectors is None or len(vectors) != len(tuning.classes) or len(tuning.texts) != len(tuning.classes):
        raise TuningMismatch("The tuning does not keep one sentence for each of its classes, so none can be added.")
    return np.asarray(vectors, dtype=np.float32)


def _worded(tuning: Tuning, task: Any, names: tuple[str, ...]) -> str:
    """The new class's sentence as the method puts it into words."""
    config = load_config(tuning.method, tuning.config)
    sentences = config.sentences_for(task, names, tuning.reading.mpp)
    return sentences[-1]


def _encoder(tuning: Tuning, weights: str | Path | None) -> Encode:
    from pathotune.backbones.text import load_text_encoder

    name = str((tuning.text_encoder or {}).get("name") or "")
    if not name:
        raise TuningMismatch("The tuning does not say which text encoder read its sentences, so none can be added.")
    kind, _, model = name.partition(":")
    if kind == "tower" and weights is not None:
        from pathotune.backbones.card import backbone_card
        from pathotune.backbones.text.towers import tower_encoder

        return tower_encoder(backbone_card(model), weights).encode
    return load_text_encoder(name).encode


def _without(task: dict[str, Any], name: str) -> dict[str, Any]:
    """The task card as a document, without the class of that name."""
    rows = [{"name": row} if isinstance(row, str) else dict(row) for row in task.get("classes") or ()]
    return {**task, "classes": [row for row in rows if row.get("name") != name]}


def _changed(
    tuning: Tuning,
    classes: list[dict[str, Any]],
    texts: tuple[str, ...],
    vectors: np.ndarray,
    task: dict[str, Any],
    added: list[str],
) -> Tuning:
    """A tuning of its own, not saved yet."""
    return replace(
        tuning,
        classes=classes,
        texts=texts,
        task=task,
        tensors={**tuning.tensors, TEXT_VECTORS: np.ascontiguousarray(vectors)},
        training={**tuning.training, "added_by_sentence": added, "changed_from": tuning.fingerprint},
        created="",
        path=None,
        _fingerprint="",
    )
