"""OME-Zarr folders and plain pictures, and colour profiles."""

from __future__ import annotations

import io
import shutil

import numpy as np
import pytest
import zarr
from PIL import Image, ImageCms

from pathotune.errors import SlideUnreadable
from pathotune.slides import open_slide
from pathotune.slides.image import IN_MEMORY_BYTES, _room

AXES = [{"name": "c", "type": "channel"}] + [{"name": n, "type": "space", "unit": "micrometer"} for n in "yx"]


def write_zarr(path, pixels, *, version="0.5", axes=AXES, scale=0.5, omero=None, levels=2, chunk=128, shards=None):
    """An OME-Zarr of the pixels and halved copies of them."""
    group = zarr.open_group(path, mode="w", zarr_format=3 if version == "0.5" else 2)
    names = [axis["name"] for axis in axes]
    datasets = []
    for level in range(levels):
        source = pixels[:: 2**level, :: 2**level]
        order = {"y": source.shape[0], "x": source.shape[1], "c": source.shape[2]}
        array = source.transpose(["yxc".index(name) for name in names if name in "yxc"])
        array = array.reshape([order.get(name, 1) for name in names])
        chunks = tuple(
            min(chunk, size) if name in "yx" else size for name, size in zip(names, array.shape, strict=True)
        )
        options = (
            {"shards": tuple(c * shards if n in "yx" else c for n, c in zip(names, chunks, strict=True))}
            if shards
            else {}
        )
        group.create_array(str(level), data=np.ascontiguousarray(array), chunks=chunks, **options)
        scales = [scale * 2**level if name in "yx" else 1.0 for name in names]
        datasets.append({"path": str(level), "coordinateTransformations": [{"type": "scale", "scale": scales}]})
    inner = {"multiscales": [{"axes": axes, "datasets": datasets, "name": "slide", "version": version}]}
    if omero:
        inner["omero"] = {"channels": omero}
    group.attrs.update({"ome": {**inner, "version": version}} if version == "0.5" else inner)
    return path


@pytest.mark.parametrize("shards", [None, 2])
@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_ome_zarr_of_both_versions(draw, tmp_path, version, shards):
    if version == "0.4" and shards:
        shards = None
    pixels = draw(700, 500)
    path = write_zarr(tmp_path / "slide.ome.zarr", pixels, version=version, shards=shards)
    with open_slide(path) as slide:
        assert slide.reader == "omezarr"
        assert np.array_equal(slide.read(0, 0, 700, 500), pixels)
        assert np.array_equal(slide.read(100, 33, 200, 200, 1), pixels[::2, ::2][33:233, 100:300])
        assert (slide.mpp.x, slide.mpp.source) == (0.5, "ome-zarr")
        assert [level.downsample for level in slide.levels] == [1, 2]


@pytest.mark.parametrize("names", ["yxc", "tczyx", "cyx", "zyxc"])
def test_axes_in_any_order(draw, tmp_path, names):
    axes = [{"name": name, "unit": "micrometer"} if name in "yx" else {"name": name} for name in names]
    pixels = draw(300, 200)
    with open_slide(write_zarr(tmp_path / "slide.zarr", pixels, axes=axes)) as slide:
        assert np.array_equal(slide.read(0, 0, 300, 200), pixels)
        assert slide.mpp.x == 0.5


@pytest.mark.parametrize(("unit", "scale"), [("nanometer", 500), ("millimeter", 0.0005)])
def test_units_of_ome_zarr(draw, tmp_path, unit, scale):
    axes = [{"name": "c"}, {"name": "y", "unit": unit}, {"name": "x", "unit": unit}]
    with open_slide(write_zarr(tmp_path / "slide.zarr", draw(300, 200), axes=axes, scale=scale)) as slide:
        assert slide.mpp.x == pytest.approx(0.5)


def test_display_colours_tell_fluorescence_from_brightfield(draw, tmp_path):
    red, green, blue = ({"color": color} for color in ("FF0000", "00FF00", "0000FF"))
    with open_slide(write_zarr(tmp_path / "bright.zarr", draw(300, 200), omero=[red, green, blue])):
        pass
    stains = [{"label": "DAPI", **blue}, {"label": "FITC", **green}, {"label": "Cy3", **red}]
    with pytest.raises(SlideUnreadable, match="DAPI, FITC, Cy3"):
        open_slide(write_zarr(tmp_path / "fluo.zarr", draw(300, 200), omero=stains))


