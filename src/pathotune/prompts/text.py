"""Sentences on task, stain and classes, and their vectors from a frozen text encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from pathotune.errors import UsageError
from pathotune.prompts.templates import filled, load_template, values_of

if TYPE_CHECKING:
    from pathotune.backbones.surface import Backbone
    from pathotune.tasks import Task

# A method's config may ask for the text side of its own backbone by this name.
OWN = "own"
# What takes the place of the sentences, to see what they are good for.
CONTROLS = ("own", "random", "permuted")
# Above this cosine two sentences say nearly the same to the text model.
ALIKE = 0.98


class SentenceVectors(NamedTuple):
    """The vectors of some sentences, or why there are none.

    vectors : (M, D_t) float32, or None.
    encoder : ``{"name", "dim"}`` of the text encoder, or None.
    note : a sentence for the person where vectors is None; else "".
    """

    vectors: np.ndarray | None
    encoder: dict[str, object] | None
    note: str = ""


class TextWish(Protocol):
    """What a method's config says of its text."""

    @property
    def text_encoder_wanted(self) -> str:
        """The encoder's name, "auto", "own" for the backbone's text side, or ""."""

    def sentences_for(self, task: Task, class_names: Sequence[str], mpp: float) -> tuple[str, ...]:
        """The sentences, in the order of their vectors."""


def split_sentences(text: str) -> tuple[str, ...]:
    """The sentences a person typed, separated by | or by line ends."""
    return tuple(part.strip() for part in text.replace("\n", "|").split("|") if part.strip())


def task_sentences(task: Task, mpp: float, template: str = "") -> tuple[str, ...]:
    """Sentences on a task, its stain and the magnification.

    The published method fills a template with task and stain; its wording is not known, and ours are in
    resources/sentences.

    Parameters
    ----------
    mpp : micrometres per pixel at which tiles are read.
    template : a template's name, or a YAML file; without it the card's own sentences, or where it has none the
        template task-and-stain.
    """
    own = tuple(text for text in (task.sentences or ()) if text.strip())
    if own and not template:
        return own
    return filled(load_template(template or "task-and-stain"), values_of(task, mpp))


def restained(task: Task, stain: str) -> Task:
    """The task in another stain; the card's own sentences speak of its own stain and are left out then."""
    return replace(task, stain=stain, sentences=()) if stain.strip() else task


def another_task(task: Task) -> Task:
    """A task that has nothing to do with this one, for sentences on purpose wrong: another organ, other classes.

    Of the cards that come with pathotune, the first in alphabetical order behind this one's name that shares neither
    organ nor a class.
    """
    from pathotune.tasks import load_task, task_names

    names = sorted(task_names(), key=lambda name: (name <= task.name, name))
    mine = {entry.name.casefold() for entry in task.classes}
    cards = [load_task(name) for name in names if name != task.name]
    for card in cards:
        if card.organ != task.organ and not mine & {entry.name.casefold() for entry in card.classes}:
            return card
    return cards[0]


def moved_on(sentences: Sequence[str]) -> tuple[str, ...]:
    """Every class gets the next one's sentence, so that none keeps its own."""
    return (*sentences[1:], *sentences[:1])


def text_for(
    config: TextWish,
    task: Task,
    class_names: Sequence[str],
    mpp: float,
    backbone: Backbone | None = None,
    seed: int = 0,
) -> tuple[tuple[str, ...], SentenceVectors]:
    """The sentences a method wants and their vectors.

    Parameters
    ----------
    config : of the method; a field ``text`` of it may ask for a control: "random" takes fixed random vectors of the
        same lengths in the place of the true ones.
    backbone : loaded; needed where the config wants its text side.
    seed : of random vectors.

    Raises
    ------
    UsageError
        The backbone has no text side, or random weights.
    UnknownName, MissingPackage, BackboneUnavailable
        As `encode_sentences`.
    """
    sentences = config.sentences_for(task, class_names, mpp)
    wanted = config.text_encoder_wanted
    found = _by_own_tower(sentences, backbone) if wanted == OWN else encode_sentences(sentences, wanted)
    if getattr(config, "text", OWN) == "random" and found.vectors is not None and found.encoder is not None:
        found = found._replace(
            vectors=random_vectors(found.vectors, seed),
            encoder={"name": "random vectors", "dim": found.encoder["dim"], "in_place_of": found.encoder["name"]},
        )
    return sentences, found


def random_vectors(vectors: np.ndarray, seed: int) -> np.ndarray:
    """(M, D_t) float32 in random directions, as long as the given ones; the same for a seed."""
    drawn = np.random.default_rng([seed, len(vectors)]).standard_normal(vectors.shape)
    drawn *= np.linalg.norm(vectors, axis=1, keepdims=True) / np.linalg.norm(drawn, axis=1, keepdims=True)
    return drawn.astype(np.float32)


def _by_own_tower(sentences: Sequence[str], backbone: Backbone | None) -> SentenceVectors:
    from pathotune.backbones.text.towers import text_side, tower_encoder

    if backbone is None:
        raise UsageError("These sentences are read by the backbone's own text side: name a backbone.")
    text_side(backbone.card)
    if backbone.weights_path is None:
        raise UsageError(
            f"{backbone.card.title} was loaded with {backbone.weights_source or 'no'} weights, and no sentence means "
            "anything to those: load its published weights."
        )
    encoder = tower_encoder(backbone.card, backbone.weights_path)
    vectors = mean_vectors(encoder.encode, sentences)
    return SentenceVectors(vectors, {"name": encoder.name, "dim": int(vectors.shape[1])})


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


def cosines(vectors: np.ndarray) -> np.ndarray:
    """(M, M) cosine of every two rows."""
    unit = np.asarray(vectors, dtype=np.float64)
    unit = unit / np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-12)
    return np.asarray(np.clip(unit @ unit.T, -1.0, 1.0))


def alike(names: Sequence[str], vectors: np.ndarray, above: float = ALIKE) -> tuple[str, ...]:
    """A sentence for every two texts that are nearly the same to the text model, the most alike first.

    Parameters
    ----------
    names : (M,) what each text stands for, such as its class.
    vectors : (M, D_t).
    above : the cosine from which two count as nearly the same.
    """
    table = cosines(vectors)
    pairs = [(table[i, j], i, j) for i in range(len(table)) for j in range(i + 1, len(table)) if table[i, j] > above]
    return tuple(
        f"To the text model the sentences of {names[first]} and {names[second]} are nearly the same (cosine "
        f"{cosine:.3f}): word them more differently, or choose another text model."
        for cosine, first, second in sorted(pairs, reverse=True)
    )


def text_facts(sentences: Sequence[str], found: SentenceVectors, names: Sequence[str] = ()) -> dict[str, object] | None:
    """What a result says of its text: encoder, sentences, and how alike they are; None where there is no text.

    Parameters
    ----------
    names : what each sentence stands for, where it stands for a class.
    """
    if found.vectors is None or found.encoder is None:
        return None
    labels = list(names) if len(names) == len(found.vectors) else [f"sentence {n + 1}" for n in range(len(sentences))]
    return {
        "encoder": dict(found.encoder),
        "sentences": dict(zip(labels, sentences, strict=True)),
        "cosines": np.round(cosines(found.vectors), 4).tolist(),
        "alike": list(alike(labels, found.vectors)),
    }


def with_class_sentence(task: Task, name: str, sentence: str, color: tuple[int, int, int]) -> Task:
    """The task with one class more."""
    from pathotune.tasks import TaskClass

    return replace(task, classes=(*task.classes, TaskClass(name, color, sentence)))
