"""What `fit` trains in transcriptomics tuning: the model with its samples, in memory or read as they are needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pathotune.errors import TuningMismatch
from pathotune.losses.contrastive import recall_at
from pathotune.methods.transcriptomics.encoder import TunedEncoder
from pathotune.methods.transcriptomics.layers import squared_error
from pathotune.methods.transcriptomics.method import Transcriptomics
from pathotune.training.gene_scores import correlations

if TYPE_CHECKING:
    from pathotune.methods.transcriptomics.config import TranscriptomicsConfig
    from pathotune.training.paired import Paired
    from pathotune.training.partners import Partner
    from pathotune.training.schedule import TrainingConfig
    from pathotune.training.transcriptomics import Source

FEWEST_OF_A_GROUP = 16
PASS = 64  # samples that are asked at a time where no gradient is wanted
PROBE = 8  # tiles that the number format is chosen by
ENCODER = "encoder."


class PairedTrainee:
    """The model, its samples, and their partners.

    Parameters
    ----------
    paired : with a split for every sample.
    scores : (n, G) z-scores of the genes, or None.
    partner : the other side of the contrast, or None.
    source : the backbone.
    """

    def __init__(
        self,
        config: TranscriptomicsConfig,
        paired: Paired,
        scores: NDArray[np.float32] | None,
        partner: Partner | None,
        source: Source,
        training: TrainingConfig,
    ) -> None:
        self.config, self.paired, self.source, self.training = config, paired, source, training
        self.unit = "spots" if paired.level == "spot" else "patients"
        self.device = source.device
        self.random = np.random.default_rng(training.seed)
        self.train, self.held = paired.rows("train"), paired.rows("val")
        self.scores = None if scores is None else torch.from_numpy(self._aims(scores)).to(self.device)
        self.partner = None if partner is None else torch.from_numpy(partner.values).to(self.device)
        width = paired.about.width
        self._bags: dict[int, NDArray[np.float32]] = {}
        tiles = sum(len(bag) for bag in paired.bags or ())
        self._keeps_bags = tiles * width * 4 <= training.cache_mb * 2**20
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(training.seed)
            genes = 0 if scores is None else scores.shape[1]
            pools = paired.bags is not None
            self.model = Transcriptomics(config, width, genes, 0 if partner is None else partner.values.shape[1], pools)
            self.model.to(self.device)
            self.encoder = self._tuned() if config.mode == "encoder" else None
        self._begin()

    # -- what fit asks --------------------------------------------------------------------------------------------

    def parameters_by_name(self) -> dict[str, nn.Parameter]:
        """The model's, and those in the backbone where it is tuned too."""
        found = dict(self.model.trained())
        if self.encoder is not None:
            found |= {ENCODER + name: value for name, value in self.encoder.parameters.items()}
        return found

    def rate_share(self, name: str) -> float:
        """The backbone learns slower."""
        return self.config.encoder_rate if name.startswith(ENCODER) else 1.0

    def batches(self, random: np.random.Generator) -> Sequence[NDArray[np.int64]]:
        """The training samples in a new order; a last batch too small for a contrast is left out.

        For a contrast a batch is of one section or cohort, where there are several large enough: which one a sample is
        from shall not be what finds its partner.
        """
        size = min(self.training.batch_size, len(self.train))
        groups = np.asarray([self.paired.groups[row] for row in self.train])
        apart = self.config.contrasts and self.config.within_groups
        names = list(dict.fromkeys(groups.tolist()))
        if not apart or min(int((groups == name).sum()) for name in names) < FEWEST_OF_A_GROUP:
            names, groups = [""], np.full(len(groups), "")
        parts = []
        for name in names:
            order = random.permutation(self.train[groups == name])
            parts += [order[start : start + size] for start in range(0, len(order), size)]
        parts = [part for part in parts if len(part) > 1] or parts
        return [parts[index] for index in random.permutation(len(parts))]

    def loss(self, batch: NDArray[np.int64]) -> Tensor:
        """The objective on these samples."""
        self.model.train()
        samples = self._samples(batch, learn=True)
        return self.model.loss(samples, self._of(self.scores, batch), self._of(self.partner, batch))

    def judge(self) -> dict[str, float]:
        """Mean correlation of the genes within groups; for a contrast alone the negative loss decides."""
        self.model.eval()
        # For a contrast the head is fitted to see how genes fare meanwhile; not where every tile would have to pass the
        # backbone once more for it.
        tells_genes = self.config.predicts or self.encoder is None
        if not self.config.predicts and tells_genes:
            self._fit_head()
        found: dict[str, float] = {}
        with torch.no_grad():
            samples = self._samples(self.held)
            if self.scores is not None and tells_genes:
                predicted = self.model.pooled_genes(samples)
                found["mean_r"] = self._mean_r(predicted)
                found["loss"] = float(squared_error(predicted, self.scores[self.held]))
            if self.partner is not None and self.model.contrast is not None:
                sides = self.model.both_sides(self.model.vectors(samples), self.partner[self.held])
                found["contrast"] = float(self.model.contrast(*sides))
                found |= recall_at(sides[0].cpu().numpy(), sides[1].cpu().numpy(), (5,))
        predicts = self.config.predicts and "mean_r" in found
        return {"score": found["mean_r"] if predicts else -found["contrast"], **found}

    def state(self) -> dict[str, NDArray[np.float32]]:
        """The model's tensors, and the backbone's that were tuned."""
        found = self.model.trainable_state()
        if self.encoder is not None:
            found |= {
                ENCODER + name: value.detach().cpu().numpy().copy() for name, value in self.encoder.parameters.items()
            }
        return found

    def load_state(self, state: dict[str, NDArray[np.float32]]) -> None:
        """Put back what `state` gave."""
        self.model.load_trainable_state({k: v for k, v in state.items() if not k.startswith(ENCODER)})
        if self.encoder is not None:
            with torch.no_grad():
                for name, value in self.encoder.parameters.items():
                    value.copy_(torch.as_tensor(state[ENCODER + name]))

    # -- what the trainer asks ------------------------------------------------------------------------------------

    def count(self) -> int:
        """Trained numbers."""
        return sum(value.numel() for value in self.parameters_by_name().values())

    def finish(self) -> None:
        """The head to genes of a contrast: fitted on the finished features."""
        self.model.eval()
        if self.encoder is not None:
            self.encoder.exactly()
        if not self.config.predicts:
            self._fit_head()

    @torch.no_grad()
    def predicted(self) -> NDArray[np.float32] | None:
        """(n, G) z-scores of all samples, or None without genes."""
        if self.scores is None:
            return None
        parts = []
        for start in range(0, len(self.paired), PASS):
            rows = np.arange(start, min(start + PASS, len(self.paired)))
            parts.append(self.model.pooled_genes(self._samples(rows)).cpu().numpy())
        return np.concatenate(parts)

    @torch.no_grad()
    def retrieval(self, rows: NDArray[np.int64]) -> dict[str, Any]:
        """How well images find their own partner among these samples, within each group, then the mean."""
        if self.partner is None or self.model.contrast is None:
            return {}
        groups = [self.paired.groups[row] for row in rows]
        found: dict[str, list[float]] = {}
        for name in dict.fromkeys(groups):
            own = rows[[group == name for group in groups]]
            sides = self.model.both_sides(self.model.vectors(self._samples(own)), self.partner[own])
            for key, value in recall_at(sides[0].cpu().numpy(), sides[1].cpu().numpy()).items():
                found.setdefault(key, []).append(value)
        return {"retrieval": {key: float(np.mean(values)) for key, values in found.items()}}

    # -- inside ---------------------------------------------------------------------------------------------------

    def _aims(self, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """(n, G) what is aimed at: without the mean of the section or cohort, where that shall not be learned."""
        groups = np.asarray(self.paired.groups)
        if not self.config.within_groups or len(set(groups[self.train].tolist())) < 2:
            return scores
        aims = scores.copy()
        for name in dict.fromkeys(groups[self.train].tolist()):
            learned = scores[self.train[groups[self.train] == name]]
            known = np.isfinite(learned)
            mean = np.where(known, learned, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
            aims[groups == name] -= mean.astype(np.float32)
        return aims

    def _begin(self) -> None:
        """Take the features' scale, and let the prediction begin as the best linear one."""
        if self.paired.bags is None:
            self.model.adapter.standardise(self._plain(self.train))
        else:
            some = self.random.choice(self.train, min(len(self.train), 64), replace=False)
            drawn = [torch.from_numpy(self.paired.bags[row].load(64, self.random)) for row in some]
            self.model.adapter.standardise(torch.cat(drawn).to(self.device))
        # The attention of patients' tiles knows nothing yet: a head fitted to its vectors would fit noise.
        fits = self.paired.bags is None or self.config.aggregator == "mean"
        if self.config.predicts and self.config.start == "ridge" and fits and self.model.head is not None:
            self.model.eval()
            self._fit_head()

    def _plain(self, rows: NDArray[np.int64]) -> Tensor:
        if self.paired.features is None:
            raise TuningMismatch("These samples are bags of tiles.")
        return torch.from_numpy(self.paired.features[rows]).to(self.device)

    def _samples(self, rows: NDArray[np.int64], learn: bool = False) -> Any:
        """What the model takes: (b, D) features of spots, or a list of bags."""
        if self.encoder is not None:
            return self._encoded(self.encoder, rows, learn)
        if self.paired.bags is not None:
            most = self.config.tiles_per_patient if learn else 0
            drawn = self.random if learn else None
            return [torch.from_numpy(self._bag(int(row), most, drawn)).to(self.device) for row in rows]
        return self._plain(rows)

    def _bag(self, row: int, most: int, random: np.random.Generator | None) -> NDArray[np.float32]:
        """(m, D) a patient's tiles; all patients' are kept in memory where they fit, else read each time."""
        if self.paired.bags is None:
            raise TuningMismatch("These samples are spots.")
        bag = self.paired.bags[row]
        if not self._keeps_bags:
            return bag.load(most, random)
        if row not in self._bags:
            self._bags[row] = bag.load()
        whole = self._bags[row]
        if not most or len(whole) <= most or random is None:
            return whole
        return whole[np.sort(random.choice(len(whole), most, replace=False))]

    def _tuned(self) -> TunedEncoder:
        pictures = self.paired.images if self.paired.pool is None else self.paired.pool.images
        if pictures is None:
            raise TuningMismatch("These samples came without pictures of their tiles.")
        how = self.training.precision, self.training.augment
        return TunedEncoder(self.config, self.source.load(), self.device, pictures[:PROBE], *how)

    def _encoded(self, encoder: TunedEncoder, rows: NDArray[np.int64], learn: bool) -> Any:
        """(b, D) of spots by the tuned backbone as it is now, or (m_i, D) of some tiles of each patient."""
        pool = self.paired.pool
        if pool is None:
            return encoder(self.paired.images, rows, learn)  # type: ignore[arg-type]
        most = self.config.encoder_tiles if learn else 0
        drawn = [pool.rows(int(row), most, self.random if learn else None) for row in rows]
        return list(torch.split(encoder(pool.images, np.concatenate(drawn), learn), [len(part) for part in drawn]))

    @torch.no_grad()
    def _fit_head(self) -> None:
        """The ridge regression on what the adapter gives now; its strength by the held-out samples."""
        if self.model.head is None or self.scores is None:
            return
        vectors = [self._vectors(rows) for rows in (self.train, self.held)]
        self.model.head.fit(vectors[0], self.scores[self.train], vectors[1], self.scores[self.held])

    def _vectors(self, rows: NDArray[np.int64]) -> Tensor:
        parts = [self.model.vectors(self._samples(rows[start : start + PASS])) for start in range(0, len(rows), PASS)]
        return torch.cat(parts)

    def _of(self, values: Tensor | None, rows: NDArray[np.int64]) -> Tensor | None:
        return None if values is None else values[torch.as_tensor(rows, device=values.device)]

    def _mean_r(self, predicted: Tensor) -> float:
        if self.scores is None:
            return 0.0
        measured, guessed = self.scores[self.held].cpu().numpy(), predicted.cpu().numpy()
        groups = np.asarray([self.paired.groups[row] for row in self.held])
        means = []
        for name in dict.fromkeys(groups.tolist()):
            r, _ = correlations(guessed[groups == name], measured[groups == name])
            if np.isfinite(r).any():
                means.append(float(np.nanmean(r)))
        return float(np.mean(means)) if means else 0.0
