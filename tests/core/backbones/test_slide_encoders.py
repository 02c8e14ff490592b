"""What every slide encoder of the table promises, the small one, and TITAN's consent and layout."""

from __future__ import annotations

import dataclasses
import textwrap

import pytest
import torch
from safetensors.torch import save_file

from pathotune.backbones import all_cards, backbone_card, load_backbone
from pathotune.backbones.slide import SLIDE_ENCODERS, load_slide_encoder
from pathotune.backbones.slide.longnet import LongNet
from pathotune.backbones.weights import fill_randomly
from pathotune.errors import BackboneUnavailable, MissingPackage, TuningMismatch, UsageError, WeightsRefused

NETWORK = """
import torch
from torch import nn
from .configuration_titan import WIDTH


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, x, bias, foreground):
        assert x.shape[1] == int(foreground.sum())
        near = torch.softmax(bias.mean(dim=1), dim=-1) @ x
        return x + torch.tanh(self.linear(near))


class VisionTransformer(nn.Module):
    def __init__(self, grid_size, global_pool, embed_dim, depth, num_heads, mlp_ratio, qkv_bias, mlp_patch_embed_dim,
                 pos_encode_type, attentional_pool, attn_pooler_queries, attn_pooler_heads):
        super().__init__()
        self.pos_encode_type = pos_encode_type
        self.num_heads = num_heads
        self.patch_embed = nn.Linear(embed_dim, embed_dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.blocks = nn.Sequential(*[Block(embed_dim) for _ in range(depth)])
        self.norm, self.norm_pre = nn.LayerNorm(embed_dim), nn.Identity()

    def get_alibi(self, w, h, bg_mask):
        cells = torch.nonzero(bg_mask.view(w, h)).float()
        far = torch.cdist(cells, cells)
        far = torch.nn.functional.pad(far, (1, 0, 1, 0))
        return -far.expand(1, self.num_heads, -1, -1)

    def _pos_embed(self, x, coords, w, h):
        assert coords.shape == (1, 2, w, h) and x.shape[1] == w * h
        return torch.cat([self.cls_token, x], dim=1)

    def forward_attn_pool(self, x, bg_mask=None):
        return x[0, 0], x
"""
CONFIGURATION = """
from types import SimpleNamespace

WIDTH = 768


class TitanConfig:
    def __init__(self):
        self.vision_config = SimpleNamespace(
            grid_size=14, global_pool="token", embed_dim=WIDTH, depth=6, num_heads=2, mlp_ratio=4, qkv_bias=True,
            mlp_patch_embed_dim=WIDTH, pos_encode_type="alibi", attentional_pool=True, attn_pooler_queries=1,
            attn_pooler_heads=2,
        )
"""


