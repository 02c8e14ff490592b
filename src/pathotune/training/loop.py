"""One training loop for every method: a generator that tells what happens and ends with the saved tuning."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pathotune.device import choose_precision, number_format, pick_device
from pathotune.errors import NotFinite, TooLittleMemory
from pathotune.events import EpochEnd, Event, Finished, Note, Step
from pathotune.methods import METHODS, load_config
from pathotune.methods.base import MethodConfig, trained_parameters
from pathotune.methods.checkpoint import check_writable
from pathotune.prompts.text import SentenceVectors, encode_sentences
from pathotune.training.augment import Augmentation, turned
from pathotune.training.draws import BalancedDraws, balanced_part, batches
from pathotune.training.examples import Examples, TuneSource, gather
from pathotune.training.record import Outcome, keep
from pathotune.training.schedule import TrainingConfig, learning_rate
from pathotune.training.validation import Scores, score

if TYPE_CHECKING:
    from pathotune.backbones.surface import Backbone
    from pathotune.datasets.tiles import TileTable
    from pathotune.tasks import Task

EVALUATION_BATCH = 64
GRADIENT_NORM = 1.0
# Validation tiles per class that every epoch is judged on; the last word is had by all of them.
WATCHED = 512
# Tiles per class that the head's start and the feature statistics look at.
LOOK_AT = 256


def tune(
    sources: Sequence[TuneSource] | TileTable,
    method: str = "pathotune",
    method_config: MethodConfig | Mapping[str, Any] | None = None,
    backbone: Backbone | str = "pathotune-tiny",
    training: TrainingConfig | None = None,
    task: Task | str | None = None,
    out: str | Path = "tuning.pathotune.safetensors",
    *,
    class_names: Sequence[str] | None = None,
    map_classes: Mapping[str, str] | None = None,
) -> Iterator[Event]:
    """Tune a method on regions of slides, or on a table of tiles, and save it.

    Closing the generator, or an interrupt, saves the best epoch so far before it ends.

    Parameters
    ----------
    sources : slides with their regions, or a tile table.
    method, method_config : name in `METHODS`, and its config or the fields that differ from the default.
    backbone : a loaded backbone or the name of one.
    training : how to train.
    task : a task, its name, or None to make one from the classes of the regions.
    out : the tuning file; `.pathotune.safetensors` is added where it has no such ending.
    class_names : the classes and their order; None takes the task's, else those of the regions.
    map_classes : other names for classes in the regions; an empty name leaves a class out.

    Yields
    ------
    Note, Step, one EpochEnd per epoch, and Finished with the contract's JSON at the end.

    Raises
    ------
    NoTiles
        A class has too few tiles or regions; the sentence says which and why.
    TuningMismatch
        The backbone cannot carry the method.
    NotFinite
        The training went astray; the sentence says what to lower.
    TooLittleMemory, OutputRefused
        The machine's memory or disk does not do.
    """
    started = time.monotonic()
    check_writable(out)
    training = training or TrainingConfig()
    config = method_config if isinstance(method_config, MethodConfig) else load_config(method, method_config)
    device = pick_device(training.device)
    loaded = _loaded(backbone).to(device)
    reading = loaded.card.reading()
    examples = yield from gather(sources, reading, training, task, class_names, map_classes)
    with contextlib.closing(examples):
        text = encode_sentences(config.sentences_for(examples.task, reading.mpp), config.text_encoder_wanted)
        if text.note:
            yield Note(text.note, "warning")
        run = Run(method, config, loaded, examples, training, text, device)
        try:
            yield from run.prepare()
            yield from run.epochs()
        except (GeneratorExit, KeyboardInterrupt):
            if run.best is not None:
                keep(run.outcome(), out, time.monotonic() - started)
            raise
        yield Finished(keep(run.outcome(), out, time.monotonic() - started))


class Run:
    """One training: the model, its tiles, and the best state so far.

    Attributes
    ----------
    model : a `methods.base.Method`.
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
    ) -> None:
        self.method, self.config, self.backbone = method, config, backbone
        self.examples, self.training, self.text, self.device = examples, training, text, device
        # A generator of our own would not reach the modules' initialisers; the process's state is put back afterwards.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(training.seed)
            self.model = METHODS.load(method)(config, backbone, examples.class_names, text.vectors).to(device)
        self.parameters = trained_parameters(self.model)
        self.optimizer = torch.optim.AdamW(_groups(self.parameters, training.weight_decay), lr=training.lr)
        self.augment = Augmentation(training.seed, training.stain_jitter)
        self.draws = BalancedDraws(examples.labels[examples.train], training.seed)
        self.watched = balanced_part(examples.labels, examples.validation, WATCHED, training.seed)
        self.micro_batch = training.batch_size
        self.precision: Any = None
        self.features: Tensor | None = None  # (views, n, D) where the method trains on features
        self.best: Scores | None = None
        self.best_epoch = 0
        self.best_state: dict[str, np.ndarray] = {}
        self.history: list[dict[str, float]] = []

    # -- before the first step ------------------------------------------------------------------------------------

    def prepare(self) -> Iterator[Event]:
        """Choose the number format, compute what need not be computed again, and let the head look at the features."""
        probe = self._pixels(self.examples.train[:8])
        forward = self.backbone
        self.precision = choose_precision(
            lambda pixels: forward(pixels).pooled,
            probe,
            self.device,
            self.training.precision,
            self.backbone.card.tolerance,
        )
        if self.training.precision == "auto":
            yield Note(f"Computing in {self.precision.name}: {self.precision.reason}")
        if self.config.trains_on_features:
            yield from self._compute_features()
        chosen = balanced_part(self.examples.labels, self.examples.train, LOOK_AT, self.training.seed)
        parts = []
        for part in batches(chosen, EVALUATION_BATCH):
            parts.append(self._answers(part)[1])
            yield Step("first look", min(sum(map(len, parts)), len(chosen)), len(chosen))
        self.model.start(torch.cat(parts), self.examples.labels[chosen])

    def _compute_features(self) -> Iterator[Event]:
        views = int(getattr(self.config, "views", 1)) if self.training.augment else 1
        everything = np.arange(len(self.examples.labels))
        kept: list[Tensor] = []
        for view in range(views):
            parts = []
            for part in batches(everything, EVALUATION_BATCH):
                with torch.no_grad(), self._autocast():
                    parts.append(self.model.lower(self._pixels(part, np.full(len(part), view))).cpu())
                done = view * len(everything) + sum(map(len, parts))
                yield Step("features", done, views * len(everything))
            kept.append(torch.cat(parts))
        self.features = torch.stack(kept)

    # -- the epochs -----------------------------------------------------------------------------------------------

    def epochs(self) -> Iterator[Event]:
        """Train until the validation score has not risen for `patience` epochs, or the last epoch is done."""
        training = self.training
        count = training.draws_per_epoch(len(self.examples.train))
        per_epoch = len(batches(np.arange(count), training.batch_size))
        steps, warmup = training.epochs * per_epoch, training.warmup_epochs * per_epoch
        for epoch in range(1, training.epochs + 1):
            began, losses, done = time.monotonic(), [], 0
            for number, batch in enumerate(batches(self.draws.draw(count), training.batch_size)):
                rate = learning_rate((epoch - 1) * per_epoch + number, steps, warmup, training.lr)
                losses.append(self._step(self.examples.train[batch], rate))
                done += len(batch)
                speed = done / max(time.monotonic() - began, 1e-6)
                left = (count * (training.epochs - epoch) + count - done) / speed
                yield Step(f"epoch {epoch}", done, count, rate=speed, seconds_left=left)
            yield self._end_epoch(epoch, float(np.mean(losses)), rate)
            if epoch - self.best_epoch >= training.patience:
                yield Note(f"No better score on the validation tiles since epoch {self.best_epoch}; stopped there.")
                break

    def _step(self, batch: np.ndarray, rate: float) -> float:
        """One optimiser step; halves what passes the backbone at once when memory runs out."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        while True:
            try:
                self.optimizer.zero_grad(set_to_none=True)
                loss = sum(self._backward(part, len(part) / len(batch)) for part in batches(batch, self.micro_batch))
                break
            except RuntimeError as error:
                self._shrink(error)
        norm = torch.nn.utils.clip_grad_norm_(list(self.parameters.values()), GRADIENT_NORM)
        if not (math.isfinite(loss) and bool(torch.isfinite(norm))):
            raise NotFinite(
                f"The training went astray (loss {loss:g}, gradient {float(norm):g}). "
                "Lower the learning rate with --lr, or use --set precision=float32."
            )
        self.optimizer.step()
        return loss

    def _backward(self, part: np.ndarray, share: float) -> float:
        with self._autocast():
            logits = self._forward(part, train=True)[0]
        labels = torch.as_tensor(self.examples.labels[part], device=logits.device)
        loss = functional.cross_entropy(logits, labels)
        torch.autograd.backward(loss * share)
        return float(loss.detach()) * share

    def _shrink(self, error: RuntimeError) -> None:
        text = str(error).lower()
        if not isinstance(error, torch.OutOfMemoryError) and "memory" not in text:
            raise error
        if self.micro_batch == 1:
            raise TooLittleMemory(
                f"Memory ran out with one tile at a time on {self.backbone.card.title}. Close other programs, choose "
                "a smaller backbone, or let the prompts enter later (--set first_layer=8)."
            ) from None
        self.micro_batch = max(1, self.micro_batch // 2)

    def _end_epoch(self, epoch: int, loss: float, rate: float) -> EpochEnd:
        logits, _ = self._answers(self.watched)
        scores = score(logits.cpu().numpy(), self.examples.labels[self.watched])
        if self.best is None or scores.better_than(self.best):
            self.best, self.best_epoch, self.best_state = scores, epoch, self.model.trainable_state()
        metrics = scores.metrics()
        self.history.append({"epoch": epoch, "train_loss": loss, "learning_rate": rate, **metrics})
        return EpochEnd(epoch, self.training.epochs, loss, metrics, self.best_epoch, rate)

    # -- tiles through the model ----------------------------------------------------------------------------------

    def _answers(self, tiles: np.ndarray) -> tuple[Tensor, Tensor]:
        """Logits (n, K) and features (n, D) of tiles as they are, without a gradient."""
        with torch.inference_mode(), self._autocast():
            parts = [self._forward(part, train=False) for part in batches(tiles, EVALUATION_BATCH)]
        logits, features = (torch.cat(group) for group in zip(*parts, strict=True))
        if not bool(torch.isfinite(logits).all()):
            raise NotFinite(
                "The model gives values that are not finite. Lower the learning rate with --lr, "
                "or use --set precision=float32."
            )
        return logits, features

    def _forward(self, tiles: np.ndarray, train: bool) -> tuple[Tensor, Tensor]:
        """Logits and features of some tiles; changed at random where they are there to train on."""
        if self.features is not None:
            view = self.draws.random.integers(len(self.features), size=len(tiles)) if train else 0
            kept = self.features[view, tiles].to(self.device)
            answer = self.model.upper(kept, kept)
        else:
            answer = self.model(self._pixels(tiles, None, augment=train and self.training.augment))
        return answer.logits, answer.features

    def _pixels(self, tiles: np.ndarray, views: np.ndarray | None = None, augment: bool = False) -> Tensor:
        """Normalised pixels (b, 3, h, w) on the device."""
        images = np.ascontiguousarray(self.examples.images[tiles])
        if views is not None:
            images = turned(images, views)
        if augment:
            images = self.augment(images)
        return self.backbone.normalise(torch.from_numpy(images).to(self.device))

    def _autocast(self) -> Any:
        return number_format(self.device, self.precision or "float32")

    # -- the end --------------------------------------------------------------------------------------------------

    def outcome(self) -> Outcome:
        """The best epoch's tensors with what the validation tiles and the training tiles say of them."""
        self.model.load_trainable_state(self.best_state)
        looked_at = balanced_part(self.examples.labels, self.examples.train, LOOK_AT, self.training.seed)
        logits, validation_features = self._answers(self.examples.validation)
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
            sentences=self.config.sentences_for(self.examples.task, self.backbone.card.reading().mpp),
            state=self.best_state,
            parameters=sum(value.numel() for value in self.parameters.values()),
            logits=logits.cpu().numpy(),
            validation_features=validation_features.cpu().numpy(),
            features=self._answers(looked_at)[1].cpu().numpy(),
            feature_labels=self.examples.labels[looked_at],
            history=self.history,
            best_epoch=self.best_epoch,
            device=self.device,
            precision=self.precision.name if self.precision else "float32",
        )


def _loaded(backbone: Backbone | str) -> Backbone:
    from pathotune.backbones import load_backbone

    return load_backbone(backbone) if isinstance(backbone, str) else backbone


def _groups(parameters: dict[str, Any], weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay for matrices and kernels; none for norms, gates, biases and the prompt tokens themselves."""
    decayed = [value for name, value in parameters.items() if value.ndim >= 2 and name.endswith("weight")]
    rest = [value for name, value in parameters.items() if not (value.ndim >= 2 and name.endswith("weight"))]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]
