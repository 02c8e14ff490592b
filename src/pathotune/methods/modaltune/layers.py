"""ModalTune's side path: what image tokens read from it (injector), and what it reads from them (extractor)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

Layer = Callable[[Tensor], Tensor]


class Attention(nn.Module):
    """Pre-norm attention at a quarter of the width: own projections before and behind torch's multi-head attention.

    Parameters
    ----------
    width : of the tokens.
    inner : width at which is attended.
    heads : of the attention.
    normed_memory : queries and memory have a norm each (cross-attention); else they are the same tokens.
    """

    def __init__(self, width: int, inner: int, heads: int, normed_memory: bool = True) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.norm_memory = nn.LayerNorm(width) if normed_memory else None
        self.project = nn.Linear(width, inner)
        self.attend = nn.MultiheadAttention(inner, heads, batch_first=True, kdim=width, vdim=width)
        self.output = nn.Linear(inner, width)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(
        self,
        query: Tensor,
        memory: Tensor | None = None,
        query_place: Tensor | None = None,
        memory_place: Tensor | None = None,
        hidden: Tensor | None = None,
        weights: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """What each query reads, without the query itself.

        Parameters
        ----------
        query : (batch, queries, width).
        memory : (batch, keys, width); None attends among the queries.
        query_place, memory_place : learned positions. The memory's are added to keys and values alike, in
            self-attention to the keys alone, as the published code has it.
        hidden : (batch, keys) true where a key is not there.
        weights : also the attention (batch, queries, keys), averaged over the heads.
        """
        asked = self.norm(query)
        if self.norm_memory is None or memory is None:
            keys = values = asked
            keys = keys if query_place is None else keys + query_place
        else:
            keys = values = (
                self.norm_memory(memory) if memory_place is None else self.norm_memory(memory) + memory_place
            )
        asked = asked if query_place is None else asked + query_place
        read, shares = self.attend(
            self.project(asked), keys, values, key_padding_mask=hidden, need_weights=weights, average_attn_weights=True
        )
        return self.output(read), shares


class FeedForward(nn.Module):
    """Pre-norm, two layers at a quarter of the width, ReLU, without the residual."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.first, self.second = nn.Linear(width, inner), nn.Linear(inner, width)
        for linear in (self.first, self.second):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """(batch, tokens, width) → the same shape."""
        fed: Tensor = self.second(functional.relu(self.first(self.norm(tokens))))
        return fed


class Injector(nn.Module):
    """Image tokens read from the side path: x ← x + gamma · A(x, c), gamma starting at 0.

    The published code adds x twice, once inside its attention and once here: x ← (1 + gamma) x + gamma · A. That is
    `double_residual`, for the authors' own weights.
    """

    def __init__(self, width: int, inner: int, heads: int, gamma: float, double_residual: bool) -> None:
        super().__init__()
        self.attention = Attention(width, inner, heads)
        self.gamma = nn.Parameter(torch.full((width,), float(gamma)))
        self.double_residual = double_residual

    def forward(
        self, image: Tensor, side: Tensor, place: Tensor, hidden: Tensor, weights: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Image tokens (batch, tiles, width) with what they read, and how they attended where asked."""
        read, shares = self.attention(image, side, memory_place=place, hidden=hidden, weights=weights)
        read = image + read if self.double_residual else read
        return image + self.gamma * read, shares


class Extractor(nn.Module):
    """The side path reads from the image tokens, then passes a small feed-forward net with stochastic depth.

    With `double_residual` c ← 2 c + A(c, x), as in the published code; else c ← c + A(c, x).
    """

    def __init__(self, width: int, inner: int, heads: int, drop_path: float, double_residual: bool) -> None:
        super().__init__()
        self.attention = Attention(width, inner, heads)
        self.feed = FeedForward(width, inner)
        self.drop_path, self.double_residual = drop_path, double_residual

    def forward(
        self, side: Tensor, image: Tensor, place: Tensor, hidden: Tensor | None, weights: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Side tokens (batch, tokens, width), and how they attended to tiles (batch, tokens, tiles) where asked.

        `hidden` (batch, tiles) is true where there is no tile.
        """
        read, shares = self.attention(side, image, query_place=place, hidden=hidden, weights=weights)
        side = side + read + (side if self.double_residual else 0.0)
        return side + drop_path(self.feed(side), self.drop_path, self.training), shares


class Interaction(nn.Module):
    """Injector, some frozen layers of the slide encoder, and extractor; before the injector the side path may attend to
    itself.

    Parameters
    ----------
    attends : with self-attention of the side path first (all blocks but the first).
    extra : further extractors behind (two in the last block).
    """

    def __init__(
        self,
        width: int,
        inner: int,
        heads: int,
        *,
        gamma: float,
        drop_path: float,
        double_residual: bool,
        attends: bool,
        extra: int,
    ) -> None:
        super().__init__()
        self.itself = Attention(width, inner, heads, normed_memory=False) if attends else None
        self.injector = Injector(width, inner, heads, gamma, double_residual)
        self.extractors = nn.ModuleList(
            Extractor(width, inner, heads, drop_path, double_residual) for _ in range(1 + extra)
        )

    @torch.no_grad()
    def start_reading_at(self, scale: float) -> None:
        """Scale what the side path reads before the first step, from the tiles and from itself.

        Freshly drawn readers write the tiles' mean into every side token, several times as large as what the genes put
        there; as it is the same in all of them, the mean over the gene tokens keeps it and averages the genes away.
        """
        readers = [extractor.attention.output for extractor in self.extractors]  # type: ignore[union-attr]
        readers += [extractor.feed.second for extractor in self.extractors]  # type: ignore[union-attr]
        readers += [] if self.itself is None else [self.itself.output]
        for reader in readers:
            reader.weight.mul_(scale)  # type: ignore[union-attr, operator]
            reader.bias.mul_(scale)  # type: ignore[union-attr, operator]

    def forward(
        self,
        tokens: Tensor,
        side: Tensor,
        place: Tensor,
        layers: Layer,
        hidden_side: Tensor,
        hidden_tiles: Tensor | None,
        weights: bool = False,
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor] | None]:
        """One block: tokens and side tokens behind it, and attention where asked.

        Parameters
        ----------
        tokens : (batch, 1 + tiles, width) of the slide encoder, its class token first.
        side : (batch, side tokens, width).
        place : (side tokens, width) learned positions.
        layers : the frozen layers of this block, from tokens to tokens.
        hidden_side, hidden_tiles : (batch, …) true where a side token, or a tile, is not there.
        weights : also how tiles attended to side tokens, (batch, tiles, side tokens), and side tokens to tiles,
            (batch, side tokens, tiles), the mean over the extractors.
        """
        if self.itself is not None:
            read, _ = self.itself(side, query_place=place, hidden=hidden_side)
            side = side + read
        image, shares = self.injector(tokens[:, 1:], side, place, hidden_side, weights)
        tokens = layers(torch.cat([tokens[:, :1], image], dim=1))
        looks = []
        for extractor in self.extractors:
            side, look = extractor(side, tokens[:, 1:], place, hidden_tiles, weights)
            looks.append(look)
        if shares is None:
            return tokens, side, None
        return tokens, side, (shares, torch.stack([look for look in looks if look is not None]).mean(dim=0))


