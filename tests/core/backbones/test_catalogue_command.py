"""`pathotune backbones` and `pathotune methods` as a person or a program runs them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pathotune.backbones import backbone_names, load_backbone
from pathotune.cli import main


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    captured = capsys.readouterr()
    return int(ended.value.code or 0), captured.out, captured.err


def test_json_is_the_whole_of_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "backbones", "--json")
    cards = json.loads(out)
    assert code == 0
    assert [card["name"] for card in cards] == list(backbone_names())
    code, out, _ = run(capsys, "backbones", "--available", "--json")
    assert code == 0
    assert [card["name"] for card in json.loads(out)] == ["pathotune-tiny", "small-slide"]


def test_only_those_whose_licence_allows_commercial_use(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "backbones", "--commercial", "--json")
    cards = {card["name"]: card for card in json.loads(out)}
    assert code == 0 and "pathotune-tiny" in cards and "uni" not in cards and "conch" not in cards
    assert all(card["non_commercial"] is False and card["licence"] for card in cards.values())
    assert len(cards) < len(backbone_names())


def test_people_get_a_table_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "backbones")
    assert (code, out) == (0, "")
    for name in backbone_names():
        assert name in err
    assert "no loader" in err


def test_methods_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "methods", "--json")
    assert code == 0
    assert {"pathotune", "linear_probe"} <= {method["name"] for method in json.loads(out)}
    assert run(capsys, "methods")[0] == 0


def test_check_says_what_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "backbones", "--check", "virchow2")
    assert (code, out) == (1, "")
    assert "huggingface.co/paige-ai/Virchow2" in err
    assert "Traceback" not in err
    code, _, err = run(capsys, "backbones", "--check", "chief-slide")
    assert code == 1 and "cannot be loaded yet" in err
    code, _, err = run(capsys, "backbones", "--check", "titan-slide")
    assert code == 2 and "is a slide encoder" in err
    code, _, err = run(capsys, "backbones", "--check", "virchow3")
    assert code == 2 and "Did you mean" in err
    code, _, err = run(capsys, "backbones", "--weights", "x.safetensors")
    assert code == 2 and "--check" in err
    code, _, err = run(capsys, "backbones", "--check", "uni", "--weights", "x.safetensors")
    assert code == 1 and "does not exist" in err


def test_check_compares_a_file_with_timm(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    model = load_backbone("vit-tiny-in21k-ft-in1k", random_seed=1)
    head = {"head.weight": torch.zeros(1000, 192), "head.bias": torch.zeros(1000)}
    file = tmp_path / "model.safetensors"
    save_file({**dict(model.network.state_dict()), **head}, file)
    code, out, _ = run(capsys, "backbones", "--check", "vit-tiny-in21k-ft-in1k", "--weights", str(file), "--json")
    result = json.loads(out)
    assert code == 0, result
    assert result["agrees"] is True
    assert result["max_difference"] == 0
    code, _, err = run(capsys, "backbones", "--check", "vit-small-in21k-ft-in1k", "--weights", str(file))
    assert code == 1 and "of another shape" in err