@pytest.fixture
def titan_folder(tmp_path, monkeypatch):
    """A stand-in of the same layout as TITAN's repository, with weights of its own."""
    monkeypatch.setenv("PATHOTUNE_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "titan"
    folder.mkdir()
    (folder / "vision_transformer.py").write_text(textwrap.dedent(NETWORK))
    (folder / "configuration_titan.py").write_text(textwrap.dedent(CONFIGURATION))
    generator = torch.Generator().manual_seed(0)
    tensors = {"vision_encoder.cls_token": torch.randn(1, 1, 768, generator=generator)}
    for name in ("patch_embed", *(f"blocks.{index}.linear" for index in range(6))):
        tensors[f"vision_encoder.{name}.weight"] = torch.randn(768, 768, generator=generator) / 768**0.5
        tensors[f"vision_encoder.{name}.bias"] = torch.randn(768, generator=generator) / 10
    tensors |= {"vision_encoder.norm.weight": torch.ones(768), "vision_encoder.norm.bias": torch.zeros(768)}
    save_file({**tensors, "text_encoder.something": torch.zeros(3)}, folder / "model.safetensors")
    return folder


def made(name, titan_folder):
    """One encoder of the table, reduced where it would be large."""
    if name == "titan-slide":
        return load_slide_encoder(name, weights=titan_folder, run_local_code=True)
    if name == "gigapath-slide":
        card = backbone_card(name)
        card = dataclasses.replace(
            card, arguments={**card.arguments, "hidden": 96}, embed_dim=48, output_dim=48, depth=2
        )
        encoder = LongNet(card, 24)
        fill_randomly(encoder, 0)
        return encoder.freeze()
    return load_slide_encoder(name, feature_dim=24)


def tiles(encoder, count=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    cells = torch.stack(torch.meshgrid(torch.arange(5), torch.arange(4), indexing="ij"), dim=-1).reshape(-1, 2)
    place = torch.randperm(20, generator=generator)[:count]
    return torch.randn(1, count, encoder.feature_dim, generator=generator), cells[place][None] * 512.0


every_encoder = pytest.mark.parametrize("name", list(SLIDE_ENCODERS))


@every_encoder
def test_layers_one_by_one_are_the_whole(name, titan_folder):
    encoder = made(name, titan_folder)
    features, coords = tiles(encoder)
    tokens, context, order = encoder.embed(features, coords)
    assert tokens.shape == (1, 13, encoder.width)
    assert order is None or sorted(order.tolist()) == list(range(12))
    for layer in range(encoder.depth):
        tokens = encoder.layer(layer, tokens, context)
    assert torch.equal(encoder.finish(tokens, context), encoder(features, coords))
    assert encoder.read_out(tokens, context).shape == (1, encoder.width)
    assert encoder(features, coords).shape == (1, encoder.output_dim)


@every_encoder
def test_frozen_whatever_is_asked(name, titan_folder):
    encoder = made(name, titan_folder).train()
    assert not any(module.training for module in encoder.modules())
    assert not any(value.requires_grad for value in encoder.parameters())
    features, coords = tiles(encoder)
    tokens = encoder.embed(features, coords)
    start = tokens.tokens.clone().requires_grad_(True)
    encoder.layer(0, start, tokens.context).sum().backward()
    assert start.grad is not None and start.grad.abs().max() > 0


@every_encoder
def test_it_says_whether_the_order_matters(name, titan_folder):
    encoder = made(name, titan_folder)
    features, coords = tiles(encoder)
    turned = torch.randperm(12, generator=torch.Generator().manual_seed(3))
    same = torch.allclose(encoder(features, coords), encoder(features[:, turned], coords[:, turned]), atol=1e-5)
    # LongNet's first branch holds so few tiles whole; the others already take only some of them.
    assert same is not encoder.depends_on_order


@every_encoder
def test_features_of_another_width_are_refused(name, titan_folder):
    encoder = made(name, titan_folder)
    with pytest.raises(TuningMismatch, match="wide, but these are 7 wide"):
        encoder.embed(torch.zeros(1, 2, 7), torch.zeros(1, 2, 2))


@every_encoder
def test_filled_up_slides_are_as_alone_or_refused(name, titan_folder):
    encoder = made(name, titan_folder)
    features, coords = tiles(encoder)
    mask = torch.arange(12)[None] < 9
    if not encoder.takes_masks:
        with pytest.raises(TuningMismatch, match="one slide at a time"):
            encoder.embed(features, coords, mask)
        return
    alone = encoder(features[:, :9], coords[:, :9])
    assert torch.allclose(encoder(features, coords, mask), alone, atol=1e-5)


def test_every_slide_encoder_has_a_card_and_no_other_card_claims_to_load():
    loadable = {card.name for card in all_cards() if card.kind == "slide" and card.loadable}
    assert loadable == set(SLIDE_ENCODERS)
    with pytest.raises(UsageError, match="slide encoder: it takes features of tiles"):
        load_backbone("gigapath-slide")


def test_the_small_one_is_the_same_everywhere_and_looks_at_features_and_places():
    one, other = (load_slide_encoder("small-slide", feature_dim=24) for _ in range(2))
    assert one.weights_sha256 == other.weights_sha256
    features, coords = tiles(one)
    assert not torch.allclose(one(features, coords), one(features.flip(0) * 1.5 + 1, coords.flip(1)), atol=1e-4)
    with pytest.raises(UsageError, match="how wide"):
        load_slide_encoder("small-slide")


def test_titan_asks_before_it_runs_anybodys_code(titan_folder):
    (titan_folder / "vision_transformer.py").write_text("raise SystemExit('ran')")
    with pytest.raises(BackboneUnavailable, match=r"vision_transformer\.py.*all of your rights.*run_local_code=true"):
        load_slide_encoder("titan-slide", weights=titan_folder)


def test_titans_code_once_agreed_to_runs_again_until_it_changes(titan_folder):
    load_slide_encoder("titan-slide", weights=titan_folder, run_local_code=True)
    assert load_slide_encoder("titan-slide").depth == 6
    (titan_folder / "another.py").write_text("")
    with pytest.raises(BackboneUnavailable, match="run_local_code=true"):
        load_slide_encoder("titan-slide")


def test_titan_says_what_its_folder_lacks(titan_folder, tmp_path, monkeypatch):
    (titan_folder / "model.safetensors").unlink()
    with pytest.raises(BackboneUnavailable, match=r"model\.safetensors is not there"):
        load_slide_encoder("titan-slide", weights=titan_folder, run_local_code=True)
    monkeypatch.setenv("PATHOTUNE_MODELS", str(tmp_path / "none"))
    with pytest.raises(BackboneUnavailable, match="with its own code only"):
        load_slide_encoder("titan-slide", run_local_code=True)


def test_titan_loads_strictly_and_says_what_its_code_needs(titan_folder):
    tensors = {"vision_encoder.cls_token": torch.zeros(1, 1, 768)}
    save_file(tensors, titan_folder / "model.safetensors")
    with pytest.raises(WeightsRefused, match="missing"):
        load_slide_encoder("titan-slide", weights=titan_folder, run_local_code=True)
    (titan_folder / "configuration_titan.py").write_text("import not_installed_anywhere\n")
    import sys

    for name in [name for name in sys.modules if name.startswith("pathotune_local_")]:
        del sys.modules[name]
    with pytest.raises(MissingPackage, match="not_installed_anywhere"):
        load_slide_encoder("titan-slide", weights=titan_folder, run_local_code=True)


def test_two_tiles_in_one_cell_of_titans_grid_are_refused(titan_folder):
    encoder = load_slide_encoder("titan-slide", weights=titan_folder, run_local_code=True)
    features, coords = tiles(encoder)
    with pytest.raises(TuningMismatch, match="tiles share a cell of 512 pixels"):
        encoder(features, coords / 2)  # the tiles of another pixel size
