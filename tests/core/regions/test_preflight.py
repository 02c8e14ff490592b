"""The table before a training says of each region what the training then does with it."""

from __future__ import annotations

import shapely

from pathotune.regions import label_tiles, split_tiles
from pathotune.regions.preflight import DrawnSlide, preflight
from pathotune.regions.region import Region, Regions

SIZE, TILE = (4000.0, 3000.0), (100.0, 100.0)


def squares(name: str | None, *places: tuple[float, float], side: float = 300) -> list[Region]:
    return [Region(shapely.box(x, y, x + side, y + side), name) for x, y in places]


def test_rows_are_what_label_and_split_give() -> None:
    regions = Regions(
        [
            *squares("Tumor", (0, 0), (600, 0), (1200, 0)),
            *squares("Stroma", (0, 1000), (600, 1000), (1200, 1000), side=150),
        ]
    )
    found = preflight([DrawnSlide("a", regions, SIZE, TILE)], fraction=0.3, seed=3)
    tiles, reports = label_tiles(regions, SIZE, TILE, ["Stroma", "Tumor"])
    split = split_tiles(tiles, fraction=0.3, seed=3)
    assert found.problem == "" and found.tiles_per_class == tiles.tiles_per_class
    assert [row.tiles for row in found.rows] == [report.tiles for report in reports]
    assert sum(row.validation for row in found.rows) == len(split.validation)
    assert sum(row.train for row in found.rows) == len(split.train)
    assert {row.use for row in found.rows} == {"training", "validation"}


def test_each_cause_of_nothing_has_its_own_sentence() -> None:
    regions = Regions(
        [
            *squares("Tumor", (0, 0), (600, 0)),
            *squares("Stroma", (0, 1000), (600, 1000)),
            *squares(None, (2000, 2000)),
            *squares("Region*", (2400, 2000)),
            *squares("Ignore*", (2800, 2000)),
            *squares("Tumor", (2900, 2100), side=50),
            *squares("Tumor", (9000, 9000)),
            Region(shapely.LineString([(0, 0), (50, 50)]), "Tumor"),
        ]
    )
    found = preflight([DrawnSlide("a", regions, SIZE, TILE)])
    reasons = [row.reason for row in found.rows[4:]]
    assert all(reasons) and len(set(reasons)) == len(reasons)
    assert all(row.use == "not used" for row in found.rows[4:])


def test_several_slides_train_together_and_one_class_is_too_few() -> None:
    first = DrawnSlide("a", Regions(squares("Tumor", (0, 0), (600, 0))), SIZE, TILE)
    second = DrawnSlide("b", Regions(squares("Stroma", (0, 0), (600, 0))), SIZE, (50.0, 50.0))
    both = preflight([first, second])
    assert both.problem == "" and {row.slide for row in both.rows} == {0, 1} and both.tiles > 0
    assert "one class" in preflight([first]).problem
    assert preflight([]).problem and preflight([DrawnSlide("a", Regions(), SIZE, TILE)]).problem
    assert "slide" in preflight([first, second], by="slide").problem
