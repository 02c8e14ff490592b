"""The block cache: bounded, made once, and a failure stays with who asked."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from pathotune.slides.cache import BlockCache


def block(size: int) -> np.ndarray:
    return np.zeros(size, np.uint8)


def test_it_never_keeps_more_than_its_limit():
    cache = BlockCache(1000)
    for number in range(50):
        cache.get(("slide", number), lambda: block(300))
        assert cache.bytes_used <= 1000
    cache.get(("slide", "large"), lambda: block(5000))
    assert cache.bytes_used <= 1000


def test_the_least_used_goes_first():
    cache, made = BlockCache(1000), []

    def get(name: str) -> None:
        cache.get((name,), lambda: (made.append(name), block(400))[1])

    for name in ("a", "b", "a", "c", "a", "b"):
        get(name)
    assert made == ["a", "b", "c", "b"]


def test_several_threads_make_a_block_once():
    cache, made = BlockCache(1000), []

    def make() -> np.ndarray:
        made.append(threading.get_ident())
        time.sleep(0.05)
        return block(10)

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: cache.get(("one",), make), range(8)))
    assert len(made) == 1
    assert all(array is found[0] for array in found)


def test_a_failure_is_not_kept():
    cache = BlockCache(1000)

    def fail() -> np.ndarray:
        raise ValueError("damaged")

    for _ in range(2):
        with pytest.raises(ValueError, match="damaged"):
            cache.get(("one",), fail)
    assert cache.get(("one",), lambda: block(10)).size == 10


def test_others_waiting_for_a_failure_try_themselves():
    cache, tries = BlockCache(1000), []

    def fail_once() -> np.ndarray:
        tries.append(1)
        time.sleep(0.05)
        if len(tries) == 1:
            raise ValueError("damaged")
        return block(10)

    def ask(_: int) -> str:
        try:
            cache.get(("one",), fail_once)
        except ValueError:
            return "failed"
        return "read"

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(ask, range(4))) == ["failed", "read", "read", "read"]


def test_what_is_kept_cannot_be_written_to():
    array = BlockCache(1000).get(("one",), lambda: block(10))
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1


def test_dropping_one_owner_leaves_the_others():
    cache = BlockCache(1000)
    cache.get((1, "a"), lambda: block(100))
    cache.get((2, "a"), lambda: block(100))
    cache.drop(1)
    assert cache.bytes_used == 100
