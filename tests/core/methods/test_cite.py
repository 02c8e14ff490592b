"""CITE: its size, its start, its sentences, and what is left of it on a backbone without tokens."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pathotune.backbones import BackboneCard, load_backbone
from pathotune.errors import MissingPackage, TuningMismatch, UsageError
from pathotune.losses.cosine import CosineHead
from pathotune.methods import build_model
from pathotune.methods.base import trained_parameters
from pathotune.methods.checkpoint import TEXT_VECTORS, TRAINED, Tuning
from pathotune.methods.cite.config import CiteConfig
from pathotune.methods.cite.method import Cite
from pathotune.methods.options import as_plain
from pathotune.prompts.classes import parse_class_sentences
from pathotune.prompts.text import cosines, mean_vectors
from pathotune.tasks import Task, TaskClass

SWIN = BackboneCard(
    name="tiny-swin",
    title="Tiny Swin",
    kind="tile",
    loader="timm",
    architecture="swin_tiny_patch4_window7_224",
    arguments={"img_size": 64, "window_size": 4, "embed_dim": 24, "depths": [1, 1], "num_heads": [2, 2]},
    embed_dim=48,
    output_dim=48,
    image_size=64,
    tile_px=64,
    mpp=0.5,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    pooling="gap",
)
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


def test_a_learned_scale_is_kept_by_the_file(tiny_backbone, tmp_path):
    backbone = tiny_backbone()
    model = Cite(CiteConfig(learn_scale=True), backbone, NAMES, TEXTS)
    with torch.no_grad():
        model.head.log_scale.fill_(np.log(30.0))
    tuning = Tuning(
        "cite",
        as_plain(model.config),
        {},
        [{"name": name} for name in NAMES],
        {"name": backbone.card.name, "sha256": backbone.weights_sha256, "embed_dim": 48, "mpp": 0.5},
        backbone.card.reading(),
        tensors={TEXT_VECTORS: TEXTS, **{TRAINED + key: value for key, value in model.trainable_state().items()}},
    )
    loaded = build_model(Tuning.load(tuning.save(tmp_path / "t")), backbone)
    pixels = tiles(backbone)
    assert torch.equal(loaded(pixels).logits, model.eval()(pixels).logits) and loaded(pixels).logits.abs().max() <= 30


@pytest.mark.parametrize("kind", ["convolutional", "swin"])
def test_text_head_and_projection_stand_on_any_pooled_encoder(tiny_backbone, kind):
    backbone = tiny_backbone("convolutional") if kind == "convolutional" else load_backbone(SWIN, random_seed=0)
    model = Cite(CiteConfig(), backbone, NAMES, TEXTS)
    pixels, labels = tiles(backbone), torch.arange(6) % 3
    model.start(model(pixels).features.detach(), labels.numpy(), model.lower(pixels))
    optimizer = torch.optim.AdamW(trained_parameters(model).values(), lr=1e-2)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(pixels).logits, labels)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0], "the classes of six tiles can be learned through the projection alone"
    assert "takes no tokens" in model.notes[0]


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
