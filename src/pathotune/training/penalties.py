"""A linear head that is solved instead of stepped: one fit for each of a row of penalties, the strongest first."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from pathotune.events import EpochEnd, Event, Note, Step
from pathotune.training.schedule import TrainingConfig
from pathotune.training.validation import Scores, calibrated, losses, score_of

if TYPE_CHECKING:
    from pathotune.training.run import Run

STRENGTHS = (0.4, 1.2, 4.0, 12.0, 40.0)
"""Inverse of the L2 penalty times the features' width: the prior spread of a logit, whatever the width is."""
OF_STEPS = ("lr", "weight_decay", "optimizer", "clip_norm", "warmup_epochs", "batch_size", "tiles_per_epoch", "sweep")
"""Options of a training by steps, which play no part where the head is solved."""


@dataclass(frozen=True)
class Fitted:
    """One fit and what the held-out tiles say of it: `per_tile` is (n,) losses at the temperature that suits it."""

    state: dict[str, NDArray[Any]]
    scores: Scores
    per_tile: NDArray[np.float64]
    answers: tuple[Tensor, Tensor]


def solve(run: Run) -> Iterator[Event]:
    """Fit the head of `run` to all training tiles under each penalty and leave the one to be kept as its best epoch.

    The weakest penalties win on the held-out tiles by chance where these are few, and are the ones that fail on another
    slide; so the strongest is kept that is within one standard error of the best (Breiman and others, "Classification
    and Regression Trees", 1984, section 3.4.3; glmnet's lambda.1se), the error being that of the difference.

    Yields
    ------
    Step while tiles pass the backbone, and an EpochEnd for each fit.
    """
    head = run.model.head
    features, labels = yield from _features(run)
    head.standardise(features)
    targets = torch.as_tensor(labels, device=features.device)
    watched = run.tiles.answers(run.watched)[1].clone()
    count = min(run.training.epochs, len(STRENGTHS))
    fits: list[Fitted] = []
    for number in range(1, count + 1):
        began = run.worked()
        strength = STRENGTHS[number - 1] / features.shape[1]
        head.fit(features, labels, strength)
        with torch.no_grad():
            loss = float(functional.cross_entropy(head(features), targets))
        fits.append(_judged(run, watched))
        kept = chosen([fit.per_tile for fit in fits], run.examples.labels[run.watched])
        run.take(fits[kept].scores, kept + 1, fits[kept].state, fits[kept].answers)
        spent, metrics = run.worked() - began, fits[-1].scores.metrics()
        run.history.append({"epoch": number, "train_loss": loss, "inverse_penalty": strength, **metrics})
        yield EpochEnd(
            number,
            count,
            loss,
            metrics,
            run.best_epoch,
            rate=len(labels) / max(spent, 1e-6),
            seconds_left=(count - number) * spent,
            word="fit",
        )
    yield Note(f"The head is a logistic regression; of {count} penalties number {run.best_epoch} is kept.")


def chosen(per_tile: Sequence[NDArray[np.float64]], labels: NDArray[np.integer[Any]]) -> int:
    """The first of several fits that is not worse than the best by more than a standard error of the difference.

    Parameters
    ----------
    per_tile : (n,) losses of each fit, the strongest penalty first.
    labels : (n,) class indexes; every class counts alike.
    """
    shares = 1.0 / np.bincount(labels)[labels]
    shares /= shares.sum()
    means = [float(shares @ values) for values in per_tile]
    best = int(np.argmin(means))
    for index in range(best):
        difference = per_tile[index] - per_tile[best]
        mean = float(shares @ difference)
        if mean <= float(np.sqrt((shares**2) @ (difference - mean) ** 2)):
            return index
    return best


def _features(run: Run) -> Generator[Event, None, tuple[Tensor, NDArray[np.int64]]]:
    """Features (n, D) of every look of every training tile, and their classes (n,)."""
    train, looks = run.examples.train, run.tiles.looks.count
    parts: list[Tensor] = []
    for look in range(looks):
        for _, features in run.tiles.answers_by_batch(train, np.full(len(train), look)):
            # Rows of an inference may not take part in a fit's graph.
            parts.append(features.clone().float())
            yield Step("features", sum(map(len, parts)), looks * len(train))
    return torch.cat(parts), np.tile(run.examples.labels[train], looks)


def _judged(run: Run, features: Tensor) -> Fitted:
    """How the head does now on the watched tiles, of which these are the features (n, D)."""
    labels = run.examples.labels[run.watched]
    with torch.no_grad():
        logits = run.model.head(features)
    probabilities = calibrated(logits.cpu().numpy(), labels)
    scores, per_tile = score_of(probabilities, labels), losses(probabilities, labels)
    return Fitted(run.model.trainable_state(), scores, per_tile, (logits, features))


def without_part(given: TrainingConfig) -> str:
    """A sentence where options were set that play no part; empty where none was."""
    usual = TrainingConfig()
    names = [name for name in OF_STEPS if getattr(given, name) != getattr(usual, name)]
    if not names:
        return ""
    return f"The probe is a logistic regression: {', '.join(names)} played no part (--set solver=steps uses them)."
