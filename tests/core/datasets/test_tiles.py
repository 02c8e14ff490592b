"""Tables of labelled tiles: every form, and bad rows named as a spreadsheet counts them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pathotune.datasets import read_tile_table
from pathotune.errors import FileMissing, NoTiles, TableUnreadable


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures for tables to name; their content does not matter here."""
    for name in ("a b.png", "ä.jpg", "c.tif", "slide.svs"):
        (tmp_path / name).touch()
    return tmp_path


def table(folder: Path, text: str, name: str = "tiles.csv", encoding: str = "utf-8") -> Path:
    path = folder / name
    path.write_bytes(text.encode(encoding))
    return path


def test_all_columns(folder: Path) -> None:
    text = "label,path,slide,patient,split,mpp,note\nB,a b.png,s1,p1,Training,0.5,x\nA,ä.jpg,,,validation,,\n"
    text += "\nA,c.tif,s2,p2,test,1\n"
    tiles = read_tile_table(table(folder, text))
    assert [path.name for path in tiles.path] == ["a b.png", "ä.jpg", "c.tif"]
    assert all(path.exists() for path in tiles.path)
    assert tiles.class_names == ["A", "B"] and tiles.tiles_per_class == {"A": 2, "B": 1}
    assert tiles.split == ["train", "val", "test"]
    assert tiles.mpp[0] == 0.5 and np.isnan(tiles.mpp[1]) and tiles.mpp[2] == 1
    assert not tiles.is_on_slides and np.isnan(tiles.x_px0).all()
    assert tiles.labels().tolist() == [1, 0, 0] and tiles.labels(["B"]).tolist() == [0, -1, -1]
    assert tiles.groups()[0] == "p1" and tiles.groups("slide")[0] == "s1"


@pytest.mark.parametrize(("delimiter", "encoding"), [(";", "cp1252"), ("\t", "utf-8-sig"), (",", "utf-8")])
def test_what_spreadsheets_write(folder: Path, delimiter: str, encoding: str) -> None:
    text = "\r\n".join(["Path,Label", "ä.jpg,Drüse", '"a b.png",B']).replace(",", delimiter)
    tiles = read_tile_table(table(folder, text, encoding=encoding))
    assert tiles.label == ["Drüse", "B"] and tiles.path[0].name == "ä.jpg"


def test_places_on_slides(folder: Path) -> None:
    text = "path,label,x_px0,y_px0,width_px0\nslide.svs,A,0,10.5,224\nslide.svs,B,300,10,224\n"
    tiles = read_tile_table(table(folder, text))
    assert tiles.is_on_slides and tiles.y_px0.tolist() == [10.5, 10]
    assert len(set(tiles.groups("slide"))) == 1, "rows of one slide belong together"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        ("path,label\n", "no rows"),
        ("file,class\nc.tif,A\n", "no column 'path' .*file, class"),
        ("path,klass\nc.tif,A\n", "no column 'label'"),
        ("path,label,label\nc.tif,A,B\n", "'label' twice"),
        ("path,label\nc.tif,A\n,B\nc.tif,\n", "row 3 have no path"),
        ("path,label\nc.tif,A\nc.tif,\n", "row 3 have no label"),
        ("path,label\nc.tif,A,B\n", "row 2 have more cells"),
        ("path,label\nno.png,A\nc.tif,B\ngone.png,B\n", "row 2, row 4 name files that do not exist .*'no.png'"),
        ("path,label,split\nc.tif,A,hold\n", "row 2 have another split"),
        ("path,label,mpp\nc.tif,A,half\n", "row 2 need a positive number in 'mpp' .*'half'"),
        ("path,label,mpp\nc.tif,A,0\n", "row 2 need a positive number"),
        ("path,label,x_px0,y_px0,width_px0\nslide.svs,A,1,1,9\nslide.svs,A,1,,9\n", "row 3 lack one of"),
        ("path,label,x_px0\nslide.svs,A,1\n", "row 2 lack one of"),
        ("path,label\ntiles.zip/c.tif,A\n", "archive"),
        ("path,label\nc.tar.gz,A\n", "archive"),
        ("path,label\nhttps://host/c.tif,A\n", "another machine"),
        ("path,label\n" + "no.png,A\n" * 9, "row 2, row 3, row 4, row 5, row 6 and 4 more"),
    ],
)
def test_bad_rows_are_named(folder: Path, text: str, says: str) -> None:
    with pytest.raises(TableUnreadable, match=says) as caught:
        read_tile_table(table(folder, text))
    assert str(caught.value).startswith("tiles.csv") and "\n" not in str(caught.value)


