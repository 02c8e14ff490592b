"""What each library's models need beyond the common contract."""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import transformers
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed

from pathotune.backbones import BackboneCard, backbone_card, load_backbone
from pathotune.backbones.reference import check_backbone
from pathotune.backbones.surface import Backbone
from pathotune.errors import BackboneUnavailable, TableUnreadable, TuningMismatch, UsageError, WeightsRefused

PIXELS = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def card(loader: str, architecture: str, arguments: dict[str, Any], **facts: Any) -> BackboneCard:
    base = BackboneCard(
        name="small",
        title="Small",
        kind="tile",
        loader=loader,
        architecture=architecture,
        arguments=arguments,
        embed_dim=48,
        output_dim=48,
        depth=2,
        num_heads=3,
        prefix_tokens=1,
        patch_size=16,
        image_size=64,
        tile_px=64,
        mpp=0.5,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        pooling="cls",
        takes_prompts=True,
    )
    return dataclasses.replace(base, **facts)


TIMM = {"img_size": 64, "embed_dim": 48, "depth": 2, "num_heads": 3}
HUGGING = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "image_size": 64,
    "patch_size": 16,
}
PLAIN = card("timm", "vit_tiny_patch16_224", TIMM)
VIT = card("transformers", "ViTModel", {**HUGGING, "intermediate_size": 96})
DINO = card("transformers", "Dinov2Model", {**HUGGING, "mlp_ratio": 2})
TOWER = {"image_size": 64, "patch_size": 16, "width": 48, "layers": 2, "heads": 3, "mlp_ratio": 2.0, "output_dim": 20}
CLIP = card(
    "open_clip",
    "VisionTransformer",
    TOWER,
    pooling="head",
    output_dim=20,
    rename={"visual.": ""},
    ignore=("text.*", "logit_scale"),
)


def test_normalise_is_the_usual_formula_in_any_layout() -> None:
    plain = load_backbone(dataclasses.replace(PLAIN, mean=(0.7, 0.5, 0.6), std=(0.2, 0.3, 0.1)), random_seed=0)
    images = torch.randint(0, 256, (3, 64, 64, 3), dtype=torch.uint8)
    expected = (images.permute(0, 3, 1, 2) / 255 - torch.tensor([0.7, 0.5, 0.6]).view(1, 3, 1, 1)) / torch.tensor(
        [0.2, 0.3, 0.1]
    ).view(1, 3, 1, 1)
    torch.testing.assert_close(plain.normalise(images), expected, atol=1e-5, rtol=1e-5)
    raw = load_backbone(dataclasses.replace(PLAIN, mean=(0, 0, 0), std=(1, 1, 1)), random_seed=0)
    torch.testing.assert_close(raw.normalise(images), images.permute(0, 3, 1, 2) / 255)
    for wrong in (images.float(), images.permute(0, 3, 1, 2), images[0]):
        with pytest.raises(UsageError, match="uint8 of shape"):
            plain.normalise(wrong)


def test_images_of_another_size_are_refused_or_interpolated() -> None:
    fixed = load_backbone(PLAIN, random_seed=0)
    with pytest.raises(TuningMismatch, match="reads 64 x 64 pixels, got 96 x 96"):
        fixed(torch.rand(1, 3, 96, 96))
    flexible = load_backbone(dataclasses.replace(PLAIN, arguments={**TIMM, "dynamic_img_size": True}), random_seed=0)
    with torch.no_grad():
        assert torch.equal(flexible(PIXELS).pooled, fixed(PIXELS).pooled)
        assert flexible(torch.rand(1, 3, 96, 64)).patches.shape == (1, 6 * 4, 48)
    with pytest.raises(TuningMismatch, match="multiples of 16 pixels, got 100 x 64; 96 would do"):
        flexible(torch.rand(1, 3, 100, 64))


def test_positions_learned_at_another_size_are_interpolated_as_timm_does_when_loading() -> None:
    """The cards of DINOv2 keep 518 pixels in the network and feed 224: the same as positions resampled beforehand."""
    large = card("timm", "vit_tiny_patch16_224", {**TIMM, "img_size": 128, "dynamic_img_size": True})
    backbone = load_backbone(large, random_seed=0)
    small: Any = timm.create_model("vit_tiny_patch16_224", num_classes=0, **TIMM).eval()
    tensors: dict[str, Any] = dict(backbone.network.state_dict())
    tensors["pos_embed"] = resample_abs_pos_embed(tensors["pos_embed"], [4, 4], num_prefix_tokens=1)
    small.load_state_dict(tensors)
    with torch.no_grad():
        torch.testing.assert_close(backbone(PIXELS).pooled, small(PIXELS), atol=1e-5, rtol=1e-5)


