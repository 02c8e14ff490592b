"""LongNet of the published shape: dilated attention against a slow reference, strict loading, memory."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from pathotune.backbones import backbone_card
from pathotune.backbones.slide import attention, load_slide_encoder
from pathotune.backbones.slide.attention import BLOCK, attend
from pathotune.backbones.slide.longnet import BRANCHES, LongNet, dilated
from pathotune.backbones.slide.surface import sine_cosine
from pathotune.backbones.weights import fill_randomly
from pathotune.errors import TuningMismatch, WeightsRefused

HEADS = 16


def slow(query, key, value, rows, branches=BRANCHES):
    """Dilated attention place by place, from its definition, in double precision."""
    count, heads, dim = query.shape
    output = np.zeros((len(rows), heads, dim))
    for line, place in enumerate(rows):
        for head in range(heads):
            outs, sums = [], []
            for segment, ratio in branches:
                segment = min(segment, count)
                group, start = head // (heads // ratio), place // segment * segment
                if (place - start) % ratio != group:
                    outs.append(np.zeros(dim))
                    sums.append(-1e8)
                    continue
                real = np.arange(start + group, min(start + segment, count), ratio)
                zeros = math.ceil(segment / ratio) - len(real)
                logits = np.concatenate([key[real, head] @ query[place, head] / np.sqrt(dim), np.zeros(zeros)])
                weights = np.exp(logits - logits.max())
                outs.append(weights[: len(real)] @ value[real, head] / weights.sum())
                sums.append(np.log(weights.sum()) + logits.max())
            shares = np.exp(np.array(sums) - max(sums))
            output[line, head] = (np.array(outs) * (shares / shares.sum())[:, None]).sum(axis=0)
    return output


@pytest.mark.parametrize(("count", "dim", "step"), [(101, 48, 1), (3001, 8, 13), (12001, 4, 301)])
def test_dilated_attention_is_that_of_the_slow_reference(count, dim, step):
    random = np.random.default_rng(count)
    query, key, value = random.normal(size=(3, count, HEADS, dim)) * 1.5
    edges = [0, 1, 1022, 1023, 1024, 1025, 5791, 5792, 5793, 11583, 11584, count - 2, count - 1]
    rows = sorted({*range(0, count, step), *(place for place in edges if place < count)})
    ours = dilated(*(torch.from_numpy(part).float() for part in (query, key, value)), BRANCHES)
    assert np.abs(ours.numpy()[rows] - slow(query, key, value, rows)).max() < 1e-5


def test_the_reference_would_see_a_wrong_segment_or_group():
    random = np.random.default_rng(0)
    query, key, value = random.normal(size=(3, 1500, HEADS, 4))
    right = slow(query, key, value, [3, 1100])
    for wrong in (((1025, 1), *BRANCHES[1:]), ((1024, 1), (5792, 4), *BRANCHES[2:])):
        ours = dilated(*(torch.from_numpy(part).float() for part in (query, key, value)), wrong)
        assert np.abs(ours.numpy()[[3, 1100]] - right).max() > 1e-3


def test_few_tiles_are_plain_attention_in_the_first_branch():
    q, k, v = torch.randn(3, 200, HEADS, 8, generator=torch.Generator().manual_seed(0))
    plain = torch.nn.functional.scaled_dot_product_attention(*(part.transpose(0, 1) for part in (q, k, v)))
    assert torch.allclose(dilated(q, k, v, BRANCHES[:1]), plain.transpose(0, 1), atol=1e-6)


def test_attention_in_blocks_has_the_gradients_of_plain_attention(monkeypatch):
    monkeypatch.setattr("pathotune.backbones.slide.attention.BLOCK", 2000)
    parts = [torch.randn(6, 90, 5, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    ours, sums = attend(*parts, 0.4)
    plain = torch.nn.functional.scaled_dot_product_attention(*parts, scale=0.4)
    assert torch.allclose(ours, plain, atol=1e-6)
    logits = parts[0] @ parts[1].transpose(1, 2) * 0.4
    assert torch.allclose(sums.double(), logits.logsumexp(dim=-1), atol=1e-5)
    assert not sums.requires_grad
    weight = torch.randn_like(plain)
    found = torch.autograd.grad((ours * weight).sum(), parts)
    expected = torch.autograd.grad((plain * weight).sum(), parts)
    assert all(torch.allclose(one, other, atol=1e-5) for one, other in zip(found, expected, strict=True))
    assert BLOCK * 4 <= 64 * 2**20


def test_whoever_asks_first_gets_the_same_answer_of_the_fused_kernel() -> None:
    attention._has_fused.cache_clear()
    plain = attention._has_fused()
    attention._has_fused.cache_clear()
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.inference_mode():
        assert attention._has_fused() == plain


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 2e-6), (torch.bfloat16, 2e-2)])
def test_torch_s_fused_attention_and_the_blocks_are_the_same(monkeypatch, dtype, most):
    """Outputs, sums and gradients; also where much of a segment is the zeros it was filled up with."""
    assert attention._has_fused(), "else this compares the blocks with themselves"
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(3, 70, 8, generator=generator) for _ in range(4)]
    for one in parts[:3]:
        one[1, 30:] = 0
    parts = [one.to(dtype).requires_grad_() for one in parts]
    found = []
    for fused in (True, False):
        monkeypatch.setattr(attention, "_has_fused", lambda fused=fused: fused)
        output, sums = attend(*parts[:3], 0.4)
        assert not sums.requires_grad and sums.dtype == torch.float32
        found.append([output, sums, *torch.autograd.grad((output * parts[3]).sum(), parts[:3])])
    for one, other in zip(*found, strict=True):
        assert (one - other).abs().max() <= most * other.abs().max()


def reduced(depth=1, width=64):
    """The published heads and branches, narrower and with fewer layers."""
    card = backbone_card("gigapath-slide")
    arguments = {**card.arguments, "hidden": 2 * width, "feature_dim": 32}
    return dataclasses.replace(card, arguments=arguments, embed_dim=width, output_dim=width, depth=depth)


def encoder_of(card, seed=0):
    made = LongNet(card, 32)
    fill_randomly(made, seed)
    return made.freeze()


def tiles(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, count, 32, generator=generator), torch.randint(
        0, 999, (1, count, 2), generator=generator
    ) * 256.0


def test_a_layer_is_written_from_its_definition():
    """One layer on few tiles, once more from the formulas with torch's own functions."""
    made = encoder_of(reduced())
    features, coords = tiles(40)
    tokens = made.embed(features, coords).tokens
    state, name = made.state_dict(), "encoder.layers.0."

    def linear(values, part):
        return values @ state[f"{name}{part}.weight"].T + state[f"{name}{part}.bias"]

    def norm(values, part, eps=1e-5):
        weight, bias = state[f"{part}.weight"], state[f"{part}.bias"]
        return torch.nn.functional.layer_norm(values, (len(weight),), weight, bias, eps)

    before = norm(tokens, f"{name}self_attn_layer_norm")[0]
    q, k, v = (linear(before, f"self_attn.{part}_proj").reshape(41, HEADS, 4).numpy() for part in "qkv")
    mixed = torch.from_numpy(slow(q, k, v, range(41))).float().reshape(1, 41, 64)
    middle = tokens + linear(norm(mixed, f"{name}self_attn.inner_attn_ln"), "self_attn.out_proj")
    inner = torch.nn.functional.gelu(linear(norm(middle, f"{name}final_layer_norm"), "ffn.fc1"))
    after = middle + linear(norm(inner, f"{name}ffn.ffn_layernorm"), "ffn.fc2")
    assert torch.allclose(made.layer(0, tokens), after, atol=1e-5)
    vector = norm(norm(after, "encoder.layer_norm"), "norm", eps=1e-6)[:, 0]
    assert torch.allclose(made(features, coords), vector, atol=1e-5)


