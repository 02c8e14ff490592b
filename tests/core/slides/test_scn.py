"""Files laid out like a Leica SCN: BigTIFF, one collection on the glass, several scanned parts at places of their own.

No file of the scanner itself was at hand; these follow what openslide looks for in one (its XML in the first page).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from pathotune.errors import SlideUnreadable
from pathotune.regions import read_regions
from pathotune.slides import open_slide

NM = 500  # per level-0 pixel
GLASS = (2000, 1500)  # level-0 pixels
SCHEMES = ("2010/03/10", "2010/10/01")


def image(name: str, sizes: dict[int, tuple[int, int]], view: tuple[int, int, int, int], power: float) -> str:
    """One scanned part: its pages with their sizes, and x, y, width, height on the glass in nanometres."""
    pages = "".join(
        f'<dimension sizeX="{w}" sizeY="{h}" r="{r}" ifd="{i}"/>' for r, (i, (w, h)) in enumerate(sizes.items())
    )
    width, height = next(iter(sizes.values()))
    return (
        f'<image name="{name}"><creationDate>2015-01-01T00:00:00Z</creationDate><device model="SCN400" version="1"/>'
        f'<pixels sizeX="{width}" sizeY="{height}">{pages}</pixels>'
        f'<view sizeX="{view[2]}" sizeY="{view[3]}" offsetX="{view[0]}" offsetY="{view[1]}" spacingZ="0"/>'
        f"<scanSettings><objectiveSettings><objective>{power}</objective></objectiveSettings><illuminationSettings>"
        "<numericalAperture>0.4</numericalAperture><illuminationSource>brightfield</illuminationSource>"
        "</illuminationSettings></scanSettings></image>"
    )


def write_scn(path: Path, parts: dict[tuple[int, int], np.ndarray], *, scheme=SCHEMES[1], powers=(20, 20)) -> Path:
    """A slide with a macro picture and the parts, by their corner on the glass, each at two sizes."""
    pages = [np.full((150, 200, 3), 222, np.uint8)]
    images = [image("macro", {0: (200, 150)}, (0, 0, GLASS[0] * NM, GLASS[1] * NM), 0.6)]
    for number, ((x, y), pixels) in enumerate(parts.items()):
        height, width = pixels.shape[:2]
        sizes = {len(pages): (width, height), len(pages) + 1: (width // 2, height // 2)}
        pages += [pixels, pixels[::2, ::2]]
        view = (x * NM, y * NM, width * NM, height * NM)
        images.append(image(f"part {number}", sizes, view, powers[number]))
    told = (
        f'<?xml version="1.0"?><scn xmlns="http://www.leica-microsystems.com/scn/{scheme}"><collection name="slide" '
        f'sizeX="{GLASS[0] * NM}" sizeY="{GLASS[1] * NM}"><barcode>QUJD</barcode>{"".join(images)}</collection></scn>'
    )
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        for number, page in enumerate(pages):
            mpp = NM / 1000 * (1 if number % 2 else 2) if number else NM / 100
            file.write(
                page,
                tile=(256, 256),
                photometric="rgb",
                compression="adobe_deflate",
                resolution=(10000 / mpp, 10000 / mpp),
                resolutionunit="CENTIMETER",
                description=told if number == 0 else None,
                metadata=None,
            )
    return path


@pytest.fixture
def parts(draw) -> dict[tuple[int, int], np.ndarray]:
    return {(100, 200): draw(768, 512), (1300, 700): draw(512, 640, seed=1)}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_parts_are_joined_where_they_lie_on_the_glass(parts, tmp_path, scheme):
    with open_slide(write_scn(tmp_path / "slide.scn", parts, scheme=scheme)) as slide:
        assert (slide.reader, slide.vendor) == ("openslide", "leica")
        assert (slide.width_px0, slide.height_px0) == GLASS
        whole = np.full((*GLASS[::-1], 3), 255, np.uint8)
        for (x, y), pixels in parts.items():
            whole[y : y + pixels.shape[0], x : x + pixels.shape[1]] = pixels
        assert np.array_equal(slide.read(0, 0, *GLASS), whole), "each part at its place, white between them"
        assert np.array_equal(slide.read(0, 0, 1000, 750, 1), whole[::2, ::2])
        assert [level.downsample for level in slide.levels] == [1, 2]
        assert (slide.mpp.x, slide.mpp.y, slide.mpp.source) == (0.5, 0.5, "leica")
        assert slide.objective_power == 20 and slide.associated_images == ("macro",)
        assert slide.bounds_px0 == (100, 200, 1712, 1140), "what QuPath counts from"


def test_a_drawing_from_qupath_lies_on_its_part(parts, tmp_path):
    """QuPath counts from the corner of what was scanned, which is not the glass's."""
    drawing = tmp_path / "slide.geojson"
    drawing.write_text(
        '{"type": "Feature", "geometry": {"type": "Polygon", "coordinates": '
        "[[[1200, 500], [1300, 500], [1300, 600], [1200, 600], [1200, 500]]]}, "
        '"properties": {"classification": {"name": "Tumor"}}}',
        encoding="utf-8",
    )
    with open_slide(write_scn(tmp_path / "slide.scn", parts)) as slide:
        regions = read_regions(drawing, slide)
        assert regions.geometries[0].bounds == (1300, 700, 1400, 800)


def test_parts_of_two_objectives_are_refused_with_the_way_out(parts, tmp_path):
    path = write_scn(tmp_path / "slide.scn", parts, powers=(20, 40))
    with pytest.raises(SlideUnreadable) as caught:
        open_slide(path)
    assert "dissimilar main images" in str(caught.value) and "export each from the scanner's program" in str(
        caught.value
    )
