"""Tables of tiles: the same reading, the table's own split, and pictures at the right scale."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image

from pathotune.datasets.tiles import read_tile_table
from pathotune.errors import NoTiles, TableUnreadable, UsageError
from pathotune.events import Finished, Note
from pathotune.tiles import Reading
from pathotune.training.loop import tune
from pathotune.training.schedule import TrainingConfig
from pathotune.training.table import gather_table, read_picture

READING = Reading(0.5, 64, 64)
QUICK = TrainingConfig(epochs=2, batch_size=8, tiles_per_epoch=16, lr=3e-3, precision="float32")


def drain(generator):
    """The value a generator of events returns, and its events."""
    events = []
    try:
        while True:
            events.append(next(generator))
    except StopIteration as stop:
        return stop.value, events


@pytest.fixture
def table(tmp_path):
    """Twelve pictures a class of two slides and a test row each, at 0.5 µm per pixel."""
    random = np.random.default_rng(0)
    rows = ["path,label,slide,split,mpp"]
    for number in range(24):
        label, slide = ("pale", "dark")[number % 2], f"Doe-{number % 4 // 2}"
        split = "test" if number >= 22 else ""
        shade = 220 if label == "pale" else 90
        pixels = np.clip(random.normal(shade, 8, (64, 64, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        rows.append(f"{number}.png,{label},{slide},{split},0.5")
    path = tmp_path / "tiles.csv"
    path.write_text("\n".join(rows), encoding="utf-8")
    return path


def test_a_table_is_tuned_on_and_its_test_rows_are_not_read(tiny_backbone, table, tmp_path):
    for name in ("22.png", "23.png"):
        (table.parent / name).write_bytes(b"no picture")
    training = TrainingConfig(**{**vars(QUICK), "split_by": "slide"})
    events = list(tune(read_tile_table(table), "linear_probe", {}, tiny_backbone(), training, out=tmp_path / "t"))
    assert isinstance(events[-1], Finished)
    result = events[-1].result
    assert result["tiles_per_class"] == {"dark": 11, "pale": 11}
    assert result["val"]["balanced_accuracy"] == 1.0
    assert b"Doe" not in (tmp_path / "t.pathotune.safetensors").read_bytes()
    assert b"Doe" not in (tmp_path / "t.md").read_bytes()


def test_slides_stay_whole(table):
    examples, _ = drain(gather_table(read_tile_table(table), READING, QUICK))
    assert not set(examples.groups[examples.train]) & set(examples.groups[examples.validation])
    assert np.array_equal(examples.images.mean(axis=(1, 2, 3)) > 150, examples.labels == 1)


def test_a_tables_own_split_is_followed(table):
    text = table.read_text().splitlines()
    rows = [line.replace(",,0.5", f",{'val' if number in (1, 2) else 'train'},0.5") for number, line in enumerate(text)]
    table.write_text("\n".join(rows))
    examples, _ = drain(gather_table(read_tile_table(table), READING, QUICK))
    assert len(examples.validation) == 2 and len(examples.train) == 20 and examples.split_by == "table"


def test_a_split_without_a_class_is_refused(table):
    text = table.read_text().splitlines()
    rows = [line.replace(",,0.5", f",{'val' if number == 1 else 'train'},0.5") for number, line in enumerate(text)]
    table.write_text("\n".join(rows))
    with pytest.raises(NoTiles, match="no validation tile of dark"):
        drain(gather_table(read_tile_table(table), READING, QUICK))


def test_pictures_without_a_pixel_size_are_taken_whole_and_it_says_so(table):
    table.write_text(table.read_text().replace(",0.5", ","))
    _, events = drain(gather_table(read_tile_table(table), READING, QUICK))
    assert any(isinstance(event, Note) and "no pixel size" in event.text for event in events)


def ramp(tmp_path, width, height):
    """A picture whose red is the column and whose green is the row."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    pixels = np.stack([x, y, np.zeros_like(x)], axis=2).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "ramp.png")
    return tmp_path / "ramp.png"


