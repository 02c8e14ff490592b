"""Stains are brought together, and varied without harm."""

from __future__ import annotations

import numpy as np
import pytest

from pathotune.slides import open_slide
from pathotune.slides.synthetic import SyntheticSlide
from pathotune.tiles import Reading, StainNormaliser, TileReader
from pathotune.tiles.stain import from_density, jittered, optical_density


def drawn(stain):
    slide = SyntheticSlide(600, 600, 1.0, seed=2, stain=stain, margin=0, patch_um=300)
    return slide.render(0, 0, 600, 600).reshape(6, 100, 600, 3)


@pytest.mark.slow
def test_two_stains_come_closer():
    first, second = drawn("standard"), drawn("purple")
    before = np.abs(first.mean(axis=(0, 1, 2)) - second.mean(axis=(0, 1, 2))).max()
    normalised = [StainNormaliser.fit(images)(images).mean(axis=(0, 1, 2)) for images in (first, second)]
    assert before > 10
    assert np.abs(normalised[0] - normalised[1]).max() < 0.4 * before


def test_a_pale_slide_comes_to_the_same_colours():
    """Its nuclei alone pass a fixed limit of density: measured by them, its matrix would stay pale."""
    pale, standard = drawn("pale"), drawn("standard")
    fitted = [StainNormaliser.fit(images) for images in (pale, standard)]
    before = np.abs(pale.mean(axis=(0, 1, 2)) - standard.mean(axis=(0, 1, 2)))
    after = np.abs(fitted[0](pale).mean(axis=(0, 1, 2)) - fitted[1](standard).mean(axis=(0, 1, 2)))
    assert before.min() > 10 and after.max() < 4


def test_glass_cannot_be_normalised_and_says_so():
    assert StainNormaliser.fit(np.full((4, 50, 50, 3), 244, np.uint8)) is None


def test_density_and_back():
    values = np.arange(1, 240, dtype=np.uint8).reshape(-1, 1).repeat(3, axis=1)
    assert np.abs(from_density(optical_density(values)).astype(int) - values).max() <= 1


def test_jitter_changes_tissue_and_hardly_glass():
    images = drawn("standard")
    varied = jittered(images, np.random.default_rng(0), 0.15)
    assert np.abs(varied.astype(int) - images).mean() > 2
    white = np.full((3, 20, 20, 3), 250, np.uint8)
    assert np.abs(jittered(white, np.random.default_rng(0)).astype(int) - white).max() <= 3
    tints = (varied.astype(float) - images).mean(axis=(1, 2))
    assert np.ptp(tints, axis=0).max() > 2  # every tile its own


def test_the_reader_normalises_when_the_reading_says_so(tmp_path):
    distance = {}
    paths = [SyntheticSlide(1200, 900, 1.0, 2, stain).write(tmp_path / f"{stain}.tiff") for stain in ("red", "purple")]
    for stain in ("none", "macenko"):
        means = []
        for path in paths:
            with open_slide(path) as slide, TileReader(slide, Reading(1.0, 128, 128, stain=stain)) as reader:
                means.append(reader.read_at([400.0, 600.0], [300.0, 400.0]).mean(axis=(0, 1, 2)))
        distance[stain] = np.abs(means[0] - means[1]).max()
    assert distance["macenko"] < 0.6 * distance["none"]
