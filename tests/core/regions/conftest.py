"""A slide reduced to what regions ask of it, and random edits of a document."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import shapely

from pathotune.regions.document import RegionDocument
from pathotune.regions.region import Region
from pathotune.slides.mpp import Mpp
from pathotune.slides.source import Level


@dataclass
class PlainSlide:
    """Size, bounds, levels and pixel size, without pixels."""

    width_px0: int = 4000
    height_px0: int = 3000
    bounds_px0: tuple[int, int, int, int] = (0, 0, 4000, 3000)
    name: str = "slide.svs"
    levels: tuple[Level, ...] = ()
    mpp: Mpp | None = None


@pytest.fixture
def plain_slide() -> PlainSlide:
    return PlainSlide()


@pytest.fixture
def bounded_slide() -> PlainSlide:
    """As MRXS files are: the scanned part lies somewhere on a larger canvas."""
    return PlainSlide(20_000, 30_000, (7000, 12_000, 4000, 3000), "slide.mrxs")


@pytest.fixture
def annotations(shared_data: Path) -> Path:
    return shared_data / "annotations"


@pytest.fixture(name="content")
def content_fixture() -> Callable[[RegionDocument], Any]:
    """What a document says, in a form that can be compared."""
    return content


@pytest.fixture(name="any_step")
def any_step_fixture() -> Callable[[RegionDocument, random.Random], None]:
    """One edit of any kind, at a random place."""
    return any_step


def content(document: RegionDocument) -> Any:
    """What a document says, in a form that can be compared."""
    regions = [
        (
            region.id,
            region.class_name,
            region.color,
            region.name,
            region.notes,
            region.locked,
            region.geometry.normalize().wkt,
        )
        for region in document.regions()
    ]
    return regions, document.palette


def any_step(document: RegionDocument, dice: random.Random) -> None:
    """One edit of any kind, at a random place."""
    x, y = dice.uniform(0, 500), dice.uniform(0, 500)
    stroke = shapely.LineString([(x, y), (x + dice.uniform(1, 80), y)]).buffer(15)
    names = list(document.palette.names)
    keys = document.keys
    some = dice.sample(keys, min(len(keys), 3))
    choices = ["add", "paint", "erase", "class", "new class"]
    choices += ["remove", "reshape", "assign", "name"] * bool(keys) + ["rename", "merge", "recolour", "drop"] * (
        len(names) > 2
    )
    step = dice.choice(choices)
    if step == "add":
        document.add([Region(shapely.box(x, y, x + 40, y + 30), dice.choice([*names, None]))])
    elif step == "paint":
        document.paint(stroke, dice.choice(names))
    elif step == "erase":
        document.erase(stroke, dice.choice(names))
    elif step == "new class":
        document.add_class(f"class {dice.random()}")
    elif step == "remove":
        document.remove(some)
    elif step == "reshape":
        document.reshape({key: shapely.box(y, x, y + 9, x + 9) for key in some})
    elif step == "assign":
        document.set_class(some, dice.choice([*names, None]))
    elif step == "name":
        document.describe(keys[0], f"R {dice.random()}", dice.choice(["", f"seen {dice.random()}"]))
    elif step == "rename":
        document.rename_class(dice.choice(names), f"name {dice.random()}")
    elif step == "merge":
        document.merge_classes(names[:1], names[-1])
    elif step == "recolour":
        document.recolour({names[0]: (dice.randrange(256), 0, 0)})
    elif step == "drop":
        document.remove_class(names[-1], with_regions=dice.random() < 0.5)
