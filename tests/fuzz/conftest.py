"""Damaged and odd inputs, the same ones in every run: nothing may crash without a sentence or hang."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from pathotune.errors import PathotuneError

# A fixed, small number of examples: continuous integration must stay short and say the same twice.
bounded = settings(
    max_examples=40,
    derandomize=True,
    database=None,
    deadline=timedelta(seconds=20),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(["../../x", "/", "nan", "1e999", "\x00", "=cmd", "\ud7ff", "a" * 300]),
)
documents = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
"""What JSON and YAML can hold."""


@st.composite
def damaged(draw: Any, content: bytes, *, head: int | None = None) -> bytes:
    """A valid file with some bytes changed, mostly where its headers are, cut short or doubled."""
    data, last = bytearray(content), (head or len(content)) - 1
    for _ in range(draw(st.integers(1, 6))):
        place = draw(st.integers(0, last)) if draw(st.booleans()) else draw(st.integers(0, min(last, 600)))
        if place < len(data):
            data[place] = draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF, *range(2, 40)]))
    if draw(st.integers(0, 4)) == 0:
        data = data[: draw(st.integers(0, len(data)))]
    return bytes(data)


@contextlib.contextmanager
def sentence() -> Iterator[None]:
    """Inside, whatever goes wrong is an error with a sentence for people."""
    try:
        yield
    except PathotuneError as error:
        text = str(error)
        assert text and len(text) < 3000 and "Traceback" not in text


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Callable[[], Path]]:
    """A folder to work in; nothing may appear beside it."""
    inside = tmp_path / "a" / "b" / "inside"
    inside.mkdir(parents=True)
    (tmp_path / "a" / "witness").write_text("untouched")
    before = {path for path in tmp_path.rglob("*") if inside not in path.parents}
    yield lambda: inside
    assert {path for path in tmp_path.rglob("*") if inside not in path.parents} == before
    assert (tmp_path / "a" / "witness").read_text() == "untouched"
