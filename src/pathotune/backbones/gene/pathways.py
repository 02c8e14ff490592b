"""The pathway gene encoder: one small self-normalising net per pathway, an MLP-mixer over them, and a few tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional


class PathwayEncoder(nn.Module):
    """Genes to tokens by way of pathways (ModalTune's gene encoder, arXiv 2503.17564; Mixer: Tolstikhin et al. 2021).

    All small nets run at once: the first layers as one product over the memberships (a gene in three pathways has three
    rows of weights), the second ones as one batched product. No weight is spent on genes that a pathway lacks, so the
    number of weights is that of the nets taken one by one.

    Parameters
    ----------
    member : (pathways, genes) 1 where a gene belongs to a pathway; every pathway has a gene.
    width : of a token that comes out.
    tokens : how many come out.
    inner : width of the small nets.
    depth : of the mixer.
    dropout : in the small nets (alpha dropout) and in the mixer.
    """

    gene_index: Tensor
    sizes: Tensor

    def __init__(
        self,
        member: np.ndarray,
        width: int = 768,
        tokens: int = 64,
        inner: int = 256,
        depth: int = 3,
        dropout: float = 0.25,
    ) -> None:
        super().__init__()
        rows = [np.flatnonzero(row) for row in np.asarray(member)]
        sizes = [len(row) for row in rows]
        self.dropout, self.tokens = dropout, tokens
        self.register_buffer("gene_index", torch.from_numpy(np.concatenate(rows).astype(np.int64)), persistent=False)
        self.register_buffer("sizes", torch.tensor(sizes), persistent=False)
        pathways = len(rows)
        bounds = torch.tensor([1.0 / math.sqrt(size) for size in sizes])
        per_member = bounds.repeat_interleave(self.sizes)[:, None]
        self.first_weight = nn.Parameter(_uniform(len(self.gene_index), inner) * per_member)
        self.first_bias = nn.Parameter(_uniform(pathways, inner) * bounds[:, None])
        self.second_weight = nn.Parameter(_uniform(pathways, inner, inner) / math.sqrt(inner))
        self.second_bias = nn.Parameter(_uniform(pathways, inner) / math.sqrt(inner))
        self.mixer = nn.ModuleList(_MixerLayer(pathways, inner, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(inner)
        self.project = nn.Linear(inner, width)
        self.compress = nn.Linear(pathways, tokens)

    def members(self, genes: Tensor) -> Tensor:
        """(batch, genes) as (batch, memberships): a gene comes once for each pathway it is in."""
        return genes[:, self.gene_index]

    def pathways(self, members: Tensor) -> Tensor:
        """One vector per pathway of (batch, memberships): (batch, pathways, inner)."""
        # Batch last, so that the sum over the genes of a pathway runs over rows.
        weighted = members.T[:, :, None] * self.first_weight[:, None, :]  # (memberships, b, inner)
        summed = torch.segment_reduce(weighted.flatten(1), "sum", lengths=self.sizes, axis=0, unsafe=True)
        first = summed.reshape(len(self.sizes), len(members), -1) + self.first_bias[:, None, :]  # (pathways, b, inner)
        first = functional.alpha_dropout(functional.elu(first), self.dropout, self.training)
        second = torch.baddbmm(self.second_bias[:, None, :], first, self.second_weight)
        second = functional.alpha_dropout(functional.elu(second), self.dropout, self.training)
        return second.transpose(0, 1)

    def forward(self, genes: Tensor) -> Tensor:
        """Tokens (batch, tokens, width) of z-scores (batch, genes)."""
        return self.mixed(self.members(genes))

    def mixed(self, members: Tensor) -> Tensor:
        """The same of (batch, memberships)."""
        mixed = self.pathways(members)
        for layer in self.mixer:
            mixed = layer(mixed)
        projected = self.project(self.norm(mixed))  # (b, pathways, width)
        compressed: Tensor = self.compress(projected.transpose(1, 2)).transpose(1, 2)
        return compressed


def parameters_of(sizes: Sequence[int], width: int = 768, tokens: int = 64, inner: int = 256, depth: int = 3) -> int:
    """How many weights an encoder for pathways of these sizes has, without building it."""
    count = len(sizes)
    half, channels = count // 2, inner // 2
    nets = sum(size * inner + inner + inner * inner + inner for size in sizes)
    token_mixing = count * half + half + half * count + count
    mixer = 4 * inner + token_mixing + inner * channels + channels + channels * inner + inner
    return nets + depth * mixer + 2 * inner + inner * width + width + count * tokens + tokens


class _MixerLayer(nn.Module):
    """Pre-norm mixing over pathways, then over channels, both added to what came."""

    def __init__(self, pathways: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.norm_tokens, self.norm_channels = nn.LayerNorm(inner), nn.LayerNorm(inner)
        self.over_tokens = _two_layers(pathways, max(1, pathways // 2), dropout)
        self.over_channels = _two_layers(inner, inner // 2, dropout)

    def forward(self, values: Tensor) -> Tensor:
        values = values + self.over_tokens(self.norm_tokens(values).transpose(1, 2)).transpose(1, 2)
        mixed: Tensor = values + self.over_channels(self.norm_channels(values))
        return mixed


def _two_layers(width: int, hidden: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(width, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, width), nn.Dropout(dropout)
    )


def _uniform(*shape: int) -> Tensor:
    return torch.empty(*shape).uniform_(-1.0, 1.0)
