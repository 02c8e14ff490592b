"""A patient's name and a token, planted wherever they can be, are nowhere in what is passed on."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tifffile
from halves import drawn_halves
from PIL import Image

from pathotune.diagnosis import machine, models, viewing

NAME, TOKEN = "Mustermann-Erika", "hf_plantedTokenThatNobodyMaySee"
PLANTED = ("mustermann", "erika", TOKEN.lower())


def spellings(word: str) -> list[bytes]:
    """A word as files may hold it."""
    return [word.encode("utf-8"), word.encode("utf-16-le")]


def found_in(data: bytes) -> list[str]:
    """The planted words in some bytes, whatever their case."""
    lower = data.lower()
    return [word for word in PLANTED if any(spelling in lower for spelling in spellings(word))]


def walk(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Every path below a folder, and every file with what it holds; HDF5 with its values unpacked."""
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        yield name, name.encode("utf-8")
        if path.is_file():
            yield name, path.read_bytes()
        if path.suffix == ".h5":
            with h5py.File(path) as file:
                yield name, str(dict(file.attrs)).encode() + str([dict(one.attrs) for one in file.values()]).encode()


def assert_clean(folder: Path) -> None:
    seen = list(walk(folder))
    assert len(seen) > 1, "something was written"
    assert not [(name, found) for name, data in seen if (found := found_in(data))]


@pytest.fixture
def patient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_card: Callable[[Path], Path]) -> Path:
    """The folder of a patient on a person's computer: the name is in every place where hospitals put it."""
    folder = tmp_path / NAME
    drawn_halves(folder_made(folder) / f"{NAME}.tiff", folder / f"{NAME}.geojson")
    with tifffile.TiffFile(folder / f"{NAME}.tiff") as tiff:
        levels = [page.asarray() for page in tiff.pages]
    with tifffile.TiffWriter(folder / f"{NAME}.tiff") as tiff:
        options: dict[str, Any] = {"tile": (256, 256), "photometric": "rgb", "metadata": None}
        for number, pixels in enumerate(levels):
            rate = 4e4 / (4 if number else 1)
            about = f"Aperio fake |Patient = {NAME}|Filename = {NAME}"
            tiff.write(
                pixels,
                resolution=(rate, rate),
                resolutionunit="CENTIMETER",
                subfiletype=number,
                description=about,
                **options,
            )
        label = np.asarray(Image.new("RGB", (64, 64), "white"))
        tiff.write(label, description=f"label {NAME}", photometric="rgb", metadata=None, subfiletype=1)
    document = json.loads((folder / f"{NAME}.geojson").read_text())
    for feature in document["features"]:
        feature["properties"] |= {"name": NAME, "metadata": {"patient": NAME}}
    (folder / f"{NAME}.geojson").write_text(json.dumps({**document, "name": NAME}))
    make_card(folder / "own")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("HUGGING_FACE_HUB_TOKEN", TOKEN)
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("PATHOTUNE_CACHE", str(folder / ".cache"))
    monkeypatch.setenv("PATHOTUNE_RESULTS", str(folder / "results"))
    return folder


def folder_made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def tuned(patient: Path, pathotune: Callable[..., Any], out: Path, *words: Any) -> Path:
    slide, regions = patient / f"{NAME}.tiff", patient / f"{NAME}.geojson"
    given = ("--slide", slide, "--regions", regions, "--backbone", patient / "own" / "card.yaml", "--epochs", 1)
    pathotune("tune", *given, "--method", "linear_probe", "--out", out, *words)
    return out


def test_a_tuning_its_card_and_pictures(patient: Path, pathotune: Callable[..., Any], tmp_path: Path) -> None:
    out = tuned(patient, pathotune, tmp_path / "t" / "nodes.pathotune.safetensors", "-vv")
    mailed = [path for path in out.parent.iterdir() if path.suffix != ".session"]
    assert {path.name for path in mailed} >= {"nodes.pathotune.safetensors"} and any(
        path.suffix == ".md" for path in mailed
    )
    kept = out.parent.rename(tmp_path / "mailed")
    for path in kept.glob("*.session"):  # what goes on from there stays on the person's own disk
        path.rename(tmp_path / "session")
    assert_clean(kept)