def test_a_picture_of_the_readings_scale_gives_its_middle_untouched(tmp_path):
    tile = read_picture(ramp(tmp_path, 100, 80), 0.5, READING)
    assert np.array_equal(tile[0, :, 0], np.arange(18, 82)) and np.array_equal(tile[:, 0, 1], np.arange(8, 72))


def test_a_finer_picture_is_scaled(tmp_path):
    tile = read_picture(ramp(tmp_path, 200, 200), 0.25, READING)
    assert np.allclose(np.diff(tile[5, 5:-5, 0].astype(int)), 2, atol=1)
    assert abs(tile[..., 0].mean() - 99.5) < 1


def test_a_small_picture_keeps_its_scale_and_is_continued_by_its_mirror_image(tmp_path):
    tile = read_picture(ramp(tmp_path, 40, 64), 0.5, READING)
    assert tile.shape == (64, 64, 3)
    assert np.array_equal(tile[0, 12:52, 0], np.arange(40)) and np.array_equal(tile[0, :12, 0], np.arange(12)[::-1])


def test_a_picture_without_scale_is_taken_whole(tmp_path):
    tile = read_picture(ramp(tmp_path, 128, 128), math.nan, READING)
    assert abs(tile[..., 0].mean() - 63.5) < 1


def test_a_picture_that_is_none_is_named(tmp_path):
    (tmp_path / "x.png").write_bytes(b"not a picture")
    with pytest.raises(TableUnreadable, match=r"x\.png"):
        read_picture(tmp_path / "x.png", 0.5, READING)


def test_places_on_slides_are_read_by_their_centre(tmp_path):
    path = ramp(tmp_path, 250, 250)
    lines = ["path,label,mpp,x_px0,y_px0,width_px0,split"]
    for number, (x, label) in enumerate([(10, "a"), (60, "b"), (100, "a"), (150, "b")]):
        lines.append(f"{path.name},{label},0.5,{x},{x},80,{'val' if number > 1 else 'train'}")
    (tmp_path / "tiles.csv").write_text("\n".join(lines))
    examples, _ = drain(gather_table(read_tile_table(tmp_path / "tiles.csv"), READING, QUICK))
    # A square of 80 px with its corner at x has its centre at x + 40; the tile around it is 64 px wide.
    middle = examples.images[:, 32, 32, 0].astype(float)
    assert np.allclose(middle, np.asarray([10, 60, 100, 150]) + 40, atol=1)


def test_stain_normalisation_is_refused_for_pictures_as_it_is_measured_on_slides(tiny_backbone, table, tmp_path):
    training = TrainingConfig(**{**vars(QUICK), "stain": "macenko"})
    with pytest.raises(UsageError, match="macenko is measured on whole slides"):
        list(tune(read_tile_table(table), "linear_probe", {}, tiny_backbone(), training, out=tmp_path / "t"))


def test_places_on_one_slide_are_held_out_in_blocks_that_share_no_pixel(tiny_backbone, tmp_path):
    random = np.random.default_rng(0)
    pixels = random.normal(200, 10, (768, 768, 3))
    pixels[:, 384:] -= 110
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(tmp_path / "slide.png")
    rows = ["path,label,mpp,x_px0,y_px0,width_px0"]
    for x in range(0, 768 - 63, 32):
        for y in range(0, 768 - 63, 32):
            if not 320 < x < 384:
                rows.append(f"slide.png,{'pale' if x < 384 else 'dark'},0.5,{x},{y},64")
    (tmp_path / "tiles.csv").write_text("\n".join(rows), encoding="utf-8")
    table = read_tile_table(tmp_path / "tiles.csv")
    examples, events = drain(gather_table(table, READING, QUICK))
    assert any("blocks of neighbouring tiles" in event.text for event in events if isinstance(event, Note))
    assert examples.split_by == "block" and len(examples.train) > 20 < len(examples.validation)
    for tile in examples.train:
        gaps = np.abs(examples.boxes_px0[examples.validation, :2] - examples.boxes_px0[tile, :2])
        assert not (gaps < 64).all(axis=1).any()
    with pytest.raises(NoTiles, match="slide"):
        drain(gather_table(table, READING, TrainingConfig(split_by="slide")))