def test_a_rotary_model_still_computes_gradients_after_a_prediction() -> None:
    rotary = card("timm", "vit_small_patch16_dinov3", {**TIMM, "global_pool": "token"}, prefix_tokens=5)
    backbone = load_backbone(rotary, random_seed=0)
    prompts = torch.rand(2, 3, 48, requires_grad=True)

    def run() -> torch.Tensor:
        tokens = backbone.embed(PIXELS)
        tokens = torch.cat([tokens[:, :5], prompts, tokens[:, 5:]], dim=1)
        return backbone.finish(backbone.block(1, backbone.block(0, tokens, 3), 3), 3).pooled

    with torch.inference_mode():
        run()
    run().sum().backward()
    assert prompts.grad is not None


def test_prompts_of_a_rotary_model_are_turned_as_little_as_registers() -> None:
    """The same network told that its prompts are prefix tokens, which timm never turns."""
    rotary = card("timm", "vit_small_patch16_dinov3", {**TIMM, "global_pool": "token"}, prefix_tokens=5)
    backbone = load_backbone(rotary, random_seed=0)
    network: Any = copy.deepcopy(backbone.network)
    network.blocks[0].attn.num_prefix_tokens += 3
    with torch.no_grad():
        tokens = backbone.embed(PIXELS)
        tokens = torch.cat([tokens[:, :5], torch.rand(2, 3, 48), tokens[:, 5:]], dim=1)
        expected = network.blocks[0](tokens, rope=network.rope.get_embed(shape=(4, 4)))
        torch.testing.assert_close(backbone.block(0, tokens, extra=3), expected, atol=1e-5, rtol=1e-5)
    assert backbone.network.blocks[0].attn.num_prefix_tokens == 5  # type: ignore[union-attr, index]


def test_query_and_key_norms_are_part_of_the_attention_row() -> None:
    backbone = load_backbone(card("timm", "vit_tiny_patch16_224", {**TIMM, "qk_norm": True}), random_seed=0)
    plain = load_backbone(PLAIN, random_seed=0)
    with torch.no_grad():
        tokens = backbone.embed(PIXELS)
        row = backbone.attention_row(0, tokens)
        assert not torch.allclose(row, plain.attention_row(0, tokens), atol=1e-4)
        attention: Any = backbone.network.blocks[0].attn  # type: ignore[union-attr, index]
        qkv = attention.qkv(backbone.network.blocks[0].norm1(tokens))  # type: ignore[union-attr, index, operator]
        query, key, _ = qkv.double().unflatten(-1, (3, 3, 16)).permute(2, 0, 3, 1, 4)
        query, key = attention.q_norm.double()(query), attention.k_norm.double()(key)
    expected = (query[:, :, :1] @ key.transpose(-2, -1) / 4).softmax(dim=-1)[:, :, 0]
    torch.testing.assert_close(row.double(), expected, atol=1e-5, rtol=0)


def test_rows_of_several_groups_come_from_one_call() -> None:
    backbone = load_backbone(PLAIN, random_seed=0)
    with torch.no_grad():
        tokens = torch.cat([backbone.embed(PIXELS)[:, :1], torch.rand(2, 4, 48), backbone.embed(PIXELS)[:, 1:]], dim=1)
        rows = backbone.attention_rows(1, tokens, 4, {"cls": None, "a": slice(1, 3), "b": slice(3, 5)})
        assert torch.allclose(rows["cls"], backbone.attention_row(1, tokens, 4), atol=1e-6)
        assert torch.allclose(rows["a"], backbone.attention_row(1, tokens, 4, slice(1, 3)), atol=1e-6)
        single = [backbone.attention_row(1, tokens, 4, slice(i, i + 1)) for i in (3, 4)]
        torch.testing.assert_close(rows["b"], torch.stack(single).mean(dim=0), atol=1e-6, rtol=0)


