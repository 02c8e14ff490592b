"""Attention rolled out over all blocks, and occlusion."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pathotune.backbones import load_backbone
from pathotune.errors import StoreMismatch, UsageError
from pathotune.events import result_of
from pathotune.inference.explain import RolledOut, agreement, occlusion, rollout
from pathotune.inference.finished import finished_store
from pathotune.inference.predict import predict_slide
from pathotune.inference.predictions import PredictionStore
from pathotune.methods import METHODS, load_config
from pathotune.methods.checkpoint import TRAINED, Tuning
from pathotune.methods.options import as_plain

TEXT = np.random.default_rng(0).normal(size=(2, 24)).astype(np.float32)
TOKEN_KINDS = ("plain", "registers", "rotary", "tower")


def build(method, backbone, **settings):
    torch.manual_seed(0)
    return METHODS.load(method)(load_config(method, settings), backbone, ("a", "b"), TEXT).eval()


def tiles(backbone, count=3):
    images = np.random.default_rng(0).integers(0, 256, (count, 64, 64, 3), dtype=np.uint8)
    return backbone.normalise(torch.from_numpy(images))


def shares(maps):
    return maps / maps.sum(dim=(1, 2), keepdim=True)


@pytest.mark.parametrize("method", ["linear_probe", "pathotune", "lora"])
def test_with_one_block_it_is_that_blocks_attention(tiny_backbone, method):
    backbone = load_backbone(tiny_backbone().card, random_seed=0, depth=1)
    model = build(method, backbone)
    pixels = tiles(backbone)
    raw = model(pixels, attention=True)
    rolled = rollout(model.encoder, pixels)
    assert rolled.attention.keys() == raw.attention.keys()
    for name, row in raw.attention.items():
        assert torch.allclose(rolled.attention[name], shares(row), atol=1e-6)
    assert torch.equal(rolled.features.pooled, model.encoder(pixels).features.pooled)


@pytest.mark.parametrize("kind", TOKEN_KINDS)
def test_it_is_the_product_of_all_blocks(tiny_backbone, kind):
    backbone = tiny_backbone(kind)
    model = build("linear_probe", backbone)
    pixels = tiles(backbone)
    with torch.no_grad():
        tokens = backbone.embed(pixels)
        product = torch.eye(tokens.shape[1])
        for index in range(backbone.depth):
            matrix = backbone.attention_matrix(index, tokens)
            assert torch.allclose(matrix.sum(dim=-1), torch.ones(matrix.shape[:2]), atol=1e-5)
            assert torch.allclose(matrix[:, 0], backbone.attention_row(index, tokens).mean(dim=1), atol=1e-6)
            product = (0.5 * matrix + 0.5 * torch.eye(tokens.shape[1])) @ product
            tokens = backbone.block(index, tokens)
        expected = product[:, 0, backbone.prefix_tokens :].reshape(-1, *backbone.grid)
        assert torch.allclose(rollout(model.encoder, pixels).attention["cls"], shares(expected), atol=1e-6)


@pytest.mark.parametrize(("method", "settings"), [("pathotune", {"tvp_tokens": 3}), ("vpt", {"depth": "deep"})])
def test_rolled_out_too_a_groups_map_is_the_mean_of_its_tokens_maps(tiny_backbone, method, settings):
    backbone = tiny_backbone("registers")
    model, pixels = build(method, backbone, **settings), tiles(backbone)
    groups = rollout(model.encoder, pixels).attention
    model.encoder.reads_tokens = True
    both = rollout(model.encoder, pixels).attention
    assert tuple(both) == model.attention_sources
    assert RolledOut(model).attention_sources == tuple(f"{name} rollout" for name in both)
    for name, row in groups.items():
        assert torch.equal(both[name], row)
    for name, count in model.encoder.layout.counts:
        tokens = torch.stack([both[f"{name} {number}"] for number in range(1, count + 1)])
        assert torch.allclose(tokens.mean(dim=0), groups[name], atol=1e-6)
        assert count == 1 or not torch.allclose(tokens[0], tokens[1], atol=1e-4)


def test_prompts_that_enter_again_are_made_of_what_they_see_there(tiny_backbone):
    backbone = tiny_backbone()
    pixels = tiles(backbone)
    deep, shallow = (build("vpt", backbone, tokens=2, depth=depth) for depth in ("deep", "shallow"))
    deep_maps = rollout(deep.encoder, pixels).attention
    # What entered before the last block has seen the patches there only, each made of the patches before it.
    with torch.no_grad():
        tokens, made_of = backbone.embed(pixels), torch.eye(1 + 16).repeat(3, 1, 1)
        stages = []
        deep.encoder.upper(tokens, pixels, watch=lambda index, tokens, entered: stages.append((tokens, entered)))
        assert [entered for _, entered in stages] == [("tvp",)] * 3
        for index, (inputs, _) in enumerate(stages):
            matrix = backbone.attention_matrix(index, inputs, 2)
            everything = torch.cat([made_of[:, :1], torch.zeros(3, 2, 17), made_of[:, 1:]], dim=1)
            passed = (everything + matrix @ everything) / 2
            made_of = torch.cat([passed[:, :1], passed[:, 3:]], dim=1)
    expected = shares(passed[:, 1:3, 1:].mean(dim=1).reshape(3, 4, 4))
    assert torch.allclose(deep_maps["tvp"], expected, atol=1e-6)
    assert not torch.allclose(rollout(shallow.encoder, pixels).attention["tvp"], deep_maps["tvp"], atol=1e-3)


@pytest.mark.parametrize(
    ("method", "settings"),
    [("pathotune", {"speed": "interactive"}), ("pathotune", {}), ("full", {}), ("lora", {"first_layer": 1})],
)
def test_a_rolled_out_model_answers_as_before(tiny_backbone, method, settings):
    backbone = tiny_backbone("registers")
    model = build(method, backbone, **settings)
    pixels = tiles(backbone)
    with torch.inference_mode():
        plain, rolled = model(pixels, attention=True), RolledOut(model)(pixels, attention=True)
        assert torch.equal(rolled.logits, plain.logits)
        assert torch.equal(RolledOut(model)(pixels).logits, plain.logits)
    assert tuple(rolled.attention) == RolledOut(model).attention_sources
    assert tuple(rolled.attention) == tuple(f"{name} rollout" for name in plain.attention)
    for row in rolled.attention.values():
        assert row.shape == (3, *backbone.grid) and float(row.min()) >= 0
        assert torch.allclose(row.sum(dim=(1, 2)), torch.ones(3), atol=1e-5)


def test_without_tokens_nothing_is_rolled_out(tiny_backbone):
    backbone = tiny_backbone("convolutional")
    model = RolledOut(build("linear_probe", backbone))
    assert model.attention_sources == () and model(tiles(backbone), attention=True).attention == {}


def test_occlusion_finds_the_part_that_speaks_for_a_class_and_the_one_that_speaks_against_it():
    pixels = torch.zeros(2, 3, 64, 64)
    pixels[:, :, 16:32, 32:48] = 1.0
    pixels[:, :, 48:, :16] = -1.0

    def logits(values):
        brightness = values.mean(dim=1)
        score = brightness[:, 16:32, 32:48].mean(dim=(1, 2)) + brightness[:, 48:, :16].mean(dim=(1, 2))
        return torch.stack([score, -score], dim=1)

    found = occlusion(logits, pixels, (4, 4), classes=torch.tensor([0, 1]), batch=3)
    assert found.shape == (2, 4, 4)
    assert divmod(int(found[0].argmax()), 4) == (1, 2) and divmod(int(found[0].argmin()), 4) == (3, 0)
    assert float(found[0, 1, 2]) > 0.3 and float(found[0, 3, 0]) < -0.3
    assert torch.equal(found[1].sign(), -found[0].sign())
    assert (found[0].abs() > 1e-6).sum() == 2
    assert torch.equal(pixels[0, 0, 16:32, 32:48], torch.ones(16, 16)), "the tiles stay as they are"


def test_maps_agree_by_their_order():
    map_ = torch.arange(12.0).reshape(1, 3, 4)
    assert float(agreement(map_, map_.exp())) == pytest.approx(1.0)
    assert float(agreement(map_, -map_)) == pytest.approx(-1.0)


def saved(method, model, backbone, folder):
    """A tuning of a model that was not trained."""
    card = backbone.card
    tuning = Tuning(
        method=method,
        config=as_plain(model.config),
        task={},
        classes=[{"name": name, "color": [1, 2, 3]} for name in model.class_names],
        backbone={"name": card.name, "sha256": backbone.weights_sha256, "embed_dim": 48, "mpp": card.mpp},
        reading=card.reading(),
        tensors={TRAINED + key: value for key, value in model.trainable_state().items()},
    )
    tuning.save(folder / "tuned")
    return tuning


def test_a_store_keeps_the_kind_of_attention_that_was_asked_for(tiny_backbone, slide_path, tmp_path):
    backbone = tiny_backbone()
    tuning = saved("vpt", build("vpt", backbone, tokens=2), backbone, tmp_path)

    def predicted(**options):
        events = predict_slide(
            slide_path, tuning, tmp_path / "stores", backbone=backbone, device="cpu", precision="float32", **options
        )
        return PredictionStore.open(result_of(events)["store"])

    rolled = predicted(attention_kind="rollout")
    assert rolled.sources == ["cls rollout", "tvp rollout"]
    values = np.asarray(rolled.attention[:], dtype=np.float32)
    done = values[:, values.sum(axis=0) > 0]
    assert done.size and done.mean() == pytest.approx(1.0, abs=0.02), "shares times patches"
    asked = {"attention_kind": "rollout", "precision": "float32"}
    identity = rolled.attrs["identity"]["slide"]
    assert finished_store(rolled.path, identity, tuning, asked) is not None
    assert finished_store(rolled.path, identity, tuning, {"precision": "float32"}) is None
    with pytest.raises(StoreMismatch, match="attention sources"):
        predicted()
    with pytest.raises(UsageError, match="last, rollout"):
        predicted(attention_kind="grad")


@pytest.mark.parametrize("attention_kind", ["last", "rollout"])
def test_a_store_keeps_single_tokens_where_asked_and_is_the_same_to_the_byte_without(
    tiny_backbone, slide_path, tmp_path, attention_kind
):
    backbone = tiny_backbone()
    tuning = saved("vpt", build("vpt", backbone, tokens=2), backbone, tmp_path)
    asked = {"attention_kind": attention_kind, "precision": "float32", "deterministic": True}

    def predicted(folder, **options):
        events = predict_slide(
            slide_path, tuning, tmp_path / folder, backbone=backbone, device="cpu", **asked, **options
        )
        return PredictionStore.open(result_of(events)["store"])

    plain, off, both = (
        predicted("plain"),
        predicted("off", attention_tokens=False),
        predicted("on", attention_tokens=True),
    )
    end = " rollout" if attention_kind == "rollout" else ""
    assert plain.sources == [f"cls{end}", f"tvp{end}"]
    assert both.sources == [*plain.sources, f"tvp 1{end}", f"tvp 2{end}"]
    written = {file.relative_to(plain.path): file.read_bytes() for file in plain.path.rglob("c/**/*") if file.is_file()}
    assert written and all((off.path / name).read_bytes() == data for name, data in written.items())
    values = np.asarray(both.attention[:], dtype=np.float32)
    assert np.allclose(values[2:].mean(axis=0), values[1], atol=2e-3 * values[1].max()), "but for float16"
    assert np.abs(values[2] - values[3]).max() > 0.01
    assert np.array_equal(np.asarray(plain.probabilities[:]), np.asarray(both.probabilities[:]))
    identity = both.attrs["identity"]["slide"]
    assert finished_store(both.path, identity, tuning, asked | {"attention_tokens": True}) is not None
    assert finished_store(both.path, identity, tuning, asked) is None
    assert finished_store(plain.path, identity, tuning, asked | {"attention_tokens": True}) is None
    assert finished_store(plain.path, identity, tuning, asked) is not None


def test_a_tuning_without_prompts_says_so(tiny_backbone, slide_path, tmp_path):
    backbone = tiny_backbone()
    tuning = saved("linear_probe", build("linear_probe", backbone), backbone, tmp_path)
    events = list(
        predict_slide(slide_path, tuning, tmp_path / "s", backbone=backbone, device="cpu", attention_tokens=True)
    )
    assert any("no prompt tokens" in getattr(event, "text", "") for event in events)
    assert PredictionStore.open(result_of(events)["store"]).sources == ["cls"]
