"""A job as data."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pathotune.cli import main
from pathotune.cli.terminal import follow
from pathotune.errors import FileMissing, TableUnreadable, TuningMismatch, UnknownName, UsageError
from pathotune.events import Event, Finished, Note
from pathotune.execution.job import Job, run_job, tuning_backbone
from pathotune.training.preflight import Costs


def test_a_job_survives_its_file(tmp_path: Path) -> None:
    job = Job("predict", {"slide": "ä b.svs", "out": "out", "box_px0": [0, 0, 10.5, 20], "resume": True})
    assert Job.from_yaml(job.to_yaml(tmp_path / "job.yaml")) == job
    assert Job.from_dict(job.to_dict()) == job


@pytest.mark.parametrize("text", ["- a\n- b\n", "arguments: {}\n", "command: [\n", "command: predict\narguments: 3\n"])
def test_what_is_no_job_is_said(tmp_path: Path, text: str) -> None:
    (tmp_path / "job.yaml").write_text(text)
    with pytest.raises(TableUnreadable):
        Job.from_yaml(tmp_path / "job.yaml")
    with pytest.raises(FileMissing):
        Job.from_yaml(tmp_path / "none.yaml")


def test_unknown_and_incomplete_jobs() -> None:
    with pytest.raises(UnknownName, match="predict"):
        list(run_job(Job("pedict")))
    with pytest.raises(UsageError, match="slide"):
        list(run_job(Job("predict", {"out": "x"})))


@pytest.fixture
def tuned(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What `tune` was called with, in a world where any backbone is its own name."""
    calls: list[dict[str, Any]] = []

    def tune(sources: Any, method: str, config: Any, backbone: Any, *rest: Any, **options: Any) -> Iterator[Event]:
        calls.append({"method": method, "backbone": backbone, **options})
        yield Finished({"out": str(rest[-1])})

    monkeypatch.setattr("pathotune.training.loop.tune", tune)
    monkeypatch.setattr("pathotune.backbones.load_backbone", lambda name, **options: name)
    saved = SimpleNamespace(method="linear_probe", backbone={"name": "uni", "sha256": "0"})
    monkeypatch.setattr("pathotune.methods.checkpoint.Tuning.load", lambda path: saved)
    return calls


def test_a_tuning_is_gone_on_from_with_its_own_backbone(tuned: list[dict[str, Any]], tmp_path: Path) -> None:
    arguments = {"sources": [], "tiles": None, "out": str(tmp_path / "t"), "backbone": "pathotune-tiny"}
    arguments["sources"] = [{"slide": "a.svs", "regions": "a.geojson"}]
    list(run_job(Job("tune", arguments)))
    list(run_job(Job("tune", {**arguments, "continue_from": "before.safetensors"})))
    assert [call["backbone"] for call in tuned] == ["pathotune-tiny", "uni"]
    assert [call["continue_from"] for call in tuned] == [None, "before.safetensors"]


def test_predictions_with_tunings_of_one_backbone_and_a_tuning_on_it_load_its_weights_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loaded: list[str] = []
    predicted: list[Any] = []
    on_disk = ["sha-1"]

    def load_backbone(name: str, **options: Any) -> Any:
        loaded.append(name)
        return SimpleNamespace(name=name, weights_sha256=on_disk[0])

    def predict_slide(slide: Any, tuning: Any, out: Path, *, backbone: Any, **options: Any) -> Iterator[Event]:
        predicted.append((tuning.backbone["sha256"], backbone.weights_sha256))
        yield Finished()

    class NoSlide(contextlib.nullcontext[None]):
        pass

    monkeypatch.setattr("pathotune.backbones.load_backbone", load_backbone)
    monkeypatch.setattr("pathotune.inference.predict.predict_slide", predict_slide)
    monkeypatch.setattr("pathotune.slides.open_slide", lambda path, **options: NoSlide())
    reading = SimpleNamespace(icc=False)
    monkeypatch.setattr(
        "pathotune.methods.checkpoint.Tuning.load",
        lambda path: SimpleNamespace(
            method="linear_probe", backbone={"name": "uni", "sha256": path.stem}, reading=reading
        ),
    )
    monkeypatch.setattr("pathotune.training.loop.tune", lambda *arguments, **options: iter([Finished()]))
    cache: dict[str, Any] = {}
    sources = [{"slide": "a.svs", "regions": "a.geojson"}]
    list(run_job(Job("tune", {"sources": sources, "backbone": "uni", "out": "t"}), backbones=cache))
    for tuning in ("sha-1.x", "sha-1.y"):
        list(run_job(Job("predict", {"slide": "a.svs", "tuning": tuning, "out": "o"}), backbones=cache))
    assert loaded == ["uni"] and predicted == [("sha-1", "sha-1")] * 2
    on_disk[0] = "sha-2"  # another release was installed while the worker was alive
    list(run_job(Job("predict", {"slide": "a.svs", "tuning": "sha-2.x", "out": "o"}), backbones=cache))
    assert loaded == ["uni", "uni"] and predicted[-1] == ("sha-2", "sha-2") and len(cache) == 1


def test_another_backbone_than_the_tunings_is_refused_before_its_weights_are_looked_for(
    tuned: list[dict[str, Any]],
) -> None:
    saved = SimpleNamespace(method="linear_probe", backbone={"name": "pathotune-tiny"})
    with pytest.raises(TuningMismatch, match="needs the backbone pathotune-tiny, not uni"):
        tuning_backbone(saved, "uni", None, {})
    assert str(tuning_backbone(saved, "pathotune-tiny", None, {})) == "pathotune-tiny"


def test_a_probe_ends_with_what_a_tile_costs(tuned: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def measure(backbone: Any, method: str, config: Any, training: Any) -> Costs:
        asked.append((backbone, method, config.views, training.epochs))
        return Costs(0.1, 0.2, 0.3, 0.4)

    monkeypatch.setattr("pathotune.training.probe.measure", measure)
    arguments = {"method": "linear_probe", "config": {"views": 2}, "training": {"epochs": 3}, "backbone": "b"}
    (last,) = run_job(Job("probe", arguments))
    assert isinstance(last, Finished) and last.result["learn"] == 0.3 and asked == [("b", "linear_probe", 2, 3)]


def test_a_job_file_is_run_from_the_command_line(
    tuned: list[dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = Job(
        "tune", {"sources": [{"slide": "ä b.svs", "regions": "a.geojson"}], "out": str(tmp_path / "t"), "backbone": "b"}
    )
    line = ["run", str(job.to_yaml(tmp_path / "my job.yaml")), "--json"]
    with pytest.raises(SystemExit) as ended:
        main(line)
    assert ended.value.code in (0, None) and len(tuned) == 1
    assert json.loads(capsys.readouterr().out)["out"].startswith(str(tmp_path / "t"))
    with pytest.raises(SystemExit) as ended:
        main(["run", str(tmp_path / "none.yaml")])
    said = capsys.readouterr().err
    assert ended.value.code == 1 and "none.yaml" in said and "Traceback" not in said


def test_a_sentence_stays_one_line_in_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    sentence = "word " * 60 + "end."
    follow([Note(sentence), Finished()])
    # Earlier versions of rich leave an empty line after it.
    assert capsys.readouterr().err.rstrip("\n") == sentence


def test_a_misspelt_argument_of_a_job_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("command: predict\narguments: {slide: a.svs, tuning: t, out: o, strid_px: 3}\n", encoding="utf-8")
    with pytest.raises(UnknownName, match=r"'strid_px'.*stride_px"):
        Job.from_yaml(path)