def test_short_weights_still_give_a_float32_row() -> None:
    backbone = load_backbone(PLAIN, random_seed=0)
    with torch.no_grad():
        tokens = backbone.embed(PIXELS)
        exact = backbone.attention_row(1, tokens)
        row = backbone.to(torch.bfloat16).attention_row(1, tokens.to(torch.bfloat16))
    assert row.dtype == torch.float32
    torch.testing.assert_close(row, exact, atol=0.02, rtol=0)


def test_a_method_in_training_leaves_the_backbone_alone() -> None:
    class Method(torch.nn.Module):
        def __init__(self, backbone: Backbone) -> None:
            super().__init__()
            self.backbone, self.head = backbone, torch.nn.Linear(48, 2)

    method = Method(load_backbone(card("timm", "vit_tiny_patch16_224", {**TIMM, "proj_drop_rate": 0.5}), random_seed=0))
    method.train()
    assert method.head.training and not method.backbone.training
    with torch.no_grad():
        assert torch.equal(method.backbone(PIXELS).pooled, method.backbone(PIXELS).pooled)


def _in_old_names(name: str) -> str:
    """Names as transformers 4 wrote them, and as the published files have them."""
    for new, old in (
        ("attention.q_proj", "attention.attention.query"),
        ("attention.k_proj", "attention.attention.key"),
        ("attention.v_proj", "attention.attention.value"),
        ("attention.o_proj", "attention.output.dense"),
    ):
        name = name.replace(new, old)
    if not name.startswith("encoder."):
        name = name.replace("layers.", "encoder.layer.").replace("mlp.fc1", "intermediate.dense")
        name = name.replace("mlp.fc2", "output.dense")
    return name


@pytest.mark.parametrize("which", [VIT, DINO], ids=["vit", "dinov2"])
def test_published_folders_of_transformers_load_and_agree(which: BackboneCard, tmp_path: Path) -> None:
    model = load_backbone(which, random_seed=4)
    network: Any = model.network
    network.save_pretrained(tmp_path)
    loaded = load_backbone(which, weights=tmp_path)
    with torch.no_grad():
        assert torch.equal(loaded(PIXELS).pooled, model(PIXELS).pooled)
        reference = transformers.AutoModel.from_pretrained(tmp_path)(pixel_values=PIXELS).last_hidden_state
        assert torch.equal(loaded(PIXELS).patches, reference[:, 1:])
    result = check_backbone(which, tmp_path)
    assert result["agrees"] is True
    assert result["max_difference"] == 0
    assert "AutoModel" in result["reference"]


@pytest.mark.parametrize("which", [VIT, DINO], ids=["vit", "dinov2"])
def test_files_of_older_transformers_load_too(which: BackboneCard, tmp_path: Path) -> None:
    model = load_backbone(which, random_seed=4)
    tensors = {_in_old_names(name): value for name, value in model.network.state_dict().items()}
    save_file(tensors, tmp_path / "model.safetensors")
    loaded = load_backbone(which, weights=tmp_path / "model.safetensors")
    with torch.no_grad():
        assert torch.equal(loaded(PIXELS).pooled, model(PIXELS).pooled)


