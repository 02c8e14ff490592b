"""A backbone around another one, which it asks for all that it does not change."""

from __future__ import annotations

from torch import Tensor, nn

from pathotune.backbones.card import BackboneCard
from pathotune.backbones.surface import Backbone


class Wrapped(Backbone):
    """To others what its base is.

    Parameters
    ----------
    card : of the new backbone.
    base : the backbone; it stays as it is.
    """

    network: Backbone

    def __init__(self, card: BackboneCard, base: Backbone) -> None:
        super().__init__(card, base)
        for fact in ("embed_dim", "output_dim", "depth", "num_heads", "prefix_tokens", "takes_prompts"):
            setattr(self, fact, getattr(base, fact))
        self.weights_source = base.weights_source

    def _embed(self, pixels: Tensor) -> Tensor:
        return self.network._embed(pixels)

    def _block(self, index: int, tokens: Tensor, extra: int) -> Tensor:
        return self.network._block(index, tokens, extra)

    def _queries_and_keys(self, index: int, tokens: Tensor, extra: int, rows: Tensor) -> tuple[Tensor, Tensor, float]:
        return self.network._queries_and_keys(index, tokens, extra, rows)

    def modules_by_role(self, first_block: int = 0) -> dict[str, list[nn.Module]]:
        """Those of the base."""
        return self.network.modules_by_role(first_block)

    @property
    def has_class_token(self) -> bool:
        """As the base."""
        return self.network.has_class_token

    @property
    def is_dynamic(self) -> bool:
        """As the base."""
        return self.network.is_dynamic
