"""Which slides a run is about, and what the command line says of them."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pathotune.cli import app
from pathotune.cli.prediction import exit_code
from pathotune.errors import FileMissing, NoTiles, TableUnreadable, UsageError
from pathotune.inference.inputs import collect_slides, part_slice, plan_stores


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_folders_are_searched_and_mirrored(tmp_path: Path) -> None:
    touch(tmp_path / "a.svs", tmp_path / "sub" / "b.tiff", tmp_path / "notes.txt", tmp_path / ".hidden.svs")
    touch(tmp_path / "series" / "1.dcm", tmp_path / "x.ome.zarr" / "zarr.json")
    touch(tmp_path / "a.svs.t.pathotune.zarr" / "zarr.json")
    flat = collect_slides([tmp_path])
    assert [slide.path.name for slide in flat] == ["a.svs", "series", "x.ome.zarr"]
    deep = collect_slides([tmp_path], recursive=True)
    assert [slide.path.name for slide in deep] == ["a.svs", "series", "b.tiff", "x.ome.zarr"]
    stores = plan_stores(deep, "t", tmp_path / "out")
    assert tmp_path / "out" / "sub" / "b.tiff.t.pathotune.zarr" in stores


def test_two_slides_for_one_store_are_refused(tmp_path: Path) -> None:
    touch(tmp_path / "1" / "a.svs", tmp_path / "2" / "A.svs")
    both = collect_slides([tmp_path / "1" / "a.svs", tmp_path / "2" / "A.svs"])
    with pytest.raises(UsageError, match="would both be written") as caught:
        plan_stores(both, "t", tmp_path)
    assert caught.value.exit_code == 2
    assert len(plan_stores(collect_slides([tmp_path], recursive=True), "t", tmp_path)) == 2


def test_parts_share_the_work(tmp_path: Path) -> None:
    touch(*(tmp_path / f"{number}.svs" for number in range(7)))
    slides = collect_slides([tmp_path])
    parts = [slides[part_slice(f"{index}/3")] for index in (1, 2, 3)]
    assert sorted(slide.path for part in parts for slide in part) == sorted(slide.path for slide in slides)
    for wrong in ("0/3", "4/3", "1", "a/b", "-1/2"):
        with pytest.raises(UsageError, match="I/N"):
            part_slice(wrong)


def test_a_table_of_slides(tmp_path: Path) -> None:
    touch(tmp_path / "a.svs", tmp_path / "b.svs")
    table = tmp_path / "t.csv"
    table.write_text("slide,mpp\na.svs,0.25\nb.svs,\n")
    first, second = collect_slides([], table=table, mpp=0.5)
    assert (first.mpp, second.mpp) == (0.25, 0.5) and first.path == tmp_path / "a.svs"
    for text, word in (("name\nx\n", "column"), ("slide\nmissing.svs\n", "line 2"), ("slide,mpp\na.svs,x\n", "mpp")):
        table.write_text(text)
        with pytest.raises(TableUnreadable, match=word):
            collect_slides([], table=table)


def test_nothing_to_do_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileMissing):
        collect_slides([tmp_path / "none.svs"])
    with pytest.raises(NoTiles, match="--recursive"):
        collect_slides([tmp_path])
    with pytest.raises(UsageError, match="No slide is named"):
        collect_slides([])


@pytest.mark.parametrize(
    ("statuses", "code"),
    [
        (["done", "resumed", "empty"], 0),
        (["failed"], 1),
        (["needs_mpp", "failed"], 1),
        (["done", "needs_mpp"], 3),
        (["done", "cancelled"], 130),
    ],
)
def test_exit_codes(statuses: list[str], code: int) -> None:
    assert exit_code(statuses) == code


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch, tuning: Any) -> Any:
    """The command finds this tuning whatever file is named."""
    monkeypatch.setattr("pathotune.methods.checkpoint.Tuning.load", lambda path: tuning)
    return tuning


def test_one_slide_gives_one_document(model: Any, loaded: Any, slide_path: Path, tmp_path: Path) -> None:
    line = ["predict", str(slide_path), "--tuning", "t", "--out", str(tmp_path / "out"), "--json", "--device", "cpu"]
    answer = CliRunner().invoke(app, [*line, "--region", "0,0,600,500", "--no-attention"])
    assert answer.exit_code == 0, answer.output
    document = json.loads(answer.stdout)
    keys = {"slide", "store", "tiles", "classes", "score", "seconds", "tiles_per_second", "peak_memory_mb"}
    assert set(document) == keys | {"model_busy", "status", "error"}
    assert document["status"] == "done" and document["tiles"] > 0 and Path(document["store"]).is_dir()


def test_another_stride_is_refused_kept_beside_or_replaced(
    model: Any, loaded: Any, make_slide: Any, tmp_path: Path
) -> None:
    slide, out = make_slide(tmp_path / "a.tiff", size=(700, 500), boundary_px0=300), tmp_path / "out"
    line = ["predict", str(slide), "--tuning", "t", "--out", str(out), "--json", "--device", "cpu", "--no-attention"]

    def status(*further: str) -> tuple[int, str, list[str]]:
        answer = CliRunner().invoke(app, [*line, *further])
        return answer.exit_code, json.loads(answer.stdout)["status"], sorted(path.name for path in out.iterdir())

    first, second = "a.tiff.brightness.pathotune.zarr", "a.tiff.brightness~2.pathotune.zarr"
    assert status() == (0, "done", [first])
    assert status("--stride", "16") == (1, "failed", [first])
    assert status("--stride", "16", "--on-mismatch", "beside", "--keep-features") == (0, "done", [first, second])
    assert status("--stride", "16", "--on-mismatch", "beside") == (0, "resumed", [first, second])
    assert status("--stride", "24", "--restart") == (0, "done", [first, second])


def test_one_bad_slide_does_not_stop_the_others(model: Any, loaded: Any, make_slide: Any, tmp_path: Path) -> None:
    folder = tmp_path / "slides"
    folder.mkdir()
    make_slide(folder / "good.tiff", size=(700, 500), boundary_px0=300)
    make_slide(folder / "sub.tiff", size=(700, 500), boundary_px0=200)
    (folder / "broken.svs").write_bytes(b"no slide")
    line = ["predict", str(folder), "--tuning", "t", "--out", str(tmp_path / "out"), "--json", "--device", "cpu"]
    answer = CliRunner().invoke(app, line)
    assert answer.exit_code == 3, answer.output
    documents = json.loads(answer.stdout)
    assert [document["status"] for document in documents] == ["failed", "done", "done"]
    assert "broken.svs" in documents[0]["error"]
    rows = list(csv.DictReader((tmp_path / "out" / "slides.csv").open()))
    assert [row["status"] for row in rows] == ["failed", "done", "done"]
    assert float(rows[1]["dark mm2"]) > 0


def test_a_slide_without_pixel_size(model: Any, loaded: Any, tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (600, 400), (150, 60, 140)).save(tmp_path / "photo.png")
    line = [
        "predict",
        str(tmp_path / "photo.png"),
        "--tuning",
        "t",
        "--out",
        str(tmp_path),
        "--json",
        "--device",
        "cpu",
    ]
    answer = CliRunner().invoke(app, line)
    assert answer.exit_code == 1 and json.loads(answer.stdout)["status"] == "needs_mpp"
    stated = CliRunner().invoke(app, [*line, "--slide-mpp", "0.5"])
    assert stated.exit_code == 0, stated.output


def test_a_wrong_region_is_wrong_usage(loaded: Any, slide_path: Path, tmp_path: Path) -> None:
    line = ["predict", str(slide_path), "--tuning", "t", "--out", str(tmp_path), "--region", "1,2,3"]
    answer = CliRunner().invoke(app, line)
    assert isinstance(answer.exception, UsageError) and "--region" in str(answer.exception)
