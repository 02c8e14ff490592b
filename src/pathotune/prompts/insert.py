"""A frozen vision transformer with prompt tokens between its prefix tokens and its patches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from pathotune.errors import TuningMismatch
from pathotune.prompts.spec import PromptLayout

if TYPE_CHECKING:
    from pathotune.backbones.surface import Backbone


class TileView(NamedTuple):
    """What a prompt may be made from: the tile's pixels and its patch tokens where the prompts enter."""

    pixels: Tensor  # (b, 3, h, w), normalised
    patches: Tensor  # (b, P, C)
    grid: tuple[int, int]  # rows, columns of patches; rows * columns == P


class TokenSource(nn.Module, ABC):
    """One group of prompt tokens.

    Attributes
    ----------
    count : tokens in the group.
    looks_at_pixels : whether it is made from the tile's pixels, not from its patch tokens or from nothing of the tile.
    """

    count: int
    looks_at_pixels: bool = False

    @abstractmethod
    def prepare(self, view: TileView) -> Tensor:
        """Whatever `tokens` needs, computed once per forward pass."""

    @abstractmethod
    def tokens(self, step: int, prepared: Tensor) -> Tensor | None:
        """The group's tokens before prompted block `step` (0 is the first): (b, count, C).

        None leaves what the block before made of them. Step 0 always gives tokens.
        """


class Encoded(NamedTuple):
    """What the prompted encoder gives for a batch of tiles."""

    features: Any  # backbones.surface.Features: pooled (b, output_dim), cls (b, C), patches (b, P, C)
    attention: dict[str, Tensor]  # "cls", each group (and each token) → (b, rows, columns) float32


Watch = Callable[[int, Tensor, tuple[str, ...]], None]


class PromptedEncoder(nn.Module):
    """A backbone and its prompt groups; the backbone itself is never changed.

    The sequence is [prefix | groups in the order of `prompts` | patches]. Prompts have no position, and the backbone's
    rotary positions pass them by (`extra` of `Backbone.block`). With no prompts the result is the plain backbone's to
    the bit.

    Parameters
    ----------
    backbone : the frozen backbone (`takes_prompts` must hold where there are prompts).
    prompts : group name to token source, in the order of `spec.GROUPS`.
    first_layer : the block before which prompts enter ("late prompts"). What lies below is the same for a tile
        whatever the prompts are: `lower` gives it, and it may be kept from one epoch to the next.

    Attributes
    ----------
    reads_tokens : attention is told of every prompt token by itself too ("tvp 1", "tvp 2" …), behind the groups.

    Raises
    ------
    TuningMismatch
        The backbone takes no prompt tokens, or has no block `first_layer`.
    """

    def __init__(self, backbone: Backbone, prompts: Mapping[str, TokenSource], first_layer: int = 0) -> None:
        super().__init__()
        if prompts and not backbone.takes_prompts:
            raise TuningMismatch(
                f"{backbone.card.title or backbone.card.name} takes no prompt tokens "
                "(only plain vision transformers do). Choose another backbone, or the method linear_probe."
            )
        if not 0 <= first_layer < max(1, backbone.depth):
            raise TuningMismatch(
                f"first_layer {first_layer} is not a block of {backbone.card.name}: it has {backbone.depth} "
                f"(0 to {backbone.depth - 1})."
            )
        self.backbone = backbone
        self.prompts = nn.ModuleDict(dict(prompts))
        self.first_layer = first_layer
        self.reads_tokens = False

    @property
    def layout(self) -> PromptLayout:
        """The groups that are on, with their token counts."""
        return PromptLayout(tuple((name, source.count) for name, source in self._sources()))

    @property
    def attention_sources(self) -> tuple[str, ...]:
        """The attention maps that `forward` can give."""
        return ("cls", *self.attention_places)

    @property
    def attention_places(self) -> dict[str, slice]:
        """Where in the sequence the prompts stand whose attention is told, by name: the groups, and their tokens."""
        prefix, layout = self.backbone.prefix_tokens, self.layout
        return layout.places(prefix) | (layout.token_places(prefix) if self.reads_tokens else {})

    @property
    def looks_at_pixels(self) -> bool:
        """Whether `upper` needs the pixels."""
        return any(source.looks_at_pixels for _, source in self._sources())

    def lower(self, pixels: Tensor) -> Tensor:
        """The tokens below the first prompted block, (b, prefix + P, C); nothing trained has a part in them."""
        with torch.no_grad():
            tokens = self.backbone.embed(pixels)
            for index in range(self.first_layer):
                tokens = self.backbone.block(index, tokens)
        return tokens

    def upper(self, tokens: Tensor, pixels: Tensor, attention: bool = False, watch: Watch | None = None) -> Encoded:
        """The prompted blocks on what `lower` gave.

        Parameters
        ----------
        tokens : (b, prefix + P, C) from `lower`.
        pixels : (b, 3, h, w) normalised; anything where nothing `looks_at_pixels`.
        attention : also read out the last block's attention to the patches.
        watch : told the number and the input of every block, and the groups that enter before it.
        """
        prefix, extra = self.backbone.prefix_tokens, self.layout.total
        view = TileView(pixels, tokens[:, prefix:], self.backbone.grid)
        prepared = {name: source.prepare(view) for name, source in self._sources()}
        maps: dict[str, Tensor] = {}
        for index in range(self.first_layer, self.backbone.depth):
            tokens, entered = self._insert(tokens, index - self.first_layer, prepared)
            if watch is not None:
                watch(index, tokens, entered)
            if attention and index == self.backbone.depth - 1:
                maps = self._attention(index, tokens)
            tokens = self.backbone.block(index, tokens, extra=extra)
        return Encoded(self.backbone.finish(tokens, extra=extra), maps)

    def forward(self, pixels: Tensor, attention: bool = False) -> Encoded:
        """Prompted features (and attention) of normalised tiles (b, 3, h, w)."""
        return self.upper(self.lower(pixels), pixels, attention)

    def _sources(self) -> list[tuple[str, TokenSource]]:
        return [(name, source) for name, source in self.prompts.items() if isinstance(source, TokenSource)]

    def _insert(self, tokens: Tensor, step: int, prepared: dict[str, Tensor]) -> tuple[Tensor, tuple[str, ...]]:
        """Put each group's tokens for this block into its slots, and say which have some.

        On step 0 the slots do not exist yet.
        """
        places = self.layout.places(self.backbone.prefix_tokens)
        new = {name: source.tokens(step, prepared[name]) for name, source in self._sources()}
        entered = tuple(name for name, group in new.items() if group is not None)
        if not entered:
            return tokens, entered
        parts = [tokens[:, : self.backbone.prefix_tokens]]
        for name, group in new.items():
            # Residual streams may be bfloat16 under autocast; a float32 prompt would widen the whole sequence.
            parts.append(tokens[:, places[name]] if group is None else group.to(tokens.dtype))
        behind = self.backbone.prefix_tokens + (self.layout.total if step else 0)
        return torch.cat([*parts, tokens[:, behind:]], dim=1), entered

    def _attention(self, index: int, tokens: Tensor) -> dict[str, Tensor]:
        """What share of its attention each source gives to each patch (mean over heads and the group's tokens)."""
        rows, columns = self.backbone.grid
        extra = self.layout.total
        wanted: dict[str, slice | None] = {"cls": None, **self.attention_places}
        found = self.backbone.attention_rows(index, tokens, extra, wanted)  # each (b, heads, prefix + extra + P)
        return {name: row.mean(dim=1)[:, -rows * columns :].reshape(-1, rows, columns) for name, row in found.items()}