def test_a_bioformats2raw_folder_opens_its_first_image(draw, tmp_path):
    pixels = draw(300, 200)
    root = zarr.open_group(tmp_path / "slide.zarr", mode="w", zarr_format=2)
    root.attrs["bioformats2raw.layout"] = 3
    write_zarr(tmp_path / "slide.zarr" / "0", pixels, version="0.4")
    write_zarr(tmp_path / "slide.zarr" / "1", draw(100, 80, 1), version="0.4")
    with open_slide(tmp_path / "slide.zarr") as slide:
        assert np.array_equal(slide.read(0, 0, 300, 200), pixels)
        assert slide.associated_images == ("image 1",)
        assert np.array_equal(slide.associated_image("image 1"), draw(100, 80, 1))


@pytest.mark.parametrize("change", ["dtype", "channels", "planes", "no multiscales"])
def test_other_zarrs_are_refused(draw, tmp_path, change):
    pixels, path = draw(300, 200), tmp_path / "slide.zarr"
    if change == "dtype":
        write_zarr(path, pixels.astype(np.uint16))
    elif change == "channels":
        write_zarr(path, np.dstack([pixels, pixels]))
    elif change == "no multiscales":
        zarr.open_group(path, mode="w")
    else:
        write_zarr(path, pixels)
        group = zarr.open_group(path, mode="a")
        group.create_array("0", data=np.zeros((3, 5, 200, 300), np.uint8), overwrite=True)
        ome = dict(group.attrs["ome"])
        ome["multiscales"][0]["axes"].insert(1, {"name": "z"})
        group.attrs["ome"] = ome
    with pytest.raises(SlideUnreadable) as caught:
        open_slide(path)
    expected = {"dtype": "uint16", "channels": "6 channels", "planes": "5 along z", "no multiscales": "multiscales"}
    assert expected[change] in str(caught.value)


def test_the_fingerprint_of_a_folder_is_of_its_content(draw, tmp_path):
    one = write_zarr(tmp_path / "one.zarr", draw(700, 500))
    two = write_zarr(tmp_path / "two.zarr", draw(700, 500, 1))
    moved = shutil.copytree(one, tmp_path / "moved.zarr")
    prints = []
    for path in (one, moved, two):
        with open_slide(path) as slide:
            prints.append(slide.fingerprint)
    assert prints[0] == prints[1] != prints[2]


@pytest.mark.parametrize("ending", [".png", ".bmp", ".jpg", ".JPEG"])
def test_plain_pictures(draw, tmp_path, ending):
    pixels, path = draw(1300, 700), tmp_path / f"picture{ending}"
    Image.fromarray(pixels).save(path, **({"quality": 98, "subsampling": 0} if "j" in ending.lower() else {}))
    with open_slide(path) as slide:
        assert slide.reader == "image"
        assert slide._source._pixels is None
        assert np.abs(slide.read(3, 5, 1200, 600).astype(int) - pixels[5:605, 3:1203]).mean() < 2
        assert len(slide.levels) == 1
        assert slide.pyramid_downsamples == [1, 2]
        assert slide.mpp is None


@pytest.mark.parametrize("mode", ["RGBA", "P", "CMYK"])
def test_pictures_in_other_colour_modes(draw, tmp_path, mode):
    picture = Image.fromarray(draw(300, 200)).convert(mode)
    path = tmp_path / ("picture.jpg" if mode == "CMYK" else "picture.png")
    picture.save(path)
    with open_slide(path) as slide:
        assert np.abs(slide.read(0, 0, 300, 200).astype(int) - np.asarray(picture.convert("RGB"))).mean() < 3


