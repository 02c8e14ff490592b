"""The image tower of open_clip models."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import open_clip
from open_clip.transformer import QuickGELU, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from pathotune.backbones.card import BackboneCard
from pathotune.backbones.surface import Backbone, Features, float32, heads_first
from pathotune.errors import BackboneUnavailable, TableUnreadable, WeightsRefused


def build(card: BackboneCard, depth: int | None = None) -> Backbone:
    """The tower of a card with open_clip's start values, wrapped for the surface."""
    return ClipTower(card, build_tower(card, depth, quick_gelu=bool(card.arguments.get("quick_gelu", False))))


def build_tower(card: BackboneCard, depth: int | None, quick_gelu: bool) -> nn.Module:
    """open_clip's own VisionTransformer from the card's arguments."""
    arguments = {key: value for key, value in card.arguments.items() if key != "quick_gelu"}
    if depth is not None:
        arguments["layers"] = depth
    activation = QuickGELU if quick_gelu else nn.GELU
    try:
        tower: nn.Module = VisionTransformer(**arguments, act_layer=activation)
    except TypeError as error:
        raise TableUnreadable(f"The card of {card.name} has arguments open_clip does not take ({error}).") from None
    if not hasattr(tower, "_embeds"):
        raise BackboneUnavailable(f"{card.title} needs a newer open_clip than {open_clip.__version__}.")
    return tower


class ClipTower(Backbone):
    """`open_clip.transformer.VisionTransformer` behind the surface."""

    def __init__(self, card: BackboneCard, network: nn.Module, head: nn.Module | None = None) -> None:
        super().__init__(card, network, head)
        self.depth = len(self._blocks)
        self.num_heads = self._blocks[0].attn.num_heads
        self.prefix_tokens = 1

    @property
    def _net(self) -> Any:
        return self.network

    @property
    def _blocks(self) -> Any:
        return self._net.transformer.resblocks

    def _embed(self, pixels: Tensor) -> Tensor:
        tokens: Tensor = self._net._embeds(pixels)
        return tokens

    def _block(self, index: int, tokens: Tensor, extra: int) -> Tensor:
        block, batch_first = self._blocks[index], getattr(self._net.transformer, "batch_first", False)
        result: Tensor = block(tokens) if batch_first else block(tokens.transpose(0, 1)).transpose(0, 1)
        return result

    def _finish(self, tokens: Tensor) -> Features:
        # With attention pooling (CoCa) the final norm belongs to what was pooled, not to the tokens.
        normed = self._net.ln_post(tokens) if self._net.attn_pool is None else tokens
        pooled, _ = self._net._pool(tokens)
        if self.card.pooling == "head":
            pooled = pooled @ self._net.proj
        return Features(pooled, normed[:, 0], normed[:, 1:])

    def _queries_and_keys(self, index: int, tokens: Tensor, extra: int, rows: Tensor) -> tuple[Tensor, Tensor, float]:
        block = self._blocks[index]
        tokens = float32(block.ln_1, tokens)
        weight, bias = block.attn.in_proj_weight.float(), block.attn.in_proj_bias.float()
        width = weight.shape[0] // 3
        queries = heads_first(F.linear(tokens[:, rows], weight[:width], bias[:width]), self.num_heads)
        keys = heads_first(
            F.linear(tokens, weight[width : 2 * width], bias[width : 2 * width]),
            self.num_heads,
        )
        return queries, keys, float(queries.shape[-1] ** -0.5)

    def _roles_of_block(self, index: int) -> dict[str, list[nn.Module]]:
        block = self._blocks[index]
        return {
            # torch keeps the three projections in one parameter of the attention module itself.
            "qkv": [block.attn],
            "proj": [block.attn.out_proj],
            "mlp": [layer for layer in block.mlp.modules() if isinstance(layer, nn.Linear)],
            "norm": [block.ln_1, block.ln_2],
            "sublayer": [block.attn, block.mlp],
        }

    def _last_norms(self) -> list[nn.Module]:
        return [self._net.ln_post]

    def load_tensors(self, tensors: Mapping[str, Tensor], source: Path) -> None:
        """The activation leaves no trace in the tensors, so the publisher's open_clip_config.json has to say it."""
        if "quick_gelu" in self.card.arguments:
            super().load_tensors(tensors, source)
            return
        path = source.parent / "open_clip_config.json"
        if not path.is_file():
            raise WeightsRefused(
                f"{self.card.title} needs the publisher's open_clip_config.json beside {source.name}: "
                "it says which activation the model was trained with, and the weights do not."
            )
        try:
            model = json.loads(path.read_text(encoding="utf-8"))["model_cfg"]
        except (ValueError, KeyError):
            raise WeightsRefused(f"{path.name} beside {source.name} is damaged; fetch it again.") from None
        self.network = build_tower(self.card, None, quick_gelu=bool(model.get("quick_gelu", False)))
        super().load_tensors(tensors, source)
