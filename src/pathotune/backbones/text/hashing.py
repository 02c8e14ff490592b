"""A text encoder without meaning, for tests: each word stands for fixed random numbers."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from pathotune.backbones.text import TextEncoder

if TYPE_CHECKING:
    from numpy.typing import NDArray

DIM = 64


def load_hashing() -> TextEncoder:
    """The hashing encoder; the same vectors on every machine."""
    return TextEncoder("hashing", DIM, "hashing 1", _hash_sentences, cached=False)


def _hash_sentences(sentences: list[str]) -> NDArray[np.float32]:
    vectors = np.array([_hash(sentence) for sentence in sentences], dtype=np.float64)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / lengths, dtype=np.float32)


def _hash(sentence: str) -> NDArray[np.float64]:
    # The position counts, so that two orders of the same words differ.
    words = sentence.lower().split() or [""]
    total = np.zeros(DIM)
    for index, word in enumerate(words):
        seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "big")
        total += np.random.default_rng(seed).standard_normal(DIM) / (1 + 0.1 * index)
    return total