def test_positions_are_those_of_the_published_table():
    """A table over a small grid, written as nested loops; the place of x and y, and of sine and cosine, matters."""
    cells = torch.tensor([[0, 0], [3, 7], [999, 12]])
    found = sine_cosine(cells, 16)
    for row, (x, y) in zip(found, cells.tolist(), strict=True):
        expected = []
        for value in (y, x):
            omega = [10000 ** (-k / 4) for k in range(4)]
            expected += [math.sin(value * o) for o in omega] + [math.cos(value * o) for o in omega]
        assert torch.allclose(row, torch.tensor(expected), atol=1e-6)


def test_tiles_off_the_table_take_its_edge():
    made = encoder_of(reduced())
    features, _ = tiles(2)
    far = torch.tensor([[[999 * 256.0, 5.0], [999 * 256.0 + 10_000_000, 5.0]]])
    with torch.no_grad():
        tokens = made.embed(features[:, :1].expand(-1, 2, -1), far).tokens
    assert torch.equal(tokens[:, 1], tokens[:, 2]) and torch.isfinite(tokens).all()


def test_the_official_state_loads_strictly(tmp_path):
    """A file of the published names and shapes, made here: nothing missing, nothing unexpected."""
    width, names = 768, {"cls_token": (1, 1, 768), "norm.weight": (768,), "norm.bias": (768,)}
    names |= {"patch_embed.proj.weight": (width, 1536), "patch_embed.proj.bias": (width,)}
    names |= {"pos_embed": (1, 5, width), "encoder.layer_norm.weight": (width,), "encoder.layer_norm.bias": (width,)}
    for layer in range(12):
        base = f"encoder.layers.{layer}."
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            names[f"{base}self_attn.{part}.weight"], names[f"{base}self_attn.{part}.bias"] = (width, width), (width,)
        for part, size in (
            ("self_attn.inner_attn_ln", width),
            ("self_attn_layer_norm", width),
            ("final_layer_norm", width),
            ("ffn.ffn_layernorm", 3072),
        ):
            names[f"{base}{part}.weight"] = names[f"{base}{part}.bias"] = (size,)
        names[f"{base}ffn.fc1.weight"], names[f"{base}ffn.fc1.bias"] = (3072, width), (3072,)
        names[f"{base}ffn.fc2.weight"], names[f"{base}ffn.fc2.bias"] = (width, 3072), (width,)
    tensors = {name: torch.full(shape, 0.01) for name, shape in names.items()}
    torch.save({"model": tensors}, tmp_path / "slide_encoder.pth")
    made = load_slide_encoder("gigapath-slide", weights=tmp_path / "slide_encoder.pth")
    assert made.weights_source == "file" and len(made.weights_sha256) == 64
    assert (made.width, made.depth, made.num_heads) == (768, 12, 16)
    assert not any(value.requires_grad for value in made.parameters())
    del tensors["encoder.layers.3.ffn.fc1.bias"]
    tensors["stranger"] = torch.zeros(1)
    torch.save({"model": tensors}, tmp_path / "slide_encoder.pth")
    with pytest.raises(WeightsRefused, match=r"missing.*fc1\.bias.*unexpected.*stranger"):
        load_slide_encoder("gigapath-slide", weights=tmp_path / "slide_encoder.pth")


