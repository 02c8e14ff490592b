"""Every real slide at hand opens with what is known of it, or is refused in its sentence."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from pathotune.errors import SlideUnreadable
from pathotune.slides import open_slide

# name: reader, width, height, levels, µm per pixel, where it comes from
KNOWN = {
    "CMU-1-Small-Region.svs": ("tiffslide", 2220, 2967, 1, 0.499, "aperio"),
    "cmu1_small_generic_pyramid.tiff": ("tiffslide", 2220, 2967, 4, 0.499, "tiff resolution"),
    "cmu1_small_pyramid.ome.tif": ("tiffslide", 2220, 2967, 4, 0.499, "tiff resolution"),
    "cmu1_small_pyramid.ome.zarr": ("omezarr", 2220, 2967, 4, 0.499, "ome-zarr"),
    "dicom_cmu1_small": ("openslide", 2220, 2967, 1, 0.499, "dicom"),
    "dicom_kidney_biopsy": ("openslide", 9385, 3727, 6, 0.971, "dicom"),
    "kidney_biopsy_generic_pyramid.tiff": ("tiffslide", 9385, 3727, 6, 0.971, "tiff resolution"),
    "her2st_C2_breast_9274x9911.ome.tif": ("tiffslide", 9274, 9911, 6, 0.696, "tiff resolution"),
    "camelyon16_tumor001_mosaic.tiff": ("tiffslide", 2986, 3200, 4, 0.243, "tiff resolution"),
}
REFUSED = {
    "broken.svs": "not a TIFF file",
    "camelyon16_tumor001_mosaic_mask.png": "grey",
    "camelyon16_tumor001_mosaic_valid.png": "grey",
}
CMU = [name for name, facts in KNOWN.items() if facts[1:3] == (2220, 2967)]
SAME_PIXELS = [
    ("dicom_cmu1_small", "CMU-1-Small-Region.svs"),
    ("dicom_kidney_biopsy", "kidney_biopsy_generic_pyramid.tiff"),
]


def test_every_file_of_the_folder_is_listed_here(shared_data: Path):
    assert {path.name for path in (shared_data / "wsi").iterdir()} <= set(KNOWN) | set(REFUSED)


@pytest.mark.parametrize("name", KNOWN)
def test_a_slide_is_what_is_known_of_it(shared_data: Path, name: str):
    reader, width, height, levels, mpp, source = KNOWN[name]
    with open_slide(shared_data / "wsi" / name) as slide:
        assert (slide.reader, slide.width_px0, slide.height_px0, len(slide.levels)) == (reader, width, height, levels)
        assert [level.downsample for level in slide.levels] == [2.0**i for i in range(levels)]
        assert slide.require_mpp().x == pytest.approx(mpp, abs=1e-3)
        assert slide.mpp.source == source
        assert slide.bounds_px0 == (0, 0, width, height)
        assert len(slide.fingerprint) == 32
        small = slide.thumbnail(256)
        assert max(small.shape[:2]) == 256
        assert 40 < small.mean() < 253
        assert max(slide.pyramid[-1].shape) <= 1024
        x, y = width // 2, height // 2
        assert np.array_equal(slide.pyramid[0][y : y + 99, x : x + 77].compute(), slide.read(x, y, 77, 99))


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_slide_is_refused_in_one_line(shared_data: Path, name: str):
    with pytest.raises(SlideUnreadable, match=REFUSED[name]) as caught:
        open_slide(shared_data / "wsi" / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [name for name, facts in KNOWN.items() if facts[0] == "tiffslide"])
def test_pixels_are_those_of_tiffslide(shared_data: Path, name: str):
    import tiffslide

    path = shared_data / "wsi" / name
    rng = np.random.default_rng(3)
    with open_slide(path) as slide, tiffslide.TiffSlide(path) as other:
        for x, y in rng.integers(0, 2000, (12, 2)):
            box = int(x), int(y), 300, 270
            theirs = other.read_region((box[0], box[1]), 0, (300, 270), as_array=True)
            inside = theirs[: slide.height_px0 - box[1], : slide.width_px0 - box[0]]
            assert np.array_equal(slide.read(*box)[: inside.shape[0], : inside.shape[1]], inside)


def test_the_same_slide_in_five_forms_looks_the_same(shared_data: Path):
    """A swapped channel, a shifted origin or another colour space would show."""
    reads = []
    for name in CMU:
        with open_slide(shared_data / "wsi" / name) as slide:
            reads.append(slide.read(700, 900, 512, 512).astype(int))
    assert len(reads) == 5
    for read in reads:
        # Three of them were compressed a second time with coarser colours.
        assert np.abs(read - reads[0]).mean() < 6
        assert np.abs(read.mean(axis=(0, 1)) - reads[0].mean(axis=(0, 1))).max() < 1
        shifted = (np.roll(read, step, axis) for step in (1, -1) for axis in (0, 1))
        assert all(np.abs(other - reads[0]).mean() > 10 for other in shifted)


def test_lower_levels_lie_on_the_first(shared_data: Path):
    """Level pixels stand for level-0 boxes: the means agree where a box of level 0 is averaged."""
    for name in ("kidney_biopsy_generic_pyramid.tiff", "dicom_kidney_biopsy", "cmu1_small_pyramid.ome.zarr"):
        with open_slide(shared_data / "wsi" / name) as slide:
            fine = slide.read(1600, 1600, 512, 512).reshape(128, 4, 128, 4, 3).mean(axis=(1, 3))
            coarse = slide.read(400, 400, 128, 128, 2).astype(float)
            shifted = slide.read(402, 400, 128, 128, 2).astype(float)
            assert np.abs(fine - coarse).mean() < 4 + 0.5 * np.abs(fine - shifted).mean()
            assert np.abs(fine - coarse).mean() < np.abs(fine - shifted).mean()


@pytest.mark.parametrize("name", ["CMU-1-Small-Region.svs", "dicom_cmu1_small", "cmu1_small_pyramid.ome.zarr"])
def test_threads_hammer_every_reader(shared_data: Path, name: str):
    boxes = [(int(x), int(y), 256, 256) for x, y in np.random.default_rng(1).integers(-100, 2500, (120, 2))]
    with open_slide(shared_data / "wsi" / name) as slide:
        alone = [slide.read(*box) for box in boxes]
    with open_slide(shared_data / "wsi" / name) as slide, ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda box: slide.read(*box), boxes))
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))


def test_a_dicom_slide_is_one_by_its_folder_and_by_any_of_its_files(shared_data: Path):
    folder = shared_data / "wsi" / "dicom_kidney_biopsy"
    with open_slide(folder) as slide:
        expected = slide.fingerprint, slide.levels
    for file in folder.iterdir():
        with open_slide(file) as slide:
            assert (slide.fingerprint, slide.levels) == expected


def test_labels_are_there_only_when_asked_for(shared_data: Path):
    for name in ("CMU-1-Small-Region.svs", "dicom_cmu1_small"):
        with open_slide(shared_data / "wsi" / name) as slide:
            assert {"label", "macro"} <= set(slide.associated_images)
            label = slide.associated_image("label")
            assert label.dtype == np.uint8 and label.shape[2] == 3
            assert not any(isinstance(value, np.ndarray) for value in slide.to_dict().values())


def test_fingerprints_tell_all_slides_apart_and_are_quick(shared_data: Path):
    found = set()
    for name in KNOWN:
        with open_slide(shared_data / "wsi" / name) as slide:
            start = time.perf_counter()
            found.add(slide._source.fingerprint())
            assert time.perf_counter() - start < 1
    assert len(found) == len(KNOWN)


def test_a_plain_jpeg_of_a_section_opens_without_being_decoded(shared_data: Path):
    path = shared_data / "st" / "her2st" / "images" / "C3.jpg"
    if not path.is_file():
        pytest.skip("the picture of section C3 is not on this machine")
    with open_slide(path, mpp=0.669) as slide:
        assert slide._source._pixels is None
        assert any("72 dpi" in text for text in slide.warnings)
        assert slide.read(4000, 4000, 256, 256).std() > 5
