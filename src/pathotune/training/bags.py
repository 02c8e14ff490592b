"""Learning from whole slides: each is a bag of tile features, and an aggregator is trained on them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from pathotune.features.featureset import FeatureSet, header
from pathotune.methods.base import trained_parameters
from pathotune.methods.mil.method import Mil
from pathotune.training.draws import BalancedDraws, batches
from pathotune.training.fit import Fit, State, fit
from pathotune.training.metrics import temperature_fit
from pathotune.training.stopping import Stopping
from pathotune.training.validation import score, softmax

if TYPE_CHECKING:
    from pathotune.events import Event
    from pathotune.methods.mil.config import MilConfig
    from pathotune.training.schedule import TrainingConfig

# Draws of an epoch: few slides come several times, so that early stopping is asked not too often.
LEAST_DRAWS, MOST_DRAWS = 256, 2048
TILES_PER_SLIDE = 4096
# Tiles of the training slides that the features are standardised by.
LOOK_AT = 50_000
EPOCHS, PATIENCE = 40, 10


class Bag:
    """The tiles of one slide.

    features : (n, D) float32.
    cells : (n, 2) column and row of each tile on a grid of its slide.
    coords_px0 : (n, 2) its top-left corner.
    """

    def __init__(self, found: FeatureSet) -> None:
        self.features = np.ascontiguousarray(found.features, dtype=np.float32)
        self.coords_px0 = found.coords_px0
        self.cells = cells_of(found.coords_px0, found.tile_px0)

    def __len__(self) -> int:
        return len(self.features)


def cells_of(coords_px0: NDArray[np.float64], tile_px0: Sequence[float]) -> NDArray[np.int64]:
    """(n, 2) column and row of tiles, in steps of the distance from tile to tile."""
    if not len(coords_px0):
        return np.zeros((0, 2), np.int64)
    return np.asarray(np.rint((coords_px0 - coords_px0.min(axis=0)) / tile_steps(coords_px0, tile_px0)), dtype=np.int64)


def tile_steps(coords_px0: NDArray[np.float64], tile_px0: Sequence[float]) -> NDArray[np.float64]:
    """(2,) the usual distance from tile to tile across and down, in level-0 pixels."""
    return np.asarray([_step(coords_px0[:, axis], float(tile_px0[axis])) for axis in (0, 1)])


def _step(places: NDArray[np.float64], tile: float) -> float:
    """Where tiles overlap or gape it is not the tile."""
    apart = np.diff(np.unique(np.rint(places)))
    apart = apart[apart > tile / 8]
    return float(np.median(apart)) if len(apart) else tile


class Bags:
    """The bags of a cohort, read when asked for and kept as long as they fit into memory.

    Parameters
    ----------
    paths : (n) files of tile features.
    cache_mb : memory for them.
    """

    def __init__(self, paths: Sequence[Path], cache_mb: int = 1024) -> None:
        self.paths, self._most = tuple(paths), cache_mb * 2**20
        self._kept: OrderedDict[int, Bag] = OrderedDict()
        self._bytes = 0
        self.headers = [header(path) for path in paths]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> Bag:
        """The bag of a row."""
        if row in self._kept:
            self._kept.move_to_end(row)
            return self._kept[row]
        bag = Bag(FeatureSet.load(self.paths[row]))
        self._kept[row] = bag
        self._bytes += bag.features.nbytes
        while self._bytes > self._most and len(self._kept) > 1:
            self._bytes -= self._kept.popitem(last=False)[1].features.nbytes
        return bag


@dataclass(frozen=True)
class Learned:
    """What a training on bags came to.

    model : in evaluation mode, with its temperature set.
    fit : of the loop.
    held_probabilities : (m, K) calibrated, of the slides that chose the epoch.
    """

    model: Mil
    fit: Fit
    held_probabilities: NDArray[np.float64]
    parameters: int


def learn(
    bags: Bags,
    labels: NDArray[np.int64],
    class_names: Sequence[str],
    train: NDArray[np.int64],
    held: NDArray[np.int64],
    config: MilConfig,
    training: TrainingConfig,
    device: str,
    stopping: Stopping | None = None,
) -> Generator[Event, None, Learned]:
    """Train an aggregator on the rows `train`, and choose epoch and temperature by the rows `held`.

    Parameters
    ----------
    bags, labels : of the whole cohort.
    class_names : K names.
    device : where the aggregator runs.
    """
    training = replace(training, epochs=training.epochs or EPOCHS, patience=training.patience or PATIENCE)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        model = Mil(config, bags.headers[int(train[0])].width, class_names).to(device)
    trainee = BagTrainee(model, bags, labels, train, held, config, training, device)
    model.standardise(trainee.look())
    found = yield from fit(trainee, training, stopping)
    logits = trainee.logits(held)
    model.temperature = float(temperature_fit(logits, labels[held]))
    model.eval()
    parameters = sum(value.numel() for value in trainee.parameters_by_name().values())
    return Learned(model, found, softmax(logits, model.temperature), parameters)


class BagTrainee:
    """A model of bags and its slides, as `training.fit` trains them."""

    unit = "slides"

    def __init__(
        self,
        model: Mil,
        bags: Bags,
        labels: NDArray[np.int64],
        train: NDArray[np.int64],
        held: NDArray[np.int64],
        config: MilConfig,
        training: TrainingConfig,
        device: str,
    ) -> None:
        self.model, self.bags, self.labels, self.train, self.held = model, bags, labels, train, held
        self.config, self.training, self.device = config, training, device
        self.draws = BalancedDraws(labels[train], training.seed)
        self.most = config.tiles_per_slide or TILES_PER_SLIDE

    def look(self) -> Tensor:
        """(n, D) features of some tiles of every training slide, as the model sees them."""
        each, random = max(1, LOOK_AT // len(self.train)), np.random.default_rng(self.training.seed)
        parts = []
        for row in self.train.tolist():
            features = self.model.own(torch.as_tensor(self.bags[row].features, device=self.device))
            drawn = slice(None) if len(features) <= each else random.permutation(len(features))[:each]
            parts.append(features[drawn])
        return torch.cat(parts)

    def parameters_by_name(self) -> dict[str, nn.Parameter]:
        """What is trained."""
        return trained_parameters(self.model)

    def batches(self, random: np.random.Generator) -> Sequence[Any]:
        """Slides of the next epoch; every class comes equally often."""
        count = self.training.tiles_per_epoch or min(max(len(self.train), LEAST_DRAWS), MOST_DRAWS)
        return batches(self.train[self.draws.draw(count)], self.training.batch_size)

    def loss(self, batch: NDArray[np.int64]) -> Tensor:
        """Mean over the slides of cross-entropy and, in its part, of what single tiles are taught."""
        self.model.train()
        losses = []
        for row in batch.tolist():
            features, cells = self._tensors(row, self.most)
            label = int(self.labels[row])
            said = self.model(features, cells)
            whole = functional.cross_entropy(said.logits[None], torch.tensor([label], device=self.device))
            single = self.model.aggregator.bag_loss(said.pooled, label)
            share = self.config.instance_weight if single is not None else 0.0
            losses.append(whole if single is None else (1 - share) * whole + share * single)
        return torch.stack(losses).mean()

    def _tensors(self, row: int, most: int = 0) -> tuple[Tensor, Tensor]:
        """Features and cells of a slide, at most so many of its tiles."""
        bag = self.bags[row]
        features, cells = bag.features, bag.cells
        if most and len(bag) > most:
            drawn = np.sort(self.draws.random.permutation(len(bag))[:most])
            features, cells = features[drawn], cells[drawn]
        return torch.as_tensor(features, device=self.device), torch.as_tensor(cells, device=self.device)

    def logits(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """(m, K) of slides, uncalibrated."""
        self.model.eval()
        with torch.no_grad():
            found = [self.model(*self._tensors(row)).logits.double().cpu().numpy() for row in rows.tolist()]
        return np.stack(found)

    def judge(self) -> dict[str, float]:
        """The lower the loss of the held-out slides at its best temperature, the better."""
        scores = score(self.logits(self.held), self.labels[self.held])
        return {"score": -scores.loss, **scores.metrics()}

    def state(self) -> State:
        """A copy of what training changes."""
        return self.model.trainable_state()

    def load_state(self, state: State) -> None:
        """Put it back."""
        self.model.load_trainable_state(state)
