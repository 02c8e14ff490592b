"""Transcriptomics tuning's model: adapter, pooling of a patient's tiles, and what image and partner are compared by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from pathotune.aggregators import build_aggregator
from pathotune.aggregators.topk import TopK
from pathotune.backbones.tile.enhanced import ResidualAdapter, changed_backbone
from pathotune.errors import TuningUnreadable, UsageError
from pathotune.losses.contrastive import InfoNCE
from pathotune.methods.base import load_trained_arrays, trained_arrays
from pathotune.methods.transcriptomics.layers import (
    ImageProjection,
    LinearMap,
    ModalityEncoder,
    correlation_loss,
    squared_error,
)

if TYPE_CHECKING:
    from pathotune.backbones.surface import Backbone
    from pathotune.datasets.expression import GeneScaler
    from pathotune.methods.checkpoint import Tuning
    from pathotune.methods.transcriptomics.config import TranscriptomicsConfig

# How many of a patient's highest tiles speak for a gene; drawn in training, all of them at the end (HE2RNA).
TOP = (1, 2, 5, 10, 20, 50, 100)
HIDDEN = 256


class Transcriptomics(nn.Module):
    """Adapter, aggregator, head to genes, and the two encoders of the contrast.

    Parameters
    ----------
    config : the options.
    width : D, of the backbone's pooled features.
    genes : G, how many are predicted.
    partner : width of the contrast's other side, 0 without a contrast.
    pools : whether a sample is a bag of tiles (a patient) rather than one tile (a spot).

    Attributes
    ----------
    adapter : the enhancement: what stays of the tuning where only the encoder is used.
    """

    def __init__(self, config: TranscriptomicsConfig, width: int, genes: int, partner: int, pools: bool) -> None:
        super().__init__()
        if pools and config.aggregator == "topk" and config.contrasts:
            raise UsageError(
                "With aggregator=topk a patient has one number per gene and no vector to compare; take "
                "aggregator=abmil for the objectives contrastive and joint."
            )
        self.config, self.pools = config, pools
        self.adapter = ResidualAdapter(width)
        self.aggregator: nn.Module | None = None
        vector = width
        if pools:
            self.aggregator = build_aggregator(
                config.aggregator, width, genes, hidden=HIDDEN if config.aggregator != "mean" else 0, dropout=0.25, k=10
            )
            vector = HIDDEN if config.aggregator != "mean" else width
        self.scores_tiles = isinstance(self.aggregator, TopK)
        self.head = LinearMap(vector, genes) if genes and not self.scores_tiles else None
        self.image: ImageProjection | None = None
        self.partner: ModalityEncoder | None = None
        self.contrast: InfoNCE | None = None
        if config.contrasts:
            self.image = ImageProjection(vector, config.projection, config.dropout)
            self.partner = ModalityEncoder(partner, config.hidden, config.projection, config.dropout)
            self.contrast = InfoNCE(config.temperature, config.learn_temperature)

    # -- images to answers ----------------------------------------------------------------------------------------

    def vectors(self, samples: Tensor | Sequence[Tensor]) -> Tensor:
        """(b, V) of spots (b, D), or of patients as bags of tiles (n_i, D); with top tiles (b, G), the genes."""
        if self.aggregator is None:
            spots = samples if isinstance(samples, Tensor) else torch.stack(list(samples))
            vectors: Tensor = self.adapter.inner(spots)
            return vectors
        return torch.stack([self.aggregator(self.adapter.inner(bag)).vector for bag in samples])

    def genes(self, vectors: Tensor) -> Tensor:
        """(b, G) z-scores of `vectors`."""
        if self.head is None:
            return vectors
        result: Tensor = self.head(vectors)
        return result

    def of_tiles(self, features: Tensor) -> Tensor:
        """(n, G) what single tiles say of the genes; for patients each tile is taken for the whole."""
        if self.aggregator is None:
            return self.genes(self.vectors(features))
        inner = self.adapter.inner(features)
        if isinstance(self.aggregator, TopK):
            scores: Tensor = self.aggregator.score(self.aggregator.embed(inner))
            return scores
        return self.genes(self.aggregator.embed(inner))  # type: ignore[operator]

    def pooled_genes(self, samples: Tensor | Sequence[Tensor]) -> Tensor:
        """(b, G) as they are reported: with top tiles the mean over all numbers of tiles."""
        if not isinstance(self.aggregator, TopK):
            return self.genes(self.vectors(samples))
        answers = []
        for bag in samples:
            scores = self.of_tiles(bag).sort(dim=0, descending=True).values.cumsum(dim=0)  # (n, G)
            tops = [top for top in TOP if top <= len(scores)] or [len(scores)]
            answers.append(torch.stack([scores[top - 1] / top for top in tops]).mean(dim=0))
        return torch.stack(answers)

    # -- losses ---------------------------------------------------------------------------------------------------

    def loss(self, samples: Tensor | Sequence[Tensor], wanted: Tensor | None, partner: Tensor | None) -> Tensor:
        """The objective on a batch.

        Parameters
        ----------
        wanted : (b, G) z-scores, NaN where not measured.
        partner : (b, p) the other side, standardised.
        """
        if isinstance(self.aggregator, TopK):
            self.aggregator.k = TOP[int(torch.randint(len(TOP), ()))]
        vectors = self.vectors(samples)
        loss = vectors.sum() * 0
        if self.config.predicts and wanted is not None:
            predicted = self.genes(vectors)
            loss = loss + squared_error(predicted, wanted)
            if self.config.correlation:
                loss = loss + self.config.correlation * correlation_loss(predicted, wanted)
        if self.contrast is not None and self.image is not None and self.partner is not None and partner is not None:
            weight = self.config.contrast if self.config.predicts else 1.0
            loss = loss + weight * self.contrast(self.image(vectors), self.partner(partner))
        return loss

    def both_sides(self, vectors: Tensor, partner: Tensor) -> tuple[Tensor, Tensor]:
        """(b, d) each: image and partner in the space they meet in."""
        if self.image is None or self.partner is None:
            raise UsageError("This tuning has no contrast, so that images and partners cannot be compared.")
        return self.image(vectors), self.partner(partner)

    # -- state ----------------------------------------------------------------------------------------------------

    def trainable_state(self) -> dict[str, np.ndarray]:
        """Every tensor by name."""
        return trained_arrays(self)

    def load_trainable_state(self, state: dict[str, np.ndarray]) -> None:
        """Put back what `trainable_state` gave; raises TuningUnreadable or TuningMismatch."""
        load_trained_arrays(self, state)

    def trained(self) -> dict[str, nn.Parameter]:
        """The parameters that gradients change: with the objective contrastive the head is fitted instead."""
        return {
            name: value
            for name, value in self.named_parameters()
            if self.config.predicts or not name.startswith("head.")
        }


def restored(tuning: Tuning, device: str = "cpu") -> tuple[Transcriptomics, GeneScaler | None]:
    """The model of a tuning, in evaluation mode, and the scale of its genes.

    Raises
    ------
    TuningUnreadable, TuningMismatch : it does not hold what it should.
    """
    from pathotune.datasets.expression import GeneScaler
    from pathotune.methods import load_config

    config: Any = load_config(tuning.method, tuning.config)
    scaler = None if tuning.genes is None else GeneScaler.from_dict(tuning.genes, tuning.tensors)
    partner = (tuning.training.get("partner") or {}).get("width") or 0
    state = {name: value for name, value in tuning.trained.items() if not name.startswith("encoder.")}
    if "adapter.mean" not in state:
        raise TuningUnreadable(f"{tuning.name} holds no adapter of features; it is no transcriptomics tuning.")
    width = state["adapter.mean"].shape[0]
    pools = tuning.task.get("level") == "patient"
    model = Transcriptomics(config, width, 0 if scaler is None else len(scaler.genes), int(partner), pools)
    model.load_trainable_state(state)
    return model.to(device).eval(), scaler


def tuned_backbone(tuning: Tuning, backbone: Backbone) -> Backbone:
    """The backbone whose features the model takes: as it is, or with the weights or prompts of the tuning."""
    changed = {name[8:]: value for name, value in tuning.trained.items() if name.startswith("encoder.")}
    return changed_backbone(backbone, changed, tuning.name)
