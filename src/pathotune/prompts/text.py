"""Sentences on task and stain, and their vectors from a frozen text encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from pathotune.tasks import Task

STAINS = {
    "": "hematoxylin and eosin",
    "he": "hematoxylin and eosin",
    "h&e": "hematoxylin and eosin",
    "ihc": "immunohistochemistry with brown chromogen and hematoxylin",
}


class SentenceVectors(NamedTuple):
    """The vectors of some sentences, or why there are none.

    vectors : (M, D_t) float32, or None.
    encoder : ``{"name", "dim"}`` of the text encoder, or None.
    note : a sentence for the person where vectors is None; else "".
    """

    vectors: np.ndarray | None
    encoder: dict[str, object] | None
    note: str = ""


def split_sentences(text: str) -> tuple[str, ...]:
    """The sentences a person typed, separated by | or by line ends."""
    return tuple(part.strip() for part in text.replace("\n", "|").split("|") if part.strip())


def task_sentences(task: Task, mpp: float) -> tuple[str, ...]:
    """The task card's own sentences, or one on the task and one on stain and magnification.

    The published method fills a template with task and stain; its wording is not known, and this one is ours.
    """
    own = tuple(text for text in (task.sentences or ()) if text.strip())
    if own:
        return own
    names = [entry.name for entry in task.classes]
    told_apart = " from ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)
    place = f" in {task.organ} tissue" if task.organ else ""
    stain = STAINS.get((task.stain or "").strip().lower(), task.stain)
    power = 10.0 / mpp
    return (
        f"A histopathology image to tell {told_apart}{place}.",
        f"The tissue is stained with {stain}, seen at about {power:.0f}x magnification.",
    )


def encode_sentences(sentences: Sequence[str], wanted: str) -> SentenceVectors:
    """Vectors of the sentences by the encoder of that name.

    Parameters
    ----------
    sentences : none gives no vectors and no note. One of several wordings, separated by "|", gets the mean of their
        unit vectors.
    wanted : an encoder's name, "auto" for the best real one that is installed, or "" for none.

    Raises
    ------
    UnknownName, MissingPackage, BackboneUnavailable
        An encoder that was asked for by name and cannot be had. "auto" without any is no error: the note says so.
    """
    from pathotune.backbones.text import default_text_encoder, load_text_encoder

    if not sentences or not wanted:
        return SentenceVectors(None, None)
    name = default_text_encoder() if wanted == "auto" else wanted
    if name is None:
        return SentenceVectors(
            None,
            None,
            "Textual prompts are off: no text encoder is installed. "
            "To have them: pip install 'pathotune[text]', or name one with --set text_encoder=hf:FOLDER.",
        )
    encoder = load_text_encoder(name)
    vectors = mean_vectors(encoder.encode, sentences)
    return SentenceVectors(vectors, {"name": encoder.name, "dim": int(vectors.shape[1])})


def mean_vectors(encode: Callable[[list[str]], np.ndarray], sentences: Sequence[str]) -> np.ndarray:
    """(M, D_t) float32: each sentence's vector, or the mean of the unit vectors of its wordings."""
    wordings = [split_sentences(sentence) for sentence in sentences]
    vectors = np.asarray(encode([one for several in wordings for one in several]), dtype=np.float32)
    ends = np.cumsum([len(several) for several in wordings])
    rows = []
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        part = vectors[start:end]
        if len(part) > 1:
            length = np.linalg.norm(part, axis=1, keepdims=True)
            part = part / np.maximum(length, 1e-12) * length.mean()
        rows.append(part.mean(axis=0))
    return np.stack(rows)
