"""Text sides of image–text models: the vectors their own libraries give, from folders of the published layout."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import save_file
from torch.nn import functional

from pathotune.backbones import BackboneCard, all_cards, backbone_card, load_backbone
from pathotune.backbones.text import load_text_encoder
from pathotune.backbones.text.towers import cards_with_text, text_side, tower_encoder
from pathotune.errors import BackboneUnavailable, TableUnreadable, UsageError, WeightsRefused

SENTENCES = ["a nest of tumor cells", "fat", "wavy collagen with slender fibroblasts"]
WORDS = [*"abcdefghijklmnopqrstuvwxyz"]
DIM = 20
PIXELS = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def shrunk(name: str, **changes: Any) -> BackboneCard:
    """A card of the catalogue with a small network of the same layout."""
    card = backbone_card(name)
    text = {**card.text, **changes.pop("text")}
    return dataclasses.replace(card, output_dim=DIM, gated=False, text=text, **changes)


def contiguous(tensors: Any, prefix: str = "") -> dict[str, torch.Tensor]:
    return {prefix + name: value.detach().clone().contiguous() for name, value in tensors.items()}


def save_bert_tokenizer(folder: Path) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *(f"##{letter}" for letter in WORDS)]
    (folder / "vocab.txt").write_text("\n".join(words))
    transformers.BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)


BERT = {"vocab_size": 57, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}


def unit(vectors: torch.Tensor) -> np.ndarray:
    return np.asarray(functional.normalize(vectors.detach().float(), dim=-1))


# -- transformers' CLIP -----------------------------------------------------------------------------------------------


@pytest.fixture
def clip(tmp_path: Path) -> tuple[BackboneCard, Path, Any]:
    """PLIP's layout: one folder with both sides, their config and the tokenizer."""
    folder = tmp_path / "plip"
    folder.mkdir()
    vocabulary = {letter: index for index, letter in enumerate([*WORDS, *(f"{letter}</w>" for letter in WORDS)])}
    vocabulary |= {"<|startoftext|>": len(vocabulary), "<|endoftext|>": len(vocabulary) + 1}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = transformers.CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    tokenizer.save_pretrained(folder)
    small = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    small["projection_dim"] = DIM
    ends = {"bos_token_id": len(vocabulary) - 2, "eos_token_id": len(vocabulary) - 1}
    text = {**small, **ends, "vocab_size": len(vocabulary), "max_position_embeddings": 77, "hidden_act": "quick_gelu"}
    vision = {**small, "image_size": 64, "patch_size": 16, "hidden_act": "quick_gelu"}
    torch.manual_seed(0)
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=DIM)
    model = transformers.CLIPModel(config).eval()
    model.save_pretrained(folder)
    card = shrunk(
        "plip",
        text={},
        arguments=vision,
        embed_dim=32,
        depth=2,
        num_heads=2,
        patch_size=16,
        image_size=64,
        tile_px=64,
    )
    return card, folder, (model, tokenizer)


def test_clip_sentences_are_where_transformers_puts_them(clip: Any) -> None:
    card, folder, (model, tokenizer) = clip
    encoder = tower_encoder(card, folder)
    ours = encoder.encode(SENTENCES)
    tokens = tokenizer(SENTENCES, padding=True, return_tensors="pt")
    with torch.no_grad():
        theirs = model(**tokens, pixel_values=PIXELS).text_embeds
    assert encoder.name == "tower:plip" and encoder.dim == DIM and ours.shape == (3, DIM)
    np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-5)
    # A sentence beside a longer one is the same.
    np.testing.assert_allclose(encoder.compute(SENTENCES[1:2])[0], ours[1], atol=1e-5)


def test_image_and_sentence_meet_as_in_the_whole_model(clip: Any) -> None:
    card, folder, (model, tokenizer) = clip
    backbone = load_backbone(card, weights=folder)
    sentences = tower_encoder(card, backbone.weights_path).encode(SENTENCES)
    with torch.no_grad():
        ours = backbone.text_scale * unit(backbone(PIXELS).pooled) @ sentences.T
        tokens = tokenizer(SENTENCES, padding=True, return_tensors="pt")
        theirs = model(**tokens, pixel_values=PIXELS).logits_per_image
    np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-3)


def test_a_folder_of_clip_is_a_text_encoder_too(clip: Any) -> None:
    card, folder, _ = clip
    encoder = load_text_encoder(f"hf:{folder}")
    assert encoder.dim == DIM
    np.testing.assert_allclose(encoder.encode(SENTENCES), tower_encoder(card, folder).encode(SENTENCES), atol=1e-5)


