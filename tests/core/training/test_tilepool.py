"""Which tiles of a patient are kept for a training that changes the backbone."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pathotune.training.tilepool import chosen_tiles


def test_tiles_of_several_slides_are_rows_of_their_own_files() -> None:
    files = [(Path("a"), 5), (Path("b"), 7), (Path("c"), 4)]
    parts = chosen_tiles(files, 8, "patient")
    assert sum(map(len, parts)) == 8 and all(len(part) for part in parts)
    assert all(part.min() >= 0 and part.max() < count for part, (_, count) in zip(parts, files, strict=True))
    again = chosen_tiles(files, 8, "patient")
    assert all(np.array_equal(one, other) for one, other in zip(parts, again, strict=True))
    every = chosen_tiles(files, 100, "patient")
    assert [part.tolist() for part in every] == [list(range(count)) for _, count in files]
