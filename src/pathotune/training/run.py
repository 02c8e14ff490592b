"""One training: its model, its optimiser, its epochs, and the best state so far."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pathotune.device import choose_precision
from pathotune.errors import TooLittleMemory
from pathotune.events import EpochEnd, Event, Note, Step
from pathotune.methods import METHODS
from pathotune.methods.base import MethodConfig, trained_parameters
from pathotune.prompts.text import SentenceVectors
from pathotune.training.augment import Augmentation, Variants
from pathotune.training.draws import BalancedDraws, balanced_part, batches
from pathotune.training.examples import Examples
from pathotune.training.optimizer import optimizer_for, take_step
from pathotune.training.penalties import solve, without_part
from pathotune.training.record import Outcome
from pathotune.training.schedule import TrainingConfig, learning_rate
from pathotune.training.stopping import Stopping
from pathotune.training.sweep import sweep
from pathotune.training.tilepass import Inputs, TilePass, joined
from pathotune.training.validation import Scores, score

if TYPE_CHECKING:
    from pathlib import Path

    from pathotune.backbones.surface import Backbone

# Validation tiles per class that every epoch is judged on; the last word is had by all of them.
WATCHED = 256
# Tiles per class that the head's start and the feature statistics look at.
LOOK_AT = 256
# Share of the tiles a saved tuning learned from that have to be among those of a training which needs no more of it.
MOST_OF_THEM = 0.5
# Tiles whose lower part is looked at whole.
START_TILES = 32

State = dict[str, np.ndarray]


class Run:
    """One training.

    Parameters
    ----------
    method, config : what is trained.
    backbone, device : on what, and where.
    examples, training, text : with what, how, and with which sentences.
    start_state : tensors of a saved tuning to go on from, in place of a fresh start.
    spill : folder for kept values that do not fit into memory.
    stopping : asked whether to wait or to end.

    Attributes
    ----------
    model : a `methods.base.Method`.
    went_on_from : SHA-256 of the tuning `start_state` is from, for the record.
    swept : which settings a short trial chose, in words; empty without one.
    best, best_epoch, best_state : scores, number (from 1) and tensors of the best epoch; None and 0 before the first.
    history : one dict per finished epoch.
    """

    def __init__(
        self,
        method: str,
        config: MethodConfig,
        backbone: Backbone,
        examples: Examples,
        training: TrainingConfig,
        text: SentenceVectors,
        device: str,
        start_state: State | None = None,
        spill: Path | None = None,
        stopping: Stopping | None = None,
    ) -> None:
        self.stopping = stopping or Stopping()
        self.method, self.config, self.backbone = method, config, backbone
        self.training = training.settled(config.is_interactive, start_state is not None)
        self.examples, self.text, self.device = examples, text, device
        # A generator of our own would not reach the modules' initialisers; the process's state is put back afterwards.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(training.seed)
            self.model = METHODS.load(method)(config, backbone, examples.class_names, text.vectors).to(device)
        # Solved again from all tiles, a head needs no start; one that learned from tiles which are not here does.
        self.is_solved = config.is_solved and (start_state is None or examples.known_again >= MOST_OF_THEM)
        self.is_warm = start_state is not None and not self.is_solved
        self.went_on_from, self.swept = "", ""
        if start_state is not None and self.is_warm:
            self.model.load_trainable_state(start_state)
        self.parameters = trained_parameters(self.model)
        if not self.parameters:
            # All there is to learn is in the first look.
            self.training = replace(self.training, epochs=1, sweep="off")
        looks = int(getattr(config, "views", training.looks)) if training.augment else 1
        self.tiles = TilePass(
            self.model,
            backbone,
            examples,
            device,
            Variants(looks, training.seed, training.stain_jitter),
            Augmentation(training.seed, training.stain_jitter) if training.augment else None,
            training.cache_mb * 2**20,
            spill,
        )
        self.watched = balanced_part(examples.labels, examples.validation, WATCHED, training.seed)
        self.micro_batch = training.batch_size
        self.best: Scores | None = None
        self.best_epoch = 0
        self.best_state: State = {}
        self.history: list[dict[str, float]] = []
        self._best_answers: tuple[Tensor, Tensor] | None = None
        self.begin(self.training.lr)

    def begin(self, lr: float) -> None:
        """A fresh optimiser and fresh draws."""
        self.optimizer = optimizer_for(self.parameters, self.training, lr, self.model.rate_share)
        self.draws = BalancedDraws(self.examples.labels[self.examples.train], self.training.seed)

    # -- before the first step ------------------------------------------------------------------------------------

    def prepare(self) -> Iterator[Event]:
        """Choose the number format, let the head look at the features, and the learning rate if that is asked."""
        for sentence in self.model.notes:
            yield Note(sentence, "warning")
        with torch.no_grad():
            probe = self.tiles.pixels(self.examples.images[self.examples.train[:8]])
        forward = self.backbone
        with self.stopping.undisturbed():
            precision = choose_precision(
                lambda pixels: forward(pixels).pooled,
                probe,
                self.device,
                self.training.precision,
                self.backbone.card.tolerance,
                self.backbone.speed_name,
            )
        if self.training.precision == "auto":
            yield Note(f"Computing in {precision.name}: {precision.reason}")
        self.tiles.choose(precision)
        if not self.is_warm and not self.is_solved:
            chosen = balanced_part(self.examples.labels, self.examples.train, LOOK_AT, self.training.seed)
            parts, done = [], 0
            for part in self.tiles.answers_by_batch(chosen):
                parts.append(part)
                done += len(part[0])
                yield Step("first look", done, len(chosen))
            lower = self.tiles.lower(chosen[:START_TILES])
            self.model.start(joined(parts)[1].clone(), self.examples.labels[chosen], lower)
        if self.training.sweep == "short" and not self.is_solved:
            yield from sweep(self)

    # -- the epochs -----------------------------------------------------------------------------------------------

    def epochs(self) -> Iterator[Event]:
        """Train until the validation score has not risen for `patience` epochs, or the last epoch is done.

        Pauses, between two events or in the middle of a step, do not count as time. A head that can be solved is.
        """
        if self.is_solved:
            if said := without_part(self.training):
                yield Note(said, "warning")
            yield from solve(self)
            return
        training = self.training
        count = training.draws_per_epoch(len(self.examples.train))
        per_epoch = len(self._epoch_batches())
        steps = training.epochs * per_epoch
        warmup = min(training.warmup_epochs, training.epochs // 4) * per_epoch
        if self.is_warm and not self.examples.new_tiles:
            # The saved state takes part: what is kept in the end is never worse than what one started from. Not where
            # there are new tiles, which it does not know: held-out tiles that lie elsewhere would often keep it, and
            # what was corrected would not be learned.
            self._take_best(0)
        for epoch in range(1, training.epochs + 1):
            spent, losses, done = 0.0, [], 0
            for number, batch in enumerate(self._draw_epoch()):
                rate = learning_rate((epoch - 1) * per_epoch + number, steps, warmup, training.lr)
                began = self.worked()
                losses.append(self.step(batch, rate))
                spent += self.worked() - began
                done += len(batch)
                speed = done / max(spent, 1e-6)
                left = (count * (training.epochs - epoch) + count - done) / speed
                yield Step(f"epoch {epoch}", done, count, rate=speed, seconds_left=left)
            began = self.worked()
            scores = self._take_best(epoch)
            left = (training.epochs - epoch) * (spent + self.worked() - began)
            metrics = scores.metrics()
            loss = float(np.mean(losses))
            self.history.append({"epoch": epoch, "train_loss": loss, "learning_rate": rate, **metrics})
            yield EpochEnd(epoch, training.epochs, loss, metrics, self.best_epoch, rate, speed, left)
            if epoch - self.best_epoch >= training.patience:
                yield Note(f"No better score on the validation tiles since epoch {self.best_epoch}; stopped there.")
                break

    def worked(self) -> float:
        """A clock that stands still in a pause."""
        return time.monotonic() - self.stopping.waited

    def _epoch_batches(self) -> list[np.ndarray]:
        count = self.training.draws_per_epoch(len(self.examples.train))
        return batches(np.arange(count), self.training.batch_size)

    def _draw_epoch(self) -> list[np.ndarray]:
        """The tiles of an epoch, batch by batch."""
        count = self.training.draws_per_epoch(len(self.examples.train))
        return batches(self.examples.train[self.draws.draw(count)], self.training.batch_size)

    def step(self, batch: np.ndarray, rate: float) -> float:
        """One optimiser step; halves what passes the backbone at once when memory runs out."""
        looks = self.draws.random.integers(self.tiles.looks.count, size=len(batch))
        inputs = self.tiles.inputs(batch, looks)
        labels = torch.as_tensor(self.examples.labels[batch], device=self.device)
        while True:
            try:
                loss = self._gradients(inputs, labels)
                break
            except RuntimeError as error:
                self._shrink(error)
        take_step(self.optimizer, loss, rate, self.training.clip_norm)
        return loss

    def _gradients(self, inputs: Inputs, labels: Tensor) -> float:
        """Loss of a batch, its gradients in the parameters; parts of it run side by side."""
        parts = self.tiles.cut(inputs, self.micro_batch)
        targets = torch.split(labels, [len(part) for part in parts])
        found = self.tiles.lanes.map(self._backward, list(zip(parts, targets, strict=True)))
        shares = [len(part) / len(inputs) for part in parts]
        # In the order of the parts: the sum of rounded numbers depends on it.
        for number, parameter in enumerate(self.parameters.values()):
            parameter.grad = sum(  # type: ignore[assignment]
                gradients[number] * share for (_, gradients), share in zip(found, shares, strict=True)
            )
        return float(sum(loss * share for (loss, _), share in zip(found, shares, strict=True)))

    def _backward(self, part: tuple[Inputs, Tensor]) -> tuple[float, tuple[Tensor, ...]]:
        inputs, labels = part
        with self.tiles.format():
            logits = self.tiles.forward(inputs).logits
        loss = functional.cross_entropy(logits, labels)
        if not self.parameters:
            return float(loss.detach()), ()
        return float(loss.detach()), torch.autograd.grad(
            loss, list(self.parameters.values()), allow_unused=True, materialize_grads=True
        )

    def _shrink(self, error: RuntimeError) -> None:
        text = str(error).lower()
        if not isinstance(error, torch.OutOfMemoryError) and "memory" not in text:
            raise error
        if self.micro_batch == 1:
            raise TooLittleMemory(
                f"Memory ran out with one tile at a time on {self.backbone.card.title}. Close other programs, choose "
                "a smaller backbone, or let the method begin later in it (--set speed=interactive)."
            ) from None
        self.micro_batch = max(1, self.micro_batch // 2)

    # -- the judging ----------------------------------------------------------------------------------------------

    def _scores(self) -> tuple[Scores, tuple[Tensor, Tensor]]:
        answers = self.tiles.answers(self.watched)
        return score(answers[0].cpu().numpy(), self.examples.labels[self.watched]), answers

    def _take_best(self, epoch: int) -> Scores:
        """Judge the model as it is now, and remember it if it is the best so far."""
        scores, answers = self._scores()
        if self.best is None or scores.better_than(self.best):
            self.take(scores, epoch, self.model.trainable_state(), answers)
        return scores

    def take(self, scores: Scores, epoch: int, state: State, answers: tuple[Tensor, Tensor]) -> None:
        """Remember a state as the best so far, with its answers for the watched tiles."""
        self.best, self.best_epoch, self.best_state, self._best_answers = scores, epoch, state, answers

    def outcome(self, quick: bool = False) -> Outcome:
        """The best epoch's tensors with what the validation tiles and the training tiles say of them.

        Parameters
        ----------
        quick : pass no tile through the model any more, and leave it as it is: what the best epoch was chosen by stands
            for all validation tiles, and for the training tiles' features too.
        """
        all_watched = len(self.watched) == len(self.examples.validation)
        judged = self.watched if quick or all_watched else self.examples.validation
        answers = self._best_answers
        looked_at = judged
        if not quick:
            self.model.load_trainable_state(self.best_state)
            looked_at = balanced_part(self.examples.labels, self.examples.train, LOOK_AT, self.training.seed)
        if answers is None or judged is not self.watched:
            answers = self.tiles.answers(judged)
        features = answers[1] if quick else self.tiles.answers(looked_at)[1]
        return Outcome(
            method=self.method,
            config=self.config,
            card=self.backbone.card,
            backbone_facts={
                "sha256": self.backbone.weights_sha256,
                "weights": self.backbone.weights_source,
                "embed_dim": self.backbone.embed_dim,
                "output_dim": self.backbone.output_dim,
                "depth": self.backbone.depth,
            },
            examples=self.examples,
            training=self.training,
            text=self.text,
            sentences=self.config.sentences_for(
                self.examples.task, self.examples.class_names, self.backbone.card.reading().mpp
            ),
            state=self.best_state,
            parameters=sum(value.numel() for value in self.parameters.values()),
            judged_tiles=judged,
            logits=answers[0].cpu().numpy(),
            validation_features=answers[1].cpu().numpy(),
            features=features.cpu().numpy(),
            feature_tiles=looked_at,
            history=self.history,
            best_epoch=self.best_epoch,
            device=self.device,
            precision=self.tiles.precision.name,
            computed_tiles=self.tiles.computed,
            went_on_from=self.went_on_from,
            swept=self.swept,
        )
