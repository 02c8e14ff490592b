"""The epochs of a training on kept features: bags, spots and patients, whatever the loss is."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from pathotune.events import EpochEnd, Event, Note, Step
from pathotune.training.optimizer import optimizer_for, take_step
from pathotune.training.schedule import TrainingConfig, learning_rate
from pathotune.training.stopping import Stopping

State = dict[str, np.ndarray]
# A score has to rise by more than this to count as better.
NOISE = 1e-4


class Trainee(Protocol):
    """What `fit` trains: a model together with its samples, which `fit` never looks into."""

    unit: str

    def parameters_by_name(self) -> dict[str, nn.Parameter]:
        """The parameters that are trained."""

    def batches(self, random: np.random.Generator) -> Sequence[Any]:
        """The batches of the next epoch; each has a length, the number of its samples."""

    def loss(self, batch: Any) -> Tensor:
        """Mean loss of a batch, in training mode (a scalar with its graph)."""

    def judge(self) -> dict[str, float]:
        """How good the model is now on what was held out: "score" (higher is better) and whatever else is shown."""

    def state(self) -> State:
        """A copy of every tensor that training changes, by name."""

    def load_state(self, state: State) -> None:
        """Put back what `state` gave."""


@dataclass(frozen=True)
class Fit:
    """What came of a training.

    Attributes
    ----------
    state : tensors of the best epoch; they are also back in the model.
    epoch : its number from 1; 0 where the start was never bettered.
    scores : what `judge` said of it.
    history : one dict per finished epoch: epoch, train_loss, learning_rate and the scores.
    """

    state: State
    epoch: int
    scores: dict[str, float]
    history: list[dict[str, float]] = field(default_factory=list)
    is_cancelled: bool = False


def fit(
    trainee: Trainee, training: TrainingConfig, stopping: Stopping | None = None, *, keep_start: bool = False
) -> Generator[Event, None, Fit]:
    """Train until the held-out score has not risen for `patience` epochs, or the last epoch is done.

    The same seed gives the same draws and the same dropout; the caller's random state is left as it was.

    Parameters
    ----------
    trainee : model and samples.
    training : its epochs and patience already settled (`TrainingConfig.settled`).
    stopping : asked after every step; once it says so the training ends with the best epoch so far.
    keep_start : the state before the first step takes part in the choice of the best.

    Yields
    ------
    Step after every step, EpochEnd after every epoch, a Note where it stops early.

    Returns
    -------
    Fit, with `is_cancelled` where it was ended by a person.

    Raises
    ------
    NotFinite
        The training went astray.
    Cancelled
        It was ended before the first epoch was done.
    """
    course = _Course(trainee, training, stopping or Stopping())
    try:
        yield from course.run(keep_start)
    finally:
        if course.best is not None:
            trainee.load_state(course.best.state)
    if course.best is None:  # no epoch was asked for
        scores = trainee.judge()
        return Fit(trainee.state(), 0, scores)
    return course.best


class _Course:
    """A training under way."""

    def __init__(self, trainee: Trainee, training: TrainingConfig, stopping: Stopping) -> None:
        self.trainee, self.training, self.stopping = trainee, training, stopping
        self.parameters = trainee.parameters_by_name()
        share = getattr(trainee, "rate_share", lambda name: 1.0)
        self.optimizer = optimizer_for(self.parameters, training, training.lr, share) if self.parameters else None
        self.random = np.random.default_rng(training.seed)
        self.history: list[dict[str, float]] = []
        self.best: Fit | None = None

    def run(self, keep_start: bool) -> Generator[Event, None, None]:
        """All epochs."""
        from pathotune.errors import Cancelled

        epochs = self.training.epochs if self.optimizer is not None else 0
        if keep_start or not epochs:
            self._take_best(0)
        try:
            for epoch in range(1, epochs + 1):
                yield from self._epoch(epoch, epochs)
                if self.best is not None and epoch - self.best.epoch >= self.training.patience:
                    yield Note(f"No better score on what was held out since epoch {self.best.epoch}; stopped there.")
                    return
        except Cancelled:
            if self.best is None:
                raise
            self.best = Fit(self.best.state, self.best.epoch, self.best.scores, self.history, is_cancelled=True)

    def _epoch(self, epoch: int, epochs: int) -> Generator[Event, None, None]:
        drawn = self.trainee.batches(self.random)
        steps, warmup = epochs * len(drawn), min(self.training.warmup_epochs, epochs // 4) * len(drawn)
        total, done, losses = sum(len(batch) for batch in drawn), 0, []
        began, rate = self._worked(), self.training.lr
        for number, batch in enumerate(drawn):
            rate = learning_rate((epoch - 1) * len(drawn) + number, steps, warmup, self.training.lr)
            losses.append(self._step(batch, rate, (epoch, number)))
            done += len(batch)
            speed = done / max(self._worked() - began, 1e-6)
            left = (total * (epochs - epoch) + total - done) / speed
            yield Step(f"epoch {epoch}", done, total, unit=self.trainee.unit, rate=speed, seconds_left=left)
            self.stopping.look()
        scores = self._take_best(epoch)
        loss = float(np.mean(losses))
        self.history.append({"epoch": epoch, "train_loss": loss, "learning_rate": rate, **scores})
        best = self.best.epoch if self.best is not None else 0
        left = (epochs - epoch) * (self._worked() - began)
        yield EpochEnd(epoch, epochs, loss, scores, best, rate, total / max(self._worked() - began, 1e-6), left)

    def _step(self, batch: Any, rate: float, place: tuple[int, int]) -> float:
        # Dropout follows the seed whatever else in the process draws random numbers between two steps.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(np.random.SeedSequence([self.training.seed, *place]).generate_state(1)[0]))
            loss = self.trainee.loss(batch)
        gradients = torch.autograd.grad(loss, list(self.parameters.values()), allow_unused=True, materialize_grads=True)
        for parameter, gradient in zip(self.parameters.values(), gradients, strict=True):
            parameter.grad = gradient
        value = float(loss.detach())
        if self.optimizer is not None:
            take_step(self.optimizer, value, rate, self.training.clip_norm)
        return value

    def _take_best(self, epoch: int) -> dict[str, float]:
        scores = self.trainee.judge()
        if self.best is None or scores["score"] > self.best.scores["score"] + NOISE:
            self.best = Fit(self.trainee.state(), epoch, scores, self.history)
        return scores

    def _worked(self) -> float:
        """A clock that stands still in a pause."""
        return time.monotonic() - self.stopping.waited
