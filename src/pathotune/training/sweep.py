"""A short trial of a few settings before a training, each from the same start; the best goes on."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from pathotune.errors import NotFinite
from pathotune.events import Event, Note, Step
from pathotune.training.augment import Augmentation
from pathotune.training.draws import balanced_part, batches
from pathotune.training.schedule import TrainingConfig, learning_rate
from pathotune.training.validation import Scores, score

if TYPE_CHECKING:
    from pathotune.training.run import Run

FACTORS = (1.0, 1 / 3, 3.0)
"""Of the learning rate."""
JITTERS = (0.0, 3.0)
"""Of the stain jitter, at the best learning rate; only where looks of tiles are drawn anew. Where what the frozen part
gives for them is kept, other looks would all have to be computed: that is what makes such a trial long."""
DRAWS = 192
"""Training tiles of one trial, its whole schedule from rise to rest: so few that a trial takes seconds."""
WATCHED = 32
"""Validation tiles per class a trial is judged on."""


@dataclass(frozen=True)
class Trial:
    """One setting and what became of it; `scores` is None where the training went astray."""

    lr: float
    stain_jitter: float
    scores: Scores | None = None


def draws_of(training: TrainingConfig) -> int:
    """Training tiles that pass in all trials together, where looks are kept."""
    return len(FACTORS) * max(DRAWS, training.batch_size) if training.sweep == "short" else 0


def sweep(run: Run) -> Iterator[Event]:
    """Try learning rates, and stain jitters where that is cheap, and leave `run` at its start with the best of them.

    Yields
    ------
    Step while it tries, and a Note of what was chosen, which `run.swept` keeps for the card.

    Raises
    ------
    NotFinite : the training went astray with every setting.
    """
    training, start = run.training, run.model.trainable_state()
    candidates = [(training.lr * factor, training.stain_jitter) for factor in FACTORS]
    more = JITTERS if training.augment and training.stain_jitter and not run.tiles.keeps else ()
    total = (len(FACTORS) + len(more)) * len(_batches(training))
    trials: list[Trial] = []
    for lr, jitter in candidates:
        trials.append((yield from _tried(run, lr, jitter, start, len(trials), total)))
    best = best_of(trials)
    for factor in more if best is not None else ():
        jitter = min(0.5, training.stain_jitter * factor)
        trials.append((yield from _tried(run, best.lr, jitter, start, len(trials), total)))  # type: ignore[union-attr]
    best = best_of(trials)
    if best is None or best.scores is None:
        raise NotFinite(
            f"The training went astray at every learning rate tried around {training.lr:g}. Lower it with --lr."
        )
    _set(run, best.lr, best.stain_jitter)
    run.swept = said(best, trials)
    yield Note(f"Tried a few settings: {run.swept}")


def best_of(trials: list[Trial]) -> Trial | None:
    """The trial of the lowest validation loss; of those alike the earlier, which is nearer to what was set."""
    best: Trial | None = None
    for trial in trials:
        if trial.scores is None:
            continue
        if best is None or best.scores is None or trial.scores.better_than(best.scores):
            best = trial
    return best


def said(best: Trial, trials: list[Trial]) -> str:
    """What was chosen out of what, in words for the card."""
    rates = sorted({trial.lr for trial in trials})
    jitters = sorted({trial.stain_jitter for trial in trials})
    parts = [f"learning rate {best.lr:.2g} (of {_listed(rates)})"]
    if len(jitters) > 1:
        parts.append(f"stain jitter {best.stain_jitter:.2g} (of {_listed(jitters)})")
    scores = best.scores
    judged = f", validation loss {scores.loss:.3f}, balanced accuracy {scores.balanced_accuracy:.2f}" if scores else ""
    return f"{', '.join(parts)}: the best of {len(trials)} trials{judged}"


def _listed(values: list[float]) -> str:
    return ", ".join(f"{value:.2g}" for value in values)


def _batches(training: TrainingConfig) -> list[np.ndarray]:
    return batches(np.arange(max(DRAWS, training.batch_size)), training.batch_size)


def _set(run: Run, lr: float, jitter: float) -> None:
    """The run as it would have been with these settings: fresh optimiser, fresh draws, fresh augmentation."""
    run.training = replace(run.training, lr=lr, stain_jitter=jitter)
    if run.tiles.augmentation is not None:
        run.tiles.augmentation = Augmentation(run.training.seed, jitter)
    run.begin(lr)


def _tried(
    run: Run, lr: float, jitter: float, start: dict[str, np.ndarray], number: int, total: int
) -> Generator[Event, None, Trial]:
    """One trial, from the same start as every other; gives the `Trial`."""
    _set(run, lr, jitter)
    parts = _batches(run.training)
    drawn = run.examples.train[run.draws.draw(sum(map(len, parts)))]
    watched = balanced_part(run.examples.labels, run.watched, WATCHED, run.training.seed)
    try:
        for step, part in enumerate(parts):
            run.step(drawn[part], learning_rate(step, len(parts), 1, lr))
            yield Step("trying settings", number * len(parts) + step + 1, total, "steps")
        answers = run.tiles.answers(watched)[0].cpu().numpy()
        return Trial(lr, jitter, score(answers, run.examples.labels[watched]))
    except NotFinite:
        return Trial(lr, jitter)  # too high a rate; the others are left
    finally:
        run.model.load_trainable_state(start)
