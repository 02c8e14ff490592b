"""The colours that classes begin with stay apart for those who see red, green or blue otherwise."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from skimage.color import rgb2lab

from pathotune.regions.palette import start_palette
from pathotune.tasks import colour_blind_palette, qupath_palette

# Machado, Oliveira and Fernandes 2009, table 1, severity 1.0; on linear RGB.
SEEN = {
    "everything": np.eye(3),
    "no red (protanopia)": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "no green (deuteranopia)": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "no blue (tritanopia)": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
# Six times what is just told apart side by side (2.3, Mahy et al. 1994), as an overlay is half transparent.
APART = 15.0


def seen(colors: list[tuple[int, int, int]], matrix: object) -> np.ndarray:
    """(n, 3) CIE Lab of sRGB colours as such a person sees them."""
    value = np.asarray(colors, float) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    changed = (linear @ np.asarray(matrix).T).clip(0, 1)
    back = np.where(changed <= 0.0031308, changed * 12.92, 1.055 * changed ** (1 / 2.4) - 0.055)
    return np.asarray(rgb2lab(back[None])[0])


def closest(colors: list[tuple[int, int, int]], matrix: object) -> float:
    lab = seen(colors, matrix)
    return min(float(np.linalg.norm(lab[a] - lab[b])) for a, b in combinations(range(len(colors)), 2))


@pytest.mark.parametrize("how", list(SEEN))
def test_the_first_eight_classes_are_told_apart(how: str) -> None:
    assert closest(colour_blind_palette(8), SEEN[how]) > APART


@pytest.mark.parametrize("how", list(SEEN))
def test_the_classes_one_starts_with_are_told_apart(how: str) -> None:
    assert closest([one.color for one in start_palette() if not one.name.endswith("*")], SEEN[how]) > APART


def test_other_colours_would_fail() -> None:
    """QuPath's own, which can be chosen, are not made for this: the measure tells."""
    colors = [tuple(color) for color in list(qupath_palette().values())[:8]]
    assert min(closest(colors, matrix) for matrix in SEEN.values()) < APART