def test_features_of_another_backbone_are_refused():
    with pytest.raises(TuningMismatch, match=r"1536 wide, but these are 384 wide.*prov-gigapath"):
        load_slide_encoder("gigapath-slide", feature_dim=384, random_seed=0)
    with pytest.raises(TuningMismatch, match="32 wide, but these are 31 wide"):
        encoder_of(reduced()).embed(torch.zeros(1, 3, 31), torch.zeros(1, 3, 2))


def test_the_order_of_the_tiles_is_part_of_the_input():
    made = encoder_of(reduced())
    assert made.depends_on_order
    features, coords = tiles(2100)
    turned = torch.randperm(2100, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        there, other = made(features, coords), made(features[:, turned], coords[:, turned])
    assert not torch.allclose(there, other, atol=1e-4)


def saved_bytes(made, count):
    """Bytes that a step keeps for its backward pass."""
    kept: dict[int, int] = {}

    def pack(value):
        kept[value.data_ptr()] = value.untyped_storage().nbytes()
        return value

    features, coords = tiles(count)
    tokens, context, _ = made.embed(features, coords)
    tokens = tokens.detach().requires_grad_(True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        for layer in range(made.depth):
            tokens = made.layer(layer, tokens, context)
    return sum(kept.values())


def test_what_a_step_keeps_grows_linearly_with_the_tiles(monkeypatch):
    made = encoder_of(reduced(depth=2, width=32))
    whole = saved_bytes(made, 250)
    monkeypatch.setattr("pathotune.backbones.slide.surface.KEEP_BELOW", 200)
    few, many = saved_bytes(made, 250), saved_bytes(made, 500)
    assert 1.9 * few < many < 2.1 * few
    assert few < 3 * 251 * 32 * 4 < whole / 10  # about one row of tokens per layer


def test_what_is_computed_twice_has_the_same_gradient(monkeypatch):
    made = encoder_of(reduced(depth=2))
    features, coords = tiles(60)
    found = []
    for limit in (1000, 10):
        monkeypatch.setattr("pathotune.backbones.slide.surface.KEEP_BELOW", limit)
        tokens, context, _ = made.embed(features, coords)
        start = tokens.clone().requires_grad_(True)
        after = start
        for layer in range(2):
            after = made.layer(layer, after, context)
        found.append(torch.autograd.grad(after[:, 0].square().sum(), start)[0])
    assert torch.allclose(*found, atol=1e-5) and found[0].abs().max() > 0
