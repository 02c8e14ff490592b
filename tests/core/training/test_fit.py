"""The epochs of a training on kept features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pathotune.errors import Cancelled, NotFinite
from pathotune.events import EpochEnd, Note, Step, up_to_the_end
from pathotune.training.fit import Fit, State, fit
from pathotune.training.schedule import TrainingConfig
from pathotune.training.stopping import Stopping

TRAINING = TrainingConfig(epochs=6, patience=3, lr=0.05, batch_size=8, warmup_epochs=1)


class Line:
    """A straight line through noisy points, with dropout on its way."""

    unit = "points"

    def __init__(self, scores: Sequence[float] | None = None, spoil: bool = False) -> None:
        random = np.random.default_rng(0)
        self.x = torch.as_tensor(random.normal(size=(40, 3)), dtype=torch.float32)
        self.y = self.x @ torch.tensor([[1.0], [-2.0], [0.5]])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.model = nn.Sequential(nn.Dropout(0.1), nn.Linear(3, 1))
        self.scores, self.judged, self.spoil = scores, 0, spoil

    def parameters_by_name(self) -> dict[str, nn.Parameter]:
        return dict(self.model.named_parameters())

    def batches(self, random: np.random.Generator) -> Sequence[np.ndarray]:
        return np.split(random.permutation(32), 4)

    def loss(self, batch: np.ndarray) -> Tensor:
        self.model.train()
        error = (self.model(self.x[batch]) - self.y[batch]).square().mean()
        return error * float("nan") if self.spoil else error

    def judge(self) -> dict[str, float]:
        self.model.eval()
        with torch.no_grad():
            error = float((self.model(self.x[32:]) - self.y[32:]).square().mean())
        self.judged += 1
        return {"score": -error if self.scores is None else self.scores[self.judged - 1], "error": error}

    def state(self) -> State:
        return {name: value.detach().numpy().copy() for name, value in self.model.state_dict().items()}

    def load_state(self, state: State) -> None:
        self.model.load_state_dict({name: torch.as_tensor(value) for name, value in state.items()})


def trained(line: Line, training: TrainingConfig = TRAINING, **options: object) -> tuple[Fit, list[object]]:
    """The end of a training and its events."""
    stream = fit(line, training, **options)  # type: ignore[arg-type]
    seen: list[object] = []
    while True:
        try:
            seen.append(next(stream))
        except StopIteration as end:
            return end.value, seen


def test_it_learns_and_tells() -> None:
    line = Line()
    before = line.judge()["error"]
    found, seen = trained(line)
    ends = [event for event in seen if isinstance(event, EpochEnd)]
    assert found.scores["error"] < before / 2
    assert [end.epoch for end in ends] == [row["epoch"] for row in found.history] == list(range(1, 7))
    steps = [event for event in seen if isinstance(event, Step)]
    assert len(steps) == 24 and steps[-1].done == steps[-1].total == 32 and steps[-1].unit == "points"
    assert all(np.array_equal(value, line.state()[name]) for name, value in found.state.items())


def test_the_best_epoch_is_kept_and_the_end_comes_early() -> None:
    line = Line(scores=[0.1, 0.5, 0.4, 0.3, 0.2, 0.9])
    found, seen = trained(line)
    assert found.epoch == 2 and len(found.history) == 5  # three epochs without a better one
    assert any(isinstance(event, Note) and "epoch 2" in event.text for event in seen)
    assert all(np.array_equal(value, line.state()[name]) for name, value in found.state.items())


def test_a_start_that_is_never_bettered_is_kept_where_that_is_asked() -> None:
    line = Line(scores=[1.0] + [0.5] * 6)
    start = line.state()
    found, _ = trained(line, keep_start=True)
    assert found.epoch == 0
    assert all(np.array_equal(value, start[name]) for name, value in found.state.items())


def test_the_same_seed_gives_the_same_state_whatever_else_draws() -> None:
    torch.manual_seed(1)
    first, _ = trained(Line())
    drawn = torch.rand(1)
    torch.manual_seed(2)
    second, _ = trained(Line())
    other, _ = trained(Line(), replace(TRAINING, seed=1))
    assert all(np.array_equal(value, second.state[name]) for name, value in first.state.items())
    assert any(not np.array_equal(value, other.state[name]) for name, value in first.state.items())
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), drawn)  # what the caller draws is not changed by a training


def test_a_person_who_ends_it_keeps_the_best_epoch() -> None:
    asked = iter([False] * 9 + [True] * 99)
    found, _ = trained(Line(), stopping=Stopping(lambda: next(asked)))
    assert found.is_cancelled and found.epoch in (1, 2) and len(found.history) == 2
    with pytest.raises(Cancelled):
        trained(Line(), stopping=Stopping(lambda: True))


def test_a_loss_that_is_no_number_is_said() -> None:
    with pytest.raises(NotFinite, match="went astray"):
        list(up_to_the_end(fit(Line(spoil=True), TRAINING)))
