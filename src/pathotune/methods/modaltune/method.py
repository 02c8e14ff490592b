"""ModalTune's model: a side path of gene, task and clinical tokens around a frozen slide encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from pathotune.backbones.gene.pathways import PathwayEncoder
from pathotune.methods.base import load_trained_arrays, trained_arrays
from pathotune.methods.modaltune.config import PROMPTS, ModalTuneConfig
from pathotune.methods.modaltune.layers import Interaction, TextProjector

if TYPE_CHECKING:
    from pathotune.backbones.slide.surface import SlideEncoder

# Age, stage, T, N, M.
CLINICAL = 5


class Patients(NamedTuple):
    """What is known of a few patients, as tensors.

    features, coords : (b, n, d) and (b, n, 2), the corners in pixels of the slide encoder's size.
    mask : (b, n) true where there is a tile; None where everywhere.
    genes : (b, genes) z-scores; None where the tuning has no genes.
    has_genes : (b,) true where the patient has expression.
    clinical : (b, 5) or None; has_clinical : (b,).
    members : (b, memberships) in place of what `genes` come to, for attributions.
    """

    features: Tensor
    coords: Tensor
    mask: Tensor | None = None
    genes: Tensor | None = None
    has_genes: Tensor | None = None
    clinical: Tensor | None = None
    has_clinical: Tensor | None = None
    members: Tensor | None = None


class Answer(NamedTuple):
    """What the model says of patients.

    vectors : (b, prompts, output_dim) fused, not yet of unit length.
    image : (b, prompts, width) the image's part.
    attention : (b, prompts, n) by name; empty where not asked for. "to task", "to gene", "to clinical": how much of a
        tile's attention goes to those tokens, averaged over injectors and heads; they sum to 1 over the names. "task
        looks": how the task token's attention is spread over the tiles, averaged over extractors and heads; it sums to
        1 over the tiles.
    """

    vectors: Tensor
    image: Tensor
    attention: dict[str, Tensor]


class ModalTune(nn.Module):
    """A frozen slide encoder with other modalities injected between its layers (ModalTune, arXiv 2503.17564).

    Departures from the authors' code, each for a fault in it: the residual is added once (`double_residual` brings the
    second back), the frozen encoder stays in evaluation mode, and the random text projector is part of the saved state.
    Modality dropout is not theirs: a patient without expression has her gene tokens hidden from every attention and
    left out of the read-out, so that the vector is that of image and task alone.

    Parameters
    ----------
    config : the options.
    encoder : a frozen slide encoder; never part of the state.
    member : (pathways, genes) which gene belongs to which pathway; None makes a model without genes.
    text_dim : width of the sentences' vectors.
    """

    def __init__(
        self, config: ModalTuneConfig, encoder: SlideEncoder, member: np.ndarray | None, text_dim: int
    ) -> None:
        super().__init__()
        self.config = config
        self.backbone = encoder  # by this name its tensors are neither trained nor saved
        width = encoder.width
        inner = max(1, int(width * config.compression))
        heads = max(head for head in range(1, min(config.heads, inner) + 1) if inner % head == 0)
        self.gene_encoder: PathwayEncoder | None = None
        if member is not None:
            self.gene_encoder = PathwayEncoder(
                member, width, config.gene_tokens, config.gene_width, config.mixer_depth, config.gene_dropout
            )
            self.gene_encoder.compress.weight.data.mul_(config.gene_start)
        self.task = nn.Sequential(nn.Linear(len(PROMPTS), width), nn.LayerNorm(width))
        self.clinical: nn.Sequential | None = None
        if config.clinical_token:
            self.clinical = nn.Sequential(
                nn.Linear(CLINICAL, width // 2), nn.ReLU(), nn.Linear(width // 2, width), nn.LayerNorm(width)
            )
        self.place = nn.Parameter(torch.empty(len(self.sources), width))
        nn.init.trunc_normal_(self.place, std=0.02)
        count = min(config.interactions, encoder.depth)
        self.spans = [part.tolist() for part in np.array_split(np.arange(encoder.depth), count)]
        self.interactions = nn.ModuleList(
            Interaction(
                width,
                inner,
                heads,
                gamma=config.gamma_start,
                drop_path=config.drop_path,
                double_residual=config.double_residual,
                attends=number > 0,
                extra=2 if number == count - 1 else 0,
            )
            for number in range(count)
        )
        if config.extractor_start != 1.0:
            for interaction in self.interactions:
                interaction.start_reading_at(config.extractor_start)  # type: ignore[operator]
        parts = 1 if config.read_out == "sum" else 2 + (member is not None)
        output_dim = config.output_dim if config.projector == "random" else text_dim
        self.norm = nn.LayerNorm(parts * width)
        self.fuse = nn.Linear(parts * width, output_dim)
        self.projector = TextProjector(text_dim, output_dim) if config.projector == "random" else None
        if not config.train_gamma:
            for interaction in self.interactions:
                interaction.injector.gamma.requires_grad_(False)  # type: ignore[union-attr]

    @property
    def sources(self) -> tuple[str, ...]:
        """What each side token stands for, in their order."""
        genes = ("gene",) * (self.config.gene_tokens if self.gene_encoder is not None else 0)
        return ("clinical",) * bool(self.config.clinical_token) + ("task",) + genes

    def targets(self, texts: Tensor) -> Tensor:
        """Targets of sentence vectors (…, text_dim): (…, output_dim)."""
        return texts if self.projector is None else self.projector(texts)

    def forward(self, patients: Patients, prompts: tuple[str, ...] = PROMPTS, attention: bool = False) -> Answer:
        """Vectors of patients under some task prompts, all at once.

        Memory grows with patients × prompts × tiles; a patient of many tiles is better asked prompt by prompt.
        """
        tokens, context, order = self.backbone.embed(patients.features, patients.coords, patients.mask)
        few, asked = len(tokens), len(prompts)
        side, hidden = self._side(patients, prompts)  # (b * prompts, side tokens, width), (b * prompts, side tokens)
        tokens = tokens.repeat_interleave(asked, dim=0)
        context = _repeated(context, asked)
        hidden_tiles = None if patients.mask is None else ~patients.mask.repeat_interleave(asked, dim=0)
        maps = []
        for interaction, span in zip(self.interactions, self.spans, strict=True):

            def layers(values: Tensor, span: list[int] = span) -> Tensor:
                for index in span:
                    values = self.backbone.layer(index, values, context)
                return values

            tokens, side, looks = interaction(tokens, side, self.place, layers, hidden, hidden_tiles, attention)
            maps.append(looks)
        image = self.backbone.read_out(tokens, context)
        vectors = self._fused(image, side, hidden)
        found = self._by_source(maps, order) if attention else {}
        return Answer(
            vectors.reshape(few, asked, -1),
            image.reshape(few, asked, -1),
            {name: value.reshape(few, asked, -1) for name, value in found.items()},
        )

    def _side(self, patients: Patients, prompts: tuple[str, ...]) -> tuple[Tensor, Tensor]:
        """The side path's tokens before the first block, and which of them are hidden."""
        few, asked, device = len(patients.features), len(prompts), self.place.device
        onehot = torch.eye(len(PROMPTS), device=device)[[PROMPTS.index(name) for name in prompts]]
        parts = [self.task(onehot).repeat(few, 1)[:, None]]  # (b * prompts, 1, width)
        hidden = [torch.zeros(few * asked, 1, dtype=torch.bool, device=device)]
        if self.gene_encoder is not None:
            tokens, absent = self._gene_tokens(patients, few)
            parts.append(tokens.repeat_interleave(asked, dim=0))
            hidden.append(absent.repeat_interleave(asked)[:, None].expand(-1, tokens.shape[1]))
        if self.clinical is not None:
            known = _present(patients.clinical, patients.has_clinical, few, device)
            given = torch.zeros(few, CLINICAL, device=device) if patients.clinical is None else patients.clinical
            parts.insert(0, self.clinical(given).repeat_interleave(asked, dim=0)[:, None])
            hidden.insert(0, (~known).repeat_interleave(asked)[:, None])
        return torch.cat(parts, dim=1), torch.cat(hidden, dim=1)

    def _gene_tokens(self, patients: Patients, few: int) -> tuple[Tensor, Tensor]:
        """(b, gene tokens, width), zeros where a patient has no expression, and (b,) true there."""
        encoder, device = self.gene_encoder, self.place.device
        assert encoder is not None
        known = _present(patients.genes, patients.has_genes, few, device)
        if patients.genes is None or not bool(known.any()):
            return torch.zeros(few, encoder.tokens, self.backbone.width, device=device), ~known
        genes = torch.where(known[:, None], patients.genes, torch.zeros_like(patients.genes))
        with torch.autocast(device.type, enabled=False):  # small, and self-normalising nets want exact numbers
            tokens = encoder.mixed(encoder.members(genes) if patients.members is None else patients.members)
        return torch.where(known[:, None, None], tokens, torch.zeros_like(tokens)), ~known

    def _fused(self, image: Tensor, side: Tensor, hidden: Tensor) -> Tensor:
        """Image, gene and task vector as one: (b, output_dim)."""
        sources = self.sources
        first, task = sources.index("task") + 1, side[:, sources.index("task")]
        parts = [image, task]
        if self.gene_encoder is not None:
            known = (~hidden[:, first:]).to(side)
            parts.insert(1, (side[:, first:] * known[..., None]).mean(dim=1))
        joined = torch.stack(parts).sum(dim=0) if self.config.read_out == "sum" else torch.cat(parts, dim=-1)
        with torch.autocast(joined.device.type, enabled=False):
            fused: Tensor = self.fuse(self.norm(joined.float()))
        return fused

    def _by_source(self, maps: list[tuple[Tensor, Tensor] | None], order: Tensor | None) -> dict[str, Tensor]:
        """`Answer.attention`, (b * prompts, n) each, in the tiles' own order."""
        known = [found for found in maps if found is not None]
        shares = torch.stack([one for one, _ in known]).mean(dim=0)  # (b, n, side tokens)
        looks = torch.stack([look for _, look in known]).mean(dim=0)[:, self.sources.index("task")]  # (b, n)
        if order is not None:
            shares, looks = shares[:, torch.argsort(order)], looks[:, torch.argsort(order)]
        names = np.asarray(self.sources)
        return {
            f"to {name}": shares[..., torch.from_numpy(np.flatnonzero(names == name)).to(shares.device)].sum(dim=-1)
            for name in dict.fromkeys(self.sources)
        } | {"task looks": looks}

    def trainable_state(self) -> dict[str, np.ndarray]:
        """Every trained tensor and the random projector, by name; nothing of the slide encoder."""
        return trained_arrays(self)

    def load_trainable_state(self, state: dict[str, np.ndarray]) -> None:
        """Put back what `trainable_state` gave; raises TuningUnreadable where a name or shape differs."""
        load_trained_arrays(self, state)


def _present(values: Tensor | None, known: Tensor | None, few: int, device: torch.device) -> Tensor:
    """(b,) which patients have this modality."""
    if values is None:
        return torch.zeros(few, dtype=torch.bool, device=device)
    return torch.ones(few, dtype=torch.bool, device=device) if known is None else known


def _repeated(context: object, times: int) -> object:
    """An encoder's context for each patient as often as there are prompts; only a mask has rows of patients."""
    if isinstance(context, Tensor):
        return context.repeat_interleave(times, dim=0)
    return context