class TextProjector(nn.Module):
    """The fixed random map from sentence vectors to targets: linear, norm, ReLU, linear; never trained, always saved.

    Another seed is another target, so a tuning without it could not be used again or continued; the published code
    does not save it.
    """

    def __init__(self, text_dim: int, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(text_dim, width)
        self.norm = nn.LayerNorm(width)
        self.second = nn.Linear(width, width)
        self.requires_grad_(False)

    def forward(self, vectors: Tensor) -> Tensor:
        """(…, text_dim) → (…, width)."""
        projected: Tensor = self.second(functional.relu(self.norm(self.first(vectors))))
        return projected


def drop_path(values: Tensor, rate: float, training: bool) -> Tensor:
    """Leave the whole branch out for some samples of the batch, and scale the others up (Huang et al. 2016)."""
    if not rate or not training:
        return values
    kept = torch.rand((len(values),) + (1,) * (values.ndim - 1), device=values.device) >= rate
    return values * kept / (1.0 - rate)


def text_loss(
    vectors: Tensor, targets: Tensor, temperature: float = 1.0, weight: float = 10.0, known: Tensor | None = None
) -> Tensor:
    """How far fused vectors are from their text targets: KL divergence of softmaxes over unit vectors.

    Parameters
    ----------
    vectors, targets : (samples, prompts, width).
    temperature, weight : T and the factor in front: weight · T² · sum over the prompts, mean over the samples.
    known : (samples, prompts) true where there is a target; the others count nothing.

    The figure of the paper calls the squashing a sigmoid, the authors' code is a softmax; this is the softmax.
    """
    said = functional.log_softmax(functional.normalize(vectors.float(), dim=-1) / temperature, dim=-1)
    wanted = functional.log_softmax(functional.normalize(targets.float(), dim=-1) / temperature, dim=-1)
    divergence = (wanted.exp() * (wanted - said)).sum(dim=-1)  # (samples, prompts)
    if known is not None:
        divergence = torch.where(known, divergence, torch.zeros_like(divergence))
    return weight * temperature**2 * divergence.sum(dim=-1).mean()


class StoredGradient(torch.autograd.Function):
    """A loss whose gradients were already computed, part by part, so that only one part's graph is held at a time."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradients: list[Tensor | None], *parameters: Tensor) -> Tensor:
        ctx.gradients = gradients
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, *arrived: Tensor) -> tuple[Any, ...]:
        scale = arrived[0]
        return (None, None, *(None if one is None else one * scale for one in ctx.gradients))