def test_a_pictures_own_resolution_is_used_if_it_is_no_screens(draw, tmp_path):
    for dpi, expected in ((50800, 0.5), (72, None)):
        path = tmp_path / f"{dpi}.png"
        Image.fromarray(draw(100, 100)).save(path, dpi=(dpi, dpi))
        with open_slide(path) as slide:
            assert slide.mpp is None if expected is None else slide.mpp.x == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_truncated_pictures_are_refused(draw, tmp_path, ending):
    path = tmp_path / f"picture.{ending}"
    Image.fromarray(draw(500, 500)).save(path)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(SlideUnreadable, match="truncated"):
        open_slide(path)


def test_pictures_that_are_no_colour_pictures_are_refused(tmp_path):
    for array, reason in ((np.zeros((50, 50), np.uint8), "grey"), (np.zeros((50, 50), np.uint16), "16 bit")):
        path = tmp_path / "picture.png"
        Image.fromarray(array).save(path)
        with pytest.raises(SlideUnreadable, match=reason):
            open_slide(path)


def test_more_pixels_than_pillow_allows_open_without_a_warning(tmp_path, recwarn):
    """Pillow takes 180 megapixels for an attack; a photographed section can have them."""
    path = tmp_path / "large.png"
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, 1000
    try:
        Image.new("RGB", (300, 300), "pink").save(path)
        with open_slide(path) as slide:
            assert slide.read(0, 0, 10, 10).shape == (10, 10, 3)
    finally:
        Image.MAX_IMAGE_PIXELS = limit
    assert not [warning for warning in recwarn if "decompression" in str(warning.message)]


def test_a_picture_too_large_for_its_form_comes_with_the_way_out(draw, tmp_path, monkeypatch):
    monkeypatch.setattr("pathotune.slides.image.LARGEST_BYTES", 1000)
    path = tmp_path / "picture.png"
    Image.fromarray(draw(300, 300)).save(path)
    with pytest.raises(SlideUnreadable, match="vips tiffsave"):
        open_slide(path)


def test_large_pictures_are_decoded_into_a_file():
    rows = IN_MEMORY_BYTES // (3 * 4096) + 1
    room = _room(rows, 4096)
    assert isinstance(room, np.memmap)
    room[-1, -1] = 7
    assert not isinstance(_room(10, 10), np.memmap)


def test_colours_are_converted_where_asked(draw, make_tiff, swapped_profile):
    pixels = draw(300, 300)
    path = make_tiff(pixels, iccprofile=swapped_profile)
    with open_slide(path) as plain, open_slide(path, icc=True) as converted:
        assert plain.icc_profile and not plain.converts_color
        assert converted.converts_color
        assert np.array_equal(plain.read(0, 0, 300, 300), pixels)
        swapped = pixels[..., ::-1].astype(int)
        assert np.abs(converted.read(0, 0, 300, 300) - swapped).max() <= 4
        assert np.abs(converted.pyramid[0].compute() - swapped).max() <= 4


def test_an_srgb_profile_changes_nothing(draw, make_tiff):
    pixels = draw(300, 300)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    with open_slide(make_tiff(pixels, iccprofile=profile), icc=True) as slide:
        assert np.abs(slide.read(0, 0, 300, 300).astype(int) - pixels).max() <= 1


def test_without_a_profile_nothing_is_converted(draw, make_tiff):
    with open_slide(make_tiff(draw(300, 300)), icc=True) as slide:
        assert (slide.icc_profile, slide.converts_color) == (None, False)


def test_a_damaged_profile_is_said_and_left_out(draw, make_tiff):
    pixels = draw(300, 300)
    with open_slide(make_tiff(pixels, iccprofile=b"not a profile" * 20), icc=True) as slide:
        assert np.array_equal(slide.read(0, 0, 300, 300), pixels)
        assert slide.icc_profile == "unreadable"
        assert any("colour profile" in text for text in slide.warnings)


def test_the_embedded_profile_of_a_picture(draw, tmp_path, swapped_profile):
    path = tmp_path / "picture.png"
    buffer = io.BytesIO(swapped_profile)
    Image.fromarray(draw(300, 300)).save(path, icc_profile=buffer.getvalue())
    with open_slide(path, icc=True) as slide:
        assert slide.converts_color
        assert np.abs(slide.read(0, 0, 300, 300) - draw(300, 300)[..., ::-1].astype(int)).max() <= 4
