"""The one surface through which methods know a backbone: embed, blocks, finish, and one row of attention."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pathotune.backbones.card import BackboneCard
from pathotune.backbones.weights import load_strictly, rename
from pathotune.errors import TuningMismatch, UsageError

ROLES = ("qkv", "proj", "mlp", "norm", "sublayer")


@dataclass(frozen=True)
class Features:
    """What a backbone makes of a batch of tiles.

    pooled : (batch, output_dim), the feature its authors use.
    cls : (batch, embed_dim), the class token after the final norm (the mean of the patches where there is none).
    patches : (batch, rows * columns, embed_dim), the patch tokens after the final norm, row by row.
    """

    pooled: Tensor
    cls: Tensor
    patches: Tensor


class Backbone(nn.Module):
    """A frozen image model as a row of blocks between an embedding and a pooling.

    The wrapped library model is `network`; nothing in it is changed, and `forward` gives its numbers to the bit.
    It never trains: no parameter asks for a gradient, and `train(True)` leaves it in evaluation mode.

    Attributes
    ----------
    embed_dim, output_dim, depth, num_heads, prefix_tokens : as on the card, of the network as built.
    takes_prompts : False for models without a row of tokens (CNN, Swin): then only `forward` works.
    weights_sha256 : SHA-256 over names, shapes and values of all tensors (and the pooling where it is a choice of our
        own), the same whatever file they came from.
    weights_source : "file", "hub", "built in" or "random, seed N", for provenance.
    weights_path : the file they were read from, which may hold a text side too; None where there is none.
    text_scale : what the cosines to sentences are multiplied by in an image–text model; 0 where the file does not say.
    """

    def __init__(self, card: BackboneCard, network: nn.Module, head: nn.Module | None = None) -> None:
        super().__init__()
        self.card = card
        self.network = network
        self.head = head
        self.embed_dim: int = card.embed_dim or 0
        self.output_dim: int = card.output_dim or self.embed_dim
        self.depth: int = card.depth or 0
        self.num_heads: int = card.num_heads or 0
        self.prefix_tokens: int = card.prefix_tokens
        self.takes_prompts: bool = card.takes_prompts
        self.weights_sha256 = ""
        self.weights_source = ""
        self.weights_path: Path | None = None
        self.text_scale = 0.0
        mean = torch.tensor(card.mean or (0.0, 0.0, 0.0), dtype=torch.float64).view(1, 3, 1, 1)
        std = torch.tensor(card.std or (1.0, 1.0, 1.0), dtype=torch.float64).view(1, 3, 1, 1)
        # (value / 255 - mean) / std as one multiplication and one addition.
        self.register_buffer("_scale", (1.0 / (255.0 * std)).float(), persistent=False)
        self.register_buffer("_shift", (-mean / std).float(), persistent=False)
        self._scale: Tensor
        self._shift: Tensor
        self.freeze()

    def freeze(self) -> Backbone:
        """No gradients, evaluation mode; called again after weights are loaded."""
        self.requires_grad_(False)
        nn.Module.train(self, False)
        return self

    def train(self, mode: bool = True) -> Backbone:
        """Stay in evaluation mode whatever is asked: a method in training must not move batch norms or dropout."""
        return nn.Module.train(self, False)

    def load_tensors(self, tensors: Mapping[str, Tensor], source: Path) -> None:
        """Fill the network from a published file's tensors, strictly; raises WeightsRefused."""
        # Without a head of ours, "head." is a name inside the library's model.
        translated = {
            name if self.head is not None and name.startswith("head.") else f"network.{name}": value
            for name, value in rename(tensors, self.card).items()
        }
        load_strictly(self, translated, self.card, source.name)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches at the card's image size."""
        return self.card.grid

    @property
    def speed_name(self) -> str:
        """What the speed of a number format is remembered under."""
        return f"{self.card.name} {self.depth}x{self.embed_dim} {self.card.image_size} px"

    # -- pixels to features ---------------------------------------------------------------------------------------

    def normalise(self, images: Tensor) -> Tensor:
        """Make model input of tile images.

        Parameters
        ----------
        images : uint8 (batch, height, width, 3).

        Returns
        -------
        float32 (batch, 3, height, width) on the images' device; channels stay last in memory, so nothing is copied
        but the numbers themselves.
        """
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[-1] != 3:
            raise UsageError(
                f"Tiles must be uint8 of shape (batch, height, width, 3), got {images.dtype} {tuple(images.shape)}."
            )
        scale, shift = self._scale.to(images.device), self._shift.to(images.device)
        return torch.addcmul(shift, images.permute(0, 3, 1, 2).to(scale.dtype), scale)

    def embed(self, pixels: Tensor) -> Tensor:
        """Tokens before the first block.

        Parameters
        ----------
        pixels : normalised, (batch, 3, height, width).

        Returns
        -------
        (batch, prefix + patches, embed_dim), positions added.
        """
        self._needs_tokens("embed")
        self._check_size(pixels)
        return self._embed(pixels)

    def block(self, index: int, tokens: Tensor, extra: int = 0) -> Tensor:
        """Run one block.

        Parameters
        ----------
        index : which block, from 0.
        tokens : (batch, prefix + extra + patches, embed_dim).
        extra : number of prompt tokens, directly behind the prefix tokens. Rotary models turn them by no angle.
        """
        self._needs_tokens("block")
        return self._block(index, tokens, extra)

    def finish(self, tokens: Tensor, extra: int = 0) -> Features:
        """Final norm and pooling; the `extra` prompt tokens are dropped first."""
        self._needs_tokens("finish")
        if extra:
            tokens = torch.cat([tokens[:, : self.prefix_tokens], tokens[:, self.prefix_tokens + extra :]], dim=1)
        return self._finish(tokens)

    def forward(self, pixels: Tensor) -> Features:
        """Features of normalised pixels (batch, 3, height, width), to the bit those of the wrapped model."""
        tokens = self.embed(pixels)
        for index in range(self.depth):
            tokens = self.block(index, tokens)
        return self.finish(tokens)

    # -- attention ------------------------------------------------------------------------------------------------

    def attention_row(self, index: int, tokens: Tensor, extra: int = 0, queries: slice | None = None) -> Tensor:
        """How the class token (or other tokens) of block `index` spreads its attention.

        It is computed again from the block's input and weights, so that the forward pass keeps its fused kernels.

        Parameters
        ----------
        index : which block.
        tokens : input of that block, (batch, n_tokens, embed_dim).
        extra : prompt tokens behind the prefix tokens.
        queries : positions (in prefix, extra, patches) whose rows are averaged; None is the class token, or all
            patches in a model without one.

        Returns
        -------
        float32 (batch, heads, n_tokens); each row sums to 1.
        """
        return self.attention_rows(index, tokens, extra, {"": queries})[""]

    def attention_rows(
        self, index: int, tokens: Tensor, extra: int, queries: Mapping[str, slice | None]
    ) -> dict[str, Tensor]:
        """Several rows of `attention_row` by name, from one projection of the keys."""
        self._needs_tokens("attention_row")
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        first = self.card.class_index
        default = slice(first, first + 1) if self.has_class_token else slice(self.prefix_tokens + extra, None)
        wanted = {name: positions[default if rows is None else rows] for name, rows in queries.items()}
        weights = self._attention(index, tokens, extra, torch.cat(list(wanted.values())))
        parts = torch.split(weights, [len(rows) for rows in wanted.values()], dim=2)
        return {name: part.mean(dim=2) for name, part in zip(wanted, parts, strict=True)}

    def attention_matrix(self, index: int, tokens: Tensor, extra: int = 0) -> Tensor:
        """How every token of block `index` spreads its attention, mean over heads: float32 (batch, n_tokens, n_tokens).

        Parameters as for `attention_row`; each row sums to 1.
        """
        self._needs_tokens("attention_matrix")
        everything = torch.arange(tokens.shape[1], device=tokens.device)
        return self._attention(index, tokens, extra, everything).mean(dim=1)

    def _attention(self, index: int, tokens: Tensor, extra: int, rows: Tensor) -> Tensor:
        """The attention of the tokens at these positions, in float32 whatever is around it: (b, heads, rows, n)."""
        with torch.autocast(tokens.device.type, enabled=False):
            query, keys, scale = self._queries_and_keys(index, tokens.float(), extra, rows)
            return ((query * scale) @ keys.transpose(-2, -1)).softmax(dim=-1)

    def modules_by_role(self, first_block: int = 0) -> dict[str, list[nn.Module]]:
        """The frozen parts that adapters may hang on, from a block on; empty lists where a model has none of a kind.

        Parameters
        ----------
        first_block : parts of earlier blocks are left out, in models that have a row of blocks.

        Returns
        -------
        "qkv", "proj" and "mlp" : linear layers (torch's MultiheadAttention stands for its own three projections).
        "norm" : of the blocks, and the last one.
        "sublayer" : what a block adds to its tokens: its attention and its MLP. Their output is a tensor whose last
            axis are channels, or a tuple that begins with it.
        """
        roles: dict[str, list[nn.Module]] = {role: [] for role in ROLES}
        for index in range(first_block, self.depth if self.takes_prompts else 0):
            for role, modules in self._roles_of_block(index).items():
                roles[role] += modules
        roles["norm"] += self._last_norms()
        return roles

    # -- what each family of models fills in ----------------------------------------------------------------------

    def _embed(self, pixels: Tensor) -> Tensor:
        raise self._without_tokens("embed")

    def _block(self, index: int, tokens: Tensor, extra: int) -> Tensor:
        raise self._without_tokens("block")

    def _finish(self, tokens: Tensor) -> Features:
        raise self._without_tokens("finish")

    def _queries_and_keys(self, index: int, tokens: Tensor, extra: int, rows: Tensor) -> tuple[Tensor, Tensor, float]:
        """Queries of those positions (b, heads, rows, d), keys of all (b, heads, n, d), and what scales the product."""
        raise self._without_tokens("attention_row")

    def _roles_of_block(self, index: int) -> dict[str, list[nn.Module]]:
        raise self._without_tokens("modules_by_role")

    def _last_norms(self) -> list[nn.Module]:
        return []

    @property
    def has_class_token(self) -> bool:
        """Whether the first token is a class token."""
        return self.prefix_tokens > 0

    def _needs_tokens(self, what: str) -> None:
        if not self.takes_prompts:
            raise self._without_tokens(what)

    def _without_tokens(self, what: str) -> TuningMismatch:
        return TuningMismatch(
            f"{self.card.title} has no row of tokens, so {what}() and prompts do not work with it. "
            "Use the method linear_probe with it, or choose a vision transformer."
        )

    def _check_size(self, pixels: Tensor) -> None:
        height, width = int(pixels.shape[-2]), int(pixels.shape[-1])
        side, patch = self.card.image_size or 0, self.card.patch_size or 1
        if (height, width) == (side, side):
            return
        if not self.is_dynamic:
            raise TuningMismatch(f"{self.card.title} reads {side} x {side} pixels, got {height} x {width}.")
        if height % patch or width % patch:
            nearest = max(round(height / patch), 1) * patch
            raise TuningMismatch(
                f"{self.card.title} reads multiples of {patch} pixels, got {height} x {width}; {nearest} would do."
            )

    @property
    def is_dynamic(self) -> bool:
        """Whether images of other sizes than the card's can be read (positions are then interpolated)."""
        return bool(self.card.arguments.get("dynamic_img_size", False))

    def _pool(self, tokens: Tensor, cls: Tensor, patches: Tensor) -> Tensor:
        """The pooled feature of normed tokens, for poolings that no library class does itself."""
        if self.card.pooling == "cls+mean_patch":
            pooled = torch.cat([cls, patches.mean(dim=1)], dim=-1)
        elif self.card.pooling == "mean+std_patch":
            pooled = mean_and_spread(patches)
        elif self.card.pooling == "avg":
            pooled = patches.mean(dim=1)
        elif self.card.pooling == "attn_pool":
            pooled = tokens
        else:
            pooled = cls
        return pooled if self.head is None else self.head(pooled)


def mean_and_spread(patches: Tensor) -> Tensor:
    """Mean and standard deviation over the patch tokens (batch, patches, C), side by side: (batch, 2 C).

    The spread tells how mixed a tile is, which its mean hides. Computed in float32: a shorter format would lose it in
    the difference of large squares; the small addend keeps the gradient finite where all patches are alike.
    """
    values = patches.float()
    spread = values.var(dim=1, unbiased=False).add(1e-6).sqrt()
    return torch.cat([values.mean(dim=1), spread], dim=-1).to(patches.dtype)


def float32(module: nn.Module, values: Tensor) -> Tensor:
    """`module(values)` in float32 although its weights may be stored in a shorter format."""
    weight = next(module.parameters(), None)
    if weight is None or weight.dtype == torch.float32:
        result: Tensor = module(values)
        return result
    short: dict[str, Any] = {name: value.float() for name, value in module.named_parameters()}
    result = torch.func.functional_call(module, short, (values,))
    return result


def heads_first(values: Tensor, heads: int) -> Tensor:
    """(batch, tokens, heads * d) → (batch, heads, tokens, d)."""
    batch, tokens, _ = values.shape
    return values.reshape(batch, tokens, heads, -1).transpose(1, 2)