def test_a_text_side_of_another_publisher_is_looked_for_under_its_own_name(clip: Any, monkeypatch: Any) -> None:
    card, folder, _ = clip
    apart = dataclasses.replace(card, name="towerless", text={**card.text, "hub_id": "nobody/clip"})
    monkeypatch.setenv("PATHOTUNE_MODELS", str(folder.parent))
    with pytest.raises(BackboneUnavailable, match="towerless-text"):
        tower_encoder(apart)
    (folder.parent / "towerless-text").symlink_to(folder)
    assert tower_encoder(apart).encode(SENTENCES).shape == (3, DIM)


def test_a_file_without_a_text_side_is_refused(clip: Any, tmp_path: Path) -> None:
    card, folder, (model, _) = clip
    vision = {name: value for name, value in model.state_dict().items() if not name.startswith("text_")}
    save_file(contiguous(vision), folder / "model.safetensors")
    with pytest.raises(WeightsRefused, match="holds no text side"):
        tower_encoder(card, folder).encode(SENTENCES)
    lacking = {k: v for k, v in model.state_dict().items() if k != "text_projection.weight"}
    save_file(contiguous(lacking), folder / "model.safetensors")
    with pytest.raises(WeightsRefused, match=r"1 missing \(text_projection"):
        tower_encoder(card, folder).encode(SENTENCES)


# -- SigLIP -----------------------------------------------------------------------------------------------------------


def test_siglip_sentences_are_where_transformers_puts_them(tmp_path: Path) -> None:
    save_bert_tokenizer(tmp_path)
    small = {"hidden_size": DIM, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**small, "vocab_size": 57, "max_position_embeddings": 16, "projection_size": DIM}
    vision = {**small, "image_size": 64, "patch_size": 16}
    torch.manual_seed(0)
    model = transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=vision)).eval()
    model.save_pretrained(tmp_path)
    card = shrunk("medsiglip-448", text={"context": 16})
    ours = tower_encoder(card, tmp_path).encode(SENTENCES)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    ids = tokenizer(SENTENCES, padding="max_length", max_length=16, truncation=True, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        theirs = model(input_ids=ids, pixel_values=PIXELS).text_embeds
    np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-5)
    np.testing.assert_allclose(load_text_encoder(f"hf:{tmp_path}").encode(SENTENCES), ours, atol=1e-5)


# -- open_clip --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_custom", [False, True], ids=["quiltnet", "coca"])
def test_open_clip_sentences_are_where_open_clip_puts_them(tmp_path: Path, is_custom: bool) -> None:
    open_clip = pytest.importorskip("open_clip")
    vision = {"image_size": 64, "patch_size": 16, "width": 48, "layers": 1, "head_width": 16, "mlp_ratio": 2.0}
    text = {"context_length": 76 if is_custom else 77, "width": 32, "heads": 2, "layers": 2}
    torch.manual_seed(0)
    if is_custom:
        whole = open_clip.model.CustomTextCLIP(DIM, vision, {**text, "embed_cls": True}, quick_gelu=False).eval()
    else:
        whole = open_clip.model.CLIP(DIM, vision, text, quick_gelu=True).eval()
    save_file(contiguous(whole.state_dict()), tmp_path / "open_clip_model.safetensors")
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": {"quick_gelu": not is_custom}}))
    name = "omiclip" if is_custom else "quiltnet-b32"
    arguments = {**backbone_card(name).text["arguments"], "width": 32, "heads": 2, "layers": 2}
    card = shrunk(name, text={"arguments": arguments})
    ours = tower_encoder(card, tmp_path).encode(SENTENCES)
    tokens = open_clip.tokenizer.SimpleTokenizer(context_length=text["context_length"])(SENTENCES)
    with torch.no_grad():
        np.testing.assert_allclose(ours, unit(whole.encode_text(tokens)), atol=1e-5)
    if not is_custom:
        (tmp_path / "open_clip_config.json").unlink()
        with pytest.raises(WeightsRefused, match="which activation"):
            tower_encoder(card, tmp_path).compute(SENTENCES)


