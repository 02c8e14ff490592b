"""Device and number format are tried, not guessed."""

from __future__ import annotations

import json
import subprocess
import sys
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


class Clock:
    """A clock that passes of a model move by what each number format is said to cost."""

    def __init__(self, in_float32: float, in_bfloat16: float) -> None:
        self.now, self.passes = 0.0, 0
        self.costs = (in_float32, in_bfloat16)
        self.delay: Callable[[int], float] = lambda number: 0.0

    def forward(self, tiles: Tensor) -> Tensor:
        self.passes += 1
        self.now += self.costs[torch.is_autocast_enabled("cpu")] + self.delay(self.passes)
        return tiles


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float, float], Clock]:
    def make(in_float32: float, in_bfloat16: float) -> Clock:
        made = Clock(in_float32, in_bfloat16)
        for name in ("perf_counter", "process_time"):
            monkeypatch.setattr(device.time, name, lambda: made.now)
        return made

    return make


MakeClock = Callable[[float, float], Clock]


def test_bfloat16_is_taken_where_it_is_faster_and_agrees(clock: MakeClock) -> None:
    chosen = device.choose_precision(clock(0.03, 0.005).forward, torch.rand(2, 5), "cpu")
    assert chosen.name == "bfloat16"
    assert chosen.difference == 0
    assert chosen.speedup == pytest.approx(6)
    assert "times as fast" in chosen.reason


def test_bfloat16_is_left_where_it_is_slower(clock: MakeClock) -> None:
    chosen = device.choose_precision(clock(0.005, 0.02).forward, torch.rand(2, 5), "cpu")
    assert chosen.name == "float32"
    assert "not worth it" in chosen.reason


@pytest.mark.parametrize("busy", [range(1, 13), range(4, 16), range(2, 17, 2), range(1, 17, 2)])
@pytest.mark.parametrize("costs", [(0.02, 0.01), (0.01, 0.02)])
def test_a_busy_machine_does_not_decide(clock: MakeClock, busy: range, costs: tuple[float, float]) -> None:
    """Other programs delay all passes of a while, or by ill luck those of one number format but for the last pair."""
    watch = clock(*costs)
    watch.delay = lambda number: 0.03 if number in busy and number < 15 else 0.0
    chosen = device.choose_precision(watch.forward, torch.rand(2, 5), "cpu")
    assert chosen.speedup == pytest.approx(costs[0] / costs[1])


def test_the_probe_of_a_slow_model_is_short(clock: MakeClock) -> None:
    watch = clock(20.0, 10.0)
    assert device.choose_precision(watch.forward, torch.rand(8, 5), "cpu").name == "bfloat16"
    assert watch.passes == 4, "one pass of each to compare, one of each to time"


def test_a_speed_is_remembered_for_a_model_on_this_machine(clock: MakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    probe = torch.rand(2, 5)
    assert device.choose_precision(clock(0.02, 0.01).forward, probe, "cpu", what="a model").name == "bfloat16"
    # By now the machine is busy with something that only slows bfloat16 down.
    again = device.choose_precision(clock(0.01, 0.02).forward, probe, "cpu", what="a model")
    assert again.name == "bfloat16" and again.speedup == pytest.approx(2)
    assert device.choose_precision(clock(0.01, 0.02).forward, probe, "cpu", what="another").name == "float32"
    assert device.choose_precision(clock(0.01, 0.02).forward, probe, "cpu").name == "float32"
    monkeypatch.setattr(device.os, "cpu_count", lambda: 4096)
    assert device.choose_precision(clock(0.01, 0.02).forward, probe, "cpu", what="a model").name == "float32"


def test_a_damaged_memory_of_speeds_is_made_again(clock: MakeClock) -> None:
    path = device.settings().cache_dir / device.SPEEDS_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    machine = device._machine("cpu")
    for damaged in ("{", "[]", json.dumps({machine: 3}), json.dumps({machine: {"m": "x"}})):
        path.write_text(damaged)
        assert device.choose_precision(clock(0.02, 0.01).forward, torch.rand(2, 5), "cpu", what="m").name == "bfloat16"
        assert device._remembered_speedup("m", "cpu") == pytest.approx(2)


def test_bfloat16_is_left_where_it_disagrees(clock: MakeClock) -> None:
    watch = clock(0.02, 0.002)

    def rounding(tiles: Tensor) -> Tensor:
        result = watch.forward(tiles)
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


def test_a_format_that_is_asked_for_is_not_argued_with(clock: MakeClock) -> None:
    def never(tiles: Tensor) -> Tensor:
        raise RuntimeError("float32 needs no probe")

    assert device.choose_precision(never, torch.rand(1, 1), "cpu", wanted="float32").name == "float32"
    slow = device.choose_precision(clock(0.002, 0.01).forward, torch.rand(1, 5), "cpu", wanted="bfloat16")
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
