"""A tuning judged elsewhere, from Python and from the command line."""

from __future__ import annotations

import json

import pytest

from pathotune.cli import main
from pathotune.errors import NoTiles
from pathotune.evaluation.evaluate import evaluate
from pathotune.events import Finished, Note
from pathotune.methods.checkpoint import Tuning

KEYS = {"n", "accuracy", "balanced_accuracy", "auc", "f1", "per_class", "confusion", "ece", "ci95"}


def run(*arguments, capsys):
    """Exit code, stdout and stderr of the command line."""
    try:
        main([str(argument) for argument in arguments])
        code = 0
    except SystemExit as end:
        code = end.code or 0
    out, err = capsys.readouterr()
    return code, out, err


def test_another_slide_is_judged_with_the_contracts_keys(tuned):
    _, path, _, other = tuned
    events = list(evaluate(path, [other]))
    assert isinstance(events[-1], Finished)
    report = events[-1].result
    assert set(report) >= KEYS
    assert report["n"] == 24 and report["balanced_accuracy"] == 1.0
    json.dumps(report)


def test_the_validation_score_comes_back_on_the_validation_tiles(tuned):
    _, path, one, _ = tuned
    tuning = Tuning.load(path)
    whole = list(evaluate(tuning, [one], precision="float32"))[-1].result
    assert whole["n"] == sum(tuning.training["tiles_per_class"].values())
    assert abs(whole["accuracy"] - tuning.training["metrics"]["accuracy"]) < 0.2


def test_a_slide_that_was_learned_from_is_named(tuned):
    _, path, one, other = tuned
    *events, last = evaluate(path, [one])
    said = [event.text for event in events if isinstance(event, Note) and event.level == "warning"]
    assert any("took part in the tuning" in text for text in said) and len(last.result["learned_from"]) == 1
    assert last.result["learned_from"] == list(Tuning.load(path).training["slides"])
    *events, last = evaluate(path, [other])
    assert last.result["learned_from"] == []
    assert not any("took part" in event.text for event in events if isinstance(event, Note))


def test_classes_the_tuning_does_not_know_are_left_out_with_a_word(tuned):
    _, path, _, other = tuned
    events = list(evaluate(path, [other], map_classes={"pale": "fat"}))
    assert events[-1].result["n"] == 12
    assert any(isinstance(event, Note) and "without tiles" in event.text for event in events)
    with pytest.raises(NoTiles, match="dark, pale"):
        list(evaluate(path, [other], map_classes={"pale": "fat", "dark": "ink"}))


def test_tune_and_evaluate_from_the_command_line(tuned, tmp_path, capsys):
    folder, _, _, _ = tuned
    pair = ("--slide", folder / "one.png", "--regions", folder / "one.geojson", "--slide-mpp", 0.5)
    quick = ("--epochs", 1, "--set", "tiles_per_epoch=32", "--set", "tvp_tokens=1", "--set", "ttp=no", "--lr", "0.002")
    late = ("--set", "first_layer=11", "--set", "vrm_width=8", "--set", "precision=float32")
    code, out, err = run("tune", *pair, *quick, *late, "--out", tmp_path / "t", "--json", capsys=capsys)
    assert code == 0, err
    result = json.loads(out)
    assert set(result) >= {"classes", "tiles_per_class", "epochs", "val", "trainable_parameters", "seconds", "out"}
    assert result["method"] == "pathotune" and len(result["epochs"]) == 1
    tuning = Tuning.load(result["out"])
    assert tuning.config["tvp_tokens"] == 1 and tuning.training["options"]["lr"] == 0.002
    pair = ("--slide", folder / "two.png", "--regions", folder / "two.geojson", "--slide-mpp", 0.5)
    code, out, err = run("evaluate", "--tuning", result["out"], *pair, "--json", capsys=capsys)
    assert code == 0, err
    assert set(json.loads(out)) >= KEYS and "Traceback" not in err
    code, out, err = run("evaluate", "--tuning", result["out"], *pair, capsys=capsys)
    assert out == "" and "balanced accuracy" in err


def test_folders_are_paired_by_name(tuned, tmp_path, capsys):
    folder, path, _, _ = tuned
    arguments = ("evaluate", "--tuning", path, "--slides", folder, "--regions", folder, "--slide-mpp", 0.5, "--json")
    code, out, err = run(*arguments, capsys=capsys)
    assert code == 0, err
    assert json.loads(out)["n"] == 48


@pytest.mark.parametrize("origin", ["auto", "canvas", "bounds"])
def test_the_origin_that_is_named_is_where_coordinates_count_from(tuned, origin, monkeypatch, capsys):
    from pathotune.regions import read_regions

    folder, path, _, _ = tuned
    asked = []
    monkeypatch.setattr(
        "pathotune.regions.read_regions",
        lambda *given, **options: asked.append(options["origin"]) or read_regions(*given, **options),
    )
    pair = ("--slide", folder / "two.png", "--regions", folder / "two.geojson", "--slide-mpp", 0.5)
    code, _, err = run("evaluate", "--tuning", path, *pair, "--origin", origin, "--json", capsys=capsys)
    assert code == 0, err
    assert asked == [origin]


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("--out", "x"), 2, "Give one of"),
        (("--out", "x", "--slide", "a", "--slide", "b", "--regions", "c"), 2, "make no pairs"),
        (("--out", "x", "--slide", "nowhere.svs", "--regions", "a.geojson"), 1, "does not exist"),
        (("--out", "x", "--tiles", "nowhere.csv"), 1, "does not exist"),
        (("--out", "x", "--slide", "a", "--regions", "b", "--origin", "corner"), 2, "use auto, canvas, bounds"),
        (("--out", "x", "--tiles", ".", "--set", "colour=red"), 2, "no setting called 'colour'"),
        (("--out", "x", "--tiles", ".", "--method", "linear_probe", "--set", "epoch=3"), 2, "Did you mean 'epochs'?"),
        (("--out", "x", "--tiles", ".", "--set", "colour"), 2, "key=value"),
        (("--out", "x", "--tiles", ".", "--method", "magic"), 2, "no method called 'magic'"),
        (("--out", "x", "--tiles", ".", "--lr", "7"), 2, "lr must be between"),
        (("--out", "x", "--tiles", ".", "--split-by", "tile"), 2, "region, slide, patient"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(arguments, code, sentence, capsys):
    got, out, err = run("tune", *arguments, capsys=capsys)
    assert got == code and sentence in err and "Traceback" not in err and out == ""


def test_help_has_an_example(capsys):
    for command in ("tune", "evaluate"):
        code, out, _ = run(command, "--help", capsys=capsys)
        assert code == 0 and f"pathotune {command} --" in " ".join(out.split())
