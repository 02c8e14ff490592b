"""`pathotune info` as the contract has it."""

from __future__ import annotations

import json

import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from pathotune.cli import slides as commands
from pathotune.errors import SlideUnreadable, UsageError

KEYS = {
    "path", "reader", "vendor", "width_px0", "height_px0", "levels", "mpp_x", "mpp_y", "mpp_source", "objective_power",
    "bounds_px0", "associated_images", "icc_profile", "tissue_fraction", "fingerprint", "warnings",
}  # fmt: skip


@pytest.fixture
def run():
    app = typer.Typer()
    commands.register(app)
    app.callback()(lambda: None)
    return lambda *arguments: CliRunner().invoke(app, ["info", *map(str, arguments)])


def test_one_slide_is_one_document(draw, make_svs, run):
    path = make_svs(draw(600, 500))
    result = run(path, "--json")
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    assert set(document) == KEYS
    assert (document["path"], document["width_px0"], document["mpp_x"]) == (str(path), 600, 0.5)
    assert 0 <= document["tissue_fraction"] <= 1


def test_people_read_on_stderr(draw, make_svs, run):
    result = run(make_svs(draw(600, 500)))
    assert result.exit_code == 0
    assert result.stdout == ""
    assert "600 × 500 px" in result.stderr
    assert "(aperio)" in result.stderr


def test_several_slides_are_a_list_and_a_failure_among_them_is_three(draw, make_svs, tmp_path, run):
    broken = tmp_path / "broken.svs"
    broken.write_text("no slide")
    result = run(make_svs(draw(300, 300), "a.svs"), broken, make_svs(draw(300, 300, 1), "b.svs"), "--json")
    assert result.exit_code == 3
    documents = json.loads(result.stdout)
    assert [set(document) == KEYS for document in documents] == [True, False, True]
    assert "broken.svs" in documents[1]["error"]
    assert result.stderr.count("\n") == 1
    assert run(broken, broken).exit_code == 1


def test_one_that_fails_is_one_line_and_one(tmp_path, run):
    broken = tmp_path / "broken.svs"
    broken.write_text("no slide")
    result = run(broken, "--json")
    assert isinstance(result.exception, SlideUnreadable)
    assert result.exception.exit_code == 1
    assert result.stdout == ""


def test_the_pixel_size_can_be_stated(draw, make_tiff, run):
    path = make_tiff(draw(300, 300))
    assert json.loads(run(path, "--json").stdout)["mpp_x"] is None
    assert json.loads(run(path, "--slide-mpp", "0.669", "--json").stdout)["mpp_source"] == "stated"
    assert json.loads(run(path, "--json").stdout)["mpp_x"] == 0.669


def test_thumbnails(draw, make_tiff, tmp_path, run, monkeypatch):
    monkeypatch.setattr(commands, "_tissue", lambda slide: (0.5, []))
    one, two = make_tiff(draw(2100, 900), "one.tiff"), make_tiff(draw(300, 300), "two.tiff")
    assert run(one, "--thumbnail", tmp_path / "new folder" / "one.png", "-q").exit_code == 0
    assert Image.open(tmp_path / "new folder" / "one.png").size == (1024, 439)
    assert run(one, two, "--thumbnail", tmp_path / "pictures", "-q").exit_code == 0
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == ["one.tiff.png", "two.tiff.png"]
    assert isinstance(run(one, two, "--thumbnail", tmp_path / "one.png").exception, UsageError)


def test_help_has_an_example(run):
    assert "Example" in run("--help").stdout
