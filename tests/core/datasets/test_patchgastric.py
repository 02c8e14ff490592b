"""PatchGastricADC22 as downloaded: classes merged, CITE's split and few-shot lists by their rule, nothing unpacked."""

from __future__ import annotations

import csv
import io
import random
import zipfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pathotune.datasets import read_tile_table
from pathotune.datasets.patchgastric import CLASSES, NAMES, is_patchgastric, read_patchgastric
from pathotune.datasets.pictures import archive_of, opened
from pathotune.errors import FileMissing, TableUnreadable
from pathotune.tasks import load_task
from pathotune.training.table import read_picture

OTHERS = ("papillary adenocarcinoma", "signet ring cell carcinoma", "mucinous adenocarcinoma")
SUBTYPES = tuple(name.capitalize() for name in (*CLASSES, *OTHERS))


def picture(seed: int) -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (30, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, "JPEG")
    return stream.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Seventy slides in the published layout, each with one to nine tiles."""
    folder = tmp_path / "PatchGastricADC22"
    folder.mkdir()
    numbers = random.Random(5)
    slides = [f"{numbers.getrandbits(64):016x}" for _ in range(70)]
    with (folder / "captions.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "subtype", "text"])
        for number, slide in enumerate(slides):
            writer.writerow([slide, SUBTYPES[number % 7], "Atypical glands, invading."])
    with zipfile.ZipFile(folder / "patches_captions.zip", "w") as archive:
        archive.writestr("patches_captions/", b"")
        content = picture(0)
        for number, slide in enumerate(slides):
            for tile in range(1 + number % 9):
                archive.writestr(f"patches_captions/{slide}_{tile}.jpg", content)
        archive.writestr("patches_captions/ffff_0.jpg", content)
    return folder


def test_four_subtypes_become_three_classes_and_the_rest_is_left_out(folder: Path) -> None:
    assert is_patchgastric(folder)
    tiles = read_tile_table(folder)
    assert sorted(tiles.class_names) == sorted(NAMES) == sorted(load_task("gastric-adenocarcinoma").class_names)
    slides = dict(zip(tiles.slide, tiles.label, strict=True))
    assert Counter(slides.values()) == {
        "well differentiated": 10,
        "moderately differentiated": 10,
        "poorly differentiated": 20,
    }
    assert not tiles.is_on_slides and np.isnan(tiles.mpp).all()


def test_the_split_is_by_slide_and_by_the_published_rule(folder: Path) -> None:
    tiles = read_tile_table(folder)
    sides = dict(zip(tiles.slide, tiles.split, strict=True))
    assert all(sides[slide] == split for slide, split in zip(tiles.slide, tiles.split, strict=True))
    # The rule by itself: Python's own generator, seed 0, class after class, slides in the order of the captions.
    with (folder / "captions.csv").open() as file:
        rows = list(csv.DictReader(file))
    random.seed(0)
    expected: set[str] = set()
    for name in NAMES:
        ids = [row["id"] for row in rows if CLASSES.get(row["subtype"].lower()) == name]
        expected |= set(random.sample(ids, int(len(ids) * 0.8)))
    assert {slide for slide, split in sides.items() if split == "test"} == expected and len(expected) == 32
    assert sum(split == "" for split in sides.values()) == 8


def test_few_shot_lists_take_the_slides_with_the_most_tiles(folder: Path) -> None:
    every, few = read_patchgastric(folder), read_patchgastric(folder, slides_per_class=1)
    counts = Counter(slide for slide, split in zip(every.slide, every.split, strict=True) if not split)
    labels = dict(zip(every.slide, every.label, strict=True))
    chosen = {slide for slide, split in zip(few.slide, few.split, strict=True) if not split}
    assert len(chosen) == 3
    for slide in chosen:
        assert counts[slide] == max(count for one, count in counts.items() if labels[one] == labels[slide])
    assert few.split.count("test") == every.split.count("test"), "what is judged by stays"


def test_tiles_are_read_from_the_archive_by_several_threads(folder: Path, tiny_backbone: object) -> None:
    tiles = read_tile_table(folder)
    reading = tiny_backbone().card.reading()  # type: ignore[operator]
    with ThreadPoolExecutor(4) as pool:
        pixels = list(pool.map(lambda path: read_picture(path, float("nan"), reading), tiles.path[:40]))
    assert all(one.shape == (64, 64, 3) and np.array_equal(one, pixels[0]) for one in pixels)
    assert not (folder / "patches_captions").exists(), "nothing is unpacked"
    assert archive_of(tiles.path[0]) == folder / "patches_captions.zip" and archive_of(folder / "captions.csv") is None


def test_an_unpacked_folder_gives_the_same(folder: Path) -> None:
    packed = read_tile_table(folder)
    with zipfile.ZipFile(folder / "patches_captions.zip") as archive:
        archive.extractall(folder)
    (folder / "patches_captions.zip").unlink()
    plain = read_tile_table(folder)
    assert [path.name for path in plain.path] == [path.name for path in packed.path]
    assert (plain.label, plain.slide, plain.split) == (packed.label, packed.slide, packed.split)
    assert plain.path[0].is_file()


def test_what_is_not_whole_is_named(folder: Path) -> None:
    with pytest.raises(FileMissing, match="nobody_0"), opened(folder / "patches_captions.zip" / "nobody_0.jpg"):
        pass
    with pytest.raises(FileMissing), opened(folder / "none.jpg"):
        pass
    (folder / "captions.csv").write_text("id,subtype,text\n1,Papillary adenocarcinoma,x\n")
    with pytest.raises(TableUnreadable, match="no slide that is well differentiated"):
        read_tile_table(folder)
    (folder / "captions.csv").write_text("only\n")
    with pytest.raises(TableUnreadable, match="slide, subtype and text"):
        read_tile_table(folder)


def test_a_damaged_archive_is_named(folder: Path) -> None:
    (folder / "patches_captions.zip").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(TableUnreadable, match=r"patches_captions\.zip is no whole zip archive"):
        read_tile_table(folder)


def test_filename_label_lists_of_such_a_folder_are_read(folder: Path) -> None:
    with zipfile.ZipFile(folder / "patches_captions.zip") as archive:
        archive.extractall(folder)
    names = sorted(path.name for path in (folder / "patches_captions").glob("*.jpg"))[:4]
    path = folder / "patches_captions" / "train_1_0.2.txt"
    path.write_text("".join(f"{name} {number % 3}\n" for number, name in enumerate(names)))
    tiles = read_tile_table(path)
    assert tiles.label == ["0", "1", "2", "0"] and [one.name for one in tiles.path] == names
