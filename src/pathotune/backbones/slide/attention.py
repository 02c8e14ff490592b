"""Exact attention in blocks of bounded size, with the logarithm of each row's sum: memory linear in the tokens."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor

# Logits held at once, 64 MiB of float32.
BLOCK = 1 << 24
_FUSED_TYPES = (torch.float32, torch.bfloat16)


def attend(query: Tensor, key: Tensor, value: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Softmax attention of many heads.

    Parameters
    ----------
    query, key, value : (rows, tokens, dim); a row is one head of one segment.
    scale : what the products are multiplied by.

    Returns
    -------
    (rows, tokens, dim) outputs, and (rows, tokens) the logarithm of the sum of exponentials, through which no gradient
    flows.
    """
    if query.device.type == "cpu" and query.dtype in _FUSED_TYPES and _has_fused():
        fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        whole, logs = fused(query[None], key[None], value[None], 0.0, False, attn_mask=None, scale=scale)
        return whole[0], logs[0].detach()
    output, sums = _Attention.apply(query, key, value, scale)
    return output, sums


@cache
def _has_fused() -> bool:
    """Whether torch has its fused attention for processors here, and gives the sums as they are meant.

    It is four to five times as fast as the blocks below, but what torch offers in public keeps the sums to itself; so
    the operator behind it is called, after a look at what it answers.
    """
    # The first to ask may be in the middle of a pass in bfloat16.
    with torch.autocast("cpu", enabled=False), torch.no_grad():
        values = torch.linspace(-1.0, 1.0, 24).reshape(1, 1, 6, 4)
        try:
            fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
            output, sums = fused(values, values, values.flip(2), 0.0, False, attn_mask=None, scale=0.5)
        except (AttributeError, RuntimeError, TypeError, ValueError):
            return False
        logits = values @ values.transpose(-1, -2) * 0.5
        right = torch.allclose(output, logits.softmax(dim=-1) @ values.flip(2), atol=1e-5)
        return right and sums.shape == (1, 1, 6) and torch.allclose(sums.float(), logits.logsumexp(dim=-1), atol=1e-5)


class _Attention(torch.autograd.Function):
    """The weights are computed block by block, and again in the backward pass (Dao et al., FlashAttention, 2022)."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        output = torch.empty_like(query)
        sums = query.new_empty(query.shape[:2], dtype=torch.float32)
        for rows, tokens in _blocks(query, key):
            logits = _logits(query[rows, tokens], key[rows], scale)
            top = logits.amax(dim=-1, keepdim=True)
            weights = logits.sub_(top).exp_()
            total = weights.sum(dim=-1, keepdim=True)
            output[rows, tokens] = (weights.to(value.dtype) @ value[rows]) / total.to(value.dtype)
            sums[rows, tokens] = (total.log() + top).squeeze(-1)
        ctx.save_for_backward(query, key, value, output, sums)
        ctx.scale = scale
        ctx.mark_non_differentiable(sums)
        return output, sums

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        query, key, value, output, sums = ctx.saved_tensors
        arrived = gradients[0]
        of_query = torch.empty_like(query)
        # Summed over the blocks, so in full precision also for numbers that are rounded.
        exact = torch.promote_types(key.dtype, torch.float32)
        of_key, of_value = torch.zeros_like(key, dtype=exact), torch.zeros_like(value, dtype=exact)
        for rows, tokens in _blocks(query, key):
            part, out = arrived[rows, tokens], output[rows, tokens]
            logits = _logits(query[rows, tokens], key[rows], ctx.scale)
            weights = logits.sub_(sums[rows, tokens].unsqueeze(-1)).exp_().to(value.dtype)
            of_value[rows] += weights.transpose(1, 2) @ part
            change = part @ value[rows].transpose(1, 2)
            change = weights * (change - (part * out).sum(dim=-1, keepdim=True)) * ctx.scale
            of_query[rows, tokens] = change @ key[rows]
            of_key[rows] += change.transpose(1, 2) @ query[rows, tokens]
        return of_query, of_key.to(key.dtype), of_value.to(value.dtype), None


def _logits(query: Tensor, key: Tensor, scale: float) -> Tensor:
    return torch.bmm(query * scale, key.transpose(1, 2)).float()


def _blocks(query: Tensor, key: Tensor) -> Iterator[tuple[slice, slice]]:
    """Slices over rows and queries whose logits stay below `BLOCK`."""
    rows, queries, keys = query.shape[0], query.shape[1], key.shape[1]
    at_once = max(1, min(queries, BLOCK // max(keys, 1)))
    together = max(1, BLOCK // max(keys * at_once, 1))
    for first in range(0, rows, together):
        for start in range(0, queries, at_once):
            yield slice(first, min(first + together, rows)), slice(start, min(start + at_once, queries))
