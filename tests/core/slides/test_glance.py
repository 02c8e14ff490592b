"""What is shown of a slide at once: never late, empty or in the wrong place, and soon the slide's own pixels."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from pathotune import open_slide
from pathotune.slides.cache import BLOCKS
from pathotune.slides.glance import Glance

LONG = 30.0
WIDTH, HEIGHT = 3000, 2200


class Gate:
    """Lets no block of a slide through until it is opened, and notes which were asked for."""

    def __init__(self, slide: Any) -> None:
        self.source, self.blocks, self.open = slide._source, [], threading.Event()
        self.read = self.source.block
        self.source.block = self.block
        self.open.set()

    def block(self, level: int, row: int, column: int) -> Any:
        self.blocks.append((level, row, column))
        assert self.open.wait(LONG)
        return self.read(level, row, column)


@pytest.fixture
def slide(make_tiff: Callable[..., Any], draw: Callable[..., Any]) -> Iterator[Any]:
    """Two levels of the file with a ratio that is no whole number, and made ones below."""
    with open_slide(make_tiff(draw(WIDTH, HEIGHT), levels=((1100, 807),), compression="deflate")) as opened:
        yield opened


@pytest.fixture
def gate(slide: Any) -> Iterator[Gate]:
    found = Gate(slide)
    yield found
    found.open.set()


def wait_for(condition: Callable[[], bool]) -> bool:
    end = time.perf_counter() + LONG
    while not condition() and time.perf_counter() < end:
        time.sleep(0.005)
    return condition()


def test_with_patience_it_gives_the_slides_own_pixels(slide: Any) -> None:
    glance = Glance(slide)
    for index, plane in enumerate(glance.planes):
        box = plane.width // 5, plane.height // 7, plane.width // 2, plane.height // 2
        given = glance.region(index, *box, patience_s=LONG)
        assert not glance.lacking and not glance.missing
        x, y, width, height = box
        assert np.array_equal(given, slide.pyramid[index][y : y + height, x : x + width].compute())


def test_without_it_what_is_not_decoded_is_coarse_and_in_its_place(slide: Any, gate: Gate) -> None:
    glance = Glance(slide)
    smallest, last = glance.smallest, glance.planes[-1]
    BLOCKS.drop(slide._planes._owner)
    gate.open.clear()
    x, y, width, height = 301, 203, 1501, 1207
    given = glance.region(0, x, y, width, height)
    assert glance.lacking == glance.missing > 20
    rows = ((y + np.arange(height) + 0.5) * last.height / HEIGHT).astype(int)
    columns = ((x + np.arange(width) + 0.5) * last.width / WIDTH).astype(int)
    assert np.array_equal(given, smallest[rows][:, columns])
    gate.open.set()
    assert wait_for(lambda: not glance.missing)
    assert np.array_equal(glance.region(0, x, y, width, height), slide.read(x, y, width, height))
    assert not glance.lacking


def test_the_finest_plane_that_is_decoded_stands_in(slide: Any, gate: Gate) -> None:
    glance = Glance(slide)
    finer = glance.region(1, 0, 0, 600, 600, patience_s=LONG)
    assert wait_for(lambda: not glance._running)
    gate.open.clear()
    given = glance.region(0, 100, 100, 400, 400)
    rows, columns = (((100 + np.arange(400) + 0.5) * scale).astype(int) for scale in (807 / HEIGHT, 1100 / WIDTH))
    expected = finer[rows][:, columns]
    is_coarse = (given == expected).all(axis=2)
    own = (given == slide_pixels(slide, gate, 100, 100, 400, 400)).all(axis=2)
    assert (is_coarse | own).all() and is_coarse.any()


def slide_pixels(slide: Any, gate: Gate, *box: int) -> Any:
    gate.open.set()
    return slide.read(*box)


def test_a_view_that_moved_on_is_not_decoded_first(slide: Any, gate: Gate) -> None:
    glance = Glance(slide)
    _ = glance.smallest
    gate.open.clear()
    gate.blocks.clear()
    glance.region(0, 0, 0, 1400, 1400)
    assert wait_for(lambda: len(gate.blocks) == 2)  # in the hands of two threads
    glance.region(0, 2048, 1536, 500, 400)
    gate.open.set()
    assert wait_for(lambda: not glance.missing)
    view = {(0, row, column) for row in (6, 7) for column in (8, 9)}
    assert set(gate.blocks[2:6]) == view


def test_what_lies_around_the_view_is_there_before_it_is_wanted(slide: Any, gate: Gate) -> None:
    glance = Glance(slide)
    glance.region(0, 512, 512, 512, 512, patience_s=LONG)
    assert wait_for(lambda: not glance._running)
    gate.blocks.clear()
    gate.open.clear()
    for box in ((0, 320, 320, 512, 512), (0, 700, 700, 512, 512), (1, 150, 150, 300, 300)):
        glance.region(*box)
        assert not glance.lacking, box


def test_the_view_stays_whole_where_the_cache_is_too_small(slide: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    glance = Glance(slide)
    _ = glance.smallest
    limit = BLOCKS.limit_bytes
    try:
        BLOCKS.limit_bytes = 3 * 256 * 256 * 2
        box = 0, 0, 0, 1500, 1500
        glance.region(*box, patience_s=LONG)
        wait_for(lambda: not glance.missing)
        for _ in range(20):
            given = glance.region(*box, patience_s=LONG)
            if not glance.lacking:
                break
        assert not glance.lacking
        assert np.array_equal(given, slide.read(*box[1:]))
    finally:
        BLOCKS.limit_bytes = limit


def test_a_damaged_block_is_told_once_and_not_asked_for_again(slide: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    glance, read, asked = Glance(slide), slide._source.block, []
    _ = glance.smallest
    BLOCKS.drop(slide._planes._owner)

    def block(level: int, row: int, column: int) -> Any:
        if (level, row, column) == (0, 1, 1):
            asked.append(1)
            raise ValueError("not a tile")
        return read(level, row, column)

    monkeypatch.setattr(slide._source, "block", block)
    for _ in range(3):
        given = glance.region(0, 0, 0, 700, 700, patience_s=LONG)
    assert not glance.missing and not glance.lacking and len(asked) == 1
    (text,) = glance.failed.values()
    assert slide.name in text and "not a tile" in text
    assert np.array_equal(given[:256, :256], slide.read(0, 0, 256, 256))


def test_a_closed_one_asks_for_nothing_more(slide: Any, gate: Gate) -> None:
    glance = Glance(slide)
    _ = glance.smallest
    gate.open.clear()
    gate.blocks.clear()
    glance.region(0, 0, 0, 1400, 1400)
    assert wait_for(lambda: len(gate.blocks) == 2)
    glance.close()
    gate.blocks.clear()
    gate.open.set()
    assert wait_for(lambda: not glance._running)
    glance.region(0, 0, 0, 1400, 1400)
    assert not gate.blocks and not glance.missing
