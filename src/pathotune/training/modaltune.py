"""ModalTune under training: patients read as they are needed, prompts one graph at a time, modalities withheld."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pathotune.device import Precision, choose_precision, number_format
from pathotune.methods.base import trained_parameters
from pathotune.methods.modaltune.layers import StoredGradient, text_loss
from pathotune.methods.modaltune.method import Answer, ModalTune, Patients
from pathotune.training.linear_models import ClassModel, CoxModel, c_index, has_cox
from pathotune.training.metrics import balanced_accuracy
from pathotune.training.stopping import Stopping

if TYPE_CHECKING:
    from pathotune.training.bags import Bags
    from pathotune.training.fit import State
    from pathotune.training.patients import PatientTable

# Pixels between the slides of a patient, on top of where the slides before end.
GAP_PX = 1500
# Tokens of all prompts and patients of a step that pass together; above it each prompt passes alone.
TOGETHER = 20_000
# Patients and tiles on which the number formats are compared.
PROBE = (4, 512)


@dataclass(frozen=True)
class PatientData:
    """Everything that is known of some patients, ready to be asked for.

    table : one row a patient.
    bags : the tile features of the slides, read when asked for.
    slides : of each patient, which bags are hers.
    clinical : (n, 5) numbers, and who has any; None where the tuning takes none.
    most_tiles : of a patient with more, so many are drawn.
    """

    table: PatientTable
    bags: Bags
    slides: tuple[tuple[int, ...], ...]
    clinical: tuple[NDArray[np.float32], NDArray[np.bool_]] | None
    most_tiles: int

    def tiles(self, patient: int, seed: int | Sequence[int]) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """Features (n, d) and corners (n, 2), in pixels of the size tiles were read at, of one patient.

        All slides one after the other, each below the ones before, by the running sum of their heights: the published
        code shifts by the last slide's own height, so that a third slide may lie on the second.
        """
        features, corners, below = [], [], 0.0
        for number in self.slides[patient]:
            bag, header = self.bags[number], self.bags.headers[number]
            scale = header.tile_px / float(np.mean(header.tile_px0))
            places = bag.coords_px0 * scale + (0.0, below)
            below = float(places[:, 1].max()) + GAP_PX
            features.append(bag.features)
            corners.append(places)
        joined, places = np.concatenate(features), np.concatenate(corners)
        if len(joined) > self.most_tiles:
            drawn = np.sort(np.random.default_rng(seed).permutation(len(joined))[: self.most_tiles])
            joined, places = joined[drawn], places[drawn]
        return joined, places

    def gather(self, patients: Sequence[int], seeds: Sequence[int | Sequence[int]], device: str) -> Patients:
        """These patients as tensors, the shorter ones filled up."""
        found = [self.tiles(patient, seed) for patient, seed in zip(patients, seeds, strict=True)]
        longest, width = max(len(features) for features, _ in found), found[0][0].shape[1]
        features = torch.zeros(len(found), longest, width)
        corners = torch.zeros(len(found), longest, 2, dtype=torch.float64)
        mask = torch.zeros(len(found), longest, dtype=torch.bool)
        for row, (values, places) in enumerate(found):
            features[row, : len(values)] = torch.from_numpy(values)
            corners[row, : len(values)] = torch.from_numpy(places)
            mask[row, : len(values)] = True
        rows = np.asarray(patients)
        genes, has_genes, clinical, has_clinical = None, None, None, None
        if self.table.genes is not None:
            genes = torch.from_numpy(self.table.genes[rows]).to(device)
            has_genes = torch.from_numpy(self.table.has_genes[rows]).to(device)
        if self.clinical is not None:
            clinical = torch.from_numpy(self.clinical[0][rows]).to(device)
            has_clinical = torch.from_numpy(self.clinical[1][rows]).to(device)
        whole = None if bool(mask.all()) else mask.to(device)
        return Patients(features.to(device), corners.to(device), whole, genes, has_genes, clinical, has_clinical)


class PatientTrainee:
    """ModalTune together with its patients, as `training.fit` trains it.

    Parameters
    ----------
    model : on its device.
    data : the patients.
    train, held : which of them are learned from, and which choose the epoch.
    texts : (n, prompts, text_dim) sentence vectors; `known` (n, prompts) true where there is a sentence.
    seed : of the draws of tiles where a patient has too many.
    """

    unit = "patients"

    def __init__(
        self,
        model: ModalTune,
        data: PatientData,
        train: NDArray[np.int64],
        held: NDArray[np.int64],
        texts: Tensor,
        known: Tensor,
        device: str,
        seed: int = 0,
        stopping: Stopping | None = None,
    ) -> None:
        self.model, self.data, self.train, self.held, self.device, self.seed = model, data, train, held, device, seed
        self.prompts = model.config.prompt_names
        self.stopping = stopping or Stopping()
        self.known = known.to(device)
        with torch.no_grad():
            self.targets = model.targets(texts.to(device))
            if model.config.centre_targets:
                self.targets = _centred(self.targets, self.known, torch.from_numpy(train).to(device))
        self.drawn = 0
        self.precision = Precision("float32")

    def choose(self, wanted: str) -> Precision:
        """Settle the number format of the steps and of the score that chooses the epoch, tried on a few patients."""
        few, most = PROBE
        given = self.data.gather(self.train[:few].tolist(), [(self.seed, row) for row in self.train[:few]], self.device)
        corners, mask = given.coords[:, :most], None if given.mask is None else given.mask[:, :most]
        self.model.eval()

        def vectors(features: Tensor) -> Tensor:
            part = slice(len(features))
            some = Patients(features, corners[part], None if mask is None else mask[part])
            asked: Tensor = self.model(some, self.prompts[:1]).vectors
            return asked.float()

        name = f"modaltune around {self.model.config.slide_encoder}"
        with self.stopping.undisturbed():
            self.precision = choose_precision(vectors, given.features[:, :most], self.device, wanted, what=name)
        return self.precision

    def parameters_by_name(self) -> dict[str, nn.Parameter]:
        """The side path's, the gene encoder's and the fused vector's."""
        return {name: value for name, value in trained_parameters(self.model).items() if value.requires_grad}

    def batches(self, random: np.random.Generator) -> Sequence[NDArray[np.int64]]:
        """Every training patient once, in a new order."""
        self.drawn = int(random.integers(2**31))
        size = self.model.config.patients_per_step if self.model.backbone.takes_masks else 1
        order = random.permutation(self.train)
        return [order[start : start + size] for start in range(0, len(order), size)]

    def loss(self, batch: NDArray[np.int64]) -> Tensor:
        """The loss towards the texts; where that is large, prompt by prompt with one graph at a time."""
        self.model.train()
        rows = torch.from_numpy(batch).to(self.device)
        given = self._withheld(self.data.gather(batch.tolist(), [(self.drawn, row) for row in batch], self.device))
        targets, known = self.targets[rows], self.known[rows]
        if given.features.shape[0] * given.features.shape[1] * len(self.prompts) <= TOGETHER:
            vectors = self._asked(given, self.prompts)
            return text_loss(vectors, targets, self.model.config.temperature, known=known)
        parameters = list(self.parameters_by_name().values())
        total = torch.zeros((), device=self.device)
        summed: list[Tensor | None] = [None] * len(parameters)
        for number, prompt in enumerate(self.prompts):
            self.stopping.look()
            part = text_loss(
                self._asked(given, (prompt,)),
                targets[:, number : number + 1],
                self.model.config.temperature,
                known=known[:, number : number + 1],
            )
            found = torch.autograd.grad(part, parameters, allow_unused=True)
            summed = [_added(one, other) for one, other in zip(summed, found, strict=True)]
            total = total + part.detach()
        loss: Tensor = StoredGradient.apply(total, summed, *parameters)
        return loss

    def _asked(self, given: Patients, prompts: tuple[str, ...]) -> Tensor:
        with number_format(self.device, self.precision):
            vectors: Tensor = self.model(given, prompts).vectors
        return vectors

    def _withheld(self, given: Patients) -> Patients:
        """The same patients, some of them without expression, and some without clinical numbers."""
        rate = self.model.config.modality_dropout
        if not rate:
            return given

        def left(present: Tensor | None) -> Tensor | None:
            return None if present is None else present & (torch.rand(present.shape, device=present.device) >= rate)

        return given._replace(has_genes=left(given.has_genes), has_clinical=left(given.has_clinical))

    def judge(self) -> dict[str, float]:
        """Linear models of the first prompt's vectors, learned from the training patients, on the held-out ones.

        The score is the mean of balanced accuracy and concordance index, or the one of them that there is. Without
        either it is the negative loss.
        """
        table = self.data.table
        prompt = self.prompts[:1]
        with number_format(self.device, self.precision):
            train, held = self.vectors(self.train, prompt)[:, 0], self.vectors(self.held, self.prompts)
        scores = {"val_loss": self._held_loss(held)}
        labels = table.labels
        learned, judged = labels[self.train] >= 0, labels[self.held] >= 0
        if len(np.unique(labels[self.train][learned])) > 1 and judged.any():
            model = ClassModel.fit(train[learned], labels[self.train][learned], len(table.class_names))
            said = model.probabilities(held[judged, 0]).argmax(axis=1)
            value = balanced_accuracy(labels[self.held][judged], said, len(table.class_names))
            scores["balanced_accuracy"] = float("nan") if value is None else value
        event, time = table.event, table.time
        if has_cox() and (event[self.train] == 1).sum() > 1 and (event[self.held] == 1).any():
            there = event[self.train] >= 0
            cox = CoxModel.fit(train[there], time[self.train][there], event[self.train][there])
            concordance = c_index(time[self.held], event[self.held], cox.risk(held[:, 0]))
            if concordance is not None:
                scores["c_index"] = concordance
        parts = [scores[name] for name in ("balanced_accuracy", "c_index") if np.isfinite(scores.get(name, np.nan))]
        scores["score"] = float(np.mean(parts)) if parts else -scores["val_loss"]
        return scores

    def _held_loss(self, vectors: NDArray[np.float32]) -> float:
        rows = torch.from_numpy(self.held).to(self.device)
        loss = text_loss(
            torch.from_numpy(vectors).to(self.device),
            self.targets[rows],
            self.model.config.temperature,
            known=self.known[rows],
        )
        return float(loss)

    def vectors(self, patients: NDArray[np.int64], prompts: Sequence[str]) -> NDArray[np.float32]:
        """(n, prompts, output_dim) vectors of length 1."""
        return patient_vectors(self.model, self.data, patients, prompts, self.device, self.seed, self.stopping)

    def state(self) -> State:
        """The trained tensors and the text projector."""
        return self.model.trainable_state()

    def load_state(self, state: State) -> None:
        """Put back what `state` gave."""
        self.model.load_trainable_state(state)


