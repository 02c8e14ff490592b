"""`pathotune features`: many slides, folders, what failed and why."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pathotune.backbones.surface import Backbone
from pathotune.cli import app
from pathotune.cli.features import plan_files
from pathotune.errors import PathotuneError, UsageError
from pathotune.features import FeatureSet, find_features
from pathotune.inference.inputs import SlideInput


@pytest.fixture
def loads(tiny_backbone: Callable[..., Backbone], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tiny backbone stands for every name; what is loaded is noted."""
    backbone, seen = tiny_backbone(), []
    monkeypatch.setattr("pathotune.backbones.backbone_card", lambda name: backbone.card)

    def load(name: Any, **options: Any) -> Backbone:
        seen.append(str(name))
        return backbone

    monkeypatch.setattr("pathotune.backbones.load_backbone", load)
    return seen


def run(*arguments: object) -> Any:
    result = CliRunner().invoke(app, ["features", *map(str, arguments), "--device", "cpu", "--precision", "float32"])
    print(result.output, repr(result.exception))
    return result


def test_a_folder_is_done_with_a_table_of_what_failed_and_is_kept_the_second_time(
    make_slide: Callable[..., Path], tmp_path: Path, loads: list[str]
) -> None:
    slides, out = tmp_path / "slides", tmp_path / "out"
    (slides / "sub").mkdir(parents=True)
    for name in ("a.tiff", "sub/b.tiff"):
        make_slide(slides / name, size=(900, 700))
    (slides / "broken.svs").write_bytes(b"no slide")
    (slides / "plain.png").write_bytes(_png())
    result = run(slides, "--recursive", "--backbone", "tiny-plain", "--out", out, "--json")
    documents = {Path(row["slide"]).name: row for row in json.loads(result.stdout)}
    assert result.exit_code == 3 and len(loads) == 1
    assert {name: row["status"] for name, row in documents.items()} == {
        "a.tiff": "done",
        "b.tiff": "done",
        "broken.svs": "failed",
        "plain.png": "needs_mpp",
    }
    assert documents["b.tiff"]["out"] == str(out / "sub" / "b.h5")
    assert "cannot be opened" in documents["broken.svs"]["error"]
    assert len(FeatureSet.load(out / "a.h5")) == documents["a.tiff"]["tiles"]
    rows = {Path(row["slide"]).name: row for row in csv.DictReader((out / "features.csv").open())}
    assert rows["broken.svs"]["error"] == documents["broken.svs"]["error"] and rows["a.tiff"]["error"] == ""

    again = run(slides / "a.tiff", slides / "sub" / "b.tiff", "--backbone", "tiny-plain", "--out", out, "--json")
    assert [row["status"] for row in json.loads(again.stdout)] == ["kept", "done"]  # b now lies one folder higher
    assert again.exit_code == 0


def _png() -> bytes:
    import io

    import numpy as np
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.full((600, 600, 3), (150, 60, 150), np.uint8)).save(file, "PNG")
    return file.getvalue()


def test_one_slide_with_a_stated_pixel_size(tmp_path: Path, loads: list[str]) -> None:
    (tmp_path / "plain.png").write_bytes(_png())
    result = run(tmp_path / "plain.png", "--backbone", "x", "--out", tmp_path / "o", "--slide-mpp", "0.5", "--json")
    document = json.loads(result.stdout)
    assert result.exit_code == 0 and document["status"] == "done" and document["error"] is None
    assert FeatureSet.load(document["out"]).extra["slide_mpp"] == [0.5, 0.5]
    assert not (tmp_path / "o" / "features.csv").exists()


def test_a_part_of_a_table(make_slide: Callable[..., Path], tmp_path: Path, loads: list[str]) -> None:
    for name in "abc":
        make_slide(tmp_path / f"{name}.tiff", size=(600, 500))
    table = tmp_path / "slides.csv"
    table.write_text("slide\n" + "".join(f"{name}.tiff\n" for name in "abc"))
    result = run("--slides", table, "--part", "2/2", "--backbone", "x", "--out", tmp_path / "o", "--json")
    assert [Path(row["slide"]).name for row in json.loads(result.stdout)] == ["b.tiff"]
    assert (tmp_path / "o" / "features-2-of-2.csv").exists()


def test_two_slides_of_one_id_are_told_apart_by_their_endings(tmp_path: Path) -> None:
    slides = [SlideInput(tmp_path / name) for name in ("a.tiff", "a.ome.tif", "b.svs")]
    planned = [path for _, path in plan_files(slides, tmp_path)]
    assert [path.name for path in planned] == ["a.tiff.h5", "a.ome.tif.h5", "b.h5"]
    for path in planned:
        path.touch()
    assert [find_features(tmp_path, slide.path) for slide in slides] == planned


def test_what_is_wrong_for_all_slides_is_said_once(make_slide: Callable[..., Path], tmp_path: Path) -> None:
    first, second = make_slide(tmp_path / "a.tiff"), tmp_path / "sub" / "a.tiff"
    second.parent.mkdir()
    second.write_bytes(first.read_bytes())
    for arguments, error, sentence in (
        ((first, "--out", tmp_path / "o"), UsageError, "--backbone NAME"),
        ((first, second, "--backbone", "uni", "--out", tmp_path / "o"), UsageError, "would both be written"),
        ((first, "--backbone", "unii", "--out", tmp_path / "o"), PathotuneError, "Did you mean 'uni'"),
        ((first, "--tuning", tmp_path / "none", "--out", tmp_path / "o"), PathotuneError, "does not exist"),
    ):
        result = run(*arguments)
        assert isinstance(result.exception, error) and sentence in str(result.exception)
    assert not (tmp_path / "o").exists()
