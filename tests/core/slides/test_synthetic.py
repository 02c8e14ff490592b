"""A generated slide is the same wherever it is looked at, and its truth is true."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
import shapely
from shapely.geometry import shape

from pathotune.errors import OutputRefused, UnknownName, UsageError
from pathotune.slides import open_slide
from pathotune.slides.synthetic import CLASSES, LOOK_ALIKES, STAINS, Stain, SyntheticSlide, write_sample

NAMES = [tissue.name for tissue in CLASSES]


@pytest.fixture(scope="module")
def slide():
    return SyntheticSlide(2600, 2100, 1.0, seed=5)


@pytest.fixture(scope="module")
def whole(slide):
    return slide.render(0, 0, slide.width_px0, slide.height_px0)


def test_parts_agree_with_the_whole_to_the_pixel(slide, whole):
    rng = np.random.default_rng(0)
    for _ in range(25):
        x, y = int(rng.integers(0, 2400)), int(rng.integers(0, 1900))
        width, height = int(rng.integers(1, 700)), int(rng.integers(1, 700))
        part = slide.render(x, y, width, height)
        inside = whole[y : y + height, x : x + width]
        np.testing.assert_array_equal(part[: inside.shape[0], : inside.shape[1]], inside)
        assert (part[inside.shape[0] :] == 255).all() and (part[:, inside.shape[1] :] == 255).all()


def test_the_same_numbers_give_the_same_slide_and_others_another(slide, whole):
    part = whole[800:1100, 900:1300]
    np.testing.assert_array_equal(SyntheticSlide(2600, 2100, 1.0, seed=5).render(900, 800, 400, 300), part)
    other = SyntheticSlide(2600, 2100, 1.0, seed=6)
    assert (other.class_map(50) != slide.class_map(50)).mean() > 0.3


def test_stains_change_colours_and_not_tissue(slide, whole):
    for name in ("pale", "brown"):
        other = SyntheticSlide(2600, 2100, 1.0, seed=5, stain=name)
        np.testing.assert_array_equal(other.class_map(40), slide.class_map(40))
        assert np.abs(other.render(900, 800, 300, 300).astype(int) - whole[800:1100, 900:1200]).mean() > 4
    varied = Stain().varied(3)
    assert varied == Stain().varied(3) != Stain().varied(4)


def test_a_downsample_is_the_mean_of_what_it_covers(slide, whole):
    small = slide.render(512, 256, 100, 80, downsample=4)
    expected = whole[256 : 256 + 320, 512 : 512 + 400].reshape(80, 4, 100, 4, 3).mean(axis=(1, 3))
    assert np.abs(small - expected).max() <= 1


def test_every_pixel_is_drawn_as_the_class_it_is_said_to_be(slide):
    rng = np.random.default_rng(1)
    for _ in range(12):
        x0, y0 = int(rng.integers(0, 2300)), int(rng.integers(0, 1800))
        drawn = np.full((256, 256), 255, np.uint8)
        for piece in slide.layout.pieces(x0, y0, 256, 256):
            drawn[slice(None) if piece.mask is None else piece.mask] = piece.tissue
        ink = slide.layout.pen_mask(x0, y0, 256, 256)
        if ink is not None:
            drawn[ink] = NAMES.index("Ignore*")
        x, y = np.meshgrid(x0 + np.arange(256) + 0.5, y0 + np.arange(256) + 0.5)
        # Rounding decides on the very border of two patches.
        assert (slide.classes_at(x, y) != drawn).mean() < 1e-3


def test_classes_look_different_and_glass_is_bright(slide, whole):
    x, y = np.meshgrid(np.arange(2600) + 0.5, np.arange(2100) + 0.5)
    classes = slide.classes_at(x, y)
    assert set(np.unique(classes)) == set(range(len(CLASSES)))
    means = {name: whole[classes == number].mean(axis=0) for number, name in enumerate(NAMES)}
    assert means["Background"].min() > 225
    assert means["Adipose"].min() > 200
    assert means["Ignore*"].mean() < 120
    assert means["Immune cells"][0] < means["Stroma"][0] - 20


def colours_of(images):
    """Mean, spread and skewness of each colour, (n, 9)."""
    mean, spread = images.mean(axis=(1, 2)), images.std(axis=(1, 2))
    skew = ((images - mean[:, None, None]) ** 3).mean(axis=(1, 2)) / spread**3
    return np.concatenate([mean, spread, skew], axis=1)


def structure_of(images):
    """How much there is at each size, and how far directions agree in the neighbourhood, (n, 7)."""
    from scipy import ndimage

    grey = images.mean(axis=-1)
    grey = (grey - grey.mean(axis=(1, 2), keepdims=True)) / grey.std(axis=(1, 2), keepdims=True)
    blurred = [ndimage.gaussian_filter(grey, (0, sigma, sigma)) for sigma in (1, 2, 4, 8, 16)]
    sizes = [(finer - coarser).std(axis=(1, 2)) for finer, coarser in pairwise(blurred)]
    down, along = np.gradient(blurred[0], axis=(1, 2))
    agreement = []
    for reach in (3, 10, 20):
        xx, yy, xy = (ndimage.gaussian_filter(p, (0, reach, reach)) for p in (along**2, down**2, along * down))
        agreement.append((np.hypot(xx - yy, 2 * xy) / (xx + yy)).mean(axis=(1, 2)))
    return np.stack([*sizes, *agreement], axis=1)


@pytest.mark.slow
@pytest.mark.parametrize("pair", LOOK_ALIKES)
def test_look_alikes_share_their_colours_and_not_their_structure(pair):
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def tiles(seed):
        """25 tiles of each class: patches are small, so that every few tiles were dyed apart."""
        pictures = []
        for name in pair:
            one = SyntheticSlide(1120, 1120, 0.5, seed, margin=0, classes=(name,), patch_um=120)
            picture = one.render(0, 0, 1120, 1120).astype(float)
            pictures.append(picture.reshape(5, 224, 5, 224, 3).swapaxes(1, 2).reshape(25, 224, 224, 3))
        return np.concatenate(pictures)

    train, test, labels = tiles(3), tiles(4), np.repeat([0, 1], 25)
    scores = []
    for features in (colours_of, structure_of):
        model = make_pipeline(StandardScaler(), LogisticRegression()).fit(features(train), labels)
        scores.append(model.score(features(test), labels))
    assert scores[0] < 0.7 and scores[1] > 0.8, scores


def test_drawn_regions_lie_in_their_class(slide):
    collection = json.loads(json.dumps(slide.regions()))
    assert collection == json.loads(json.dumps(SyntheticSlide(2600, 2100, 1.0, seed=5).regions()))
    assert collection["type"] == "FeatureCollection"
    counts: dict[str, int] = {}
    rng = np.random.default_rng(0)
    for feature in collection["features"]:
        polygon, properties = shape(feature["geometry"]), feature["properties"]
        name = properties["classification"]["name"]
        counts[name] = counts.get(name, 0) + 1
        assert polygon.is_valid and properties["objectType"] == "annotation"
        left, top, right, bottom = polygon.bounds
        x, y = rng.uniform(left, right, 400), rng.uniform(top, bottom, 400)
        inside = shapely.contains_xy(polygon, x, y)
        assert {NAMES[index] for index in np.unique(slide.classes_at(x[inside], y[inside]))} == {name}
    assert set(counts) == set(NAMES) - {"Background", "Ignore*"}
    assert max(counts.values()) == 3
    shapes = [shape(feature["geometry"]) for feature in collection["features"]]
    assert shapely.area(shapely.unary_union(shapes)) == pytest.approx(sum(map(shapely.area, shapes)))


def test_the_whole_truth_covers_the_tissue(slide):
    classes = slide.class_map(8)
    for feature in slide.regions("all")["features"]:
        geometry = shape(feature["geometry"])
        number = NAMES.index(feature["properties"]["classification"]["name"])
        assert geometry.is_valid
        assert geometry.area == pytest.approx((classes == number).sum() * 64, rel=0.05)
    with pytest.raises(UsageError, match="'some'"):
        slide.regions("some")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mpp", "downsamples", "form"),
    [(0.25, None, "generic"), (0.73, (3.17, 9.6), "generic"), (0.5, (1, 4), "aperio"), (0.5021, (2,), "generic")],
)
def test_the_file_says_the_same_as_the_drawing(tmp_path, mpp, downsamples, form):
    drawn = SyntheticSlide(1501, 1203, mpp, seed=1, wallpaper_um=100, patch_um=200)
    path = drawn.write(tmp_path / "Präparat 1.tiff", downsamples=downsamples, resolution=form, quality=95)
    with open_slide(path) as slide:
        assert (slide.width_px0, slide.height_px0) == (1501, 1203)
        assert slide.mpp is not None and slide.mpp.x == pytest.approx(mpp, rel=1e-6) == slide.mpp.y
        picture = slide.read(300, 200, 512, 512)
        assert np.abs(picture.astype(int) - drawn.render(300, 200, 512, 512)).mean() < 4
        assert len(slide.levels) > 1
        for index, level in enumerate(slide.levels[1:], start=1):
            whole = slide.read(0, 0, level.width, level.height, index)
            side = 100
            x, y = int(level.width - side), int(level.height - side)
            ratio = level.downsample
            expected = drawn.render(round(x * ratio), round(y * ratio), side, side, downsample=ratio).astype(float)
            near = np.abs(whole[y : y + side, x : x + side] - expected).mean()
            shifted = np.abs(whole[y - 1 : y + side - 1, x - 1 : x + side - 1] - expected).mean()
            assert near < 6 and near < 0.7 * shifted, (index, near, shifted)


def test_a_file_without_loss_is_the_drawing(tmp_path):
    drawn = SyntheticSlide(700, 300, 1.0, seed=1, wallpaper_um=100)
    with open_slide(drawn.write(tmp_path / "a.tiff", quality=0, resolution="none", tile=128)) as slide:
        np.testing.assert_array_equal(slide.read(0, 0, 700, 300), drawn.render(0, 0, 700, 300))
        assert slide.mpp is None


def test_large_levels_wait_on_disk(tmp_path, monkeypatch):
    from pathotune.slides.synthetic import writing

    drawn = SyntheticSlide(900, 800, 1.0, seed=1, wallpaper_um=100)
    small = drawn.write(tmp_path / "a.tiff", downsamples=(2, 4)).read_bytes()
    monkeypatch.setattr(writing, "IN_MEMORY_BYTES", 1000)
    assert drawn.write(tmp_path / "b.tiff", downsamples=(2, 4)).read_bytes() == small


@pytest.mark.slow
def test_a_gigapixel_slide_costs_nothing_until_looked_at():
    slide = SyntheticSlide(200_000, 150_000, 0.25, seed=1, wallpaper_um=64)
    part = slide.render(100_000, 75_000, 300, 300)
    np.testing.assert_array_equal(slide.render(100_100, 75_100, 100, 100), part[100:200, 100:200])
    assert part.std() > 5


@pytest.mark.slow
def test_the_sample_is_a_slide_and_its_regions(tmp_path):
    path, regions = write_sample(tmp_path, 2, width_px0=1500, height_px0=1200, mpp=1.0)
    with open_slide(path) as slide:
        assert slide.mpp is not None and slide.mpp.x == 1.0
    assert json.loads(regions.read_text())["features"]
    assert {item.name for item in tmp_path.iterdir()} == {"sample-2.tiff", "sample-2.geojson", "sample-2-truth.geojson"}


def test_what_cannot_be_is_said(tmp_path):
    with pytest.raises(UsageError, match="0 x 10"):
        SyntheticSlide(0, 10)
    with pytest.raises(UnknownName, match="standard"):
        SyntheticSlide(10, 10, stain="blue")
    with pytest.raises(UnknownName, match="Stroma"):
        SyntheticSlide(10, 10, classes=("Strom",))
    small = SyntheticSlide(64, 64, 1.0)
    for wrong in ({"tile": 100}, {"downsamples": (4, 2)}, {"downsamples": (0.5,)}, {"resolution": "dpi"}):
        with pytest.raises(UsageError):
            small.write(tmp_path / "a.tiff", **wrong)
    (tmp_path / "file").touch()
    with pytest.raises(OutputRefused, match=r"a\.tiff"):
        small.write(tmp_path / "file" / "a.tiff")
    assert [item.name for item in tmp_path.iterdir()] == ["file"]


def test_names_are_known():
    assert all(stain.name == name for name, stain in STAINS.items())
    assert {name for pair in LOOK_ALIKES for name in pair} <= set(NAMES)


def test_its_import_costs_little():
    code = "import sys, pathotune.slides.synthetic; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "tiffslide", "tifffile", "zarr", "skimage", "scipy", "shapely"} & set(loaded)