@torch.no_grad()
def patient_vectors(
    model: ModalTune,
    data: PatientData,
    patients: NDArray[np.int64],
    prompts: Sequence[str],
    device: str,
    seed: int = 0,
    stopping: Stopping | None = None,
) -> NDArray[np.float32]:
    """Vectors of patients, (n, prompts, output_dim) of length 1, in evaluation mode; the same tiles at every call."""
    model.eval()
    size = 8 if model.backbone.takes_masks else 1
    found = []
    for start in range(0, len(patients), size):
        if stopping is not None:
            stopping.look()
        few = patients[start : start + size].tolist()
        given = data.gather(few, [(seed, row) for row in few], device)
        found.append(answer(model, given, prompts).vectors)
    if not found:
        return np.zeros((0, len(prompts), model.fuse.out_features), dtype=np.float32)
    joined = torch.nn.functional.normalize(torch.cat(found).float(), dim=-1)
    return np.asarray(joined.cpu().numpy(), dtype=np.float32)


def answer(model: ModalTune, given: Patients, prompts: Sequence[str], attention: bool = False) -> Answer:
    """All prompts at once where that is small, else one after the other."""
    if given.features.shape[0] * given.features.shape[1] * len(prompts) <= TOGETHER:
        whole: Answer = model(given, tuple(prompts), attention)
        return whole
    parts = [model(given, (prompt,), attention) for prompt in prompts]
    names = parts[0].attention
    return Answer(
        torch.cat([part.vectors for part in parts], dim=1),
        torch.cat([part.image for part in parts], dim=1),
        {name: torch.cat([part.attention[name] for part in parts], dim=1) for name in names},
    )


def _centred(targets: Tensor, known: Tensor, train: Tensor) -> Tensor:
    """Unit targets (n, prompts, d) without the mean of the training patients' under each prompt."""
    unit = torch.nn.functional.normalize(targets, dim=-1)
    there = known[train].unsqueeze(-1).to(unit)
    mean = (unit[train] * there).sum(dim=0) / there.sum(dim=0).clamp_min(1.0)
    return unit - mean


def _added(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    if one is None or other is None:
        return other if one is None else one
    return one + other
