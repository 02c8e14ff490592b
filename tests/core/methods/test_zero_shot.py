"""Zero-shot: cosines to sentences of the same model, nothing trained, and a tuning that is there in a moment."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch.nn import functional

from pathotune.errors import TuningMismatch
from pathotune.methods import METHODS, build_model
from pathotune.methods.base import trained_parameters
from pathotune.methods.checkpoint import TEXT_VECTORS, TRAINED, Tuning
from pathotune.methods.cite.config import CiteConfig
from pathotune.methods.cite.method import Cite
from pathotune.methods.fitting import unavailable_reason
from pathotune.methods.options import as_plain
from pathotune.methods.zero_shot.config import ZeroShotConfig
from pathotune.methods.zero_shot.method import ZeroShot
from pathotune.tasks import load_task

NAMES = ("tumour", "stroma", "fat")
KINDS = ("plain", "registers", "rotary", "convolutional")
every_kind = pytest.mark.parametrize("kind", KINDS)


def tiles(backbone, count=6):
    images = np.random.default_rng(0).integers(0, 256, (count, 64, 64, 3), dtype=np.uint8)
    return backbone.normalise(torch.from_numpy(images))


def texts(backbone, count=3):
    return np.random.default_rng(1).normal(size=(count, backbone.output_dim)).astype(np.float32) * 3


@every_kind
def test_logits_are_the_models_own_cosines(tiny_backbone, kind):
    backbone = tiny_backbone(kind)
    backbone.text_scale = 56.0
    model = ZeroShot(ZeroShotConfig(), backbone, NAMES, texts(backbone)).eval()
    pixels = tiles(backbone)
    answer = model(pixels, attention=True)
    expected = (
        56.0 * functional.normalize(backbone(pixels).pooled) @ functional.normalize(torch.from_numpy(texts(backbone))).T
    )
    torch.testing.assert_close(answer.logits, expected, atol=1e-4, rtol=1e-5)
    assert tuple(answer.attention) == model.attention_sources
    assert ZeroShot(ZeroShotConfig(scale=7), backbone, NAMES, texts(backbone)).head.scale == 7


@every_kind
def test_nothing_is_trained_and_what_is_saved_is_what_is_loaded(tiny_backbone, tmp_path, kind):
    backbone = tiny_backbone(kind)
    before = copy.deepcopy(backbone.state_dict())
    model = ZeroShot(ZeroShotConfig(), backbone, NAMES, texts(backbone)).eval()
    pixels = tiles(backbone)
    said = model(pixels).logits
    model.start(model(pixels).features, np.arange(6) % 3, model.lower(pixels))
    assert trained_parameters(model) == {} and torch.equal(model(pixels).logits, said)
    assert all(torch.equal(before[key], value) for key, value in backbone.state_dict().items())
    tuning = Tuning(
        "zero_shot",
        as_plain(model.config),
        {},
        [{"name": name} for name in NAMES],
        {"name": backbone.card.name, "sha256": backbone.weights_sha256, "embed_dim": backbone.embed_dim, "mpp": 0.5},
        backbone.card.reading(),
        tensors={
            **{TRAINED + key: value for key, value in model.trainable_state().items()},
            TEXT_VECTORS: texts(backbone),
        },
    )
    loaded = build_model(Tuning.load(tuning.save(tmp_path / "z")), tiny_backbone(kind))
    assert torch.equal(loaded(pixels).logits, said), "the scale is kept although this backbone does not say it"
    single = torch.cat([loaded(pixels[i : i + 1]).logits for i in range(6)])
    assert torch.allclose(single, said, atol=1e-3)
    tuning.calibration = {"temperature": 2.0}
    assert torch.allclose(build_model(tuning, backbone)(pixels).logits, said / 2)


def test_cite_goes_on_from_the_zero_shot_answer(tiny_backbone):
    backbone = tiny_backbone()
    pixels = tiles(backbone)
    settings = {"neck_start": "exact", "standardise": False, "tokens": 0, "scale": 40.0, "text_encoder": "own"}
    refined = Cite(CiteConfig(**settings), backbone, NAMES, texts(backbone)).eval()
    said = ZeroShot(ZeroShotConfig(scale=40.0), backbone, NAMES, texts(backbone)).eval()(pixels)
    refined.start(said.features, np.arange(6) % 3, refined.lower(pixels))
    torch.testing.assert_close(refined(pixels).logits, said.logits, atol=1e-4, rtol=1e-5)


def test_sentences_of_another_model_are_refused(tiny_backbone):
    backbone = tiny_backbone()
    with pytest.raises(TuningMismatch, match="24 numbers each and the features of Tiny plain 48"):
        ZeroShot(ZeroShotConfig(), backbone, NAMES, np.ones((3, 24), np.float32))
    with pytest.raises(TuningMismatch, match="2 sentences for 3 classes"):
        ZeroShot(ZeroShotConfig(), backbone, NAMES, texts(backbone)[:2])
    same = texts(backbone)
    same[2] = same[0]
    (note,) = ZeroShot(ZeroShotConfig(), backbone, NAMES, same).notes
    assert "tumour and fat" in note


def test_each_sentence_is_put_into_several_wordings():
    card = load_task("lymph-node-metastasis")
    normal, tumor = ZeroShotConfig().sentences_for(card, card.class_names, 0.5)
    wordings = tumor.split(" | ")
    assert len(wordings) == 8 and all("carcinoma cells with pale cytoplasm" in one for one in wordings)
    assert any("hematoxylin and eosin" in one for one in wordings) and len(set(wordings)) == 8
    own = ZeroShotConfig(class_sentences="Tumor: large cells | metastasis", ensemble="")
    assert own.sentences_for(card, card.class_names, 0.5) == (card.classes[0].sentence, "large cells | metastasis")
    moved = ZeroShotConfig(text="permuted").sentences_for(card, card.class_names, 0.5)
    assert moved == (tumor, normal)


def test_what_has_no_text_side_says_so_before_anything_is_loaded(tiny_backbone):
    from pathotune.backbones import backbone_card

    assert unavailable_reason("zero_shot", backbone_card("plip")) == ""
    reason = unavailable_reason("zero_shot", backbone_card("uni"))
    assert "UNI has no text side" in reason and "plip" in reason
    convolutional = tiny_backbone("convolutional").card
    assert "takes no prompt" in unavailable_reason("vpt", convolutional)
    assert unavailable_reason("cite", convolutional) == ""
    assert "cannot be loaded" in unavailable_reason("linear_probe", backbone_card("musk"))
    assert all(isinstance(unavailable_reason(name, tiny_backbone().card), str) for name in METHODS)
    assert unavailable_reason("linear_probe", tiny_backbone().card) == ""