def test_the_planted_name_would_be_found(patient: Path) -> None:
    """The walk can fail: it sees the name in the patient's own folder."""
    with pytest.raises(AssertionError):
        assert_clean(patient.parent)


@pytest.mark.parametrize("level", ["tile", "slide"])
def test_pseudonyms(level: str, patient: Path, pathotune: Callable[..., Any], tmp_path: Path) -> None:
    """Stores, tables, pages, features and what is exported from them, with the tuning in a folder of that name, too."""
    if level == "tile":
        out = tuned(patient, pathotune, patient / "nodes.pathotune.safetensors")
    else:
        rows = []
        for number in range(6):
            drawn_halves(patient / f"{NAME}-{number}.tiff", patient / "unused.geojson", size=(420 + 20 * number, 400))
            rows.append(f"{NAME}-{number}.tiff,{NAME}-{number},{'ab'[number % 2]}")
        (patient / "c.csv").write_text("slide,patient,label\n" + "\n".join(rows))
        out = patient / "nodes.pathotune.safetensors"
        words = ("--cohort", patient / "c.csv", "--method", "mil", "--backbone", patient / "own" / "card.yaml")
        pathotune("tune", *words, "--epochs", 1, "--set", "aggregator=mean", "--out", out)
    results = tmp_path / "results"
    words = ("--tuning", out, "--backbone", patient / "own" / "card.yaml", "--out", results, "--pseudonymise")
    answer = pathotune("predict", patient / f"{NAME}.tiff", patient / "broken.svs", *words, "--json", "-vv", code=3)
    assert not found_in(answer.stdout.encode())
    stores = list(results.glob("*.zarr"))
    assert len(stores) == 1 and stores[0].name.startswith("slide-")
    for name in ("geojson", "csv", "png"):
        pathotune("export", stores[0], "--format", name, "--out", results / f"x.{name}")
    assert_clean(results)


@pytest.fixture(autouse=True)
def broken(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """A slide that cannot be opened, whose failure is written down, too."""
    if "patient" in request.fixturenames:
        patient = request.getfixturevalue("patient")
        (patient / "broken.svs").write_bytes(NAME.encode())


def test_the_doctor(patient: Path, pathotune: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """What it prints can be passed on, also where a library's error has the path of a home folder in it."""
    said = (False, f"ImportError: {patient}/venv/lib/libtorch.so: cannot open shared object file")
    for room in (models, viewing):
        monkeypatch.setattr(room, "tried_apart", lambda *_, **__: said)
    monkeypatch.setattr("pathotune.device.why_not", lambda name: f"no file {patient}/x")
    monkeypatch.setattr(machine, "_why_not_writable", lambda folder: "Permission denied")
    answer = pathotune("doctor", "--json", code=1)
    assert not found_in(answer.stdout.encode()) and not found_in(answer.stderr.encode())
    assert "libtorch" in answer.stdout and "a token is there" in answer.stdout


def test_a_token_is_in_no_log(
    patient: Path, pathotune: Callable[..., Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Everything said at the loudest, and everything written, by a tuning, a prediction and a refused download."""
    with caplog.at_level(logging.DEBUG):
        out = tuned(patient, pathotune, tmp_path / "t.pathotune.safetensors", "-vv", "--json")
        words = ("--tuning", out, "--backbone", patient / "own" / "card.yaml", "--out", tmp_path / "r", "-vv")
        answers = [pathotune("predict", patient / f"{NAME}.tiff", *words)]
        answers.append(pathotune("bundle", "create", "uni", "--out", tmp_path, code=1))
    said = caplog.text + "".join(answer.output + str(answer.exception) for answer in answers)
    assert TOKEN not in said
    assert not [name for name, data in walk(tmp_path) if TOKEN.encode() in data]
