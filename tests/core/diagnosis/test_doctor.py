"""Common troubles are found, and each comes with what to do; nothing private is printed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pathotune import diagnosis
from pathotune.cli import app
from pathotune.diagnosis import Finding, machine, models, reading, trying, viewing


def by_name(check: Callable[[], Iterator[Finding]]) -> dict[str, Finding]:
    return {finding.name: finding for finding in check()}


def trouble(finding: Finding, word: str) -> bool:
    return finding.state == "trouble" and word in finding.fix


def test_readers_are_tried_on_real_files(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {finding.state for finding in reading.check_readers()} == {"ok"}

    def broken(*_: Any, **__: Any) -> None:
        raise OSError("libopenslide.so.0: cannot open shared object file")

    monkeypatch.setattr(reading, "_openslide", broken)
    monkeypatch.setattr("tifffile.imwrite", broken)
    found = {finding.name: finding for finding in reading.check_readers()}
    assert (
        trouble(found["TIFF slides"], "pip install") and "libopenslide" in found["openslide (DICOM, MRXS, SCN …)"].text
    )
    assert found["pictures"].state == "ok", "one broken reader says nothing of the others"


def test_a_card_beside_a_torch_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "tried_apart", lambda code: (True, "2.9.0+cpu CPU only"))
    monkeypatch.setattr(models, "has_nvidia_card", lambda: True)
    monkeypatch.setattr("pathotune.device.why_not", lambda name: None if name == "cpu" else "built for the CPU only")
    assert trouble(by_name(models.check_torch)["torch"], "CUDA")
    assert trouble(by_name(models.check_devices)["device cuda"], "CUDA")
    monkeypatch.setattr(models, "has_nvidia_card", lambda: False)
    assert by_name(models.check_torch)["torch"].state == "ok"
    assert by_name(models.check_devices)["device cuda"].state == "note"


def test_libraries_that_crash_or_lack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "tried_apart", lambda code: (False, "the process was ended by signal 11"))
    assert trouble(by_name(models.check_libraries)["torchvision"], "together")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    found = by_name(models.check_libraries)
    assert trouble(found["timm"], "pip install timm") and found["open_clip"].state == "note"
    assert by_name(viewing.check_viewer)["viewer"].fix


def test_what_is_only_slow_is_not_called_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first import after an installation compiles thousands of files; on a busy computer that takes minutes."""
    slow = trying.tried_apart("import time; time.sleep(9)", longest_s=0.2)
    monkeypatch.setattr(models, "tried_apart", lambda code: slow)
    found = [*models.check_torch(), *models.check_libraries()]
    assert {finding.state for finding in found} == {"note"}
    assert all("again later" in finding.fix and "force-reinstall" not in finding.fix for finding in found)


def test_folders_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert {finding.state for finding in machine.check_folders()} <= {"ok", "note"}
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(machine, "_why_not_writable", lambda folder: "Permission denied")
    found = by_name(machine.check_folders)
    assert trouble(found["cache folder"], "PATHOTUNE_CACHE") and trouble(found["results folder"], "PATHOTUNE_RESULTS")


def test_the_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(viewing.sys, "platform", "linux")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert "DISPLAY" in by_name(viewing.check_screen)["screen"].text
    monkeypatch.setenv("DISPLAY", ":7")
    monkeypatch.setattr(viewing, "tried_apart", lambda code, longest_s: (False, "no OpenGL context"))
    assert trouble(by_name(viewing.check_screen)["OpenGL"], "driver")


def test_a_token_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    found = by_name(models.check_hub)["model hub"]
    assert "a token is there" in found.text and "hf_secret" not in json.dumps(found.to_dict())


def test_a_home_folder_is_not_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert machine.shown(tmp_path / "x" / "cache") == str(Path("~") / "x" / "cache")


def test_what_crashes_in_a_process_of_its_own_is_an_answer() -> None:
    assert trying.tried_apart("print(1); print('two')") == (True, "two")
    assert trying.tried_apart("raise ValueError('why')") == (False, "ValueError: why")
    assert trying.tried_apart("import os; os.kill(os.getpid(), 9)")[0] is False
    assert "no answer" in trying.tried_apart("import time; time.sleep(9)", longest_s=0.2)[1]


def test_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [Finding("a", "ok", "fine"), Finding("b", "trouble", "broken", "Mend it.")]
    monkeypatch.setattr(diagnosis, "examine", lambda: iter(found))
    answer = CliRunner().invoke(app, ["doctor", "--json"])
    assert answer.exit_code == 1 and json.loads(answer.stdout) == [finding.to_dict() for finding in found]
    assert "Mend it." in answer.stderr
    monkeypatch.setattr(diagnosis, "examine", lambda: iter(found[:1]))
    assert CliRunner().invoke(app, ["doctor"]).exit_code == 0


def test_a_check_that_fails_itself_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Iterator[Finding]:
        raise ImportError("half an installation")
        yield

    for room in (machine, reading, models, viewing):
        for name in [name for name in vars(room) if name.startswith("check_")]:
            monkeypatch.setattr(room, name, fail)
    found = list(diagnosis.examine())
    assert found and all(finding.state == "trouble" and "half an installation" in finding.text for finding in found)
