"""timm's plain vision transformers: class token, registers, learned positions, pre-norm, layer scale, any pooling."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from timm.models.vision_transformer import Attention, checkpoint_filter_fn
from torch import Tensor, nn
from torch.nn import functional as F

from pathotune.backbones.card import BackboneCard
from pathotune.backbones.surface import Backbone, Features, float32, heads_first
from pathotune.backbones.weights import refuse_misfits
from pathotune.errors import WeightsRefused

# What timm pools by itself for each pooling of a card.
_TIMM_POOL = {
    "cls": "token", "head": "token", "avg": "avg",
    "cls+mean_patch": "token", "mean+std_patch": "token", "attn_pool": "token",
}  # fmt: skip

# With more heads the tables of all blocks of a batch would take gigabytes.
FEW_HEADS = 6


class _Attention(Attention):  # type: ignore[misc]  # timm declares no types
    """timm's attention, which multiplies its tables out where that trains faster.

    The fused kernel never holds a table of all pairs of tokens and makes each twice instead. For gradients in bfloat16
    on a CPU that takes three times as long as two plain products of matrices do.
    """

    @property
    def fused_attn(self) -> bool:  # type: ignore[override]
        """Whether timm takes the fused kernel; asked in every pass, as the same network also predicts."""
        learns = torch.is_grad_enabled() and torch.is_autocast_enabled("cpu")
        return not (learns and self.num_heads <= FEW_HEADS and self.qkv.weight.device.type == "cpu")

    @fused_attn.setter
    def fused_attn(self, value: bool) -> None:
        """Nothing: timm sets it when it builds the layer."""


class TimmTransformer(Backbone):
    """`timm.models.vision_transformer.VisionTransformer` behind the surface."""

    def __init__(self, card: BackboneCard, network: nn.Module, head: nn.Module | None = None) -> None:
        super().__init__(card, network, head)
        wanted = _TIMM_POOL.get(card.pooling)
        if wanted is not None and self._net.global_pool != wanted:
            raise WeightsRefused(
                f"The card of {card.name} pools {card.pooling!r}, which is timm's global_pool={wanted!r}, "
                f"but the model was built with {self._net.global_pool!r}. Put global_pool into its arguments."
            )
        self.depth = len(self._net.blocks)
        self.num_heads = self._net.blocks[0].attn.num_heads
        self.prefix_tokens = self._net.num_prefix_tokens
        for block in self._net.blocks:
            if type(block.attn) is Attention:
                block.attn.__class__ = _Attention

    @property
    def _net(self) -> Any:
        """The network seen without a type: timm declares none for what is used here."""
        return self.network

    def _embed(self, pixels: Tensor) -> Tensor:
        net = self._net
        tokens: Tensor = net.norm_pre(net.patch_drop(net._pos_embed(net.patch_embed(pixels))))
        return tokens

    def _block(self, index: int, tokens: Tensor, extra: int) -> Tensor:
        result: Tensor = self._net.blocks[index](tokens)
        return result

    def _finish(self, tokens: Tensor) -> Features:
        net = self._net
        tokens = net.norm(tokens)  # (b, prefix + patches, C)
        patches = tokens[:, self.prefix_tokens :]
        cls = tokens[:, self.card.class_index] if self.has_class_token else patches.mean(dim=1)
        if self.card.pooling in {"cls+mean_patch", "mean+std_patch", "attn_pool"}:
            return Features(self._pool(tokens, cls, patches), cls, patches)
        pooled = net.forward_head(tokens)
        return Features(pooled if self.head is None else self.head(pooled), cls, patches)

    def _queries_and_keys(self, index: int, tokens: Tensor, extra: int, rows: Tensor) -> tuple[Tensor, Tensor, float]:
        block = self._net.blocks[index]
        attention, width = block.attn, block.attn.qkv.weight.shape[0] // 3
        tokens = float32(block.norm1, tokens)
        weight = attention.qkv.weight.float()
        bias = None if attention.qkv.bias is None else attention.qkv.bias.float()
        queries = F.linear(tokens[:, rows], weight[:width], None if bias is None else bias[:width])
        keys = F.linear(tokens, weight[width : 2 * width], None if bias is None else bias[width : 2 * width])
        queries = float32(attention.q_norm, heads_first(queries, attention.num_heads))
        keys = float32(attention.k_norm, heads_first(keys, attention.num_heads))
        return queries, keys, attention.scale

    @property
    def has_class_token(self) -> bool:
        return self._net.cls_token is not None

    def load_tensors(self, tensors: Mapping[str, Tensor], source: Path) -> None:
        if self.card.convert == "timm":
            positions = tensors.get("pos_embed")
            patches = self._net.patch_embed.num_patches
            # timm would stretch positions that do not fit; a file for another image size is refused instead.
            if positions is not None and positions.shape[1] not in {patches, patches + 1, patches + self.prefix_tokens}:
                refuse_misfits(self.card, source.name, (), (), [f"pos_embed {tuple(positions.shape)}"])
            tensors = checkpoint_filter_fn(dict(tensors), self._net)
        super().load_tensors(tensors, source)

    def _roles_of_block(self, index: int) -> dict[str, list[nn.Module]]:
        block = self._net.blocks[index]
        attention = block.attn
        names = ("qkv",) if getattr(attention, "qkv", None) is not None else ("q_proj", "k_proj", "v_proj")
        return {
            "qkv": [getattr(attention, name) for name in names],
            "proj": [attention.proj],
            "mlp": [layer for layer in block.mlp.modules() if isinstance(layer, nn.Linear)],
            "norm": [block.norm1, block.norm2],
            "sublayer": [attention, block.mlp],
        }

    def _last_norms(self) -> list[nn.Module]:
        return [layer for layer in (self._net.norm,) if not isinstance(layer, nn.Identity)]


class TimmRotary(TimmTransformer):
    """`timm.models.eva.Eva` behind the surface: positions are rotations inside every block (DINOv3).

    A prompt token has no place on the tile, so it must not be rotated. timm rotates everything behind the prefix
    tokens; we therefore hand it rows that rotate by nothing (sin 0, cos 1) for the prompts, and leave the module as
    it is.
    """

    def __init__(self, card: BackboneCard, network: nn.Module, head: nn.Module | None = None) -> None:
        super().__init__(card, network, head)
        if getattr(self._net, "rope_mixed", False):
            raise WeightsRefused(f"{card.name} has other rotations in every block, which is not supported yet.")
        self._rotations: dict[tuple[Any, ...], Tensor] = {}

    def _embed(self, pixels: Tensor) -> Tensor:
        net = self._net
        tokens, _ = net._pos_embed(net.patch_embed(pixels))
        result: Tensor = net.norm_pre(tokens)
        return result

    def _block(self, index: int, tokens: Tensor, extra: int) -> Tensor:
        result: Tensor = self._net.blocks[index](tokens, rope=self._rotation(tokens, extra))
        return result

    def _rotation(self, tokens: Tensor, extra: int) -> Tensor | None:
        """(extra + patches, 2 * head_dim): sines then cosines; None where the model rotates nothing."""
        rope = getattr(self._net, "rope", None)
        if rope is None:
            return None
        patches = tokens.shape[1] - self.prefix_tokens - extra
        key = (patches, extra, tokens.device)
        if key not in self._rotations:
            # Made as an ordinary tensor even in inference mode, because a later tuning needs it for its gradients.
            with torch.inference_mode(False), torch.no_grad():
                rotation = rope.get_embed(shape=self._grid_of(patches))
                sines = rotation.new_zeros(extra, rotation.shape[-1] // 2)
                still = torch.cat([sines, sines + 1], dim=-1)
                self._rotations[key] = torch.cat([still, rotation]) if extra else rotation
        return self._rotations[key]

    def _grid_of(self, patches: int) -> tuple[int, int]:
        rows, columns = self.grid
        if rows * columns == patches:
            return rows, columns
        side = round(patches**0.5)
        if side * side != patches:
            raise WeightsRefused(f"{patches} patches are not a square image; {self.card.title} needs square tiles.")
        return side, side

    def _queries_and_keys(self, index: int, tokens: Tensor, extra: int, rows: Tensor) -> tuple[Tensor, Tensor, float]:
        from timm.layers import apply_rot_embed_cat

        block = self._net.blocks[index]
        attention = block.attn
        rotation = self._rotation(tokens, extra)
        tokens = float32(block.norm1, tokens)
        queries, keys = (self._project(attention, part, tokens) for part in ("q", "k"))
        if rotation is not None:
            start, half = attention.num_prefix_tokens, getattr(attention, "rotate_half", False)
            queries, keys = (
                torch.cat(
                    [part[:, :, :start], apply_rot_embed_cat(part[:, :, start:], rotation.float(), half=half)], dim=2
                )
                for part in (queries, keys)
            )
        return queries[:, :, rows], keys, attention.scale

    def _project(self, attention: Any, part: str, tokens: Tensor) -> Tensor:
        norm = attention.q_norm if part == "q" else attention.k_norm
        if attention.qkv is not None:
            width = attention.qkv.weight.shape[0] // 3
            rows = slice(0, width) if part == "q" else slice(width, 2 * width)
            bias = getattr(attention, f"{part}_bias", None)
            if bias is None and attention.qkv.bias is not None:
                bias = attention.qkv.bias[rows]
            values = F.linear(tokens, attention.qkv.weight[rows].float(), None if bias is None else bias.float())
        else:
            values = float32(attention.q_proj if part == "q" else attention.k_proj, tokens)
        return float32(norm, heads_first(values, attention.num_heads))
