"""The one surface through which methods know a slide encoder: embed, layers, and what is read out of the tokens."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pathotune.backbones.card import BackboneCard
from pathotune.errors import TuningMismatch

# Above so many tokens a layer is computed a second time in the backward pass instead of being kept: what a step keeps
# is then one row of tokens per layer.
KEEP_BELOW = 4096


class Embedded(NamedTuple):
    """Tokens before the first layer, and what every layer needs beside them.

    tokens : (batch, 1 + tiles, width), the class token first.
    context : the encoder's own (a mask, a bias); handed on to `layer` and `finish` unseen.
    order : (tiles,) which tile each token is of, where the encoder lays them otherwise than they came.
    """

    tokens: Tensor
    context: Any = None
    order: Tensor | None = None


class SlideEncoder(nn.Module, ABC):
    """A frozen model of a whole slide as a row of layers over the tokens of its tiles.

    It never trains: no parameter asks for a gradient, and `train(True)` leaves it in evaluation mode, so that its
    dropout stays off (the published ModalTune code switches it on). Gradients pass through it to what is put between
    its layers.

    Attributes
    ----------
    width, depth, num_heads : of the transformer.
    output_dim : width of the encoder's own slide vector.
    feature_dim : width of the tile features it takes.
    depends_on_order : the order of the tiles is part of the input (LongNet cuts the row of tokens into segments).
    takes_masks : several slides of different length pass at once, the shorter ones filled up.
    weights_sha256, weights_source : as of a tile backbone.
    """

    depends_on_order = False
    takes_masks = False

    def __init__(self, card: BackboneCard, feature_dim: int) -> None:
        super().__init__()
        self.card = card
        self.width: int = card.embed_dim or 0
        self.depth: int = card.depth or 0
        self.num_heads: int = card.num_heads or 1
        self.output_dim: int = card.output_dim or self.width
        self.feature_dim = feature_dim
        self.weights_sha256 = ""
        self.weights_source = ""

    def freeze(self) -> SlideEncoder:
        """No gradients, evaluation mode; called again after weights are loaded."""
        self.requires_grad_(False)
        nn.Module.train(self, False)
        return self

    def train(self, mode: bool = True) -> SlideEncoder:
        """Stay in evaluation mode whatever is asked."""
        return nn.Module.train(self, False)

    def embed(self, features: Tensor, coords: Tensor, mask: Tensor | None = None) -> Embedded:
        """Tokens before the first layer.

        Parameters
        ----------
        features : (batch, tiles, feature_dim).
        coords : (batch, tiles, 2) top-left corners, x and y, in pixels of the size the encoder's tiles are read at.
        mask : (batch, tiles) true where there is a tile; None where there is one everywhere.

        Raises
        ------
        TuningMismatch
            Features of another width, or a mask where the encoder takes none.
        """
        if features.shape[-1] != self.feature_dim:
            raise TuningMismatch(
                f"{self.card.title} is fed with features {self.feature_dim} wide, but these are {features.shape[-1]} "
                f"wide. {self._feeding()}"
            )
        if mask is not None and not self.takes_masks and not bool(mask.all()):
            raise TuningMismatch(f"{self.card.title} takes one slide at a time, without filled-up tiles.")
        return self._embed(features, coords, mask)

    def layer(self, index: int, tokens: Tensor, context: Any = None) -> Tensor:
        """Run one layer on (batch, 1 + tiles, width)."""
        if tokens.shape[1] > KEEP_BELOW and tokens.requires_grad and torch.is_grad_enabled():
            computed: Tensor = checkpoint(
                self._layer, index, tokens, context, use_reentrant=False, preserve_rng_state=False
            )
            return computed
        return self._layer(index, tokens, context)

    def read_out(self, tokens: Tensor, context: Any = None) -> Tensor:
        """What a method takes as the image's part of its vector, (batch, width): the class token as it stands."""
        return tokens[:, 0]

    @abstractmethod
    def finish(self, tokens: Tensor, context: Any = None) -> Tensor:
        """The encoder's own slide vector from the tokens after the last layer, (batch, output_dim)."""

    def forward(self, features: Tensor, coords: Tensor, mask: Tensor | None = None) -> Tensor:
        """Slide vectors (batch, output_dim) of tile features, as the encoder's authors make them."""
        tokens, context, _ = self.embed(features, coords, mask)
        for index in range(self.depth):
            tokens = self.layer(index, tokens, context)
        return self.finish(tokens, context)

    @abstractmethod
    def _embed(self, features: Tensor, coords: Tensor, mask: Tensor | None) -> Embedded:
        """Tokens of features that were checked."""

    @abstractmethod
    def _layer(self, index: int, tokens: Tensor, context: Any) -> Tensor:
        """One layer, all of it kept for the backward pass."""

    def _feeding(self) -> str:
        fed_with = self.card.arguments.get("fed_with")
        return (
            f"Make them with `pathotune features --backbone {fed_with}`." if fed_with else "Use features of one kind."
        )


def sine_cosine(cells: Tensor, width: int) -> Tensor:
    """Fixed positions of tiles on a grid: sines and cosines of y in the first half, of x in the second.

    Parameters
    ----------
    cells : (…, 2) column and row of each tile.
    width : of a token, a multiple of four.

    Returns
    -------
    (…, width) float32.
    """
    quarter = width // 4
    powers = torch.arange(quarter, dtype=torch.float64, device="cpu") / quarter
    omega = (1.0 / 10000.0**powers).to(cells.device)
    parts = []
    for axis in (1, 0):
        angles = cells[..., axis, None].to(torch.float64) * omega
        parts += [angles.sin(), angles.cos()]
    return torch.cat(parts, dim=-1).float()
