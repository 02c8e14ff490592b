"""ASAP and ImageScope XML, as the programs write it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import shapely

from pathotune.errors import RegionsUnreadable
from pathotune.regions import read_regions

IMAGESCOPE = """<Annotations MicronsPerPixel="0.499000">
  <Annotation Id="1" Name="" ReadOnly="0" NameReadOnly="0" LineColorReadOnly="0" Incremental="0" Type="4"
              LineColor="65280" Visible="1" Selected="1" MarkupImagePath="" MacroName="">
    <Attributes><Attribute Name="Description" Id="0" Value="Tumor"/></Attributes>
    <Regions>
      <RegionAttributeHeaders><AttributeHeader Id="9999" Name="Region" ColumnWidth="-1"/></RegionAttributeHeaders>
      <Region Id="1" Type="0" Zoom="0.5" Selected="0" ImageLocation="" ImageFocus="0" Length="400" Area="10000"
              LengthMicrons="200" AreaMicrons="2500" Text="nest" NegativeROA="0" InputRegionId="0" Analyze="1">
        <Attributes/>
        <Vertices><Vertex X="0" Y="0" Z="0"/><Vertex X="100" Y="0" Z="0"/><Vertex X="100" Y="100" Z="0"/>
          <Vertex X="0" Y="100" Z="0"/></Vertices>
      </Region>
      <Region Id="2" Type="0" Text="" NegativeROA="1"><Vertices><Vertex X="20" Y="20"/><Vertex X="40" Y="20"/>
        <Vertex X="40" Y="40"/><Vertex X="20" Y="40"/></Vertices></Region>
      <Region Id="3" Type="2" Text="" NegativeROA="0"><Vertices><Vertex X="200" Y="200"/><Vertex X="300" Y="260"/>
        </Vertices></Region>
      <Region Id="4" Type="1" Text="" NegativeROA="0"><Vertices><Vertex X="400" Y="400"/><Vertex X="500" Y="400"/>
        <Vertex X="500" Y="450"/><Vertex X="400" Y="450"/></Vertices></Region>
      <Region Id="5" Type="4" Text="" NegativeROA="0"><Vertices><Vertex X="1" Y="1"/><Vertex X="9" Y="9"/></Vertices>
      </Region>
      <Region Id="6" Type="0" Text="" NegativeROA="1"><Vertices><Vertex X="900" Y="900"/><Vertex X="940" Y="900"/>
        <Vertex X="940" Y="940"/></Vertices></Region>
    </Regions>
    <Plots/>
  </Annotation>
  <Annotation Id="2" Name="Stroma" LineColor="255"><Attributes/><Regions>
    <Region Id="1" Type="0" Text="x"><Vertices><Vertex X="0" Y="0"/><Vertex X="9" Y="0"/><Vertex X="9" Y="9"/>
    </Vertices></Region></Regions></Annotation>
</Annotations>"""

ASAP = """<?xml version="1.0"?>
<ASAP_Annotations><Annotations>
  <Annotation Name="second first" Type="Polygon" PartOfGroup="Tumor" Color="#F4FA58"><Coordinates>
    <Coordinate Order="2" X="100,5" Y="100"/><Coordinate Order="0" X="0" Y="0"/><Coordinate Order="1" X="100,5" Y="0"/>
  </Coordinates></Annotation>
  <Annotation Name="d" Type="Dot" PartOfGroup="None" Color="#F4FA58"><Coordinates>
    <Coordinate Order="0" X="7.5" Y="8.5"/></Coordinates></Annotation>
  <Annotation Name="empty" Type="Polygon" PartOfGroup="Tumor" Color="#F4FA58"><Coordinates/></Annotation>
</Annotations><AnnotationGroups><Group Name="Tumor" PartOfGroup="None" Color="#64FE2E"><Attributes/></Group>
</AnnotationGroups></ASAP_Annotations>"""


def save(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_imagescope(tmp_path: Path) -> None:
    regions = read_regions(save(tmp_path / "a.xml", IMAGESCOPE))
    polygon, ellipse, rectangle, ruler, stroma = regions
    assert polygon.geometry.area == 100 * 100 - 20 * 20, "the negative outline is a hole"
    assert (polygon.class_name, polygon.color, polygon.name) == ("Tumor", (0, 255, 0), "nest")
    assert ellipse.geometry.area == pytest.approx(3.1416 * 50 * 30, rel=0.01)
    assert ellipse.geometry.bounds == pytest.approx((200, 200, 300, 260), abs=0.1)
    assert rectangle.geometry.equals(shapely.box(400, 400, 500, 450))
    assert ruler.kind == "line"
    assert (stroma.class_name, stroma.color) == ("Stroma", (255, 0, 0))
    assert any("1 negative outlines" in warning for warning in regions.warnings)


def test_imagescope_at_another_size_is_doubted(tmp_path: Path) -> None:
    slide = SimpleNamespace(
        width_px0=4000,
        height_px0=3000,
        bounds_px0=(0, 0, 4000, 3000),
        name="s",
        levels=(),
        mpp=SimpleNamespace(mean=0.25),
    )
    path = save(tmp_path / "a.xml", IMAGESCOPE)
    assert any("0.499" in warning and "0.25" in warning for warning in read_regions(path, slide).warnings)
    slide.mpp = SimpleNamespace(mean=0.4990)
    assert not any("0.499" in warning for warning in read_regions(path, slide).warnings)


def test_asap(tmp_path: Path) -> None:
    regions = read_regions(save(tmp_path / "a.xml", ASAP))
    polygon, dot = regions
    assert polygon.geometry.equals(shapely.Polygon([(0, 0), (100.5, 0), (100.5, 100)])), "points come in their order"
    assert (polygon.class_name, polygon.color) == ("Tumor", (100, 254, 46)), "the group is the class"
    assert dot.class_name is None and dot.geometry.equals(shapely.Point(7.5, 8.5))
    assert any("1 objects without an outline" in warning for warning in regions.warnings)


def test_broken_numbers_are_named(tmp_path: Path) -> None:
    with pytest.raises(RegionsUnreadable, match="makes no sense"):
        read_regions(save(tmp_path / "a.xml", ASAP.replace('"7.5"', '"seven"')))
    with pytest.raises(RegionsUnreadable, match="makes no sense"):
        read_regions(save(tmp_path / "a.xml", IMAGESCOPE.replace('X="0"', 'Q="0"', 1)))


def test_real_asap_files(annotations: Path) -> None:
    kinds = {path.stem: read_regions(path)[0].geometry.geom_type for path in (annotations / "asap").iterdir()}
    assert kinds == {"asap-dot": "Point", "asap-pointset": "MultiPoint", "asap-polygon": "Polygon"}