def test_conchs_tokenizer_file_is_asked_for_and_read(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    from open_clip.transformer import TextTransformer

    card = backbone_card("conch")
    arguments = {**card.text["arguments"], "vocab_size": 40, "width": 32, "heads": 2, "layers": 1}
    card = shrunk("conch", text={"arguments": arguments, "context": 31})
    torch.manual_seed(0)
    plain = {key: value for key, value in arguments.items() if key != "quick_gelu"}
    tower = TextTransformer(context_length=31, output_dim=DIM, **plain).eval()
    save_file(contiguous(tower.state_dict(), "text."), tmp_path / "model.safetensors")
    with pytest.raises(BackboneUnavailable, match=r"conch_byte_level_bpe_uncased\.json.*github.com/mahmoodlab/CONCH"):
        tower_encoder(card, tmp_path).encode(SENTENCES)
    words = {word: index for index, word in enumerate(["<pad>", "<start_of_text>", "<end_of_text>", "[UNK]", *WORDS])}
    file = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    file.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    file.save(str(tmp_path / "conch_byte_level_bpe_uncased.json"))
    encoder = tower_encoder(card, tmp_path)
    vectors = encoder.encode(["a b c", "x"])
    ids = torch.zeros(1, 31, dtype=torch.long)
    ids[0, 0] = words["x"]
    with torch.no_grad():
        np.testing.assert_allclose(vectors[1], unit(tower(ids))[0], atol=1e-5)


# -- BERT with a projection -------------------------------------------------------------------------------------------


def test_biomedclip_sentences_are_where_open_clip_puts_them(tmp_path: Path) -> None:
    hf_model = pytest.importorskip("open_clip.hf_model")
    save_bert_tokenizer(tmp_path)
    torch.manual_seed(0)
    config = transformers.BertConfig(**BERT)
    whole = hf_model.HFTextEncoder("", DIM, config, "cls_last_hidden_state_pooler", "mlp").eval()
    save_file(contiguous(whole.state_dict(), "text."), tmp_path / "open_clip_model.safetensors")
    card = shrunk("biomedclip", text={"arguments": BERT})
    tokens = transformers.AutoTokenizer.from_pretrained(tmp_path)(SENTENCES, padding=True, return_tensors="pt")
    with pytest.raises(WeightsRefused, match=r"unexpected \(transformer\.pooler"):
        tower_encoder(card, tmp_path).encode(SENTENCES)  # a pooler that the published file does not have
    kept = {k: v for k, v in whole.state_dict().items() if ".pooler." not in k}
    save_file(contiguous(kept, "text."), tmp_path / "open_clip_model.safetensors")
    with torch.no_grad():
        theirs = unit(whole(tokens["input_ids"]))
    np.testing.assert_allclose(tower_encoder(card, tmp_path).encode(SENTENCES), theirs, atol=1e-5)


def test_keeps_text_side_is_a_bert_with_its_pooler(tmp_path: Path) -> None:
    save_bert_tokenizer(tmp_path)
    torch.manual_seed(0)
    whole = transformers.BertModel(transformers.BertConfig(**{**BERT, "hidden_size": DIM})).eval()
    save_file(contiguous(whole.state_dict(), "text."), tmp_path / "model.safetensors")
    card = shrunk("keep", text={"arguments": {**BERT, "hidden_size": DIM}})
    tokens = transformers.AutoTokenizer.from_pretrained(tmp_path)(SENTENCES, padding=True, return_tensors="pt")
    with torch.no_grad():
        theirs = unit(whole(**tokens).pooler_output)
    np.testing.assert_allclose(tower_encoder(card, tmp_path).encode(SENTENCES), theirs, atol=1e-5)


# -- cards ------------------------------------------------------------------------------------------------------------


def test_the_catalogue_says_who_reads_sentences() -> None:
    named = set(cards_with_text())
    assert {"plip", "conch", "keep", "medsiglip-448", "biomedclip", "quiltnet-b32", "quiltnet-b16-pmb"} <= named
    assert {"clip-vit-b-16", "clip-vit-b-32", "clip-vit-l-14", "quiltnet-b16"} <= named
    for card in all_cards():
        if card.name in named:
            assert text_side(card).context > 16 and card.facts()["reads_text"]
    assert not backbone_card("uni").facts()["reads_text"]
    with pytest.raises(UsageError, match=r"UNI has no text side.*plip"):
        load_text_encoder("tower:uni")
    with pytest.raises(UsageError, match="tower:plip"):
        load_text_encoder("tower:")


@pytest.mark.parametrize("text", [{"kind": "oracle", "context": 7}, {"kind": "clip"}, {"kind": "clip", "colour": 1}])
def test_a_faulty_text_side_names_what_is_wrong(text: dict[str, Any]) -> None:
    with pytest.raises(TableUnreadable, match="text side on the card of plip"):
        text_side(dataclasses.replace(backbone_card("plip"), text=text))
