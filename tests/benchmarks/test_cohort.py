"""The generated cohort of whole slides: nothing but the nests tells the class."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))  # the benchmarks are run from the checkout and are in no wheel

pytest.importorskip("benchmarks.cohort")

from benchmarks.cohort import PATTERNS, pattern_of, slide_of  # noqa: E402


@pytest.mark.parametrize("is_test", [False, True])
def test_neither_pattern_nor_stain_nor_tissue_nor_area_tells_the_class(is_test: bool) -> None:
    rows = []
    for number in range(6 * PATTERNS):
        slide, count, area = slide_of(number, is_test)
        stain = slide.stain.name.split()[0]
        rows.append((count >= 3, pattern_of(slide.seed), stain, slide.width_px0 * slide.height_px0, area))
        assert len(slide.layout.nests) == count
    kinds = {(pattern, stain) for _, pattern, stain, _, _ in rows}
    assert len({pattern for pattern, _ in kinds}) == PATTERNS
    for kind in kinds:
        assert {many for many, pattern, stain, _, _ in rows if (pattern, stain) == kind} == {False, True}
    many = np.array([row[0] for row in rows], dtype=float)
    for column in (3, 4):
        assert abs(np.corrcoef(many, [row[column] for row in rows])[0, 1]) < 0.3


def test_test_slides_share_no_pattern_with_those_learned_from() -> None:
    learned, judged = (
        {pattern_of(slide_of(number, side)[0].seed) for number in range(6 * PATTERNS)} for side in (False, True)
    )
    assert not learned & judged
