"""Values kept by key: found again as they were, bounded in memory and on disk."""

from __future__ import annotations

import numpy as np

from pathotune.training import prefix
from pathotune.training.prefix import PrefixCache, kept_prefixes


def values(count, seed=0):
    return np.random.default_rng(seed).normal(size=(count, 5, 4)).astype(np.float32)


def names(count, start=0):
    return [bytes([number]) * 16 for number in range(start, start + count)]


def taken(cache, keys):
    places = cache.find(keys)
    out = np.zeros((len(keys), *cache.shape), dtype=cache.dtype)
    there = np.flatnonzero(places >= 0)
    cache.take(places[there], out, there)
    return out, places >= 0


def test_what_is_kept_comes_back_to_the_bit_in_any_order():
    cache, given = PrefixCache("float32", 10**6), values(7)
    cache.keep(names(7), given)
    found, there = taken(cache, names(7)[::-1])
    assert there.all() and np.array_equal(found, given[::-1])
    assert (cache.find(names(2, start=50)) == -1).all()


def test_a_key_is_kept_once():
    cache = PrefixCache("float32", 10**6)
    cache.keep(names(2), values(2))
    cache.keep(names(2), values(2, seed=1))
    assert len(cache) == 2 and np.array_equal(taken(cache, names(2))[0], values(2))


def test_beyond_the_memory_nothing_is_kept_and_nothing_is_wrong(monkeypatch):
    monkeypatch.setattr(prefix, "CHUNK_BYTES", 80 * 2)  # two values
    cache, given = PrefixCache("float32", 5 * 80), values(9)
    cache.keep(names(9), given)
    found, there = taken(cache, names(9))
    assert len(cache) == 4 and cache.bytes_in_memory <= 5 * 80
    assert np.array_equal(found[there], given[there])


def test_beyond_the_memory_a_file_takes_them_and_goes_away(monkeypatch, tmp_path):
    monkeypatch.setattr(prefix, "CHUNK_BYTES", 80 * 2)
    cache, given = PrefixCache("float32", 5 * 80, tmp_path / "kept"), values(9)
    cache.keep(names(9), given)
    assert len(cache) == 9 and cache.bytes_on_disk
    assert np.array_equal(taken(cache, names(9))[0], given)
    cache.drop_files()
    assert len(cache) == 4 and not (tmp_path / "kept").exists()
    assert np.array_equal(taken(cache, names(4))[0], given[:4])
    cache.keep(names(9), given)
    assert len(cache) == 9
    cache.drop_files()


def test_a_place_that_cannot_be_written_costs_nothing_but_time(monkeypatch, tmp_path):
    monkeypatch.setattr(prefix, "CHUNK_BYTES", 80)
    (tmp_path / "file").write_text("")
    cache = PrefixCache("float32", 80, tmp_path / "file" / "kept")
    cache.keep(names(3), values(3))
    assert len(cache) == 1


def test_half_precision_keeps_no_value_it_would_change_beyond_rounding():
    cache, given = PrefixCache("float16", 10**6), values(3)
    given[1, 0, 0] = 1e5
    cache.keep(names(3), given)
    assert cache.find(names(3)).tolist()[1] == -1
    found, there = taken(cache, names(3))
    assert np.allclose(found[there], given[there], rtol=1e-3, atol=1e-3)


def test_what_is_no_longer_there_makes_room(monkeypatch):
    monkeypatch.setattr(prefix, "CHUNK_BYTES", 80)
    cache = PrefixCache("float32", 4 * 80)
    cache.keep(names(4), values(4))
    cache.retire(set(names(1)), 16)
    assert cache.find(names(4)).tolist()[1:] == [-1, -1, -1]
    cache.keep(names(3, start=10), values(3, seed=1))
    assert np.array_equal(taken(cache, names(3, start=10))[0], values(3, seed=1))
    assert np.array_equal(taken(cache, names(1))[0], values(1))


def test_files_of_a_killed_training_go_away(tmp_path):
    spill = tmp_path / "kept"
    spill.mkdir()
    (spill / "7.rows").write_bytes(b"left")
    kept_prefixes("a", "float32", 0, spill)
    assert not list(spill.iterdir())


def test_a_process_keeps_one_scope():
    one = kept_prefixes("a", "float32", 10**6)
    one.keep(names(2), values(2))
    assert kept_prefixes("a", "float32", 10**6) is one and len(one) == 2
    assert len(kept_prefixes("b", "float32", 10**6)) == 0
    assert kept_prefixes("a", "float32", 10**6) is not one
