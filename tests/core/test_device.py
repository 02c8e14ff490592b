"""Device and number format are tried, not guessed."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pathotune import device
from pathotune.backbones.surface import Backbone
from pathotune.errors import UsageError


def test_auto_gives_a_device_that_computes() -> None:
    name = device.pick_device()
    assert name in device.DEVICES
    assert device.why_not(name) is None
    assert device.pick_device("cpu") == "cpu"


def test_a_device_that_is_not_there_is_named_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UsageError, match="'mps' cannot be used: there is no Apple"):
        device.pick_device("mps")
    with pytest.raises(UsageError, match="no device 'tpu'"):
        device.pick_device("tpu")


def test_a_device_that_fails_its_forward_pass_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    reasons = {"cuda": "out of memory", "mps": "not there", "cpu": None}
    monkeypatch.setattr(device, "why_not", lambda name: reasons[name])
    assert device.pick_device() == "cpu"


def _slow(tiles: Tensor, in_float32: float, in_bfloat16: float) -> Tensor:
    rounded = torch.is_autocast_enabled("cpu")
    time.sleep(in_bfloat16 if rounded else in_float32)
    return tiles


def test_bfloat16_is_taken_where_it_is_faster_and_agrees() -> None:
    probe = torch.rand(2, 5)
    chosen = device.choose_precision(lambda tiles: _slow(tiles, 0.03, 0.005), probe, "cpu")
    assert chosen.name == "bfloat16"
    assert chosen.difference == 0
    assert chosen.speedup is not None and chosen.speedup > 2
    assert "times as fast" in chosen.reason


def test_bfloat16_is_left_where_it_is_slower() -> None:
    chosen = device.choose_precision(lambda tiles: _slow(tiles, 0.005, 0.02), torch.rand(2, 5), "cpu")
    assert chosen.name == "float32"
    assert "not worth it" in chosen.reason


def test_bfloat16_is_left_where_it_disagrees() -> None:
    def rounding(tiles: Tensor) -> Tensor:
        result = _slow(tiles, 0.02, 0.002)
        # One sample of two is off by a tenth: the worst one counts.
        return result * torch.tensor([[1.1], [1.0]]) if torch.is_autocast_enabled("cpu") else result

    probe = torch.rand(2, 5) + 1
    chosen = device.choose_precision(rounding, probe, "cpu", tolerance=0.03)
    assert chosen.name == "float32"
    assert chosen.difference == pytest.approx(0.1, rel=1e-3)
    assert device.choose_precision(rounding, probe, "cpu", tolerance=0.2).name == "bfloat16"


def test_bfloat16_that_is_not_finite_is_refused() -> None:
    def overflowing(tiles: Tensor) -> Tensor:
        return tiles / 0 if torch.is_autocast_enabled("cpu") else tiles

    assert device.choose_precision(overflowing, torch.rand(2, 5), "cpu").name == "float32"
    with pytest.raises(UsageError, match="no finite numbers"):
        device.choose_precision(overflowing, torch.rand(2, 5), "cpu", wanted="bfloat16")


def test_a_format_that_is_asked_for_is_not_argued_with() -> None:
    def never(tiles: Tensor) -> Tensor:
        raise RuntimeError("float32 needs no probe")

    assert device.choose_precision(never, torch.rand(1, 1), "cpu", wanted="float32").name == "float32"
    slow = device.choose_precision(lambda tiles: _slow(tiles, 0.002, 0.01), torch.rand(1, 5), "cpu", wanted="bfloat16")
    assert slow.name == "bfloat16"
    with pytest.raises(UsageError, match="no precision 'float8'"):
        device.choose_precision(never, torch.rand(1, 1), "cpu", wanted="float8")


def test_a_real_backbone_agrees_within_its_cards_tolerance(tiny_backbone: Callable[..., Backbone]) -> None:
    backbone = tiny_backbone("registers")
    images = torch.randint(0, 256, (4, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    chosen = device.choose_precision(lambda tiles: backbone(backbone.normalise(tiles)).pooled, images, "cpu")
    assert chosen.difference is not None
    assert 0 < chosen.difference < backbone.card.tolerance


def test_number_format_switches_both_ways() -> None:
    layer = torch.nn.Linear(4, 4)
    values = torch.rand(1, 4)
    with device.number_format("cpu", "bfloat16"):
        assert layer(values).dtype == torch.bfloat16
        with device.number_format("cpu", device.Precision("float32")):
            assert layer(values).dtype == torch.float32


def test_peak_memory_keeps_what_was_freed() -> None:
    program = (
        "from pathotune.device import peak_memory_mb as peak\n"
        "before = peak(); block = bytearray(b'x') * 200_000_000; block = None; print(before, peak())"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    before, after = map(float, run.stdout.split())
    assert 5 < before < 150  # and the module costs no torch
    assert 190 < after - before < 260
