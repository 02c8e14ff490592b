"""Tissue is found in any stain, and what is no tissue is left out."""

from __future__ import annotations

import numpy as np
import pytest

from pathotune.slides import open_slide
from pathotune.slides.synthetic import SyntheticSlide
from pathotune.tiles import TissueMask, tissue_mask
from pathotune.tiles.tissue import tissue_of

PIXEL_MM = 0.008
STAINS = {
    "ordinary": (190, 120, 170),
    "pale": (236, 222, 233),
    "blue": (150, 170, 205),
    "brown": (140, 105, 80),
    "pink": (235, 180, 200),
}


def picture(color, glass=(244, 243, 245), size=300):
    """A round piece of tissue of 90 pixels' radius on glass, with the noise of a camera."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size]
    inside = np.hypot(x - 150, y - 150) < 90
    image = np.where(inside[..., None], np.array(color, float), np.array(glass, float))
    grain = rng.normal(0, 1, (size, size, 1))
    image += np.where(inside[..., None], 6 * grain, 0.8 * grain)
    return np.clip(image, 0, 255).astype(np.uint8), inside


@pytest.mark.parametrize("stain", STAINS)
@pytest.mark.parametrize("glass", [(244, 243, 245), (225, 224, 222), (255, 255, 255)])
def test_tissue_of_any_stain_is_found(stain, glass):
    if stain == "pale" and glass[0] == 225:
        pytest.skip("paler than the glass: nothing to find")
    image, inside = picture(STAINS[stain], glass)
    mask = tissue_of(image, PIXEL_MM)
    assert (mask & inside).sum() / (mask | inside).sum() > 0.93


def test_empty_glass_has_none():
    image, _ = picture((244, 243, 245))
    assert not tissue_of(image, PIXEL_MM).any()
    assert not tissue_of(np.full((50, 60, 3), 255, np.uint8), PIXEL_MM).any()
    assert not tissue_of(np.zeros((50, 60, 3), np.uint8), PIXEL_MM).any()


def test_black_and_white_borders_shadows_and_pen_are_no_tissue():
    image, inside = picture(STAINS["ordinary"])
    image[:, :20], image[:20] = 0, 255
    image[270:290, 60:200] = (205, 203, 206)  # the shadow of a cover slip
    for left, ink in ((30, (40, 105, 85)), (245, (40, 50, 150)), (265, (45, 46, 48))):
        image[40:250, left : left + 12] = ink
    mask = tissue_of(image, PIXEL_MM)
    assert (mask & inside).sum() / (mask | inside).sum() > 0.93


def test_the_share_of_a_box_is_exact_between_pixels():
    rng = np.random.default_rng(2)
    mask = TissueMask(rng.random((20, 30)) < 0.5, (10.0, 7.0))
    fine = np.repeat(np.repeat(mask.array, 7, axis=0), 10, axis=1)
    for _ in range(20):
        x, y, width, height = rng.integers(0, 200), rng.integers(0, 90), rng.integers(1, 90), rng.integers(1, 45)
        expected = fine[y : y + height, x : x + width].mean()
        assert mask.covered([x], [y], [width], [height])[0] == pytest.approx(expected)
    assert mask.covered([-300], [0], [300], [140])[0] == 0
    half = TissueMask(np.ones((4, 4), bool), (10.0, 10.0)).covered([-20.0], [0.0], [40.0], [40.0])
    assert half[0] == pytest.approx(0.5)


def test_an_almost_empty_slide_is_said():
    array = np.zeros((100, 100), bool)
    assert TissueMask(array, (1, 1)).is_almost_empty
    assert "No tissue" in TissueMask(array, (1, 1)).sentence
    array[:5, :6] = True
    assert "0.3 %" in TissueMask(array, (1, 1)).sentence
    array[:50] = True
    assert not TissueMask(array, (1, 1)).is_almost_empty


@pytest.mark.parametrize("stain", ["standard", "pale"])
def test_the_mask_of_a_generated_slide_follows_its_truth(tmp_path, stain):
    drawn = SyntheticSlide(3000, 2400, 1.0, seed=4, stain=stain)
    with open_slide(drawn.write(tmp_path / "slide.tiff")) as slide:
        mask = tissue_mask(slide)
    rows, columns = mask.array.shape
    x, y = (np.arange(columns) + 0.5) * mask.scale_px0[0], (np.arange(rows) + 0.5) * mask.scale_px0[1]
    truth = drawn.classes_at(x[None, :], y[:, None])
    assert mask.array[(truth > 0) & (truth < 8)].mean() > 0.93  # fat too
    assert mask.array[truth == 0].mean() < 0.12
    assert mask.array[truth == 8].mean() < 0.05  # the pen


def test_real_slides(shared_data):
    expected = {
        "CMU-1-Small-Region.svs": (0.30, 0.60),
        "kidney_biopsy_generic_pyramid.tiff": (0.10, 0.35),
        "her2st_C2_breast_9274x9911.ome.tif": (0.12, 0.25),
    }
    for name, (least, most) in expected.items():
        with open_slide(shared_data / "wsi" / name) as slide:
            assert least < tissue_mask(slide).fraction < most, name


def test_holes_of_a_real_mosaic_are_no_tissue(shared_data):
    from PIL import Image

    folder = shared_data / "wsi"
    with open_slide(folder / "camelyon16_tumor001_mosaic.tiff") as slide:
        mask = tissue_mask(slide)
    size = mask.array.shape[::-1]
    valid = np.asarray(Image.open(folder / "camelyon16_tumor001_mosaic_valid.png").resize(size)) > 0
    assert mask.array[~valid].mean() < 0.08
    assert mask.array[valid].mean() > 0.8
