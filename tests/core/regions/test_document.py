"""Editing regions: every step can be taken back and done again, and counts follow what is there."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import shapely

from pathotune.errors import UsageError
from pathotune.regions.document import Change, RegionDocument
from pathotune.regions.palette import Palette, PaletteClass
from pathotune.regions.region import Region, Regions

BOX = shapely.box(0, 0, 100, 100)
AnyStep = Callable[[RegionDocument, random.Random], None]
Content = Callable[[RegionDocument], Any]


@pytest.fixture
def document() -> RegionDocument:
    return RegionDocument()


@pytest.mark.parametrize("seed", range(8))
def test_any_edits_are_taken_back_and_done_again_to_the_letter(
    document: RegionDocument, seed: int, any_step: AnyStep, content: Content
) -> None:
    dice = random.Random(seed)
    document.add([Region(BOX, "Tumor"), Region(shapely.Point(3, 4), "Stroma")])
    document.forget_steps()
    states = [content(document)]
    for _ in range(40):
        any_step(document, dice)
        if content(document) != states[-1]:
            states.append(content(document))
        else:
            assert document.undo_label == "" or len(states) > 1
    for state in reversed(states[:-1]):
        assert document.undo()
        assert content(document) == state
    assert document.undo() == "" and document.undo_label == ""
    for state in states[1:]:
        assert document.redo()
        assert content(document) == state


@pytest.mark.parametrize("seed", range(4))
def test_counts_follow_every_edit(document: RegionDocument, seed: int, any_step: AnyStep) -> None:
    dice = random.Random(seed)
    for number in range(60):
        any_step(document, dice) if number % 7 else document.undo()
        by_class = document.regions().by_class()
        assert {name: count.regions for name, count in document.counts.items()} == {
            name: len(regions) for name, regions in by_class.items()
        }
        for name, regions in by_class.items():
            area = sum(region.geometry.area for region in regions)
            assert document.counts[name].area_px0 == pytest.approx(area, abs=1e-6)


def test_a_change_touches_only_what_it_says(document: RegionDocument) -> None:
    keys = document.add([Region(shapely.box(x, 0, x + 5, 5), "Tumor") for x in range(0, 5000, 10)])
    seen: list[Change] = []
    document.listeners.append(seen.append)
    document.reshape({keys[7]: BOX})
    document.undo()
    assert [set(change.after) for change in seen] == [{keys[7]}, {keys[7]}]


def test_deleting_is_undone_in_the_same_place_of_the_order(document: RegionDocument) -> None:
    keys = document.add([Region(BOX, "Tumor"), Region(BOX, "Stroma"), Region(BOX, "Other")])
    document.remove(keys[:1])
    document.undo()
    assert document.keys == keys


def test_a_stroke_joins_the_regions_of_its_class_that_it_touches_and_no_others(document: RegionDocument) -> None:
    first, second, other, far = document.add(
        [
            Region(shapely.box(0, 0, 10, 10), "Tumor", properties={"measurements": {"a": 1}}),
            Region(shapely.box(20, 0, 30, 10), "Tumor"),
            Region(shapely.box(10, 0, 20, 10), "Stroma"),
            Region(shapely.box(200, 0, 210, 10), "Tumor"),
        ]
    )
    assert document.paint(shapely.box(5, 4, 25, 6), "Tumor") == [first]
    assert document.keys == [first, other, far] and second not in document
    assert document[first].geometry.equals(
        shapely.union_all([shapely.box(0, 0, 10, 10), shapely.box(20, 0, 30, 10), shapely.box(5, 4, 25, 6)])
    )
    assert document[first].properties == {"measurements": {"a": 1}}
    assert document[other].geometry.area == 100


def test_erasing_cuts_the_chosen_class_first_and_others_only_where_it_is_not(document: RegionDocument) -> None:
    tumor, stroma = document.add([Region(BOX, "Tumor"), Region(BOX, "Stroma")])
    hole = shapely.box(40, 40, 60, 60)
    assert document.erase(hole, "Tumor")
    assert document[tumor].geometry.area == BOX.area - 400 and document[stroma].geometry.area == BOX.area
    assert len(document[tumor].geometry.interiors) == 1, "a stroke inside leaves a hole"
    document.erase(shapely.box(-1, -1, 101, 101), "Other")
    assert len(document) == 0, "a region that is erased whole is gone"
    document.undo()
    assert document.keys == [tumor, stroma]
    assert document.fill_holes([tumor]) == 1 and document[tumor].geometry.area == BOX.area
    assert not document.erase(shapely.box(900, 900, 901, 901), "Tumor")


def test_what_is_locked_stays_as_it_is(document: RegionDocument) -> None:
    (key,) = document.add([Region(BOX, "Tumor", name="R 1", locked=True)])
    for change in (
        lambda: document.remove([key]),
        lambda: document.reshape({key: shapely.box(0, 0, 1, 1)}),
        lambda: document.set_class([key], "Stroma"),
        lambda: document.describe(key, "R 2", "seen"),
    ):
        with pytest.raises(UsageError, match=r"'R 1'.*locked"):
            change()
    document.paint(shapely.box(90, 0, 200, 10), "Tumor")
    document.erase(shapely.box(0, 0, 10, 10), "Tumor")
    assert document[key].geometry.equals(BOX)
    document.set_locked([key], False)
    document.remove([key])
    assert key not in document


def test_regions_take_the_palettes_colour_and_snapshots_stay(document: RegionDocument) -> None:
    (key,) = document.add(
        [
            Region(BOX, "Tumor", (1, 2, 3)),
        ]
    )
    color = document.palette.color_of("Tumor")
    before = document.regions()
    assert before[0].color == color
    document.recolour({"Tumor": (9, 9, 9)})
    document.rename_class("Tumor", "Cancer")
    document.reshape({key: shapely.box(0, 0, 1, 1)})
    assert before[0].color == color and before[0].class_name == "Tumor" and before[0].geometry.equals(BOX)
    assert document[key].color == (9, 9, 9)


def test_a_file_brings_its_classes_into_an_untouched_document_only(document: RegionDocument) -> None:
    regions = Regions([Region(BOX, "Gland", (1, 2, 3)), Region(BOX, "Tumor", (4, 5, 6))])
    document.import_regions(regions)
    assert [(one.name, one.color) for one in document.palette] == [("Gland", (1, 2, 3)), ("Tumor", (4, 5, 6))]
    touched = RegionDocument()
    touched.add_class("Mine")
    touched.import_regions(regions, {"Gland": "Stroma"})
    assert touched.palette.names[-1] == "Mine" and touched.counts["Stroma"].regions == 1


def test_many_regions_with_one_id_as_old_qupath_wrote_them_are_all_kept(document: RegionDocument) -> None:
    document.import_regions(Regions([Region(BOX, "Tumor", id="PathAnnotationObject")] * 3))
    assert len(document) == 3
    assert [region.id for region in document.regions()] == ["PathAnnotationObject"] * 3


def test_classes_are_merged_deleted_and_brought_back(document: RegionDocument, content: Content) -> None:
    document.add([Region(BOX, "Tumor"), Region(BOX, "Stroma"), Region(BOX, "Necrosis")])
    start = content(document)
    document.merge_classes(["Tumor", "Stroma"], "Other")
    assert document.counts["Other"].regions == 2 and "Tumor" not in document.palette
    document.remove_class("Necrosis", with_regions=True)
    document.remove_class("Other")
    assert document.counts == {None: document.counts[None]} and document.counts[None].regions == 2
    for _ in range(3):
        document.undo()
    assert content(document) == start


def test_names_that_cannot_be_are_refused_with_a_sentence(document: RegionDocument) -> None:
    for name in ("", "  ", "Tumor", "x" * 200):
        with pytest.raises(UsageError):
            document.add_class(name)
    with pytest.raises(UsageError, match="merge"):
        document.rename_class("Tumor", "Stroma")
    document.add([Region(BOX, "Tumor")])
    with pytest.raises(UsageError, match="'Tumor' has regions"):
        document.set_palette(Palette([PaletteClass("Other", (1, 1, 1))]))
    assert document.undo_label == "Draw Tumor", "nothing was done"
