"""The contract every backbone of the catalogue keeps, at two narrow blocks and with random weights."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pathotune.backbones import BackboneCard, all_cards, load_backbone
from pathotune.backbones.loading import BUILDERS, load
from pathotune.backbones.surface import Backbone, mean_and_spread
from pathotune.errors import BackboneUnavailable, MissingPackage, TuningMismatch, WeightsRefused
from pathotune.methods import METHODS, load_config
from pathotune.methods.base import trained_parameters

# What the surface pools itself and no library does.
OWN_POOLINGS = ("cls+mean_patch", "mean+std_patch")
LOADABLE = [card for card in all_cards() if card.loadable and card.kind == "tile"]


def _network(card: BackboneCard) -> str:
    """What makes the network and what is done with its output: equal for cards that differ in their weights alone."""
    parts = (card.loader, card.architecture, dict(card.arguments), card.pooling, card.head, card.image_size)
    return repr((*parts, sorted(card.rename.items())))


def _different() -> list[Any]:
    groups: dict[str, list[BackboneCard]] = {}
    for card in LOADABLE:
        groups.setdefault(_network(card), []).append(card)
    return [pytest.param(cards[0], id="+".join(card.name for card in cards)) for cards in groups.values()]


def _fitted(line: str, wide: str, narrow: str, first: bool) -> str:
    """The first layer of a head takes narrow tokens; the others stay."""
    return line.replace(wide, narrow, 1) if first else line


def reduced(card: BackboneCard) -> BackboneCard:
    """The card of the same network with two blocks of three or four heads, each head as wide as it was."""
    if not card.takes_prompts:
        return card
    wide, heads = card.embed_dim or 0, card.num_heads or 1
    # Four heads of 80 and three of the others keep the gated layers of an even width.
    few = 4 if wide // heads == 80 else 3
    narrow = wide // heads * few
    names = {
        "timm": {"depth": 2, "embed_dim": narrow, "num_heads": few},
        "transformers": {"num_hidden_layers": 2, "hidden_size": narrow, "num_attention_heads": few},
        "open_clip": {"layers": 2, "width": narrow, "heads": few},
    }[card.loader]
    if "intermediate_size" in card.arguments:
        names["intermediate_size"] = 2 * narrow
    output = card.output_dim or wide
    if (not card.head and card.pooling != "head") or card.architecture == "SiglipVisionModel":
        output = output * narrow // wide
    return dataclasses.replace(
        card,
        depth=2,
        embed_dim=narrow,
        num_heads=few,
        output_dim=output,
        arguments={**card.arguments, **names},
        head=tuple(_fitted(line, str(wide), str(narrow), first=index == 0) for index, line in enumerate(card.head)),
    )


@pytest.fixture(scope="module", params=_different())
def backbone(request: pytest.FixtureRequest) -> Iterator[Backbone]:
    try:
        yield load(reduced(request.param), None, 5, None)
    except MissingPackage as error:
        pytest.skip(str(error))
    except BackboneUnavailable as error:
        pytest.skip(f"this version of the library: {error}")


@pytest.fixture
def pixels(backbone: Backbone) -> Tensor:
    side = backbone.card.image_size or 224
    images = torch.randint(0, 256, (1, side, side, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    return backbone.normalise(images)


def _with_prompts(backbone: Backbone, tokens: Tensor, prompts: Tensor) -> Tensor:
    first = backbone.prefix_tokens
    return torch.cat([tokens[:, :first], prompts, tokens[:, first:]], dim=1)


def _prompts(backbone: Backbone, count: int) -> Tensor:
    return torch.randn(1, count, backbone.embed_dim, generator=torch.Generator().manual_seed(4))


def test_features_have_the_sizes_on_the_card(backbone: Backbone, pixels: Tensor) -> None:
    card = backbone.card
    with torch.no_grad():
        features = backbone(pixels)
    assert features.pooled.shape == (1, card.output_dim)
    assert features.cls.shape == (1, card.embed_dim)
    assert bool(torch.isfinite(features.pooled).all())
    if backbone.takes_prompts:
        rows, columns = backbone.grid
        assert features.patches.shape == (1, rows * columns, card.embed_dim)
        assert (backbone.prefix_tokens, backbone.num_heads) == (card.prefix_tokens, card.num_heads)


def test_forward_is_the_wrapped_model_to_the_bit(backbone: Backbone, pixels: Tensor) -> None:
    network: Any = backbone.network
    with torch.no_grad():
        features = backbone(pixels)
        if backbone.card.loader == "transformers":
            output = network(pixel_values=pixels)
            if backbone.card.pooling == "head":
                expected = output.image_embeds if hasattr(output, "image_embeds") else output.pooler_output
                assert torch.equal(features.pooled, expected)
            else:
                tokens = output.last_hidden_state
                assert torch.equal(features.cls, tokens[:, 0])
                assert torch.equal(features.patches, tokens[:, backbone.prefix_tokens :])
        elif backbone.card.loader == "open_clip":
            output = network(pixels)
            assert torch.equal(features.pooled, output[0] if isinstance(output, tuple) else output)
        else:
            if backbone.takes_prompts:
                tokens = network.forward_features(pixels)
                assert torch.equal(features.patches, tokens[:, backbone.prefix_tokens :])
                assert torch.equal(features.cls, tokens[:, backbone.card.class_index])
            if backbone.head is None and backbone.card.pooling not in OWN_POOLINGS:
                assert torch.equal(features.pooled, network(pixels))


def test_patch_mean_leaves_registers_out(backbone: Backbone, pixels: Tensor) -> None:
    if backbone.card.pooling not in OWN_POOLINGS:
        return
    with torch.no_grad():
        features = backbone(pixels)
    mean = features.patches.mean(dim=1)
    if backbone.card.pooling == "cls+mean_patch":
        assert torch.equal(features.pooled, torch.cat([features.cls, mean], dim=-1))
    else:
        spread = features.patches.std(dim=1, correction=0)
        assert torch.allclose(features.pooled, torch.cat([mean, spread], dim=-1), atol=1e-4)


def test_the_spread_of_equal_patches_has_a_finite_gradient() -> None:
    patches = torch.ones(2, 5, 3, requires_grad=True)
    mean_and_spread(patches).sum().backward()
    assert patches.grad is not None
    assert bool(torch.isfinite(patches.grad).all())


def test_attention_row_is_what_the_block_does(
    backbone: Backbone, pixels: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The queries and keys that reach torch's attention kernel in a real block give the same row."""
    if not backbone.takes_prompts:
        return
    seen: list[tuple[Tensor, Tensor]] = []
    kernel = torch.nn.functional.scaled_dot_product_attention

    def watch(query: Tensor, key: Tensor, *rest: Any, **options: Any) -> Tensor:
        seen.append((query, key))
        return kernel(query, key, *rest, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watch)
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad():
            tokens = _with_prompts(backbone, backbone.embed(pixels), _prompts(backbone, 3))
            row = backbone.attention_row(0, tokens, extra=3)
            backbone.block(0, tokens, extra=3)
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    query, key = seen[0]
    scores = (query.double() @ key.double().transpose(-2, -1)) * query.shape[-1] ** -0.5
    every_row = scores.softmax(dim=-1)  # (1, heads, n, n)
    index = backbone.card.class_index
    expected = every_row[:, :, index]
    if not backbone.has_class_token:
        expected = every_row[:, :, backbone.prefix_tokens + 3 :].mean(dim=2)
    assert row.dtype == torch.float32
    assert row.shape == (1, backbone.num_heads, tokens.shape[1])
    torch.testing.assert_close(row.double(), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(row.sum(dim=-1), torch.ones(1, backbone.num_heads), atol=1e-5, rtol=0)


def test_prompts_have_no_place_and_move_no_patch(backbone: Backbone, pixels: Tensor) -> None:
    if not backbone.takes_prompts:
        return
    with torch.no_grad():
        tokens = backbone.embed(pixels)
        prompts = _prompts(backbone, 3)
        turned = prompts.flip(1)
        there = backbone.block(0, _with_prompts(backbone, tokens, prompts), extra=3)
        back = backbone.block(0, _with_prompts(backbone, tokens, turned), extra=3)
        first = backbone.prefix_tokens
        # Among the tokens of the tile, attention is shared as it was without prompts.
        alone = backbone.attention_row(0, tokens)
        among = backbone.attention_row(0, _with_prompts(backbone, tokens, prompts), extra=3)
    scale = float(there.abs().max())
    assert float((there[:, first : first + 3] - back[:, first : first + 3].flip(1)).abs().max()) < 1e-4 * scale
    assert float((there[:, first + 3 :] - back[:, first + 3 :]).abs().max()) < 1e-4 * scale
    if backbone.has_class_token:
        among = torch.cat([among[..., :first], among[..., first + 3 :]], dim=-1)
        torch.testing.assert_close(among / among.sum(dim=-1, keepdim=True), alone, atol=1e-5, rtol=0)


def test_finish_drops_the_prompts_and_nothing_else(backbone: Backbone, pixels: Tensor) -> None:
    if not backbone.takes_prompts:
        return
    with torch.no_grad():
        tokens = backbone.embed(pixels)
        plain = backbone.finish(tokens)
        prompted = backbone.finish(_with_prompts(backbone, tokens, _prompts(backbone, 3)), extra=3)
    for name in ("pooled", "cls", "patches"):
        assert torch.equal(getattr(prompted, name), getattr(plain, name))


def test_prompts_reach_the_features_and_take_gradients(backbone: Backbone, pixels: Tensor) -> None:
    if not backbone.takes_prompts:
        return
    prompts = _prompts(backbone, 2).requires_grad_()
    with torch.inference_mode():
        plain = backbone(pixels).pooled.clone()  # also fills what a rotary model keeps, as a prediction does
    tokens = _with_prompts(backbone, backbone.embed(pixels), prompts)
    for index in range(backbone.depth):
        tokens = backbone.block(index, tokens, extra=2)
    pooled = backbone.finish(tokens, extra=2).pooled
    assert pooled.shape == plain.shape
    assert not torch.allclose(pooled, plain, atol=1e-4)
    pooled.square().sum().backward()
    assert prompts.grad is not None
    assert bool(torch.isfinite(prompts.grad).all())
    assert float(prompts.grad.abs().max()) > 0
    assert all(parameter.grad is None for parameter in backbone.parameters())


def test_it_is_frozen_and_stays_in_evaluation(backbone: Backbone) -> None:
    backbone.train(True)
    assert not any(module.training for module in backbone.modules())
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    roles = backbone.modules_by_role()
    assert set(roles) == {"qkv", "proj", "mlp", "norm", "sublayer"}
    if backbone.takes_prompts:
        assert all(roles.values())


@pytest.mark.parametrize("settings", ["lora layers=all rank=2", "adapter width=4", "ssf", "bitfit"])
def test_what_hangs_on_its_parts_begins_as_it_is_and_changes_it(
    backbone: Backbone, pixels: Tensor, settings: str
) -> None:
    name, *words = settings.split()
    config = load_config(name, dict(word.split("=") for word in words))
    if not backbone.takes_prompts and not backbone.modules_by_role()["mlp"] and name in ("lora", "adapter"):
        with pytest.raises(TuningMismatch, match="linear layers"):
            METHODS.load(name)(config, backbone, ("a", "b"))
        return
    model = METHODS.load(name)(config, backbone, ("a", "b"))
    with torch.no_grad():
        plain = backbone(pixels).pooled
        assert torch.equal(model(pixels).features, plain)
        for key, value in trained_parameters(model).items():
            if key.startswith("tuned."):
                value += 0.1 * torch.randn(value.shape, generator=torch.Generator().manual_seed(6))
        answer = model(pixels, attention=True)
        assert not torch.allclose(answer.features, plain, atol=1e-4)
        assert all(bool(torch.isfinite(row).all()) for row in answer.attention.values())
        assert torch.equal(backbone(pixels).pooled, plain)


def test_without_tokens_it_says_so(backbone: Backbone, pixels: Tensor) -> None:
    if backbone.takes_prompts:
        return
    for work in (lambda: backbone.embed(pixels), lambda: backbone.attention_row(0, pixels)):
        with pytest.raises(TuningMismatch, match="no row of tokens"):
            work()


def _published(backbone: Backbone) -> dict[str, Tensor]:
    """The weights under the names of the published file: the card's translation backwards."""
    card = backbone.card
    backwards = sorted(((ours, theirs) for theirs, ours in card.rename.items()), key=lambda pair: -len(pair[0]))
    tensors = {}
    for name, value in backbone.state_dict().items():
        name = name.removeprefix("network.")
        ours, theirs = next((pair for pair in backwards if name.startswith(pair[0])), ("", ""))
        tensors[theirs + name.removeprefix(ours)] = value
    return tensors


def test_weights_load_strictly(backbone: Backbone, pixels: Tensor, tmp_path: Path) -> None:
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": {"quick_gelu": False}}))
    tensors, source = _published(backbone), tmp_path / "model.safetensors"
    fresh: Backbone = BUILDERS.load(backbone.card.loader)(backbone.card, None)
    lost = list(tensors)[-1]
    with pytest.raises(WeightsRefused, match="missing"):
        fresh.load_tensors({name: value for name, value in tensors.items() if name != lost}, source)
    with pytest.raises(WeightsRefused, match="unexpected"):
        fresh.load_tensors({**tensors, "stranger.weight": torch.zeros(2)}, source)
    with pytest.raises(WeightsRefused, match="shape"):
        fresh.load_tensors({**tensors, lost: torch.zeros(3)}, source)
    fresh.load_tensors(tensors, source)
    fresh.freeze()
    with torch.no_grad():
        assert torch.equal(fresh(pixels).pooled, backbone(pixels).pooled)


@pytest.mark.parametrize("card", LOADABLE, ids=lambda card: card.name)
def test_the_whole_network_has_the_number_of_parameters_on_its_card(card: BackboneCard) -> None:
    """Built at full depth without memory (torch's meta device)."""
    try:
        with torch.device("meta"):
            backbone: Backbone = BUILDERS.load(card.loader)(card, None)
    except BackboneUnavailable as error:
        pytest.skip(f"this version of the library: {error}")
    millions = sum(parameter.numel() for parameter in backbone.parameters()) / 1e6
    assert millions == pytest.approx(card.params_m, rel=0.01)
    if card.takes_prompts:
        assert (backbone.depth, backbone.num_heads) == (card.depth, card.num_heads)
        assert backbone.prefix_tokens == card.prefix_tokens


def test_what_cannot_be_loaded_says_why() -> None:
    others = [card for card in all_cards() if not card.loadable]
    assert others
    for card in others:
        with pytest.raises(BackboneUnavailable, match="cannot be loaded yet") as caught:
            load_backbone(card)
        assert card.reason in str(caught.value)


def test_mean_and_spread_of_the_patches_can_be_the_feature() -> None:
    built_in = next(card for card in LOADABLE if card.name == "pathotune-tiny")
    spread_too = {"pooling": "mean+std_patch", "output_dim": 384, "arguments": {"global_pool": "token"}}
    card = reduced(dataclasses.replace(built_in, **spread_too))
    backbone = load(card, None, 5, None)
    with torch.no_grad():
        features = backbone(torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0)))
    spread, mean = torch.std_mean(features.patches, dim=1, correction=0)
    assert torch.allclose(features.pooled, torch.cat([mean, spread], dim=-1), atol=1e-4)
    assert features.pooled.shape[1] == backbone.card.output_dim
