"""CITE: its size, its start, its sentences, and what is left of it on a backbone without tokens."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pathotune.errors import MissingPackage, TuningMismatch, UsageError
from pathotune.losses.cosine import CosineHead
from pathotune.methods.base import trained_parameters
from pathotune.methods.cite.config import CiteConfig
from pathotune.methods.cite.method import Cite
from pathotune.prompts.classes import parse_class_sentences
from pathotune.prompts.text import cosines, mean_vectors
from pathotune.tasks import Task, TaskClass

NAMES = ("tumour", "stroma", "fat")
TEXTS = np.random.default_rng(0).normal(size=(3, 40)).astype(np.float32)
TASK = Task("t", "T", "tile", (TaskClass("stroma", (1, 2, 3), "Fibrous tissue."), TaskClass("tumour", (1, 2, 3), " ")))


def tiles(backbone, count=6):
    images = np.random.default_rng(0).integers(0, 256, (count, 64, 64, 3), dtype=np.uint8)
    return backbone.normalise(torch.from_numpy(images))


def test_its_size_with_the_published_widths(tiny_backbone):
    # methods.md 2.3: one token 768 wide and a projection from 512 to 1024 with bias make 526,080.
    backbone = tiny_backbone()
    model = Cite(CiteConfig(), backbone, NAMES, TEXTS)
    counted = {key: value.numel() for key, value in trained_parameters(model).items()}
    assert counted == {
        "encoder.prompts.tvp.values": backbone.embed_dim,
        "head.neck.weight": backbone.output_dim * 40,
        "head.neck.bias": 40,
    }
    head = CosineHead(512, np.ones((3, 1024), np.float32))
    assert sum(value.numel() for value in head.parameters()) + 768 == 526_080


def test_logits_are_scaled_cosines_whatever_the_length_of_either_side():
    head = CosineHead(8, np.eye(3, 8, dtype=np.float32) * [[1.0], [5.0], [0.1]])
    with torch.no_grad():
        head.neck.weight.copy_(torch.eye(8))
        head.neck.bias.zero_()
    features = torch.zeros(1, 8)
    features[0, 1] = 7.0
    assert torch.allclose(head(features), torch.tensor([[0.0, 100.0, 0.0]]), atol=1e-3)
    head.temperature = 4.0
    assert torch.allclose(head(features), torch.tensor([[0.0, 25.0, 0.0]]), atol=1e-3)


def test_the_fitted_start_tells_the_classes_apart_and_counts_them_alike():
    random = torch.Generator().manual_seed(0)
    labels = np.array([0] * 90 + [1] * 10 + [2] * 10)
    centres = torch.randn(3, 16, generator=random) * 3
    features = centres[torch.from_numpy(labels)] + torch.randn(len(labels), 16, generator=random)
    head = CosineHead(16, TEXTS)
    head.begin(features, labels)
    logits = head(features)
    assert (logits.argmax(dim=1).numpy() == labels).mean() > 0.95
    losses = torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels), reduction="none")
    loss = np.mean([float(losses[labels == one].mean()) for one in range(3)])
    assert 0.4 < loss / np.log(3) < 0.6, "far enough from nothing for gradients"


def test_tokens_start_at_the_mean_of_the_tiles_own_once(tiny_backbone):
    backbone = tiny_backbone()
    model = Cite(CiteConfig(), backbone, NAMES, TEXTS)
    pixels = tiles(backbone)
    lower = model.lower(pixels)
    model.start(model(pixels).features.detach(), np.arange(6) % 3, lower)
    values = model.encoder.prompts["tvp"].values
    assert torch.allclose(values[0, 0], lower.mean(dim=(0, 1)), atol=1e-6)
    state = model.trainable_state()
    again = Cite(CiteConfig(), backbone, NAMES, TEXTS)
    again.load_trainable_state(state)
    assert torch.equal(again(pixels).logits, model(pixels).logits), "loading starts nothing once more"


def test_a_backbone_without_tokens_keeps_the_text_side_and_says_so(tiny_backbone):
    backbone = tiny_backbone("convolutional")
    model = Cite(CiteConfig(), backbone, NAMES, TEXTS)
    assert not model.has_prompts and model.attention_sources == ()
    assert "takes no tokens" in model.notes[0]
    assert set(trained_parameters(model)) == {"head.neck.weight", "head.neck.bias"}
    assert Cite(CiteConfig(), tiny_backbone(), NAMES, TEXTS).notes == ()


def test_sentences_that_are_nearly_the_same_are_named(tiny_backbone):
    alike = TEXTS.copy()
    alike[2] = alike[0] * 2
    assert cosines(alike)[0, 2] == pytest.approx(1.0) and cosines(alike)[0, 1] < 0.98
    (note,) = Cite(CiteConfig(), tiny_backbone(), NAMES, alike).notes
    assert "tumour and fat" in note and "1.000" in note


def test_another_sentence_changes_the_answer_and_a_class_can_be_added(tiny_backbone):
    backbone = tiny_backbone()
    pixels = tiles(backbone)
    model = Cite(CiteConfig(), backbone, NAMES, TEXTS).eval()
    state = model.trainable_state()
    turned = Cite(CiteConfig(), backbone, NAMES, TEXTS[::-1].copy()).eval()
    turned.load_trainable_state(state)
    assert torch.allclose(turned(pixels).logits, model(pixels).logits.flip(1), atol=1e-4)
    more = Cite(CiteConfig(), backbone, (*NAMES, "necrosis"), np.concatenate([TEXTS, TEXTS[:1] + 1])).eval()
    more.load_trainable_state(state)
    assert torch.allclose(more(pixels).logits[:, :3], model(pixels).logits, atol=1e-4)


def test_every_class_needs_a_sentence(tiny_backbone):
    with pytest.raises(MissingPackage, match="CITE"):
        Cite(CiteConfig(), tiny_backbone(), NAMES, None)
    with pytest.raises(TuningMismatch, match="2 sentences for 3 classes"):
        Cite(CiteConfig(), tiny_backbone(), NAMES, TEXTS[:2])


def test_sentences_come_from_the_person_then_the_card_then_the_name():
    config = CiteConfig(class_sentences="fat: Empty cells | Adipose tissue;")
    assert config.sentences_for(TASK, NAMES, 0.5) == ("tumour", "Fibrous tissue.", "Empty cells | Adipose tissue")
    with pytest.raises(UsageError, match="'bone'"):
        CiteConfig(class_sentences="bone: Bone.").sentences_for(TASK, NAMES, 0.5)


@pytest.mark.parametrize("text", ["fat", "fat:", ": Empty cells", "fat: | ", "fat: a; fat: b"])
def test_sentences_that_cannot_be_read_are_refused(text):
    with pytest.raises(UsageError, match="class_sentences"):
        parse_class_sentences(text)


def test_several_wordings_are_averaged_by_direction():
    known = {"a": [3.0, 0.0], "b": [0.0, 1.0], "c": [1.0, 1.0]}
    vectors = mean_vectors(lambda texts: np.array([known[text] for text in texts]), ["a | b", "c"])
    assert vectors.shape == (2, 2) and np.allclose(vectors, [[1.0, 1.0], [1.0, 1.0]])
