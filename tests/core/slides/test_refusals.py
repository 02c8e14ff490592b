"""What is no brightfield slide is refused in one sentence that names the readers and their reasons."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile

from pathotune.errors import FileMissing, SlideUnreadable, UnknownName
from pathotune.slides import READERS, open_slide


def refusal(path, **options) -> SlideUnreadable:
    with pytest.raises(SlideUnreadable) as caught:
        open_slide(path, **options)
    sentence = str(caught.value)
    assert path.name in sentence
    assert "\n" not in sentence
    assert caught.value.tried
    return caught.value


def test_no_such_file_is_said(tmp_path):
    with pytest.raises(FileMissing, match=r"nothing\.svs"):
        open_slide(tmp_path / "nothing.svs")


def test_a_file_of_another_kind_names_every_reader(tmp_path):
    path = tmp_path / "notes.svs"
    path.write_text("not a slide at all")
    error = refusal(path)
    assert [name for name, _ in error.tried] == list(READERS)
    assert all(name in str(error) for name in READERS)


def test_a_file_that_may_not_be_read(draw, make_tiff, monkeypatch):
    def forbid(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("pathotune.slides.tiff.is_tiff", forbid)
    assert "may not be read" in str(refusal(make_tiff(draw(300, 300))))


def test_an_empty_file(tmp_path):
    path = tmp_path / "empty.svs"
    path.touch()
    assert "empty" in str(refusal(path))


def test_an_unknown_reader_lists_the_known(tmp_path):
    with pytest.raises(UnknownName, match="tiffslide"):
        open_slide(tmp_path, reader="bioformats")


def test_only_the_reader_that_was_named_is_tried(draw, make_tiff):
    assert [name for name, _ in refusal(make_tiff(draw(300, 300)), reader="omezarr").tried] == ["omezarr"]


@pytest.mark.parametrize("tile", [(256, 256), None])
def test_sixteen_bit(tmp_path, tile):
    path = tmp_path / "deep.tiff"
    tifffile.imwrite(path, np.zeros((600, 600, 3), np.uint16), photometric="rgb", tile=tile, metadata=None)
    assert "16 bits, not 8" in str(refusal(path))


@pytest.mark.parametrize("dtype", [np.float32, np.uint32])
def test_numbers_that_are_no_colours(tmp_path, dtype):
    path = tmp_path / "numbers.tiff"
    tifffile.imwrite(path, np.zeros((600, 600, 3), dtype), photometric="rgb", tile=(256, 256), metadata=None)
    assert "32 bits, not 8" in str(refusal(path))


@pytest.mark.parametrize("channels", [2, 4, 7])
@pytest.mark.parametrize("name", ["fluo.tiff", "fluo.ome.tif"])
def test_fluorescence_in_several_pages(tmp_path, channels, name):
    path = tmp_path / name
    tifffile.imwrite(
        path,
        np.zeros((channels, 600, 600), np.uint8),
        photometric="minisblack",
        tile=(256, 256),
        metadata={"axes": "CYX"},
    )
    assert "channel" in str(refusal(path))


def test_fluorescence_in_one_page(tmp_path):
    path = tmp_path / "fluo.tiff"
    data = np.zeros((600, 600, 4), np.uint8)
    tifffile.imwrite(path, data, photometric="minisblack", planarconfig="contig", tile=(256, 256), metadata=None)
    assert "4 channels" in str(refusal(path))


def test_a_mask(tmp_path):
    path = tmp_path / "mask.tiff"
    tifffile.imwrite(path, np.zeros((600, 600), np.uint8), tile=(256, 256), metadata=None)
    assert "one channel" in str(refusal(path))


def test_a_stack_of_planes(draw, tmp_path):
    path = tmp_path / "stack.ome.tif"
    planes = np.stack([draw(300, 300, seed) for seed in range(3)])
    tifffile.imwrite(path, planes, photometric="rgb", tile=(256, 256), metadata={"axes": "ZYXS"})
    assert "3 planes" in str(refusal(path))


@pytest.mark.parametrize("part", [0.95, 0.5, 0.1, 0.01])
@pytest.mark.parametrize("kind", ["svs", "pyramid"])
def test_a_truncated_slide_is_refused_and_never_half_read(draw, make_svs, make_tiff, kind, part):
    pixels = draw(1500, 1200)
    options = {"compression": "jpeg", "compressionargs": {"level": 90}}
    path = make_svs(pixels, **options) if kind == "svs" else make_tiff(pixels, levels=((750, 600),), **options)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    assert "truncated" in str(refusal(path))


@pytest.mark.parametrize("lost", [1, 300])
@pytest.mark.parametrize("big", [False, True])
def test_a_slide_that_lost_its_last_page_or_tag_is_refused(draw, make_tiff, lost, big):
    # All pixels of the largest level are there; the header of the last page is not, which tifffile only logs.
    path = make_tiff(draw(600, 500), levels=((300, 250),), compression="jpeg")
    with tifffile.TiffFile(path) as file:
        pages = [(page.asarray(), page.is_reduced) for page in file.pages]
    with tifffile.TiffWriter(path, bigtiff=big) as tiff:
        for pixels, is_reduced in pages:
            tiff.write(pixels, tile=(256, 256), photometric="rgb", subfiletype=int(is_reduced), metadata=None)
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        at = file.pages[-1].offset  # moved to the end, as scanners write it
        link = data.index(at.to_bytes(8 if big else 4, "little"))
        length = (8 + 20 * len(file.pages[-1].tags) + 8) if big else (2 + 12 * len(file.pages[-1].tags) + 4)
    moved = len(data)
    data[link : link + (8 if big else 4)] = moved.to_bytes(8 if big else 4, "little")
    data += data[at : at + length]
    path.write_bytes(data)
    open_slide(path).close()
    path.write_bytes(data[:-lost])
    assert "truncated" in str(refusal(path))


def test_a_truncated_bigtiff(draw, tmp_path):
    path = tmp_path / "big.tiff"
    tifffile.imwrite(path, draw(800, 800), bigtiff=True, tile=(256, 256), metadata=None, photometric="rgb")
    path.write_bytes(path.read_bytes()[:-100])
    assert "truncated: at least 100 bytes" in str(refusal(path))


def test_one_huge_compressed_strip_comes_with_the_way_out(tmp_path, monkeypatch):
    monkeypatch.setattr("pathotune.slides.tiffpage.LARGEST_STRIP_BYTES", 2**20)
    path = tmp_path / "strip.tiff"
    data = np.full((900, 900, 3), 200, np.uint8)
    tifffile.imwrite(path, data, photometric="rgb", compression="zlib", rowsperstrip=900, metadata=None)
    error = refusal(path, reader="tiffslide")
    assert "vips tiffsave" in str(error)
    assert "900 × 900" in str(error)


def test_one_huge_plain_strip_is_read_by_rows(draw, tmp_path, monkeypatch):
    monkeypatch.setattr("pathotune.slides.tiffpage.LARGEST_STRIP_BYTES", 2**20)
    path = tmp_path / "strip.tiff"
    pixels = draw(900, 900)
    tifffile.imwrite(path, pixels, photometric="rgb", metadata=None)
    with open_slide(path) as slide:
        assert np.array_equal(slide.read(300, 400, 100, 50), pixels[400:450, 300:400])


def test_the_largest_picture_of_an_ome_file_is_the_slide(draw, tmp_path):
    path = tmp_path / "several.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as file:
        file.write(draw(200, 150, 1), photometric="rgb", metadata={"axes": "YXS", "Name": "label"})
        file.write(
            draw(900, 800),
            photometric="rgb",
            tile=(256, 256),
            metadata={"axes": "YXS", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5},
        )
    with open_slide(path) as slide:
        assert (slide.width_px0, slide.height_px0) == (900, 800)
        assert np.array_equal(slide.read(0, 0, 900, 800), draw(900, 800))
        assert slide.mpp.x == 0.5
        assert slide.associated_images == ("label",)
        assert any("largest" in text for text in slide.warnings)


def test_a_folder_of_slides_names_one(draw, make_svs, tmp_path):
    make_svs(draw(300, 300), "folder/a.svs")
    assert "a.svs" in str(refusal(tmp_path / "folder"))


def test_a_mirax_file_without_its_folder_is_not_taken_for_a_picture(draw, tmp_path):
    from PIL import Image

    path = tmp_path / "slide.mrxs"
    Image.fromarray(draw(200, 200)).save(path, format="JPEG")
    assert ("image", "not a PNG, JPEG or BMP picture") in refusal(path).tried