def test_files_that_are_no_tables(folder: Path) -> None:
    with pytest.raises(FileMissing):
        read_tile_table(folder / "none.csv")
    (folder / "x.csv").write_bytes(b"PK\x03\x04")
    with pytest.raises(TableUnreadable, match="not a text file"):
        read_tile_table(folder / "x.csv")


def test_lists_of_names_and_labels(folder: Path) -> None:
    tiles = read_tile_table(table(folder, "# mine\na b.png A\nc.tif\tB\n\n", "list.txt"))
    assert tiles.label == ["A", "B"] and tiles.path[0].name == "a b.png"
    with pytest.raises(TableUnreadable, match="line 2"):
        read_tile_table(table(folder, "c.tif A\nc.tif\n", "list.txt"))


def test_one_folder_per_class(tmp_path: Path) -> None:
    for name in ("Tumor/1.png", "Tumor/deep/2.JPG", "Normal/3.tif", "Normal/readme.txt", "Normal/.hidden.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    tiles = read_tile_table(tmp_path)
    assert tiles.tiles_per_class == {"Normal": 1, "Tumor": 2} and set(tiles.split) == {""}
    with pytest.raises(TableUnreadable, match="no folders with pictures"):
        read_tile_table(tmp_path / "Tumor" / "deep")


def test_folders_of_a_split(tmp_path: Path) -> None:
    for name in ("train/A/1.png", "train/B/2.png", "Val/A/3.png", "Val/B/4.png", "test/A/5.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    tiles = read_tile_table(tmp_path)
    train, validation = tiles.divide()
    assert {tiles.path[i].stem for i in train} == {"1", "2"} and {tiles.path[i].stem for i in validation} == {"3", "4"}


def rows(patients: list[str]) -> str:
    return "path,label,patient,split\n" + "".join(
        f"c.tif,{'AB'[number % 2]},{patient},{'test' if patient == 'held' else ''}\n"
        for number, patient in enumerate(patients)
    )


def test_division_keeps_patients_together_and_test_rows_out(folder: Path) -> None:
    names = [f"p{number // 8}" for number in range(80)] + ["held"] * 4
    tiles = read_tile_table(table(folder, rows(names)))
    split = tiles.divide(by="patient", fraction=0.3)
    sides = [{tiles.patient[index] for index in side} for side in split]
    assert not sides[0] & sides[1] and "held" not in sides[0] | sides[1]
    assert not split.notes
    assert {tiles.label[index] for index in split.validation} == {"A", "B"}


def test_a_patient_alone_cannot_be_divided(folder: Path) -> None:
    with pytest.raises(NoTiles, match="one patient only"):
        read_tile_table(table(folder, rows(["p"] * 10))).divide()


def test_tiles_that_nobody_grouped_are_divided_with_a_warning(folder: Path) -> None:
    split = read_tile_table(table(folder, rows([""] * 20))).divide()
    assert len(split.train) + len(split.validation) == 20
    assert any("optimistic" in note for note in split.notes)


def test_mapping_labels(folder: Path) -> None:
    tiles = read_tile_table(table(folder, "path,label,mpp\nc.tif,T,1\nc.tif,N,2\nc.tif,x,3\n"))
    mapped = tiles.map_classes({"T": "tumour", "x": ""})
    assert mapped.label == ["tumour", "N"] and mapped.mpp.tolist() == [1, 2] and tiles.label == ["T", "N", "x"]


def test_real_folders(shared_data: Path) -> None:
    tiles = read_tile_table(shared_data / "tiles" / "kather_texture_24")
    assert len(tiles) == 24 and len(tiles.class_names) == 8
    with pytest.raises(TableUnreadable, match="no column 'path'"):
        read_tile_table(shared_data / "tiles" / "camelyon16" / "index.csv")
