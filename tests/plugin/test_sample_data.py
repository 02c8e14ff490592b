"""The sample is there at once, whole and good enough to tune on."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("napari")

from napari_pathotune import sample_data
from napari_pathotune.layers import facts, facts_of
from pathotune.slides import synthetic


@pytest.fixture
def layers(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError("the window's thread must not draw a slide")

    monkeypatch.setattr(synthetic, "write_sample", refuse)
    return sample_data.generated_slide()


def test_it_opens_without_being_drawn_first_in_micrometres(layers: list[tuple[Any, ...]]) -> None:
    slide = facts_of(layers[0])["slide"]
    assert (slide.width_px0, slide.height_px0) == (sample_data.WIDTH_PX0, sample_data.HEIGHT_PX0)
    assert slide.mpp.x == pytest.approx(0.5) and not slide.warnings
    assert layers[1:] and {data[2] for data in layers[1:]} == {"shapes"}


def test_a_tuning_can_be_made_from_its_regions(layers: list[tuple[Any, ...]]) -> None:
    """Every class has whole regions for training and for validation: no split cuts one in two."""
    from pathotune.regions import label_tiles, split_tiles

    slide, regions = facts_of(layers[0])["slide"], drawn(layers)
    size = (slide.width_px0, slide.height_px0)
    labelled, _ = label_tiles(regions, size, (224.0, 224.0), regions.class_names())
    split = split_tiles(labelled)
    assert set(regions.class_names()) <= {entry.name for entry in synthetic.CLASSES}
    for part in split:
        assert set(labelled.label[part]) == set(range(len(labelled.class_names)))
    assert not split.notes


def test_its_regions_are_drawn_on_tissue(layers: list[tuple[Any, ...]]) -> None:
    slide = facts_of(layers[0])["slide"]
    for region in drawn(layers):
        x, y = region.geometry.representative_point().coords[0]
        patch = slide.read(int(x) - 150, int(y) - 150, 300, 300).astype(int)  # wider than a fat cell
        assert patch.std() > 5, f"{region.class_name} lies on bare glass"


def drawn(layers: list[tuple[Any, ...]]) -> Any:
    from pathotune.regions import read_regions
    from pathotune.resources import resource

    return read_regions(resource("samples", f"{sample_data.NAME}.geojson"), facts_of(layers[0])["slide"])


@pytest.mark.window
def test_it_opens_from_the_menu_command(window: Any) -> None:
    added = window.open_sample("pathotune", "generated_slide")
    assert facts(added[0])["kind"] == "slide" and len(added) > 1