def test_the_publishers_config_wins_and_another_model_is_refused(tmp_path: Path) -> None:
    published = dataclasses.replace(DINO, arguments={**DINO.arguments, "hidden_act": "relu"})
    model = load_backbone(published, random_seed=4)
    network: Any = model.network
    network.save_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(load_backbone(DINO, weights=tmp_path)(PIXELS).pooled, model(PIXELS).pooled)
    data = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**data, "hidden_size": 96}))
    with pytest.raises(WeightsRefused, match="hidden_size 96"):
        load_backbone(DINO, weights=tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(WeightsRefused, match="damaged"):
        load_backbone(DINO, weights=tmp_path)


def test_remote_code_of_a_folder_is_never_run(tmp_path: Path) -> None:
    model = load_backbone(DINO, random_seed=4)
    network: Any = model.network
    network.save_pretrained(tmp_path)
    data = json.loads((tmp_path / "config.json").read_text())
    data |= {"auto_map": {"AutoModel": "trap.Model", "AutoConfig": "trap.Config"}, "model_type": "trap"}
    (tmp_path / "config.json").write_text(json.dumps(data))
    mark = tmp_path / "ran"
    (tmp_path / "trap.py").write_text(f"import pathlib; pathlib.Path({str(mark)!r}).touch()\n")
    assert load_backbone(DINO, weights=tmp_path).weights_sha256 == model.weights_sha256
    result = check_backbone(DINO, tmp_path)
    assert result["agrees"] is None
    assert "loads strictly" in result["sentence"]
    assert not mark.exists()


def test_open_clip_needs_to_know_the_activation(tmp_path: Path) -> None:
    pytest.importorskip("open_clip")
    model = load_backbone(CLIP, random_seed=4)
    tensors = {f"visual.{name}": value for name, value in model.network.state_dict().items()}
    save_file({**tensors, "logit_scale": torch.ones(1)}, tmp_path / "open_clip_model.safetensors")
    with pytest.raises(WeightsRefused, match=r"open_clip_config\.json beside"):
        load_backbone(CLIP, weights=tmp_path)
    features = {}
    for quick in (False, True):
        (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": {"quick_gelu": quick}}))
        features[quick] = load_backbone(CLIP, weights=tmp_path)(PIXELS).pooled
    assert torch.equal(features[False], model(PIXELS).pooled)
    assert not torch.allclose(features[True], features[False], atol=1e-4)


def test_open_clip_folders_agree_with_open_clip(tmp_path: Path) -> None:
    open_clip = pytest.importorskip("open_clip")
    vision = {"image_size": 64, "patch_size": 16, "width": 48, "layers": 2, "head_width": 16, "mlp_ratio": 2.0}
    text = {"context_length": 8, "vocab_size": 100, "width": 32, "heads": 2, "layers": 1}
    model_cfg = {"embed_dim": 20, "quick_gelu": True, "vision_cfg": vision, "text_cfg": text}
    whole = open_clip.model.CLIP(20, vision, text, quick_gelu=True).eval()
    save_file({k: v.contiguous() for k, v in whole.state_dict().items()}, tmp_path / "open_clip_model.safetensors")
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": model_cfg, "preprocess_cfg": {}}))
    ignored = ("transformer.*", "token_embedding.*", "positional_embedding", "ln_final.*", "text_projection")
    both = dataclasses.replace(CLIP, ignore=(*ignored, "attn_mask", "logit_scale"))
    backbone = load_backbone(both, weights=tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(backbone(PIXELS).pooled, whole.encode_image(PIXELS), atol=1e-5, rtol=1e-5)
    result = check_backbone(both, tmp_path)
    assert result["agrees"] is True, result["sentence"]


def test_timm_files_agree_with_timm(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = load_backbone(PLAIN, random_seed=4)
    save_file(dict(model.network.state_dict()), tmp_path / "model.safetensors")
    with caplog.at_level(logging.ERROR):
        result = check_backbone(PLAIN, tmp_path)
    assert result["agrees"] is True, result["sentence"]
    assert result["max_difference"] == 0
    assert result["sha256"] == model.weights_sha256
    config = {
        "architecture": "vit_tiny_patch16_224",
        "num_classes": 0,
        "model_args": TIMM,
        "pretrained_cfg": {
            "mean": [0.1, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "num_classes": 0,
            "input_size": [3, 64, 64],
        },
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    result = check_backbone(PLAIN, tmp_path)
    assert result["agrees"] is True, result["sentence"]
    assert "published folder" in result["reference"]
    assert any("mean [0.1" in note for note in result["notes"])


def test_a_wrong_card_is_caught_by_the_comparison(tmp_path: Path) -> None:
    """Here the card has the wrong activation, which leaves no trace in the tensors."""
    right = card("timm", "vit_tiny_patch16_224", TIMM)
    network: Any = load_backbone(right, random_seed=4).network
    save_file(dict(network.state_dict()), tmp_path / "model.safetensors")
    config = {"architecture": "vit_tiny_patch16_224", "num_classes": 0, "model_args": {**TIMM, "act_layer": "relu"}}
    (tmp_path / "config.json").write_text(json.dumps({**config, "pretrained_cfg": {"num_classes": 0}}))
    result = check_backbone(right, tmp_path)
    assert result["agrees"] is False
    assert "DIFFERS" in result["sentence"]


def test_dinov2_checkpoints_go_through_timms_conversion(tmp_path: Path) -> None:
    registers = {**TIMM, "reg_tokens": 2, "no_embed_class": True, "global_pool": "token", "init_values": 1.0}
    foreign = card("timm", "vit_tiny_patch16_224", registers, convert="timm", prefix_tokens=3)
    model = load_backbone(foreign, random_seed=4)
    tensors: dict[str, Any] = {k: v.clone() for k, v in model.network.state_dict().items()}
    # As Meta writes them: a position for the class token, registers and layer scales under other names.
    tensors["pos_embed"] = torch.cat([torch.zeros(1, 1, 48), tensors["pos_embed"]], dim=1)
    tensors["register_tokens"] = tensors.pop("reg_token")
    tensors["mask_token"] = torch.zeros(1, 48)
    torch.save(tensors, tmp_path / "teacher.pt")
    with torch.no_grad():
        torch.testing.assert_close(
            load_backbone(foreign, weights=tmp_path / "teacher.pt")(PIXELS).pooled, model(PIXELS).pooled
        )
    tensors["pos_embed"] = torch.zeros(1, 50, 48)
    torch.save(tensors, tmp_path / "teacher.pt")
    with pytest.raises(WeightsRefused, match="pos_embed"):
        load_backbone(foreign, weights=tmp_path / "teacher.pt")


def test_pathoduets_pretext_token_stands_first() -> None:
    backbone = load_backbone("pathoduet-he", random_seed=0, depth=1)
    pixels = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        tokens = backbone.embed(pixels)
        row = backbone.attention_row(0, tokens)
        assert torch.equal(row, backbone.attention_row(0, tokens, queries=slice(1, 2)))
        features = backbone(pixels)
        tokens = backbone.network.forward_features(pixels)  # type: ignore[operator]
    assert torch.equal(features.cls, tokens[:, 1])
    expected = backbone.network.fc_norm(tokens[:, 2:].mean(dim=1))  # type: ignore[operator]
    torch.testing.assert_close(features.pooled, expected)


@pytest.mark.parametrize(
    ("which", "complaint"),
    [
        (card("timm", "vit_tiny_patch16_224", {**TIMM, "colour": 3}), "argument that timm's"),
        (card("timm", "vit_tiny_patch16_224", {**TIMM, "mlp_layer": "os.system"}), "no layer a card may name"),
        (card("timm", "resnet18", {}), "no row of tokens"),
        (card("timm", "vit_tiny_patch16_224", TIMM, head=("linear many",)), "head layer 'linear many'"),
        (card("transformers", "BertModel", {}), "of transformers ViTModel"),
        (card("open_clip", "VisionTransformer", {**TOWER, "colour": 3}), "open_clip does not take"),
    ],
)
def test_a_card_the_library_cannot_build_says_why(which: BackboneCard, complaint: str) -> None:
    if which.loader == "open_clip":
        pytest.importorskip("open_clip")
    with pytest.raises(TableUnreadable, match=complaint):
        load_backbone(which, random_seed=0)


def test_a_model_the_installed_library_lacks_says_so() -> None:
    with pytest.raises(BackboneUnavailable, match="install a newer timm"):
        load_backbone(card("timm", "vit_from_the_future", {}), random_seed=0)
    with pytest.raises(WeightsRefused, match="global_pool"):
        load_backbone(card("timm", "vit_small_patch16_dinov3", TIMM, prefix_tokens=5), random_seed=0)


def test_cards_of_one_publisher_agree_on_what_they_share() -> None:
    assert backbone_card("h-optimus-0").mean == backbone_card("h-optimus-1").mean == backbone_card("h0-mini").mean


def test_attention_that_learns_in_bfloat16_multiplies_its_tables_out_to_the_same_numbers(tiny_backbone) -> None:
    backbone = tiny_backbone("plain")
    attention = backbone.network.blocks[0].attn
    pixels = backbone.normalise(torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8))

    def learned():
        tokens = backbone.embed(pixels).detach().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            pooled = backbone.finish(backbone.block(0, tokens)).pooled
        return pooled.detach(), torch.autograd.grad(pooled.float().square().sum(), tokens)[0]

    assert attention.fused_attn  # no gradient in bfloat16 is asked for: predictions take the fused kernel
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not attention.fused_attn
        with torch.inference_mode():
            assert attention.fused_attn
    own = learned()
    attention.num_heads, heads = 99, attention.num_heads
    assert attention.fused_attn
    attention.num_heads = heads
    kind = type(attention)
    attention.__class__ = kind.__mro__[1]
    attention.fused_attn = True
    fused = learned()
    attention.__class__ = kind
    for mine, theirs in zip(own, fused, strict=True):
        assert (mine - theirs).norm() / theirs.norm() < 0.02
